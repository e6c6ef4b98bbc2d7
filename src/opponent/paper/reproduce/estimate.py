"""What the figures take, roughly, before they are begun."""

import os
import time

import torch

from opponent.core.side import SIDES
from opponent.models.network import Network
from opponent.paper.layer_pairs import bottleneck_pairs
from opponent.paper.reproduce.scales import Scale

# Images of the pass that is timed.
BATCH = 16
# What is done to an image, in forward passes of one image. Measured on InceptionV1 on two cores.
SCAN, VECTORS, TOTALS, SHARED = 1.5, 1.2, 3.0, 6.0
# The same of a step of a synthesis.
STEP = 4.0
# Of uniqueness in a layer's latents, and of a step of learning a latent of 1,024 vectors.
LATENTS, LEARNING = 20.0, 0.01
# Of an atlas' grid about so many cells are filled.
FILLED = 0.6
# Seconds of one core for a seed of all widths of both toy tasks.
TOY = 2.0
# And for one that is measured in dictionaries, of two widths.
KNOWN = 15.0


def expected_seconds(network: Network, images: int, scale: Scale) -> dict[str, float]:
    """How long each part takes on this machine, within a factor of two or so.

    Args:
        network: the network, of which some passes are timed.
        images: how many there are; the scale may take fewer.
        scale: how much is computed.
    Returns:
        Seconds by what is done, with nothing of it there yet.
    """
    images = min(images, scale.images or images)
    layers, one = len(bottleneck_pairs(network)), seconds_a_pass(network)
    cells = min(FILLED * scale.grid**2, scale.top / scale.least)
    inverted = min(scale.layers, layers)
    inversions = inverted * scale.units * len(SIDES) * scale.tense
    # Three units with three images: accentuations and inversions, and two visualisations each.
    shown = 3 * (3 * 2 * len(SIDES) + 2)
    passes = {
        "exemplars": 3 * images * (VECTORS + SCAN),
        "completeness": min(images, scale.measured) * layers * TOTALS,
        "case study": 2 * images * SCAN + shown * scale.steps * STEP,
        # Candidates, the tensest of them, the means of its cells; then the icons.
        "atlases": scale.atlases
        * ((2 * images + min(images, scale.top)) * SCAN + cells * scale.steps * STEP),
        "uniqueness": images * layers * SHARED,
        "inversions": inverted * images * SCAN + inversions * scale.steps * STEP,
        # Two dictionaries of either kind, then their layers again, and three passes.
        "dictionaries": images * (2 * LATENTS + 3 * SCAN)
        + 4 * scale.learning * scale.latents * LEARNING,
    }
    seconds = {name: count * one for name, count in passes.items()}
    cores = min(2, os.cpu_count() or 1)
    toys = scale.seeds * TOY / cores + scale.known * KNOWN
    return seconds | {"toy models": toys}


def seconds_a_pass(network: Network) -> float:
    """Seconds of a forward pass through nearly all layers, an image: the quicker of two."""
    prepared, times = network.preprocessing, []
    inputs = torch.zeros(BATCH, prepared.channels, *prepared.size)
    for _ in range(3):
        began = time.perf_counter()
        network.activations(inputs, bottleneck_pairs(network)[-1].target)
        times.append(time.perf_counter() - began)
    return min(times[1:]) / BATCH


def say(seconds: dict[str, float]) -> str:
    """One line: in all, and by what is done, the longest first."""
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {_long(time)}" for name, time in parts)
    return (
        f"This takes about {_long(sum(seconds.values()))} here, if nothing is there yet: {listed}."
    )


def _long(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"

"""Layers to examine, each with the earlier layer that its attributions go through; random units."""

import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from opponent.geometry.bottlenecks import is_bottleneck, through_layers
from opponent.geometry.through import bottlenecks_before, check_through
from opponent.models.network import PIXELS, Network

# Layers that are examined by default. Source: paper, appendix F.
LAYERS = 5


@dataclass(frozen=True, kw_only=True)
class LayerPair:
    """A layer whose features are examined, and the layer that their attributions go through.

    Args:
        target, through: layers' names.
        bottleneck: whether all that the images do to the target goes through the other layer.
    """

    target: str
    through: str
    bottleneck: bool


def preceding(network: Network, target: str) -> str | None:
    """The nearest layer before a target that alone carries all that the images do to it.

    Candidates are outputs of activation functions, and of blocks that join branches. A sum or
    concatenation is passed over where a branch goes round it.

    Args:
        network: the network.
        target: the layer's name.
    Returns:
        The layer's name; None where only the pixels carry all.
    Source: paper, appendix F ('the preceding layer'); the rule is ours.
    """
    names = bottlenecks_before(network, target)
    return names[-1] if names else None


def bottleneck_pairs(network: Network) -> list[LayerPair]:
    """The activation functions that are bottlenecks, each with the bottleneck before it.

    Everything goes through a bottleneck on its way from the images to the logits. Left out are
    those that only the pixels precede, and those that cannot be read before they act.

    Args:
        network: the network.
    """
    bottlenecks = [through for through in through_layers(network) if through.bottleneck]
    # What all goes through on the way to the logits, all goes through to any later one of these.
    return [
        LayerPair(target=target.layer, through=through.layer, bottleneck=True)
        for through, target in pairwise(bottlenecks)
        if target.activation
        and through.layer != PIXELS
        and network.layers.target_point(target.layer).at == "input"
    ]


def choose_pairs(network: Network, layers: int = LAYERS) -> list[LayerPair]:
    """Bottleneck pairs that are spread evenly over the network.

    Args:
        network: the network.
        layers: how many, at most.
    Raises:
        ValueError: no layer can be chosen.
    """
    if layers < 1:
        raise ValueError(f"at least one layer is verified, not {layers}")
    pairs = bottleneck_pairs(network)
    if not pairs:
        raise ValueError(
            f"{network.name} has no activation layer that all goes through; name layers yourself "
            "(--pair TARGET:THROUGH)"
        )
    places = np.linspace(0, len(pairs) - 1, min(layers, len(pairs))).round().astype(int)
    return [pairs[place] for place in places.tolist()]


def parse_pair(network: Network, text: str) -> LayerPair:
    """The pair that a text names.

    Args:
        network: the network.
        text: 'TARGET:THROUGH', or 'TARGET' for its preceding layer.
    Raises:
        ValueError: an unknown layer, one that does not lie before the other, or no preceding layer.
    """
    target, _, through = text.partition(":")
    if not through:
        before = preceding(network, target)
        if before is None:
            raise ValueError(
                f"no layer before {target!r} alone carries all that the images do to it; name one "
                "(TARGET:THROUGH)"
            )
        through = before
    check_through(network, target, through)
    return LayerPair(
        target=target, through=through, bottleneck=is_bottleneck(network, target, through)
    )


def random_units(network: Network, layer: str, count: int, seed: int) -> list[int]:
    """Units of a layer, drawn without replacement, in order.

    They depend on the layer and the seed alone, not on the other layers that are examined.

    Args:
        network: the network.
        layer: the layer's name.
        count: how many, at most.
        seed: of the draw.
    """
    channels = network.layer(layer).shape[0]
    rng = np.random.default_rng([seed, zlib.crc32(layer.encode())])
    return sorted(rng.permutation(channels)[:count].tolist())

"""Dictionaries: a scan through one beside the plain scan, and learning in bounded memory.

    python -m benchmarks.dictionaries [--images 64] [--repeats 5] [--vectors 200000]

A scan through a dictionary is timed in turns with the scan of the same feature and images in
channels, from images in memory to a finished run folder; what is printed is the ratio of medians.
Learning is timed in processes of their own, from images in memory: as the library does it, block by
block, and as a plain script does it, which holds all vectors and takes the same steps. Peak memory
is that of the process over what it had before.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.bench import _memory, inception, pixels
from opponent import Dictionary, Network, TrainingSettings, learn_dictionary, scan_images
from opponent.attribution.attribute import attribute_each
from opponent.core.progress import silent
from opponent.geometry.planning import plan_crop

LATENTS, ACTIVE = 2048, 24
PAIRS = (("mixed3b:379", "mixed3a"), ("mixed4d:427", "mixed4c"))
LEARNT = "mixed4c"
STEPS, BATCH = 100, 2048


class Noise:
    """So many images of coarse noise, made when they are asked for."""

    name = "noise"

    def __init__(self, count: int, side: int = 224) -> None:
        self.count, self.side = count, side

    def ids(self) -> list[str]:
        """Their numbers."""
        return [str(number) for number in range(self.count)]

    def image(self, id: str) -> np.ndarray:
        """One of them."""
        small = np.random.default_rng(int(id)).integers(0, 256, (16, 16, 3), np.uint8)
        return np.kron(small, np.ones((self.side // 16, self.side // 16, 1), np.uint8))


def random_dictionary(network: Network, layer: str) -> Dictionary:
    """Random directions: time does not depend on what they are."""
    generator = torch.Generator().manual_seed(0)
    channels = network.map_shape(layer)[0]
    rows = functional.normalize(torch.randn(LATENTS, channels, generator=generator))
    return Dictionary(
        decoder=rows, encoder=rows, bias=torch.zeros(channels), encoder_bias=torch.zeros(LATENTS),
        kind="topk", active=ACTIVE, layer=layer,
    )  # fmt: skip


def in_turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median time of each, in seconds, after one turn that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def scans(count: int, repeats: int) -> None:
    """Rows in ms an image: attribution alone, and the scan with all that it writes."""
    network, inputs, images = inception(), pixels(32), Noise(count)
    print(f"{'what':52}{'channels':>11}{'latents':>11}{'ratio':>8}")
    for name, through in PAIRS:
        dictionary = random_dictionary(network, through)
        for what, work, each in (
            ("attribute", partial(_attribute, network, inputs, name, through), len(inputs)),
            ("scan", partial(_scan, network, images, name, through), count),
        ):
            works = {"channels": partial(work, None), "latents": partial(work, dictionary)}
            one, other = (1e3 * x / each for x in in_turns(works, repeats).values())
            title = f"{what} {name} through {through}"
            print(f"{title:52}{one:>11.4g}{other:>11.4g}{other / one:>8.2f}", flush=True)


def _attribute(
    network: Network, inputs: torch.Tensor, name: str, through: str, given: Dictionary | None
) -> None:
    feature = network.resolve(name)
    plan = network.cached(("bench", name), lambda: plan_crop(network, [feature], through))
    attribute_each(network, inputs, [feature], through, plan=plan, dictionary=given)


def _scan(
    network: Network, images: Noise, name: str, through: str, given: Dictionary | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        scan_images(network, images, name, through, out=out, dictionary=given, progress=silent)


def ours(network: Network, images: Noise, settings: TrainingSettings) -> float:
    """Learn as the library does; what is left."""
    return learn_dictionary(network, images, LEARNT, settings=settings, progress=silent).left


def plain(network: Network, images: Noise, settings: TrainingSettings) -> float:
    """Hold all vectors, and take as many steps of the same size."""
    hidden = []
    for first in range(0, images.count, 32):
        numbers = range(first, min(first + 32, images.count))
        stacked = np.stack([images.image(str(number)) for number in numbers])
        maps = network.activations(network.inputs(stacked), LEARNT)[LEARNT]
        hidden.append(maps.movedim(1, 3).reshape(-1, maps.shape[1]))
    vectors = torch.cat(hidden)
    kept_out = vectors[: len(vectors) // 10]
    vectors = vectors[len(kept_out) :]
    bias = vectors.mean(0)
    scale = float((vectors - bias).norm(dim=1).mean())
    vectors, kept_out = vectors / scale, kept_out / scale
    generator = torch.Generator().manual_seed(0)
    rows = functional.normalize(torch.randn(LATENTS, vectors.shape[1], generator=generator))
    learnt = [rows, rows.clone(), torch.zeros(LATENTS), bias / scale]
    decoder, encoder, shift, bias = (x.requires_grad_() for x in learnt)
    adam = torch.optim.Adam([decoder, encoder, shift, bias], lr=settings.rate)

    def rest(batch: torch.Tensor) -> torch.Tensor:
        heard = (batch - bias) @ encoder.T + shift
        values, places = heard.topk(ACTIVE, dim=1)
        codes = torch.zeros_like(heard).scatter(1, places, values.clamp(min=0))
        return batch - bias - codes @ decoder

    for _ in range(settings.steps):
        chosen = torch.randint(len(vectors), (settings.batch,), generator=generator)
        adam.zero_grad()
        rest(vectors[chosen]).square().sum(1).mean().backward()
        adam.step()
        with torch.no_grad():
            decoder /= decoder.norm(dim=1, keepdim=True)
    with torch.no_grad():
        left = sum(float(rest(x).square().sum()) for x in kept_out.split(4096))
    return left / float((kept_out - kept_out.mean(0)).square().sum())


def _learn(kind: str, count: int) -> None:
    """In a process of its own: seconds, MiB over what was there before, and what is left."""
    network, images = inception(), Noise(count)
    settings = TrainingSettings(latents=LATENTS, active=ACTIVE, steps=STEPS, batch=BATCH)
    network.activations(network.inputs(np.stack([images.image("0")] * 32)), LEARNT)
    before, start = _memory("VmRSS"), time.perf_counter()
    left = {"ours": ours, "plain": plain}[kind](network, images, settings)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, _memory("VmHWM") - before, left]))


def learning(vectors: int) -> None:
    """Rows of time and peak memory: the plain procedure, ours, and ours of twice the images."""
    positions = 14 * 14
    count = -(-vectors // positions)
    print(f"{f'learn {LATENTS} latents of {LEARNT}, {STEPS} steps of {BATCH}':52}", end="")
    print(f"{'s':>11}{'MiB':>11}{'left':>8}")
    for kind, images in (("plain", count), ("ours", count), ("ours", 2 * count)):
        command = [sys.executable, "-m", "benchmarks.dictionaries", "--learn", kind]
        done = subprocess.run(
            [*command, "--images", str(images)], capture_output=True, text=True, check=True
        )
        seconds, memory, left = json.loads(done.stdout)
        what = f"{kind}, {images * positions:,} vectors of {images:,} images"
        print(f"{what:52}{seconds:>11.4g}{memory:>11.0f}{left:>8.1%}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--only", choices=("scans", "learning"))
    parser.add_argument("--learn", choices=("plain", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.learn:
        _learn(arguments.learn, arguments.images)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, float32, 224 x 224, ms")
    if arguments.only != "learning":
        scans(arguments.images, arguments.repeats)
    if arguments.only != "scans":
        learning(arguments.vectors)


if __name__ == "__main__":
    main()

"""What a scan of very many images takes: memory, which must not grow, and images a second.

    python -m benchmarks.many_images [--entries 200000] [--every 10000] [--size 16]

A few small pictures are listed over and over, each time by a name of their own, and scanned by one
unit of a small network, and then by all units of its layer, each in a process of its own.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing, Run, scan_images
from opponent.images.imageset import ImageEntry, ImageSet

FEATURES = {"one unit": "4:3", "all units": "4:*"}
PICTURES = 8
MIB = 2**20


def small_network(size: int) -> Network:
    """Two convolutions after a third, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
        )  # fmt: skip
    return Network(module, preprocessing=Preprocessing(size=(size, size)), name="small")


def entries(folder: Path, count: int, size: int) -> ImageSet:
    """A few pictures, listed over and over."""
    generator, paths = np.random.default_rng(0), []
    for number in range(PICTURES):
        paths.append(folder / f"{number}.png")
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    # A path of its own each, as a folder's have.
    listed = (ImageEntry(id=f"{k:08d}.png", path=Path(paths[k % PICTURES])) for k in range(count))
    return ImageSet(source="the same over and over", entries=tuple(listed))


def memory() -> int:
    """Bytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def timed(record: dict[str, Any], name: str) -> Iterator[None]:
    """The seconds that something takes, and the bytes that it leaves."""
    begun, before = time.perf_counter(), memory()
    yield
    record[f"{name}_s"] = time.perf_counter() - begun
    record[f"{name}_bytes"] = memory() - before


def measure(what: str, count: int, every: int, size: int) -> dict[str, Any]:
    """Scan once, stop, go on, and read back.

    Returns:
        Times in seconds, memory in bytes, and after every so many images both.
    """
    torch.set_num_threads(1)
    record: dict[str, Any] = {"what": what, "entries": count, "steps": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with timed(record, "listing"):
            images = entries(folder, count, size)
        with timed(record, "digest"):
            images.digest()
        network, begun = small_network(size), time.perf_counter()

        def note(_what: str, done: int, _total: int) -> None:
            # The first sign of progress after every so many images.
            if done >= every * len(record["steps"]):
                passed = time.perf_counter() - begun
                record["steps"].append({"done": done, "s": passed, "bytes": memory()})

        def again() -> Run:
            return scan_images(
                network, images, FEATURES[what], "1", out=folder / "run", progress=note
            )

        run = again()
        # Of a finished scan nothing is left to do but to look what is there.
        steps, record["steps"] = record["steps"], []
        with timed(record, "again"):
            again()
        record["steps"] = steps
        with timed(record, "reading"):
            rows = len(run.units() if "all" in what else run.columns(maps=False).images)
        record["rows"] = rows
        record["folder_bytes"] = sum(x.stat().st_size for x in (folder / "run").rglob("*.*"))
    record["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return record


def show(record: dict[str, Any]) -> None:
    """Print a record for people."""
    count = record["entries"]
    print(f"{record['what']}, {count:,} entries")
    for last, step in pairwise(record["steps"]):
        rate = (step["done"] - last["done"]) / (step["s"] - last["s"])
        print(f"  {step['done']:>9,} {rate:8,.0f} images/s {step['bytes'] / MIB:8,.0f} MiB")
    print(
        f"  peak {record['peak_bytes'] / MIB:,.0f} MiB; list {record['listing_bytes'] / count:.0f} "
        f"bytes an entry; folder {record['folder_bytes'] / count:.0f} bytes an entry\n"
        f"  digest {record['digest_s']:.1f} s, the finished scan again {record['again_s']:.1f} s, "
        f"reading back {record['reading_s']:.1f} s"
    )


def main() -> None:
    """Measure both, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=16, help="of the network's input, in pixels")
    parser.add_argument("--json", action="store_true", help="print records, one a line")
    arguments = parser.parse_args()
    for what in FEATURES:
        # A process that is new: memory once taken is seldom given back.
        with get_context("spawn").Pool(1) as pool:
            given = (what, arguments.entries, arguments.every, arguments.size)
            record = pool.apply(measure, given)
        print(json.dumps(record)) if arguments.json else show(record)


if __name__ == "__main__":
    main()

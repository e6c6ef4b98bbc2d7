"""How much faster images decode than one after another, in one run, with the equality beside it.

    python -m benchmarks.decode [--repeats 3] [--size 224]

The plain procedure is what a script without this library does: `Image.open`, convert, resize, crop,
image by image. Against it: `stream` of `opponent.images` in threads, the same with drafts, and,
since the library has none, a pool of as many processes that decode by the same function, in chunks.
The images are the photographs of scikit-image and scikit-learn, saved as JPEGs of three sizes.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from opponent.images.decode import Fit, load_image
from opponent.images.imageset import ImageEntry
from opponent.images.loader import stream
from opponent.images.sources import open_images

# What the files are called: how many photographs, pixels of their long side (None: as it is), and
# how often each is read.
SIZES = {"thumbnails": (12, 85, 80), "web size": (12, None, 8), "camera size": (6, 3000, 1)}
QUALITY = 90
# Whatever the size, the thumbnails would be enlarged: they go to a network of theirs.
SMALL = 64
WORKERS = min(8, os.cpu_count() or 1)  # as `stream` has by default

Load = Callable[[list[ImageEntry], int], list[np.ndarray]]


def saved(folder: Path, count: int, long_side: int | None) -> list[ImageEntry]:
    """The photographs as JPEGs of that size."""
    entries = []
    for path in sorted({entry.path for entry in open_images("photos")})[:count]:
        photo = Image.open(path).convert("RGB")
        factor = 1.0 if long_side is None else long_side / max(photo.size)
        size = (round(photo.width * factor), round(photo.height * factor))
        file = folder / f"{path.stem}-{long_side}.jpg"
        photo.resize(size, Image.Resampling.BICUBIC).save(file, quality=QUALITY)
        entries.append(ImageEntry(id=file.name, path=file))
    return entries


def plain(entries: list[ImageEntry], size: int) -> list[np.ndarray]:
    """Resize(size) and CenterCrop(size) of one image after another."""
    results = []
    for entry in entries:
        photo = Image.open(entry.path).convert("RGB")
        wide, tall = (int(size * side / min(photo.size)) for side in photo.size)
        left, top = round((wide - size) / 2), round((tall - size) / 2)
        whole = photo.resize((wide, tall), Image.Resampling.BILINEAR)
        results.append(np.array(whole.crop((left, top, left + size, top + size))))
    return results


def threads(entries: list[ImageEntry], size: int, *, draft: bool = False) -> list[np.ndarray]:
    """Ours."""
    results = list(stream(entries, Fit(size=(size, size), draft=draft)))
    arrays = [result for result in results if isinstance(result, np.ndarray)]
    assert len(arrays) == len(entries)
    return arrays


def in_processes(
    pool: ProcessPoolExecutor, entries: list[ImageEntry], size: int
) -> list[np.ndarray]:
    """By the function that our threads call."""
    chunk = min(16, -(-len(entries) // (3 * WORKERS)))
    return list(pool.map(partial(load_image, fit=Fit(size=(size, size))), entries, chunksize=chunk))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=224)
    arguments = parser.parse_args()
    print(f"{WORKERS} workers, Pillow {PIL.__version__}", end=", ")
    print(f"libjpeg-turbo {features.version('libjpeg_turbo')}; shortest of {arguments.repeats}")
    print(
        "files, ms an image           plain  threads  ratio  processes  ratio  drafts  ratio",
        end="",
    )
    print("   largest difference (drafts: rms), grey levels")
    with (
        tempfile.TemporaryDirectory() as folder,
        # Spawned from a server without threads: torch's threads do not survive a fork.
        ProcessPoolExecutor(WORKERS, mp_context=get_context("forkserver")) as pool,
    ):
        for name, (count, long_side, copies) in SIZES.items():
            files = saved(Path(folder), count, long_side)
            entries, size = files * copies, SMALL if name == "thumbnails" else arguments.size
            ways: list[Load] = [
                plain,
                threads,
                partial(in_processes, pool),
                partial(threads, draft=True),
            ]
            # Also starts the processes and brings the files into memory.
            results = [np.stack(way(files, size)).astype(int) for way in ways]
            times: list[list[float]] = [[] for _ in ways]
            for _ in range(arguments.repeats):
                # In turns, so that whatever else the machine does disturbs all alike.
                for way, spent in zip(ways, times, strict=True):
                    start = time.perf_counter()
                    way(entries, size)
                    spent.append((time.perf_counter() - start) / len(entries) * 1e3)
            first, *others = (min(spent) for spent in times)
            apart = [np.abs(result - results[0]).max() for result in results[1:3]]
            rms = np.sqrt(((results[3] - results[1]) ** 2).mean())
            print(f"{len(entries):4} {name:12} to {size:3}  {first:9.2f}", end="")
            for other, width in zip(others, (9, 11, 8), strict=True):
                print(f"{other:{width}.2f}{first / other:7.2f}", end="")
            print(f"   {apart[0]}, {apart[1]} ({rms:.2f})", flush=True)


if __name__ == "__main__":
    main()

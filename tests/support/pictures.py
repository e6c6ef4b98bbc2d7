"""Pictures to measure: smooth ones that differ, and noise."""

from pathlib import Path

import numpy as np
from PIL import Image


def paint_blobs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write smooth pictures, '00.png' and so on.

    Args:
        folder: an existing folder.
        count: how many.
        size: width and height.
    """
    rng = np.random.default_rng(0)
    for i in range(count):
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blobs.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
    return folder


def paint_noise(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write pictures of noise, '000.png' and so on.

    Args:
        folder: a new folder.
        count: how many.
        size: width and height.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(count):
        values = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i:03d}.png")
    return folder

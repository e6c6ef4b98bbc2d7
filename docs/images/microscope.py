"""A network of one channel, and 12-bit images in 16-bit files as microscopes write them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import opponent

WHITE = 4095  # the largest value of 12 bits


def cells(seed: int, side: int = 80) -> np.ndarray:
    """Bright discs with dark middles on a dim ground, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side), 300.0)
    for _ in range(rng.integers(3, 9)):
        row, column, radius = *rng.uniform(0, side, 2), rng.uniform(5, 14)
        distance = np.hypot(y - row, x - column) / radius
        image += rng.uniform(800, 2500) * (np.exp(-(distance**4)) - 0.6 * np.exp(-9 * distance**2))
    return np.clip(image + rng.normal(0, 40, image.shape), 0, WHITE).astype(np.uint16)


def write(folder: str = "cells", count: int = 60) -> None:
    """The images, as 16-bit PNG files."""
    Path(folder).mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(cells(number)).save(Path(folder, f"{number:03d}.png"))


def network() -> opponent.Network:
    """What `module:microscope:network` names: yours would have trained weights."""
    torch.manual_seed(0)
    module = nn.Sequential()
    module.add_module("edges", nn.Conv2d(1, 8, 5, padding=2))
    module.add_module("edges_relu", nn.ReLU())
    module.add_module("parts", nn.Conv2d(8, 12, 5, stride=2, padding=2))
    module.add_module("parts_relu", nn.ReLU())
    preprocessing = opponent.Preprocessing(
        size=(64, 64), channels=1, value_range=(0, WHITE), mean=(0.2,), std=(0.15,)
    )
    return opponent.Network(module, preprocessing=preprocessing, name="module:microscope:network")


if __name__ == "__main__":
    write()

"""A small network of known geometry, and pictures for it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from opponent import Network, Preprocessing


class Plain(nn.Module):
    """A layer of 6 x 5 on 12 x 10 pixels, then a unit that sees 3 x 3 of it, then a mean."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.before = nn.Conv2d(3, 4, 3, stride=2, padding=1)
            self.relu = nn.ReLU()
            self.after = nn.Conv2d(4, 2, 3, padding=1)
            self.mean = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Conv2d(2, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mean(self.after(self.relu(self.before(x)))))


PREPARED = Preprocessing(size=(12, 10), resize=14)


def plain_network() -> Network:
    """Its weights are random, the same each time."""
    return Network(Plain(), preprocessing=PREPARED, name="plain")


def write_noise(folder: Path, count: int) -> Path:
    """Pictures of noise that a zoom of 42 shows pixel by pixel, wider than the network's input."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (14, 20, 3), dtype=np.uint8)
        fine = np.asarray(Image.fromarray(coarse).resize((20 * 42, 14 * 42)))
        Image.fromarray(fine).save(folder / f"{number}.png")
    return folder

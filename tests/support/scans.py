"""Pictures to scan, small networks to scan them with, and all bytes of a folder."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from opponent import Network, Preprocessing, Run, scan_images

# (height, width) of the input of `branched`.
SIZE = (12, 10)


class Branched(nn.Module):
    """One narrow and one wide branch, a global mean, logits."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.early = nn.ReLU()
            self.narrow = nn.Conv2d(4, 3, 1)
            self.wide = nn.Conv2d(4, 3, 5, padding=2)
            self.mixed = nn.ReLU()
            self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.stem(x))
        x = self.mixed(torch.cat([self.narrow(x), self.wide(x)], 1))
        return self.head(x.mean((2, 3)))


def branched() -> Network:
    """A network of known geometry, on 12 x 10 pixels."""
    return Network(Branched(), preprocessing=Preprocessing(size=SIZE), name="small")


class Two(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one = nn.Conv2d(3, 4, 3, padding=1)
            self.relu = nn.ReLU()
            self.two = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.relu(self.one(x)))


def two_convolutions() -> Network:
    """A network that sees 5 x 5 of 16 x 16 pixels."""
    return Network(Two(), preprocessing=Preprocessing(size=(16, 16)), name="small")


class Gated(nn.Module):
    """A gate from the whole map, for which the walk has no rule, before the target."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            self.gate = nn.Conv2d(4, 4, 1)
            self.last = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
            self.logits = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.logits(self.last(x).mean((2, 3)))


def gated() -> Network:
    """A network whose positions depend on the whole image, of 10 x 12 pixels."""
    return Network(Gated(), preprocessing=Preprocessing(size=(10, 12)), name="gated")


def ends_with_relu() -> Network:
    """A network with a block that ends with a ReLU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(4, 4, 3, padding=1), relu=nn.ReLU(inplace=True))
        )
        layers = OrderedDict(stem=nn.Conv2d(3, 4, 3, padding=1), block=block)
    return Network(nn.Sequential(layers), preprocessing=Preprocessing(size=(10, 12)), name="ends")


def paint_shapes(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Write smooth pictures of many shapes, '000.png' and so on."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        blobs = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        width, height = generator.integers(20, 90, 2).tolist()
        picture = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03d}.png")
    return folder


def paint_with_one_bad(folder: Path, count: int) -> Path:
    """Write pictures of noise, and '007-bad.png', which is none."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    (folder / "007-bad.png").write_text("no picture")
    return folder


def begin(network: Network, images: Path, folder: Path, **other: Any) -> Run:
    """Scan into a folder by two features, in small batches and shards."""
    features = other.pop("features", ["mixed:1", "mixed:4"])
    through = other.pop("through", "early")
    sizes = {"batch_size": 2, "shard_size": 2} | other
    return scan_images(network, images, features, through, out=folder, **sizes)


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder, hidden ones too, by its path within it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

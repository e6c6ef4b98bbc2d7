"""What tests of directions share: a small network without biases, pictures, slow vectors."""

from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from opponent import Directions, Network, Preprocessing, open_images
from opponent.images.decode import load_image
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry

SIZE = (12, 10)
BLACK_IS_ZERO = Preprocessing(size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)
# Of the seventy pictures: which cannot be read, and which are black.
UNREAD, BLACK = {5}, {3, 66}
ROWS = np.array([[0.5, -1.0, 2.0], [3.0, 0.0, 0.25]])


class Small(nn.Module):
    """No biases: where an image is black, all is zero."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.early = nn.ReLU()
            self.wide = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
            self.mixed = nn.ReLU()
            self.head = nn.Linear(6, 5, bias=False)
        with torch.no_grad():  # one channel that is positive wherever an image is not black
            self.stem.weight[0].abs_()
            self.wide.weight[0].abs_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixed(self.wide(self.early(self.stem(x)))).mean((2, 3)))


def small() -> Network:
    return Network(Small(), preprocessing=BLACK_IS_ZERO, name="small")


def paint_shapes(folder: Path, count: int, *, seed: int = 0) -> Path:
    """Smooth pictures in many shapes."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        blobs = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        width, height = generator.integers(12, 40, 2).tolist()
        picture = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:03d}.png")
    return folder


def paint_seventy(folder: Path) -> Path:
    """Seventy pictures, three batches, of which one cannot be read and two are black."""
    paint_shapes(folder, 70)
    for number in UNREAD:
        (folder / f"{number:03d}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for number in BLACK:
        Image.new("RGB", (20, 20)).save(folder / f"{number:03d}.png")
    return folder


def made(vectors: object, *labels: str, layer: str | None = "mixed") -> Directions:
    rows = np.asarray(vectors, np.float32)
    names = labels or tuple(f"v{i}" for i in range(len(rows)))
    return Directions(vectors=rows, labels=names, layer=layer, provenance={})


def saved(directions: Directions, path: Path) -> bytes:
    directions.save(path)
    return path.read_bytes()


def before_relu(network: Network, entry: ImageEntry) -> Float[np.ndarray, "c h w"]:
    """The layer 'mixed' before its ReLU, from one image."""
    module: Any = network.module
    pixels = torch.from_numpy(load_image(entry, Fit(size=SIZE))).permute(2, 0, 1)[None]
    with torch.no_grad():
        return module.wide(module.stem(pixels.float() / 255).clamp(min=0))[0].numpy()


def slow_vectors(
    network: Network, folder: Path, seed: int, unread: Set[int] = frozenset(UNREAD)
) -> Float[np.ndarray, "n c"]:
    """One image at a time: the layer before its ReLU at a random position, zeros if unreadable."""
    entries = open_images(folder)
    channels, height, width = network.map_shape("mixed")
    generator = np.random.default_rng(seed)
    rows = generator.integers(height, size=len(entries))
    columns = generator.integers(width, size=len(entries))
    vectors = np.zeros((len(entries), channels), np.float32)
    for i, entry in enumerate(entries):
        if i not in unread:
            vectors[i] = before_relu(network, entry)[:, rows[i], columns[i]]
    return vectors

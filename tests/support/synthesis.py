"""What tests of synthesis share: a small network, pictures, settings, a user's own parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from opponent import (
    Box,
    ImageSet,
    Network,
    Objective,
    Preprocessing,
    SynthesisSettings,
    Transforms,
    Views,
)
from opponent.images.imageset import ImageEntry
from opponent.synthesis.spectrum import photographs as shipped

SIZES = [(16, 16), (15, 17), (12, 21), (23, 8)]
SIZE = (20, 16)
QUICK = SynthesisSettings(steps=12, canvas=(24, 22), transforms=Transforms(draws=1))
Call = tuple[str, int, int]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Toy(nn.Module):
    """Two layers with weights that are fixed; optionally with batch norm or another activation."""

    def __init__(
        self, *, norm: bool = False, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.one = nn.Conv2d(3, 6, 5, padding=2)
            self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
            self.relu = activation()
            self.two = nn.Conv2d(6, 4, 3, padding=1)
            self.end = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.two(self.relu(self.norm(self.one(x)))))


def toy(**options: Any) -> Network:
    return Network(Toy(**options), preprocessing=Preprocessing(size=SIZE), name="toy")


class Flat(nn.Module):
    """A network that does not depend on its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * 0)


def paint(folder: Path, count: int, *, size: tuple[int, int] = (40, 33)) -> ImageSet:
    """Smooth pictures of a size (height, width)."""
    generator = np.random.default_rng(4)
    entries = []
    for number in range(count):
        blobs = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(blobs).resize(size[::-1], Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.png")
        entries.append(ImageEntry(id=f"{number}.png", path=folder / f"{number}.png"))
    return ImageSet(source=str(folder), entries=tuple(entries))


def logits_of(images: torch.Tensor) -> torch.Tensor:
    return torch.logit(images.detach().double())


def decorrelated(logits: torch.Tensor) -> torch.Tensor:
    back = torch.from_numpy(np.linalg.inv(shipped().recolour))
    return torch.einsum("ij,njhw->nihw", back, logits)


# A user's own objective and parameterisation


class Bright(Objective):
    """The brightness of the views; 'module:...' makes one of factor 1."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    @property
    def label(self) -> str:
        return f"bright {self.factor:g}"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        return self.factor * views.images.mean((1, 2, 3))


class Recorder(Objective):
    """An objective that passes on another's values, and keeps what it saw."""

    def __init__(self, inner: Objective) -> None:
        self.inner, self.seen = inner, list[Views]()

    @property
    def label(self) -> str:
        return f"recorded {self.inner.label}"

    def values(self, views: Views) -> Float[Tensor, " m"]:
        self.seen.append(views)
        return self.inner.values(views)


class Greys:
    """Logits of grey images: one value for all three colours of a pixel."""

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        *,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = size
        noise = 0.1 * torch.randn(1, 1, *size, generator=generator)
        self.parameters = [noise.to(device).expand(count, -1, -1, -1).clone().requires_grad_()]

    def images(self, box: Box | None = None) -> Float[Tensor, "n 3 y x"]:
        [logits] = self.parameters
        logits = logits if box is None else logits[:, :, *box.slices]
        return torch.sigmoid(logits).expand(-1, 3, -1, -1)


HERE = "module:tests.support.synthesis"

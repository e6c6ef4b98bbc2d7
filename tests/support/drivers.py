"""What tests of `who` share: a network of whole numbers, its pictures, and slow twins of sums."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from opponent import Feature, Network, Preprocessing, Run
from opponent.atlas.atlas import Cell

SIZE = (12, 10)
WIDTH = 14  # channels of the through layer
TWINS, DEAD = (2, 3), 5  # two channels that are alike, and one that is never active


PLAIN = Preprocessing(size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CELLS = {(0, 4): ("05.png", "50.png"), (1, 1): ("30.png",), (3, 3): ("00.png", "01.png", "02.png")}


class Integers(nn.Module):
    """Two convolutions with whole numbers, each before a ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.first, self.early = nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(inplace=True)
        self.second, self.mixed = nn.Conv2d(WIDTH, 4, 3, padding=1), nn.ReLU(inplace=True)
        for layer in (self.first, self.second):
            for values in (layer.weight, layer.bias):
                drawn = rng.integers(-3, 4, tuple(values.shape)).astype(np.float32)
                values.data = torch.from_numpy(drawn)
        with torch.no_grad():
            self.first.bias[DEAD] = -1000
            for values in (self.first.weight, self.first.bias):
                values[TWINS[1]] = values[TWINS[0]]
            self.second.weight[:, TWINS[1]] = self.second.weight[:, TWINS[0]]

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(self.second(self.early(self.first(x))))


def speckle(folder: Path, count: int) -> Path:
    """Pictures as large as that network's input, of black and white in each colour."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2)
    for number in range(count):
        pixels = 255 * (rng.random((*SIZE, 3)) < 0.4).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


def slow_attribution(module: Any, run: Run, image: str, feature: Feature) -> np.ndarray:
    """S of that network, one product after the other, in whole numbers."""
    x = np.asarray(Image.open(run.images.find(image).path)).transpose(2, 0, 1) // 255
    first = [t.detach().numpy().astype(int) for t in (module.first.weight, module.first.bias)]
    weight = module.second.weight.detach().numpy().astype(int)
    assert feature.position is not None
    s = np.zeros((WIDTH, *SIZE), dtype=int)
    padded = np.pad(x.astype(int), ((0, 0), (1, 1), (1, 1)))
    for k in range(WIDTH):
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                patch = padded[:, row : row + 3, column : column + 3]
                hidden = max(0, int((first[0][k] * patch).sum()) + int(first[1][k]))
                down, right = row - feature.position[0] + 1, column - feature.position[1] + 1
                if 0 <= down < 3 and 0 <= right < 3:
                    s[k, row, column] = hidden * weight[feature.unit or 0, k, down, right]
    return s


def cells(images: dict[tuple[int, int], tuple[str, ...]]) -> Callable[..., list[Any]]:
    """What stands for a run's atlases: one, with these cells."""

    class Atlas:
        def __init__(self) -> None:
            self.cells = tuple(
                Cell(
                    row=row, column=column, images=inside, mean_activation=0.0,
                    mean_excitation=0.0, mean_inhibition=0.0, activations={}, icon=Path("none"),
                )
                for (row, column), inside in images.items()
            )  # fmt: skip

    return lambda *_: [Atlas(), None]


def doubled(network: Network) -> Network:
    return Network(
        copy.deepcopy(network.module).double(), preprocessing=network.preprocessing, name="double"
    )


def noise(network: Network, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (count, 3, *network.preprocessing.size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def close(given: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(given, wanted, rtol=1e-11, atol=1e-11)

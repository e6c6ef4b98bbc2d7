"""A network of five bands, and arrays as satellite images come in."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

import opponent

BANDS = ("red", "green", "blue", "near infrared", "short-wave infrared")
# Reflectance of soil, plants and water in each band.
SURFACES = np.array(
    [[0.25, 0.2, 0.15, 0.35, 0.45], [0.05, 0.1, 0.04, 0.5, 0.25], [0.03, 0.05, 0.08, 0.02, 0.01]]
)


def scene(seed: int, side: int = 80) -> np.ndarray:
    """Patches of the three surfaces: (height, width, bands), reflectance in [0, 1]."""
    rng = np.random.default_rng(seed)
    patches = np.kron(rng.integers(0, 3, (8, 8)), np.ones((side // 8, side // 8), int))
    image = SURFACES[patches] * rng.uniform(0.8, 1.2, (side, side, 1))
    return np.clip(image, 0, 1).astype(np.float32)


def write(folder: str = "scenes", count: int = 60) -> None:
    """The images, one array a file."""
    Path(folder).mkdir(exist_ok=True)
    for number in range(count):
        np.save(Path(folder, f"{number:03d}.npy"), scene(number))


class Scenes(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The same images as a data set: tensors (bands, height, width), each with a label."""

    def __len__(self) -> int:
        """How many."""
        return 60

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """The scene of that number."""
        return torch.from_numpy(scene(index)).permute(2, 0, 1), index % 2


def network() -> opponent.Network:
    """What `module:satellite:network` names: yours would have trained weights."""
    torch.manual_seed(0)
    module = nn.Sequential()
    module.add_module("mix", nn.Conv2d(5, 10, 1))
    module.add_module("mix_relu", nn.ReLU())
    module.add_module("fields", nn.Conv2d(10, 12, 5, padding=2))
    module.add_module("fields_relu", nn.ReLU())
    preprocessing = opponent.Preprocessing(
        size=(64, 64), channels=5, mean=(0.1, 0.1, 0.1, 0.3, 0.2), std=(0.1,) * 5
    )
    return opponent.Network(module, preprocessing=preprocessing, name="module:satellite:network")


if __name__ == "__main__":
    write()

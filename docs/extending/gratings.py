"""Images that are no files: the items of a torch data set, here gratings as vision science uses."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

ORIENTATIONS, PERIODS = range(0, 180, 15), (4, 6, 8, 12, 16, 24, 32)


class Gratings(Dataset[torch.Tensor]):
    """Sine gratings: each item is an image (3, 64, 64) in [0, 1]."""

    def __len__(self) -> int:
        """One for each orientation and period."""
        return len(ORIENTATIONS) * len(PERIODS)

    def __getitem__(self, index: int) -> torch.Tensor:
        """The grating of that number."""
        angle = np.deg2rad(ORIENTATIONS[index // len(PERIODS)])
        period = PERIODS[index % len(PERIODS)]
        y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        wave = torch.sin(2 * torch.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        return (0.5 + 0.5 * wave).expand(3, 64, 64)


class DatasetSource:
    """A data set as an image source: a name, ids, and an image for each id."""

    def __init__(self, name: str, dataset: Dataset[torch.Tensor], count: int) -> None:
        """Keep the data set; its images are asked for one at a time."""
        self.name, self._dataset, self._count = name, dataset, count

    def ids(self) -> Sequence[str]:
        """Stable and different, so that a scan can go on and a run can be opened again."""
        return [f"{number:06d}" for number in range(self._count)]

    def image(self, id: str) -> np.ndarray:
        """Eight bits a colour, upright."""
        pixels = self._dataset[int(id)].mul(255).round().byte()
        return pixels.permute(1, 2, 0).numpy()


def gratings() -> DatasetSource:
    """What `--images module:gratings:gratings` calls."""
    return DatasetSource("gratings", Gratings(), len(ORIENTATIONS) * len(PERIODS))

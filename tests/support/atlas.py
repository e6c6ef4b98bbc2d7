"""What tests of the atlas share: a small network, pictures of waves, a run and its atlas."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from opponent import Atlas, AtlasSettings, Network, Preprocessing, Run, attribute, scan_images

SIZE = (12, 10)
CENTRE = "mixed:2@6,5"
QUICK = AtlasSettings(top=70, grid=3, min_images=3, neighbours=5, steps=3, batch=4)
BLACK = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
Call = tuple[str, int, int]


class Small(nn.Module):
    """Two layers without biases, so that S sums to f."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
            self.early = activation()
            self.wide = nn.Conv2d(6, 5, 3, padding=1, bias=False)
            self.mixed = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixed(self.wide(self.early(self.stem(x))))


class Colours(nn.Module):
    """Red, green and blue as they are, then their weighted sums over 3 x 3 pixels."""

    def __init__(self, red: float, green: float, blue: float) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.stem = nn.Conv2d(3, 3, 1, bias=False)
            self.early = nn.ReLU()
            self.wide = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.mixed = nn.ReLU()
        with torch.no_grad():
            self.stem.weight.copy_(torch.eye(3)[..., None, None])
            near = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
            weights = torch.tensor([red, green, blue])
            self.wide.weight.copy_(weights[None, :, None, None] * near)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixed(self.wide(self.early(self.stem(x))))


def network_of(module: nn.Module | None = None, **prepared: Any) -> Network:
    network = Network(
        module or Small(), preprocessing=Preprocessing(size=SIZE, **prepared), name="small"
    )
    _ = network.layers
    return network


def paint_waves(folder: Path, count: int) -> Path:
    """Waves of four colours, level and upright."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows, columns = np.mgrid[:24, :20]
    colours = np.array([[1, 0.2, 0.1], [0.1, 0.9, 0.3], [0.2, 0.3, 1], [1, 1, 1]])
    for number in range(count):
        across = rows if number % 2 else columns
        wave = np.sin(generator.uniform(0.3, 0.8) * across + generator.uniform(0, 6))
        colour = colours[number % 4] * generator.uniform(60, 100)
        pixels = 127 + wave[..., None] * colour + generator.normal(0, 10, (24, 20, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
    return folder


def scan_small(network: Network, images: Path, out: Path, through: str = "early") -> Run:
    return scan_images(
        network, images, ["mixed:2", "mixed:3"], through, out=out, batch_size=7, shard_size=25
    )


def copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.folder, folder)
    return Run(folder)


def with_map(run: Run, atlas: Atlas, folder: Path) -> Run:
    """A copy of a run with an atlas' map alone: UMAP takes longer than all that follows."""
    copy = copy_of(run, folder)
    place = copy.folder / "atlas" / atlas.folder.name
    place.mkdir(parents=True)
    for name in ("question.json", "map.parquet"):
        shutil.copy(atlas.folder / name, place)
    return copy


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def halve(content: bytes) -> bytes:
    return content[: len(content) // 2]


def slow_largest(norms: list[float], count: int) -> list[int]:
    """One after the other, the largest that is left; of equals the first."""
    left, chosen = [i for i, norm in enumerate(norms) if norm > 0], list[int]()
    while left and len(chosen) < count:
        best = left[0]
        for i in left:
            if norms[i] > norms[best]:
                best = i
        chosen.append(best)
        left.remove(best)
    return chosen


def slow_percentile(values: list[float], percent: float) -> float:
    """By linear interpolation between ranks."""
    ordered = sorted(values)
    rank = percent / 100 * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def slow_square(layout: list[tuple[float, float]]) -> list[list[float]]:
    """Section 5's map: clipped at the 1st and 99th percentile, with a margin of a tenth."""
    axes = []
    for values in zip(*layout, strict=True):
        low, high = slow_percentile(values, 1), slow_percentile(values, 99)
        start, end = low - 0.1 * (high - low), high + 0.1 * (high - low)
        # An axis without any extent: what lies below it at 0, what lies above it at 1.
        length = end - start or 1.0
        axes.append([min(max((value - start) / length, 0.0), 1.0) for value in values])
    return [list(place) for place in zip(*axes, strict=True)]


def slow_cell(x: float, y: float, grid: int) -> tuple[int, int]:
    """Column from the left, row from the top; the last cells hold their far borders too."""
    column = next((c for c in range(grid) if x * grid < c + 1), grid - 1)
    up = next((r for r in range(grid) if y * grid < r + 1), grid - 1)
    return grid - 1 - up, column


def inside(atlas: Atlas) -> dict[tuple[int, int], list[str]]:
    """The images of every cell with at least three, counted by hand."""
    cells: dict[tuple[int, int], list[str]] = {}
    for row in atlas.map.to_pylist():
        cells.setdefault((row["row"], row["column"]), []).append(row["image"])
    return {cell: images for cell, images in sorted(cells.items()) if len(images) >= 3}


def slow_means(
    atlas: Atlas, network: Network, pictures: Path, through: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean S and mean h of each cell, from one image at a time."""
    window = atlas.run.through_window(atlas.feature)
    rows, columns = window.slices
    means = []
    for cell in atlas.cells:
        results = [attribute(network, [pictures / x], atlas.feature, through) for x in cell.images]
        for result in results:
            assert result.window == window
            beyond = result.attribution.clone()
            beyond[:, :, rows, columns] = 0
            assert not beyond.any()
        s, h = (
            sum(getattr(result, name)[0].double() for result in results) / len(results)
            for name in ("window_attribution", "hidden")
        )
        means.append((s, h))
    both = [torch.stack([pair[k] for pair in means]) for k in (0, 1)]
    return both[0], both[1]

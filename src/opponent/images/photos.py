"""The photographs that come with other packages, as crops at several places and scales."""

import importlib.util
from itertools import product
from pathlib import Path

import numpy as np

from opponent.core.text import first_few
from opponent.images.decode import decode
from opponent.images.imageset import ImageEntry

# Photographs of everyday scenes, objects and surfaces that the two packages install with
# themselves. Left out: drawings and renderings (color, logo, phantom, horse, chessboards), text
# (page, text), pictures by microscopes, telescopes and eye cameras (cell, ihc, microaneurysms,
# retina, hubble_deep_field, moon), a clock blurred on purpose, and motorcycle_right, which is
# motorcycle_left from a step aside.
_PHOTOS = {
    "skimage": (
        "data",
        "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
        "motorcycle_left.png rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
# Enough for percentiles of a distribution, and minutes of scanning on a processor.
_PHOTO_CROPS = 2000


def _photo_files() -> list[Path]:
    paths = []
    for package, (folder, names) in _PHOTOS.items():
        # Found, not imported: nothing of the package runs, least of all its downloads.
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ImportError(
                "'photos' are the photographs in scikit-image and scikit-learn, and "
                f"{package!r} is not installed; pip install 'opponent[demo]'"
            )
        paths += [Path(spec.origin).parent / folder / name for name in names.split()]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"'photos' needs files that this installation lacks: {first_few(missing)}; "
            "pip install --force-reinstall scikit-image scikit-learn"
        )
    return sorted(paths, key=lambda path: path.name)


def photo_crops(size: tuple[int, int]) -> list[ImageEntry]:
    """About 2,000 crops of the photographs in scikit-image and scikit-learn.

    Args:
        size: (height, width) in pixels that the crops are for; they have its aspect, and are
            smaller only where a photograph is hardly larger than it.
    Raises:
        ImportError: scikit-image or scikit-learn is missing.
        FileNotFoundError: an installation lacks some of the files.
        ValueError: a size below 1.
    """
    if min(size) < 1:
        raise ValueError(f"size {size} is (height, width) in pixels: give at least 1")
    paths = _photo_files()
    shapes = [decode(ImageEntry(id=path.name, path=path)).size[::-1] for path in paths]

    def count(spacing: float) -> int:
        levels = [level for shape in shapes for level in _grids(shape, size, spacing)]
        return sum(len(tops) * len(lefts) for _, _, tops, lefts in levels)

    # Bisection for the spacing, in units of a crop, that gives the number of crops wanted.
    low, high = 2.0**-6, 2.0**10
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if count(middle) > _PHOTO_CROPS else (low, middle)
    spacing = min(low, high, key=lambda spacing: abs(count(spacing) - _PHOTO_CROPS))
    crops: dict[str, ImageEntry] = {}  # at sizes of a few pixels two scales may round to the same
    for path, shape in zip(paths, shapes, strict=True):
        for height, width, tops, lefts in _grids(shape, size, spacing):
            extent = str(height) if height == width else f"{height}x{width}"
            for top, left in product(tops, lefts):
                id, box = f"{path.stem}@{top},{left}+{extent}", (top, left, height, width)
                crops[id] = ImageEntry(id=id, path=path, box=box)
    return list(crops.values())


def _grids(
    shape: tuple[int, int], size: tuple[int, int], spacing: float
) -> list[tuple[int, int, list[int], list[int]]]:
    """Height, width, tops and lefts of the crops of a photograph, at each of several scales."""
    largest = min(shape[0] / size[0], shape[1] / size[1])
    # A photograph hardly larger than the size would give next to no crops: it gives smaller ones.
    smallest = min(1.0, 0.75 * largest)
    steps = max(1, round(2 * np.log2(largest / smallest)))  # two scales an octave
    grids = []
    for factor in np.geomspace(largest, smallest, steps + 1):
        height = min(shape[0], max(1, round(factor * size[0])))
        width = min(shape[1], max(1, round(factor * size[1])))
        tops = _places(shape[0] - height, spacing * height)
        lefts = _places(shape[1] - width, spacing * width)
        grids.append((height, width, tops, lefts))
    return grids


def _places(slack: int, spacing: float) -> list[int]:
    """Offsets from edge to edge, at most as close as the spacing; the middle, if it is but one."""
    count = 1 + int(slack / max(spacing, 1))
    return [slack // 2] if count == 1 else np.linspace(0, slack, count).round().astype(int).tolist()

"""The photographs that come with other packages, as crops at several places and scales."""

import importlib.util
from pathlib import Path

from opponent.core.text import first_few
from opponent.images.crops import crop_boxes, crop_of
from opponent.images.decode import shape_of
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
    photographs = [ImageEntry(id=path.stem, path=path) for path in paths]
    shapes = [shape_of(photograph) for photograph in photographs]
    crops = crop_boxes(shapes, size, _PHOTO_CROPS)
    return [
        crop_of(photograph, box)
        for photograph, boxes in zip(photographs, crops, strict=True)
        for box in boxes
    ]

"""Many crops of each photograph, at several places and scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from opponent.core.errors import Unreadable
from opponent.images.decode import shape_of
from opponent.images.imageset import ImageEntry, Picture

if TYPE_CHECKING:
    from opponent.images.sources import Images

# (top, left, height, width)
_Crop = tuple[int, int, int, int]
# Crops of each photograph, if nobody says how many. As 'photos' has them: 2,000 of 12.
PER_IMAGE = 160
# How a text begins that names crops of a source.
CROPS = "crops:"


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Many crops of each image of a source, so that few photographs give many images.

    The crops have the aspect of the network's input, lie on a grid at several scales, two an
    octave, and are smaller than the input only where the photograph is hardly larger. The same
    photographs give the same crops. An image that cannot be read stays one image.

    Args:
        source: images as `open_images` takes them.
        per_image: about how many crops each gives.
    Raises:
        ValueError: less than one crop.

    >>> import numpy as np, opponent
    >>> picture = np.zeros((96, 128, 3), np.uint8)
    >>> crops = opponent.Crops(source=[picture], per_image=20)
    >>> images = opponent.open_images(crops, size=(64, 64))
    >>> images
    ImageSet('about 20 crops each of 1 image': 20 images)
    >>> images[0].id
    '0@0,0+96'
    """

    source: "Images"
    per_image: int = PER_IMAGE

    def __post_init__(self) -> None:
        if self.per_image < 1:
            raise ValueError(f"{self.per_image} crops of each image: give at least 1")


def crops_of(
    entries: Sequence[ImageEntry], size: tuple[int, int], per_image: int
) -> tuple[ImageEntry, ...]:
    """Crops of each image.

    Args:
        entries: the images.
        size: (height, width) in pixels of the network's input.
        per_image: about how many of each.
    Raises:
        ValueError: a size below 1.
    """
    crops = list[ImageEntry]()
    for entry in entries:
        try:
            boxes = _boxes(shape_of(entry), size, per_image)
        except Unreadable:
            crops.append(entry)  # whoever loads it is told why
        else:
            crops += [crop_of(entry, box) for box in boxes]
    return tuple(crops)


def crop_of(entry: ImageEntry, box: _Crop) -> ImageEntry:
    """A crop of an image, called 'ID@TOP,LEFT+SIDE', or '...+HEIGHTxWIDTH'.

    Args:
        entry: the image, which may be a crop itself.
        box: (top, left, height, width) in its pixels.
    """
    top, left, height, width = box
    extent = str(height) if height == width else f"{height}x{width}"
    above, before = (0, 0) if entry.box is None else entry.box[:2]
    return ImageEntry(
        id=f"{entry.id}@{top},{left}+{extent}",
        path=entry.path,
        member=entry.member,
        box=(above + top, before + left, height, width),
        read=None if entry.read is None else partial(_whole, entry),
    )


def _whole(entry: ImageEntry, _: str) -> Picture:
    """The whole image, whatever the crop of it is called."""
    assert entry.read is not None
    return entry.read(entry.id)


@cache
def _boxes(shape: tuple[int, int], size: tuple[int, int], count: int) -> tuple[_Crop, ...]:
    """Those of one image; photographs of a camera share their shape."""
    return tuple(crop_boxes([shape], size, count)[0])


def crop_boxes(
    shapes: Sequence[tuple[int, int]], size: tuple[int, int], count: int
) -> list[list[_Crop]]:
    """Crops of photographs, at several places and scales.

    Args:
        shapes: (height, width) of each photograph in pixels.
        size: (height, width) in pixels that the crops are for; they have its aspect, and are
            smaller only where a photograph is hardly larger than it.
        count: about how many in all; those of a larger photograph are more.
    Returns:
        For each photograph its different crops, the largest first.
    Raises:
        ValueError: a size below 1.
    """
    if min(size) < 1:
        raise ValueError(f"size {size} is (height, width) in pixels: give at least 1")

    def found(spacing: float) -> int:
        levels = [level for shape in shapes for level in _grids(shape, size, spacing)]
        return sum(len(tops) * len(lefts) for _, _, tops, lefts in levels)

    # Bisection for the spacing, in units of a crop, that gives the number of crops wanted.
    low, high = 2.0**-6, 2.0**10
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if found(middle) > count else (low, middle)
    spacing = min(low, high, key=lambda spacing: abs(found(spacing) - count))
    crops = list[list[_Crop]]()
    for shape in shapes:
        different = dict[_Crop, None]()  # at sizes of a few pixels two scales may round to the same
        for height, width, tops, lefts in _grids(shape, size, spacing):
            different |= {(top, left, height, width): None for top, left in product(tops, lefts)}
        crops.append(list(different))
    return crops


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

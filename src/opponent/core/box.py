"""A rectangle of a map or an image."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of a map or an image, in rows and columns.

    Args:
        top: the first row.
        left: the first column.
        height: number of rows.
        width: number of columns.

    >>> import opponent
    >>> box = opponent.Box(top=2, left=1, height=3, width=4)
    >>> box.slices
    (slice(2, 5, None), slice(1, 5, None))
    >>> box.moved(1, 0).numbers
    [3, 1, 3, 4]
    """

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Box":
        """The box of four numbers.

        Args:
            numbers: [top, left, height, width].
        """
        top, left, height, width = numbers
        return cls(top=top, left=left, height=height, width=width)

    @classmethod
    def full(cls, size: Sequence[int]) -> "Box":
        """The box that covers all of a map.

        Args:
            size: (height, width) of the map.
        """
        height, width = size
        return cls(top=0, left=0, height=height, width=width)

    @property
    def numbers(self) -> list[int]:
        """[top, left, height, width], ready for JSON."""
        return [self.top, self.left, self.height, self.width]

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index with."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)

    def moved(self, rows: int, columns: int) -> "Box":
        """The same box at another place.

        Args:
            rows: how many rows further down.
            columns: how many columns further right.
        """
        return Box(
            top=self.top + rows, left=self.left + columns, height=self.height, width=self.width
        )


def overlap(box: Box, other: Box) -> Box:
    """The rectangle that two boxes share; where they share none, the middle element of the other.

    Args:
        box, other: boxes of the same map.
    """
    top, left = max(box.top, other.top), max(box.left, other.left)
    bottom = min(box.top + box.height, other.top + other.height)
    right = min(box.left + box.width, other.left + other.width)
    if bottom <= top or right <= left:
        middle = (other.top + other.height // 2, other.left + other.width // 2)
        return Box(top=middle[0], left=middle[1], height=1, width=1)
    return Box(top=top, left=left, height=bottom - top, width=right - left)


def bounding_box(boxes: Sequence[Box]) -> Box:
    """The smallest box that contains all boxes."""
    top, left = min(x.top for x in boxes), min(x.left for x in boxes)
    bottom = max(x.top + x.height for x in boxes)
    right = max(x.left + x.width for x in boxes)
    return Box(top=top, left=left, height=bottom - top, width=right - left)


def scale_box(box: Box, source: tuple[int, int], size: tuple[int, ...]) -> Box:
    """The box of a picture in the same picture at another size.

    Args:
        box: in the picture at its first size.
        source: that size, (height, width).
        size: the other size; only its first two numbers count.
    Returns:
        The box, with edges at the nearest whole pixels.
    """
    top, bottom = (round(x * size[0] / source[0]) for x in (box.top, box.top + box.height))
    left, right = (round(x * size[1] / source[1]) for x in (box.left, box.left + box.width))
    return Box(top=top, left=left, height=bottom - top, width=right - left)

"""To which size and bands a photograph is brought."""

from dataclasses import dataclass, replace
from fractions import Fraction

from opponent.images.values import Range, check_range


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a photograph is brought to the size that a network takes.

    Torchvision's Resize and CenterCrop, but for rounding: antialiased bilinear interpolation, then
    the centre; enlarged where the image is small.

    Args:
        size: (height, width) of the result in pixels.
        resize: pixels that the short side is scaled to before the crop. None, or fewer than it
            takes to cover `size`: as many as just cover it.
        draft: decode a JPEG at 1/2, 1/4 or 1/8 of its sides, where that leaves at least twice as
            many as are wanted: several times as fast on large photographs (`benchmarks.decode`),
            but other pixels. They moved SqueezeNet 1.1's activations by 2 to 7 % of their norm
            (medians of 10 to 100 photographs, from early layers to late), a quarter to a half of
            what saving the network's input as JPEG of quality 95 does. With as many pixels as
            wanted, and not twice as many, it would be 4 to 23 %. So it is for those who ask, and
            a scan of drafts is another scan.
        channels: bands of the result.
        value_range: the values that become 0 and 1; None leaves that to the image.
        largest: the most pixels that an image may have; None is `PIL.Image.MAX_IMAGE_PIXELS`.
    Raises:
        ValueError: a size, resize, largest or number of channels below 1, or a range that is
            none.
    """

    size: tuple[int, int]
    resize: int | None = None
    draft: bool = False
    channels: int = 3
    value_range: Range | None = None
    largest: int | None = None

    @property
    def in_bytes(self) -> bool:
        """Whether the result is 8-bit RGB; else it is floats, with 0 for black and 1 for white."""
        return self.channels == 3 and self.value_range is None

    def __post_init__(self) -> None:
        check_range(self.value_range)
        if self.largest is not None and self.largest < 1:
            raise ValueError(f"largest {self.largest} is in pixels: give at least 1")
        if self.channels < 1:
            raise ValueError(f"{self.channels} channels: give at least 1")
        if min(self.size) < 1 or (self.resize is not None and self.resize < 1):
            raise ValueError(
                f"size {self.size} and resize {self.resize} are in pixels: give at least 1"
            )

    def enlarged(self, factor: int) -> "Fit":
        """The same part of a photograph, so many times as large."""
        height, width = self.size
        resize = None if self.resize is None else self.resize * factor
        return replace(self, size=(height * factor, width * factor), resize=resize)

    def scale(self, shape: tuple[int, int]) -> Fraction:
        """What a photograph of (height, width) pixels is scaled by."""
        # Fractions, because a side scaled to exactly 224 must not be rounded down to 223.
        covering = max(Fraction(self.size[0], shape[0]), Fraction(self.size[1], shape[1]))
        return max(covering, Fraction(self.resize or 1, min(shape)))

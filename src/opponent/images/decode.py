"""From a file to pixels of the size that a network takes."""

import math
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from opponent.core.errors import Unreadable
from opponent.core.text import one_line
from opponent.images.formats import (
    FROM_BOTTOM,
    FROM_RIGHT,
    NOT_READ,
    ON_ITS_SIDE,
    PREFIX,
    UPRIGHT,
    Jpeg,
    damage,
    orientation_of,
    plugin_for,
    to_rgb,
)
from opponent.images.imageset import ImageEntry
from opponent.images.listing import not_a_file

# What libjpeg divides the sides by, and how many times the pixels wanted must be left: `Fit` says
# what fewer would change. Pillow's `Image.thumbnail` has the same 2.
_DRAFTS, _SPARE = (8, 4, 2), 2


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
    Raises:
        ValueError: a size or resize below 1.
    """

    size: tuple[int, int]
    resize: int | None = None
    draft: bool = False

    def __post_init__(self) -> None:
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


def decode(entry: ImageEntry) -> Image.Image:
    """The upright photograph in 8-bit RGB, cropped to the entry's box.

    JPEG, PNG, WebP, TIFF, GIF and BMP are read (of several frames or pages the first) and turned
    as their EXIF orientation says. Transparency is laid over white. 16-bit grey, and 32-bit
    integers within its range, are scaled by that range; floating-point pixels within [0, 1] by
    255; all other integers and floats from their lowest to their highest value (black, if they are
    all the same). Colour profiles are ignored, as they are where networks are trained.

    Raises:
        Unreadable: for anything wrong with the file, for a box that is not inside the photograph,
            and for more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, a guard against decompression
            bombs.
    """
    return _decoded(entry).image


class _Piece(NamedTuple):
    """A photograph or a crop of it, perhaps of fewer pixels; those at its edges may be cut."""

    image: Image.Image
    smaller: int  # 1, 2, 4 or 8: pixels of the photograph that one side of the image's replaces
    left: float  # where the piece begins, in the image's pixels
    top: float
    shape: tuple[int, int]  # height and width in the photograph's own pixels

    @classmethod
    def of(cls, image: Image.Image) -> "_Piece":
        """A whole photograph with all its pixels."""
        return cls(image, 1, 0.0, 0.0, (image.height, image.width))


def _decoded(entry: ImageEntry, wanted: Fit | None = None) -> _Piece:
    try:
        if entry.path is None:
            photograph = _Piece.of(_from_source(entry))
        elif problem := not_a_file(entry.path):
            raise Unreadable(problem)
        else:
            with entry.path.open("rb") as file:
                photograph = _read(file, entry.path.suffix.lower(), entry.box, wanted)
        return _crop(photograph._replace(image=to_rgb(photograph.image)), entry.box)
    except (MemoryError, Unreadable):
        raise
    except PermissionError as error:
        raise Unreadable("permission denied") from error
    except Exception as error:  # a drive that fails, or a conversion that Pillow does not know
        raise Unreadable(f"cannot be read: {one_line(error)}") from error


def _from_source(entry: ImageEntry) -> Image.Image:
    """The photograph that an image source of the user's own gives."""
    if entry.read is None:
        raise Unreadable("it is no file, and its image source was not handed over")
    try:
        picture = entry.read(entry.id)
    except (MemoryError, Unreadable):
        raise
    except Exception as error:  # of the user's own code
        raise Unreadable(one_line(error)) from error
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2:
            raise Unreadable(
                f"its image source gave an array of {picture.dtype} of shape {picture.shape}, not "
                "of uint8 of shape (height, width) or (height, width, 3)"
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        kind = type(picture).__name__
        raise Unreadable(f"its image source gave {kind}, not a PIL image or an array")
    if not (picture.width and picture.height):
        raise Unreadable("its image source gave an image without pixels")
    return picture


def fit_image(image: Image.Image, fit: Fit) -> UInt8[np.ndarray, "h w 3"]:
    """Scale an image and crop its centre.

    Args:
        image: 8-bit RGB.
        fit: to which size.
    """
    return _fitted(_Piece.of(image), fit)


def load_image(entry: ImageEntry, fit: Fit) -> UInt8[np.ndarray, "h w 3"]:
    """Decode an image and bring it to a size: `fit_image(decode(entry), fit)`, or a draft of it.

    Raises:
        Unreadable: as `decode`.
    """
    return _fitted(_decoded(entry, fit if fit.draft else None), fit)


def _fitted(piece: _Piece, fit: Fit) -> UInt8[np.ndarray, "h w 3"]:
    scale, size = fit.scale(piece.shape), fit.size
    top, bottom = _centre(piece.shape[0], scale, size[0])
    left, right = _centre(piece.shape[1], scale, size[1])
    # Resampling the crop only: a panorama of 1 x 60,000 would grow to 224 x 13,440,000.
    rows = [piece.top + y / piece.smaller for y in (top, bottom)]
    columns = [piece.left + x / piece.smaller for x in (left, right)]
    box = (columns[0], rows[0], columns[1], rows[1])
    return np.array(piece.image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def _read(
    file: BinaryIO,
    suffix: str,
    box: tuple[int, int, int, int] | None,
    wanted: Fit | None,
) -> _Piece:
    """The whole photograph, upright; of fewer pixels, if that is enough for what is wanted."""
    prefix = file.read(PREFIX)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    plugin = plugin_for(prefix)
    if plugin is None:
        unread = f"{suffix[1:].upper()} files are not read: save it as PNG or JPEG"
        known = "not an image" if suffix not in NOT_READ else unread
        raise Unreadable(known if size else "empty file")
    limit, smaller = Image.MAX_IMAGE_PIXELS, 1
    try:
        image = plugin(file)
        if limit is not None and image.width * image.height > limit:
            raise Unreadable(
                f"larger than {limit / 1e6:.0f} megapixels ({image.width} x {image.height})"
            )
        stored = image.size
        if wanted is not None and isinstance(image, Jpeg):
            turned = orientation_of(image.info.get("exif", b"")) in ON_ITS_SIDE
            shape = _shape(stored if turned else stored[::-1], box)
            smaller = _smaller(wanted.scale(shape))
            # Pillow takes the scale that leaves at least as many.
            image.draft(None, (stored[0] // smaller, stored[1] // smaller))
        image.load()
    except (MemoryError, Unreadable):
        raise
    except Image.DecompressionBombError as error:  # in a WebP's canvas or a GIF's frame
        raise Unreadable(f"larger than {(limit or 0) / 1e6:.0f} megapixels") from error
    except Exception as error:  # on damaged files the plugins raise nearly anything
        raise Unreadable(damage(error, plugin.format or "image", prefix, size)) from error
    # A TIFF has been turned by Pillow, and has no 'exif' in its info.
    orientation = orientation_of(image.info.get("exif", b""))
    turn = UPRIGHT.get(orientation)
    upright = image if turn is None else image.transpose(turn)
    if smaller == 1:
        return _Piece(upright, 1, 0.0, 0.0, (upright.height, upright.width))
    # Pixels are whole: where rows and columns end, the last has a part that is not the photograph.
    width, height = stored[::-1] if orientation in ON_ITS_SIDE else stored
    left = upright.width - width / smaller if orientation in FROM_RIGHT else 0.0
    top = upright.height - height / smaller if orientation in FROM_BOTTOM else 0.0
    return _Piece(upright, smaller, left, top, (height, width))


def _smaller(scale: Fraction) -> int:
    return next((draft for draft in _DRAFTS if draft * _SPARE * scale <= 1), 1)


def _shape(photograph: tuple[int, int], box: tuple[int, int, int, int] | None) -> tuple[int, int]:
    if box is None:
        return photograph
    top, left, height, width = box
    if not (0 <= top < top + height <= photograph[0] and 0 <= left < left + width <= photograph[1]):
        raise Unreadable(
            f"the crop {height} x {width} at {top}, {left} is not inside the photograph, which is "
            f"{photograph[0]} x {photograph[1]} (height x width)"
        )
    return height, width


def _crop(photograph: _Piece, box: tuple[int, int, int, int] | None) -> _Piece:
    shape = _shape(photograph.shape, box)
    if box is None:
        return photograph
    scale = photograph.smaller
    left, top = photograph.left + box[1] / scale, photograph.top + box[0] / scale
    right, bottom = left + shape[1] / scale, top + shape[0] / scale
    x, y = math.floor(left), math.floor(top)
    image = photograph.image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    return _Piece(image, scale, left - x, top - y, shape)


def _centre(length: int, scale: Fraction, wanted: int) -> tuple[float, float]:
    """Both ends of the middle `wanted` pixels of a side after scaling, in units of before."""
    scaled = int(length * scale)
    start = round((scaled - wanted) / 2)
    return start * length / scaled, (start + wanted) * length / scaled

"""From a file to pixels of the size that a network takes."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import PurePath
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from opponent.core.errors import Changed, Unreadable
from opponent.core.text import one_line
from opponent.images.arrays import NPY, ZIP, most_bytes, read_array
from opponent.images.bands import Raw, load_pixels, rgb_of, unit_bands, unit_pixels
from opponent.images.budget import DECODING
from opponent.images.content import Source, opened
from opponent.images.fit import Fit
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
)
from opponent.images.imageset import ImageEntry
from opponent.images.values import Decoded

# What libjpeg divides the sides by, and how many times the pixels wanted must be left: `Fit` says
# what fewer would change. Pillow's `Image.thumbnail` has the same 2.
_DRAFTS, _SPARE = (8, 4, 2), 2


class _Place(NamedTuple):
    """Where pixels lie in a photograph: they may be fewer, and those at the edges may be cut."""

    smaller: int  # 1, 2, 4 or 8: pixels of the photograph that one side of these replaces
    left: float  # where the piece begins, in these pixels
    top: float
    shape: tuple[int, int]  # height and width in the photograph's own pixels

    @classmethod
    def whole(cls, raw: Raw) -> "_Place":
        """That of a whole photograph with all its pixels."""
        size = (raw.height, raw.width) if isinstance(raw, Image.Image) else raw.shape[:2]
        return cls(1, 0.0, 0.0, (int(size[0]), int(size[1])))


# An image in RGB, or each band of one as floats.
_Bands = tuple[Image.Image, ...]


class Loaded(NamedTuple):
    """An image, or why it cannot be read; and the digest of its content, empty where there is none.

    Args:
        image: the image.
        content: as `images.content` gives it.
    """

    image: Decoded | Unreadable
    content: bytes


# What `shape_of` looks through: any file that can be read, and the fewest pixels.
_SHAPE = Fit(size=(1, 1), draft=True, value_range=(0, 65535))


def decode(entry: ImageEntry) -> Image.Image:
    """The upright photograph in 8-bit RGB, cropped to the entry's box.

    JPEG, PNG, WebP, TIFF, GIF and BMP are read (of several frames or pages the first) and turned
    as their EXIF orientation says; arrays of RGB or grey too (.npy, .npz). Transparency is laid
    over white. Integers up to 65,535 that use all 16 bits are scaled by that range, floating-point
    pixels within [0, 1] by 255; what other integers and floats mean, only a network's
    preprocessing can say. Colour profiles are ignored, as they are where networks are trained.

    Raises:
        Unreadable: for anything wrong with the file, for a box that is not inside the photograph,
            and for more pixels than `PIL.Image.MAX_IMAGE_PIXELS` or the fit's `largest`, a guard
            against decompression bombs.
    """
    with _reasons(), opened(entry) as (source, _), ExitStack() as room:
        [image], _ = _decoded(source, entry, None, room)
    return image


def shape_of(entry: ImageEntry) -> tuple[int, int]:
    """(height, width) of the upright photograph, or of its box.

    Raises:
        Unreadable: as `decode`, but for pixels that only a network's preprocessing explains.
    """
    if entry.box is not None:
        return entry.box[2:]
    with _reasons(), opened(entry) as (source, _), ExitStack() as room:
        return _raw(source, entry, _SHAPE, room)[1].shape


def _decoded(
    source: Source, entry: ImageEntry, fit: Fit | None, room: ExitStack
) -> tuple[_Bands, _Place]:
    """The bands that a network takes.

    Args:
        source: the open file, or the pixels.
        entry: the image.
        fit: the size and bands; None for 8-bit RGB.
        room: holds the budget of pixels until they are brought to their size.
    """
    raw, place = _raw(source, entry, fit, room)
    bands = (
        (rgb_of(raw),)
        if fit is None or fit.in_bytes
        else unit_bands(raw, fit.channels, fit.value_range)
    )
    return _crop(bands, place, entry.box)


@contextmanager
def _reasons() -> Iterator[None]:
    """Anything that goes wrong with an image, as the reason why it cannot be read."""
    try:
        yield
    except (MemoryError, Unreadable, Changed):
        raise
    except PermissionError as error:
        raise Unreadable("permission denied") from error
    except Exception as error:  # a drive that fails, or a conversion that Pillow does not know
        raise Unreadable(f"cannot be read: {one_line(error)}") from error


def _raw(source: Source, entry: ImageEntry, fit: Fit | None, room: ExitStack) -> tuple[Raw, _Place]:
    if isinstance(source, Image.Image | np.ndarray):
        place = _Place.whole(source)
        room.enter_context(DECODING.held(place.shape[0] * place.shape[1]))
        return source, place
    name = entry.path if entry.path and entry.member is None else PurePath(entry.id)
    return _read(source, name.suffix.lower(), entry.box, fit, room)


def fit_image(image: Image.Image, fit: Fit) -> UInt8[np.ndarray, "h w 3"]:
    """Scale an image and crop its centre.

    Args:
        image: 8-bit RGB.
        fit: to which size.
    Raises:
        ValueError: other pixels than 8-bit RGB are asked for.
    """
    if not fit.in_bytes:
        raise ValueError(f"an image in 8-bit RGB gives no {fit.channels} bands of {fit}")
    return np.array(_fitted(image, _Place.whole(image), fit))


def load_image(entry: ImageEntry, fit: Fit) -> Decoded:
    """Decode an image and bring it to a size.

    Args:
        entry: the image.
        fit: the size, and which bands.
    Returns:
        `fit_image(decode(entry), fit)`, or a draft of it, where 8-bit RGB is wanted. Otherwise each
        band is scaled in floating point by the same filter.
    Raises:
        Unreadable: as `decode`; other bands than the network takes.
    """
    with _reasons(), opened(entry) as (source, _):
        return _loaded(source, entry, fit)


def load_with_content(entry: ImageEntry, fit: Fit) -> Loaded:
    """As `load_image`, with the digest of the image's content; what is unreadable is returned.

    Raises:
        Changed: the entry says that its content was another.
    """
    content = b""
    try:
        with _reasons(), opened(entry, digested=True) as (source, content):
            return Loaded(_loaded(source, entry, fit), content)
    except Unreadable as error:
        # A new one: the old one's traceback would keep the file's bytes in memory.
        return Loaded(Unreadable(error.reason), content)


def digest_of(entry: ImageEntry) -> bytes:
    """The digest of an image's content as it is now.

    Raises:
        Unreadable: it cannot be opened.
        Changed: the entry says that it was another.
    """
    with _reasons(), opened(entry, digested=True) as (_, content):
        return content


def _loaded(source: Source, entry: ImageEntry, fit: Fit) -> Decoded:
    with ExitStack() as room:
        bands, place = _decoded(source, entry, fit, room)
        fitted = tuple(_fitted(band, place, fit) for band in bands)
        del bands
    return np.array(fitted[0]) if fit.in_bytes else unit_pixels(fitted)


def _fitted(image: Image.Image, place: _Place, fit: Fit) -> Image.Image:
    scale, size = fit.scale(place.shape), fit.size
    top, bottom = _centre(place.shape[0], scale, size[0])
    left, right = _centre(place.shape[1], scale, size[1])
    # Resampling the crop only: a panorama of 1 x 60,000 would grow to 224 x 13,440,000.
    rows = [place.top + y / place.smaller for y in (top, bottom)]
    columns = [place.left + x / place.smaller for x in (left, right)]
    box = (columns[0], rows[0], columns[1], rows[1])
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)


def _read(
    file: BinaryIO | BytesIO,
    suffix: str,
    box: tuple[int, int, int, int] | None,
    fit: Fit | None,
    room: ExitStack,
) -> tuple[Raw, _Place]:
    """The whole photograph, upright; of fewer pixels, if a draft is enough for what is wanted.

    Args:
        file: at its start.
        suffix: of its name, in small letters.
        box: the crop that is wanted of it.
        fit: the size and bands that are wanted; None for the whole in 8-bit RGB.
        room: holds the budget of pixels.
    """
    limit = Image.MAX_IMAGE_PIXELS if fit is None or fit.largest is None else fit.largest
    prefix = file.read(PREFIX)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if prefix.startswith((NPY, ZIP)):
        # Packed, it may be as large as is allowed.
        most = most_bytes(limit) if prefix.startswith(ZIP) else size
        room.enter_context(DECODING.held(most // 4))
        array = read_array(file, size, limit)
        return array, _Place.whole(array)
    plugin = plugin_for(prefix)
    if plugin is None:
        unread = f"{suffix[1:].upper()} files are not read: save it as PNG or JPEG"
        known = "not an image" if suffix not in NOT_READ else unread
        raise Unreadable(known if size else "empty file")
    try:
        image = plugin(file)
        if limit is not None and image.width * image.height > limit:
            raise Unreadable(
                f"larger than {limit / 1e6:.0f} megapixels ({image.width} x {image.height})"
            )
        stored, smaller = image.size, 1
        if fit is not None and fit.draft and isinstance(image, Jpeg):
            smaller = _draft(image, box, fit)
        room.enter_context(DECODING.held(image.width * image.height))
        if fit is None or fit.in_bytes:
            raw = load_pixels(image, None, None)
        else:
            raw = load_pixels(image, fit.channels, fit.value_range)
    except (MemoryError, Unreadable):
        raise
    except Image.DecompressionBombError as error:  # in a WebP's canvas or a GIF's frame
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise Unreadable(f"larger than {most / 1e6:.0f} megapixels, Pillow's limit") from error
    except Exception as error:  # on damaged files the plugins raise nearly anything
        raise Unreadable(damage(error, plugin.format or "image", prefix, size)) from error
    if isinstance(raw, np.ndarray):
        return raw, _Place.whole(raw)
    # A TIFF has been turned by Pillow, and has no 'exif' in its info.
    orientation = orientation_of(image.info.get("exif", b""))
    turn = UPRIGHT.get(orientation)
    upright = image if turn is None else image.transpose(turn)
    if smaller == 1:
        return upright, _Place.whole(upright)
    # Pixels are whole: where rows and columns end, the last has a part that is not the photograph.
    width, height = stored[::-1] if orientation in ON_ITS_SIDE else stored
    left = upright.width - width / smaller if orientation in FROM_RIGHT else 0.0
    top = upright.height - height / smaller if orientation in FROM_BOTTOM else 0.0
    return upright, _Place(smaller, left, top, (height, width))


def _draft(image: Jpeg, box: tuple[int, int, int, int] | None, fit: Fit) -> int:
    """Have a JPEG decoded at fewer pixels; how many times fewer a side has."""
    stored = image.size
    turned = orientation_of(image.info.get("exif", b"")) in ON_ITS_SIDE
    smaller = _smaller(fit.scale(_shape(stored if turned else stored[::-1], box)))
    # Pillow takes the scale that leaves at least as many.
    image.draft(None, (stored[0] // smaller, stored[1] // smaller))
    return smaller


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


def _crop(
    bands: _Bands, place: _Place, box: tuple[int, int, int, int] | None
) -> tuple[_Bands, _Place]:
    shape = _shape(place.shape, box)
    if box is None:
        return bands, place
    scale = place.smaller
    left, top = place.left + box[1] / scale, place.top + box[0] / scale
    right, bottom = left + shape[1] / scale, top + shape[0] / scale
    x, y = math.floor(left), math.floor(top)
    corners = (x, y, math.ceil(right), math.ceil(bottom))
    return tuple(band.crop(corners) for band in bands), _Place(scale, left - x, top - y, shape)


def _centre(length: int, scale: Fraction, wanted: int) -> tuple[float, float]:
    """Both ends of the middle `wanted` pixels of a side after scaling, in units of before."""
    scaled = int(length * scale)
    start = round((scaled - wanted) / 2)
    return start * length / scaled, (start + wanted) * length / scaled

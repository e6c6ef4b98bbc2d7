"""From what a file or a source gives to the bands that a network takes."""

from itertools import count

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image, ImageFile, TiffImagePlugin

from opponent.core.errors import Unreadable
from opponent.images.formats import to_rgb
from opponent.images.values import Range, to_bytes, to_unit

# What a file or a source gives: an image, or an array (h, w) or (h, w, c).
Raw = Image.Image | Shaped[np.ndarray, "h w *c"]
# Modes whose bands are taken as they are, if a network takes as many. Not CMYK, which is ink.
_PLAIN = ("LA", "RGBA")
# TIFF 6.0: how many samples a pixel has. Pillow drops those after the fourth.
_SAMPLES = 277


def rgb_of(raw: Raw) -> Image.Image:
    """An image in 8-bit RGB.

    Raises:
        Unreadable: what is black and white is left open, or the array is no image of 3 channels.
    """
    if isinstance(raw, Image.Image):
        return to_rgb(raw)
    values = to_bytes(_with_channels(raw, 3), exact=True)
    return Image.fromarray(np.ascontiguousarray(values), "RGB")


def unit_bands(raw: Raw, channels: int, told: Range | None) -> tuple[Image.Image, ...]:
    """The bands of an image as floats, 0 for black and 1 for white.

    Args:
        raw: the image. Of files and PIL images, colour becomes grey for one channel (Pillow's 'L'),
            and grey is repeated for three.
        channels: how many bands the network takes.
        told: what its preprocessing says of black and white.
    Returns:
        One image of mode 'F' for each band.
    Raises:
        Unreadable: the image has another number of bands, or what is black and white is left open.
    """
    values = _values(raw, channels) if isinstance(raw, Image.Image) else raw
    unit = to_unit(_with_channels(values, channels), told)
    return tuple(Image.fromarray(np.ascontiguousarray(unit[..., k])) for k in range(channels))


def unit_pixels(bands: tuple[Image.Image, ...]) -> Float32[np.ndarray, "h w c"]:
    """Bands of mode 'F' as one array."""
    return np.stack([np.asarray(band, np.float32) for band in bands], -1)


def _with_channels(values: np.ndarray, channels: int) -> Shaped[np.ndarray, "h w c"]:
    """An array with as many channels as asked for."""
    if values.ndim == 3 and values.shape[2] == channels and values.size:
        return values
    if channels in (1, 3) and (values.ndim == 2 or values.shape[2:] == (1,)) and values.size:
        return np.repeat(values.reshape(*values.shape[:2], 1), channels, axis=2)
    if not values.size:
        raise Unreadable("an array without pixels")
    grey = " or (height, width)" if channels in (1, 3) else ""
    mend = "; give its axes in that order" if values.shape[:1] == (channels,) else ""
    raise Unreadable(
        f"an array of shape {values.shape}, not (height, width, {channels}){grey}, which the "
        f"network takes{mend}"
    )


def _values(image: Image.Image, channels: int) -> Shaped[np.ndarray, "h w *c"]:
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode in _PLAIN and len(image.getbands()) == channels:
        return np.asarray(image)
    if channels not in (1, 3):
        bands = len(image.getbands())
        raise Unreadable(
            f"an image of {bands} band{'s' * (bands > 1)} ({image.mode}), and the network takes "
            f"{channels}"
        )
    photo = to_rgb(image)
    return np.asarray(photo.convert("L") if channels == 1 else photo)


def load_pixels(image: ImageFile.ImageFile, channels: int | None, told: Range | None) -> Raw:
    """Decode what a plugin has opened; what Pillow would drop in silence is refused.

    Args:
        image: just opened.
        channels: how many bands the network takes; None for 8-bit RGB.
        told: what its preprocessing says of black and white.
    Returns:
        The image. For two channels, or more than three, the pages of a TIFF that has as many, each
        of one band, as one array.
    Raises:
        Unreadable: 16-bit colour of which Pillow would drop more than rounding; a TIFF with more
            bands than Pillow reads, or of other pages.
    """
    is_deep = image.mode in ("RGB", "RGBA", "LA") and ";16" in _raw_mode(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and channels not in (None, 1, 3):
        bands, samples = len(image.getbands()), image.tag_v2.get(_SAMPLES, 1)
        if isinstance(samples, int) and samples > bands:
            raise Unreadable(
                f"a TIFF with {samples} bands, of which Pillow reads {bands}: save it as .npy of "
                "shape (height, width, bands), or with one page for each band"
            )
        if bands == 1:
            return _pages(image, channels)
    image.load()
    # As `black_and_white` decides, by the upper 8 of the 16 bits.
    if is_deep and (told is not None or int(np.asarray(image)[..., : _colours(image)].max()) < 128):
        raise Unreadable(
            "16-bit colour that does not use all 16 bits, or with a value_range: Pillow reads the "
            "upper 8 bits only, so save it as .npy"
        )
    return image


def _colours(image: Image.Image) -> int:
    """How many bands it has but for its opacity."""
    return sum(name != "A" for name in image.getbands())


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How the pixels lie in the file, such as 'RGB;16B'."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments if isinstance(arguments, str) else next(iter(arguments or ()), ""))


def _pages(image: Image.Image, channels: int) -> Shaped[np.ndarray, "h w c"]:
    """The pages of a TIFF, each of one band."""
    pages = list[np.ndarray]()
    for number in count():
        try:
            image.seek(number)
        except EOFError:
            break
        if number == channels:
            raise Unreadable(f"a TIFF with more than {channels} pages; the network takes as many")
        if pages and image.size != pages[0].shape[::-1]:
            raise Unreadable("a TIFF whose pages differ in size")
        if not (image.mode in ("L", "F") or image.mode.startswith("I")):
            raise Unreadable(f"a TIFF whose page {number + 1} is no plain band ({image.mode})")
        pages.append(np.asarray(image))
    if len(pages) != channels:
        raise Unreadable(
            f"a TIFF with {len(pages)} pages of one band; the network takes {channels}"
        )
    return np.stack(pages, -1)

"""Which image formats are read, and how a file becomes an upright photograph in 8-bit RGB."""

import struct
from typing import Literal

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from opponent.core.text import one_line
from opponent.images.values import to_bytes

# Extensions that promise a picture, whatever is inside. The second line is not read here, but
# listed, so that such files are reported and not passed over.
READ = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"}
NOT_READ = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".nef", ".cr2"}

# EXIF 2.3, tag 0x0112 and its values: what turns the stored rows and columns upright.
_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where the first row or column lies to the right, or at the bottom, once the image is upright.
FROM_RIGHT, FROM_BOTTOM, ON_ITS_SIDE = {2, 3, 6, 7}, {3, 4, 7, 8}, {5, 6, 7, 8}
PREFIX = 18  # bytes at the start of a file that `plugin_for` looks at


# Pillow decodes by libjpeg-turbo. simplejpeg and OpenCV do so too: they gave the same pixels, to
# the bit, in 0.92 of the time with `fit` at 224, and in a half at 64. Not worth a dependency.
class Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG whose EXIF block is read by `orientation_of` alone."""

    def getexif(self) -> Image.Exif:
        # Pillow looks for the resolution here, and warns of damage to a block that nobody needs.
        return Image.Exif()


def plugin_for(prefix: bytes) -> type[ImageFile.ImageFile] | None:
    """The Pillow plugin for a file that begins with these bytes; None for other formats."""
    # Not Image.open: it warns of large images, and no warning can be silenced in one thread only.
    # It also starts programs (Ghostscript) and takes some text for images.
    if prefix.startswith(b"\xff\xd8\xff"):
        return Jpeg
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if prefix.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    if prefix.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    # The length of a BMP's second header fits in a byte; text that begins with BM has no zeros.
    if prefix.startswith(b"BM") and prefix[15:18] == b"\0\0\0":
        return BmpImagePlugin.BmpImageFile
    return None


def damage(error: Exception, name: str, prefix: bytes, size: int) -> str:
    """What is wrong with a file that a plugin failed at, in one line.

    Args:
        error: what the plugin raised.
        name: the format's, such as 'WEBP'.
        prefix: the file's first bytes.
        size: the file's length in bytes.
    """
    promised = int.from_bytes(prefix[4:8], "little") + 8 if name == "WEBP" else 0
    if promised > size:
        return f"truncated: {size:,} of {promised:,} bytes"
    ran_out = isinstance(error.__cause__ or error, EOFError | IndexError | struct.error)
    if ran_out or "truncated" in str(error).lower():
        return f"truncated: it ends after {size:,} bytes"
    if "not identified" in str(error):
        return f"a {name} without pixels"
    return f"damaged {name}: {one_line(error)}"


def orientation_of(exif: bytes) -> int:
    """The EXIF orientation of a photograph, 1 to 8."""
    # Not Pillow's getexif: it warns of damage anywhere in the block, or fails at it.
    # Source: TIFF 6.0, section 2 (image file directory).
    tiff = exif.removeprefix(b"Exif\0\0")
    order: Literal["big", "little"] = "big" if tiff.startswith(b"MM") else "little"

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], order)

    start = number(4, 4) + 2
    for at in range(start, min(start + 12 * number(start - 2, 2), len(tiff)), 12):
        if number(at, 2) == _ORIENTATION:
            is_short = number(at + 2, 2) == 3  # some programs write a 4-byte integer
            return number(at + 8, 2 if is_short else 4)
    return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image in 8-bit RGB; `decode` says how other modes are scaled."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(to_bytes(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    photo = image.convert("RGB")
    # It is upright now: nobody may turn it again because of what the file said.
    photo.info.clear()
    return photo

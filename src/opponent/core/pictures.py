"""Arrays as pictures in notebooks and pages."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from opponent.core.text import one_line

# Of any size: a function that takes several need not get equal ones.
Pixels = UInt8[np.ndarray, "_ _ 3"] | UInt8[np.ndarray, "_ _ 4"]


def png_bytes(pixels: Pixels) -> bytes:
    """An image as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def read_png(file: str | Path | io.BytesIO, mode: str = "RGBA") -> UInt8[np.ndarray, "h w c"]:
    """A PNG file that this package wrote.

    Whatever else stands in its place is refused: for some formats Pillow starts other programs.

    Args:
        file: a path, or an open file.
        mode: Pillow's name for the colours, 'RGB' or 'RGBA'.
    Raises:
        OSError: it is no PNG file, or damaged, or of more pixels than `Image.MAX_IMAGE_PIXELS`.
    """
    try:
        with PngImagePlugin.PngImageFile(file) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise OSError(f"{image.width} x {image.height} pixels, which are too many")
            return np.asarray(image.convert(mode))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # on damaged files the plugin raises nearly anything
        raise OSError(f"no PNG file that can be read: {one_line(error)}") from error


def data_uri(pixels: Pixels, *, side: int | None = None, quality: int = 88) -> str:
    """An image as a data URI: JPEG, or PNG where it has an opacity.

    Args:
        pixels: RGB or RGBA.
        side: the longer side's largest length in the page, in pixels.
        quality: of the JPEG.
    """
    image = Image.fromarray(pixels)
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "png" if pixels.shape[2] == 4 else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": quality} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def on_paper(pixels: Pixels) -> UInt8[np.ndarray, "h w 3"]:
    """An image on white, where it has an opacity."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:] / 255
    return np.rint(alpha * pixels[..., :3] + (1 - alpha) * 255).astype(np.uint8)


def trimmed(pictures: UInt8[np.ndarray, "n h w 4"], least: int = 8) -> UInt8[np.ndarray, "n y x 4"]:
    """Images without the margin in which none of them is opaque.

    Args:
        pictures: RGBA.
        least: the smallest opacity, of 255, that is kept.
    """
    opaque = np.any(pictures[..., 3] >= least, axis=0)
    if not opaque.any():
        return pictures
    rows, columns = (np.flatnonzero(opaque.any(axis)) for axis in (1, 0))
    return pictures[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


# Outside of this share of the largest opacity, icons show nothing to speak of.
_SEEN = 0.12


def seen_part(
    icons: Sequence[UInt8[np.ndarray, "h w 4"]],
) -> tuple[slice, slice]:
    """The smallest square, of all icons the same, outside of which they show hardly anything.

    Args:
        icons: of one size, with their opacity.
    Returns:
        Rows and columns; all of them where nothing is opaque.
    """
    height, width = icons[0].shape[:2]
    opacity = np.mean([icon[..., 3] for icon in icons], 0, dtype=np.float64)
    seen = opacity > _SEEN * opacity.max()
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, height), slice(0, width)
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    parts = []
    for found, size in ((rows, height), (columns, width)):
        long = min(int(side), size)
        start = int(np.clip((found[0] + found[-1] + 1 - long) // 2, 0, size - long))
        parts.append(slice(start, start + long))
    return parts[0], parts[1]


def contact_sheet(
    pictures: Sequence[UInt8[np.ndarray, "_ _ _"]],
    *,
    across: int = 4,
    side: int = 240,
    gap: int = 6,
) -> UInt8[np.ndarray, "h w 3"]:
    """Several images side by side on white.

    Args:
        pictures: RGB or RGBA, of any sizes; each is scaled to fit a square.
        across: how many in a row.
        side: of the square, in pixels.
        gap: between two squares.
    """
    columns, rows = min(across, len(pictures)), -(-len(pictures) // across)
    width, height = (max(1, count * (side + gap) - gap) for count in (columns, rows))
    sheet = Image.new("RGB", (width, height), "white")
    for number, pixels in enumerate(pictures):
        image = Image.fromarray(on_paper(pixels))
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        left, top = number % across * (side + gap), number // across * (side + gap)
        inset = (side - size[0]) // 2, (side - size[1]) // 2
        image = image.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(image, (left + inset[0], top + inset[1]))
    return np.asarray(sheet)

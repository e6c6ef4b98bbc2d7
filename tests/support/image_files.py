"""Image files that are odd, and ones that are bad, with what is expected of them."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

import opponent
from opponent.images.imageset import ImageEntry

# A picture of 4 x 6 that no turn or flip leaves as it is, and a smooth one for lossy formats.
SHARP = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
SMOOTH = np.stack(
    np.broadcast_arrays(np.arange(40)[:, None] * 5, np.arange(60) * 4, np.full((40, 60), 90)), -1
).astype(np.uint8)
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
WIDE = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
FLOATS = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)


def encoded(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    target = io.BytesIO()
    picture.save(target, format, **options)
    return target.getvalue()


def entry(path: Path, **more: object) -> ImageEntry:
    return ImageEntry(id=path.name, path=path, **more)


def written(folder: Path, name: str, content: bytes) -> ImageEntry:
    (folder / name).write_bytes(content)
    return entry(folder / name)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1).astype(np.uint8)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + data


def exif_block(orientation: int, *, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block with two tags, the second of them the orientation, as SHORT or as LONG."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *([orientation, 0][: 5 - kind]))
    tags = struct.pack(order + "HHII", 0x0110, 4, 1, 7)
    tags += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + mark + struct.pack(order + "IH", 8, 2) + tags + struct.pack(order + "I", 0)


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    """The JPEG without its JFIF segment (which would spare Pillow the EXIF) and with this block."""
    assert jpeg[2:4] == b"\xff\xe0"
    rest = jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]
    return b"\xff\xd8\xff\xe1" + struct.pack(">H", len(block) + 2) + block + rest


def palette(transparency: int | bytes | None) -> bytes:
    picture = Image.fromarray((GREY // 10 % 4).astype(np.uint8)).convert("P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    options = {} if transparency is None else {"transparency": transparency}
    return encoded(picture, "PNG", **options)


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], dtype=np.uint8)
INDICES = GREY // 10 % 4
ALPHA = np.array([0, 51, 255, 204], dtype=np.uint8)
ON_WHITE = np.array([[255, 255, 255], [204, 255, 204], [0, 0, 255], [58, 58, 58]], dtype=np.uint8)


def tinted(array: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(array * share + 255 * (1 - share))


SHADE = np.linspace(0, 255, 24).reshape(4, 6).astype(np.uint8)
RGBA = np.dstack([SHARP, SHADE])
FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (6, 4), "red")]}
KEYED = Image.fromarray(SHARP)
JPEG = encoded(SMOOTH, "JPEG", quality=95)
CMYK = Image.new("CMYK", (60, 40), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
FLAT = np.broadcast_to(np.uint8([255, 0, 0]), (40, 60, 3))
OTHER_TAG = struct.pack("<HHII", 0x0110, 4, 1, 7)
TIFF_INT = np.array([[-100, 0], [400, 410]], dtype=np.int32)
# name -> (content, pixels, largest difference allowed)
READABLE: dict[str, tuple[bytes, np.ndarray, int]] = {
    "rgb.png": (encoded(SHARP, "PNG"), SHARP, 0),
    "rgb.bmp": (encoded(SHARP, "BMP"), SHARP, 0),
    "palette.bmp": (encoded(Image.fromarray(GREY), "BMP"), as_rgb(GREY), 0),
    "rgb.webp": (encoded(SHARP, "WEBP", lossless=True), SHARP, 0),
    "rgba.webp": (encoded(RGBA, "WEBP", lossless=True, exact=True), tinted(SHARP, SHADE), 1),
    "rgb.tif": (encoded(SHARP, "TIFF"), SHARP, 0),
    "packed.tif": (encoded(SHARP, "TIFF", compression="tiff_lzw"), SHARP, 0),
    "pages.tif": (encoded(SHARP, "TIFF", **FRAMES), SHARP, 0),
    "rgb.jpg": (JPEG, SMOOTH, 8),
    "SHOUTED.JPG": (JPEG, SMOOTH, 8),
    "no-extension": (JPEG, SMOOTH, 8),
    "really-a-png.jpg": (encoded(SHARP, "PNG"), SHARP, 0),
    "pages.jpg": (encoded(SMOOTH, "MPO", quality=95, **FRAMES), SMOOTH, 8),
    "trailing.jpg": (JPEG + b"\0" * 100, SMOOTH, 8),
    "grey.png": (encoded(GREY, "PNG"), as_rgb(GREY), 0),
    "grey.jpg": (encoded(SMOOTH[..., 0], "JPEG", quality=95), as_rgb(SMOOTH[..., 0]), 8),
    "bit.png": (encoded(GREY > 100, "PNG"), as_rgb(255 * (GREY > 100)), 0),
    "bit.tif": (encoded(GREY > 100, "TIFF"), as_rgb(255 * (GREY > 100)), 0),
    "palette.png": (palette(None), COLOURS[INDICES], 0),
    "palette-alpha.png": (palette(ALPHA.tobytes()), ON_WHITE[INDICES], 1),
    "palette-key.png": (palette(1), np.where(INDICES[..., None] == 1, 255, COLOURS[INDICES]), 0),
    "grey-alpha.png": (encoded(np.dstack([GREY, SHADE]), "PNG"), tinted(as_rgb(GREY), SHADE), 1),
    "rgba.png": (encoded(RGBA, "PNG"), tinted(SHARP, SHADE), 1),
    "rgba.tif": (encoded(RGBA, "TIFF"), tinted(SHARP, SHADE), 1),
    "key.png": (
        encoded(KEYED, "PNG", transparency=tuple(SHARP[1, 2].tolist())),
        np.where(np.equal(SHARP, SHARP[1, 2]).all(-1, keepdims=True), 255, SHARP),
        0,
    ),
    "grey-key.png": (encoded(GREY, "PNG", transparency=0), as_rgb(np.where(GREY, GREY, 255)), 0),
    "animated.gif": (encoded(Image.fromarray(GREY), "GIF", **FRAMES), as_rgb(GREY), 0),
    "key.gif": (
        encoded(Image.fromarray(GREY), "GIF", transparency=0),
        as_rgb(np.where(GREY, GREY, 255)),
        0,
    ),
    "cmyk.jpg": (encoded(CMYK, "JPEG", quality=95), FLAT, 8),
    "cmyk.tif": (encoded(CMYK, "TIFF"), FLAT, 0),
    # sRGB's red is 53.2, 80.1, 67.2 in CIELAB: L * 2.55, and a and b with 128 added
    "lab.tif": (encoded(Image.new("LAB", (60, 40), (136, 208, 195)), "TIFF"), FLAT, 12),
    "wide.png": (encoded(WIDE, "PNG"), as_rgb(np.rint(WIDE / 257)), 0),
    "wide.tif": (encoded(WIDE, "TIFF"), as_rgb(np.rint(WIDE / 257)), 0),
    "wide-key.png": (encoded(WIDE, "PNG", transparency=0), as_rgb(np.rint(WIDE / 257)), 0),
    "big-endian.tif": (
        encoded(Image.frombytes("I;16B", (6, 4), WIDE.astype(">u2").tobytes()), "TIFF"),
        as_rgb(np.rint(WIDE / 257)),
        0,
    ),
    "int.tif": (encoded(WIDE.astype(np.int32), "TIFF"), as_rgb(np.rint(WIDE / 257)), 0),
    "unit.tif": (encoded(FLOATS, "TIFF"), as_rgb(np.rint(255 * FLOATS)), 0),
    "exif-noise.jpg": (with_exif(JPEG, b"Exif\0\0" + bytes(range(200))), SMOOTH, 8),
    "exif-cut.jpg": (with_exif(JPEG, exif_block(6)[:20]), SMOOTH, 8),
    "exif-far.jpg": (with_exif(JPEG, b"Exif\0\0II*\0\xff\xff\xff\x7f"), SMOOTH, 8),
    "exif-9.jpg": (with_exif(JPEG, exif_block(9)), SMOOTH, 8),
    # a text that would lie outside the block, before an orientation that is fine
    "exif-partly.jpg": (
        with_exif(JPEG, exif_block(3).replace(OTHER_TAG, struct.pack("<HHII", 0x110, 2, 99999, 8))),
        SMOOTH[::-1, ::-1],
        8,
    ),
}
# Pillow 12 does not read the one that it writes.
if int(PIL.__version__.split(".")[0]) >= 13:
    READABLE["ycbcr.tif"] = (encoded(Image.fromarray(SHARP).convert("YCbCr"), "TIFF"), SHARP, 3)
NOISE = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
WHOLE = {
    "jpg": encoded(NOISE, "JPEG"),
    "png": encoded(NOISE, "PNG"),
    "webp": encoded(NOISE, "WEBP"),
    "tif": encoded(NOISE, "TIFF"),
    "gif": encoded(Image.fromarray(NOISE).quantize(64), "GIF"),
    "bmp": encoded(NOISE, "BMP"),
}
FLIPPED = bytearray(WHOLE["png"])
FLIPPED[500] ^= 0xFF
# name -> (content, reason)
BAD: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "^empty file$"),
    "text.jpg": (b"This is not a photograph.\n", "^not an image$"),
    "letter.jpg": (b"BM W and other cars, in a letter without an end", "^not an image$"),
    "html.png": (b"<!DOCTYPE html><title>404</title>", "^not an image$"),
    "zeros.png": (bytes(5000), "^not an image$"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(50), "^HEIC files are not read: save it as PNG"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "^SVG files are not read"),
    "void.svg": (b"", "^empty file$"),
    "signature.png": (b"\x89PNG\r\n\x1a\n", "^truncated: it ends after 8 bytes$"),
    "signature.jpg": (b"\xff\xd8\xff\xe0", "^truncated: it ends after 4 bytes$"),
    "large.png": (png_header(12000, 9000), r"^larger than 89 megapixels \(12000 x 9000\)$"),
    "bomb.png": (png_header(60000, 60000), r"^larger than 89 megapixels \(60000 x 60000\)$"),
    "flat.png": (png_header(0, 7), "^a PNG without pixels"),
    "hollow.png": (png_header(7, 5), "^truncated"),
    "damaged.png": (bytes(FLIPPED), "^damaged PNG: "),
    "nan.tif": (encoded(FLOATS / FLOATS.max() * np.float32(np.nan), "TIFF"), "not all finite$"),
    "twelve.png": (
        encoded(WIDE // 16, "PNG"),
        r"^16-bit values from 0 to 4095: say .*Preprocessing\(value_range=\(0, 4095\)\)",
    ),
    "twelve.tif": (encoded(WIDE // 16, "TIFF"), "^16-bit values from 0 to 4095: "),
    "negative.tif": (encoded(TIFF_INT, "TIFF"), "^32-bit values from -100 to 410: "),
    "float.tif": (
        encoded(600 * FLOATS - 9, "TIFF"),
        "^32-bit floating-point values from -9 to 591",
    ),
    "constant.tif": (encoded(0 * FLOATS + 7, "TIFF"), "floating-point values from 7 to 7: "),
    **{f"cut.{end}": (data[: len(data) // 2], "^truncated") for end, data in WHOLE.items()},
    "cut-late.jpg": (WHOLE["jpg"][:-40], "^truncated: it ends after [0-9,]+ bytes$"),
    "counted.webp": (WHOLE["webp"][:1000], f"^truncated: 1,000 of {len(WHOLE['webp']):,} bytes$"),
}
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def numbered(count: int) -> list[ImageEntry]:
    return [ImageEntry(id=str(n), path=Path(str(n))) for n in range(count)]


def in_new_interpreter(program: str) -> subprocess.CompletedProcess[str]:
    root = Path(opponent.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

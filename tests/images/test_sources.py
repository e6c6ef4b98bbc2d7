"""Where images come from: folders, files, lists, and image sources of the user's own."""

import re
import sys
import time
from pathlib import Path
from threading import Lock, get_ident

import numpy as np
import pytest
from PIL import Image
from tests.support.image_files import GREY, SHARP, encoded

from opponent.core.errors import Unreadable
<<<<<<< HEAD
from opponent.images import sources as images
from opponent.images.decode import decode, fit_image, load_image
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.images.loader import stream
from opponent.images.sources import open_images

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
    "ycbcr.tif": (encoded(Image.fromarray(SHARP).convert("YCbCr"), "TIFF"), SHARP, 3),
    "wide.png": (encoded(WIDE, "PNG"), as_rgb(np.rint(WIDE / 257)), 0),
    "wide.tif": (encoded(WIDE, "TIFF"), as_rgb(np.rint(WIDE / 257)), 0),
    "wide-key.png": (encoded(WIDE, "PNG", transparency=0), as_rgb(np.rint(WIDE / 257)), 0),
    "big-endian.tif": (
        encoded(Image.frombytes("I;16B", (6, 4), WIDE.astype(">u2").tobytes()), "TIFF"),
        as_rgb(np.rint(WIDE / 257)),
        0,
    ),
    "int.tif": (encoded(WIDE.astype(np.int32), "TIFF"), as_rgb(np.rint(WIDE / 257)), 0),
    "negative.tif": (encoded(TIFF_INT, "TIFF"), as_rgb(np.array([[0, 50], [250, 255]])), 0),
    "unit.tif": (encoded(FLOATS, "TIFF"), as_rgb(np.rint(255 * FLOATS)), 0),
    "float.tif": (encoded(600 * FLOATS - 9, "TIFF"), as_rgb(np.rint(255 * FLOATS)), 0),
    "constant.tif": (encoded(0 * FLOATS + 7, "TIFF"), as_rgb(0 * GREY), 0),
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
    **{f"cut.{end}": (data[: len(data) // 2], "^truncated") for end, data in WHOLE.items()},
    "cut-late.jpg": (WHOLE["jpg"][:-40], "^truncated: it ends after [0-9,]+ bytes$"),
    "counted.webp": (WHOLE["webp"][:1000], f"^truncated: 1,000 of {len(WHOLE['webp']):,} bytes$"),
}


@pytest.mark.parametrize("name", READABLE)
def test_odd_files_are_read(tmp_path: Path, name: str) -> None:
    content, expected, slack = READABLE[name]
    photo = decode(written(tmp_path, name, content))
    assert photo.mode == "RGB"
    assert not photo.info
    assert type(photo) is Image.Image
    pixels = np.asarray(photo).astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= slack


@pytest.mark.parametrize("name", BAD)
def test_bad_files_say_why(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    with pytest.raises(Unreadable, match=reason) as caught:
        decode(written(tmp_path, name, content))
    assert caught.value.reason == str(caught.value)
    assert "\n" not in caught.value.reason


def test_a_folder_of_all_of_them(tmp_path: Path) -> None:
    for name, (content, *_) in {**READABLE, **BAD}.items():
        (tmp_path / name).write_bytes(content)
    found = open_images(tmp_path)
    assert [item.id for item in found] == sorted(READABLE | BAD)
    results = list(stream(found, size=(8, 5), workers=3, ahead=4))
    pairs = zip(found, results, strict=True)
    assert {item.id for item, result in pairs if isinstance(result, Unreadable)} == set(BAD)
    assert {r.shape for r in results if isinstance(r, np.ndarray)} == {(8, 5, 3)}


def test_a_scan_goes_on_past_all_of_them(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name, (content, *_) in {**READABLE, **BAD}.items():
        (pictures / name).write_bytes(content)
    run = scan_images(opponent.load(), pictures, "mixed3a:5", "conv2d2", out=tmp_path / "run")
    assert set(run.columns().images) == set(READABLE)
    assert run.unreadable().keys() == BAD.keys()
    for name, reason in run.unreadable().items():
        assert re.search(BAD[name][1], reason)
    lines = (tmp_path / "run" / "unreadable.csv").read_text().splitlines()
    assert len(lines) == 1 + len(BAD)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("gone.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = {
        "dangling.jpg": "^a link that leads nowhere \\(to 'gone.jpg'\\)$",
        "circle.jpg": "^not a usable path: .*symbolic links",
        "folder.jpg": "^a folder, not a file$",
        "pipe.jpg": "^not a regular file$",
        "missing.jpg": "^no such file$",
        "a\0b.jpg": "^not a usable path: ",
        "x" * 3000: "^not a usable path: .*too long",
    }
    for name, reason in reasons.items():
        with pytest.raises(Unreadable, match=reason):
            decode(entry(tmp_path / name))


@pytest.mark.parametrize("method", ["stat", "open"])
def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    # By replacing a function: for the root user every file is readable.
    item = written(tmp_path, "a.png", encoded(SHARP, "PNG"))

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(Unreadable, match=r"^permission denied$"):
        decode(item)


def test_out_of_memory_is_not_a_bad_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = written(tmp_path, "a.png", encoded(SHARP, "PNG"))

    def exhaust(_image: Image.Image) -> None:
        raise MemoryError("no memory for this test")

    monkeypatch.setattr(ImageFile.ImageFile, "load_image", exhaust)
    with pytest.raises(MemoryError, match="no memory for this test"):
        decode(item)
    with pytest.raises(MemoryError, match="no memory for this test"):
        list(stream([item], size=(4, 4)))


def test_the_limit_is_pillows_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = written(tmp_path, "a.png", encoded(SHARP, "PNG"))
    for limit in (24, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(np.asarray(decode(item)), SHARP)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 23)
    with pytest.raises(Unreadable, match=r"larger than 0 megapixels \(6 x 4\)"):
        decode(item)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # from twice as many on, plugins may raise
    with pytest.raises(Unreadable, match=r"^larger than 0 megapixels"):
        decode(written(tmp_path, "a.webp", READABLE["rgb.webp"][0]))


@pytest.mark.parametrize("end", WHOLE)
def test_no_damage_raises_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)
    rng = np.random.default_rng(len(end))
    outcomes = []
    for _ in range(150):
        data = bytearray(WHOLE[end])
        # most often in the header, where the damage is the most varied
        for place in rng.geometric(0.01, size=rng.integers(1, 6)):
            data[min(place, len(data)) - 1] = rng.integers(256)
        cut = bytes(data[: rng.integers(1, len(data) + 1)]) if rng.random() < 0.3 else bytes(data)
        item = written(tmp_path, f"a.{end}", cut)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcomes.append(decode(item).mode)
            except Unreadable as error:
                outcomes.append("bad" if error.reason else "no reason")
    assert set(outcomes) <= {"RGB", "bad"}
    assert "bad" in outcomes


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


@pytest.mark.parametrize("value", TURNS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_orientation(tmp_path: Path, format: str, value: int) -> None:
    stored, slack = (SMOOTH, 8) if format == "JPEG" else (SHARP, 0)
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if slack else {}
    item = written(tmp_path, "a", encoded(stored, format, exif=exif, **options))
    expected = TURNS[value](stored)
    pixels = np.asarray(decode(item)).astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= slack
    # the crop is one of the upright photograph
    box = (1, 2, 3, 2)
    cropped = np.asarray(decode(ImageEntry(id="a", path=item.path, box=box)))
    np.testing.assert_array_equal(cropped, pixels[1:4, 2:4])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_exif_byte_orders_and_types(tmp_path: Path, order: str, kind: int) -> None:
    item = written(tmp_path, "a.jpg", with_exif(JPEG, exif_block(6, order=order, kind=kind)))
    assert np.abs(np.asarray(decode(item)).astype(int) - np.rot90(SMOOTH, -1)).max() <= 8


@pytest.mark.parametrize("box", [(0, 0, 5, 6), (-1, 0, 2, 2), (0, 5, 2, 2), (0, 0, 0, 1)])
def test_a_box_outside_is_an_error(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    path = written(tmp_path, "a.png", encoded(SHARP, "PNG")).path
    with pytest.raises(Unreadable, match="not inside the photograph, which is 4 x 6"):
        decode(entry(path, box=box))


def resampled(values: np.ndarray, wanted: int) -> np.ndarray:
    """Antialiased linear interpolation along the first axis, from its definition."""
    ratio = len(values) / wanted
    reach = max(ratio, 1.0)
    rows = []
    for row in range(wanted):
        middle = (row + 0.5) * ratio
        weights = [max(0.0, 1 - abs(at + 0.5 - middle) / reach) for at in range(len(values))]
        rows.append(np.tensordot(weights, values, 1) / sum(weights))
    return np.array(rows)


def slowly_fitted(array: np.ndarray, size: tuple[int, int], resize: int | None) -> np.ndarray:
    height, width = array.shape[:2]
    short = min(height, width)
    options = [(size[0], height), (size[1], width), (resize or 1, short)]
    over, under = max(options, key=lambda option: option[0] / option[1])
    tall, wide = height * over // under, width * over // under
    across = resampled(array.swapaxes(0, 1), wide)
    whole = resampled(across.swapaxes(0, 1), tall)
    top, left = round((tall - size[0]) / 2), round((wide - size[1]) / 2)
    return whole[top : top + size[0], left : left + size[1]]


SIDE = st.integers(1, 23)


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.none() | SIDE, st.integers(0, 9))
def test_fit_is_resize_then_centre_crop(
    height: int, width: int, tall: int, wide: int, resize: int | None, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = fit_image(Image.fromarray(array), size=(tall, wide), resize=resize)
    assert result.shape == (tall, wide, 3)
    # Pillow rounds twice, after each axis: half a step, and half a step more
    assert np.abs(result - slowly_fitted(array, (tall, wide), resize)).max() <= 1.01


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (256, 256), (64, 64), (301, 229)])
def test_fit_is_the_usual_preprocessing(shape: tuple[int, int]) -> None:
    # what torchvision's Resize(256) and CenterCrop(224) do to a Pillow image
    array = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    photo = Image.fromarray(array)
    tall, wide = (int(256 * side / min(shape)) for side in shape)
    top, left = round((tall - 224) / 2.0), round((wide - 224) / 2.0)
    whole = np.asarray(photo.resize((wide, tall), Image.Resampling.BILINEAR)).astype(int)
    expected = whole[top : top + 224, left : left + 224]
    difference = np.abs(fit_image(photo, size=(224, 224), resize=256) - expected)
    # Both round twice, but not after the same axis first; a step aside in this noise would be 60.
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def test_fit_of_the_same_size_changes_nothing_and_is_writable() -> None:
    result = fit_image(Image.fromarray(SHARP), size=(4, 6))
    np.testing.assert_array_equal(result, SHARP)
    assert result.flags.writeable


def test_fit_of_a_very_long_image_needs_no_very_large_one() -> None:
    line = np.zeros((1, 60_000, 3), dtype=np.uint8)
    line[:, 30_000:] = 200
    result = fit_image(Image.fromarray(line), size=(224, 224))
    assert result[:, 0].max() == 0
    assert result[:, -1].min() == 200


@pytest.mark.parametrize(("size", "resize"), [((0, 5), None), ((5, -1), None), ((5, 5), 0)])
def test_fit_wants_pixels(size: tuple[int, int], resize: int | None) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        fit_image(Image.fromarray(SHARP), size=size, resize=resize)


def test_load_is_fit_of_decode(tmp_path: Path) -> None:
    item = written(tmp_path, "a.jpg", JPEG)
    expected = fit_image(decode(item), size=(7, 9), resize=20)
    np.testing.assert_array_equal(load_image(item, size=(7, 9), resize=20), expected)


# 64 pixels a wave: 10 grey levels a pixel, so that a step aside shows, and smooth at an eighth.
def waves(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width] * (2 * np.pi / 64)
    values = [np.sin(columns), np.sin(rows + 1), np.sin(rows + columns + 2)]
    return Image.fromarray(np.rint(127.5 + 100 * np.stack(values, -1)).astype(np.uint8))


LONG = st.integers(60, 400)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(LONG, LONG),
    st.tuples(SIDE, SIDE),
    st.none() | SIDE,
    st.sampled_from(sorted(TURNS)),
    st.none() | st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from(["4:4:4", "4:2:0"]),
)
def test_drafts_are_of_the_same_place(
    tmp_path: Path,
    stored: tuple[int, int],
    size: tuple[int, int],
    resize: int | None,
    orientation: int,
    part: tuple[float, float, float, float] | None,
    subsampling: str,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": subsampling, "exif": exif}
    item = written(tmp_path, "a.jpg", encoded(waves(*stored), "JPEG", **options))
    if part is not None:
        height, width = stored if orientation < 5 else stored[::-1]
        tall, wide = (
            1 + round(f * (n - 1)) for f, n in zip(part[2:], (height, width), strict=True)
        )
        top, left = round(part[0] * (height - tall)), round(part[1] * (width - wide))
        item = entry(item.path, box=(top, left, tall, wide))
    plain = load_image(item, size=size, resize=resize).astype(int)
    draft = load_image(item, size=size, resize=resize, draft=True)
    assert draft.shape == plain.shape
    difference = np.abs(draft - plain)
    # At the edges: half a pixel of the result, outside a crop or made up by the JPEG's encoder.
    assert difference[1:-1, 1:-1].max(initial=0) <= 10
    assert difference.max() <= 24


@pytest.mark.parametrize(
    ("short", "smaller"),
    [(20, 1), (79, 1), (80, 2), (159, 2), (160, 4), (319, 4), (320, 8), (900, 8)],
)
def test_drafts_have_at_least_twice_the_pixels(tmp_path: Path, short: int, smaller: int) -> None:
    item = written(tmp_path, "a.jpg", encoded(waves(short, short + 50), "JPEG"))
    piece = images._decoded(item, ((20, 20), None))
    assert piece.shape == (short, short + 50)
    assert piece.image.size == (-(-(short + 50) // smaller), -(-short // smaller))
    same = np.array_equal(
        load_image(item, size=(20, 20)), load_image(item, size=(20, 20), draft=True)
    )
    assert same == (smaller == 1)
    # a larger short side before the crop needs more of the pixels
    finer = images._decoded(item, ((20, 20), 40))
    assert finer.smaller == max(1, smaller if short == 900 else smaller // 2)


def test_only_jpegs_have_drafts(tmp_path: Path) -> None:
    for format in ("PNG", "WEBP", "TIFF"):
        item = written(tmp_path, "a", encoded(waves(200, 200), format))
        draft = load_image(item, size=(20, 20), draft=True)
        np.testing.assert_array_equal(draft, load_image(item, size=(20, 20)))


def test_drafts_of_odd_and_bad_files(tmp_path: Path) -> None:
    for name, (content, *_) in {**READABLE, **BAD}.items():
        (tmp_path / name).write_bytes(content)
    found = open_images(tmp_path)
    plain, draft = (list(stream(found, size=(5, 8), draft=choice)) for choice in (False, True))
    changed = set()
    for item, one, other in zip(found, plain, draft, strict=True):
        if isinstance(one, Unreadable):
            assert isinstance(other, Unreadable)
            assert other.reason == one.reason
        else:
            assert np.abs(other.astype(int) - one).max() <= 8
            changed |= {item.id} if (other != one).any() else set()
    assert "rgb.jpg" in changed


def test_a_drafts_box_is_of_the_whole_photograph(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jpg", encoded(waves(300, 200), "JPEG")).path
    with pytest.raises(Unreadable, match=r"300 x 10 at 1, 0 is not inside .* is 300 x 200"):
        load_image(entry(path, box=(1, 0, 300, 10)), size=(2, 2), draft=True)
    load_image(entry(path, box=(0, 190, 300, 10)), size=(2, 2), draft=True)


def numbered(count: int) -> list[ImageEntry]:
    return [ImageEntry(id=str(n), path=Path(str(n))) for n in range(count)]


def pixel(n: int) -> np.ndarray:
    return np.full((1, 1, 3), n, dtype=np.uint8)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("what the test waits for did not happen")


@pytest.mark.parametrize(("workers", "ahead"), [(None, 64), (1, 1), (4, 3), (9, 100)])
def test_stream_keeps_the_order(
    monkeypatch: pytest.MonkeyPatch, workers: int | None, ahead: int
) -> None:
    def uneven(item: ImageEntry, **_: object) -> np.ndarray:
        number = int(item.id)
        time.sleep(0.002 * (number % 3))
        if number == 5:
            raise Unreadable("the fifth")
        return pixel(number)

    monkeypatch.setattr(images, "load_image", uneven)
    results = list(stream(numbered(20), size=(1, 1), workers=workers, ahead=ahead))
    failed = results.pop(5)
    assert isinstance(failed, Unreadable)
    assert failed.reason == "the fifth"
    assert failed.__traceback__ is None
    assert [int(r[0, 0, 0]) for r in results] == [n for n in range(20) if n != 5]


def test_stream_of_nothing_is_nothing() -> None:
    assert list(stream([], size=(1, 1))) == []


def test_stream_never_holds_more_than_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counting(item: ImageEntry, **_: object) -> np.ndarray:
        decoded.append(int(item.id))
        return pixel(int(item.id))

    monkeypatch.setattr(images, "load_image", counting)
    total, ahead = 30, 7
    for consumed, _ in enumerate(stream(numbered(total), size=(1, 1), workers=3, ahead=ahead)):
        # all that may be decoded will be, and no more: the one in hand counts
        wait_until(lambda: len(decoded) >= min(total, consumed + ahead))  # noqa: B023
        assert len(decoded) <= consumed + ahead


def test_closing_the_stream_stops_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    gate = threading.Event()

    def gated(item: ImageEntry, **_: object) -> np.ndarray:
        begun.append(int(item.id))
        if int(item.id) > 0:
            gate.wait()
        return pixel(int(item.id))

    monkeypatch.setattr(images, "load_image", gated)
    before = set(threading.enumerate())
    running = stream(numbered(50), size=(1, 1), workers=2, ahead=20)
    next(running)
    threads = set(threading.enumerate()) - before
    wait_until(lambda: len(begun) == 3)
    running.close()
    gate.set()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(threads) == 2
    assert sorted(begun) == [0, 1, 2]


def in_new_interpreter(program: str) -> subprocess.CompletedProcess[str]:
    root = Path(images.__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_interrupt_does_not_hang_the_interpreter() -> None:
    # The decodes under way would never end; the traceback keeps the generator from being closed.
    program = """
import threading
from pathlib import Path
from opponent import scan_images
from opponent.images import sources as images

def load_image(entry, **_):
    if entry.id != "0":
        threading.Event().wait()
    return images.np.zeros((1, 1, 3), dtype=images.np.uint8)

images.load = load_image
entries = [images.ImageEntry(id=str(n), path=Path("x")) for n in range(50)]
for image in images.stream(entries, size=(1, 1)):
    raise KeyboardInterrupt
"""
    done = in_new_interpreter(program)
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize("options", [{"workers": 0}, {"ahead": 0}])
def test_stream_wants_at_least_one(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give at least 1 of each"):
        stream([], size=(1, 1), **options)


def test_folders_leave_out_what_is_no_image(tmp_path: Path) -> None:
    png = encoded(SHARP, "PNG")
    listed = ["b.png", "B.PNG", "a/deep/er/c.jpeg", "raw", "photo.png.bak", "x.heic", "text.jpg"]
    ignored = [".hidden.png", ".git/a.png", "a/.thumbs/b.png"]
    for name in listed + ignored:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    (tmp_path / "text.jpg").write_text("not pixels")
    for name in ("readme.txt", "labels.csv", "Thumbs.db", "LICENSE", "BMW-owners", "nothing"):
        (tmp_path / name).write_text("BM of words" if name != "nothing" else "")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "gone-too").symlink_to("nowhere")
    found = open_images(str(tmp_path))
    assert [item.id for item in found] == sorted([*listed, "gone.jpg", "gone-too"])
    assert found.source == str(tmp_path)
    assert all(item.path == tmp_path / item.id for item in found)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "x").mkdir(parents=True)
    (root / "y").mkdir(parents=True)
    (outside / "x" / "a.png").write_bytes(b"")
    (root / "y" / "b.png").write_bytes(b"")
    (root / "linked").symlink_to(outside, target_is_directory=True)
    (root / "y" / "up").symlink_to(root, target_is_directory=True)
    (outside / "x" / "across").symlink_to(root / "y", target_is_directory=True)
    ids = [item.id for item in open_images(root)]
    assert ids == ["linked/x/a.png", "linked/x/across/b.png", "y/b.png"]


def test_a_closed_subfolder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(encoded(SHARP, "PNG"))
    listing = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed")
    found = open_images(tmp_path)
    assert [item.id for item in found] == ["a.png", "closed"]
    with pytest.raises(Unreadable, match=r"^a folder that may not be opened$"):
        decode(found[1])


def test_a_file_that_cannot_be_looked_at_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unknown").write_bytes(b"")

    def refuse(*_args: object, **_more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert [item.id for item in open_images(tmp_path)] == ["unknown"]


def test_names_that_are_not_utf8_have_ids_that_are(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(encoded(SHARP, "PNG"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (found,) = open_images(tmp_path)
    assert found.id == "caf\\udce9.png"
    np.testing.assert_array_equal(np.asarray(decode(found)), SHARP)
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\n")
    assert open_images(tmp_path / "list.txt")[0] == found
=======
from opponent.images.decode import Fit, decode, fit_image, load_image
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.images.loader import stream
from opponent.images.sources import ImageSource, open_images
>>>>>>> h-t1


def test_one_file_and_several(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.png", "a/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(SHARP, "PNG"))
    assert [item.id for item in open_images(tmp_path / "a" / "1.png")] == ["1.png"]
    several = open_images([str(tmp_path / "a/b/3.png"), tmp_path / "a/1.png"])
    assert [item.id for item in several] == ["b/3.png", "1.png"]
    assert [item.id for item in open_images([tmp_path / "a/b/3.png"])] == ["3.png"]
    assert "2 files" in several.source
    assert open_images(several) is several
    with pytest.raises(ValueError, match=r"more than once: '3\.png'; name each image once"):
        open_images([tmp_path / "a/b/3.png", str(tmp_path / "a/b/3.png")])


def test_sources_without_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no images"):
        open_images(tmp_path)
    (tmp_path / "list.txt").write_text("# only\n\n  # comments\n")
    with pytest.raises(ValueError, match=r"has no images.*each line is a path"):
        open_images(tmp_path / "list.txt")
    with pytest.raises(ValueError, match="at least one file"):
        open_images([])
    with pytest.raises(FileNotFoundError, match=r"no folder and no file; give a folder"):
        open_images(tmp_path / "missing")


<<<<<<< HEAD
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n/"), min_size=1)
LINES = st.lists(
    st.lists(NAMES, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda line: line == line.strip() and not line.startswith(("#", "\ufeff"))),
    min_size=1,
    unique_by=lambda line: PurePath(line).as_posix(),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.sampled_from(["", "\ufeff"]), st.sampled_from(["\n", "\r\n"]), st.data())
def test_lists(tmp_path: Path, lines: list[str], start: str, end: str, data: st.DataObject) -> None:
    filler = st.sampled_from(["", "  \t", "# a comment", "  # another"])
    text = start
    for line in lines:
        text += data.draw(filler) + end + data.draw(st.sampled_from(["", " "])) + line + end
    path = tmp_path / "list.txt"
    path.write_bytes(text.removesuffix(end).encode())
    found = open_images(path)
    assert [item.id for item in found] == [PurePath(line).as_posix() for line in lines]
    assert [item.path for item in found] == [tmp_path / line for line in lines]
    assert re.fullmatch("[0-9a-f]{64}", found.digest())


def test_lists_take_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("/somewhere/a.png\n./b.png\n./#c.png\n")
    found = open_images(str(tmp_path / "list.txt"))
    assert [item.id for item in found] == ["/somewhere/a.png", "b.png", "#c.png"]
    assert found[0].path == Path("/somewhere/a.png")


@given(st.lists(st.sampled_from("abcdef") | st.text()))
def test_ids_are_unique_or_an_error(ids: list[str]) -> None:
    entries = tuple(ImageEntry(id=id, path=Path("x")) for id in ids)
    if len(set(ids)) == len(ids):
        found = ImageSet(source="test", entries=entries)
        assert [found.find(id).id for id in ids] == ids
    else:
        with pytest.raises(ValueError, match="name each image once"):
            ImageSet(source="test", entries=entries)


def test_an_image_set_is_a_sequence() -> None:
    entries = tuple(numbered(5))
    found = ImageSet(source="test", entries=entries)
    assert len(found) == 5
    assert list(found) == list(entries)
    assert (found[-1], found[1:3]) == (entries[-1], entries[1:3])
    assert entries[2] in found
    assert found.index(entries[3]) == 3


def test_the_digest_is_of_ids_boxes_and_sizes(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (here / name).write_bytes(encoded(SHARP, "PNG"))
    (here / "gone.jpg").symlink_to("nowhere")
    first = open_images(here).digest()
    assert re.fullmatch("[0-9a-f]{64}", first)
    shutil.move(here, tmp_path / "there")
    there = open_images(tmp_path / "there")
    assert there.digest() == first
    boxed = ImageSet(source="x", entries=(*there[:2], replace(there[2], box=(0, 0, 1, 1))))
    assert boxed.digest() != first
    (tmp_path / "there" / "a.png").rename(tmp_path / "there" / "c.png")
    assert open_images(tmp_path / "there").digest() != first
    (tmp_path / "there" / "c.png").rename(tmp_path / "there" / "a.png")
    (tmp_path / "there" / "a.png").write_bytes(b"now of another size")
    changed = there.digest()
    assert changed != first
    (tmp_path / "there" / "a.png").unlink()
    assert there.digest() not in (first, changed)


def test_find() -> None:
    ids = ["cats/1.jpg", "cats/11.jpg", "dogs/11.jpg", "dogs/poodle.jpg", "1.jpg.png"]
    found = ImageSet(source="pets", entries=tuple(ImageEntry(id=id, path=Path(id)) for id in ids))
    for query, id in {
        "cats/11.jpg": "cats/11.jpg",
        "1.jpg": "cats/1.jpg",
        "poodle.jpg": "dogs/poodle.jpg",
        "oodle.jpg": "dogs/poodle.jpg",
        "s/1.jpg": "cats/1.jpg",
    }.items():
        assert found.find(query).id == id
    with pytest.raises(LookupError, match=r"fits 2 images of 'pets': 'cats/11.jpg', 'dogs/11.jpg'"):
        found.find("11.jpg")
    with pytest.raises(LookupError, match=r"fits 4 images of 'pets'.*give more of the id"):
        found.find("jpg")
    with pytest.raises(LookupError, match=r"among its 5; the nearest ids: 'dogs/poodle\.jpg'"):
        found.find("dogs/podle.jpg")
    with pytest.raises(LookupError, match=r"its ids: 'cats/1\.jpg', "):
        found.find("§§§")
    with pytest.raises(LookupError, match=r"its ids: 'cats/1\.jpg', "):
        found.find("")


needs_demo = pytest.mark.skipif(
    not all(importlib.util.find_spec(package) for package in ("skimage", "sklearn")),
    reason="scikit-image and scikit-learn are not installed",
)


@needs_demo
@pytest.mark.parametrize(
    "size", [(224, 224), (64, 64), (100, 224), (224, 100), (299, 299), (512, 512), (30, 600)]
)
def test_photos_give_about_2000_crops(size: tuple[int, int]) -> None:
    found = open_images("photos", size=size)
    assert 1800 <= len(found) <= 2200
    assert found == open_images("photos", size=size)
    shapes = {path: decode(entry(path)).size[::-1] for path in {item.path for item in found}}
    assert len(shapes) == 12
    for item in found:
        assert item.box is not None
        top, left, height, width = item.box
        extent = f"{height}" if height == width else f"{height}x{width}"
        assert item.id == f"{item.path.stem}@{top},{left}+{extent}"
        tall, wide = shapes[item.path]
        assert 0 <= top <= tall - height
        assert 0 <= left <= wide - width
        # the aspect is kept, but for rounding to whole pixels
        assert abs(height / size[0] - width / size[1]) <= 1 / min(size)
        largest = min(tall / size[0], wide / size[1])
        assert height >= math.floor(size[0] * min(1, 0.75 * largest))
    for path, (tall, wide) in shapes.items():
        boxes = [item.box for item in found if item.path == path and item.box is not None]
        smallest = [box for box in boxes if box[2] == min(box[2] for box in boxes)]
        # a grid goes from edge to edge, or is one crop in the middle
        for start, length, side in [(0, 2, tall), (1, 3, wide)]:
            places = sorted({box[start] for box in smallest})
            space = side - smallest[0][length]
            assert (places[0], places[-1]) in [(0, space), (space // 2, space // 2)]


@needs_demo
def test_crops_are_no_smaller_than_the_network_wants() -> None:
    boxes = [item.box for item in open_images("photos") if item.box is not None]
    assert min(box[2] for box in boxes) == min(box[3] for box in boxes) == 224
    assert len({box[2] for box in boxes}) > 3


@needs_demo
def test_a_crop_is_a_piece_of_its_photograph() -> None:
    item = open_images("photos")[777]
    assert item.box is not None
    top, left, height, width = item.box
    whole = np.asarray(decode(entry(item.path)))
    piece = whole[top : top + height, left : left + width]
    np.testing.assert_array_equal(np.asarray(decode(item)), piece)
    assert load_image(item, size=(224, 224)).shape == (224, 224, 3)


@needs_demo
def test_photos_import_nothing() -> None:
    program = """
import sys
from opponent.images.sources import open_images
before = {"skimage", "sklearn"} & set(sys.modules)
open_images("photos")
assert {"skimage", "sklearn"} & set(sys.modules) == before
"""
    done = in_new_interpreter(program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("package", ["skimage", "sklearn"])
def test_photos_without_the_packages(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    if package == "sklearn" and find("skimage") is None:
        pytest.skip("scikit-image is not installed")
    with pytest.raises(ImportError, match=rf"'{package}' is not installed; pip install 'oppo"):
        open_images("photos")


@needs_demo
def test_photos_that_are_not_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(images._PHOTOS, "skimage", ("data", "astronaut.png nobody.png"))
    with pytest.raises(FileNotFoundError, match=r"lacks: '[^']*nobody.png'; pip install"):
        open_images("photos")


@needs_demo
def test_photos_want_a_size() -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        open_images("photos", size=(0, 224))


=======
>>>>>>> h-t1
def test_a_folder_called_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encoded(SHARP, "PNG"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"write '\./photos'"):
        open_images("photos")
    assert [item.id for item in open_images("./photos")] == ["a.png"]
    assert [item.id for item in open_images(Path("photos"))] == ["a.png"]


# Image sources of the user's own


class Rows:
    """Images in memory."""

    def __init__(self, pictures: dict[str, object], name: str = "rows") -> None:
        self.pictures, self.name = pictures, name
        self.calls: list[str] = []

    def ids(self) -> list[str]:
        return list(self.pictures)

    def image(self, id: str) -> object:
        self.calls.append(id)
        picture = self.pictures[id]
        if isinstance(picture, BaseException):
            raise picture
        return picture


def test_a_source_gives_images_by_id() -> None:
    source = Rows({"b": Image.fromarray(SHARP), "a/1": SHARP, "grey": GREY})
    assert isinstance(source, ImageSource)
    images = open_images(source)
    assert [item.id for item in images] == ["b", "a/1", "grey"]
    assert (images.source, images.origin) == ("rows", source)
    assert source.calls == []  # none is decoded yet
    assert all(item.path is None and item.box is None for item in images)
    assert [item.where for item in images] == ["b", "a/1", "grey"]
    for item in images[:2]:
        np.testing.assert_array_equal(np.asarray(decode(item)), SHARP)
    np.testing.assert_array_equal(np.asarray(decode(images[2])), np.dstack([GREY] * 3))
    assert source.calls == ["b", "a/1", "grey"]
    fitted = load_image(images[0], Fit(size=(2, 2)))
    np.testing.assert_array_equal(fitted, fit_image(Image.fromarray(SHARP), Fit(size=(2, 2))))
    assert repr(images) == "ImageSet('rows': 3 images)"
    assert open_images(images) is images


def test_a_sources_images_are_taken_as_files_are() -> None:
    transparent = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    wide = Image.fromarray(np.full((4, 6), 65535, np.uint16))
    turned = Image.fromarray(SHARP)
    turned.getexif()[0x0112] = 6
    images = open_images(Rows({"t": transparent, "w": wide, "p": transparent, "u": turned}))
    for item in images[:3]:
        assert np.asarray(decode(item)).tolist() == np.full((4, 6, 3), 255).tolist()
    # It says that it is upright, and is not turned.
    np.testing.assert_array_equal(np.asarray(decode(images[3])), SHARP)
    boxed = ImageEntry(id="u", read=images[3].read, box=(1, 2, 3, 2))
    np.testing.assert_array_equal(np.asarray(decode(boxed)), SHARP[1:4, 2:4])
    with pytest.raises(Unreadable, match="not inside the photograph, which is 4 x 6"):
        decode(ImageEntry(id="u", read=images[3].read, box=(1, 2, 4, 2)))
    assert turned.getexif()[0x0112] == 6  # the source's own image is as it was


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("row 7 is\nempty"), "^row 7 is empty$"),
        (KeyError("b"), "^'b'$"),
        (ZeroDivisionError(), "^ZeroDivisionError$"),
        (PermissionError(13, "no entry"), r"^\[Errno 13\] no entry$"),
        (Unreadable("left out by hand"), "^left out by hand$"),
    ],
)
def test_an_exception_makes_an_image_unreadable(error: Exception, reason: str) -> None:
    images = open_images(Rows({"a": SHARP, "b": error, "c": SHARP}))
    first, second, third = stream(images, Fit(size=(4, 6)))
    np.testing.assert_array_equal(first, third)
    assert isinstance(second, Unreadable)
    assert re.search(reason, second.reason)


def test_what_ends_a_program_is_no_unreadable_image() -> None:
    for error in (MemoryError("no memory for this test"), KeyboardInterrupt("control-C")):
        images = open_images(Rows({"a": error}))
        with pytest.raises(type(error), match=str(error)):
            list(stream(images, Fit(size=(4, 6))))


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (None, "^its image source gave NoneType, not a PIL image or an array$"),
        ("a.png", "^its image source gave str, not"),
        (
            np.zeros((4, 6, 3)),
            r"^its image source gave an array of float64 of shape \(4, 6, 3\), n",
        ),
        (np.zeros((4, 6), np.uint16), r"an array of uint16 of shape \(4, 6\), not of uint8 of"),
        (np.zeros(6, np.uint8), r"an array of uint8 of shape \(6,\)"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"of shape \(1, 4, 6, 3\)"),
        (np.zeros((4, 6, 7), np.uint8), r"of shape \(4, 6, 7\)"),
        (np.zeros((4, 6, 1), np.uint8), r"of shape \(4, 6, 1\)"),
        (np.zeros((0, 6, 3), np.uint8), "^its image source gave an image without pixels$"),
        (Image.new("RGB", (6, 0)), "^its image source gave an image without pixels$"),
    ],
)
def test_what_is_no_picture_is_unreadable(picture: object, reason: str) -> None:
    # Not by way of `open_images`, since a test checks types where a program does not.
    item = ImageEntry(id="a", read=lambda _id: picture)
    with pytest.raises(Unreadable, match=reason) as caught:
        decode(item)
    assert "\n" not in caught.value.reason


def test_an_entry_without_its_source_is_unreadable() -> None:
    with pytest.raises(Unreadable, match=r"^it is no file, and its image source was not handed"):
        decode(ImageEntry(id="a"))


class OneAtATime(Rows):
    """Fails where two threads are inside at once."""

    def __init__(self, count: int) -> None:
        super().__init__({str(n): SHARP for n in range(count)})
        self.inside, self.threads = Lock(), set[int]()

    def image(self, id: str) -> object:
        assert self.inside.acquire(blocking=False), "two calls at a time"
        try:
            self.threads.add(get_ident())
            time.sleep(0.002)
            return super().image(id)
        finally:
            self.inside.release()


def test_a_source_is_called_from_threads_one_call_at_a_time() -> None:
    source = OneAtATime(40)
    results = list(stream(open_images(source), Fit(size=(4, 6)), workers=8))
    assert all(isinstance(result, np.ndarray) for result in results)
    assert sorted(source.calls, key=int) == source.ids()
    assert get_ident() not in source.threads
    assert len(source.threads) > 1


def test_the_digest_of_a_source_is_of_its_ids() -> None:
    images = open_images(Rows({"a": SHARP, "b": SHARP}))
    assert re.fullmatch("[0-9a-f]{64}", images.digest())
    # Neither of its name, nor of the pixels.
    assert open_images(Rows({"a": GREY, "b": None}, "other")).digest() == images.digest()
    assert open_images(Rows({"b": SHARP, "a": SHARP})).digest() != images.digest()
    assert open_images(Rows({"a": SHARP})).digest() != images.digest()
    missing = tuple(ImageEntry(id=id, path=Path("nowhere")) for id in "ab")
    assert ImageSet(source="x", entries=missing).digest() != images.digest()


@pytest.mark.parametrize("id", ["", 7, None, b"a", "\ud800"])
def test_an_id_that_is_no_text_is_refused(id: object) -> None:
    source = Rows({"a": SHARP})
    source.ids = lambda: ["a", id]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"the image source 'rows' has the id .*; ids are texts"):
        open_images(source)


def test_a_source_needs_images_and_names_each_once() -> None:
    with pytest.raises(ValueError, match="the image source 'rows' has no images"):
        open_images(Rows({}))
    source = Rows({"a": SHARP})
    source.ids = lambda: ["a", "b", "a"]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"'rows' names 1 of its .*: 'a'; name each image once"):
        open_images(source)


OWN = """
import numpy as np

class Flags:
    name = "flags"

    def ids(self):
        return ["red", "blue"]

    def image(self, id):
        return np.full((4, 6, 3), {"red": (255, 0, 0), "blue": (0, 0, 255)}[id], np.uint8)

def factory():
    return Flags()

flags = Flags()
number = 7

def nothing():
    return None

def failing():
    raise ZeroDivisionError("the factory failed")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of sources in the working folder."""
    name = f"sources_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.modules", {**sys.modules})
    return f"module:{name}"


@pytest.mark.parametrize("what", ["Flags", "factory", "flags"])
def test_a_source_by_name(own: str, what: str) -> None:
    images = open_images(f"{own}:{what}")
    assert images.source == f"{own}:{what}"
    assert [item.id for item in images] == ["red", "blue"]
    assert np.asarray(decode(images[1])).tolist() == [[[0, 0, 255]] * 6] * 4
    assert isinstance(images.origin, ImageSource)
    assert images.digest() == open_images(Rows({"red": None, "blue": None})).digest()


def test_names_that_name_no_source(own: str) -> None:
    for what, kind in (("number", "int"), ("nothing", "NoneType")):
        with pytest.raises(ValueError, match=rf"^'{own}:{what}' is {kind}, no image source: it "):
            open_images(f"{own}:{what}")
    with pytest.raises(ValueError, match="has no attribute 'missing'"):
        open_images(f"{own}:missing")
    with pytest.raises(ValueError, match="No module named 'nowhere_at_all'"):
        open_images("module:nowhere_at_all:x")
    with pytest.raises(ValueError, match="must read module:PACKAGE"):
        open_images("module:nowhere")
    # What goes wrong inside is the user's to see.
    with pytest.raises(ZeroDivisionError, match="the factory failed"):
        open_images(f"{own}:failing")

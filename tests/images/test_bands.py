"""Images that are no RGB bytes: one band, many bands, and what their values mean."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.image_files import (
    FLOATS,
    GREY,
    JPEG,
    RGBA,
    SHARP,
    WIDE,
    as_rgb,
    chunk,
    encoded,
    written,
)
from torch.nn import functional

from opponent import Unreadable
from opponent.images.decode import decode, fit_image, load_image
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry
from opponent.images.values import as_picture

TWELVE = WIDE // 16
BANDS = np.random.default_rng(3).uniform(-1, 5, (9, 12, 5)).astype(np.float32)
SIZE = (4, 6)


def load(folder: Path, name: str, content: bytes, **fit: object) -> np.ndarray:
    fit = {"size": SIZE} | fit
    return load_image(written(folder, name, content), Fit(**fit))  # type: ignore[arg-type]


def npy(values: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, values)
    return data.getvalue()


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16-bit colour, which Pillow does not write."""
    height, width, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + data


# One band


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_12_bits_in_16(tmp_path: Path, format: str) -> None:
    content = encoded(TWELVE, format)
    found = load(tmp_path, "a", content, channels=1, value_range=(0, 4095))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, TWELVE[..., None] / 4095, rtol=1e-6)
    # All of black to white, where it was 0 to 15 of 255.
    assert (found.min(), found.max()) == (0, 1)
    three = load(tmp_path, "a", content, channels=3, value_range=(0, 4095))
    np.testing.assert_array_equal(three, np.repeat(found, 3, axis=2))
    with pytest.raises(Unreadable, match=r"^16-bit values from 0 to 4095: say .*\(0, 4095\)"):
        load(tmp_path, "a", content, channels=1)


def test_all_16_bits_need_no_telling(tmp_path: Path) -> None:
    found = load(tmp_path, "a", encoded(WIDE, "PNG"), channels=1)
    np.testing.assert_allclose(found[..., 0], WIDE / 65535, rtol=1e-6)
    half = np.where(WIDE > 32767, 32767, WIDE).astype(np.uint16)
    with pytest.raises(Unreadable, match=r"^16-bit values from 0 to 32767"):
        load(tmp_path, "a", encoded(half, "PNG"), channels=1)
    half[0, 0] = 32768
    found = load(tmp_path, "a", encoded(half, "PNG"), channels=1)
    np.testing.assert_allclose(found[..., 0], half / 65535, rtol=1e-6)


def test_bytes_and_floats_of_one_band(tmp_path: Path) -> None:
    found = load(tmp_path, "a", encoded(GREY, "PNG"), channels=1)
    np.testing.assert_allclose(found[..., 0], GREY / 255, rtol=1e-6)
    found = load(tmp_path, "a", encoded(FLOATS, "TIFF"), channels=1)
    np.testing.assert_array_equal(found[..., 0], FLOATS)
    # Values beyond the range stay beyond.
    found = load(tmp_path, "a", encoded(600 * FLOATS - 9, "TIFF"), channels=1, value_range=(0, 300))
    np.testing.assert_allclose(found[..., 0], (600 * FLOATS - 9) / 300, atol=1e-6)
    signed = np.array([[-100, 0, 7], [400, 410, 9]], np.int32)
    found = load(
        tmp_path, "a", encoded(signed, "TIFF"), channels=1, value_range=(-100, 410), size=(2, 3)
    )
    np.testing.assert_allclose(found[..., 0], (signed + 100) / 510, atol=1e-6)


def test_colour_becomes_luma_for_one_channel(tmp_path: Path) -> None:
    found = load(tmp_path, "a", encoded(SHARP, "PNG"), channels=1)
    luma = SHARP @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found[..., 0] * 255 - luma).max() <= 1
    entry = ImageEntry(id="a", read=lambda _: SHARP)
    with pytest.raises(Unreadable, match=r"shape \(4, 6, 3\), not \(height, width, 1\) or \(heig"):
        load_image(entry, Fit(size=SIZE, channels=1))


@pytest.mark.parametrize("told", [(0, 4095), (0, 1), (-1, 1), (0.0, 65535.0)])
def test_bytes_are_refused_where_other_values_are_told(
    tmp_path: Path, told: tuple[float, float]
) -> None:
    for content in (encoded(SHARP, "PNG"), JPEG, npy(SHARP)):
        with pytest.raises(Unreadable, match=rf"^8-bit values, and value_range says {told[0]:g} "):
            load(tmp_path, "a", content, value_range=told)
    found = load(tmp_path, "a", encoded(SHARP, "PNG"), value_range=(55, 255))
    np.testing.assert_allclose(found, (SHARP - 55.0) / 200, atol=1e-6)


# 16-bit colour, of which Pillow reads 8


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour(tmp_path: Path, channels: int) -> None:
    values = np.dstack([WIDE, WIDE[::-1], WIDE[:, ::-1], WIDE * 0 + 65535])
    values = values[..., [0, 3]] if channels == 2 else values[..., :channels]
    found = np.asarray(decode(written(tmp_path, "a.png", deep_png(values))))
    expected = as_rgb(values[..., 0] >> 8) if channels == 2 else values[..., :3] >> 8
    np.testing.assert_array_equal(found, expected)
    dark = values.copy()
    dark[..., : 3 if channels > 2 else 1] //= 16
    for content, fit in ((deep_png(dark), {}), (deep_png(values), {"value_range": (0, 65535)})):
        with pytest.raises(Unreadable, match=r"^16-bit colour that .* so save it as \.npy$"):
            load(tmp_path, "a.png", content, **fit)


# Many bands


def test_bands_are_scaled_as_rgb_is(tmp_path: Path) -> None:
    """One by one, by antialiased bilinear interpolation, as torch does it."""
    found = load(tmp_path, "a.npy", npy(BANDS), channels=5, value_range=(-1, 5), size=(6, 6))
    assert found.shape == (6, 6, 5)
    assert found.dtype == np.float32
    unit = torch.from_numpy((BANDS + 1) / 6).permute(2, 0, 1)[None]
    expected = functional.interpolate(
        unit, (6, 8), mode="bilinear", antialias=True, align_corners=False
    )[0, :, :, 1:7]
    np.testing.assert_allclose(found, expected.permute(1, 2, 0), atol=2e-5)


def test_float_and_byte_paths_agree_up_to_rounding() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    entry = ImageEntry(id="a", read=lambda _: picture)
    fit = {"size": (16, 20), "resize": 24}
    whole = load_image(entry, Fit(**fit))
    np.testing.assert_array_equal(whole, fit_image(picture, Fit(**fit)))
    floats = load_image(entry, Fit(**fit, value_range=(0, 255)))
    assert np.abs(255 * floats - whole).max() <= 1.01
    np.testing.assert_array_equal(as_picture(whole), whole)
    assert np.abs(as_picture(floats).astype(int) - whole).max() <= 1


def test_a_crop_of_bands_is_of_their_own_pixels(tmp_path: Path) -> None:
    path = written(tmp_path, "a.npy", npy(BANDS)).path
    entry = ImageEntry(id="a", path=path, box=(2, 3, 4, 6))
    found = load_image(entry, Fit(size=SIZE, channels=5, value_range=(-1, 5)))
    np.testing.assert_allclose(found, (BANDS[2:6, 3:9] + 1) / 6, atol=1e-6)


def test_four_bands(tmp_path: Path) -> None:
    for format in ("PNG", "TIFF", "WEBP"):
        lossless = {"lossless": True, "exact": True} if format == "WEBP" else {}
        found = load(tmp_path, "a", encoded(RGBA, format, **lossless), channels=4)
        np.testing.assert_allclose(found, RGBA / 255, rtol=1e-6)
    for content in (encoded(SHARP, "PNG"), encoded(Image.new("CMYK", (6, 4)), "TIFF")):
        with pytest.raises(Unreadable, match=r"^an image of \d bands .*, and the network takes 4$"):
            load(tmp_path, "a", content, channels=4)
    found = load(tmp_path, "a", encoded(RGBA[..., [0, 3]], "PNG"), channels=2)
    np.testing.assert_allclose(found, RGBA[..., [0, 3]] / 255, rtol=1e-6)


@pytest.mark.parametrize("bands", [TWELVE, WIDE.astype(np.int32), 4095 * FLOATS])
def test_a_tiff_of_one_band_a_page(tmp_path: Path, bands: np.ndarray) -> None:
    pages = [np.roll(bands, k, axis=1) for k in range(5)]
    more = {"save_all": True, "append_images": [Image.fromarray(page) for page in pages[1:]]}
    content = encoded(Image.fromarray(pages[0]), "TIFF", **more)
    found = load(tmp_path, "a.tif", content, channels=5, value_range=(0, 4095))
    np.testing.assert_allclose(found, np.stack(pages, -1) / 4095, rtol=1e-6)
    with pytest.raises(Unreadable, match=r"^a TIFF with more than 4 pages; the network takes"):
        load(tmp_path, "a.tif", content, channels=4, value_range=(0, 4095))
    with pytest.raises(Unreadable, match=r"^a TIFF with 5 pages of one band; the network takes 6$"):
        load(tmp_path, "a.tif", content, channels=6, value_range=(0, 4095))
    other = {"save_all": True, "append_images": [Image.new("L", (7, 4))]}
    with pytest.raises(Unreadable, match=r"^a TIFF whose pages differ in size$"):
        load(tmp_path, "a.tif", encoded(Image.fromarray(GREY), "TIFF", **other), channels=2)


def test_a_tiff_with_more_bands_than_pillow_reads(tmp_path: Path) -> None:
    # TIFF 6.0: 5 samples of 8 bits a pixel, RGB and two of no meaning.
    samples = np.random.default_rng(0).integers(0, 256, (4, 6, 5), np.uint8)
    tags = [
        (256, 3, 1, 6), (257, 3, 1, 4), (258, 3, 5, 170), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 180), (277, 3, 1, 5), (278, 3, 1, 4), (279, 4, 1, samples.size),
        (338, 3, 2, 0),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *x) for x in tags)
    content = (struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(4)).ljust(170, b"\0")
    content += struct.pack("<5H", *[8] * 5) + samples.tobytes()
    with pytest.raises(Unreadable, match=r"^a TIFF with 5 bands, of which Pillow reads 3: save"):
        load(tmp_path, "a.tif", content, channels=5)
    np.testing.assert_array_equal(
        np.asarray(decode(written(tmp_path, "a.tif", content))), samples[..., :3]
    )


# Arrays


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4", "<f2", ">f8"])
def test_types_and_orders_of_arrays(tmp_path: Path, order: str, kind: str) -> None:
    values = np.asarray(np.dstack([TWELVE // 2] * 5), kind, order=order)  # type: ignore[call-overload]
    found = load(tmp_path, "a.npy", npy(values), channels=5, value_range=(0, 2047))
    np.testing.assert_allclose(found, values.astype(float) / 2047, rtol=1e-6)


def test_arrays_with_one_name(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", SHARP)
        entry = ImageEntry(id="a", path=tmp_path / "a.npz")
        np.testing.assert_array_equal(load_image(entry, Fit(size=SIZE)), SHARP)
        save(tmp_path / "a.npz", one=SHARP, two=GREY)
        with pytest.raises(Unreadable, match=r"^2 arrays \(one, two\): save the image as the only"):
            load_image(entry, Fit(size=SIZE))


class Trap:
    """What runs where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('it ran')",))


def test_hostile_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)
    trap = np.array([[Trap()] * 3] * 2, dtype=object)
    good = npy(BANDS)
    cases = [
        (npy(trap), "^an array of Python objects, which are not read: save numbers$"),
        (npy(np.zeros(5)), r"^an array of shape \(5,\), not \(height, width\)"),
        (npy(np.zeros((2, 2, 2, 2))), r"^an array of shape \(2, 2, 2, 2\)"),
        (npy(np.zeros((400, 400), np.uint8)), r"^larger than 0 megapixels \(400 x 400\)$"),
        (npy(np.zeros((4, 4), "U3")), "not numbers|^an array"),
        (npy(np.zeros((4, 0, 5))), "^an array without pixels$"),
        (npy(np.full((4, 4, 5), np.nan)), "^floating-point pixels that are not all finite$"),
        (good[:-20], "^truncated: [0-9,]+ of 2,160 bytes of the array$"),
        (good[:60], "^cannot be read: "),
        (good.replace(b"(9, 12, 5)", b"(9,12,999)"), "^truncated: [0-9,]+ bytes for an array of 4"),
        (good.replace(b"(9, 12, 5)", b"(-9, 12,5)"), "."),
        (b"PK\x03\x04" + bytes(100), "^cannot be read: "),
        (encoded_zip("words.txt"), "^not an image$"),
    ]
    for content, reason in cases:
        for fit in ({"channels": 5}, {}):
            with pytest.raises(Unreadable, match=reason if fit else "."):
                load(tmp_path, "a.npy", content, **fit)


def encoded_zip(name: str) -> bytes:
    import zipfile

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, "text")
    return data.getvalue()


def test_axes_in_another_order_are_said_so() -> None:
    entry = ImageEntry(id="a", read=lambda _: np.moveaxis(BANDS, -1, 0))
    with pytest.raises(
        Unreadable, match=r"\(5, 9, 12\), not \(height, width, 5\), which the .* in that order$"
    ):
        load_image(entry, Fit(size=SIZE, channels=5))


# What people are shown


def test_pictures_of_bands() -> None:
    bands = np.array([[[0.0, 0.5, 1.0, 9.0], [-1.0, 2.0, 0.25, 9.0]]], np.float32)
    assert as_picture(bands).tolist() == [[[0, 128, 255], [0, 255, 64]]]
    assert as_picture(bands[..., :2]).tolist() == [[[0, 0, 0], [0, 0, 0]]]
    assert as_picture(bands[..., 1:2]).tolist() == [[[128] * 3, [255] * 3]]
    assert as_picture(bands).dtype == np.uint8


@pytest.mark.parametrize("told", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_ranges_that_are_none(told: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"must be \(black, white\), two numbers, the"):
        Fit(size=SIZE, value_range=told)
    with pytest.raises(ValueError, match=r"0 channels: give at least 1"):
        Fit(size=SIZE, channels=0)
    with pytest.raises(ValueError, match=r"an image in 8-bit RGB gives no 1 bands of Fit"):
        fit_image(Image.fromarray(SHARP), Fit(size=SIZE, channels=1))

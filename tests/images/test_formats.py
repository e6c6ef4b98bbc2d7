"""Image files: odd ones are read, bad ones say why, photographs come upright."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from tests.support.image_files import (
    BAD,
    JPEG,
    READABLE,
    SHARP,
    SMOOTH,
    TURNS,
    WHOLE,
    encoded,
    exif_block,
    with_exif,
    written,
)

from opponent.core.errors import Unreadable
from opponent.images.decode import decode
from opponent.images.imageset import ImageEntry


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


def test_nothing_global_has_changed() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3

"""Arrays as pictures in notebooks and pages."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from opponent.core.pictures import contact_sheet, data_uri, on_paper, png_bytes, seen_part

NOISE = np.random.default_rng(0).integers(0, 256, (5, 9, 4), dtype=np.uint8)


def flat(height: int, width: int, *colour: int) -> np.ndarray:
    return np.full((height, width, len(colour)), colour, np.uint8)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2], validate=True)))


@pytest.mark.parametrize("channels", [3, 4])
def test_a_png_loses_nothing(channels: int) -> None:
    pixels = np.ascontiguousarray(NOISE[..., :channels])
    data = png_bytes(pixels)
    assert data.startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_an_image_in_a_page() -> None:
    photo = decoded(data_uri(flat(40, 60, 200, 100, 50)))
    assert (photo.format, photo.size, photo.mode) == ("JPEG", (60, 40), "RGB")
    assert np.abs(np.asarray(photo).astype(int) - [200, 100, 50]).max() <= 3
    uri = data_uri(NOISE)
    assert uri.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(np.asarray(decoded(uri)), NOISE)
    assert data_uri(flat(4, 4, 1, 2, 3)).startswith("data:image/jpeg;base64,")


def test_a_page_has_images_no_larger_than_it_shows() -> None:
    pixels = flat(40, 60, 200, 100, 50)
    assert decoded(data_uri(pixels, side=30)).size == (30, 20)
    assert decoded(data_uri(pixels.transpose(1, 0, 2), side=30)).size == (20, 30)
    assert decoded(data_uri(pixels, side=600)).size == (60, 40)  # it is not enlarged
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (
        len(data_uri(noise, quality=20)) < len(data_uri(noise)) < len(data_uri(noise, quality=99))
    )


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(0, 255))
def test_transparency_is_laid_on_white(colour: int, alpha: int) -> None:
    [[found]] = on_paper(flat(1, 1, colour, 0, 255, alpha)).tolist()
    share = alpha / 255
    wanted = [share * x + (1 - share) * 255 for x in (colour, 0, 255)]
    assert found == pytest.approx(wanted, abs=0.51)


def test_what_has_no_opacity_stays() -> None:
    pixels = np.ascontiguousarray(NOISE[..., :3])
    assert on_paper(pixels) is pixels


def test_a_contact_sheet_square_by_square() -> None:
    red, green, blue = (flat(8, 8, *np.eye(3, dtype=int)[i] * 255) for i in range(3))
    sheet = contact_sheet([red, green, blue], across=2, side=4, gap=1)
    assert sheet.shape == (9, 9, 3)
    assert (sheet[:4, :4] == [255, 0, 0]).all()
    assert (sheet[:4, 5:] == [0, 255, 0]).all()
    assert (sheet[5:, :4] == [0, 0, 255]).all()
    white = sheet.copy()
    white[:4, :4] = white[:4, 5:] = white[5:, :4] = 255
    assert (white == 255).all()


def test_images_of_any_shape_fit_their_square() -> None:
    sheet = contact_sheet([flat(10, 40, 0, 0, 0), flat(40, 10, 0, 0, 0)], side=8, gap=0)
    assert sheet.shape == (8, 16, 3)
    black = (sheet == 0).all(-1)
    # 8 x 2 in the middle of the first, 2 x 8 in the middle of the second.
    wanted = np.zeros((8, 16), bool)
    wanted[3:5, :8] = wanted[:, 11:13] = True
    np.testing.assert_array_equal(black, wanted)
    # A line is not lost.
    assert (contact_sheet([flat(1, 500, 0, 0, 0)], side=8) == 0).all(-1).any()


def test_transparent_images_lie_on_white() -> None:
    sheet = contact_sheet([flat(8, 8, 0, 0, 0, 0), flat(8, 8, 0, 0, 0, 255)], side=8, gap=2)
    assert (sheet[:, :10] == 255).all()
    assert (sheet[:, 10:] == 0).all()


@pytest.mark.parametrize(
    ("count", "across", "shape"),
    [(1, 4, (10, 10)), (4, 4, (10, 46)), (5, 4, (22, 46)), (3, 1, (34, 10)), (0, 4, (1, 1))],
)
def test_a_sheet_is_as_large_as_it_must_be(count: int, across: int, shape: tuple[int, int]) -> None:
    pictures = [flat(3, 3, 9, 9, 9)] * count
    assert contact_sheet(pictures, across=across, side=10, gap=2).shape == (*shape, 3)


def test_icons_are_cut_to_the_square_in_which_any_of_them_shows_something() -> None:
    icons = [np.zeros((40, 30, 4), np.uint8) for _ in range(3)]
    icons[0][10:20, 5:9, 3] = 200
    icons[1][12:22, 7:11, 3] = 200
    icons[2][:, :, 3] = 1  # next to nothing
    assert seen_part(icons) == (slice(10, 22), slice(2, 14))
    # At a border the square lies inside; of a narrow image it is the image.
    icons[0][0:40, 0:2, 3] = 255
    assert seen_part(icons) == (slice(0, 40), slice(0, 30))
    clear = [np.zeros((4, 5, 4), np.uint8)]
    assert seen_part(clear) == (slice(0, 4), slice(0, 5))

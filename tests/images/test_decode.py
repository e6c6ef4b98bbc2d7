"""From a file to pixels: paths that are no files, fitting, drafts of JPEGs."""

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from tests.support.image_files import JPEG, SHARP, TURNS, encoded, entry, written

from opponent.core.errors import Unreadable
from opponent.images import decode as decoding
from opponent.images.content import opened
from opponent.images.decode import decode, fit_image, load_image
from opponent.images.fit import Fit
from opponent.images.loader import stream


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

    monkeypatch.setattr(ImageFile.ImageFile, "load", exhaust)
    with pytest.raises(MemoryError, match="no memory for this test"):
        decode(item)
    with pytest.raises(MemoryError, match="no memory for this test"):
        list(stream([item], Fit(size=(4, 4))))


@pytest.mark.parametrize("box", [(0, 0, 5, 6), (-1, 0, 2, 2), (0, 5, 2, 2), (0, 0, 0, 1)])
def test_a_box_outside_is_an_error(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    path = written(tmp_path, "a.png", encoded(SHARP, "PNG")).path
    with pytest.raises(Unreadable, match="not inside the photograph, which is 4 x 6"):
        decode(entry(path, box=box))


# Fit


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
    result = fit_image(Image.fromarray(array), Fit(size=(tall, wide), resize=resize))
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
    difference = np.abs(fit_image(photo, Fit(size=(224, 224), resize=256)) - expected)
    # Both round twice, but not after the same axis first; a step aside in this noise would be 60.
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def test_fit_of_the_same_size_changes_nothing_and_is_writable() -> None:
    result = fit_image(Image.fromarray(SHARP), Fit(size=(4, 6)))
    np.testing.assert_array_equal(result, SHARP)
    assert result.flags.writeable


def test_fit_of_a_very_long_image_needs_no_very_large_one() -> None:
    line = np.zeros((1, 60_000, 3), dtype=np.uint8)
    line[:, 30_000:] = 200
    result = fit_image(Image.fromarray(line), Fit(size=(224, 224)))
    assert result[:, 0].max() == 0
    assert result[:, -1].min() == 200


@pytest.mark.parametrize(("size", "resize"), [((0, 5), None), ((5, -1), None), ((5, 5), 0)])
def test_fit_wants_pixels(size: tuple[int, int], resize: int | None) -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        fit_image(Image.fromarray(SHARP), Fit(size=size, resize=resize))


def test_load_is_fit_of_decode(tmp_path: Path) -> None:
    item = written(tmp_path, "a.jpg", JPEG)
    expected = fit_image(decode(item), Fit(size=(7, 9), resize=20))
    np.testing.assert_array_equal(load_image(item, Fit(size=(7, 9), resize=20)), expected)


# Drafts


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
    plain = load_image(item, Fit(size=size, resize=resize)).astype(int)
    draft = load_image(item, Fit(size=size, resize=resize, draft=True))
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
    with opened(item) as (file, _):
        [image], place = decoding._decoded(file, item, Fit(size=(20, 20), draft=True), ExitStack())
    assert place.shape == (short, short + 50)
    assert image.size == (-(-(short + 50) // smaller), -(-short // smaller))
    plain, draft = (load_image(item, Fit(size=(20, 20), draft=x)) for x in (False, True))
    same = np.array_equal(plain, draft)
    assert same == (smaller == 1)
    # a larger short side before the crop needs more of the pixels
    with opened(item) as (file, _):
        _, finer = decoding._decoded(
            file, item, Fit(size=(20, 20), resize=40, draft=True), ExitStack()
        )
    assert finer.smaller == max(1, smaller if short == 900 else smaller // 2)


def test_only_jpegs_have_drafts(tmp_path: Path) -> None:
    for format in ("PNG", "WEBP", "TIFF"):
        item = written(tmp_path, "a", encoded(waves(200, 200), format))
        draft = load_image(item, Fit(size=(20, 20), draft=True))
        np.testing.assert_array_equal(draft, load_image(item, Fit(size=(20, 20))))


def test_a_drafts_box_is_of_the_whole_photograph(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jpg", encoded(waves(300, 200), "JPEG")).path
    with pytest.raises(Unreadable, match=r"300 x 10 at 1, 0 is not inside .* is 300 x 200"):
        load_image(entry(path, box=(1, 0, 300, 10)), Fit(size=(2, 2), draft=True))
    load_image(entry(path, box=(0, 190, 300, 10)), Fit(size=(2, 2), draft=True))

"""Photographs with their maps: where each element of a map lies on the picture."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support.plain import PREPARED, plain_network, write_noise

from opponent import Preprocessing, Run, Unreadable, open_images, scan_images
from opponent.core.box import Box
from opponent.core.text import in_deviations
from opponent.explain.crops import (
    LARGEST,
    SHOWN,
    crop_tile,
    photograph,
    run_tiles,
    upsample_map,
    zoom_for,
)
from opponent.images.imageset import ImageEntry

pytestmark = pytest.mark.usefixtures("one_thread")


def box(top: int, left: int, height: int, width: int) -> Box:
    return Box(top=top, left=left, height=height, width=width)


def hat(distance: float) -> float:
    return max(0.0, 1.0 - abs(distance))


def slow_map(
    values: np.ndarray,
    window: Box,
    placement: tuple[float, float, float, float],
    size: tuple[int, int],
    zoom: int,
) -> np.ndarray:
    """Each element's tent, one step wide on either side, around the centre where it lies."""
    row, column, down, across = placement
    result = np.zeros((size[0] * zoom, size[1] * zoom))
    for y in range(result.shape[0]):
        for x in range(result.shape[1]):
            # The centre of a displayed pixel, in pixels of the network's input.
            at = (y + 0.5) / zoom - 0.5, (x + 0.5) / zoom - 0.5
            for i in range(values.shape[0]):
                for j in range(values.shape[1]):
                    there = row + (window.top + i) * down, column + (window.left + j) * across
                    weight = hat((at[0] - there[0]) / down) * hat((at[1] - there[1]) / across)
                    result[y, x] += values[i, j] * weight
    return result


@given(
    window=st.builds(
        box, st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 3)
    ),
    starts=st.tuples(st.floats(-4, 8), st.floats(-4, 8)),
    steps=st.tuples(st.sampled_from([1.0, 1.5, 2.0, 4.0]), st.sampled_from([1.0, 3.0, 5.0])),
    size=st.tuples(st.integers(1, 12), st.integers(1, 9)),
    zoom=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_an_upsampled_map_equals_its_slow_twin(
    window: Box,
    starts: tuple[float, float],
    steps: tuple[float, float],
    size: tuple[int, int],
    zoom: int,
    seed: int,
) -> None:
    shape = (window.height, window.width)
    values = np.random.default_rng(seed).gamma(1, size=shape).astype(np.float32)
    values[values < 0.3] = 0
    placement = (*starts, *steps)
    upsampled = upsample_map(values, window, placement, size, zoom)
    assert upsampled.dtype == np.float32
    assert (upsampled >= 0).all()
    expected = slow_map(values, window, placement, size, zoom)
    np.testing.assert_allclose(upsampled, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("row", "column", "down", "zoom"),
    [
        (3.0, 1.0, 4.0, 1),
        (3.0, 1.0, 4.0, 3),
        (-1.0, 4.0, 2.0, 1),
        (2.25, -1.25, 8.0, 2),  # an even zoom has pixels at quarters
        (0.0, 1.0, 1.0, 1),
        (0.0, 1.0, 1.0, 3),
    ],
)
def test_a_hot_element_peaks_where_it_lies(
    row: float, column: float, down: float, zoom: int
) -> None:
    values = np.zeros((3, 3), np.float32)
    values[1, 2] = 5
    # The columns have another step: rows and columns must not be swapped.
    upsampled = upsample_map(values, box(1, 2, 3, 3), (row, column, down, 3.0), (30, 22), zoom)
    y, x = np.unravel_index(upsampled.argmax(), upsampled.shape)
    assert upsampled[y, x] == 5
    assert (y + 0.5) / zoom - 0.5 == row + down * (1 + 1)
    assert (x + 0.5) / zoom - 0.5 == column + 3 * (2 + 2)


def test_the_mass_of_an_inner_element_is_its_value_times_the_pixels_between_elements() -> None:
    for zoom in (1, 2, 3):
        values = np.array([[0.0, 2.0], [0.5, 0.0]])
        upsampled = upsample_map(values, box(1, 1, 2, 2), (3.5, 2.0, 4.0, 2.0), (24, 16), zoom)
        assert upsampled.sum() == pytest.approx(2.5 * 4 * zoom * 2 * zoom)


def test_a_constant_map_is_constant_between_its_outermost_elements() -> None:
    upsampled = upsample_map(np.ones((6, 4)), box(0, 0, 6, 4), (1.0, 1.5, 2.0, 4.0), (13, 17), 1)
    # Rows 1 to 11; columns from 1.5 to 13.5, so 2 to 13.
    np.testing.assert_allclose(upsampled[1:12, 2:14], 1, rtol=1e-6)
    np.testing.assert_allclose(upsampled[0], upsampled[1] / 2, rtol=1e-6)
    np.testing.assert_allclose(upsampled[1, 16], hat(2.5 / 4), rtol=1e-6)


def test_of_the_pixels_themselves_each_is_its_own() -> None:
    values = np.random.default_rng(0).random((3, 5)).astype(np.float32)
    upsampled = upsample_map(values, box(2, 1, 3, 5), (0.0, 0.0, 1.0, 1.0), (7, 8))
    np.testing.assert_allclose(upsampled[2:5, 1:6], values, rtol=1e-6)
    upsampled[2:5, 1:6] = 0
    assert not upsampled.any()


@given(
    size=st.tuples(st.integers(8, 600), st.integers(8, 600)),
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    shown=st.integers(1, 300),
)
def test_zoom_is_the_least_that_shows_enough_and_not_too_much(
    size: tuple[int, int], height: int, width: int, shown: int
) -> None:
    zoom = zoom_for(Preprocessing(size=size), box(0, 0, height, width), shown)
    assert zoom >= 1
    fitting = [z for z in range(1, 600) if z == 1 or max(size) * z <= LARGEST]
    enough = [z for z in fitting if min(height, width) * z >= shown]
    assert zoom == (enough[0] if enough else fitting[-1])


def test_zoom_of_the_papers_network_and_of_the_small_one() -> None:
    assert zoom_for(Preprocessing(size=(224, 224)), box(60, 60, 99, 99)) == 2
    assert zoom_for(Preprocessing(size=(224, 224)), box(0, 0, 224, 224)) == 1
    assert zoom_for(Preprocessing(size=(64, 64)), box(0, 0, 64, 40)) == 4
    assert SHOWN == 160


# Of a run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures of noise that the zoom of 42 shows pixel by pixel, wider than the crop."""
    return write_noise(tmp_path_factory.mktemp("pictures"), 5)


def seen(path: Path) -> np.ndarray:
    """The part that the network sees, at 42 times its size: the middle 12 x 10 of 14 x 20."""
    pixels = np.asarray(Image.open(path))
    return pixels[1 * 42 : 13 * 42, 5 * 42 : 15 * 42]


@pytest.fixture(scope="session")
def plain_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan of them, for a feature in the middle and one in a corner."""
    folder = tmp_path_factory.mktemp("run")
    return scan_images(plain_network(), pictures, ["after:0", "after:1@0,4"], "relu", out=folder)


def test_a_photograph_is_shown_as_the_network_sees_it(pictures: Path) -> None:
    path = pictures / "1.png"
    shown = photograph(ImageEntry(id="1", path=path), PREPARED, 42)
    np.testing.assert_array_equal(shown, seen(path))


def test_a_photograph_that_is_gone_is_named() -> None:
    with pytest.raises(Unreadable, match=r"/nowhere/x\.png cannot be shown: no such file"):
        photograph(ImageEntry(id="x", path=Path("/nowhere/x.png")), PREPARED)


def test_the_geometry_of_the_run_is_that_of_the_network(plain_run: Run) -> None:
    # Element 0 of the layer is centred on pixel 0, and each next one two pixels on.
    assert plain_run.manifest.placement == (0, 0, 2, 2)
    first, second = plain_run.features
    # At 3, 2 of 6 x 5 the unit sees rows 2 to 4 and columns 1 to 3; in pixels 3 to 9 and 1 to 7.
    assert first.position == (3, 2)
    assert plain_run.through_window(first) == box(2, 1, 3, 3)
    assert plain_run.receptive_field(first) == box(3, 1, 7, 7)
    # In a corner less: rows 0 to 1 and columns 3 to 4; in pixels 0 to 3 and 5 to 9.
    assert plain_run.through_window(second) == box(0, 3, 2, 2)
    assert plain_run.receptive_field(second) == box(0, 5, 4, 5)


@pytest.mark.parametrize("number", [0, 1])
def test_tiles_are_crops_of_what_the_network_saw(
    plain_run: Run, pictures: Path, number: int
) -> None:
    feature = plain_run.features[number]
    columns, field = plain_run.columns(feature), plain_run.receptive_field(feature)
    indices = [3, 0, 4]
    # Wanted as large as may be: 512 pixels for 12 rows.
    tiles = run_tiles(plain_run, feature, columns, indices, shown=10_000)
    for index, each in zip(indices, tiles, strict=True):
        crop = seen(pictures / columns.images[index])[
            field.top * 42 : (field.top + field.height) * 42,
            field.left * 42 : (field.left + field.width) * 42,
        ]
        np.testing.assert_array_equal(each.image, crop)
        for shown, values in (
            (each.excitation, columns.excitation_map[index]),
            (each.inhibition, columns.inhibition_map[index]),
        ):
            assert shown is not None
            assert shown.shape == each.image.shape[:2]
            # At the centre of each element, its value; 42 is even, so the centre lies between two.
            for i in range(values.shape[0]):
                for j in range(values.shape[1]):
                    window = plain_run.through_window(feature)
                    y = (2 * (window.top + i) - field.top) * 42 + 21
                    x = (2 * (window.left + j) - field.left) * 42 + 21
                    near = shown[max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1]
                    np.testing.assert_allclose(
                        near, values[i, j], atol=0.05 * max(values.max(), 1e-6)
                    )
        deviations = columns.activation[index] / columns.activation.std()
        assert each.caption == in_deviations(float(deviations))


def test_a_smaller_crop_is_shown_smaller(plain_run: Run) -> None:
    columns = plain_run.columns("after:0")
    [small] = run_tiles(plain_run, plain_run.features[0], columns, [0], shown=21)
    assert small.image.shape == (21, 21, 3)
    assert run_tiles(plain_run, plain_run.features[0], columns, []) == []


def test_no_maps_where_the_layer_has_no_places(pictures: Path, tmp_path: Path) -> None:
    run = scan_images(plain_network(), pictures, "head:1", "mean", out=tmp_path)
    assert run.manifest.placement is None
    [each] = run_tiles(run, run.features[0], run.columns(), [2], shown=1)
    assert each.image.shape == (12, 10, 3)
    assert each.excitation is None
    assert each.inhibition is None


def test_alike_images_have_captions_without_dividing_by_zero(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (20, 14), "teal").save(tmp_path / f"{name}.png")
    images = open_images([tmp_path / "a.png", tmp_path / "b.png"])
    run = scan_images(plain_network(), images, "after:0", "relu", out=tmp_path / "run")
    columns = run.columns()
    tiles = run_tiles(run, run.features[0], columns, [0, 1], shown=1)
    assert [each.caption for each in tiles] == [in_deviations(float(columns.activation[0]))] * 2


def test_images_that_moved_since_are_named(pictures: Path, tmp_path: Path) -> None:
    there, gone = tmp_path / "there.png", tmp_path / "gone.png"
    for path in (there, gone):
        path.write_bytes((pictures / "0.png").read_bytes())
    run = scan_images(plain_network(), [there, gone], "after:0", "relu", out=tmp_path / "run")
    gone.unlink()
    columns = run.columns()
    assert len(run_tiles(run, run.features[0], columns, [0])) == 1
    with pytest.raises(Unreadable, match=r"gone\.png cannot be shown: no such file"):
        run_tiles(run, run.features[0], columns, [0, 1])


def test_the_whole_input_is_a_field_too() -> None:
    image = np.zeros((24, 20, 3), np.uint8)
    maps = (np.ones((6, 5), np.float32), np.zeros((6, 5), np.float32))
    each = crop_tile(
        image,
        maps,
        window=box(0, 0, 6, 5),
        placement=(0.0, 0.0, 2.0, 2.0),
        field=box(0, 0, 12, 10),
        size=(12, 10),
        zoom=2,
        caption="x",
    )
    assert each.image.shape == (24, 20, 3)
    assert each.excitation is not None
    assert each.inhibition is not None
    assert each.excitation[2, 2] == 1
    assert not each.inhibition.any()
    assert each.caption == "x"

"""Many crops of each image of a source."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.support.image_files import SHARP, encoded, exif_block, with_exif
from tests.support.scans import paint_shapes

from opponent import Crops, Unreadable, open_images
from opponent.images.crops import crop_boxes
from opponent.images.decode import decode, load_image, shape_of
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry


@given(st.tuples(*[st.integers(20, 600)] * 2), st.tuples(*[st.integers(1, 80)] * 2))
@settings(deadline=None, max_examples=40)
def test_boxes_lie_inside_and_differ(shape: tuple[int, int], size: tuple[int, int]) -> None:
    [boxes] = crop_boxes([shape], size, 40)
    assert boxes
    assert len(set(boxes)) == len(boxes)
    for top, left, height, width in boxes:
        assert 0 <= top <= top + height <= shape[0]
        assert 0 <= left <= left + width <= shape[1]
    assert crop_boxes([shape], size, 40) == [boxes]
    # The largest covers all of one side, in the aspect wanted.
    height, width = boxes[0][2:]
    assert height == shape[0] or width == shape[1]


def test_their_number_is_about_what_is_asked_for() -> None:
    for count in (10, 40, 160, 640):
        [boxes] = crop_boxes([(480, 640)], (64, 64), count)
        assert 0.8 * count <= len(boxes) <= 1.25 * count


def test_crops_of_a_folder(tmp_path: Path) -> None:
    folder = paint_shapes(tmp_path / "in", 3)
    (folder / "bad.png").write_text("no picture")
    images = open_images(f"crops:30:{folder}", size=(12, 10))
    assert images.source == f"crops:30:{folder}"
    assert images.origin is None
    assert images == open_images(images.source, size=(12, 10))  # again the same
    same = open_images(Crops(source=folder, per_image=30), size=(12, 10))
    assert same.entries == images.entries
    assert same.source == f"about 30 crops each of {folder}"
    by_photo = [sum(x.id.startswith(f"00{n}.png@") for x in images) for n in range(3)]
    assert all(20 <= count <= 40 for count in by_photo)
    whole = {entry.id: np.asarray(decode(entry)) for entry in open_images(folder)[:3]}
    for entry in images[:-1]:
        name, _, place = entry.id.partition("@")
        top, left, height, width = entry.box or (0, 0, 0, 0)
        assert place in (f"{top},{left}+{height}x{width}", f"{top},{left}+{height}")
        expected = whole[name][top : top + height, left : left + width]
        np.testing.assert_array_equal(np.asarray(decode(entry)), expected)
    # What cannot be read stays one image, with its reason.
    assert images[-1].id == "bad.png"
    with pytest.raises(Unreadable, match=r"^not an image$"):
        decode(images[-1])
    default = open_images(f"crops:{folder}", size=(12, 10))
    assert 3 * 120 <= len(default) <= 3 * 200


def test_crops_of_objects_and_of_crops() -> None:
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (40, 60, 3), np.uint8) for name in "ab"}
    source = Crops(source=pictures, per_image=12)
    images = open_images(source, size=(16, 16))
    assert images.origin is source
    for entry in images:
        top, left, height, width = entry.box or (0, 0, 0, 0)
        expected = pictures[entry.id[0]][top : top + height, left : left + width]
        np.testing.assert_array_equal(np.asarray(decode(entry)), expected)
    again = open_images(Crops(source=source, per_image=4), size=(16, 16))
    for entry in again:
        name, first, second = entry.id.split("@")
        (top, left), (y, x) = (map(int, each.split("+")[0].split(",")) for each in (first, second))
        assert entry.box is not None
        assert entry.box[:2] == (top + y, left + x)
        height, width = entry.box[2:]
        expected = pictures[name][top + y :, left + x :][:height, :width]
        np.testing.assert_array_equal(np.asarray(decode(entry)), expected)


def test_shapes_are_of_the_upright_photograph(tmp_path: Path) -> None:
    turned = with_exif(encoded(np.zeros((40, 60, 3), np.uint8), "JPEG"), exif_block(6))
    arrays = {"a.jpg": (60, 40), "b.png": (4, 6), "c.png": (4, 6), "d.npy": (7, 8)}
    (tmp_path / "a.jpg").write_bytes(turned)
    Image.fromarray(SHARP).save(tmp_path / "b.png")
    Image.fromarray(np.full((4, 6), 300, np.uint16)).save(tmp_path / "c.png")
    np.save(tmp_path / "d.npy", np.zeros((7, 8, 5)))
    for name, shape in arrays.items():
        assert shape_of(ImageEntry(id=name, path=tmp_path / name)) == shape
    five = open_images(Crops(source=tmp_path / "d.npy", per_image=3), size=(4, 4))
    fit = Fit(size=(4, 4), channels=5)
    assert all(load_image(entry, fit).shape == (4, 4, 5) for entry in five)


def test_what_names_no_crops(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'crops:' names no images; write crops:SOURCE or"):
        open_images("crops:")
    with pytest.raises(ValueError, match=r"0 crops of each image: give at least 1"):
        open_images(f"crops:0:{tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"'nowhere' is no folder and no file"):
        open_images("crops:nowhere")

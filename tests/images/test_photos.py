"""The photographs that come with other packages, as crops."""

import importlib.util
import math

import numpy as np
import pytest
from tests.support.image_files import entry, in_new_interpreter

from opponent.images import photos
from opponent.images.decode import decode, load_image
from opponent.images.fit import Fit
from opponent.images.sources import open_images

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
    assert load_image(item, Fit(size=(224, 224))).shape == (224, 224, 3)


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
    monkeypatch.setitem(photos._PHOTOS, "skimage", ("data", "astronaut.png nobody.png"))
    with pytest.raises(FileNotFoundError, match=r"lacks: '[^']*nobody.png'; pip install"):
        open_images("photos")


@needs_demo
def test_photos_want_a_size() -> None:
    with pytest.raises(ValueError, match="give at least 1"):
        open_images("photos", size=(0, 224))

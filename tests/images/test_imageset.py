"""Sets of images: unique ids, a sequence, a digest, images by part of their id."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.image_files import SHARP, encoded, numbered

from opponent.images.imageset import ImageEntry, ImageSet
from opponent.images.sources import open_images


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

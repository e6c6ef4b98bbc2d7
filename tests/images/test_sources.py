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
from opponent.images.decode import decode, fit_image, load_image
from opponent.images.fit import Fit
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.images.loader import stream
from opponent.images.sources import ImageSource, open_images


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
        (np.full((4, 6, 3), 0.3001), "^floating-point values between the 256 steps of a byte"),
        (np.full((4, 6, 3), 1.5), "^64-bit floating-point values from 1.5 to 1.5: say which are"),
        (np.full((4, 6), 4095, np.uint16), r"^16-bit values from 4095 to .*range=\(0, 4095\)"),
        (np.full((4, 6), "a"), "^values of type <U1, not numbers$"),
        (np.zeros(6, np.uint8), r"^its image source gave an array of shape \(6,\), not"),
        (np.zeros((1, 4, 6, 3), np.uint8), r"of shape \(1, 4, 6, 3\)"),
        (np.zeros((4, 6, 7), np.uint8), r"of shape \(4, 6, 7\)"),
        (np.zeros((3, 4, 6), np.uint8), r"of shape \(3, 4, 6\), .*; give its axes in that order$"),
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

"""Which files of a folder, or of a list, are images, and their ids."""

import os
import re
from pathlib import Path, PurePath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.image_files import SHARP, encoded

from opponent.core.errors import Unreadable
from opponent.images.decode import decode
from opponent.images.sources import open_images


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


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n/"), min_size=1)
LINES = st.lists(
    st.lists(NAMES, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda line: line == line.strip() and not line.startswith(("#", "\ufeff")))
    .filter(
        lambda line: ".tar" not in line.lower() and not line.lower().endswith((".tgz", ".zip"))
    ),
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

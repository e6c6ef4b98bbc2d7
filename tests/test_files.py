"""Files are written whole or not at all."""

import errno
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opponent import files
from opponent.files import whole, write_text

# The one file alone: the package imports torch.
KILLED = """
import os, pathlib, runpy, signal, sys
whole = runpy.run_path(sys.argv[1])["whole"]
with whole(pathlib.Path(sys.argv[2])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_new_file_appears_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert names(tmp_path) == {"a", "b", "c.txt"}


def test_until_the_end_readers_see_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with whole(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == {"x.txt"}


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [True, False])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, kind: type[BaseException], written: bool
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write() -> None:
        with whole(path) as part:
            if written:
                part.write_text("half")
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"x.txt"}


def test_an_exception_leaves_no_new_file(tmp_path: Path) -> None:
    def write() -> None:
        with whole(tmp_path / "x.txt") as part:
            part.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["000001.parquet", "a.b.png", "plain", "ü mlaut.json"])
def test_the_temporary_name_lies_beside_and_keeps_the_suffix(tmp_path: Path, name: str) -> None:
    # Pillow and pyarrow choose the format by the suffix; a rename is atomic within one folder only.
    path = tmp_path / name
    with whole(path) as part:
        assert part.parent == path.parent
        assert part.name != path.name
        assert part.name.startswith(".")
        if path.suffix:
            assert part.suffix == path.suffix
        part.write_bytes(b"x")
    assert names(tmp_path) == {name}


def test_bytes_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, events = tmp_path / "x.txt", []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(("fsync", target.name, path.exists()))
        fsync(descriptor)

    def spy_replace(self: Path, to: Path) -> Path:
        events.append(("replace", self.name, path.exists()))
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    with whole(path) as part:
        part.write_text("x")
    assert events == [
        ("fsync", part.name, False),
        ("replace", part.name, False),
        ("fsync", tmp_path.name, True),
    ]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"x.txt"}


def test_two_files_that_differ_by_suffix_can_be_open_at_once(tmp_path: Path) -> None:
    with whole(tmp_path / "a.png") as png, whole(tmp_path / "a.json") as text:
        png.write_text("png")
        text.write_text("json")
    assert (tmp_path / "a.png").read_text() == "png"
    assert (tmp_path / "a.json").read_text() == "json"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 220 + ".json")
    write_text(path, "x")
    assert names(tmp_path) == {path.name}


def test_what_a_killed_writer_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    arguments = [inspect.getsourcefile(files), tmp_path / "a.parquet"]
    child = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert child.returncode == -signal.SIGKILL
    [left] = names(tmp_path)
    assert left != "a.parquet"
    write_text(tmp_path / "b.parquet", "y")
    write_text(tmp_path / "a.csv", "y")
    assert left in names(tmp_path)
    write_text(tmp_path / "a.parquet", "y")
    assert names(tmp_path) == {"a.parquet", "a.csv", "b.parquet"}


def test_what_another_writer_is_at_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with whole(path) as part:
        part.write_text("ours")
        # The process that started this one lives.
        theirs = part.with_name(part.name.replace(str(os.getpid()), str(os.getppid())))
        theirs.write_text("theirs")
        file_of_the_user = tmp_path / ".x.old.tmp.txt"
        file_of_the_user.write_text("old")
    write_text(path, "again")
    assert names(tmp_path) == {"x.txt", theirs.name, file_of_the_user.name}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("text") / "x.txt"
    write_text(path, text)
    assert path.read_bytes().decode() == text

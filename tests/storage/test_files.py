"""Files are written whole or not at all."""

import errno
import inspect
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opponent.storage import files
from opponent.storage.files import (
    AnyPath,
    atomic_write,
    create_text,
    local,
    names,
    opened,
    sweep,
    to_path,
    write_text,
)

# The one file alone: the package imports torch.
KILLED = """
import os, pathlib, runpy, signal, sys
atomic_write = runpy.run_path(sys.argv[1])["atomic_write"]
with atomic_write(pathlib.Path(sys.argv[2])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def inside(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_new_file_appears_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert inside(tmp_path) == {"a", "b", "c.txt"}


def test_until_the_end_readers_see_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert inside(tmp_path) == {"x.txt"}


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [True, False])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, kind: type[BaseException], written: bool
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            if written:
                temporary.write_text("half")
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        write()
    assert path.read_text() == "old"
    assert inside(tmp_path) == {"x.txt"}


def test_an_exception_leaves_no_new_file(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "x.txt") as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        write()
    assert inside(tmp_path) == set()


@pytest.mark.parametrize("name", ["000001.parquet", "a.b.png", "plain", "ü mlaut.json"])
def test_the_temporary_name_lies_beside_and_keeps_the_suffix(tmp_path: Path, name: str) -> None:
    # Pillow and pyarrow choose the format by the suffix; a rename is atomic within one folder only.
    path = tmp_path / name
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name != path.name
        assert temporary.name.startswith(".")
        if path.suffix:
            assert temporary.suffix == path.suffix
        temporary.write_bytes(b"x")
    assert inside(tmp_path) == {name}


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
    with atomic_write(path) as temporary:
        temporary.write_text("x")
    assert events == [
        ("fsync", temporary.name, False),
        ("replace", temporary.name, False),
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
    assert inside(tmp_path) == {"x.txt"}


def refusing(number: int, folders: bool) -> Callable[[int], None]:
    """`os.fsync` on a file system that answers an error for files, or for folders alone."""
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or not folders:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    return refuse


WRITERS = {"write_text": write_text, "create_text": create_text}
# What a file system says that cannot do it, of folders and of files, and what is never let pass.
NO_FOLDERS = ["EINVAL", "EACCES", "EPERM", "ENOTSUP", "EBADF", "EISDIR", "ENOSYS"]
NO_FILES = ["EINVAL", "ENOTSUP", "ENOSYS"]
LOST = ["ENOSPC", "EIO", "EDQUOT"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("name", "folders"),
    [*((name, True) for name in NO_FOLDERS), *((name, False) for name in NO_FILES)],
)
def test_where_nothing_can_be_flushed_files_are_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folders: bool, write: str
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(getattr(errno, name), folders))
    WRITERS[write](tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "new"
    assert inside(tmp_path) == {"x.txt"}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("folders", [True, False])
def test_what_may_be_lost_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folders: bool, write: str
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(getattr(errno, name), folders))
    with pytest.raises(OSError, match=re.escape(os.strerror(getattr(errno, name)))):
        WRITERS[write](tmp_path / "x.txt", "new")
    assert inside(tmp_path) == ({"x.txt"} if folders else set())


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["EACCES", "EISDIR", "EINVAL", *LOST])
def test_folders_that_do_not_open_are_no_reason_not_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: str
) -> None:
    opens = os.open

    def refuse(path: object, flags: int, *rest: object, **more: object) -> int:
        if Path(path).is_dir():
            raise OSError(getattr(errno, name), "folders do not open here")
        return opens(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    raised = pytest.raises(OSError, match="do not open") if name in LOST else nullcontext()
    with raised:
        WRITERS[write](tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "new"


def test_two_files_that_differ_by_suffix_can_be_open_at_once(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.png") as png, atomic_write(tmp_path / "a.json") as text:
        png.write_text("png")
        text.write_text("json")
    assert (tmp_path / "a.png").read_text() == "png"
    assert (tmp_path / "a.json").read_text() == "json"


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 220 + ".json")
    write_text(path, "x")
    assert inside(tmp_path) == {path.name}


def test_what_a_killed_writer_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    arguments = [inspect.getsourcefile(files), tmp_path / "a.parquet"]
    child = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert child.returncode == -signal.SIGKILL
    [left] = inside(tmp_path)
    assert left != "a.parquet"
    write_text(tmp_path / "b.parquet", "y")
    write_text(tmp_path / "a.csv", "y")
    assert left in inside(tmp_path)
    write_text(tmp_path / "a.parquet", "y")
    assert inside(tmp_path) == {"a.parquet", "a.csv", "b.parquet"}


def test_what_another_writer_is_at_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("ours")
        # The process that started this one lives.
        theirs = temporary.with_name(temporary.name.replace(str(os.getpid()), str(os.getppid())))
        theirs.write_text("theirs")
        file_of_the_user = tmp_path / ".x.old.tmp.txt"
        file_of_the_user.write_text("old")
    write_text(path, "again")
    assert inside(tmp_path) == {"x.txt", theirs.name, file_of_the_user.name}


def test_windows_asks_no_process_and_goes_by_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # There a signal to a process, zero too, ends it.
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process was ended"))
    monkeypatch.setattr(files, "_signals_ask", lambda: False)
    path = tmp_path / "x.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("ours")
        before, after = temporary.name.split(str(os.getpid()))
    old, young = (tmp_path / f"{before}{number}{after}" for number in (1, 2))
    for left, hours in ((old, 25), (young, 23)):
        left.write_text("theirs")
        os.utime(left, (time.time() - 3600 * hours,) * 2)
    write_text(path, "again")
    assert inside(tmp_path) == {"x.txt", young.name}


def test_what_another_process_keeps_open_stands_in_no_ones_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, unlink = tmp_path / "x.txt", Path.unlink
    with atomic_write(path) as temporary:
        temporary.write_text("ours")
        left = temporary.with_name(temporary.name.replace(str(os.getpid()), str(2**40)))
    left.write_text("theirs")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == left:
            raise PermissionError("it is open")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    write_text(path, "again")
    assert path.read_text() == "again"
    assert inside(tmp_path) == {"x.txt", left.name}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("text") / "x.txt"
    write_text(path, text)
    assert path.read_bytes().decode() == text


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_create_a_file_one_succeeds(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:

        def link(*_: object) -> None:
            raise PermissionError("no links here")

        monkeypatch.setattr(os, "link", link)
    path = tmp_path / "new" / "x.txt"
    assert [create_text(path, text) for text in ("first", "second")] == [True, False]
    assert path.read_text() == "first"
    assert [x.name for x in path.parent.iterdir()] == ["x.txt"]


def test_a_sweep_takes_what_was_left_on_any_machine_and_nothing_else(tmp_path: Path) -> None:
    kept = {
        "a.parquet",
        ".hidden",
        ".x.old.tmp.txt",
        ".abcdef1.tmp.parquet.txt1",
        "a.abcdef1.tmp.x",
    }
    left = {".a.abcdef1.tmp.parquet", ".a.b.zzzzzz4194399.tmp.json", ".plain.qwerty12.tmp"}
    for name in kept | left:
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    assert inside(tmp_path) == kept
    sweep(tmp_path / "nowhere")
    with atomic_write(tmp_path / "b.png") as temporary:
        temporary.write_text("x")
        sweep(tmp_path)
        assert not temporary.exists()
        temporary.write_text("y")
    assert inside(tmp_path) == kept | {"b.png"}


# Elsewhere


@pytest.fixture
def memory() -> Iterator[AnyPath]:
    """A folder of another file system, which has neither renaming in one step nor folders."""
    pytest.importorskip("upath")
    folder = to_path("memory://opponent-tests/folder")
    yield folder
    folder.fs.rm("/opponent-tests", recursive=True) if folder.fs.exists("/opponent-tests") else None


@pytest.mark.parametrize("given", ["plain", "a/b", "/a/b", "c:x", "a:/b", "s3:/b", "://x", ""])
def test_what_names_no_protocol_is_a_path_here(given: str) -> None:
    assert to_path(given) == Path(given)
    assert type(to_path(given)) is type(Path(given))


def test_a_file_of_this_machine_is_a_path_by_any_name(tmp_path: Path) -> None:
    pytest.importorskip("upath")
    for name in (f"file://{tmp_path}/x", f"local://{tmp_path}/x"):
        assert to_path(name) == tmp_path / "x"
        assert isinstance(to_path(name), Path)
    assert to_path(tmp_path) is tmp_path


def test_another_file_system_needs_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("upath")
    with pytest.raises(ValueError, match="'nowhere'"):
        to_path("nowhere://a/b")
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(ImportError, match=r"'s3://a/b' lies on .*pip install 'opponent\[cluster"):
        to_path("s3://a/b")


def test_elsewhere_a_file_appears_when_it_is_whole(memory: AnyPath) -> None:
    path = memory / "a" / "x.parquet"
    write_text(path, "old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".parquet"
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert not temporary.parent.exists()
    assert names(memory / "a") == {"x.parquet"}
    assert names(memory / "b") == set()


def test_elsewhere_an_exception_leaves_the_old_file(
    memory: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, parts = memory / "x.txt", []

    def write(text: str, error: Exception | None) -> None:
        with atomic_write(path) as temporary:
            parts.append(temporary)
            temporary.write_text(text)
            if error is not None:
                raise error

    write("old", None)
    with pytest.raises(ValueError, match="stop"):
        write("half", ValueError("stop"))

    def full(*_: object, **__: object) -> None:
        raise OSError("no more room")

    monkeypatch.setattr(type(path.fs), "put_file", full)
    with pytest.raises(OSError, match="no more room"):
        write("new", None)
    assert path.read_text() == "old"
    assert names(memory) == {"x.txt"}
    assert not any(part.parent.exists() for part in parts)


def test_what_lies_elsewhere_is_read_here(memory: AnyPath, tmp_path: Path) -> None:
    for path in (memory / "x.txt", tmp_path / "x.txt"):
        write_text(path, "grün")
        with local(path) as here:
            assert isinstance(here, Path)
            assert here.name == "x.txt"
            assert here.read_text(encoding="utf-8") == "grün"
        assert here.exists() == isinstance(path, Path)
        with opened(path) as file:
            content = file.read_bytes() if isinstance(file, Path) else file.read()
        assert content == "grün".encode()


def test_names_are_those_that_are_there_now(memory: AnyPath) -> None:
    write_text(memory / "a", "x")
    folder = to_path(str(memory))
    assert names(folder) == {"a"}
    # As another process would.
    write_text(to_path(str(memory)) / "b", "x")
    (memory / "a").unlink()
    assert names(folder) == {"b"}

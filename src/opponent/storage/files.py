"""Files that are written whole or not at all, on this machine's disks and elsewhere."""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from hashlib import sha256
from pathlib import Path
from platform import node
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO, ForwardRef, Union

if TYPE_CHECKING:
    from upath import UPath

    # A UPath is no Path: it has the same methods, on another file system.
    AnyPath = Path | UPath
else:
    # By its name: universal-pathlib need not be installed.
    AnyPath = Union[Path, ForwardRef("upath.UPath")]  # noqa: UP007


# What a file system answers that cannot flush: some network shares, and some user-space ones.
_CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}
# What means that something may be lost, of folders as of files.
_LOST = {errno.EIO, errno.ENOSPC, errno.EDQUOT}
# Where no process can be asked whether it lives, what a writer left this long ago is of a dead one.
_STALE_SECONDS = 24 * 60 * 60


def to_path(given: "str | AnyPath") -> AnyPath:
    """A path by its name: 's3://bucket/run' on that file system, what has no '://' on this one.

    Args:
        given: a path, or the name of one. Every protocol of fsspec serves whose package is there.
    Raises:
        ImportError: a package is missing that the protocol needs; the message says which.
        ValueError: no such protocol.
    """
    if not isinstance(given, str) or not re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", given):
        return Path(given) if isinstance(given, str) else given
    try:
        from upath import UPath
    except ImportError as error:
        raise ImportError(
            f"{given!r} lies on another file system: pip install 'opponent[cluster]'"
        ) from error
    path = UPath(given)
    if path.protocol in ("file", "local"):
        return Path(path.path)
    # Another process may have written since a list of files was kept.
    path.fs.invalidate_cache()
    return path


def names(folder: AnyPath) -> set[str]:
    """The names in a folder as they are now; none if there is no folder."""
    if not isinstance(folder, Path):
        folder.fs.invalidate_cache()
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@contextmanager
def opened(path: AnyPath) -> Iterator[Path | BinaryIO]:
    """What pyarrow reads from: the path itself, or an open file where it lies elsewhere."""
    if isinstance(path, Path):
        yield path
    else:
        with path.open("rb") as file:
            yield file


@contextmanager
def local(path: AnyPath) -> Iterator[Path]:
    """The file on this machine: the path itself, or a copy for a while where it lies elsewhere."""
    if isinstance(path, Path):
        yield path
    else:
        with TemporaryDirectory(prefix="opponent-") as here:
            path.fs.get_file(path.path, str(Path(here) / path.name))
            yield Path(here) / path.name


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` at the end unless an exception comes.

    The name lies beside `path` and keeps its suffix. What was written is on the disk before it gets
    its name, so that a reader sees the old file or the new one, never half of one.

    Elsewhere (see `to_path`) it is written on this machine first and then sent in one piece. Object
    stores show nothing of a file before its last byte came; not every other file system does so.
    """
    if not isinstance(path, Path):
        with TemporaryDirectory(prefix="opponent-") as here:
            temporary = Path(here) / path.name
            yield temporary
            path.fs.put_file(str(temporary), path.path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    _clear(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            _flush(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(number: int) -> None:
    """Have an open file on the disk, as far as the file system can say; a full disk raises."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def _flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system opens folders and flushes them."""
    try:
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:  # Windows opens no folders; some shares refuse what they do with files
        if error.errno in _LOST:
            raise


def _machine() -> str:
    """Six letters for this machine: others that share the folder number their processes too."""
    return "".join(chr(ord("a") + byte % 26) for byte in sha256(node().encode()).digest()[:6])


def _clear(path: Path) -> None:
    """Remove what writers of this file left that were killed on this machine."""
    before, after = f".{path.stem}.{_machine()}", f".tmp{path.suffix}"
    for left in path.parent.glob(f"{escape(before)}*{escape(after)}"):
        process = left.name.removeprefix(before).removesuffix(after)
        if process.isdecimal() and _is_left(left, int(process)):
            with suppress(PermissionError):  # Windows keeps what is open
                left.unlink(missing_ok=True)


def _is_left(file: Path, process: int) -> bool:
    """Whether the process that wrote a temporary file is gone."""
    if _signals_ask():
        return not _lives(process)
    try:
        return time.time() - file.stat().st_mtime > _STALE_SECONDS
    except FileNotFoundError:
        return False


def _signals_ask() -> bool:
    """Whether the signal zero asks if a process lives; on Windows it ends the process instead."""
    return os.name == "posix"


def sweep(folder: AnyPath) -> None:
    """Remove what killed writers left in a folder, on any machine; not while others write there."""
    for name in names(folder) if isinstance(folder, Path) else ():
        if re.fullmatch(r"\..*\.[a-z]{6}\d+\.tmp(\..*)?", name):
            (folder / name).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _temporary(path: Path) -> Path:
    """The name under which this process writes a file first."""
    return path.with_name(f".{path.stem}.{_machine()}{os.getpid()}.tmp{path.suffix}")


def create_text(path: AnyPath, text: str) -> bool:
    """Write a text file whole, unless there is one of that name.

    Of several processes that do so at once, one succeeds. Object stores have no such promise: there
    the last one wins.

    Args:
        path: of the file.
        text: its content.
    Returns:
        Whether the file was created; False where there was one.
    """
    if not isinstance(path, Path):
        if path.exists():
            return False
        write_text(path, text)
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    _clear(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            _flush(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: an empty file keeps the name for a moment
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                return False
            temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def write_text(path: AnyPath, text: str) -> None:
    """Write a text file whole."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

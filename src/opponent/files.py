"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` at the end unless an exception comes.

    The name lies beside `path` and keeps its suffix. What was written is on the disk before it gets
    its name, so that a reader sees the old file or the new one, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    _clear(path)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove what writers of this file left that were killed."""
    before, after = f".{path.stem}.", f".tmp{path.suffix}"
    for left in path.parent.glob(f"{escape(before)}*{escape(after)}"):
        process = left.name.removeprefix(before).removesuffix(after)
        if process.isdecimal() and not _lives(int(process)):
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")

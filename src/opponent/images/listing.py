"""Which files of a folder, or of a list, are images."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath

from opponent.core.text import one_line
from opponent.images.arrays import ARRAYS
from opponent.images.formats import NOT_READ, PREFIX, READ, plugin_for


def image_files(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """The files of a folder, at any depth, that count as images; `open_images` says which do.

    Args:
        folder: where to look.
        above: device and inode of the folders that lead here, which links are not followed to.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    for path in folder.iterdir() if here not in above else ():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            try:
                yield from image_files(path, above | {here})
            except PermissionError:
                yield path
        elif _counts(path):
            yield path


def _counts(path: Path) -> bool:
    if not path.is_file() and path.exists():
        return False  # a pipe, a socket or a device
    if path.suffix.lower() in READ | NOT_READ | ARRAYS:
        return True
    try:
        with path.open("rb") as file:
            return plugin_for(file.read(PREFIX)) is not None
    except OSError:
        return True


def listed(path: Path) -> list[PurePath]:
    """The paths that a text file lists."""
    # 'surrogateescape' is how Python itself holds file names that are not UTF-8. Only line feeds
    # part the lines: file names may contain the other characters that str.splitlines knows.
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = (line.strip() for line in text.split("\n"))
    return [PurePath(line) for line in lines if line and not line.startswith("#")]


def not_a_file(path: Path) -> str | None:
    """Why a path cannot be opened as a file; None if nothing speaks against it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return f"a link that leads nowhere (to {id_of(path.readlink())!r})"
        return "no such file"
    except PermissionError:
        return "permission denied"
    except (OSError, ValueError) as error:  # links in a circle, a name too long; a NUL in the name
        return f"not a usable path: {one_line(error)}"
    if stat.S_ISDIR(mode):
        may_enter = os.access(path, os.R_OK | os.X_OK)
        return "a folder, not a file" if may_enter else "a folder that may not be opened"
    # Opening a pipe would wait for ever.
    return None if stat.S_ISREG(mode) else "not a regular file"


def file_size(path: Path) -> int:
    """Bytes of a file; -1 where it is missing or no regular file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def id_of(path: PurePath) -> str:
    """A path as the id of an image: POSIX, valid UTF-8."""
    # File names need not be UTF-8; tables and web pages must be.
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")

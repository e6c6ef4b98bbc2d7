"""Images in archives: '.tar' shards as WebDataset writes them, and '.zip'. Nothing is unpacked."""

import glob
import io
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from opponent.core.errors import Unreadable
from opponent.core.text import one_line
from opponent.images.arrays import ARRAYS, most_bytes
from opponent.images.formats import NOT_READ, READ
from opponent.images.imageset import ImageEntry, Member
from opponent.images.listing import id_of, not_a_file

ARCHIVES = {".tar", ".zip"}
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# APPNOTE 6.3.10, 4.3.7: the header before a file's bytes. Flags, method, lengths of name and extra.
_LOCAL = struct.Struct("<4x2xHH16xHH")
_SIGNATURE, _ENCRYPTED, _STORED, _DEFLATED = b"PK\x03\x04", 1, 0, 8


class _Found(NamedTuple):
    """A member of an archive whose name promises an image."""

    archive: Path
    name: str
    key: str
    member: Member


def is_archive(path: Path) -> bool:
    """Whether a file is taken as an archive of images, by its name.

    Raises:
        ValueError: it is a packed '.tar', which cannot be read from the middle.
    """
    if path.name.lower().endswith(_PACKED):
        raise ValueError(
            f"{path} is packed, and its images lie at no fixed place: unpack it to .tar"
        )
    return path.suffix.lower() in ARCHIVES


def archive_entries(paths: Sequence[Path]) -> tuple[ImageEntry, ...]:
    """The images in archives, in order; the bytes of none are read.

    A member is an image by its name's last suffix; arrays (.npy, .npz) count where there is nothing
    else. Its id is WebDataset's key: its path up to the first dot of its name; in a '.zip' all of
    the path. Ids that several would have are ARCHIVE/PATH. Of a path that an archive holds twice,
    the last counts, as when it is unpacked. Links and hidden files do not count.

    Args:
        paths: '.tar' and '.zip' files.
    Raises:
        ValueError: a file is no archive, or is damaged where it says what it holds.
        FileNotFoundError: there is no such file.
    """
    found = [each for path in paths for each in _images(path)]
    suffixes = READ | NOT_READ
    if not any(_suffix(each.name) in suffixes for each in found):
        suffixes = ARRAYS
    unique = {(x.archive, x.name): x for x in found if _suffix(x.name) in suffixes}
    counts = Counter(each.key for each in unique.values())
    return tuple(
        ImageEntry(
            id=each.key if counts[each.key] == 1 else f"{id_of(archive)}/{name}",
            path=each.archive,
            member=each.member,
        )
        for each in unique.values()
        for archive, name in [(PurePosixPath(each.archive.name), _id(each.name))]
    )


def _images(path: Path) -> Iterator[_Found]:
    if problem := not_a_file(path):
        error = FileNotFoundError if problem == "no such file" else ValueError
        raise error(f"{path}: {problem}")
    list_members = _zip_members if path.suffix.lower() == ".zip" else _tar_members
    try:
        for name, member in list_members(path):
            file = PurePosixPath(name)
            hidden = file.name.startswith(".") or "__MACOSX" in file.parts
            if _suffix(name) in READ | NOT_READ | ARRAYS and not hidden:
                # Source: WebDataset, base_plus_ext.
                plain = _id(name)
                key = plain if member.zipped else re.sub(r"\.[^/]*$", "", plain) or plain
                yield _Found(path, name, key, member)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        kind = path.suffix[1:]
        raise ValueError(f"{path} is no {kind} archive, or damaged: {one_line(error)}") from error


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _id(name: str) -> str:
    return id_of(PurePosixPath(name))


def _tar_members(path: Path) -> Iterator[tuple[str, Member]]:
    size = path.stat().st_size
    with tarfile.open(path, "r:") as archive:
        place, end = -1, 0
        while True:
            try:
                info = archive.next()
            except tarfile.ReadError:
                # Cut within an image: what came before serves, and that image is reported.
                if end > size:
                    return
                raise
            if info is None:
                return
            if info.offset <= place or info.size < 0 or info.offset_data < 0:
                raise tarfile.ReadError(f"a header at {info.offset} after one at {place}")
            archive.members = []  # type: ignore[attr-defined] # of a million members, none is needed again
            place, end = info.offset, info.offset_data + info.size
            if info.isreg() and not info.issparse():
                yield info.name, Member(info.offset_data, info.size, False)


def _zip_members(path: Path) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # Not `is_dir`, which fails at a name of no letters.
            if not info.filename.endswith("/") and not stat.S_ISLNK(info.external_attr >> 16):
                yield info.filename, Member(info.header_offset, info.compress_size, True)


@contextmanager
def open_entry(entry: ImageEntry) -> Iterator[BinaryIO | io.BytesIO]:
    """An image's file, or its bytes in an archive, open at its start.

    Raises:
        Unreadable: it is no file, or it cannot be read out of its archive.
    """
    problem = "no file" if entry.path is None else not_a_file(entry.path)
    if problem or entry.path is None:
        raise Unreadable(problem or "no file")
    with entry.path.open("rb") as file:
        yield file if entry.member is None else io.BytesIO(_member_bytes(file, entry.member))


def _member_bytes(file: BinaryIO, member: Member) -> bytes:
    limit = most_bytes()
    offset, length, method = member.offset, member.length, _STORED
    if member.zipped:
        file.seek(offset)
        header = file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(_SIGNATURE):
            raise Unreadable("the archive holds no file where its list says so; was it changed?")
        flags, method, name, extra = _LOCAL.unpack(header)
        offset += _LOCAL.size + name + extra
        if flags & _ENCRYPTED:
            raise Unreadable("encrypted")
        if method not in (_STORED, _DEFLATED):
            raise Unreadable(f"packed by method {method} of zip; only 'deflate' is read")
    if length > limit:
        raise Unreadable(f"{length:,} bytes in an archive; at most {limit:,} are read")
    file.seek(offset)
    data = file.read(length)
    if len(data) < length:
        raise Unreadable(f"truncated: {len(data):,} of {length:,} bytes are in the archive")
    if method == _STORED:
        return data
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit + 1)
    except zlib.error as error:
        raise Unreadable(f"damaged in its archive: {one_line(error)}") from error
    if len(data) > limit:
        raise Unreadable(f"more than {limit:,} bytes when unpacked, which is not read")
    return data


def expand(pattern: str) -> list[Path]:
    """The files that a pattern names: braces as WebDataset writes them, then '*', '?' and '[...]'.

    >>> [path.name for path in expand("train-{008..010}.tar")]
    ['train-008.tar', 'train-009.tar', 'train-010.tar']
    >>> [path.name for path in expand("{train,test}.tar")]
    ['train.tar', 'test.tar']
    """
    paths = list[Path]()
    for name in _braces(pattern):
        if glob.has_magic(name):
            path = Path(name)
            paths += sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        else:
            paths.append(Path(name))
    return paths


def _braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    inside = match[1]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    choices = inside.split(",")
    if numbers is not None:
        first, last = numbers.groups()
        choices = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for choice in choices for name in _braces(before + choice + after)]

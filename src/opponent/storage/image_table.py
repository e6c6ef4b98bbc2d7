"""The table of a run's images: where each lies, so that the run finds them again."""

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from opponent.core.errors import RunError
from opponent.images.content import LENGTH
from opponent.images.imageset import ImageEntry, ImageSet, Member
from opponent.images.sources import Images, open_images
from opponent.storage.files import AnyPath
from opponent.storage.manifest import Manifest
from opponent.storage.shards import COMMAND
from opponent.storage.tables import PERHAPS_WHOLE, TEXT, damage_refused, read_table

BOX = ("top", "left", "height", "width")
_MEMBER_TYPES = (pa.int64(), pa.int64(), pa.bool_())


def image_table(images: ImageSet) -> pa.Table:
    """Ids, paths, boxes, and where there are such, places in archives and digests of contents.

    Paths are text, or bytes where a name is no valid text.
    """
    paths = [None if entry.path is None else str(entry.path.absolute()) for entry in images]
    try:
        path_column = pa.array(paths, pa.string())
    except UnicodeEncodeError:
        encoded = [None if path is None else os.fsencode(path) for path in paths]
        path_column = pa.array(encoded, pa.binary())
    columns = {"image": [entry.id for entry in images], "path": path_column}
    boxes = [entry.box or (None,) * 4 for entry in images]
    columns |= {name: pa.array([box[i] for box in boxes], pa.int32()) for i, name in enumerate(BOX)}
    if any(entry.member for entry in images):
        members = [entry.member or (None,) * 3 for entry in images]
        columns |= {
            name: pa.array([member[i] for member in members], kind)
            for i, (name, kind) in enumerate(zip(Member._fields, _MEMBER_TYPES, strict=True))
        }
    if any(entry.content for entry in images):
        columns["content"] = pa.array([entry.content for entry in images], pa.binary(LENGTH))
    return pa.table(columns)


def read_image_table(path: AnyPath) -> tuple[ImageEntry, ...]:
    """The images of a table.

    Raises:
        RunError: the table is missing or damaged.
    """
    # Column by column: a dictionary for each of a million rows takes gigabytes.
    kinds = {"image": TEXT, **dict.fromkeys(BOX, PERHAPS_WHOLE)}
    table = read_table(path, COMMAND, kinds, others=True)
    with damage_refused(path, COMMAND):
        columns = (table[name].to_pylist() for name in ("image", "path", *BOX))
        return tuple(
            ImageEntry(
                id=image,
                path=None if file is None else Path(os.fsdecode(file)),
                member=member,
                box=None if top is None else (top, left, height, width),
                content=content,
            )
            for (image, file, top, left, height, width), member, content in zip(
                zip(*columns, strict=True), _members(table), _contents(table), strict=True
            )
        )


def run_images(folder: AnyPath, manifest: Manifest, handed: Images | None) -> ImageSet:
    """The images of a run, in order; of a finished one they know what they contained.

    Args:
        folder: of the run.
        manifest: of the run.
        handed: the images, where they are no files.
    Raises:
        RunError: the list is missing or damaged, or other images were handed over.
    """
    path, record = folder / "images.parquet", manifest.images
    entries = read_image_table(path)
    with damage_refused(path, COMMAND):
        if len(entries) != record.count:
            raise ValueError(f"{len(entries):,} images, and {record.count:,} in manifest.json")
        listed = ImageSet(source=record.source, entries=entries)
    if handed is None:
        return listed
    given = open_images(handed, size=manifest.network.preprocessing.size)
    if given.digest() != record.sha256:
        raise RunError(
            f"{folder} was scanned with other images than {given.source!r} holds; hand over those "
            f"of {record.source!r}"
        )
    return given.with_contents([entry.content for entry in entries])


def _contents(table: pa.Table) -> list[bytes | None]:
    there = "content" in table.column_names
    return table["content"].to_pylist() if there else [None] * len(table)


def _members(table: pa.Table) -> Iterable[Member | None]:
    if not set(Member._fields) <= set(table.column_names):
        return [None] * len(table)
    columns = (table[name].to_pylist() for name in Member._fields)
    return (
        None if offset is None else Member(offset, length, zipped)
        for offset, length, zipped in zip(*columns, strict=True)
    )

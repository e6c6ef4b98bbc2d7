"""The table of a run's images: where each lies, so that the run finds them again."""

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from opponent.images.imageset import ImageEntry, ImageSet, Member
from opponent.storage.files import AnyPath
from opponent.storage.shards import COMMAND
from opponent.storage.tables import read_table

BOX = ("top", "left", "height", "width")
_MEMBER_TYPES = (pa.int64(), pa.int64(), pa.bool_())


def image_table(images: ImageSet) -> pa.Table:
    """Ids, paths, boxes, and places in archives, where there are such.

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
    return pa.table(columns)


def read_image_table(path: AnyPath) -> tuple[ImageEntry, ...]:
    """The images of a table.

    Raises:
        RunError: the table is missing or damaged.
    """
    # Column by column: a dictionary for each of a million rows takes gigabytes.
    table = read_table(path, COMMAND)
    columns = (table[name].to_pylist() for name in ("image", "path", *BOX))
    return tuple(
        ImageEntry(
            id=image,
            path=None if file is None else Path(os.fsdecode(file)),
            member=member,
            box=None if top is None else (top, left, height, width),
        )
        for (image, file, top, left, height, width), member in zip(
            zip(*columns, strict=True), _members(table), strict=True
        )
    )


def _members(table: pa.Table) -> Iterable[Member | None]:
    if not set(Member._fields) <= set(table.column_names):
        return [None] * len(table)
    columns = (table[name].to_pylist() for name in Member._fields)
    return (
        None if offset is None else Member(offset, length, zipped)
        for offset, length, zipped in zip(*columns, strict=True)
    )

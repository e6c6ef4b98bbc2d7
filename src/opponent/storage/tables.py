"""Parquet tables: written whole, read with their checksums, and damage told in one line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from opponent.core.errors import RunError
from opponent.storage.files import AnyPath, atomic_write, local, opened


@contextmanager
def damage_refused(path: AnyPath, command: str | None = None) -> Iterator[None]:
    """Turn what reading a damaged file raises into a `RunError` that says how to mend it.

    Args:
        path: the file that is read.
        command: the command that writes it again, such as 'opponent scan', where that is known.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):  # of a file system elsewhere
        raise
    except (
        OSError, pa.ArrowException, SafetensorError, TypeError, ValueError, LookupError,
        RecursionError,
    ) as error:  # fmt: skip
        reason = str(error).partition("\n")[0]
        raise RunError(
            f"{path} is damaged ({reason}); delete it and give the same "
            + (f"`{command}` again" if command else "command again")
        ) from error


def write_table(path: AnyPath, table: pa.Table) -> None:
    """Write a table whole, compressed, with checksums."""
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _lists_of(holds: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: pa.types.is_list(kind) and holds(kind.value_type)


# What a column may hold.
TEXT, WHOLE, NUMBER = "texts", "whole numbers", "numbers"
TEXTS, NUMBERS = "lists of texts", "lists of numbers"
# The only one in which values may be missing.
PERHAPS_WHOLE = "whole numbers or nothing"
_HOLDS: dict[str, Callable[[pa.DataType], bool]] = {
    TEXT: pa.types.is_string,
    WHOLE: pa.types.is_integer,
    PERHAPS_WHOLE: pa.types.is_integer,
    NUMBER: pa.types.is_floating,
    TEXTS: _lists_of(pa.types.is_string),
    NUMBERS: _lists_of(pa.types.is_floating),
}


def read_table(
    path: AnyPath,
    command: str,
    columns: Mapping[str, str],
    *,
    others: bool = False,
    filters: Sequence[tuple[str, str, Any]] | None = None,
) -> pa.Table:
    """Read columns of a table, or some of its rows.

    Args:
        path: the file.
        command: the command that writes it again.
        columns: which columns, in this order, and what each holds.
        others: read the other columns too, whatever they hold.
        filters: conditions on rows, as pyarrow takes them.
    Raises:
        RunError: the file is damaged or missing, or a column holds something else.
    """
    with damage_refused(path, command), opened(path) as file:
        table = pq.read_table(
            file,
            columns=None if others else list(columns),
            filters=None if filters is None else list(filters),
            page_checksum_verification=True,
        )
        for name, holds in columns.items():
            _check_column(table, name, holds)
        return table


# Of what type a column is written that holds so.
_TYPES = {
    TEXT: pa.string(),
    WHOLE: pa.int64(),
    NUMBER: pa.float64(),
    TEXTS: pa.list_(pa.string()),
    NUMBERS: pa.list_(pa.float64()),
}


def schema_of(columns: Mapping[str, str]) -> pa.Schema:
    """The schema of a table with these columns, whose types are known without a row."""
    return pa.schema({name: _TYPES[holds] for name, holds in columns.items()})


def _check_column(table: pa.Table, name: str, holds: str) -> None:
    if name not in table.column_names:
        raise ValueError(f"it has no column {name!r}")
    column = table[name]
    if not _HOLDS[holds](column.type):
        raise ValueError(f"{name!r} holds no {holds}: {column.type}")
    missing = column.null_count
    if pa.types.is_list(column.type):
        missing += pc.list_flatten(column).null_count
    if missing and holds != PERHAPS_WHOLE:
        raise ValueError(f"{missing} values of {name!r} are missing")


def read_metadata(path: AnyPath, command: str) -> dict[bytes, bytes]:
    """A table's own metadata; none where it has none.

    Raises:
        RunError: the file is damaged or missing.
    """
    with damage_refused(path, command), opened(path) as file:
        return dict(pq.read_schema(file).metadata or {})


def read_arrays(path: AnyPath) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file, and its metadata.

    Raises:
        OSError, SafetensorError: the file is missing or damaged.
    """
    with local(path) as here, safe_open(here, framework="numpy") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return arrays, dict(file.metadata() or {})


def read_about(path: AnyPath) -> dict[str, str]:
    """The metadata of a safetensors file; its arrays are not read.

    Raises:
        OSError, SafetensorError: the file is missing or damaged.
    """
    with local(path) as here, safe_open(here, framework="numpy") as file:
        return dict(file.metadata() or {})


def refuse_not_finite(table: pa.Table) -> None:
    """Refuse a table with numbers, or lists of them, that are not finite.

    Raises:
        ValueError: it has some.
    """
    for name in table.column_names:
        column = table[name]
        values = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        if pa.types.is_floating(values.type) and pc.all(pc.is_finite(values)).as_py() not in (
            True,
            None,
        ):
            raise ValueError(f"a value of {name!r} is not finite")


def floats(batches: Sequence[Float[np.ndarray, " _"]]) -> pa.Array:
    """One column of numbers from those of several batches."""
    return pa.array(np.concatenate([np.empty(0, np.float32), *batches]), pa.float32())


def lists(batches: Sequence[Float[np.ndarray, "_ ..."]]) -> pa.Array:
    """One column of lists, a list for each first index of the arrays; lengths may differ."""
    lengths = [len(row.ravel()) for batch in batches for row in batch]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, floats([batch.ravel() for batch in batches]))


def matrix(column: pa.ChunkedArray, width: int = 0) -> Float[np.ndarray, "n m"]:
    """A column of lists of one length as an array, one row a list.

    Args:
        column: the lists.
        width: a row's length where there is none.
    """
    chunks = (chunk.flatten().to_numpy() for chunk in column.chunks)
    values = np.concatenate([np.empty(0, np.float32), *chunks])
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, width)


def refuse_other_lengths(column: pa.ChunkedArray, length: int, name: str) -> None:
    """Refuse a column of lists of another length.

    Args:
        column: the lists.
        length: what they have to have.
        name: of the column, for the message.
    Raises:
        ValueError: there is one.
    """
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if any(each != length for each in lengths):
        raise ValueError(f"{name!r} has lists of {lengths[:3]} numbers, not of {length}")

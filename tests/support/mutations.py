"""Damage that a file may have: what an accident leaves, and what somebody makes up."""

import io
import json
import struct
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# What may stand in the place of any value of a JSON file.
ABSURD: list[Any] = [
    None, True, -1, 0, 1, 10**12, 10**400, -(10**12), 0.5, 1e308, float("inf"), float("nan"),
    "", "x", "../../x", "\x1b[2J", "a\nb", "$(id)", "x" * 300, "\u202e", [], {}, [None], [[[[]]]],
    {"a": {}}, [-1] * 4, [10**9] * 4, ["x"] * 3,
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values lie in a JSON text, the text itself among them."""
    yield at
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = list(enumerate(value))[:3]
    for key, item in items:
        yield from places(item, (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """The same JSON value with another at a place."""
    if not at:
        return new
    changed = deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return changed


def without(value: Any, at: tuple[Any, ...]) -> Any:
    """The same JSON value without what lies at a place."""
    changed = deepcopy(value)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    del inner[at[-1]]
    return changed


def json_mutations(
    content: bytes, random: np.random.Generator, count: int
) -> Iterator[tuple[str, bytes]]:
    """So many ways in which a JSON file may be wrong, with their names."""
    value = json.loads(content)
    everywhere = list(places(value))
    for _ in range(count):
        at = everywhere[random.integers(len(everywhere))]
        name = ".".join(map(str, at))
        kind = random.integers(12)
        if kind == 0 and at:
            yield f"without {name}", json.dumps(without(value, at)).encode()
        elif kind == 1:
            deep = "[" * 100_000 + "]" * 100_000
            text = json.dumps(put(value, at, "DEEP")).replace('"DEEP"', deep)
            yield f"deep at {name}", text.encode()
        else:
            new = ABSURD[random.integers(len(ABSURD))]
            yield f"{name} = {str(new)[:30]!r}", json.dumps(put(value, at, new)).encode()


def parquet_mutations(
    content: bytes, random: np.random.Generator, count: int
) -> Iterator[tuple[str, bytes]]:
    """So many ways in which a table may be wrong, with their names."""
    table = pq.read_table(io.BytesIO(content))
    for _ in range(count):
        name = table.column_names[random.integers(table.num_columns)]
        place = table.column_names.index(name)
        kind = random.integers(9)
        about = table.schema.metadata
        if kind == 0:
            changed = table.drop_columns([name])
        elif kind == 1:
            changed = table.slice(0, len(table) // 2)
        elif kind == 2:
            changed = pa.concat_tables([table] * 3)
        elif kind == 3:
            text = pa.array(["../../x\x1b[2J"] * len(table))
            changed = table.set_column(place, name, text)
        elif kind == 4:
            changed = table.set_column(place, name, pa.nulls(len(table), table[name].type))
        elif kind == 5:
            values = [float("nan"), 1e308, -1e308, float("inf")]
            numbers = pa.array(random.choice(values, len(table)))
            if pa.types.is_list(table[name].type):
                numbers = pa.array([[x, x] for x in numbers.to_pylist()])
            changed = table.set_column(place, name, numbers)
        elif kind == 6:
            changed = table.set_column(place, name, pa.array([-(2**62)] * len(table)))
        elif kind == 7:
            changed = table.replace_schema_metadata(None)
        else:
            wrong = [b"", b"{}", b"[1]", b"\xff", b"null", b"00" * 9]
            key = list(about or {b"x": b""})[random.integers(len(about or [1]))]
            new = wrong[random.integers(len(wrong))]
            changed = table.replace_schema_metadata({**(about or {}), key: new})
        file = io.BytesIO()
        pq.write_table(changed, file, compression="zstd", write_page_checksum=True)
        yield f"{name}: kind {kind}", file.getvalue()


def byte_mutations(
    content: bytes, random: np.random.Generator, count: int
) -> Iterator[tuple[str, bytes]]:
    """So many ways in which bytes may be wrong: cut, flipped, others in their place, none."""
    for _ in range(count):
        kind, at = random.integers(5), int(random.integers(max(1, len(content))))
        if kind == 0:
            yield f"cut at {at}", content[:at]
        elif kind == 1:
            changed = bytearray(content)
            changed[at] ^= 1 << int(random.integers(8))
            yield f"a bit at {at}", bytes(changed)
        elif kind == 2:
            yield f"noise from {at}", content[:at] + random.bytes(max(0, len(content) - at))
        elif kind == 3:
            header = struct.pack("<Q", int(random.choice([0, 2**20, 2**40, 2**63])))
            yield "another length", header + content[8:]
        else:
            yield (
                "another file",
                random.choice(
                    np.array([b"", b"%!PS-Adobe\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"{}"])
                ).item(),
            )


MUTATIONS = {".json": json_mutations, ".parquet": parquet_mutations}


def mutations(
    name: str, content: bytes, random: np.random.Generator, count: int
) -> Iterator[tuple[str, bytes]]:
    """So many ways in which a file may be wrong: half of them by what it is, half by its bytes.

    Args:
        name: the file's.
        content: its bytes.
        random: what chooses.
        count: how many.
    """
    suffix = "." + name.rpartition(".")[2]
    known = MUTATIONS.get(suffix)
    if known is None:
        yield from byte_mutations(content, random, count)
        return
    yield from known(content, random, count - count // 4)
    yield from byte_mutations(content, random, count // 4)

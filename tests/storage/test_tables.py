"""Tables: they come back with their checksums, and damage is said in one line."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from safetensors import SafetensorError

from opponent.core.errors import RunError
from opponent.storage.files import AnyPath, to_path
from opponent.storage.tables import (
    NUMBER,
    NUMBERS,
    TEXT,
    TEXTS,
    WHOLE,
    damage_refused,
    floats,
    lists,
    matrix,
    read_metadata,
    read_table,
    write_table,
)  # fmt: skip

TABLE = pa.table({"name": ["a", "b", "c"], "number": [1, 2, 3]})


@pytest.fixture(params=["here", "elsewhere"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPath]:
    if request.param == "here":
        yield tmp_path
        return
    pytest.importorskip("upath")
    folder = to_path("memory://opponent-tests/tables")
    yield folder
    folder.fs.rm("/opponent-tests", recursive=True) if folder.fs.exists("/opponent-tests") else None


def test_a_table_comes_back(folder: AnyPath) -> None:
    path = folder / "a" / "t.parquet"
    write_table(path, TABLE.replace_schema_metadata({b"why": b"because"}))
    assert read_table(path, "opponent scan", {}, others=True).equals(TABLE)
    assert read_metadata(path, "opponent scan")[b"why"] == b"because"
    assert read_table(path, "x", {"number": WHOLE}).column_names == ["number"]
    both = {"number": WHOLE, "name": TEXT}
    assert read_table(path, "x", both).column_names == ["number", "name"]
    assert read_table(path, "x", {"name": TEXT}, others=True).column_names == ["name", "number"]
    some = read_table(path, "x", {"name": TEXT}, filters=[("number", ">", 1)])
    assert some["name"].to_pylist() == ["b", "c"]
    assert [file.name for file in path.parent.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"nothing of the kind", None])
def test_a_damaged_table_is_told(folder: AnyPath, content: bytes | None) -> None:
    path = folder / "t.parquet"
    write_table(path, TABLE)
    path.unlink() if content is None else path.write_bytes(content)
    message = r"t\.parquet is damaged \(.+\); delete it and give the same `opponent scan` again$"
    reads: list[Callable[[], object]] = [
        lambda: read_table(path, "opponent scan", {"name": TEXT}),
        lambda: read_metadata(path, "opponent scan"),
    ]
    for read in reads:
        with pytest.raises(RunError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="is damaged"):
        read_table(path, "x", {"nowhere": TEXT})


@pytest.mark.parametrize(
    ("holds", "wrong"),
    [
        (TEXT, [1]), (TEXT, [b"a"]), (WHOLE, ["1"]), (WHOLE, [1.0]), (NUMBER, [1]), (NUMBER, ["1"]),
        (TEXTS, ["a"]), (TEXTS, [[1]]), (NUMBERS, [1.0]), (NUMBERS, [["a"]]), (NUMBERS, [{"a": 1}]),
    ],
)  # fmt: skip
def test_a_column_of_something_else_is_damage(
    tmp_path: Path, holds: str, wrong: list[object]
) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"x": wrong}))
    for others in (False, True):
        with pytest.raises(RunError, match=rf"t\.parquet is damaged \('x' holds no {holds}: "):
            read_table(path, "x", {"x": holds}, others=others)


def test_a_table_without_a_column_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, TABLE)
    with pytest.raises(RunError, match=r"t\.parquet is damaged .*nowhere"):
        read_table(path, "x", {"name": TEXT}, filters=[("nowhere", "==", 1)])
    pq.write_table(TABLE, path, store_schema=False)
    assert read_metadata(path, "x") == {}


def test_a_flipped_bit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"number": np.arange(1000) * 7919 % 1000}))
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    content = bytearray(path.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="is damaged"):
        read_table(path, "x", {"number": WHOLE})


ERRORS = [
    OSError("no\nsuch disk"),
    PermissionError("not yours"),
    pa.ArrowInvalid("a\nb"),
    SafetensorError("header"),
    TypeError("type"),
    ValueError("value"),
    KeyError("key"),
    IndexError("index"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_damage_raises_is_one_line(error: Exception) -> None:
    match = r"^x is damaged \([^\n]+\); delete it and give the same command again$"
    with pytest.raises(RunError, match=match), damage_refused(Path("x")):
        raise error


@pytest.mark.parametrize(
    ("command", "end"), [("opponent scan", "`opponent scan` again"), (None, "command again")]
)
def test_it_names_the_command_where_that_is_known(command: str | None, end: str) -> None:
    with (
        pytest.raises(
            RunError, match=r"^x is damaged \(why\); delete it and give the same"
        ) as caught,
        damage_refused(Path("x"), command),
    ):
        raise ValueError("why")
    assert str(caught.value).endswith(f" the same {end}")


@pytest.mark.parametrize("kind", [ConnectionError, TimeoutError, KeyboardInterrupt, MemoryError])
def test_what_is_no_damage_goes_on(kind: type[BaseException]) -> None:
    with pytest.raises(kind, match="stop"), damage_refused(Path("x")):
        raise kind("stop")


NUMBERS = st.floats(width=32, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.lists(NUMBERS, max_size=4), max_size=4))
def test_a_column_of_numbers_is_its_batches(batches: list[list[float]]) -> None:
    column = floats([np.array(batch, np.float32) for batch in batches])
    assert column.type == pa.float32()
    assert column.to_pylist() == [value for batch in batches for value in batch]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=4), st.integers(1, 3), st.integers(1, 3), st.data())
def test_a_column_of_lists_is_its_batches(
    sizes: list[int], height: int, width: int, data: st.DataObject
) -> None:
    shapes = [(size, height, width) for size in sizes]
    batches = [data.draw(nps.arrays(np.float32, x, elements=NUMBERS)) for x in shapes]
    column = pa.chunked_array([lists(batches)])
    whole = np.concatenate([np.empty((0, height, width), np.float32), *batches])
    assert column.to_pylist() == [row.ravel().tolist() for row in whole]
    found = matrix(column, height * width)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, whole.reshape(len(whole), height * width))
    # In pieces, as tables of several shards have them, and with none at all.
    pieces = pa.chunked_array([lists([batch]) for batch in batches], type=column.type)
    np.testing.assert_array_equal(matrix(pieces, height * width), found)
    np.testing.assert_array_equal(matrix(column.slice(1), height * width), found[1:])


def test_lists_may_be_of_several_lengths() -> None:
    column = lists([np.ones((2, 3), np.float32), np.zeros((1, 0), np.float32)])
    assert column.to_pylist() == [[1, 1, 1], [1, 1, 1], []]

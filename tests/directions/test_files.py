"""Files of directions: ours, anyone's, damaged ones, and none that is unpickled."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.support.directions import ROWS, made, saved
from torch import Tensor, nn

from opponent import Directions


def test_what_is_saved_is_loaded(found: Directions, tmp_path: Path) -> None:
    for directions in (
        found,
        found.spread(2),
        made([[0.5, -1.0], [3.0, 0.0]], "kräftig", "β.2", layer=None),
    ):
        first = saved(directions, tmp_path / "new" / "a.safetensors")
        again = Directions.load(tmp_path / "new" / "a.safetensors")
        assert again.labels == directions.labels
        assert again.layer == directions.layer
        assert again.vectors.dtype == np.float32
        assert (again.vectors == directions.vectors).all()
        written = json.loads(json.dumps(directions.provenance)) or {"file": "a.safetensors"}
        assert again.provenance == written
        if directions.provenance:
            assert saved(again, tmp_path / "b.safetensors") == first
    assert [x.name for x in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def write(path: Path, **tensors: Tensor) -> Path:
    if path.suffix == ".npy":
        [values] = tensors.values()
        np.save(path, values.numpy(), allow_pickle=False)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


SUFFIXES = ("npy", "safetensors", "pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_anyones_array_is_called_by_its_file(
    suffix: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = write(tmp_path / f"my curves:v2@x.{suffix}", rows=torch.tensor(ROWS, dtype=dtype))
    directions = Directions.load(path)
    assert directions.labels == ("my_curves_v2_x-0", "my_curves_v2_x-1")
    assert directions.layer is None
    assert directions.provenance == {"file": path.name}
    assert directions.vectors.dtype == np.float32
    assert (directions.vectors == ROWS).all()
    assert directions.feature("mixed:my_curves_v2_x-1").vector == (3.0, 0.0, 0.25)


def test_brain_floats_and_learned_parameters_are_read(tmp_path: Path) -> None:
    rows = torch.tensor(ROWS)
    for path in (
        write(tmp_path / "a.safetensors", rows=rows.bfloat16()),
        write(tmp_path / "b.pt", rows=nn.Parameter(rows)),
    ):
        assert (Directions.load(str(path)).vectors == ROWS).all()


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_one_tensor_called_directions_is_taken_among_others(suffix: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"file.{suffix}", torch.tensor(ROWS)
    write(path, bias=torch.ones(3), directions=rows)
    assert (Directions.load(path).vectors == ROWS).all()
    write(path, bias=torch.ones(3), weight=rows)
    match = rf"file\.{suffix} holds 2 tensors and none called 'directions': give one array"
    with pytest.raises(ValueError, match=match):
        Directions.load(path)
    write(path)
    with pytest.raises(ValueError, match=r"holds 0 tensors and none called 'directions'"):
        Directions.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1.0, 2.0], r"holds an array of shape \(2,\) .* one row a direction"),
        ([[[1.0, 2.0]]], r"holds an array of shape \(1, 1, 2\) .* one row a direction"),
        (2.0, r"holds an array of shape \(\) "),
        (np.ones((0, 3)), r"there is no direction in an array of shape \(0, 3\)"),
        (np.ones((3, 0)), r"there is no direction in an array of shape \(3, 0\)"),
        ([[1.0, 2.0], [math.nan, 1.0]], r"direction 1 \('file-1'\) of 2 holds NaN or infinity"),
        ([[1.0, 2.0], [1.0, -math.inf]], r"direction 1 \('file-1'\) of 2 holds NaN or infinity"),
        ([[0.0, -0.0], [1.0, 0.0]], r"direction 0 \('file-0'\) of 2 is zero"),
    ],
)
def test_arrays_that_are_no_directions_are_refused(
    suffix: str, values: object, match: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"file.{suffix}", rows=torch.tensor(values))
    with pytest.raises(ValueError, match=rf"file\.{suffix}:? {match}"):
        Directions.load(path)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, bool, np.complex64, "S4"])
def test_arrays_of_other_types_are_refused(kind: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "file.npy", np.ones((2, 3)).astype(kind), allow_pickle=False)
    with pytest.raises(ValueError, match=r"file\.npy holds .* numbers with a point"):
        Directions.load(tmp_path / "file.npy")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    np.save(tmp_path / "a.npy", np.array([[_Bomb()]], dtype=object), allow_pickle=True)
    torch.save({"weight": _Bomb()}, tmp_path / "a.pt")
    with pytest.raises(OSError, match=r"a\.npy is no array that can be read"):
        Directions.load(tmp_path / "a.npy")
    with pytest.raises(OSError, match=r"a\.pt is no file of weights that can be read safely"):
        Directions.load(tmp_path / "a.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"there is no file of .*none\.{suffix}"):
        Directions.load(tmp_path / f"none.{suffix}")
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"there is no file of .*folder\.{suffix}"):
        Directions.load(tmp_path / f"folder.{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_cut_short_cannot_be_read(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"file.{suffix}", rows=torch.tensor(ROWS))
    whole = path.read_bytes()
    for length in {0, 1, 5, len(whole) - 1, *range(0, len(whole), len(whole) // 20)}:
        path.write_bytes(whole[:length])
        with pytest.raises(OSError, match=rf"file\.{suffix} is no (array|file of weights) that"):
            Directions.load(path)


BEGINNINGS = (
    b"", b"\x80\x02", b"\x80\x04\x95", b"{}", b"\x02" + bytes(7) + b"{}", b"PK\x03\x04",
    b"\x93NUMPY\x01\x00",
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=60), st.sampled_from(SUFFIXES))
def test_garbage_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, beginning: bytes, rest: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"garbage.{suffix}"
    path.write_bytes(beginning + rest)
    with pytest.raises((OSError, ValueError), match=rf"garbage\.{suffix} (is no|holds) "):
        Directions.load(path)


@pytest.mark.parametrize("suffix", ["npy", "pt", "SAFETENSORS", ""])
def test_directions_are_saved_only_where_they_can_be_loaded(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"whose name ends \.safetensors"):
        made(ROWS).save(tmp_path / f"found.{suffix}")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "about", [{"labels": 5}, [1, 2], {"labels": [["a"], ["b"]]}, {"layer": 3}, {"provenance": 5}]
)
def test_metadata_of_others_is_passed_by(tmp_path: Path, about: object) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"directions": torch.eye(2)}, path, {"opponent": json.dumps(about)})
    assert Directions.load(path).labels == ("theirs-0", "theirs-1")

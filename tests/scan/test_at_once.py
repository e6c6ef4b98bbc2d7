"""Scans that begin in one folder at the same moment, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.scans import files, paint_shapes

pytestmark = pytest.mark.slow


def begin(pictures: Path, out: Path, unit: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "opponent", "scan", "inceptionv1-small", f"mixed3b:{unit}"]
    words += ["--through", "mixed3a", "--images", str(pictures), "--out", str(out)]
    words += ["--batch-size", "2", "--shard-size", "2"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_same_scan_three_times_is_one(tmp_path: Path) -> None:
    pictures = paint_shapes(tmp_path / "in", 10)
    alone = begin(pictures, tmp_path / "alone", "189")
    alone.communicate()
    assert alone.returncode == 0
    together = [begin(pictures, tmp_path / "out", "189") for _ in range(3)]
    for each in together:
        _, said = each.communicate()
        assert each.returncode == 0, said
    assert files(tmp_path / "out") == files(tmp_path / "alone")


def test_of_different_scans_one_has_the_folder(tmp_path: Path) -> None:
    pictures = paint_shapes(tmp_path / "in", 10)
    together = {unit: begin(pictures, tmp_path / "out", unit) for unit in ("189", "7", "9")}
    codes = dict[str, int]()
    for unit, each in together.items():
        _, said = each.communicate()
        codes[unit] = each.returncode
        if each.returncode:
            assert "holds another scan (features was " in said
            assert said.count("\n") == 1
    assert sorted(codes.values()) == [0, 2, 2]
    [winner] = [unit for unit, code in codes.items() if not code]
    alone = begin(pictures, tmp_path / "alone", winner)
    alone.communicate()
    assert alone.returncode == 0
    assert files(tmp_path / "out") == files(tmp_path / "alone")

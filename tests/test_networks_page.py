"""The page on networks of other layouts: its commands run, from scan to report."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "networks.md"


def run(words: list[str], folder: Path) -> str:
    """A command of the page, with names for torchvision's operators where they are missing."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    operators = ["-W", "ignore", "-m", "benchmarks.torchvision_operators"]
    how = operators if words[0] == "opponent" else []
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, *how, *words[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "needs", "through", "shape"),
    [
        (0, "transformers", "vit.layers.1", [48, 8, 8]),
        (1, "torchvision", "backbone.6", [40, 12, 16]),
    ],
)
def test_the_page_runs_from_scan_to_report(
    number: int, needs: str, through: str, shape: list[int], tmp_path: Path
) -> None:
    pytest.importorskip(needs)
    for path in (ROOT / "docs" / "networks").glob("*.py"):
        shutil.copy(path, tmp_path)
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    # The second block uses the first one's photographs.
    lines = ["python pictures.py", *blocks[number].splitlines()]
    commands = [shlex.split(x.removeprefix("$ ")) for x in lines]
    printed = [run(words, tmp_path) for words in commands if words[0] != "cd"]
    [folder] = tmp_path.glob("*-run")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["through"] == through
    assert manifest["through_shape"] == shape
    assert manifest["placement"] is not None
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/") > 40
    if needs == "transformers":
        assert "8 x 8 + cls" in "".join(printed)
        assert manifest["tokens"] == ["cls"]
        assert list((folder / "figures").glob("figure4b-g*.png"))

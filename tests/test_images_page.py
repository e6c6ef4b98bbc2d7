"""The page on images of one's own: its commands run, from scan to report."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "images.md"


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the page's files, in which its last commands were given."""
    folder = tmp_path_factory.mktemp("user")
    for path in (ROOT / "docs" / "images").glob("*.py"):
        shutil.copy(path, folder)
    *_, block = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    first, *commands = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
    assert first == ["cd", "docs/images"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_WAIT_POLICY": "passive"}
    for words in commands:
        words = words[1:] if words[0] == "python" else ["-m", *words]
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "channels", "told"),
    [("cells-run", 1, [0, 4095]), ("scenes-run", 5, None), ("dataset-run", 5, None)],
)
def test_the_runs_are_of_the_networks(
    user: Path, run: str, channels: int, told: list[int] | None
) -> None:
    manifest = json.loads((user / run / "manifest.json").read_text())
    prepared = manifest["network"]["preprocessing"]
    assert (prepared["channels"], prepared["value_range"]) == (channels, told)
    assert manifest["images"]["count"] == 60
    assert (user / run / "unreadable.csv").read_text() == "image,reason\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "network", "channels"), [("cells-run", "microscope", 1), ("scenes-run", "satellite", 5)]
)
def test_the_reports_show_the_images(user: Path, run: str, network: str, channels: int) -> None:
    page = (user / run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/") > 60
    reason = f"images are synthesised in RGB only, and module:{network}:network takes {channels}"
    assert reason in page


@pytest.mark.slow
def test_the_data_set_is_of_the_same_images(user: Path) -> None:
    tables = [
        sorted((user / run / "scan").glob("*.parquet")) for run in ("scenes-run", "dataset-run")
    ]
    first, second = (pq.read_table(table[0]) for table in tables)
    assert first["activation"].to_pylist() == second["activation"].to_pylist()
    assert first["image"][3].as_py() == "003.npy"
    assert second["image"][3].as_py() == "3"

"""The page on extending, as a user of an installed package follows it, from another folder."""

import csv
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
EXAMPLES = sorted((ROOT / "docs" / "extending").glob("*.py"))
RULE = "smoothgrad-0.1/8/0"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds the package as its wheel does, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="session")
def user(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the five files, in which the page's commands were given."""
    folder = tmp_path_factory.mktemp("user")
    for path in EXAMPLES:
        shutil.copy(path, folder)
    [block] = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line.removeprefix("$ ")) for line in block.splitlines()]
    assert [words[:2] for words in commands[1:]] == [
        ["opponent", name] for name in ("scan", "select", "invert", "report")
    ]
    for words in commands[1:]:
        quick = ["--steps", "3"] if words[1] in ("invert", "report") else []
        extra = ["--csv", "chosen.csv"] if words[1] == "select" else []
        run([sys.executable, "-m", *words, *quick, *extra], folder, installed)
    return folder


def run(command: list[str], folder: Path, installed: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_the_files_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with_files = runpy.run_path(str(ROOT / "docs" / "make_extending.py"))["with_files"]
    assert with_files(page) == page
    assert len(EXAMPLES) == 5
    for path in EXAMPLES:
        assert f"<!-- extending/{path.name} -->" in page


@pytest.mark.slow
def test_the_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    place = run(
        [sys.executable, "-c", "import opponent; print(opponent.__file__)"], tmp_path, installed
    )
    assert Path(place.strip()).is_relative_to(installed)


@pytest.mark.slow
def test_a_scan_takes_the_rule_and_the_images(user: Path) -> None:
    manifest = json.loads((user / "run" / "manifest.json").read_text())
    assert manifest["rule"] == RULE
    assert manifest["images"]["count"] == 84


@pytest.mark.slow
def test_a_selection_has_a_group_of_its_own(user: Path) -> None:
    with (user / "chosen.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {"tense", "nearly_firing"}
    values = [float(row["activation"]) for row in rows if row["group"] == "nearly_firing"]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    assert values[0] < 0


@pytest.mark.slow
def test_an_inversion_takes_parameterisation_and_objective(user: Path) -> None:
    records = [json.loads(path.read_text()) for path in (user / "run" / "synthesis").glob("*.json")]
    own = [record for record in records if record["settings"]["parameterisation"] == "coarse-8"]
    assert {record["side"] for record in own} == {"excitation", "inhibition"}
    for record in own:
        assert record["settings"]["objective"] == "dot * cos^1 + 1000 * (smoothness)"


@pytest.mark.slow
def test_an_inversion_of_a_coarse_grid_is_smooth(user: Path) -> None:
    for path in (user / "run" / "synthesis").glob("*-000010-inversion-*.png"):
        record = json.loads(path.with_suffix(".json").read_text())
        if record["settings"]["parameterisation"] == "coarse-8":
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"), dtype=float)
            assert np.abs(np.diff(pixels, axis=0)).max() < 16


@pytest.mark.slow
def test_the_report_shows_group_rule_and_source(user: Path) -> None:
    page = (user / "run" / "report.html").read_text(encoding="utf-8")
    for words in ("nearly firing", "largest activation below zero", "#b7791f", RULE, "gratings"):
        assert words in page


@pytest.mark.slow
def test_python_takes_the_objects(user: Path, installed: Path, tmp_path: Path) -> None:
    for path in EXAMPLES:
        shutil.copy(path, tmp_path)
    [code] = re.findall(
        r"```python\n(import opponent\nfrom coarse.*?)```", PAGE.read_text(), re.DOTALL
    )
    code = code.replace("SynthesisSettings(", "SynthesisSettings(steps=2, ", 1)
    (tmp_path / "own.py").write_text(code + "print(run, chosen)\n")
    output = run([sys.executable, "own.py"], tmp_path, installed)
    assert "84 images" in output
    assert "Selected('nearly_firing': 5 images)" in output


@pytest.mark.slow
def test_a_run_by_an_own_rule_asks_for_it(user: Path, installed: Path) -> None:
    command = [sys.executable, "-m", "opponent", "invert", "run", "--image", "000010"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    for missing, words in (
        (["--images", "module:gratings:gratings"], f"by the rule '{RULE}'"),
        (["--rule", "module:smoothgrad:SmoothGrad"], "hand"),
        (["--images", "module:gratings:gratings", "--rule", "gradient"], "not by 'gradient'"),
    ):
        done = subprocess.run(
            [*command, *missing], cwd=user, env=environment, capture_output=True, text=True,
            timeout=120,
        )  # fmt: skip
        assert done.returncode == 2
        assert words in done.stderr.replace("\n", " ")

"""`opponent atlas`: what it prints, and what it says of mistakes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.atlas import files
from typer.testing import CliRunner

from opponent import AtlasSettings, Run, atlases
from opponent.cli import app

pytestmark = pytest.mark.usefixtures("one_thread")


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


@pytest.fixture(scope="module")
def small_run(wave_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan of the embedded network, over a few of the wave_pictures."""
    folder, images = tmp_path_factory.mktemp("embedded") / "run", tmp_path_factory.mktemp("few")
    for path in sorted(wave_pictures.glob("0??.png"))[:30]:
        shutil.copy(path, images)
    words = ("scan", "inceptionv1-small", "conv2d1:3", "--through", "conv2d0")
    within(*words, "--images", images, "--out", folder)
    return folder


def test_the_command_prints_the_figures_paths(small_run: Path) -> None:
    words = (
        "atlas",
        small_run,
        "--top",
        25,
        "--grid",
        1,
        "--min-images",
        2,
        "--steps",
        1,
        "--signed",
    )
    text = within(*words)
    assert "25 images" in text
    assert "1 cells" in text
    paths = [Path(word) for word in text.split() if word.endswith(".png")]
    names = ["figure6a", "figure6b", "atlas", "atlas-tension", "atlas-signed"]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    assert all(path.stat().st_size > 5000 for path in paths)
    [atlas] = atlases(Run(small_run))
    given = AtlasSettings(top=25, grid=1, min_images=2, steps=1)
    assert atlas.settings == given
    assert {path.parent for path in paths} == {atlas.folder}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top", 9], r"a map of 9 images: UMAP with 10 neighbours needs at least 20"),
        (["--feature", "mixed3b:1"], r"holds no 'mixed3b:1'; it holds conv2d1:3"),
    ],
)
def test_a_commands_mistakes_are_explained(small_run: Path, words: list[Any], message: str) -> None:
    before = set(files(small_run))
    with pytest.raises(ValueError, match=message):
        within("atlas", small_run, *words)
    assert set(files(small_run)) == before


def test_a_commands_mistake_is_one_line_without_a_traceback(small_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "opponent", "atlas", str(small_run), "--top", "9"],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.strip().splitlines() if "needs at least 20" in line]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr

"""`opponent directions`, and a scan of what it found."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support.directions import paint_shapes
from typer.testing import CliRunner

from opponent import Directions, Run
from opponent.cli import app

pytestmark = pytest.mark.usefixtures("one_thread")


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_finds_directions_and_scans_them(tmp_path: Path) -> None:
    folder, file = paint_shapes(tmp_path / "pictures", 12), tmp_path / "made" / "found.safetensors"
    words = ("directions", "inceptionv1-small", "mixed3a", "--images", folder, "--k", 5)
    text = within(*words, "--spread", 2, "--out", file)
    assert f"{file}: 5 directions of mixed3a" in text
    assert sorted(x.name for x in file.parent.iterdir()) == [
        "found-spread.safetensors",
        "found.safetensors",
    ]
    everything = Directions.load(file)
    assert everything.vectors.shape[0] == 5
    assert everything.layer == "mixed3a"
    few = Directions.load(file.with_name("found-spread.safetensors"))
    assert few.labels == everything.spread(2).labels
    assert ", ".join(few.labels) in text
    first = file.read_bytes()
    within(*words, "--out", file)
    assert file.read_bytes() == first

    scanning = ("scan", "inceptionv1-small", "mixed3a:kmeans0", "mixed3a:7", "--directions", file)
    rest = ("--through", "maxpool1", "--images", folder, "--out", tmp_path / "run")
    assert "12 images scanned" in within(*scanning, *rest, "--power", 2)
    run = Run(tmp_path / "run")
    assert [x.label for x in run.features] == ["mixed3a:kmeans0@7,7", "mixed3a:7@7,7"]
    assert [x.power for x in run.features] == [2, 0]
    np.testing.assert_array_equal(
        np.asarray(run.features[0].vector, np.float32), everything.vectors[0]
    )
    assert run.columns(run.features[0]).activation.any()

    wrong = ("scan", "inceptionv1-small", "mixed3a:kmeens0", "--directions", file)
    unmade = ("--through", "maxpool1", "--images", folder, "--out", tmp_path / "none")
    result = subprocess.run(
        [sys.executable, "-m", "opponent", *map(str, (*wrong, *unmade))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    [line] = result.stderr.strip().splitlines()
    assert "there is no direction 'kmeens0' among these 5" in line
    assert "kmeans0" in line
    assert not (tmp_path / "none").exists()


SCAN_SMALL = ("scan", "inceptionv1-small", "mixed3a:kmeans0", "--through", "maxpool1")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("directions", "inceptionv1-small", "mixed3z", "--k", 2), r"no layer 'mixed3z'"),
        (("directions", "inceptionv1-small", "mixed3a", "--k", 9), r"k = 9 .* from 3 images"),
        (
            ("directions", "inceptionv1-small", "mixed3a", "--k", 2, "--spread", 3),
            r"--spread 3 is more than the --k 2 directions",
        ),
        (
            SCAN_SMALL,
            r"'kmeans0' .* is not a unit's number; .* a direction's name needs its file",
        ),
        (
            (*SCAN_SMALL, "--directions", "absent.npy"),
            r"there is no file of directions at absent\.npy",
        ),
    ],
)
def test_mistakes_in_the_command_are_explained(
    words: tuple[object, ...], match: str, tmp_path: Path
) -> None:
    folder, file = paint_shapes(tmp_path / "pictures", 3), tmp_path / "found.safetensors"
    given = [*words, "--images", folder, "--out", file]
    with pytest.raises((ValueError, OSError), match=match):
        CliRunner().invoke(app, list(map(str, given)), catch_exceptions=False)
    assert [x.name for x in tmp_path.iterdir()] == ["pictures"]

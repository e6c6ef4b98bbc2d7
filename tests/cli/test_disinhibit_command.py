"""`opponent disinhibit`, as a person gives it."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from opponent import Dictionary
from opponent.cli import app

WORDS = ["disinhibit", "inceptionv1-small", "mixed3b:50", "--through", "mixed3a"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of coarse blots, called after two classes, and one file that is none."""
    folder = tmp_path_factory.mktemp("blots")
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
        name = f"{'n01440764' if number % 2 else 'n01443537'}_{number}.png"
        Image.fromarray(pixels).resize((100, 100), Image.Resampling.NEAREST).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


def test_it_writes_tables_and_figures_and_goes_on(pictures: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "channels.safetensors", tmp_path / "out"
    Dictionary.identity(128, "mixed3a").save(file)
    words = [*WORDS, "--images", str(pictures), "--dictionary", str(file), "-k", "3"]
    words += ["--draws", "2", "--out", str(out)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "40 images; 1 are left out" in result.output
    first = [line.split() for line in result.output.splitlines()]
    ways = ["all", "most", "random", "functional", "most-latents", "random-latents"]
    assert [x[1] for x in first if x and x[0] == "mixed3b:50@7,7"] == ways
    about = json.loads((out / "disinhibition.json").read_text(encoding="utf-8"))
    assert about["question"]["dictionary"]["latents"] == 128
    assert "broken.jpg" in about["unreadable"]
    table = pq.read_table(out / "disinhibition.parquet")
    assert table.num_rows == 40 * 8
    with (out / "disinhibition.csv").open(newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 40 * 8
    one, other = (
        table.filter([x == name for x in table["ablation"].to_pylist()])["exact"].to_pylist()
        for name in ("all", "functional")
    )
    assert one == other
    named = {path.name for path in out.iterdir() if path.suffix in (".csv", ".png")}
    assert named == {
        "disinhibition.csv", "rates.csv", "summary.csv", "predictors.csv",
        "before-after-mixed3b-50-7_7.png", "newly-firing-mixed3b-50-7_7.png",
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = CliRunner().invoke(app, words, catch_exceptions=False)
    assert again.output == result.output
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_what_does_not_fit_is_said(pictures: Path, tmp_path: Path) -> None:
    words = [*WORDS, "--images", str(pictures), "--out", str(tmp_path / "out")]
    for more, message in (
        (["-k", "129"], "k = 129, and the through layer"),
        (["--labels", "wordnet"], "labels are for units of the network's output"),
        (["--format", "gif"], "figures are png, pdf, svg"),
    ):
        result = CliRunner().invoke(app, [*words, *more])
        assert result.exit_code != 0
        assert message in str(result.exception)
    assert not (tmp_path / "out").exists()

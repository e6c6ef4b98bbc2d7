"""Files and figures of uniqueness, and the command."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from opponent import Feature, Network
from opponent.cli import app
from opponent.paper.uniqueness.assessment import assess
from opponent.paper.uniqueness.contrasts import contrast
from opponent.paper.uniqueness.measurements import FeatureMeasurements
from opponent.paper.uniqueness.results import _finite, write_uniqueness

pytestmark = pytest.mark.usefixtures("one_thread")


def test_results_are_written(small: Network, measured: FeatureMeasurements, tmp_path: Path) -> None:
    measured = replace(measured, folder=tmp_path / "out")
    assessment, contrasts = assess(measured, 6), contrast(measured, 6)
    # Unit 3 of 'third' has no weight, and may be among those drawn.
    dead = Feature(layer="third", unit=3) in measured.group("third", "units").features
    assert {x.skipped for x in assessment.table if (x.layer, x.kind) == ("third", "units")} == {
        dead
    }
    steps: list[tuple[str, int, int]] = []
    paths = write_uniqueness(
        small, measured, assessment, contrasts, progress=lambda *step: steps.append(step)
    )
    names = ["uniqueness-m6.json", "uniqueness-m6.parquet", "controls-m6.parquet"]
    names += ["figure8a-m6.png", "figure8b-third-m6.png", "figure16-m6.png", "controls-m6.png"]
    assert [path.name for path in paths] == names
    assert steps[-1] == ("drawing", 4, 4)
    text = paths[0].read_text(encoding="utf-8")
    values = json.loads(text, parse_constant=pytest.fail)
    assert values["weights_sha256"] == small.weights_sha256()
    assert values["versions"]["torch"] == torch.__version__
    assert (values["top"], values["read"], list(values["unreadable"])) == (6, 60, ["broken.jpg"])
    assert len(values["table"]) == 3 * 2 * 3
    assert values["table"][0]["value"] == assessment.table[0].value
    assert len(values["features"]) == 6
    assert pq.read_table(paths[1]).to_pylist() == values["table"]
    assert pq.read_table(paths[2]).to_pylist() == values["sharing"]
    # Layers x kinds x norms x ways x controls.
    assert len(values["sharing"]) == 3 * 2 * 2 * 3 * 2
    first = contrasts.sharing[0]
    assert values["sharing"][0]["more_low"] == first.more.low
    assert len(values["parallel"]) == 3 * 2 * 3
    assert {x["features"] for x in values["parallel"]} <= {4, 5}
    before = [path.read_bytes() for path in paths]
    assert [
        x.read_bytes() for x in write_uniqueness(small, measured, assessment, contrasts)
    ] == before
    with pytest.raises(ValueError, match="'first' was not measured; there are second, third"):
        write_uniqueness(small, measured, assessment, contrasts, show="first")


def test_not_a_number_is_none_in_json() -> None:
    assert _finite({"a": math.nan, "b": 1.5, "c": "x"}) == {"a": None, "b": 1.5, "c": "x"}


def test_the_command(pictures: Path, tmp_path: Path) -> None:
    words = ["uniqueness", "inceptionv1-small", "--images", pictures, "--out", tmp_path / "out"]
    words += ["--layers", "conv2d1,conv2d2", "--features", 3, "--kmeans", 6]
    for more, m in (([], 1), (["--top", 5, "--format", "svg", "--show", "conv2d2"], 5)):
        result = CliRunner().invoke(app, [*map(str, (*words, *more))], catch_exceptions=False)
        assert result.exit_code == 0
        assert f"top m = {m} of N = 60 images" in result.output
        assert "1 images are left out" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"figure8a-m1.png", "figure8a-m5.svg", "figure8b-conv2d2-m5.svg"} <= names
    values = json.loads((tmp_path / "out" / "uniqueness-m5.json").read_text())
    assert {x["layer"] for x in values["table"]} == {"conv2d1", "conv2d2"}

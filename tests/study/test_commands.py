"""`opponent experiment`, as a person gives it: build, simulate, analyse, export; serve's help.

`serve` itself is tested where the server is.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file
from tests.support.pictures import paint_noise
from tests.support.study import as_json, small_study
from tests.support.weights import drawn, write
from typer.testing import CliRunner

from opponent.cli import app
from opponent.core.errors import RunError
from opponent.models.registry import load
from opponent.scan.local import scan_images
from opponent.study.analysis.report import analyse_folder
from opponent.study.design.study import Study
from opponent.study.server import server, site

PLAN = {"draws": 200, "power_draws": 2, "power_for": [4]}


def within(*words: object) -> str:
    """Run `opponent experiment ...` here, and give what it printed."""
    arguments = ["experiment", *map(str, words)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Scans of two early layers of the embedded network; to be read only."""
    folder = tmp_path_factory.mktemp("embedded")
    pictures, network = paint_noise(folder / "pictures", 300, (64, 64)), load()
    for layer, through in (("conv2d0", "pixels"), ("conv2d1", "conv2d0")):
        features = [f"{layer}:{unit}" for unit in range(8)]
        scan_images(network, pictures, features, through, out=folder / layer)
    return [folder / "conv2d1", folder / "conv2d0"]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A small study; to be read only."""
    folder = tmp_path_factory.mktemp("commands") / "study"
    return small_study(folder, features=3, layers=("a", "b"), analysis=PLAN)


@pytest.mark.parametrize("name", ["build", "simulate", "analyse", "serve", "export"])
def test_help_has_an_example(name: str) -> None:
    text = " ".join(within(name, "--help").split())
    assert "Example" in text
    assert f"opponent experiment {name}" in text


def test_serve_refuses_what_is_not_filled_in(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(small.folder, tmp_path / "study")
    path = tmp_path / "study" / "study.json"
    values = json.loads(path.read_text())
    values["consent"]["text"] = "Who is responsible: [name]."
    path.write_text(json.dumps(values))
    served = list[dict[str, Any]]()
    monkeypatch.setattr(server, "serve", lambda _, **given: served.append(given))
    monkeypatch.setattr(site, "page_files", lambda _, pilot: {"pilot": pilot})
    done = CliRunner().invoke(app, ["experiment", "serve", str(tmp_path / "study")])
    assert isinstance(done.exception, ValueError)
    assert "consent ([name])" in str(done.exception)
    assert "--pilot" in str(done.exception)
    assert served == []
    within("serve", tmp_path / "study", "--pilot")
    assert [(x["files"], x["answers"]) for x in served] == [({"pilot": True}, "pilot.sqlite3")]
    assert list(served[0]["names"]) == []
    names = ["study.example.org", "www.example.org"]
    within("serve", tmp_path / "study", "--pilot", "--name", names[0], "--name", names[1])
    assert served[1]["names"] == names


@pytest.mark.slow
def test_build(small_runs: list[Path], tmp_path: Path) -> None:
    words = ["build", *small_runs, "--out", tmp_path / "study", "--features", 1]
    words += ["--label", "early", "--label", "late", "--format", "svg"]
    text = within(*words)
    study = Study(tmp_path / "study")
    assert study.layers == ("conv2d0", "conv2d1"), "from the first to the last"
    assert [study.label(layer) for layer in study.layers] == ["early", "late"]
    rows = [line.split() for line in text.splitlines()]
    # Trials, catch trials, trials to practise with; then how many features were passed over.
    assert [row[:5] for row in rows if row[:1] == ["early"]] == [
        ["early", "conv2d0", "1", "1", "1"]
    ]
    assert [row[:5] for row in rows if row[:1] == ["late"]] == [["late", "conv2d1", "1", "1", "0"]]
    for name in ("sheet.html", "sheet-conv2d0.svg", "sheet-conv2d1.svg"):
        assert str(study.folder / name) in text
        assert (study.folder / name).is_file()
    assert f"fill in consent, debriefing, codes in {study.folder / 'study.json'}" in text
    before = (study.folder / "trials.parquet").read_bytes()
    assert within(*words) == text
    assert (study.folder / "trials.parquet").read_bytes() == before


@pytest.mark.slow
def test_build_refuses(small_runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="figures are png"):
        within("build", *small_runs, "--out", tmp_path / "study", "--format", "gif")
    with pytest.raises(ValueError, match="1 labels for 2 layers: conv2d0, conv2d1"):
        within("build", *small_runs, "--out", tmp_path / "study", "--label", "early")
    assert not any(tmp_path.iterdir())


def test_simulate_and_analyse(small: Study, tmp_path: Path) -> None:
    words = ["--participants", 3, "--skill", "perfect", "--out", tmp_path / "answered"]
    text = within("simulate", small.folder, *words)
    assert f"3 simulated participants took part in {tmp_path / 'answered'}" in "".join(
        text.splitlines()
    )
    assert "next: opponent experiment analyse" in text
    text = within(
        "analyse", tmp_path / "answered", "--out", tmp_path / "results", "--format", "svg"
    )
    assert "3 of 3 simulated (perfect) participants analysed" in text
    assert "no test: the answers of a layer are all right" in text
    assert text.count("1.000") >= 8
    for name in ("analysis.json", "figure10.svg"):
        assert str(tmp_path / "results" / name) in text
    values = json.loads((tmp_path / "results" / "analysis.json").read_text())
    assert values == as_json(analyse_folder(Study(tmp_path / "answered")))
    with pytest.raises(ValueError, match="figures are png"):
        within("analyse", tmp_path / "answered", "--format", "gif")


def test_analyse_says_what_the_test_says(small: Study, tmp_path: Path) -> None:
    """Participants who see with random weights, so that what they answer is always the same."""
    file = write(tmp_path / "random.safetensors", drawn(load().module))
    words = ["--participants", 6, "--temperature", 0.1, "--layer", "mixed3a", "--seed", 1]
    words += ["--model", f"inceptionv1-small={file}"]
    within("simulate", small.folder, *words, "--out", tmp_path / "answered")
    text = within("analyse", tmp_path / "answered")
    values = as_json(analyse_folder(Study(tmp_path / "answered")))
    test, lines = values["test"], text.splitlines()
    assert "5 of 6 simulated (similarity) participants analysed (left out: 1 catch trials)" in text
    assert f"{test['question'].upper()}, a against b: {test['difference']:+.3f} " in text
    assert f"log odds ratio {test['estimate']:.2f} ± {test['error']:.2f}" in text
    power = ", ".join(f"{n}: {share:.2f}" for n, share in values["power"]["power"].items())
    assert any(line.endswith(f"number of participants: {power}") for line in lines)
    assert (tmp_path / "answered" / "analysis" / "figure10.png").is_file()


def test_simulate_sees_with_a_file_of_weights(small: Study, tmp_path: Path) -> None:
    file = tmp_path / "embedded.safetensors"
    save_file(load().module.state_dict(), file)
    words = ["--participants", 1, "--layer", "mixed3a"]
    for name, model in (("plain", "inceptionv1-small"), ("file", f"inceptionv1-small={file}")):
        folder = tmp_path / name
        within("simulate", small.folder, *words, "--model", model, "--out", folder)
    records = [
        json.loads((tmp_path / name / "simulated.json").read_text()) for name in ("plain", "file")
    ]
    assert records[0] == records[1]
    assert records[0]["network"] == "inceptionv1-small"
    with pytest.raises(ValueError, match="inceptionv1-smalo"):
        within("simulate", small.folder, "--model", "inceptionv1-smalo")


def test_export(small: Study, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nobody has taken part yet"):
        within("export", small.folder, "--out", tmp_path / "tables")
    words = ["--participants", 2, "--skill", "chance", "--out", tmp_path / "answered"]
    within("simulate", small.folder, *words)
    text = within("export", tmp_path / "answered", "--out", tmp_path / "tables")
    names = {
        f"{table}.{kind}" for table in ("answers", "participants") for kind in ("csv", "parquet")
    }
    assert {path.name for path in (tmp_path / "tables").iterdir()} == names
    assert all(str(tmp_path / "tables" / name) in text for name in names)
    answers = pq.read_table(tmp_path / "tables" / "answers.parquet")
    assert len(answers) == 2 * 2 * len(small.trials)

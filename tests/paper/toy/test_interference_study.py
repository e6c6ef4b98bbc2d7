"""The study: its numbers, files and figure, what it refuses, and the command."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from opponent.cli import app
from opponent.core.errors import RunError
from opponent.paper.toy.features import KINDS, kinds, opposed_inputs
from opponent.paper.toy.interference import DICTIONARIES, PREDICTORS, tension
from opponent.paper.toy.interference_results import (
    interval,
    separation_table,
    tension_table,
    write_interference,
)
from opponent.paper.toy.interference_study import (
    InterferenceSettings,
    InterferenceStudy,
    _separated,
    study_interference,
)
from opponent.paper.toy.models import PARAMETERS, ToyModels
from opponent.paper.toy.tasks import truth

QUICK = InterferenceSettings(seeds=2, steps=300, dictionary_steps=20)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[InterferenceStudy, Path]:
    folder = tmp_path_factory.mktemp("study") / "known"
    return study_interference(out=folder, hidden=(5, 4), settings=QUICK), folder


def _models(arrays: dict[str, np.ndarray], task: str) -> ToyModels:
    return ToyModels(task=task, **{name: arrays[name] for name in PARAMETERS})


def test_true_features_leave_one_other_feature_no_tension(
    studied: tuple[InterferenceStudy, Path],
) -> None:
    """And what is told of a model is that of its parameters."""
    for (task, _), arrays in studied[0].measured.items():
        assert arrays["tension"].shape == (2, len(DICTIONARIES), len(KINDS), 7)
        one = arrays["tension"][:, 0, KINDS.index("other, one"), 1]
        assert one == pytest.approx(0, abs=1e-12)
        # Units are counted the same way beside each dictionary.
        assert np.isnan(arrays["tension"][:, :, 0, 0]).all() == (task == "abs")
        np.testing.assert_array_equal(arrays["tension"][:, 0, 1, 0], arrays["tension"][:, 3, 1, 0])
        if task == "veto":
            assert arrays["tension"][:, 0, :, 5:] == pytest.approx(0, abs=1e-12)


def test_opposed_inputs_do_not_tell_by_their_hidden_vector(
    studied: tuple[InterferenceStudy, Path],
) -> None:
    model = _models(dict(studied[0].measured["veto", 4]), "veto").only([0])
    rng = np.random.default_rng(0)
    x = opposed_inputs("veto", 60, rng)
    measured = [rng.uniform(0, 0.5, (60, 12, 7)) for _ in DICTIONARIES]
    length = PREDICTORS.index("length of h")
    areas, _, cases = _separated(model, x, measured, matched=True)
    assert areas[length] == pytest.approx(0.5, abs=1e-9)
    # Without it, inputs whose functional case is too small count among the others alone.
    areas, _, more = _separated(model, x, measured, matched=False)
    assert areas[length] > 0.5
    assert more[1] > cases[1] > 0


def test_the_example_is_of_the_models(studied: tuple[InterferenceStudy, Path]) -> None:
    arrays = dict(studied[0].measured["veto", 4])
    toys = _models(arrays, "veto")
    x = (opposed_inputs("veto", 1, np.random.default_rng(0)) > 0).astype(float)
    assert x.tolist() == [[1.0, 1.0, *[0.0] * 10]]
    excitation, inhibition = toys.attributions(x)
    smaller = np.minimum(excitation, inhibition)[:, 0]
    np.testing.assert_allclose(tension(arrays["example.units"]), smaller)
    totals = arrays["example.true"].sum(2)
    np.testing.assert_allclose(totals, (excitation - inhibition)[:, 0], atol=1e-12)
    assert (kinds("veto", x, 12)[0, :2] == [0, 1]).all()
    assert not truth("veto", x)[0, 0]


def test_tables_and_files(studied: tuple[InterferenceStudy, Path]) -> None:
    study, folder = studied
    paths = write_interference(study, folder)
    assert [path.name for path in paths] == [
        "tension.csv", "separation.csv", "toy-interference.json", "toy-interference.png",
    ]  # fmt: skip
    first = [path.read_bytes() for path in paths]
    again = study_interference(out=folder, hidden=(5, 4), settings=QUICK)
    assert [path.read_bytes() for path in write_interference(again, folder)] == first
    rows = csv.read_csv(pa.py_buffer(first[0])).to_pylist()
    assert len(rows) == 2 * 2 * len(DICTIONARIES) * (3 + 4 + 4)
    assert len(tension_table(study)) == len(rows)
    of_one = [r for r in rows if (r["task"], r["hidden"], r["dictionary"]) == ("veto", 5, "true")]
    values = json.loads(first[2])
    [summary] = [r for r in values["widths"] if (r["task"], r["hidden"]) == ("veto", 5)]
    for kind in KINDS:
        mean = np.mean([r["latents"] for r in of_one if r["kind"] == kind])
        assert summary["tension"]["true"][kind]["latents"] == pytest.approx(mean)
    assert values["question"]["seeds"] == 2
    assert "torch" in values["question"]["versions"]
    areas = separation_table(study).to_pylist()
    assert len(areas) == 2 * 2 * 2 * 2 * len(PREDICTORS)
    known = [
        row["area"]
        for row in areas
        if (row["task"], row["hidden"], row["inputs"], row["predictor"])
        == ("veto", 5, "drawn", "remaining, learnt")
        and row["area"] is not None
    ]
    assert summary["area_drawn"]["models"] == len(known) > 0
    mean = summary["area_drawn"]["remaining, learnt"]["mean"]
    assert mean == pytest.approx(np.mean(known))


def test_interval_is_about_the_mean() -> None:
    found = interval(np.array([0.2, 0.4, 0.6]))
    assert found["mean"] == pytest.approx(0.4)
    assert 0.2 <= found["low"] < 0.4 < found["high"] <= 0.6
    assert interval(np.array([0.5])) == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_an_interruption_changes_no_number(tmp_path: Path) -> None:
    settings = InterferenceSettings(seeds=1, steps=20, dictionary_steps=2)

    class Stop(Exception):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 1:
            raise Stop

    how = {"tasks": ["xor"], "hidden": (3, 2), "settings": settings}
    calls = list[tuple[str, int, int]]()
    with pytest.raises(Stop):
        study_interference(out=tmp_path / "two", progress=interrupt, **how)  # type: ignore[arg-type]
    one, two = (
        study_interference(out=tmp_path / name, progress=lambda *x: calls.append(x), **how)  # type: ignore[arg-type]
        for name in ("one", "two")
    )
    assert calls[-1] == ("toy models and dictionaries", 2, 2)
    for key, arrays in one.measured.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, two.measured[key][name])
    paths = write_interference(one, tmp_path / "one")
    assert [path.suffix for path in paths] == [".csv", ".csv", ".json"]
    with pytest.raises(RunError, match="another question"):
        study_interference(out=tmp_path / "two", tasks=["abs"], settings=settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"seeds": 0}, "seeds must be positive"), ({"seed": -1}, "a seed is at least 0")],
)
def test_settings_that_do_not_fit(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InterferenceSettings(**settings)


@pytest.mark.parametrize("tasks", [["and"], [], ["abs", "abs"]])
def test_tasks_that_there_are_not(tmp_path: Path, tasks: list[str]) -> None:
    with pytest.raises(ValueError, match="tasks are some of abs, xor, veto"):
        study_interference(out=tmp_path / "none", tasks=tasks)
    assert not (tmp_path / "none").exists()


def test_command(tmp_path: Path) -> None:
    words = ["toy-interference", "--hidden", "4", "--seeds", "1", "--steps", "50"]
    words += ["--dictionary-steps", "5", "--out", str(tmp_path / "known")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "functional" in done.output
    assert (tmp_path / "known" / "toy-interference.png").is_file()
    with pytest.raises(ValueError, match="whole numbers and commas"):
        CliRunner().invoke(app, [*words, "--hidden", "x"], catch_exceptions=False)

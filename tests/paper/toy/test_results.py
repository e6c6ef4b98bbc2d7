"""What a study writes: the table, the models, the figure."""

import json
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.support.figures import words
from tests.support.toys import I6, by_hand

from opponent.paper.toy.results import describe, draw, exact_models, off_diagonal, write_study
from opponent.paper.toy.study import ToyStudy, train_study
from opponent.paper.toy.tasks import domain
from opponent.plots import save


def test_off_diagonal_is_relative_to_each_column() -> None:
    excitation, inhibition = np.vstack([2 * I6, 4 * I6]), np.zeros((12, 6))
    inhibition[0, 5] = 1
    assert off_diagonal(excitation, inhibition) == {"largest": 0.25, "mean": 0.25 / 120}


def test_results_say_what_the_models_do(tmp_path: Path) -> None:
    study = train_study("abs", out=tmp_path / "a", hidden=[4], seeds=6, steps=400)
    table, models, picture = write_study(study, tmp_path / "a", suffix="svg")
    values = json.loads(table.read_text(encoding="utf-8"))
    [row] = values["widths"]
    toys = study.models[4]
    losses, weight = toys.losses(domain("abs")[0]), domain("abs")[1]
    assert row["all_expected_losses"] == pytest.approx(losses @ weight)
    assert row["all_largest_losses"] == pytest.approx(losses.max(1))
    assert row["best"] == int(np.argmin(losses @ weight))
    best, active = losses[row["best"]], np.abs(domain("abs")[0]).sum(1)
    groups = row["loss_by_active_features"]
    assert [group["inputs"] for group in groups] == [1, 12, 60, 160, 240, 192, 64]
    for k, group in enumerate(groups):
        assert group["mean"] == pytest.approx(best[active == k].mean())
        assert group["largest"] == pytest.approx(best[active == k].max())
    assert values["question"]["versions"]["numba"] == numba.__version__
    arrays = load_file(models)
    assert (arrays["4.w2"] == toys.w2).all()
    assert picture.suffix == ".svg"
    assert row == describe(toys)


def test_figure_of_a_study_repeats(tmp_path: Path) -> None:
    study = train_study("xor", out=tmp_path / "a", hidden=[3], seeds=2, steps=10)
    save(draw(study), tmp_path / "1.png")
    save(draw(study), tmp_path / "2.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_the_exact_model_with_most_tense_outputs_stands_beside_the_best() -> None:
    toys = by_hand("xor")
    [outputs] = toys.tense().tolist()
    assert exact_models(toys).tolist() == [0]
    assert outputs > 0
    question = {"task": "xor", "seeds": 1, "steps": 10}
    figure = draw(ToyStudy(question=question, models={toys.hidden: toys}))
    assert f"{outputs} of 6 tense" in words(figure)
    assert "of 1 exact models 1 have outputs that are tense on [1, 1]" in words(figure)
    # With weights that are too small it is exact no more, and stands alone.
    wrong = replace(toys, w2=toys.w2 / 2)
    assert exact_models(wrong).tolist() == []
    assert "tense" not in words(draw(ToyStudy(question=question, models={12: wrong})))

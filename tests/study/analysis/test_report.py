"""The analysis of answers: by hand, by people who know, and as files."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.support.study import answered, as_json, seen, small_study

from opponent.core.errors import RunError
from opponent.study.analysis.report import analyse, analyse_folder, write_analysis
from opponent.study.design.settings import QUESTIONS, to_json
from opponent.study.design.study import Study
from opponent.study.server.store import Store

PLAN = {"draws": 200, "power_draws": 5, "power_for": [4]}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "s", features=4, analysis=PLAN)


def test_perfect_people(study: Study, tmp_path: Path) -> None:
    with answered(study, tmp_path, [{}] * 3, np.random.default_rng(0)) as store:
        results = as_json(analyse(study, store.participants(), store.answers()))
    for layer in results["layers"]:
        for question in QUESTIONS:
            bar = layer[question]
            assert (bar["accuracy"], bar["low"], bar["high"]) == (1.0, 1.0, 1.0)
            assert (bar["answers"], bar["right"]) == (12, 12)
            assert bar["reaction_ms"] == [3000.0] * 3
            assert bar["chosen"] == {x: float(x == question) for x in ("mei", "mii", "distractor")}
    assert results["participants"] == {"began": 3, "analysed": 3, "excluded": {}}
    assert results["test"]["p"] is None
    assert results["test"]["reason"] == "the answers of a layer are all right"
    assert results["test"]["difference"] == 0
    assert results["power"] is None


def test_confusions_by_hand(tmp_path: Path) -> None:
    """Who takes the MII for the MEI cannot find it any more."""
    study = small_study(tmp_path / "s", features=1, layers=("a",), catch=0, practice=0,
                        analysis=PLAN)  # fmt: skip
    [trial] = study.trials
    other = next(x for x in trial.choices if x not in (trial.mei, trial.mii))
    with Store(tmp_path / "answers.sqlite3", create=True) as store:
        for pair in ((trial.mii, trial.mei), (trial.mei, trial.mii), (trial.mei, other)):
            _, who = store.start()
            store.consent(who.id, "1", True)
            shown = seen(study, who.number)
            for question, choice in zip(QUESTIONS, pair, strict=True):
                store.answer(
                    who.id, shown, trial=trial.id, question=question, choice=choice,
                    reaction_ms=2000,
                )  # fmt: skip
            store.end(who.id, "complete", answers=2)
        [layer] = as_json(analyse(study, store.participants(), store.answers()))["layers"]
    third = pytest.approx(1 / 3)
    assert layer["mei"]["chosen"] == {"mei": pytest.approx(2 / 3), "mii": third, "distractor": 0.0}
    assert layer["mii"]["chosen"] == {"mei": third, "mii": third, "distractor": third}
    assert layer["mii"]["accuracy"] == third
    assert layer["mii"]["accuracy_where_open"] == 0.5
    assert layer["mei"]["low"] is None, "one feature says nothing of others"


def test_nobody_is_told(study: Study, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nobody has taken part yet"):
        analyse_folder(study)
    people = [{"until": 2, "state": "started"}, {"state": "no_consent"}]
    with answered(study, study.folder, people, np.random.default_rng(0)):
        pass
    with pytest.raises(
        RunError, match=r"no participant to analyse: 2 began \(1 not finished, 1 no_consent\)"
    ):
        analyse_folder(study)


def test_one_person_gives_accuracies_alone(study: Study, tmp_path: Path) -> None:
    with answered(study, tmp_path, [{"mii": 0.5}], np.random.default_rng(0)) as store:
        results = as_json(analyse(study, store.participants(), store.answers()))
    assert results["layers"][0]["mii"]["low"] is None
    assert results["test"]["reason"] == "it takes two participants, and two features a layer"
    assert results["power"] is None


def test_results_are_written_the_same_each_time(study: Study, tmp_path: Path) -> None:
    people = [{"mei": 0.8, "mii": 0.4}] * 6
    with answered(study, study.folder, people, np.random.default_rng(1)):
        pass
    paths = write_analysis(analyse_folder(study), tmp_path / "one")
    again = write_analysis(analyse_folder(Study(study.folder)), tmp_path / "two")
    assert [path.name for path in paths] == ["analysis.json", "figure10.png"]
    assert [x.read_bytes() for x in paths] == [x.read_bytes() for x in again]
    values = json.loads(paths[0].read_text())
    assert values == json.loads(to_json(analyse_folder(study)))
    assert values["study_sha256"] == study.fingerprint()
    assert len(values["features"]) == 12
    assert {x["layers"][0] for x in values["test"]["pairs"]} == {"conv2d0", "mixed4a"}
    assert list(values["power"]["power"]) == ["4"]
    assert values["test"]["contrast"] == "conv2d0 against mixed4a and mixed5a"

"""A study's folder: what it refuses, and the orders in which participants see it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from msgspec import structs
from tests.support.study import LAYERS, small_study

from opponent.core.errors import RunError
from opponent.study.design.study import Study, Trial, write_study


def a_trial(**changes: Any) -> Trial:
    ids = [f"{i:016x}" for i in range(15)]
    given: dict[str, Any] = {
        "id": "0" * 12, "kind": "trial", "layer": "a", "feature": "a:0",
        "examples": tuple(ids[9:]), "choices": tuple(ids[:9]), "mei": ids[0], "mii": ids[1],
    }  # fmt: skip
    return Trial(**given | changes)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small_study(tmp_path_factory.mktemp("study") / "s", features=3)


def test_a_trial_answers() -> None:
    assert a_trial().answer("mei") == a_trial().mei
    assert a_trial().answer("mii") == a_trial().mii


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"id": "../../etc"}, "12 hexadecimal"),
        ({"kind": "other"}, "not one of practice, catch, trial"),
        ({"examples": ("../x",)}, "16 hexadecimal"),
        ({"examples": ()}, "no example"),
        ({"choices": ("0" * 16,) * 2}, "stands there twice"),
        ({"mii": "0" * 16}, "MEI and MII are not two"),
        ({"mii": "f" * 16}, "MEI and MII are not two"),
    ],
)
def test_a_trial_that_nobody_could_answer_is_refused(changes: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        a_trial(**changes)


def test_what_was_written_comes_back(study: Study) -> None:
    assert study.layers == LAYERS
    assert study.label("mixed5a") == "late"
    assert Counter(x.kind for x in study.trials) == {"practice": 1, "catch": 3, "trial": 9}
    assert {study.trial(x.id) for x in study.trials} == set(study.trials)
    assert all(study.stimulus(id).is_file() for id in study.stimuli)
    with pytest.raises(LookupError, match="no trial 'x'"):
        study.trial("x")
    with pytest.raises(LookupError, match=r"no stimulus '\.\./study\.json'"):
        study.stimulus("../study.json")


def test_each_participant_sees_every_trial_once_by_layers(study: Study) -> None:
    for number in range(20):
        practice, *blocks = study.session(number)
        assert practice.layer == "practice"
        assert [x.trial.kind for x in practice.trials] == ["practice"]
        assert sorted(x.layer for x in blocks) == sorted(LAYERS)
        for block in blocks:
            assert {x.trial.layer for x in block.trials} == {block.layer}
        shown = [x for block in (practice, *blocks) for x in block.trials]
        assert sorted(x.trial.id for x in shown) == sorted(x.id for x in study.trials)
        for shown_trial in shown:
            assert sorted(shown_trial.choices) == sorted(shown_trial.trial.choices)
            assert sorted(shown_trial.examples) == sorted(shown_trial.trial.examples)


def test_the_order_is_a_participant_s_own_and_stays(study: Study) -> None:
    assert study.session(4) == Study(study.folder).session(4)
    assert study.session(4) != study.session(5)
    with pytest.raises(ValueError, match="numbered from 0, got -1"):
        study.session(-1)


def test_another_seed_gives_another_order(tmp_path: Path) -> None:
    original = small_study(tmp_path / "one", seed=0)
    write_study(original.folder, structs.replace(original.settings, seed=1), original.trials)
    assert Study(original.folder).session(0) != original.session(0)


def test_places_and_layers_are_even(tmp_path: Path) -> None:
    """Over 300 participants each place holds the MEI, and each layer comes first, about as often.

    Bounds are 5 standard deviations: 33 +- 27 of 300, 100 +- 41.
    """
    study = small_study(tmp_path / "s", features=2, catch=0, practice=0)
    places, first, trials = Counter[int](), Counter[str](), Counter[str]()
    for number in range(300):
        block = study.session(number)[0]
        first[block.layer] += 1
        shown = block.trials[0]
        trials[shown.trial.feature] += 1
        places[shown.choices.index(shown.trial.mei)] += 1
    assert all(abs(places[i] - 300 / 9) < 27 for i in range(9))
    assert all(abs(first[x] - 100) < 41 for x in LAYERS)
    assert all(abs(trials[f"{x}:kmeans0"] - trials[f"{x}:kmeans1"]) < 60 for x in LAYERS)


def test_the_fingerprint_tells_any_change(tmp_path: Path) -> None:
    study = small_study(tmp_path / "s")
    before = study.fingerprint()
    assert before == Study(study.folder).fingerprint()
    settings = structs.replace(study.settings, title="x")
    write_study(study.folder, settings, study.trials)
    changed = study.fingerprint()
    assert changed != before
    write_study(study.folder, settings, study.trials[::-1])
    assert study.fingerprint() not in (before, changed)


def test_the_table_has_the_further_columns(tmp_path: Path) -> None:
    study = small_study(tmp_path / "s")
    write_study(study.folder, study.settings, study.trials, {"known": [[1.5]] * len(study.trials)})
    assert pq.read_table(study.folder / "trials.parquet")["known"][0].as_py() == [1.5]
    assert Study(study.folder).trials == study.trials


def test_damage_is_told(tmp_path: Path) -> None:
    study = small_study(tmp_path / "s")
    gone = study.stimulus(study.trials[0].mei)
    kept = gone.read_bytes()
    gone.unlink()
    with pytest.raises(RunError, match=f"incomplete: {gone.name}"):
        Study(study.folder)
    gone.write_bytes(kept)
    (study.folder / "trials.parquet").write_bytes(b"no table")
    with pytest.raises(RunError, match=r"trials\.parquet is damaged"):
        Study(study.folder)
    write_study(study.folder, study.settings, study.trials[:1] * 2)
    with pytest.raises(RunError, match="two trials have the same id"):
        Study(study.folder)

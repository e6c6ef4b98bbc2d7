"""Simulated participants: through the server's interface, from consent to the end."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.study import as_json, small_study

from opponent.core.errors import RunError
from opponent.study.analysis.report import analyse_folder
from opponent.study.design.study import Study
from opponent.study.server.store import Store
from opponent.study.simulate.simulation import simulate

PLAN = {"draws": 1000, "power_draws": 2, "power_for": [4]}


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("simulate") / "s"
    return small_study(folder, features=5, layers=("a", "b"), analysis=PLAN)


def test_the_perfect_score_all(study: Study, tmp_path: Path) -> None:
    answered = simulate(study, tmp_path / "p", participants=3, skill="perfect")
    results = as_json(analyse_folder(answered))
    assert results["simulated"]["skill"] == "perfect"
    assert results["participants"] == {"began": 3, "analysed": 3, "excluded": {}}
    assert [x[q]["accuracy"] for x in results["layers"] for q in ("mei", "mii")] == [1.0] * 4


def test_those_who_guess_score_as_chance_has_it(tmp_path: Path) -> None:
    """1/9 for the MEI; for the MII 1/8 where it was not taken for the MEI, so 1/9 over all."""
    settings = {**PLAN, "catch_share": 0.0, "level": 0.999}
    study = small_study(tmp_path / "s", features=8, layers=("a",), practice=0, catch=0,
                        analysis=settings)  # fmt: skip
    answered = simulate(study, tmp_path / "c", participants=30, skill="chance")
    [layer] = as_json(analyse_folder(answered))["layers"]
    assert layer["mei"]["low"] < 1 / 9 < layer["mei"]["high"]
    assert layer["mii"]["low"] < 1 / 9 < layer["mii"]["high"]
    # 240 answers, of which 8/9 are open: the sd of the share is sqrt(7/64/213) = 0.023.
    assert layer["mii"]["accuracy_where_open"] == pytest.approx(1 / 8, abs=4 * 0.023)


def test_who_guesses_is_left_out_by_catch_trials(study: Study, tmp_path: Path) -> None:
    answered = simulate(study, tmp_path / "c", participants=3, skill="chance", seed=1)
    with pytest.raises(RunError, match=r"3 began \(3 catch trials\)"):
        analyse_folder(answered)


def test_the_study_itself_stays_without_answers(study: Study, tmp_path: Path) -> None:
    before = sorted(path.name for path in study.folder.iterdir())
    simulate(study, tmp_path / "c", participants=1, skill="chance")
    assert sorted(path.name for path in study.folder.iterdir()) == before


def test_the_same_seed_gives_the_same_answers(study: Study, tmp_path: Path) -> None:
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        answered = simulate(study, tmp_path / name, participants=2, skill="chance", seed=seed)
        with Store(answered.folder / "answers.sqlite3") as store:
            columns = ["number", "trial", "question", "choice", "reaction_ms"]
            tables.append(store.answers().select(columns))
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])
    again = simulate(study, tmp_path / "a", participants=2, skill="chance")
    assert again.folder == tmp_path / "a"
    with pytest.raises(RunError, match="something else than this simulation"):
        simulate(study, tmp_path / "a", participants=3, skill="chance")


def test_what_was_interrupted_begins_anew(study: Study, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if done == 1:
            raise Stop

    with pytest.raises(Stop):
        simulate(study, tmp_path / "a", participants=3, skill="chance", progress=stop)
    assert not (tmp_path / "a").exists()
    assert simulate(study, tmp_path / "a", participants=3, skill="chance").folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_who_goes_by_likeness_finds_the_like_and_the_unlike(study: Study, tmp_path: Path) -> None:
    """In this study the MEI has the examples' colour, the MII its complement."""
    answered = simulate(
        study, tmp_path / "s", participants=4, skill="similarity", temperature=0.02, layer="mixed3a"
    )
    layers = as_json(analyse_folder(answered))["layers"]
    assert np.mean([x["mei"]["accuracy"] for x in layers]) > 0.8
    assert np.mean([x["mii"]["accuracy"] for x in layers]) > 2 / 8, "twice chance"


def test_what_makes_no_sense_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="skill is chance, perfect, similarity, not 'x'"):
        simulate(study, tmp_path / "a", skill="x")
    with pytest.raises(ValueError, match="0 participants at temperature"):
        simulate(study, tmp_path / "a", participants=0)
    with pytest.raises(ValueError, match="no layer 'mixed9z'"):
        simulate(study, tmp_path / "a", layer="mixed9z")
    with pytest.raises(RunError, match="cannot be reached"):
        simulate(study, url="http://127.0.0.1:9", participants=1, skill="chance")
    assert not any(tmp_path.iterdir())

"""Who is left out of the analysis, and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.support.study import answered, small_study

from opponent.core.errors import RunError
from opponent.study.analysis.exclusions import keep
from opponent.study.design.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "s", features=4)


def test_who_is_left_out_and_why(study: Study, tmp_path: Path) -> None:
    people: list[dict[str, Any]] = [
        {"pid": "a"},
        {"until": 5, "state": "started"},
        {"until": 5, "state": "withdrawn"},
        {"state": "no_consent"},
        {"catch": 0.0},
        {"ms": 400},
        {"practice": 0.0},
        {"mei": 0.0, "catch": 1.0},
    ]
    plan = study.settings.analysis
    with answered(study, tmp_path, people, np.random.default_rng(0)) as store:
        kept = keep(study, store.participants(), store.answers(), plan)
    assert kept.excluded == {
        "not finished": 1, "withdrawn": 1, "no_consent": 1, "catch trials": 1, "too fast": 1,
    }  # fmt: skip
    assert len(kept.people) == 3
    assert kept.correct("mei").mean(1).tolist() == [1, 1, 0]
    assert kept.correct("mei").shape == (3, 12), "neither catch nor practice trials count"


def test_a_second_session_and_missing_answers_are_left_out(study: Study, tmp_path: Path) -> None:
    with answered(study, tmp_path, [{"pid": "a"}, {"pid": "b"}], np.random.default_rng(0)) as store:
        people, answers = store.participants(), store.answers()
    rows = people.to_pylist()
    rows[1]["prolific_pid"] = "a"
    plan = study.settings.analysis
    kept = keep(study, pa.Table.from_pylist(rows, people.schema), answers, plan)
    assert kept.excluded == {"took part before": 1}
    kept = keep(study, people, answers.slice(0, len(answers) - 1), plan)
    assert kept.excluded == {"answers missing": 1}
    strange = answers.to_pylist()
    strange[0]["trial"] = "f" * 12
    with pytest.raises(RunError, match="the answers name trial ffffffffffff"):
        keep(study, people, pa.Table.from_pylist(strange, answers.schema), plan)

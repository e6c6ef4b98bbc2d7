"""study.json: what is refused, in one line that names the field."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.study import small_settings, small_study

from opponent.core.errors import RunError
from opponent.study.design import texts
from opponent.study.design.settings import (
    Plan,
    Settings,
    SimulationRecord,
    in_words,
    read_settings,
    read_simulation,
    to_json,
    unfinished,
)
from opponent.study.design.study import Study


def read(folder: Path, values: Any) -> Settings:
    path = folder / "study.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return read_settings(path)


def test_no_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no study: it has no study\.json"):
        Study(tmp_path)
    settings = small_settings()
    without = {k: v for k, v in settings.items() if k != "consent"}
    with pytest.raises(ValueError, match="missing required field `consent`"):
        msgspec.convert(without, Settings)
    study = small_study(tmp_path / "s")
    path = study.folder / "study.json"
    for text, match in [
        ("{", "damaged"),
        ("", "damaged"),
        ("\udcff", "damaged"),
        ('{"x": ' * 5000, "damaged"),
        ('{"format": 1, "title": ', "damaged"),
        (json.dumps(settings | {"format": "1"}), "format: expected int, got str"),
        ("[]", "expected object, got array"),
        ("{}", "missing required field format"),
        (json.dumps(without), "missing required field consent"),
        (json.dumps(settings | {"format": 99}), "has format 99"),
        (json.dumps({"format": 99}), "has format 99"),
        (json.dumps(settings | {"layers": [{"name": "x", "label": "y"}]}), "names x"),
    ]:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(RunError, match=match) as refused:
            Study(study.folder)
        assert str(path) in str(refused.value) or "names x" in match
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"title": 5}, "title: expected str, got int"),
        ({"seed": "0"}, "seed: expected int, got str"),
        ({"seed": -1}, "seed: expected int >= 0"),
        ({"layers": [{"name": "x"}]}, r"layers\[0\]: object missing required field label"),
        ({"runs": {}}, "runs: expected array, got object"),
        ({"numbers": {}}, "numbers: object missing required field features"),
        ({"consent": "yes"}, "consent: expected object, got str"),
        ({"consent": {"version": "1"}}, "consent: object missing required field text"),
        ({"debriefing": None}, "debriefing: expected str, got null"),
        ({"codes": {"complete": 5}}, r"codes\.complete: expected str \| null, got int"),
        ({"completion_url": 5}, r"completion_url: expected str \| null, got int"),
        ({"breaks": "no"}, "breaks: expected bool, got str"),
        ({"min_window": [1024]}, "min_window: expected array of length 2"),
        ({"min_window": [1024, -1]}, r"min_window\[1\]: expected int >= 0"),
        ({"analysis": {"alfa": 0.1}}, "analysis: object contains unknown field alfa"),
        ({"analysis": {"alpha": 2.0}}, r"analysis\.alpha: expected float <= 0\.5"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(RunError, match=rf"study\.json: {match}"):
        read(tmp_path, small_settings() | changes)


def test_what_people_write_is_taken(tmp_path: Path) -> None:
    """A version that is a number, no code, no address, and fields of their own."""
    changes = {
        "consent": {"version": 2, "text": "Yes?"},
        "codes": {"complete": None},
        "completion_url": None,
        "note to self": "ask for ethics approval",
    }
    settings = read(tmp_path, small_settings() | changes)
    assert (settings.consent.version, settings.consent.text) == (2, "Yes?")
    assert (settings.codes.complete, settings.codes.no_consent) == (None, "")
    assert settings.completion_url is None
    assert settings.analysis == Plan()
    assert settings.versions == {}


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    settings = msgspec.convert(small_settings() | {"title": "Größe"}, Settings)
    text = to_json(settings, ensure_ascii=False)
    assert "Größe" in text
    (tmp_path / "study.json").write_text(text, encoding="utf-8")
    assert read_settings(tmp_path / "study.json") == settings


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"alfa": 0.1}, "unknown field alfa"),
        ({"alpha": 2.0}, r"alpha: expected float <= 0\.5"),
        ({"alpha": 0.0}, r"alpha: expected float >= 0\.0001"),
        ({"alpha": "x"}, "alpha: expected float, got str"),
        ({"level": 0.4}, r"level: expected float >= 0\.5"),
        ({"level": 1.0}, r"level: expected float <= 0\.9999"),
        ({"catch_share": 1.1}, "catch_share: expected float <= 1"),
        ({"question": "x"}, "question is 'mei' or 'mii', not 'x'"),
        ({"draws": 3}, "draws: expected int >= 100"),
        ({"power_draws": 0}, "power_draws: expected int >= 1"),
        ({"power_for": [1]}, r"power_for\[0\]: expected int >= 2"),
        ({"power_for": [12, 1]}, r"power_for\[1\]: expected int >= 2"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(values: Any, match: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(values, Plan)
    with pytest.raises(ValueError, match=match):
        raise ValueError(in_words(refused.value))


def test_a_plan_takes_whole_numbers_and_has_defaults() -> None:
    plan = msgspec.convert({"catch_share": 0, "power_for": [4]}, Plan)
    assert (plan.catch_share, type(plan.catch_share), plan.power_for) == (0.0, float, (4,))
    assert plan.draws == 10_000
    with pytest.raises(ValueError, match="question is 'mei' or 'mii'"):
        Plan(question="both")


def test_a_simulation_s_record(tmp_path: Path) -> None:
    path = tmp_path / "simulated.json"
    assert read_simulation(path) is None
    record = SimulationRecord(
        study_sha256="0", participants=3, skill="chance", seed=0, versions={"torch": "2"}
    )
    path.write_text(to_json(record))
    assert "temperature" not in path.read_text()
    assert read_simulation(path) == record
    path.write_text("{")
    with pytest.raises(RunError, match=r"simulated\.json is damaged"):
        read_simulation(path)


def test_what_is_not_filled_in_is_named(tmp_path: Path) -> None:
    values = small_settings()
    assert unfinished(read(tmp_path, values)) == []
    new = {
        "consent": {"version": "1", "text": texts.CONSENT},
        "debriefing": texts.DEBRIEFING,
        "codes": {"complete": "", "screened_out": None, "no_consent": ""},
    }
    left = unfinished(read(tmp_path, values | new))
    assert left == [
        "consent ([name, institution and e-mail; ethics approval])",
        "debriefing ([e-mail of who is responsible])",
        "codes.complete",
        "codes.no_consent",
    ]
    # Without an address to return to there is no use for a code.
    assert len(unfinished(read(tmp_path, values | new | {"completion_url": ""}))) == 2
    assert unfinished(read(tmp_path, values | {"title": "A [working] title"})) == [
        "title ([working])"
    ]

"""What answers say: worked by hand, against statsmodels, and in simulated truth."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.study import small_study

from opponent.core.errors import RunError
from opponent.plots.experiment import ExperimentBar, ExperimentLayer, experiment_figure
from opponent.study.analysis import (
    Plan,
    accuracy,
    analyse,
    analyse_folder,
    bootstrap,
    contrast,
    first_against_others,
    interval,
    keep,
    person_spread,
    power,
    to_json,
    write_analysis,
)
from opponent.study.store import Store
from opponent.study.study import QUESTIONS, Study

NAN = float("nan")


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def grid(rng: np.random.Generator, people: int, odds: list[float], per: int, sds: Any) -> Any:
    """Right answers of people that differ to features that differ, and the features' layers."""
    layers = np.repeat(np.arange(len(odds)), per)
    person, feature = sds
    odds_of = (
        np.array(odds)[layers]
        + person * rng.standard_normal((people, 1))
        + feature * rng.standard_normal(len(layers))
    )
    return (rng.random(odds_of.shape) < logistic(odds_of)).astype(np.float64), layers


# ------------------------------------------------------------------------------- the mathematics


def test_accuracy_by_hand() -> None:
    correct = np.array([[1.0, 0.0, 1.0, NAN], [1.0, 1.0, NAN, NAN]])
    layers = np.array([0, 0, 1, 2])
    found = accuracy(correct, layers, 3)
    assert found[:2].tolist() == [0.75, 1.0]
    assert np.isnan(found[2])


def test_the_bootstrap_draws_participants_and_features() -> None:
    """Twin: the rows and columns drawn, looked up one by one."""
    rng = np.random.default_rng(0)
    correct, layers = grid(rng, 5, [0.0, 1.0], 3, (0, 0))
    fast = bootstrap(correct, layers, 2, 400, 1)
    drawn = []
    for _ in range(2000):
        people = rng.integers(0, 5, 5)
        means = []
        for layer in range(2):
            features = rng.choice(np.flatnonzero(layers == layer), 3)
            means.append(correct[np.ix_(people, features)].mean())
        drawn.append(means)
    slow = np.array(drawn)
    # The means of 400 draws lie within 4 of their standard errors.
    bound = 4 * slow.std(0) / 20
    assert (np.abs(fast.mean(0) - slow.mean(0)) < bound).all()
    assert np.allclose(fast.std(0), slow.std(0), rtol=0.15)


def test_an_interval_needs_something_to_vary() -> None:
    assert interval(np.linspace(0, 1, 101), 0.9) == pytest.approx((0.05, 0.95))
    assert interval(np.array([NAN]), 0.9) == (None, None)
    ones = bootstrap(np.ones((4, 4)), np.array([0, 0, 1, 1]), 2, 100, 0)
    assert (ones == 1).all()


def test_a_contrast_by_hand() -> None:
    """Two people, two layers of two features: accuracies 3/4 and 1/4."""
    correct = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    layers = np.array([0, 0, 1, 1])
    found = contrast(correct, layers, [1.0, -1.0], corrected=False)
    assert found.estimate == pytest.approx(2 * np.log(3))
    # An answer moves a coefficient by (y - p) / (4 p (1 - p)) = (y - p) / 0.75:
    # first person: (1/4 + 1/4) - (-1/4 - 1/4) = 1, second: (1/4 - 3/4) - (3/4 - 1/4) = -1.
    # features: 1/2, -1/2, -1/2, 1/2; single answers: 6 of 1/4 and 2 of 3/4, squared.
    variance = (2 * 1 + 4 * 0.25 - (6 / 16 + 2 * 9 / 16)) / 0.75**2
    assert found.error == pytest.approx(np.sqrt(variance))


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_contrast_is_statsmodels_regression(missing: float) -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    correct, layers = grid(rng, 20, [1.0, 0.0, -1.0], 6, (0.5, 0.8))
    correct[rng.random(correct.shape) < missing] = NAN
    weights = first_against_others(3)
    found = contrast(correct, layers, weights, corrected=False)
    rows, columns = np.nonzero(np.isfinite(correct))
    x = (layers[columns][:, None] == np.arange(3)).astype(float)
    fitted = sm.Logit(correct[rows, columns], x).fit(
        disp=0,
        cov_type="cluster",
        cov_kwds={"groups": np.c_[rows, columns], "use_correction": False},
    )
    said = fitted.t_test(np.array(weights))
    assert found.estimate == pytest.approx(float(said.effect.squeeze()), rel=1e-6)
    assert found.error == pytest.approx(float(said.sd.squeeze()), rel=1e-6)


def test_a_contrast_that_cannot_be_told_says_why() -> None:
    layers = np.array([0, 0, 1, 1])
    right = np.array([[1.0, 1, 0, 1], [1, 1, 1, 0]])
    assert contrast(right, layers, [1.0, -1.0]).reason == "the answers of a layer are all right"
    assert contrast(1 - right, layers, [1.0, -1.0]).reason == "the answers of a layer are all wrong"
    assert "two participants" in str(contrast(right[:1], layers, [1.0, -1.0]).reason)
    assert contrast(right, layers, [1.0, -1.0]).p is None


def test_the_test_finds_no_difference_where_there_is_none() -> None:
    """Of 200 studies without one it should find 5 %: 10 +- 13 (4 sd); a paired t finds far more."""
    from scipy import stats

    rng = np.random.default_rng(2)
    ours = paired = 0
    for _ in range(200):
        correct, layers = grid(rng, 24, [-1.0] * 3, 15, (0.5, 1.0))
        p = contrast(correct, layers, first_against_others(3)).p
        ours += p is not None and p < 0.05
        people = correct[:, layers == 0].mean(1) - correct[:, layers > 0].mean(1)
        paired += stats.ttest_1samp(people, 0).pvalue < 0.05
    assert ours <= 23
    assert paired > 40


def test_the_test_finds_the_paper_s_difference() -> None:
    correct, layers = grid(np.random.default_rng(3), 48, [1.5, -1.5, -1.5], 15, (0.5, 0.8))
    found = contrast(correct, layers, first_against_others(3))
    assert found.p is not None
    assert found.p < 1e-4
    assert found.estimate == pytest.approx(3.0, abs=1.2)


def test_how_people_differ_is_found() -> None:
    rng = np.random.default_rng(4)
    for truth in (0.0, 1.0):
        correct, _ = grid(rng, 200, [0.0, 0.5], 10, (truth, 0.5))
        assert person_spread(correct) == pytest.approx(truth, abs=0.2)


def test_power_grows_with_people_and_is_alpha_without_a_difference() -> None:
    rng = np.random.default_rng(5)
    odds = np.repeat([0.9, -0.2], 8)
    layers = np.repeat([0, 1], 8)
    correct = (rng.random((200, 16)) < logistic(odds)).astype(np.float64)
    few, many = (
        power(correct, layers, [1.0, -1.0], n, alpha=0.05, draws=200, seed=0) for n in (3, 40)
    )
    assert few < many
    assert many > 0.9
    same = (rng.random((400, 16)) < 0.5).astype(np.float64)
    # 300 draws at 5 %: 15 +- 15, and what the fitted rates differ by chance.
    assert power(same, layers, [1.0, -1.0], 40, alpha=0.05, draws=300, seed=0) < 0.15
    again = [power(correct, layers, [1.0, -1.0], 6, alpha=0.05, draws=50, seed=9) for _ in range(2)]
    assert again[0] == again[1]


# ----------------------------------------------------------------------------------- the answers


def answered(
    study: Study, folder: Path, people: list[dict[str, Any]], rng: np.random.Generator
) -> Store:
    """A store with sessions: each person's share of right answers, and what else befalls them."""
    store = Store(folder / "answers.sqlite3", create=True)
    for person in people:
        _, who = store.start(prolific_pid=person.get("pid", ""))
        if person.get("state") == "no_consent":
            store.consent(who.id, "1", False)
            continue
        store.consent(who.id, "1", True)
        shown = [x for block in study.session(who.number) for x in block.trials]
        for each in shown[: person.get("until", len(shown))]:
            taken: list[str] = []
            for question in QUESTIONS:
                skill = person.get(each.trial.kind, person.get(question, 1.0))
                right = rng.random() < skill
                wrong = [
                    x for x in each.choices if x not in (*taken, each.trial.mei, each.trial.mii)
                ]
                choice = each.trial.answer(question) if right else wrong[0]
                store.answer(
                    who.id, shown, trial=each.trial.id, question=question, choice=choice,
                    reaction_ms=person.get("ms", 3000),
                )  # fmt: skip
                taken.append(choice)
        total = len(QUESTIONS) * len(shown)
        if person.get("state", "complete") != "started":
            store.end(who.id, person.get("state", "complete"), answers=total)
    return store


PLAN = {"draws": 200, "power_draws": 5, "power_for": [4]}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "s", features=4, analysis=PLAN)


def test_perfect_people(study: Study, tmp_path: Path) -> None:
    with answered(study, tmp_path, [{}] * 3, np.random.default_rng(0)) as store:
        found = analyse(study, store.participants(), store.answers()).values
    for layer in found["layers"]:
        for question in QUESTIONS:
            bar = layer[question]
            assert (bar["accuracy"], bar["low"], bar["high"]) == (1.0, 1.0, 1.0)
            assert (bar["answers"], bar["right"]) == (12, 12)
            assert bar["reaction_ms"] == [3000.0] * 3
            assert bar["chosen"] == {x: float(x == question) for x in ("mei", "mii", "distractor")}
    assert found["participants"] == {"began": 3, "analysed": 3, "excluded": {}}
    assert found["test"]["p"] is None
    assert found["test"]["reason"] == "the answers of a layer are all right"
    assert found["test"]["difference"] == 0
    assert found["power"] is None


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
    plan = Plan.restore(study.settings["analysis"])
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
    plan = Plan.restore(study.settings["analysis"])
    kept = keep(study, pa.Table.from_pylist(rows, people.schema), answers, plan)
    assert kept.excluded == {"took part before": 1}
    kept = keep(study, people, answers.slice(0, len(answers) - 1), plan)
    assert kept.excluded == {"answers missing": 1}
    strange = answers.to_pylist()
    strange[0]["trial"] = "f" * 12
    with pytest.raises(RunError, match="the answers name trial ffffffffffff"):
        keep(study, people, pa.Table.from_pylist(strange, answers.schema), plan)


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
            shown = [x for block in study.session(who.number) for x in block.trials]
            for question, choice in zip(QUESTIONS, pair, strict=True):
                store.answer(
                    who.id, shown, trial=trial.id, question=question, choice=choice,
                    reaction_ms=2000,
                )  # fmt: skip
            store.end(who.id, "complete", answers=2)
        [layer] = analyse(study, store.participants(), store.answers()).values["layers"]
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
        found = analyse(study, store.participants(), store.answers()).values
    assert found["layers"][0]["mii"]["low"] is None
    assert found["test"]["reason"] == "it takes two participants, and two features a layer"
    assert found["power"] is None


def test_results_are_written_the_same_each_time(study: Study, tmp_path: Path) -> None:
    people = [{"mei": 0.8, "mii": 0.4}] * 6
    with answered(study, study.folder, people, np.random.default_rng(1)):
        pass
    one = write_analysis(analyse_folder(study), tmp_path / "one")
    two = write_analysis(analyse_folder(Study(study.folder)), tmp_path / "two")
    assert [path.name for path in one] == ["analysis.json", "figure10.png"]
    assert [x.read_bytes() for x in one] == [x.read_bytes() for x in two]
    values = json.loads(one[0].read_text())
    assert values == json.loads(to_json(analyse_folder(study)))
    assert values["study_sha256"] == study.fingerprint()
    assert len(values["features"]) == 12
    assert {x["layers"][0] for x in values["test"]["pairs"]} == {"conv2d0", "mixed4a"}
    assert list(values["power"]["power"]) == ["4"]
    assert values["test"]["contrast"] == "conv2d0 against mixed4a and mixed5a"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"alfa": 0.1}, "no setting alfa"),
        ({"alpha": 2.0}, "alpha 2.0 is not in"),
        ({"question": "x"}, "'mei' or 'mii'"),
        ({"draws": 3}, "100 draws"),
        ({"power_for": [1]}, "2 participants are the least"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(values: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Plan.restore(values)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4))
def test_intervals_lie_around_what_was_found(seed: int, people: int, layers: int) -> None:
    correct, of_layer = grid(np.random.default_rng(seed), people, [0.0] * layers, 3, (0, 0))
    draws = bootstrap(correct, of_layer, layers, 300, 0)
    found = accuracy(correct, of_layer, layers)
    for i in range(layers):
        low, high = interval(draws[:, i], 0.95)
        assert low is not None
        assert high is not None
        assert 0 <= low <= found[i] + 1e-9
        assert found[i] - 1e-9 <= high <= 1


# ------------------------------------------------------------------------------------ the figure


def bar(accuracy: float | None, **more: Any) -> ExperimentBar:
    given: dict[str, Any] = {
        "low": 0.2, "high": 0.9, "features": [0.1, 0.5],
        "chosen": {"mei": 0.5, "mii": 0.2, "distractor": 0.3}, "seconds": (1.0, 2.0, 4.0),
    }  # fmt: skip
    return ExperimentBar(accuracy=accuracy, **given | more)


def test_figure_10_shows_the_numbers() -> None:
    layers = [
        ExperimentLayer(name="a", label="early", mei=bar(0.8), mii=bar(0.6)),
        ExperimentLayer(name="b", label="late", mei=bar(0.7), mii=bar(None, seconds=None)),
    ]
    figure = experiment_figure(layers, chance={"mei": 1 / 9, "mii": 1 / 8}, level=0.95,
                               participants=7)  # fmt: skip
    first, second, third = figure.axes
    heights = [patch.get_height() for patch in first.patches]
    assert heights == [0.8, 0.7, 0.6]
    lines = [line.get_ydata()[0] for line in first.lines if len(line.get_ydata()) == 2]
    assert sum(y == pytest.approx(1 / 9) for y in lines) == 2
    assert sum(y == pytest.approx(1 / 8) for y in lines) == 1
    assert len(second.patches) == 12
    assert len(third.lines) == 6
    assert [x.get_text() for x in first.get_xticklabels()] == ["early\na", "late\nb"]
    assert any("7 participants, 2 features" in x.get_text() for x in figure.texts)
    long = [
        replace(layer, name=f"features.{number}.expand3x3_activation")
        for layer, number in zip(layers, (3, 12), strict=True)
    ]
    figure = experiment_figure(long, chance={"mei": 1 / 9, "mii": 1 / 8}, level=0.95,
                               participants=7)  # fmt: skip
    for axes in figure.axes:
        names = [x.get_text() for x in axes.get_xticklabels()]
        assert names == ["early", "late"]
    named = "early: features.3.expand3x3_activation; late: features.12.expand3x3_activation"
    assert any(x.get_text() == named for x in figure.texts)
    made_up = experiment_figure(layers, chance={"mei": 1 / 9, "mii": 1 / 8}, level=0.95,
                                participants=7, simulated="perfect")  # fmt: skip
    told = " ".join(x.get_text() for x in made_up.texts)
    assert "7 simulated participants (perfect)" in told
    assert "made up" in told
    with pytest.raises(ValueError, match="at least one layer"):
        experiment_figure([], chance={}, level=0.95, participants=0)

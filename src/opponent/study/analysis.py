"""What participants' answers say: accuracy by layer, a test, confusions, times, power.

Source: paper, appendix B and figure 10.

Participants and features are both samples: who would find this layer's features easy, and which
features the clusters happened to give. So intervals resample both (Owen, 2007, 'The pigeonhole
bootstrap'), and the test of a layer against others is a logistic regression with standard errors
clustered by participant and by feature at once (Cameron, Gelbach and Miller, 2011). A paired test
over participants alone takes features as given: where they differ in difficulty it finds layers
different that are not.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from scipy import stats

from opponent.core.errors import RunError
from opponent.storage.run import versions
from opponent.study.study import QUESTIONS, Study

Grid = Float[np.ndarray, "p f"]
Progress = Callable[[str, int, int], None]

# Nine choices, and eight once the first is taken. Source: paper, appendix B and figure 10.
CHANCE = {"mei": 1 / 9, "mii": 1 / 8}
ROLES = ("mei", "mii", "distractor")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How answers will be analysed, settled before the first: `analysis` in study.json.

    Args:
        question: which answers the test is of.
        catch_share: who gets a smaller share of the catch trials' MEIs right is left out. With
            three of them, who guesses passes in 3.4 % of cases.
        min_median_ms: who takes less, in the median answer, is left out: looking at nine pictures
            takes longer.
        draws: of the bootstrap.
        level: of the intervals.
        alpha: of the test.
        power_for: numbers of participants to give the test's power for.
        power_draws: simulated studies for each of them.
    Raises:
        ValueError: values that make no sense.
    Source: the paper gives no exclusions and no such plan; these are ours.
    """

    question: str = "mii"
    catch_share: float = 0.6
    min_median_ms: int = 1000
    draws: int = 10_000
    level: float = 0.95
    alpha: float = 0.05
    power_for: tuple[int, ...] = (12, 24, 48, 96)
    power_draws: int = 1000

    def __post_init__(self) -> None:
        """Refuse what cannot be computed."""
        shares = {"catch_share": (0, 1), "level": (0.5, 0.9999), "alpha": (0.0001, 0.5)}
        for name, (low, high) in shares.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"analysis: {name} {getattr(self, name)} is not in {low} to {high}"
                )
        if self.question not in QUESTIONS:
            raise ValueError(f"analysis: question is 'mei' or 'mii', not {self.question!r}")
        if self.draws < 100 or self.power_draws < 1 or min(self.power_for, default=2) < 2:
            raise ValueError("analysis: 100 draws, 1 power draw and 2 participants are the least")

    @classmethod
    def restore(cls, values: Mapping[str, Any]) -> "Plan":
        """The plan in a study's settings; what it does not name has its default.

        Raises:
            ValueError: a setting that there is not, or one of another kind.
        """
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            raise ValueError(f"study.json: analysis has no setting {', '.join(unknown)}")
        kept: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        kept |= {k: float(kept[k]) for k in ("catch_share", "level", "alpha") if k in kept}
        try:
            return cls(**kept)
        except TypeError as error:
            raise ValueError(f"study.json: analysis: {error}") from error


# ------------------------------------------------------------------------------- the mathematics


def accuracy(correct: Grid, layers: Int[np.ndarray, " f"], count: int) -> Float[np.ndarray, " l"]:
    """The share of right answers in each layer; NaN where there is none.

    Args:
        correct: 1 or 0 for each participant and feature, NaN where there is no answer.
        layers: the layer of each feature, from 0.
        count: how many layers there are.
    """
    once = np.ones((1, len(correct))), np.ones((1, len(layers)))
    shares: Float[np.ndarray, " l"] = _weighted(correct, layers, count, *once)[0]
    return shares


def _weighted(
    correct: Grid,
    layers: Int[np.ndarray, " f"],
    count: int,
    people: Float[np.ndarray, "b p"],
    features: Float[np.ndarray, "b f"],
) -> Float[np.ndarray, "b l"]:
    """Accuracies with each participant and each feature counted so many times."""
    there = np.isfinite(correct)
    right = people @ np.where(there, correct, 0) * features
    answers = people @ there.astype(np.float64) * features
    of_layer = layers[:, None] == np.arange(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Float[np.ndarray, "b l"] = (right @ of_layer) / (answers @ of_layer)
    return shares


def bootstrap(
    correct: Grid, layers: Int[np.ndarray, " f"], count: int, draws: int, seed: int
) -> Float[np.ndarray, "b l"]:
    """Accuracies by layer, with participants and, within layers, features drawn again.

    Args as `accuracy`, and how many draws from which seed.
    Source: Owen (2007), 'The pigeonhole bootstrap'.
    """
    rng = np.random.default_rng(seed)
    n = len(correct)
    people = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    features = np.zeros((draws, len(layers)))
    for layer in range(count):
        here = np.flatnonzero(layers == layer)
        if here.size:
            drawn = rng.multinomial(here.size, np.full(here.size, 1 / here.size), size=draws)
            features[:, here] = drawn
    return _weighted(correct, layers, count, people, features)


def interval(
    values: Float[np.ndarray, " b"], level: float
) -> tuple[float, float] | tuple[None, None]:
    """The percentile interval of some draws."""
    kept = values[np.isfinite(values)]
    if not kept.size:
        return None, None
    low, high = np.percentile(kept, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference between layers in log odds, and how sure it is.

    Args:
        estimate: log odds ratio; None where a layer's answers are all right or all wrong.
        error: its standard error, clustered by participant and by feature.
        df: degrees of freedom of t.
        p: two-sided.
        reason: why there is no estimate.
    """

    estimate: float | None = None
    error: float | None = None
    df: int | None = None
    p: float | None = None
    reason: str | None = None


def contrast(
    correct: Grid,
    layers: Int[np.ndarray, " f"],
    weights: Sequence[float],
    *,
    corrected: bool = True,
) -> Contrast:
    """A logistic regression of right answers on layers, with two-way clustered errors.

    With one level a layer the regression is in closed form: a layer's coefficient is the logit of
    its accuracy p, and an answer y moves it by (y - p) / (n p (1 - p)).

    Args:
        correct: as in `accuracy`.
        layers: as in `accuracy`.
        weights: of each layer's log odds, together 0.
        corrected: for the numbers of clusters; without, errors are too small in small samples.
    Source: Cameron, Gelbach and Miller (2011), 'Robust inference with multiway clustering', with
        their remedy where the variance comes out negative: the larger one-way variance.
    """
    there = np.isfinite(correct)
    people, features = int(there.any(1).sum()), int(there.any(0).sum())
    used = [i for i, weight in enumerate(weights) if weight]
    if people < 2 or any((layers == i).sum() < 2 for i in used):
        return Contrast(reason="it takes two participants, and two features a layer")
    moves, estimate = np.zeros(correct.shape), 0.0
    for i in used:
        here = there & (layers == i)
        n, p = int(here.sum()), float(correct[here].mean()) if here.any() else 0.0
        if p in (0.0, 1.0):
            return Contrast(reason=f"the answers of a layer are all {'right' if p else 'wrong'}")
        estimate += weights[i] * float(np.log(p / (1 - p)))
        moves[here] = weights[i] * (correct[here] - p) / (n * p * (1 - p))
    by_person, by_feature = float((moves.sum(1) ** 2).sum()), float((moves.sum(0) ** 2).sum())
    free = features - len(used)
    if corrected:
        by_person *= people / (people - 1)
        by_feature *= features / free
    variance = by_person + by_feature - float((moves**2).sum())
    error = float(np.sqrt(variance if variance > 0 else max(by_person, by_feature)))
    df = min(people - 1, free)
    p_value = float(2 * stats.t.sf(abs(estimate) / error, df))
    return Contrast(estimate=estimate, error=error, df=df, p=p_value)


def first_against_others(count: int) -> list[float]:
    """The weights of the paper's contrast: the first layer against the mean of the others."""
    return [1.0, *[-1 / (count - 1)] * (count - 1)]


def person_spread(correct: Grid) -> float:
    """How much participants differ: the sd of their log odds, by maximum likelihood.

    Each feature's log odds are those of its (smoothed) rate; participants are shifted by normal
    amounts, which Gauss-Hermite nodes sum over.
    """
    there, right = np.isfinite(correct), np.nan_to_num(correct)
    base = _logit(_rates(correct))
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    best = (-np.inf, 0.0)
    # Beyond 2, nearly every participant would be always right or always wrong.
    for spread in np.arange(0, 2.01, 0.05):
        odds = base + spread * nodes[:, None]
        logs = np.where(right[:, None] == 1, -np.logaddexp(0, -odds), -np.logaddexp(0, odds))
        each = (logs * there[:, None]).sum(2)
        peak = each.max(1, keepdims=True)
        total = float((np.log(np.exp(each - peak) @ weights) + peak[:, 0]).sum())
        best = max(best, (total, float(spread)))
    return best[1]


def _rates(correct: Grid) -> Float[np.ndarray, " f"]:
    """Each feature's accuracy, kept from 0 and 1 by half an answer either way."""
    there = np.isfinite(correct)
    rates: Float[np.ndarray, " f"] = (np.nan_to_num(correct).sum(0) + 0.5) / (there.sum(0) + 1)
    return rates


def _logit(p: Float[np.ndarray, " f"]) -> Float[np.ndarray, " f"]:
    odds: Float[np.ndarray, " f"] = np.log(p / (1 - p))
    return odds


def power(
    correct: Grid,
    layers: Int[np.ndarray, " f"],
    weights: Sequence[float],
    people: int,
    *,
    alpha: float,
    draws: int,
    seed: int,
) -> float:
    """How often the test would find this difference with so many participants.

    Studies are simulated with as many features a layer, drawn from these at their fitted rates, and
    participants that differ as the fitted ones do. So more participants make up for few features
    only to a point. Args as `contrast`.
    """
    rng = np.random.default_rng((seed, people))
    base, spread = _logit(_rates(correct)), person_spread(correct)
    alike = [np.flatnonzero(layers == layer) for layer in layers]
    found = 0
    for _ in range(draws):
        features = [rng.choice(others) for others in alike]
        odds = base[features] + spread * rng.standard_normal((people, 1))
        simulated = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.float64)
        p = contrast(simulated, layers, weights).p
        found += p is not None and p < alpha
    return found / draws


# ----------------------------------------------------------------------------------- the answers


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The answers that are analysed.

    Args:
        people: ids of the participants that are kept.
        excluded: how many others, by reason.
        features: (layer, feature) of each trial.
        layers: the layer of each, from 0.
        chosen: for each question, what each participant chose in each trial, as an index into
            `ROLES`, -1 where there is no answer.
        ms: for each question the reaction times, NaN where there is none.
    """

    people: tuple[str, ...]
    excluded: Mapping[str, int]
    features: tuple[tuple[str, str], ...]
    layers: Int[np.ndarray, " f"]
    chosen: Mapping[str, Int[np.ndarray, "p f"]]
    ms: Mapping[str, Grid]

    def correct(self, question: str) -> Grid:
        """1 or 0 for each participant and feature, NaN where there is no answer."""
        chosen = self.chosen[question]
        right = (chosen == ROLES.index(question)).astype(np.float64)
        values: Grid = np.where(chosen < 0, np.nan, right)
        return values


def keep(study: Study, participants: pa.Table, answers: pa.Table, plan: Plan) -> Kept:
    """Who and what is analysed. Catch trials exclude from the analysis, never from payment.

    Args:
        study: the study.
        participants, answers: as the store gives them.
        plan: the rules.
    Raises:
        RunError: answers to another study's trials.
    """
    people = participants.sort_by("number").to_pylist()
    rows: dict[str, list[dict[str, Any]]] = {row["participant"]: [] for row in people}
    known = {trial.id for trial in study.trials}
    for row in answers.to_pylist():
        if row["trial"] not in known:
            raise RunError(f"the answers name trial {row['trial']}, which {study.folder} lacks")
        rows.setdefault(row["participant"], []).append(row)
    excluded, kept, seen = Counter[str](), list[str](), set[str]()
    expected = sum(len(QUESTIONS) for trial in study.trials if trial.kind == "trial")
    for person in people:
        reason = _exclusion(person, rows[person["participant"]], expected, plan, seen)
        # A second session counts as one even where the first was not finished.
        if person["prolific_pid"]:
            seen.add(person["prolific_pid"])
        if reason:
            excluded[reason] += 1
        else:
            kept.append(person["participant"])
    trials = [trial for trial in study.trials if trial.kind == "trial"]
    place = {trial.id: i for i, trial in enumerate(trials)}
    shape = (len(kept), len(trials))
    chosen = {question: np.full(shape, -1) for question in QUESTIONS}
    ms = {question: np.full(shape, np.nan) for question in QUESTIONS}
    for number, id in enumerate(kept):
        for row in rows[id]:
            if row["trial"] in place:
                at, trial = place[row["trial"]], trials[place[row["trial"]]]
                role = {trial.mei: 0, trial.mii: 1}.get(row["choice"], 2)
                chosen[row["question"]][number, at] = role
                ms[row["question"]][number, at] = row["reaction_ms"]
    return Kept(
        people=tuple(kept),
        excluded=dict(excluded),
        features=tuple((trial.layer, trial.feature) for trial in trials),
        layers=np.array([study.layers.index(trial.layer) for trial in trials], dtype=np.int64),
        chosen=chosen,
        ms=ms,
    )


def _exclusion(
    person: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    expected: int,
    plan: Plan,
    seen: set[str],
) -> str | None:
    """The first reason to leave a participant out."""
    if person["state"] != "complete":
        return "not finished" if person["state"] == "started" else str(person["state"])
    if person["prolific_pid"] and person["prolific_pid"] in seen:
        return "took part before"
    trials = [row for row in rows if row["kind"] == "trial"]
    if len(trials) < expected:
        return "answers missing"
    catch = [row["correct"] for row in rows if row["kind"] == "catch" and row["question"] == "mei"]
    if catch and sum(catch) / len(catch) < plan.catch_share:
        return "catch trials"
    if np.median([row["reaction_ms"] for row in trials]) < plan.min_median_ms:
        return "too fast"
    return None


# ---------------------------------------------------------------------------------- the analysis


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All results: `values` is what analysis.json holds; `kept` are the answers behind it."""

    values: Mapping[str, Any]
    kept: Kept


def analyse(
    study: Study, participants: pa.Table, answers: pa.Table, progress: Progress | None = None
) -> Analysis:
    """Analyse a study's answers as its settings plan it.

    Args:
        study: the study.
        participants, answers: as the store gives them.
        progress: called with what is being done, the steps done and the steps in all.
    Raises:
        RunError: nobody can be analysed; the message counts the reasons.
        ValueError: the plan in study.json makes no sense.
    """
    plan = Plan.restore(study.settings["analysis"])
    seed = int(study.settings["seed"])
    kept = keep(study, participants, answers, plan)
    if not kept.people:
        reasons = ", ".join(f"{count} {why}" for why, count in kept.excluded.items())
        raise RunError(
            f"{study.folder} has no participant to analyse: "
            + (f"{len(participants)} began ({reasons})" if reasons else "nobody has taken part")
        )
    count = len(study.layers)
    draws = {
        question: bootstrap(kept.correct(question), kept.layers, count, plan.draws, seed)
        for question in QUESTIONS
    }
    values: dict[str, Any] = {
        "format": 1,
        "title": study.settings["title"],
        "study_sha256": study.fingerprint(),
        "runs": study.settings["runs"],
        "versions": versions(),
        "seed": seed,
        "plan": asdict(plan),
        "participants": {
            "began": len(participants),
            "analysed": len(kept.people),
            "excluded": dict(sorted(kept.excluded.items())),
        },
        "chance": CHANCE,
        "layers": [
            {"layer": layer, "label": study.label(layer)}
            | {question: _of_layer(kept, question, i, draws, plan) for question in QUESTIONS}
            for i, layer in enumerate(study.layers)
        ],
        "features": [
            {"layer": layer, "feature": feature}
            | {question: _share(kept.correct(question)[:, i]) for question in QUESTIONS}
            for i, (layer, feature) in enumerate(kept.features)
        ],
        "test": _tests(study, kept, draws[plan.question], plan),
    }
    told = study.folder / "simulated.json"
    values["simulated"] = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else None
    values["power"] = _powers(kept, plan, count, seed, progress)
    return Analysis(values=values, kept=kept)


def _share(values: Float[np.ndarray, " n"]) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if there.size else None


def _of_layer(
    kept: Kept, question: str, layer: int, draws: Mapping[str, np.ndarray], plan: Plan
) -> dict[str, Any]:
    """One bar of figure 10, and what else there is to say about its answers."""
    here = kept.layers == layer
    correct, chosen = kept.correct(question)[:, here], kept.chosen[question][:, here]
    ms = kept.ms[question][:, here]
    ms = ms[np.isfinite(ms)]
    # One participant, or one feature, says nothing of how much others differ.
    spread = len(kept.people) > 1 and here.sum() > 1
    low, high = interval(draws[question][:, layer], plan.level) if spread else (None, None)
    found: dict[str, Any] = {
        "answers": int((chosen >= 0).sum()),
        "right": int((chosen == ROLES.index(question)).sum()),
        "accuracy": _share(correct.ravel()),
        "low": low,
        "high": high,
        "chosen": {role: _share(np.where(chosen < 0, np.nan, chosen == i).ravel())
                   for i, role in enumerate(ROLES)},
        "reaction_ms": [float(x) for x in np.percentile(ms, [25, 50, 75])] if ms.size else None,
    }  # fmt: skip
    if question == "mii":
        # Only then is it open to find, and chance 1 in 8: who took it for the MEI cannot.
        first = kept.chosen["mei"][:, here]
        open_ = np.where(first != ROLES.index("mii"), correct, np.nan).ravel()
        found["accuracy_where_open"] = _share(open_)
    return found


def _tests(study: Study, kept: Kept, draws: Float[np.ndarray, "b l"], plan: Plan) -> dict[str, Any]:
    """The planned test, the single comparisons, and what other tests would say."""
    count, correct = len(study.layers), kept.correct(plan.question)
    if count < 2:
        return {"question": plan.question, "reason": "a study of one layer compares none"}
    weights = first_against_others(count)
    names, first, others = study.layers, kept.layers == 0, kept.layers > 0
    difference = draws[:, 0] - draws[:, 1:].mean(1)
    shares = accuracy(correct, kept.layers, count)
    low, high = interval(difference, plan.level)
    tests: dict[str, Any] = {
        "question": plan.question,
        "contrast": f"{names[0]} against {' and '.join(names[1:])}",
        **asdict(contrast(correct, kept.layers, weights)),
        "difference": float(shares[0] - shares[1:].mean()),
        "difference_low": low,
        "difference_high": high,
        "pairs": [],
    }
    for i in range(count):
        for j in range(i + 1, count):
            pair = [float(k == i) - float(k == j) for k in range(count)]
            about = {"layers": [names[i], names[j]], "difference": float(shares[i] - shares[j])}
            tests["pairs"].append(about | asdict(contrast(correct, kept.layers, pair)))
    people = np.nanmean(correct[:, first], 1) - np.nanmean(correct[:, others], 1)
    features = np.nanmean(correct, 0)
    tests["others"] = {
        "paired t over participants (features as given)": _t(people, None),
        "Welch's t over features (participants as given)": _t(features[first], features[others]),
    }
    return tests


def _t(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"] | None) -> float | None:
    """The p-value of a t test; None where it has none."""
    sizes = [len(a)] if b is None else [len(a), len(b)]
    constant = not any(x.std() for x in ([a] if b is None else [a, b]))
    if min(sizes) < 2 or constant:
        return None
    found = stats.ttest_1samp(a, 0) if b is None else stats.ttest_ind(a, b, equal_var=False)
    return float(found.pvalue)


def _powers(
    kept: Kept, plan: Plan, count: int, seed: int, progress: Progress | None
) -> dict[str, Any] | None:
    correct = kept.correct(plan.question)
    if count < 2 or contrast(correct, kept.layers, first_against_others(count)).p is None:
        return None
    weights, found = first_against_others(count), dict[str, float]()
    for done, people in enumerate(plan.power_for):
        if progress is not None:
            progress("simulating studies for the power", done, len(plan.power_for))
        found[str(people)] = power(
            correct, kept.layers, weights, people,
            alpha=plan.alpha, draws=plan.power_draws, seed=seed,
        )  # fmt: skip
    return {
        "question": plan.question,
        "alpha": plan.alpha,
        "simulations": plan.power_draws,
        "person_sd": person_spread(correct),
        "power": found,
    }


def analyse_folder(study: Study, progress: Progress | None = None) -> Analysis:
    """Analyse the answers in a study's own folder.

    Raises:
        RunError: nobody has taken part yet, or nobody can be analysed.
    """
    from opponent.study.store import Store

    with Store(study.folder / "answers.sqlite3") as store:
        return analyse(study, store.participants(), store.answers(), progress)


def to_json(analysis: Analysis) -> str:
    """The results as a JSON text; what has no value is null."""
    return json.dumps(analysis.values, indent=1, allow_nan=False) + "\n"


def write_analysis(analysis: Analysis, folder: Path, *, suffix: str = "png") -> list[Path]:
    """Write analysis.json and the figure.

    Args:
        analysis: the results.
        folder: where to.
        suffix: png, pdf or svg.
    Returns:
        The paths.
    """
    from opponent.plots.experiment import experiment_figure, experiment_layers
    from opponent.plots.layout import save
    from opponent.storage.files import write_text

    table, picture = folder / "analysis.json", folder / f"figure10.{suffix}"
    write_text(table, to_json(analysis))
    values = analysis.values
    figure = experiment_figure(
        experiment_layers(values), chance=values["chance"], level=values["plan"]["level"],
        participants=values["participants"]["analysed"],
        simulated=values["simulated"] and values["simulated"]["skill"],
    )  # fmt: skip
    save(figure, picture)
    return [table, picture]

"""Accuracies, their intervals, a test between layers, and its power.

Source: paper, appendix B and figure 10.

Participants and features are both samples: other participants may find a layer's features easier,
and other clusters may be easier. So intervals resample both (Owen, 2007, 'The pigeonhole
bootstrap'), and the test of a layer against others is a logistic regression with standard errors
clustered by participant and by feature at once (Cameron, Gelbach and Miller, 2011). A paired test
over participants alone takes the features as given: where features differ in difficulty, it finds
layers different that are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

Grid = Float[np.ndarray, "p f"]


def accuracy(correct: Grid, layers: Int[np.ndarray, " f"], count: int) -> Float[np.ndarray, " l"]:
    """The share of right answers in each layer.

    Args:
        correct: 1 or 0 for each participant and feature, NaN where there is no answer.
        layers: the layer of each feature, from 0.
        count: how many layers there are.
    Returns:
        One share a layer, NaN where there is no answer.
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
    """Accuracies with weights for participants and features, one set of weights a row."""
    answered = np.isfinite(correct)
    right = people @ np.where(answered, correct, 0) * features
    answers = people @ answered.astype(np.float64) * features
    of_layer = layers[:, None] == np.arange(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: Float[np.ndarray, "b l"] = (right @ of_layer) / (answers @ of_layer)
    return shares


def bootstrap(
    correct: Grid, layers: Int[np.ndarray, " f"], count: int, draws: int, seed: int
) -> Float[np.ndarray, "b l"]:
    """Accuracies by layer, with participants and, within layers, features resampled.

    Args:
        correct: as in `accuracy`.
        layers: as in `accuracy`.
        count: how many layers there are.
        draws: how many resamples.
        seed: of the resamples.
    Returns:
        One row of accuracies a draw.
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
    """The percentile interval of draws; (None, None) where no draw is finite.

    Args:
        values: the draws.
        level: share of the draws that the interval holds.
    """
    kept = values[np.isfinite(values)]
    if not kept.size:
        return None, None
    low, high = np.percentile(kept, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference between layers in log odds, with its standard error and p-value.

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

    With one coefficient a layer the regression has a closed form: a layer's coefficient is the
    logit of its accuracy p, and an answer y moves it by (y - p) / (n p (1 - p)).

    Args:
        correct: as in `accuracy`.
        layers: as in `accuracy`.
        weights: of each layer's log odds; they sum to 0.
        corrected: correct for the numbers of clusters. Without, errors are too small in small
            samples.
    Returns:
        The weighted sum of log odds, or the reason why there is none.
    Source: Cameron, Gelbach and Miller (2011), 'Robust inference with multiway clustering', with
        their remedy where the variance comes out negative: the larger one-way variance.
    """
    answered = np.isfinite(correct)
    people, features = int(answered.any(1).sum()), int(answered.any(0).sum())
    used = [i for i, weight in enumerate(weights) if weight]
    if people < 2 or any((layers == i).sum() < 2 for i in used):
        return Contrast(reason="it takes two participants, and two features a layer")
    moves, estimate = np.zeros(correct.shape), 0.0
    for i in used:
        here = answered & (layers == i)
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
    """The weights of the paper's contrast: the first layer against the mean of the others.

    Args:
        count: how many layers there are, at least 2.
    """
    return [1.0, *[-1 / (count - 1)] * (count - 1)]


def person_spread(correct: Grid) -> float:
    """The sd of participants' log odds, by maximum likelihood.

    A feature's log odds are those of its smoothed rate. A participant adds a normal amount to
    them, over which Gauss-Hermite quadrature integrates.

    Args:
        correct: as in `accuracy`.
    """
    answered, right = np.isfinite(correct), np.nan_to_num(correct)
    base = _logit(_rates(correct))
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    best = (-np.inf, 0.0)
    # Beyond 2, nearly every participant would be always right or always wrong.
    for spread in np.arange(0, 2.01, 0.05):
        odds = base + spread * nodes[:, None]
        logs = np.where(right[:, None] == 1, -np.logaddexp(0, -odds), -np.logaddexp(0, odds))
        of_person = (logs * answered[:, None]).sum(2)
        peak = of_person.max(1, keepdims=True)
        total = float((np.log(np.exp(of_person - peak) @ weights) + peak[:, 0]).sum())
        best = max(best, (total, float(spread)))
    return best[1]


def _rates(correct: Grid) -> Float[np.ndarray, " f"]:
    """Each feature's accuracy, with half a right and half a wrong answer added."""
    answered = np.isfinite(correct)
    rates: Float[np.ndarray, " f"] = (np.nan_to_num(correct).sum(0) + 0.5) / (answered.sum(0) + 1)
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
    """The share of simulated studies in which the test finds a difference.

    A simulated study has as many features a layer as this one, drawn from these at their fitted
    rates, and participants that differ as the fitted ones do. So more participants make up for few
    features only to a point.

    Args:
        correct: as in `accuracy`.
        layers: as in `accuracy`.
        weights: as in `contrast`.
        people: how many participants a simulated study has.
        alpha: a smaller p-value finds the difference.
        draws: how many studies are simulated.
        seed: of the simulated studies.
    """
    rng = np.random.default_rng((seed, people))
    base, spread = _logit(_rates(correct)), person_spread(correct)
    alike = [np.flatnonzero(layers == layer) for layer in layers]
    significant = 0
    for _ in range(draws):
        features = [rng.choice(others) for others in alike]
        odds = base[features] + spread * rng.standard_normal((people, 1))
        simulated = (rng.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.float64)
        p = contrast(simulated, layers, weights).p
        significant += p is not None and p < alpha
    return significant / draws

"""How well a number tells two groups of images apart, or follows another, with its interval."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# Resamples of the images for an interval, and how many are held at once.
RESAMPLES, _AT_ONCE = 500, 2**22
CONFIDENCE = 0.95
# Of fewer images of a kind nothing is said. Ours.
FEWEST_OF_A_KIND = 5


class Estimate(NamedTuple):
    """A value with its interval; NaN where nothing can be said.

    Args:
        value: the value.
        low, high: its interval of 95 %.
    """

    value: float
    low: float
    high: float


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


def wilson(count: float, of: int) -> Estimate:
    """A share of images with its interval.

    Args:
        count: how many have it.
        of: of how many.
    Source: Wilson (1927), which holds at shares of 0 and 1, too.
    """
    from scipy.stats import binomtest

    if not of:
        return NOTHING
    whole = round(count)
    interval = binomtest(whole, of).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(whole / of, float(interval.low), float(interval.high))


def auc_of_groups(
    higher: Float[np.ndarray, " p"], lower: Float[np.ndarray, " q"], seed: int
) -> Estimate:
    """How often a value of one group is over one of another: the area under the ROC curve.

    Args:
        higher, lower: the values of either group.
        seed: of the resamples.
    """
    values = np.concatenate([higher, lower])
    first = np.arange(len(values)) < len(higher)
    return auc_each({"": values}, first, seed)[""]


def auc_each(
    scores: dict[str, Float[np.ndarray, " n"]],
    positive: Bool[np.ndarray, " n"],
    seed: int,
    beside: str | None = None,
) -> dict[str, Estimate]:
    """The area under the ROC curve of several scores, from the same resamples of the images.

    Args:
        scores: by name.
        positive: which images are to have the larger ones.
        seed: of the resamples.
        beside: give, for each score, how far its area is over that of this score.
    Returns:
        By name; NaN from fewer than `FEWEST_OF_A_KIND` images of either kind.
    Source: Mann & Whitney (1947); equal scores count a half. The interval is the bootstrap's.
    """
    count = int(positive.sum())
    if min(count, len(positive) - count) < FEWEST_OF_A_KIND:
        return dict.fromkeys(scores, NOTHING)
    found = {name: [_auc(x, positive, np.ones((1, len(x))))] for name, x in scores.items()}
    for weights in resamples(len(positive), seed):
        for name, values in scores.items():
            found[name].append(_auc(values, positive, weights))
    areas = {name: np.concatenate(parts) for name, parts in found.items()}
    base = 0 if beside is None else areas[beside]
    return {name: _estimate(values - base) for name, values in areas.items()}


def _auc(
    values: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "r n"],
) -> Float[np.ndarray, " r"]:
    order = np.argsort(values, kind="stable")
    ordered, sign, weights = values[order], positive[order], weights[:, order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    up = np.add.reduceat(weights * sign, begins, axis=1)
    down = np.add.reduceat(weights * ~sign, begins, axis=1)
    below = down.cumsum(1) - down / 2
    with np.errstate(invalid="ignore"):
        area: Float[np.ndarray, " r"] = (up * below).sum(1) / (up.sum(1) * down.sum(1))
    return area


def spearman_each(
    scores: dict[str, Float[np.ndarray, " n"]],
    outcome: Float[np.ndarray, " n"],
    seed: int,
    given: tuple[str, ...] = (),
) -> dict[str, Estimate]:
    """Spearman's correlation of several scores with an outcome.

    Args:
        scores: by name.
        outcome: what they are to follow.
        seed: of the resamples.
        given: scores whose ranks are taken out of both first, by least squares: the partial
            correlation. Of one of these the others alone are taken out.
    Returns:
        By name; NaN from few images or where one is constant. The interval is the bootstrap's, of
        the ranks in all images.
    """
    from scipy.stats import rankdata

    if len(outcome) < 2 * FEWEST_OF_A_KIND:
        return dict.fromkeys(scores, NOTHING)
    ranks = {name: rankdata(values) for name, values in scores.items()}
    last = rankdata(outcome)
    pairs = dict[str, tuple[np.ndarray, np.ndarray]]()
    for name, values in ranks.items():
        others = np.stack([np.ones(len(last)), *(ranks[x] for x in given if x != name)], 1)
        pairs[name] = _without(values, others), _without(last, others)
    parts = {name: [_weighted_r(*pair, np.ones((1, len(last))))] for name, pair in pairs.items()}
    for weights in resamples(len(last), seed):
        for name, pair in pairs.items():
            parts[name].append(_weighted_r(*pair, weights))
    return {name: _estimate(np.concatenate(values)) for name, values in parts.items()}


def _without(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    rest: np.ndarray = values - others @ np.linalg.lstsq(others, values, rcond=None)[0]
    # What is left of a combination of the others is rounding.
    return rest if np.abs(rest).max() > 1e-9 * np.abs(values).max() else np.zeros_like(rest)


def _weighted_r(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, " r"]:
    total = weights.sum(1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    both = weights @ (x * y) / total - mean_x * mean_y
    var_x, var_y = weights @ x**2 / total - mean_x**2, weights @ y**2 / total - mean_y**2
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Float[np.ndarray, " r"] = both / np.sqrt(var_x * var_y)
    return np.where(np.isfinite(r), r, np.nan)


def resamples(count: int, seed: int) -> Iterator[Float[np.ndarray, "r n"]]:
    """How often each image is drawn, in resamples with as many draws, some at a time.

    Args:
        count: how many images.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    left = RESAMPLES
    while left:
        now = min(left, max(1, _AT_ONCE // count))
        yield generator.multinomial(count, np.full(count, 1 / count), size=now).astype(np.float64)
        left -= now


def _estimate(values: Float[np.ndarray, " r"]) -> Estimate:
    """The first is the value itself; all others are resamples."""
    defined = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or not len(defined):
        return NOTHING
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(defined, [tail, 100 - tail])
    return Estimate(float(values[0]), float(low), float(high))

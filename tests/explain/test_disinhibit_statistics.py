"""Areas, correlations and intervals against slow twins."""

import math

import numpy as np
import pytest
from scipy import stats

from opponent.explain.disinhibition.cells import share_of
from opponent.explain.disinhibition.groups import (
    group_size,
    own_images,
    tense_images,
    thresholds,
)
from opponent.explain.disinhibition.statistics import (
    auc_each,
    auc_of_groups,
    resamples,
    spearman_each,
    wilson,
)


def slow_auc(values: np.ndarray, positive: np.ndarray) -> float:
    pairs = [
        (a > b) + (a == b) / 2 for a in values[positive] for b in values[~positive]
    ]  # fmt: skip
    return float(np.mean(pairs))


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    """Three scores of 40 images, of which one has many ties."""
    rng = np.random.default_rng(1)
    first = rng.normal(size=40)
    return {
        "first": first,
        "second": first + rng.normal(size=40),
        "ties": rng.integers(0, 4, 40).astype(float),
    }


def test_areas_are_shares_of_pairs(values: dict[str, np.ndarray]) -> None:
    positive = values["first"] + np.random.default_rng(2).normal(size=40) > 0
    found = auc_each(values, positive, seed=0)
    ahead = auc_each(values, positive, seed=0, beside="second")
    drawn = np.concatenate(list(resamples(40, 0))).astype(int)
    for name, score in values.items():
        assert found[name].value == pytest.approx(slow_auc(score, positive))
        slow = []
        for counts in drawn:
            rows = np.arange(40).repeat(counts)
            slow.append(slow_auc(score[rows], positive[rows]))
        assert found[name][1:] == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))
        difference = found[name].value - found["second"].value
        assert ahead[name].value == pytest.approx(difference)
    assert ahead["second"] == (0, 0, 0)


def test_areas_of_groups() -> None:
    higher, lower = np.arange(5.0) + 10, np.arange(6.0)
    assert auc_of_groups(higher, lower, 0) == (1, 1, 1)
    assert auc_of_groups(lower, lower, 0).value == 0.5
    assert math.isnan(auc_of_groups(higher[:4], lower, 0).value)
    assert math.isnan(auc_of_groups(higher, lower[:0], 0).low)


def test_correlations_are_those_of_scipy(values: dict[str, np.ndarray]) -> None:
    outcome = values["first"] ** 3 + values["ties"]
    found = spearman_each(values, outcome, 0)
    for name, score in values.items():
        assert found[name].value == pytest.approx(stats.spearmanr(score, outcome).statistic)
        assert found[name].low <= found[name].value <= found[name].high
    partial = spearman_each(values, outcome, 0, ("second", "ties"))
    ranks = {name: stats.rankdata(x) for name, x in values.items()} | {
        "outcome": stats.rankdata(outcome)
    }
    for name in values:
        others = [ranks[x] for x in ("second", "ties") if x != name]
        design = np.stack([np.ones(40), *others], 1)
        rests = [
            y - design @ np.linalg.solve(design.T @ design, design.T @ y)
            for y in (ranks[name], ranks["outcome"])
        ]
        assert partial[name].value == pytest.approx(stats.pearsonr(*rests).statistic)


def test_what_never_changes_has_no_correlation(values: dict[str, np.ndarray]) -> None:
    scores = {"same": np.ones(40), "second": values["second"]}
    found = spearman_each(scores, values["first"], 0)
    assert math.isnan(found["same"].value)
    assert not math.isnan(found["second"].value)
    # What others say already has no part of its own.
    scores = {"second": values["second"], "twice": 2 * values["second"]}
    found = spearman_each(scores, values["first"], 0, ("second",))
    assert math.isnan(found["twice"].value)
    few = spearman_each({"": values["first"][:9]}, values["first"][:9], 0)
    assert math.isnan(few[""].value)


def test_shares_have_wilsons_interval() -> None:
    for count, of in ((0, 20), (7, 20), (20, 20), (1, 1000)):
        # Where a normal deviate of 1.96 would just lead from a bound to the share: two roots.
        share, z2 = count / of, stats.norm.ppf(0.975) ** 2
        bounds = np.roots([1 + z2 / of, -(2 * share + z2 / of), share**2]).real
        want = (share, bounds.min().clip(0), bounds.max().clip(None, 1))
        assert wilson(float(count), of) == pytest.approx(want, abs=1e-6)
    assert math.isnan(wilson(0.0, 0).value)


def test_groups_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(3)
    f, l1 = rng.normal(size=(400, 2)), rng.random((400, 2))
    tense, own = tense_images(f, l1), own_images(f)
    strong = thresholds(f, own)
    for unit in range(2):
        band = [i for i in range(400) if -0.5 * f[:, unit].std() < f[i, unit] < 0]
        slow = sorted(band, key=lambda i: -l1[i, unit])[:20]
        assert sorted(slow) == np.flatnonzero(tense[:, unit]).tolist()
        slow = sorted(range(400), key=lambda i: -f[i, unit])[:20]
        assert sorted(slow) == np.flatnonzero(own[:, unit]).tolist()
        assert strong[unit] == np.median(f[own[:, unit], unit])
        assert (f[own[:, unit], unit] > strong[unit]).sum() == 10
    assert [group_size(n) for n in (30, 80, 1000, 9000)] == [7, 20, 20, 90]
    assert not own_images(-abs(f)).any()
    # Without own images nobody knows what is strong.
    assert np.isnan(thresholds(-abs(f), own_images(-abs(f)))).all()
    fires = np.ones((4, 1), bool)
    assert np.isnan(share_of(fires, math.nan).value)
    assert share_of(fires, 0.0).value == 1
    assert thresholds(-abs(f), own).tolist() == [0, 0]

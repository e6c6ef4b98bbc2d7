"""The statistics: worked by hand, against statsmodels, and in simulated truth."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opponent.study.analysis.statistics import (
    accuracy,
    bootstrap,
    contrast,
    first_against_others,
    interval,
    person_spread,
    power,
)

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


def test_accuracy_by_hand() -> None:
    correct = np.array([[1.0, 0.0, 1.0, NAN], [1.0, 1.0, NAN, NAN]])
    layers = np.array([0, 0, 1, 2])
    shares = accuracy(correct, layers, 3)
    assert shares[:2].tolist() == [0.75, 1.0]
    assert np.isnan(shares[2])


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
    test = contrast(correct, layers, [1.0, -1.0], corrected=False)
    assert test.estimate == pytest.approx(2 * np.log(3))
    # An answer moves a coefficient by (y - p) / (4 p (1 - p)) = (y - p) / 0.75:
    # first person: (1/4 + 1/4) - (-1/4 - 1/4) = 1, second: (1/4 - 3/4) - (3/4 - 1/4) = -1.
    # features: 1/2, -1/2, -1/2, 1/2; single answers: 6 of 1/4 and 2 of 3/4, squared.
    variance = (2 * 1 + 4 * 0.25 - (6 / 16 + 2 * 9 / 16)) / 0.75**2
    assert test.error == pytest.approx(np.sqrt(variance))


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_a_contrast_is_statsmodels_regression(missing: float) -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    correct, layers = grid(rng, 20, [1.0, 0.0, -1.0], 6, (0.5, 0.8))
    correct[rng.random(correct.shape) < missing] = NAN
    weights = first_against_others(3)
    test = contrast(correct, layers, weights, corrected=False)
    rows, columns = np.nonzero(np.isfinite(correct))
    x = (layers[columns][:, None] == np.arange(3)).astype(float)
    fitted = sm.Logit(correct[rows, columns], x).fit(
        disp=0,
        cov_type="cluster",
        cov_kwds={"groups": np.c_[rows, columns], "use_correction": False},
    )
    said = fitted.t_test(np.array(weights))
    assert test.estimate == pytest.approx(float(said.effect.squeeze()), rel=1e-6)
    assert test.error == pytest.approx(float(said.sd.squeeze()), rel=1e-6)


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
    test = contrast(correct, layers, first_against_others(3))
    assert test.p is not None
    assert test.p < 1e-4
    assert test.estimate == pytest.approx(3.0, abs=1.2)


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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(1, 4))
def test_intervals_lie_around_what_was_found(seed: int, people: int, layers: int) -> None:
    correct, of_layer = grid(np.random.default_rng(seed), people, [0.0] * layers, 3, (0, 0))
    draws = bootstrap(correct, of_layer, layers, 300, 0)
    shares = accuracy(correct, of_layer, layers)
    for i in range(layers):
        low, high = interval(draws[:, i], 0.95)
        assert low is not None
        assert high is not None
        assert 0 <= low <= shares[i] + 1e-9
        assert shares[i] - 1e-9 <= high <= 1

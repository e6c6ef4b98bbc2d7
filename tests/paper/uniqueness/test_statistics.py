"""The measure, chance, and intervals."""

import math
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from opponent.paper.uniqueness.statistics import chance, interval, ranked, uniqueness
from opponent.selection import top


def image_sets() -> st.SearchStrategy[list[list[int]]]:
    """For each of a few features as many images, all different."""
    return st.integers(1, 6).flatmap(
        lambda m: st.lists(
            st.lists(st.integers(0, 20), min_size=m, max_size=m, unique=True),
            min_size=1,
            max_size=8,
        )
    )


@given(image_sets())
def test_uniqueness_is_the_size_of_the_union(sets: list[list[int]]) -> None:
    n, m = len(sets), len(sets[0])
    value = uniqueness(np.array(sets))
    assert value == len(set(chain(*sets))) / (n * m)
    assert 1 / n <= value <= 1


def test_uniqueness_by_hand() -> None:
    assert uniqueness(np.array([[0, 1], [2, 3]])) == 1
    assert uniqueness(np.array([[0, 1], [1, 0]])) == 0.5
    assert uniqueness(np.array([[0, 1], [1, 2], [2, 3]])) == 4 / 6


@pytest.mark.parametrize(("n", "m", "images"), [(20, 10, 100), (5, 30, 60), (3, 1, 7)])
def test_chance_is_what_random_images_give(n: int, m: int, images: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [
        uniqueness(np.array([rng.permutation(images)[:m] for _ in range(n)])) for _ in range(2000)
    ]
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn) - chance(n, m, images)) < 4 * error


def test_chance_by_hand() -> None:
    # The papers' m of its N, and of the thousand images that a small set has.
    assert chance(20, 100, 50_000) == pytest.approx(0.981, abs=5e-4)
    assert chance(20, 100, 1000) == pytest.approx(0.439, abs=5e-4)
    assert chance(1, 3, 10) == pytest.approx(1)
    assert chance(4, 10, 10) == 0.25


@given(image_sets(), st.integers(0, 5))
def test_intervals_are_those_of_the_jackknife(sets: list[list[int]], more: int) -> None:
    n, members = len(sets), np.array(sets)
    low, high = interval(members, n + more)
    assert 1 / n <= low <= uniqueness(members) <= high <= 1
    if n == 1:
        return
    without = [uniqueness(np.delete(members, i, 0)) for i in range(n)]
    variance = (n - 1) ** 2 / n * np.var(without, ddof=1) * more / (n + more)
    half = t.ppf(0.975, n - 1) * math.sqrt(variance)
    assert low == pytest.approx(max(1 / n, uniqueness(members) - half))
    assert high == pytest.approx(min(1, uniqueness(members) + half))


def test_intervals_by_hand() -> None:
    # Three features; U without each is 3/4, 4/4, 3/4: the variance is 2/3 * (1/24) = 1/36.
    members = np.array([[0, 1], [1, 2], [2, 3]])
    low, high = interval(members, confidence=0.5)
    half = 0.816496580927726 / 6  # the quartile of Student's t with two degrees of freedom
    assert (low, high) == pytest.approx((4 / 6 - half, 4 / 6 + half))
    # The whole layer: no other choice is left.
    assert interval(members, 3) == (4 / 6, 4 / 6)
    assert interval(members[:1]) == (1, 1)


@pytest.mark.parametrize(("images", "taste"), [(200, 0.0), (200, 1.0), (200, 2.5), (1000, 1.5)])
def test_intervals_hold_what_another_choice_gives(images: int, taste: float) -> None:
    """Features drawn from a layer of 100, some more after what all like, some after their own."""
    rng = np.random.default_rng(1)
    common = rng.normal(size=images)
    values = taste * rng.random((100, 1)) * common + rng.normal(size=(100, images))
    members = np.array([top(row, 20) for row in values])
    draws = [members[rng.permutation(100)[:20]] for _ in range(400)]
    true = np.array([uniqueness(drawn) for drawn in draws])
    ends = np.array([interval(drawn, 100) for drawn in draws])
    assert np.mean((ends[:, 0] <= true.mean()) & (true.mean() <= ends[:, 1])) > 0.93
    # Wider than need be, but not twice.
    half = np.sqrt(np.mean(((ends[:, 1] - ends[:, 0]) / 2) ** 2))
    assert 0.95 < half / (2.093 * true.std()) < 2


def test_a_bootstrap_would_put_it_too_low() -> None:
    rng = np.random.default_rng(0)
    members = np.array([rng.permutation(10_000)[:100] for _ in range(20)])
    again = [uniqueness(members[rng.integers(20, size=20)]) for _ in range(100)]
    low, high = interval(members)
    assert max(again) < low < chance(20, 100, 10_000) < high


def test_features_without_top_images_are_found() -> None:
    values = np.array([[0, 0, 3, 1.5, 2], [0, 1, 2, 1.5, 2], [0, 0, 1, 1.5, 2], [0, 0, 0, 1.5, 1]])
    assert ranked(values, 1).tolist() == [False, True, True, False, True]
    assert ranked(values, 3).tolist() == [False, False, True, False, True]
    assert ranked(values[:, :0], 3).tolist() == []

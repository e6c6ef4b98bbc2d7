"""Summaries of all units: extremes and distributions that merge in any order."""

from dataclasses import fields
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from safetensors.numpy import load

from opponent.storage.summary import QUANTILES, SCORES, Summary, merge, rows, summarise


def same(a: Summary, b: Summary) -> bool:
    return a.to_bytes() == b.to_bytes()


FLOATS = st.floats(width=32)
# Of few values, so that there are ties.
VALUES = st.one_of(FLOATS, st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0]))


def finite(values: Float[np.ndarray, "n u s"]) -> Float[np.ndarray, "n u"]:
    """Which units count in which images."""
    return np.isfinite(values).all(2)


@st.composite
def columns(draw: st.DrawFn, images: int | None = None) -> Float[np.ndarray, "n u s"]:
    """Of a few images, units and scores."""
    n = draw(st.integers(0, 12)) if images is None else images
    values = draw(st.lists(VALUES, min_size=n * 4, max_size=n * 4))
    return np.array(values, np.float32).reshape(n, 2, 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_summaries_merge_in_any_order_and_grouping_to_the_same_bytes(data: st.DataObject) -> None:
    values = data.draw(columns())
    n, keep = len(values), data.draw(st.integers(1, 5))
    numbers = np.array(data.draw(st.permutations(range(n))), np.int64)
    parts = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    owner = np.array(parts, np.int64)
    a, b, c, d = (summarise(values[owner == k], numbers[owner == k], keep) for k in range(4))
    everything = summarise(values, numbers, keep)
    assert same(merge(a, b), merge(b, a))
    assert same(merge(merge(a, b), merge(c, d)), everything)
    assert same(merge(a, merge(b, merge(c, d))), everything)
    assert same(reduce(merge, data.draw(st.permutations([a, b, c, d]))), everything)
    # An order of the images of its own changes nothing either.
    order = np.array(data.draw(st.permutations(range(n))), np.int64)
    assert same(summarise(values[order], numbers[order], keep), everything)


@settings(max_examples=60, deadline=None)
@given(columns(), st.integers(1, 5))
def test_extremes_are_those_of_a_sorted_list(values: Float[np.ndarray, "n u s"], keep: int) -> None:
    numbers = np.arange(len(values)) * 3 + 100
    found = summarise(values, numbers, keep)
    for unit in range(2):
        for score in range(2):
            column = [
                (float(values[k, unit, score]), int(i))
                for k, i in enumerate(numbers)
                if finite(values)[k, unit]
            ]
            for end, sign in enumerate((-1, 1)):
                best = sorted(column, key=lambda pair: (sign * pair[0], pair[1]))[:keep]
                missing = keep - len(best)
                expected = [x for x, _ in best] + [np.nan] * missing
                assert found.images[unit, score, end].tolist() == (
                    [i for _, i in best] + [-1] * missing
                )
                np.testing.assert_array_equal(found.values[unit, score, end], expected)


@settings(max_examples=40, deadline=None)
@given(columns(), st.integers(1, 3))
def test_a_summary_comes_back_from_its_bytes(values: Float[np.ndarray, "n u s"], keep: int) -> None:
    numbers = np.arange(len(values)) * 1000
    summary = summarise(values, numbers, keep)
    found = Summary.from_arrays(load(summary.to_bytes()))
    for each in fields(Summary):
        np.testing.assert_array_equal(getattr(found, each.name), getattr(summary, each.name))
        assert np.asarray(getattr(found, each.name)).dtype == (
            np.asarray(getattr(summary, each.name)).dtype
        )
    assert same(found, summary)
    assert same(merge(found, summarise(values[:0], numbers[:0], keep)), summary)


DISTRIBUTIONS = {
    "positive": lambda rng: rng.lognormal(0, 3, 1000),
    "negative": lambda rng: -rng.lognormal(0, 3, 1000),
    "mixed": lambda rng: rng.normal(0, 5, 1001),
    "mostly zero": lambda rng: rng.normal(0, 1, 997).clip(0),
    "zero": lambda rng: np.zeros(10),
    "constant": lambda rng: np.full(17, 3.7),
    "negative constant": lambda rng: np.full(3, -1e-5),
    "one": lambda rng: np.array([-2.5]),
    "two": lambda rng: np.array([1.0, 100.0]),
    "far apart": lambda rng: np.array([-1e11, -1e-11, 0, 1e-11, 1e11]),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantiles_are_right_to_one_percent(name: str) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(0)).astype(np.float32)
    other = np.random.default_rng(1).normal(size=len(values)).astype(np.float32)
    both = np.stack([other, values], 1)[:, :, None]
    parts = np.array_split(np.arange(len(values)), 3)
    summary = reduce(merge, [summarise(both[some], some) for some in parts])
    for share in (*QUANTILES, 0.0, 1.0, 0.123):
        expected = np.quantile(both.astype(np.float64), share, axis=0, method="lower")
        np.testing.assert_allclose(summary.quantile(share), expected, rtol=0.01)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**39), 2.0**39, width=32), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_quantiles_of_any_values(values: list[float], share: float) -> None:
    column = np.array(values, np.float32)[:, None, None]
    [[found]] = summarise(column, np.arange(len(values))).quantile(share)
    expected = np.quantile(np.array(values, np.float64), share, method="lower")
    # Values under 1e-12 count as zero.
    assert found == pytest.approx(expected, rel=0.01, abs=1e-12)


def test_without_images_there_are_no_quantiles() -> None:
    summary = summarise(np.empty((0, 3, 2), np.float32), np.empty(0, np.int64), 4)
    assert summary.quantile(0.5).shape == (3, 2)
    assert np.isnan(summary.quantile(0.5)).all()
    assert (summary.images == -1).all()
    assert same(merge(summary, summary), summary)


def test_what_is_beyond_the_buckets_is_at_an_end() -> None:
    values = np.array([2e30, 1e30, -1e30, -2e30, 0, 1e-30], np.float32)[:, None, None]
    summary = summarise(values, np.arange(6), 2)
    assert summary.images.tolist() == [[[[0, 1], [3, 2]]]]
    assert summary.counts.tolist() == [2, 2, 2]
    assert summary.quantile(0.5)[0, 0] == 0
    assert summary.quantile(1.0)[0, 0] > 1e11


def test_a_unit_has_no_value_where_a_score_is_not_finite() -> None:
    values = np.array([[1, 1], [2, 2], [3, 3]], np.float32)[:, :, None].repeat(2, 2)
    values[1, 0, 1] = np.nan  # unit 0, image 7
    values[2, 1, 0] = -np.inf  # unit 1, image 8, and its other score is left out with it
    summary = summarise(values, np.array([6, 7, 8]), 3)
    assert summary.count == 3
    assert summary.counted.tolist() == [[2, 2], [2, 2]]
    assert summary.images[:, :, 0].tolist() == [[[8, 6, -1]] * 2, [[7, 6, -1]] * 2]
    assert summary.images[:, :, 1].tolist() == [[[6, 8, -1]] * 2, [[6, 7, -1]] * 2]
    np.testing.assert_allclose(summary.quantile(1.0), [[3, 3], [2, 2]], rtol=0.01)
    np.testing.assert_allclose(summary.quantile(0.0), [[1, 1], [1, 1]], rtol=0.01)
    values[:, 0] = np.nan
    nothing = summarise(values, np.array([6, 7, 8]), 3)
    assert nothing.counted.tolist() == [[0, 0], [2, 2]]
    np.testing.assert_allclose(nothing.quantile(0.5), [[np.nan] * 2, [1, 1]], rtol=0.01)
    again = merge(nothing, summarise(values[:1], np.array([9]), 3))
    assert again.counted.tolist() == [[0, 0], [3, 3]]
    table = rows(again, [str(i) for i in range(10)])
    assert table["images"][:4] == [0, 0, 3, 3]
    assert table["top_images"][:3] == [[], [], ["7", "6", "9"]]


def test_a_table_has_one_row_a_unit_and_score() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 2, len(SCORES))).astype(np.float32)
    table = rows(summarise(values, np.array([5, 0, 2]), 2), ["a", "b", "c", "d", "e", "f"])
    assert table["unit"] == [0] * 6 + [1] * 6
    assert table["score"] == [*SCORES, *SCORES]
    assert table["images"] == [3] * 12
    column = values[:, 1, 2].tolist()
    order = sorted(range(3), key=lambda i: -column[i])
    ids = ["f", "a", "c"]
    assert table["top_images"][8] == [ids[i] for i in order[:2]]
    assert table["bottom_images"][8] == [ids[i] for i in order[::-1][:2]]
    assert table["top_values"][8] == [column[i] for i in order[:2]]
    assert table["q50"][8] == pytest.approx(sorted(column)[1], rel=0.01)
    fewer = rows(summarise(values[:1], np.array([1]), 2), ["a", "b"])
    assert fewer["top_images"] == fewer["bottom_images"] == [["b"]] * 12


@pytest.mark.parametrize("mean", [0.0, 3.0, -20.0])
def test_deviations_come_from_the_histogram(mean: float) -> None:
    generator = np.random.default_rng(0)
    values = (mean + generator.normal(size=(3000, 2, 3)) * [1.0, 10.0, 0.0]).astype(np.float32)
    halves = [summarise(values[k::2], np.arange(3000)[k::2], keep=4) for k in (0, 1)]
    for summary in (merge(*halves), summarise(values, np.arange(3000))):
        deviations = summary.deviation()
        assert deviations.shape == (2, 3)
        np.testing.assert_allclose(deviations, values.std(0), rtol=0.02, atol=1e-6)
    empty = summarise(values[:0], np.arange(0))
    assert (empty.deviation() == 0).all()

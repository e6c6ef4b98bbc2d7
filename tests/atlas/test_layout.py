"""The atlas' pure functions against slow twins: which images, the map, the cells, the trust."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.support.atlas import slow_cell, slow_largest, slow_square

from opponent.atlas import layout
from opponent.atlas.layout import (
    cells_of,
    largest,
    lay_out,
    occupied,
    to_square,
    trustworthiness,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@given(
    norms=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3e9, math.inf, math.nan]), max_size=12),
    count=st.integers(0, 14),
)
def test_the_largest_norms_equal_their_slow_twin(norms: list[float], count: int) -> None:
    found = largest(np.array(norms, np.float32), count)
    assert found.tolist() == slow_largest(norms, count)


def test_images_that_nothing_drives_are_never_chosen() -> None:
    norms = np.array([0, 3, 0, 3, 1, math.nan])
    assert largest(norms, 9).tolist() == [1, 3, 4]
    assert largest(norms, 1).tolist() == [1]
    assert largest(np.zeros(4), 2).tolist() == []


@given(st.lists(st.tuples(*[st.integers(-50, 50).map(float)] * 2), min_size=1, max_size=40))
def test_the_square_equals_its_slow_twin(layout: list[tuple[float, float]]) -> None:
    found = to_square(np.array(layout, np.float32))
    np.testing.assert_allclose(found, slow_square(layout), rtol=1e-6, atol=1e-9)


def test_the_square_leaves_a_margin_and_moves_what_lies_far_out_to_its_border() -> None:
    line = np.arange(1001.0)
    layout = np.stack([line, -line], 1)
    layout[0], layout[1000] = (-1e6, 1e6), (1e6, -1e6)
    square = to_square(layout.astype(np.float32))
    # The percentiles lie at 10 and 990, margins of 98 around.
    np.testing.assert_allclose(square[10], [98 / 1176, 1 - 98 / 1176], rtol=1e-6)
    np.testing.assert_allclose(square[500], [0.5, 0.5], rtol=1e-6)
    assert square[0].tolist() == [0, 1]
    assert square[1000].tolist() == [1, 0]


def test_an_axis_without_extent_stays_in_the_square() -> None:
    layout = np.array([[3, 1], [3, 2], [3, 5]], np.float32)
    square = to_square(layout)
    assert square[:, 0].tolist() == [0, 0, 0]
    assert (np.diff(square[:, 1]) > 0).all()
    assert to_square(layout[:1]).tolist() == [[0, 0]]


@given(
    places=st.lists(st.tuples(*[st.floats(0, 1)] * 2), min_size=1, max_size=20),
    grid=st.integers(1, 25),
)
def test_cells_equal_their_slow_twin(places: list[tuple[float, float]], grid: int) -> None:
    found = cells_of(np.array(places), grid)
    assert found.tolist() == [list(slow_cell(x, y, grid)) for x, y in places]


def test_row_0_is_at_the_top_and_borders_stay_in_the_grid() -> None:
    places = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0.5, 0.5], [0.24, 0.76]])
    expected = [[0, 0], [0, 3], [3, 0], [3, 3], [1, 2], [0, 0]]
    assert cells_of(places, 4).tolist() == expected
    assert not cells_of(places, 1).any()


@given(
    cells=st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1, max_size=40),
    least=st.integers(1, 6),
)
def test_occupied_cells_are_those_with_enough_images(
    cells: list[tuple[int, int]], least: int
) -> None:
    counts = Counter(cells)
    expected = [list(cell) for cell in sorted(counts) if counts[cell] >= least]
    if expected:
        assert occupied(np.array(cells), least).tolist() == expected
    else:
        fullest = max(counts.values())
        message = rf"holds {least} images \(the fullest holds {fullest} of {len(cells)}\)"
        with pytest.raises(ValueError, match=message):
            occupied(np.array(cells), least)


def test_a_hundred_thousand_images_are_put_into_cells() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(100_000, 8)).astype(np.float32)
    vectors[::3] = 0
    norms = np.linalg.norm(vectors, axis=1)
    chosen = largest(norms, 10_000)
    assert len(set(chosen.tolist())) == 10_000
    assert norms[chosen].min() >= np.sort(norms)[-10_000]
    layout = generator.normal(size=(10_000, 2)).astype(np.float32)
    cells = cells_of(to_square(layout), 20)
    assert cells.min() == 0
    assert cells.max() == 19
    counts = np.zeros((20, 20), int)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    assert counts.sum() == 10_000
    assert occupied(cells, 6).tolist() == np.argwhere(counts >= 6).tolist()


@pytest.mark.parametrize(("count", "neighbours"), [(60, 5), (21, 10), (20, 10), (7, 10), (3, 1)])
def test_trustworthiness_is_that_of_scikit_learn(count: int, neighbours: int) -> None:
    from sklearn.manifold import trustworthiness as measure

    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(count, 6)).astype(np.float32)
    square = generator.uniform(size=(count, 2))
    # It takes fewer than half as many neighbours as there are images.
    most = min(neighbours, next(k for k in range(count, 0, -1) if k < count / 2))
    expected = measure(vectors, square, n_neighbors=most, metric="cosine")
    assert trustworthiness(vectors, square, neighbours, 0) == pytest.approx(expected)


def test_a_map_of_directions_by_their_angle_is_trusted_and_a_random_one_is_not() -> None:
    generator = np.random.default_rng(0)
    angle = np.sort(generator.uniform(0, 3, 200))
    # Of any length: the distance is the cosine's.
    length = generator.uniform(0.01, 100, (200, 1))
    vectors = (length * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.float32)
    along = np.stack([angle, np.zeros(200)], 1)
    assert trustworthiness(vectors, along, 10, 0) > 0.999
    assert trustworthiness(vectors, generator.uniform(size=(200, 2)), 10, 0) < 0.6


def test_the_trust_in_a_large_map_is_that_of_a_seeded_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sklearn.manifold import trustworthiness as measure

    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300, 5)).astype(np.float32)
    square = generator.uniform(size=(300, 2))
    monkeypatch.setattr(layout, "TRUSTED", 40)
    found = [trustworthiness(vectors, square, 6, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    rows = np.random.default_rng(1).permutation(300)[:40]
    expected = measure(vectors[rows], square[rows], n_neighbors=6, metric="cosine")
    assert found[2] == pytest.approx(expected)


@pytest.mark.slow
def test_a_layout_depends_on_its_seed_alone() -> None:
    vectors = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    one, again, other = (lay_out(vectors, neighbours=5, seed=seed) for seed in (3, 3, 4))
    assert one.shape == (60, 2)
    assert np.isfinite(one).all()
    assert one.tobytes() == again.tobytes()
    assert one.tobytes() != other.tobytes()


def test_a_layout_leaves_the_number_of_threads_as_it_was() -> None:
    assert torch.get_num_threads() == 1  # of this module's tests
    lay_out(np.random.default_rng(0).random((30, 4), dtype=np.float32), neighbours=5)
    assert torch.get_num_threads() == 1


def test_vectors_of_like_direction_lie_together_whatever_their_length() -> None:
    generator = np.random.default_rng(0)
    kinds = np.repeat(np.arange(3), 30)
    vectors = np.eye(3)[kinds] + generator.normal(0, 0.05, (90, 3))
    vectors *= 10 ** generator.uniform(-2, 2, (90, 1))
    layout = lay_out(vectors.astype(np.float32), neighbours=8)
    distances = np.linalg.norm(layout[:, None] - layout[None], axis=2)
    nearest = distances.argsort(1)[:, 1:6]
    assert (kinds[nearest] == kinds[:, None]).all()


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_vectors_make_no_map(count: int) -> None:
    vectors = np.ones((count, 3), np.float32)
    message = f"a map of {count} images: UMAP with 5 neighbours needs at least 10 that drive the"
    with pytest.raises(ValueError, match=message):
        lay_out(vectors, neighbours=5)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf])
def test_vectors_without_a_direction_make_no_map(bad: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    vectors[7] = bad
    with pytest.raises(ValueError, match="vectors that are finite and not zero; scan again"):
        lay_out(vectors, neighbours=5)

"""Which images: each rule against a slow twin, in exact fractions, written from its definition."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from opponent.selection import (
    SELECTIONS,
    Selected,
    exciting,
    in_balance,
    inhibiting,
    percentile_of,
    select,
    silent,
    tense,
    tense_apart,
    tense_together,
    top,
)
from opponent.storage.columns import Columns


def columns_of(
    activation: Iterable[float],
    *,
    plus: np.ndarray | None = None,
    minus: np.ndarray | None = None,
    l1: Iterable[float] | None = None,
) -> Columns:
    f = np.array([*activation], np.float32)
    maps = [np.zeros((len(f), 1, 1)) if x is None else x for x in (plus, minus)]
    plus, minus = (x.astype(np.float32) for x in maps)
    energies = [x.sum((1, 2)) for x in (plus, minus)]
    return Columns(
        images=tuple(f"{i}.png" for i in range(len(f))),
        activation=f,
        excitation=energies[0],
        inhibition=energies[1],
        l1=energies[0] + energies[1] if l1 is None else np.array([*l1], np.float32),
        l2=np.zeros(len(f), np.float32),
        excitation_map=plus,
        inhibition_map=minus,
    )


@st.composite
def small_columns(draw: st.DrawFn) -> dict[str, Any]:
    """Small whole numbers, so that ties, zero maps and constant columns are common.

    What `columns_of` takes, and not yet its result: beartype draws random numbers to check it.
    """
    n, h, w = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    vector = nps.arrays(np.float32, n, elements=st.integers(-3, 3).map(float))
    largest = draw(st.sampled_from([0, 1, 3, 50]))
    maps = nps.arrays(np.float32, (n, h, w), elements=st.integers(0, largest).map(float))
    l1 = draw(st.none() | nps.arrays(np.float32, n, elements=st.integers(0, 4).map(float)))
    return {"activation": draw(vector), "plus": draw(maps), "minus": draw(maps), "l1": l1}


# Slow twins


def best(n: int, k: int, key: Callable[[int], float], fits: Callable[[int], bool]) -> list[int]:
    """Largest key first; equal images in their order."""
    chosen: list[int] = []
    while len(chosen) < k:
        left = [i for i in range(n) if fits(i) and i not in chosen]
        if not left:
            break
        greatest = max(key(i) for i in left)
        chosen.append(next(i for i in left if key(i) == greatest))
    return chosen


def percentile(values: list[Fraction], percent: int) -> Fraction:
    """Linear between the two nearest ranks."""
    ordered = sorted(values)
    rank = Fraction(percent, 100) * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def slow_balance(columns: Columns) -> list[bool]:
    """-0.5 sd < f < 0, where f is negative: f^2 < var / 4."""
    f = [Fraction(float(x)) for x in columns.activation]
    mean = sum(f) / len(f)
    variance = sum((x - mean) ** 2 for x in f) / len(f)
    return [x < 0 and 4 * x * x < variance for x in f]


def slow_apart(columns: Columns) -> list[bool]:
    plus, minus = columns.excitation_map, columns.inhibition_map
    n, h, w = plus.shape
    difference = [
        [Fraction(float(plus[i, y, x])) - Fraction(float(minus[i, y, x]))
         for y in range(h) for x in range(w)]
        for i in range(n)
    ]  # fmt: skip
    everything = [value for image in difference for value in image]
    low, high = percentile(everything, 1), percentile(everything, 99)
    return [min(image) < low and max(image) > high for image in difference]


def slow_together(columns: Columns) -> list[bool]:
    plus, minus = columns.excitation_map, columns.inhibition_map
    high_plus = percentile([Fraction(float(x)) for x in plus.ravel()], 99)
    high_minus = percentile([Fraction(float(x)) for x in minus.ravel()], 99)
    fits = []
    for i in range(len(plus)):
        here = False
        for y in range(plus.shape[1]):
            for x in range(plus.shape[2]):
                if plus[i, y, x] > high_plus and minus[i, y, x] > high_minus:
                    here = True
        fits.append(here)
    return fits


def slow_select(columns: Columns, k: int) -> dict[str, list[int]]:
    n = len(columns.images)
    f, l1 = columns.activation.tolist(), columns.l1.tolist()
    smaller = [
        min(a, b)
        for a, b in zip(columns.excitation.tolist(), columns.inhibition.tolist(), strict=True)
    ]
    balance, apart, together = slow_balance(columns), slow_apart(columns), slow_together(columns)
    return {
        "exciting": best(n, k, lambda i: f[i], lambda i: True),
        "inhibiting": best(n, k, lambda i: -f[i], lambda i: True),
        "silent": best(n, k, lambda i: -l1[i], lambda i: True),
        "tense": best(n, k, lambda i: l1[i], lambda i: balance[i]),
        "tense_apart": best(n, k, lambda i: smaller[i], lambda i: apart[i]),
        "tense_together": best(n, k, lambda i: smaller[i], lambda i: together[i]),
    }


def rows_of(selected: dict[str, Selected]) -> dict[str, list[int]]:
    return {name: group.rows.tolist() for name, group in selected.items()}


@given(small_columns(), st.integers(1, 15))
def test_every_selection_equals_its_slow_twin(given: dict[str, Any], k: int) -> None:
    columns = columns_of(**given)
    selected = select(columns, k)
    assert tuple(selected) == tuple(SELECTIONS) == tuple(slow_select(columns, k))
    assert rows_of(selected) == slow_select(columns, k)
    for name, group in selected.items():
        assert group.selection.name == name
        assert group.images == tuple(columns.images[row] for row in group.rows)
        assert len(group) == len(group.rows)


@given(st.integers(0, 2**32 - 1))
def test_every_selection_equals_its_slow_twin_on_real_valued_columns(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, h, w = generator.integers(1, 40), generator.integers(1, 5), generator.integers(1, 5)
    plus, minus = generator.gamma(0.3, size=(2, n, h, w)).astype(np.float32)
    columns = columns_of(generator.normal(size=n) - 0.2, plus=plus, minus=minus)
    assert rows_of(select(columns, 7)) == slow_select(columns, 7)


@given(small_columns(), st.integers(1, 15))
def test_a_smaller_k_is_the_start_of_a_larger(given: dict[str, Any], k: int) -> None:
    columns = columns_of(**given)
    few, many = rows_of(select(columns, k)), rows_of(select(columns, k + 3))
    for name in SELECTIONS:
        assert few[name] == many[name][:k]
        assert len(set(many[name])) == len(many[name])


@given(small_columns())
def test_rules_choose_no_image_where_none_is_wanted(given: dict[str, Any]) -> None:
    columns = columns_of(**given)
    for selection in SELECTIONS.values():
        assert len(selection.rule(columns, 0)) == 0


@given(small_columns())
def test_the_band_equals_its_slow_twin(given: dict[str, Any]) -> None:
    columns = columns_of(**given)
    assert in_balance(columns).tolist() == slow_balance(columns)


def test_both_ends_of_the_band_are_open() -> None:
    # Mean 0, variance (1 + 1 + 9 + 9) / 5 = 4, sd 2: the band is -1 < f < 0.
    columns = columns_of([-1, 1, 3, -3, 0])
    assert not in_balance(columns).any()
    assert tense(columns, 5).tolist() == []
    # A little more variance, and -1 lies inside.
    assert in_balance(columns_of([-1, 1, 3, -3.01, 0])).tolist() == [True] + [False] * 4


def test_the_band_lies_below_zero_not_above_it() -> None:
    # The paper's print reads .5 sd < f < 0, which holds for nothing; its text asks for balance.
    f = [-10.0, -0.4, 0.4, 10.0]
    assert in_balance(columns_of(f)).tolist() == [False, True, False, False]


def test_tense_images_are_ordered_by_l1_not_by_tension() -> None:
    f = [9.0, -9.0, -1.0, -1.0, -1.0]
    columns = columns_of(f, l1=[99, 99, 2, 4, 3])
    assert tense(columns, 2).tolist() == [3, 4]


@pytest.mark.parametrize("value", [-0.1, 0.0, 0.7])
def test_nothing_is_tense_in_a_constant_column(value: float) -> None:
    columns = columns_of([value] * 1000, l1=range(1000))
    assert tense(columns, 10).tolist() == []
    assert exciting(columns, 3).tolist() == inhibiting(columns, 3).tolist() == [0, 1, 2]


def test_zero_maps_hold_nothing_apart_or_together() -> None:
    maps = np.zeros((200, 3, 3))
    columns = columns_of(np.linspace(-1, 1, 200), plus=maps, minus=maps)
    assert tense_apart(columns, 10).tolist() == []
    assert tense_together(columns, 10).tolist() == []
    assert silent(columns, 3).tolist() == [0, 1, 2]


def test_percentiles_are_those_of_all_images_positions() -> None:
    # In each image on its own, the largest value is over the 99th percentile.
    plus = np.zeros((101, 1, 2))
    plus[:, 0, 0] = np.arange(101)
    minus = plus[:, :, ::-1].copy()
    columns = columns_of(np.zeros(101), plus=plus, minus=minus)
    # 202 differences, -100 ... 100 with 0 twice: the 1st percentile lies between -98 and -97, the
    # 99th between 97 and 98.
    assert tense_apart(columns, 9).tolist() == [100, 99, 98]
    assert tense_together(columns, 9).tolist() == []


def test_apart_and_together_are_told_apart() -> None:
    # Of 1,000 positions each percentile leaves the 10 most extreme, here fewer differ from 0.
    plus, minus = np.zeros((250, 2, 2)), np.zeros((250, 2, 2))
    plus[3, 0, 0], minus[3, 1, 1] = 5, 5  # two places
    plus[7, 0, 1], minus[7, 0, 1] = 9, 9  # one place
    plus[8, 0, 0] = 9  # excitation only
    minus[9, 0, 0] = 9  # inhibition only
    columns = columns_of(np.zeros(250), plus=plus, minus=minus)
    assert tense_apart(columns, 9).tolist() == [3]
    assert tense_together(columns, 9).tolist() == [7]


def test_apart_and_together_come_in_order_of_tension() -> None:
    plus, minus = np.zeros((250, 1, 4)), np.zeros((250, 1, 4))
    for image, (excitation, inhibition) in {5: (9, 1), 6: (2, 3), 7: (2, 8)}.items():
        plus[image, 0, 0], minus[image, 0, 1] = excitation, inhibition
    columns = columns_of(np.zeros(250), plus=plus, minus=minus)
    assert columns.tension[[5, 6, 7]].tolist() == [1, 2, 2]
    assert tense_apart(columns, 9).tolist() == [6, 7, 5]


def test_one_image_is_the_most_exciting_and_inhibiting() -> None:
    columns = columns_of([-1.0], plus=np.ones((1, 1, 1)), minus=np.ones((1, 1, 1)))
    assert rows_of(select(columns, 4)) == {
        "exciting": [0],
        "inhibiting": [0],
        "silent": [0],
        "tense": [],
        "tense_apart": [],
        "tense_together": [],
    }


def test_no_image_at_all_gives_empty_groups() -> None:
    columns = columns_of([], plus=np.zeros((0, 2, 2)), minus=np.zeros((0, 2, 2)))
    assert all(len(group) == 0 for group in select(columns, 4).values())


def test_the_band_of_large_values_is_right() -> None:
    # Their squares are beyond float32.
    columns = columns_of(np.array([-3, 3, -1, 0.5]) * 1e25)
    assert in_balance(columns).tolist() == [False, False, True, False]


@given(
    nps.arrays(np.float64, st.integers(0, 10), elements=st.integers(-3, 3).map(float)),
    st.integers(0, 12),
    st.data(),
)
def test_top_equals_its_slow_twin(values: np.ndarray, k: int, data: st.DataObject) -> None:
    where = data.draw(st.none() | nps.arrays(np.bool_, len(values)))
    expected = best(len(values), k, lambda i: values[i], lambda i: where is None or bool(where[i]))
    assert top(values, k, where).tolist() == expected


@given(
    nps.arrays(np.float32, st.integers(1, 10), elements=st.integers(-3, 3).map(float)),
    st.integers(-4, 4).map(float),
)
def test_percentile_of_counts_ties_half(values: np.ndarray, value: float) -> None:
    count = Fraction(0)
    for other in values.tolist():
        count += 1 if other < value else Fraction(1, 2) if other == value else 0
    assert percentile_of(values, value) == pytest.approx(float(100 * count / len(values)))


def test_percentile_of_the_ends_and_the_middle() -> None:
    values = np.array([1.0, 2.0, 3.0])
    assert [percentile_of(values, x) for x in (0.0, 2.0, 4.0)] == [0, 50, 100]

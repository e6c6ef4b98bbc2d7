"""Rectangles of maps and images."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opponent import Box
from opponent.core.box import bounding_box, scale_box

NUMBERS = st.tuples(
    st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20)
).map(list)


@given(NUMBERS)
def test_numbers_come_back(numbers: list[int]) -> None:
    box = Box.of(numbers)
    assert [box.top, box.left, box.height, box.width] == numbers == box.numbers
    assert Box.of(json.loads(json.dumps(box.numbers))) == box
    assert Box.of(tuple(numbers)) == box


@pytest.mark.parametrize("numbers", [[], [1, 2, 3], [1, 2, 3, 4, 5]])
def test_a_box_has_four_numbers(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        Box.of(numbers)


@given(NUMBERS)
def test_slices_pick_what_is_inside(numbers: list[int]) -> None:
    box = Box.of(numbers)
    grid = np.zeros((45, 45), bool)
    grid[box.slices] = True
    rows, columns = np.nonzero(grid)
    assert (rows.min(), rows.max() + 1) == (box.top, box.top + box.height)
    assert (columns.min(), columns.max() + 1) == (box.left, box.left + box.width)
    assert len(rows) == box.height * box.width


def test_the_box_of_a_whole_map() -> None:
    assert Box.full((5, 9)) == Box(top=0, left=0, height=5, width=9)
    assert Box.full([5, 9]).slices == (slice(0, 5), slice(0, 9))


@given(NUMBERS, st.integers(-9, 9), st.integers(-9, 9))
def test_a_box_that_moves_keeps_its_size(numbers: list[int], rows: int, columns: int) -> None:
    box = Box.of(numbers)
    assert box.moved(rows, columns).numbers == [
        box.top + rows, box.left + columns, box.height, box.width
    ]  # fmt: skip
    assert box.moved(rows, columns).moved(-rows, -columns) == box


@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_the_smallest_box_that_contains_all(several: list[list[int]]) -> None:
    # Made here, since types are checked with random numbers.
    boxes = [Box.of(numbers) for numbers in several]
    grid = np.zeros((45, 45), bool)
    for box in boxes:
        grid[box.slices] = True
    rows, columns = np.nonzero(grid)
    found = bounding_box(boxes)
    assert (found.top, found.top + found.height) == (rows.min(), rows.max() + 1)
    assert (found.left, found.left + found.width) == (columns.min(), columns.max() + 1)
    assert bounding_box(boxes[:1]) == boxes[0]


def test_a_box_of_a_picture_at_another_size() -> None:
    box = Box(top=10, left=20, height=30, width=40)
    assert scale_box(box, (100, 200), (100, 200)) == box
    assert scale_box(box, (100, 200), (50, 100, 3)) == Box(top=5, left=10, height=15, width=20)
    assert scale_box(box, (100, 200), (200, 100)) == Box(top=20, left=10, height=60, width=20)
    # Edges are rounded, so that boxes that touch still touch.
    left, right = Box.of([0, 0, 3, 5]), Box.of([0, 5, 3, 4])
    scaled = [scale_box(x, (3, 9), (2, 7)) for x in (left, right)]
    assert scaled[0].width == scaled[1].left
    assert scaled[0].width + scaled[1].width == 7

"""Random networks of all kinds of layers and layouts, against a slow reference."""

import collections
from collections.abc import Iterator

import pytest
from benchmarks.fuzz import compare
from hypothesis import given, settings
from hypothesis import strategies as st

# `python -m benchmarks.fuzz` takes thousands.
NETWORKS = 40


@pytest.fixture(scope="module")
def counts() -> Iterator[collections.Counter[str]]:
    """Outcomes, printed at the end."""
    found = collections.Counter[str]()
    yield found
    print(f"\n{dict(found)}")


@pytest.mark.slow
@settings(max_examples=NETWORKS, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_random_networks_are_right_or_refused(counts: collections.Counter[str], seed: int) -> None:
    outcome, about = compare(seed)
    counts[outcome] += 1
    assert outcome != "WRONG", about


@pytest.mark.slow
def test_few_are_refused(counts: collections.Counter[str]) -> None:
    for seed in range(12):
        counts[compare(seed)[0]] += 1
    assert counts["agreed"] > 9 * counts["refused"]

"""Which layers are examined, through which, and which of their units."""

import pytest
from tests.support.inversions import UNITS, Branches, Small, small_network
from torch import nn

from opponent.models.network import Network
from opponent.paper.layer_pairs import (
    LayerPair,
    bottleneck_pairs,
    choose_pairs,
    parse_pair,
    preceding,
    random_units,
)


def test_preceding_layer_carries_all() -> None:
    branches = small_network(Branches)
    assert preceding(branches, "relu") is None
    assert preceding(branches, "relu_left") == "relu"
    # The concatenation and the sum lie in no block of their own, and each branch carries a part.
    assert preceding(branches, "relu_last") == "relu"
    assert bottleneck_pairs(branches) == [
        LayerPair(target="relu_last", through="relu", bottleneck=True)
    ]


def test_bottlenecks_are_what_preceding_says(embedded: Network) -> None:
    throughs = {pair.target: pair.through for pair in bottleneck_pairs(embedded)}
    assert throughs["mixed3b"] == "mixed3a"
    assert throughs["mixed4a"] == "mixed3b"  # not the pool between them
    assert "conv2d0" not in throughs  # only pixels precede it
    for target in ("conv2d1", "mixed3a"):
        assert throughs[target] == preceding(embedded, target)


def test_layers_are_spread_over_the_bottlenecks(embedded: Network) -> None:
    all_of_them = bottleneck_pairs(embedded)
    assert [x.target for x in choose_pairs(embedded, 3)] == [
        all_of_them[0].target,
        all_of_them[5].target,
        all_of_them[10].target,
    ]
    assert choose_pairs(embedded, 99) == all_of_them
    with pytest.raises(ValueError, match="at least one layer"):
        choose_pairs(embedded, 0)


def test_a_network_without_bottlenecks_needs_pairs() -> None:
    flat = small_network(
        lambda: nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    )
    with pytest.raises(ValueError, match="--pair TARGET:THROUGH"):
        choose_pairs(flat)


def test_pairs_by_name() -> None:
    branches = small_network(Branches)
    assert parse_pair(branches, "relu_last") == LayerPair(
        target="relu_last", through="relu", bottleneck=True
    )
    assert not parse_pair(branches, "relu_last:relu_left").bottleneck
    assert parse_pair(branches, "relu:pixels").bottleneck
    with pytest.raises(ValueError, match="no layer before 'relu' alone carries"):
        parse_pair(branches, "relu")
    with pytest.raises(ValueError, match="does not lie before"):
        parse_pair(branches, "relu_left:relu_last")
    with pytest.raises(ValueError, match="no layer 'rely'"):
        parse_pair(branches, "rely:relu")


def test_units_are_random_and_their_layers_own(embedded: Network) -> None:
    units = random_units(embedded, "mixed3b", 20, 0)
    assert units == random_units(embedded, "mixed3b", 20, 0)
    assert len(set(units)) == 20
    assert units != random_units(embedded, "mixed3b", 20, 1)
    assert random_units(embedded, "mixed4c", 20, 0) != random_units(embedded, "mixed4b", 20, 0)
    assert random_units(small_network(Small), "relu2", 20, 0) == list(range(UNITS))

"""Channels ranked by either side: cases worked by hand, and slow twins."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from opponent import Network, Preprocessing, attribute
from opponent.explain.drivers import Driver, rank_channels, tension_within_channels


def test_a_channel_whose_sides_cancel_is_the_first_of_both() -> None:
    """Three channels of 1, 2 and 3 everywhere; the feature weighs them at two places.

    S, by hand: channel 0 is 1 * (5, -5), channel 1 is 2 * (1, 1), channel 2 is 3 * (0, -1).
    The net sums are 0, 4 and -3: by them channel 0 drives nothing. E+ = 5 + 4 = 9, E- = 5 + 3 = 8;
    of the tension of 8, channel 0 holds min(5, 5) = 5.
    """
    with torch.random.fork_rng(devices=[]):
        early, late = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, (1, 2))
    with torch.no_grad():
        early.weight.zero_()
        early.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
        late.weight.copy_(torch.tensor([[5.0, -5], [1, 1], [0, -1]]).reshape(1, 3, 1, 2))
        late.bias.zero_()
    network = Network(
        nn.Sequential(early, nn.ReLU(), late).double(), preprocessing=Preprocessing(size=(1, 2))
    )
    result = attribute(network, torch.zeros(1, 3, 1, 2, dtype=torch.float64), "2:0", "1")
    assert result.channels.tolist() == [[0, 4, -3]]
    assert result.excitation_channels.tolist() == [[5, 4, 0]]
    assert result.inhibition_channels.tolist() == [[5, 0, 3]]
    plus, minus = result.excitation_channels.numpy(), result.inhibition_channels.numpy()
    drivers = rank_channels(plus, minus, "1", count=1)
    both = Driver(channel=0, name="1:0", excitation=5.0, inhibition=5.0)
    assert drivers.exciting == drivers.inhibiting == (both,)
    assert both.net == 0
    assert drivers.whole("excitation") == 9
    assert drivers.whole("inhibition") == 8
    assert drivers.covered("excitation") == 5 / 9
    assert drivers.covered("inhibition") == 5 / 8
    assert drivers.tension_within == 5 / 8
    assert drivers.facts() == [
        ("excitation by the one channel listed", "55.6%"),
        ("inhibition by the one channel listed", "62.5%"),
        ("tension within single channels", "62.5%"),
    ]
    # More are wanted than add anything to a side.
    every = rank_channels(plus, minus, "1", count=3)
    assert [x.channel for x in every.exciting] == [0, 1]
    assert [x.channel for x in every.inhibiting] == [0, 2]
    assert every.to_pandas().drop(columns=["name", "excitation_sd", "inhibition_sd"]).to_dict(
        "list"
    ) == {
        "side": ["excitation", "excitation", "inhibition", "inhibition"],
        "channel": [0, 1, 0, 2],
        "excitation": [5, 4, 5, 0],
        "inhibition": [5, 0, 5, 3],
        "net": [0, 4, 0, -3],
        "share": [5 / 9, 4 / 9, 5 / 8, 3 / 8],
        "covered": [5 / 9, 1, 5 / 8, 1],
    }


def test_the_tension_within_channels_is_that_of_each_image() -> None:
    """A channel that excites in one image and inhibits in another has no tension within it."""
    plus, minus = np.array([[4.0, 0.0], [0.0, 4.0]]), np.array([[0.0, 4.0], [4.0, 0.0]])
    assert tension_within_channels(plus, minus) == 0
    assert tension_within_channels(plus, plus) == 1
    assert tension_within_channels(plus, np.zeros((2, 2))) is None
    assert tension_within_channels(np.zeros((0, 2)), np.zeros((0, 2))) is None


_SIDES = arrays(np.float64, (3, 4), elements=st.integers(0, 5).map(float))


@given(_SIDES, _SIDES)
def test_shares_are_what_a_loop_over_channels_and_images_gives(
    plus: np.ndarray, minus: np.ndarray
) -> None:
    within = tension = 0.0
    for image in range(3):
        for channel in range(4):
            within += min(plus[image, channel], minus[image, channel])
        tension += min(sum(plus[image]), sum(minus[image]))
    share = tension_within_channels(plus, minus)
    assert share == (pytest.approx(within / tension) if tension else None)
    drivers = rank_channels(plus, minus, "a", count=2)
    for side, values in (("excitation", plus), ("inhibition", minus)):
        means = [sum(values[:, channel]) / 3 for channel in range(4)]
        largest = sorted(means, reverse=True)[:2]
        assert [x.of(side) for x in drivers.listed(side)] == pytest.approx(
            [x for x in largest if x > 0]
        )
        covered = drivers.covered(side)
        if sum(means):
            assert covered == pytest.approx(sum(largest) / sum(means))
            assert 0 < covered < 1 + 1e-12
        else:
            assert covered is None


def test_a_side_is_one() -> None:
    driver = Driver(channel=0, name="a:0", excitation=1.0, inhibition=2.0)
    with pytest.raises(ValueError, match="give one side here: excitation or inhibition"):
        driver.of("both")

"""Why: each side alone, bars on one scale."""

import numpy as np
import pytest
from tests.support.figures import pictures, plain, tile

from opponent.core.colour import overlay
from opponent.plots import why_figure


def test_why_shows_each_sign_alone_and_bars_on_one_scale() -> None:
    one = tile(0, 6, 8)
    figure = why_figure(
        one, excitatory=[("a", 2.0), ("b", 1.0)], inhibitory=[("c", 4.0)], title="f", scale=1.5
    )
    blank = np.zeros((6, 8))
    assert one.excitation is not None
    assert one.inhibition is not None
    expected = [
        one.image,
        overlay(one.image, one.excitation, one.inhibition, 1.5),
        overlay(one.image, one.excitation, blank, 1.5),
        overlay(one.image, blank, one.inhibition, 1.5),
    ]
    for shown, picture in zip(pictures(figure)[:4], expected, strict=True):
        np.testing.assert_array_equal(shown, picture)
    bars = [axes for axes in figure.axes if axes.patches]
    assert [[bar.get_width() for bar in axes.patches] for axes in bars] == [[2, 1], [4]]
    assert all(axes.get_xlim() == (0, 4) for axes in bars)


def test_why_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="the tile has no maps"):
        why_figure(plain(), excitatory=[], inhibitory=[], title="f")
    with pytest.raises(ValueError, match="must be >= 0"):
        why_figure(tile(), excitatory=[], inhibitory=[("a", -1.0)], title="f")

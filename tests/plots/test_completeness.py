"""Figures 3 and 13: which layers are joined, and the scales."""

import numpy as np
import pytest

from opponent.plots import Curve, completeness_figure


def test_a_figure_joins_bottlenecks_only() -> None:
    curve = Curve(
        label="net",
        depth=np.array([0, 0.5, 0.7, 1]),
        mean=np.array([0.2, np.nan, 0.5, 0.9]),
        spread=np.array([0.1, np.nan, 0.1, 0.1]),
        bottleneck=np.array([True, True, False, True]),
    )
    figure = completeness_figure([("Pearson's r", [curve]), ("mean |f - E|", [curve])])
    for axes in figure.axes:
        line, branch = axes.lines[:2]
        assert list(np.asarray(line.get_xdata())) == [0, 1]
        assert list(np.asarray(branch.get_xdata())) == [0.7]
    assert figure.axes[0].get_ylim()[1] == pytest.approx(1.04)
    assert figure.axes[1].get_ylim()[0] == 0


def test_a_panel_without_any_value_says_why() -> None:
    nothing = np.full(2, np.nan)
    few = Curve(
        label="few",
        depth=np.array([0, 1.0]),
        mean=nothing,
        spread=nothing,
        bottleneck=np.ones(2) > 0,
    )
    enough = Curve(
        label="enough",
        depth=np.array([0, 1.0]),
        mean=np.array([np.nan, 0.5]),
        spread=np.zeros(2),
        bottleneck=np.ones(2) > 0,
    )
    figure = completeness_figure([("r", [few]), ("r", [few, enough])])
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [["undefined: constant, or\nfewer than 20 images"], []]

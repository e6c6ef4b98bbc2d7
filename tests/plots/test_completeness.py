"""Figures 3 and 13: which layers are joined, and the scales."""

from dataclasses import replace

import numpy as np
import pytest

from opponent.plots import Curve, completeness_figure, missing_figure


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
        low, high, line, branch = axes.lines[:4]
        assert list(np.asarray(line.get_xdata())) == [0, 1]
        # The band: one standard deviation to either side.
        assert list(np.asarray(low.get_ydata())) == pytest.approx([0.1, 0.8])
        assert list(np.asarray(high.get_ydata())) == pytest.approx([0.3, 1.0])
        assert list(np.asarray(branch.get_xdata())) == [0.7]
    assert figure.axes[0].get_ylim()[1] == pytest.approx(1.04)
    assert figure.axes[1].get_ylim()[0] == 0


def test_the_layers_of_one_network_are_named() -> None:
    curve = Curve(
        label="net",
        depth=np.array([0, 0.01, 0.5, 0.7, 1]),
        mean=np.full(5, 0.5),
        spread=np.zeros(5),
        bottleneck=np.array([True, True, True, False, True]),
        layers=("pixels", "near", "middle", "branch", "end"),
        about="12 logits, 345 images",
    )
    figure = completeness_figure([("Pearson's r", [curve])])
    [axes] = figure.axes
    # A name for which there is no room is left out, and so is a branch.
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["pixels", "middle", "end"]
    assert list(axes.get_xticks()) == [0, 0.5, 1]
    assert "net: 12 logits, 345 images" in [text.get_text() for text in figure.texts]
    other = replace(curve, label="other")
    figure = completeness_figure([("Pearson's r", [curve, other])])
    assert figure.axes[0].get_xlabel() == "relative depth of the layer"


def test_what_is_missing_is_drawn_in_the_order_of_the_pass() -> None:
    rows = [(f"layer{k}_pre_relu_conv", 0.01 * k, 0.02 * k) for k in range(20)]
    figure = missing_figure("net", rows, "20 logits, 30 images")
    [axes] = figure.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == [*(f"layer{k}" for k in range(6, 20)), "6 others, each at most"]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths[:15] == pytest.approx([0.02 * k for k in range(6, 20)] + [0.1])
    assert widths[15:] == pytest.approx([0.01 * k for k in range(6, 20)] + [0.05])


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

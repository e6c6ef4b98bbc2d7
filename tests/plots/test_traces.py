"""Figure 14: median and range."""

import numpy as np
import pytest
from tests.support.figures import trace

from opponent.plots import TracePanel, activation_trace_figure


def test_trace_shows_median_and_range() -> None:
    up, down = np.random.default_rng(0).normal(0, 1, (2, 7, 5))
    panel = TracePanel(label="f", excitatory=up, inhibitory=down, own=np.array([-1.0, -0.5, 2.0]))
    axes = activation_trace_figure(np.arange(5), [panel]).axes[0]
    _, first, second, own = axes.lines
    assert own.get_ydata() == [-0.5, -0.5]
    for line, band, rows in zip((first, second), axes.collections, (up, down), strict=True):
        np.testing.assert_allclose(np.asarray(line.get_ydata()), np.median(rows, axis=0))
        corners = band.get_paths()[0].vertices
        assert corners[:, 1].min() == rows.min()
        assert corners[:, 1].max() == rows.max()


def test_trace_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match=r"excitatory of .* is \(2, 0\) for 0 steps"):
        trace(2, 0)
    with pytest.raises(ValueError, match="no panel to draw"):
        trace(2, 3, 0)

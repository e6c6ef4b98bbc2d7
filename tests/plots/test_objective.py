"""Figure 11: the objective over a plane, and its picture."""

import math

import numpy as np
import pytest

from opponent.paper.objectives import EXTENT, objective_planes
from opponent.plots import objective_figure
from opponent.synthesis.objectives import LEAST_COSINE


def test_planes_against_a_slow_twin() -> None:
    found = objective_planes(9)
    assert list(found) == ["dot", "cosine", "dot × cosine", "dot × cosine²"]
    line = np.linspace(-EXTENT, EXTENT, 9)
    for i, y in enumerate(line.tolist()):
        for j, x in enumerate(line.tolist()):
            cosine = x / math.hypot(x, y) if (x, y) != (0, 0) else 0.0
            expected = (x, cosine, x * max(cosine, 0.1), x * max(cosine, 0.1) ** 2)
            assert [plane[i, j] for plane in found.values()] == pytest.approx(expected)


def test_without_the_clamp_pointing_away_would_be_rewarded() -> None:
    plane = objective_planes(5)["dot × cosine"]
    assert plane[2, 0] == pytest.approx(-2 * LEAST_COSINE)  # not 2 * 1
    assert (plane[:, 0] < plane[:, 1]).all()


def test_figure_shows_the_values_and_where_the_clamp_lies() -> None:
    planes = objective_planes(41)
    figure = objective_figure(planes, EXTENT, clamp=LEAST_COSINE)
    assert len(figure.axes) == len(planes)
    for axes, (name, values) in zip(figure.axes, planes.items(), strict=True):
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), values)
        assert axes.images[0].get_clim() == (-np.abs(values).max(), np.abs(values).max())
        assert len(axes.lines) == (2 if "×" in name else 0)
        for line in axes.lines:
            (_, x), (_, y) = line.get_data()
            assert x / math.hypot(x, y) == pytest.approx(LEAST_COSINE)
            assert max(abs(x), abs(y)) == pytest.approx(EXTENT)


def test_figure_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="0 objectives over an extent of 1"):
        objective_figure({}, 1.0)
    with pytest.raises(ValueError, match="1 objectives over an extent of 0"):
        objective_figure({"dot": np.ones((3, 3))}, 0.0)

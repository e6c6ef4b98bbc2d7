"""Figure 4a: colours, lines, rings, units."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from tests.support.figures import energies_drawn, random_energies

from opponent.core.colour import group_colours
from opponent.plots import energies_figure


def test_dots_and_lines_of_equal_energy_share_their_colours() -> None:
    excitation, inhibition, activation = random_energies(400)
    figure = energies_figure(excitation, inhibition, activation, label="f", through="l")
    axes = figure.axes[0]
    dots = axes.collections[0]
    np.testing.assert_allclose(
        np.asarray(dots.get_offsets()), np.stack([excitation, inhibition], axis=1)
    )
    assert len(axes.lines) >= 5
    for line in axes.lines:
        (x0, x1), (y0, y1) = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert x0 - y0 == pytest.approx(x1 - y1)
        np.testing.assert_allclose(
            line.get_color(), dots.cmap(dots.norm(x0 - y0)), atol=0.01, err_msg="E as f"
        )
        assert axes.get_xlim()[0] <= x0 < x1 <= axes.get_xlim()[1]
    low, high = dots.get_clim()
    assert -low == high == pytest.approx(np.quantile(np.abs(activation), 0.995))


@pytest.mark.parametrize("limit", [0.001, 0.5, 2.0, 30.0, 500.0])
def test_lines_leave_room_for_their_labels(limit: float) -> None:
    sums = np.linspace(0, 100, 11)
    figure = energies_figure(
        sums, sums[::-1], 0 * sums, deviation=limit / 4, label="f", through="l"
    )
    axes = figure.axes[0]
    levels = [np.diff(np.asarray(line.get_xydata())[-1])[0] for line in axes.lines]
    assert any(abs(level) < 1e-9 for level in levels)
    side = axes.get_position().height * figure.get_size_inches()[1]
    # A slanted line of 7 points takes 0.14 inches of an edge.
    gaps = np.diff(sorted(levels)) / np.ptp(axes.get_ylim()) * side
    assert (gaps > 0.14).all()


def test_deviation_sets_the_end_of_the_colours() -> None:
    figure = energies_drawn(50, deviation=0.7)
    assert figure.axes[0].collections[0].get_clim() == pytest.approx((-2.8, 2.8))
    assert figure.axes[1].get_ylabel() == "activation f, ends at ±4 sd"


def test_large_numbers_are_written_in_powers_of_ten() -> None:
    figure = energies_drawn(20, 1e7)
    assert figure.axes[0].get_xlabel() == "excitation E⁺ (×10⁶)"
    assert np.asarray(figure.axes[0].collections[0].get_offsets()).max() < 1000


@pytest.mark.parametrize(("n", "expected"), [(5000, False), (5001, True)])
def test_many_dots_are_an_image(n: int, expected: bool) -> None:
    assert energies_drawn(n).axes[0].collections[0].get_rasterized() is expected


def test_chosen_images_are_ringed_in_the_colour_of_their_group() -> None:
    excitation, inhibition, activation = random_energies(30)
    groups = {"exciting": [3, 4], "inhibiting": [4, 9]}
    figure = energies_figure(
        excitation, inhibition, activation, groups=groups, label="f", through="l"
    )
    colours = group_colours(list(groups))
    found = [(float(x), colour, arc) for x, colour, arc in rings(figure)]
    assert [(x, colour) for x, colour, _ in found] == [
        (pytest.approx(excitation[3]), colours["exciting"]),
        (pytest.approx(excitation[4]), colours["exciting"]),
        (pytest.approx(excitation[4]), colours["inhibiting"]),
        (pytest.approx(excitation[9]), colours["inhibiting"]),
    ]
    # Image 4 is in both: half of its ring is of each, the upper one of the first.
    whole, upper, lower, _ = (np.asarray(arc) for *_, arc in found)
    np.testing.assert_allclose(whole[0], whole[-1], atol=1e-12)
    assert (upper[:, 1] >= -1e-12).all()
    assert (lower[:, 1] <= 1e-12).all()


def rings(figure: Figure) -> list[tuple[float, str, list[tuple[float, float]]]]:
    """Of each ring where it lies, its colour and its arc."""
    return [
        (line.get_xdata()[0], line.get_markeredgecolor(), line.get_marker())
        for line in figure.axes[0].lines
        if isinstance(line.get_marker(), list)
    ]


def test_colours_that_are_given_are_those_of_their_groups() -> None:
    excitation, inhibition, activation = random_energies(30)
    groups = {"exciting": [3, 4], "mine": [9]}
    figure = energies_figure(
        excitation, inhibition, activation, groups=groups, colours={"mine": "#123456"},
        label="f", through="l",
    )  # fmt: skip
    own = group_colours(["exciting"])["exciting"]
    assert [colour for _, colour, _ in rings(figure)] == [own, own, "#123456"]


def test_energy_refuses_what_cannot_be_drawn() -> None:
    one, none = np.ones(3), np.zeros(0)
    with pytest.raises(ValueError, match="hold 0, 0 and 0 values"):
        energies_figure(none, none, none, label="f", through="l")
    with pytest.raises(ValueError, match="must be >= 0"):
        energies_figure(-one, one, one, label="f", through="l")
    with pytest.raises(ValueError, match="NaN or infinite"):
        energies_figure(one, one, one * np.nan, label="f", through="l")
    for outside in (3, -1):
        with pytest.raises(ValueError, match=r"group 'tense' names images .* images 0 to 2"):
            energies_figure(one, one, one, groups={"tense": [0, outside]}, label="f", through="l")

"""Bars of channels with both sides: inhibition to the left of zero, excitation to the right."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.core.side import Side
from opponent.explain.drivers import Driver, Drivers
from opponent.plots.layout import HAIR, INK, SMALL, Area, add_axes, add_text, format_number

# What is not the side that a channel is listed for is drawn paler.
_PALE = 0.45


def ends(drivers: Sequence[Driver]) -> tuple[float, float]:
    """Where the bars end to the left (>= 0) and to the right of zero, with their whiskers.

    Args:
        drivers: all channels that are drawn on one scale.
    """
    left = max((x.inhibition + x.inhibition_sd for x in drivers), default=0.0)
    right = max((x.excitation + x.excitation_sd for x in drivers), default=0.0)
    return (left, right) if left or right else (1.0, 1.0)


def add_sides(
    figure: Figure,
    area: Area,
    drivers: Sequence[Driver],
    side: Side,
    scale: tuple[float, float],
) -> None:
    """A bar to either side for each channel, one below the other, with whiskers of one sd.

    Args:
        figure: what to draw on.
        area: for the bars.
        drivers: the channels.
        side: the side that they are listed for; the other is paler.
        scale: where the bars end to the left and to the right of zero, as `ends` gives it.
    """
    axes = add_axes(figure, area)
    rows = range(len(drivers))
    for which, sign, colour in ((Side.INHIBITION, -1, BLUE), (Side.EXCITATION, 1, RED)):
        values = [x.of(which) for x in drivers]
        axes.barh(
            rows,
            [sign * value for value in values],
            height=0.7,
            color=colour,
            alpha=1 if which is side else _PALE,
            lw=0,
        )
        for row, driver, value in zip(rows, drivers, values, strict=True):
            sd = driver.inhibition_sd if sign < 0 else driver.excitation_sd
            if sd:
                span = [sign * max(value - sd, 0), sign * (value + sd)]
                axes.plot(span, [row, row], color=INK, lw=0.7, solid_capstyle="butt")
    axes.set(xlim=(-scale[0], scale[1]), xticks=[], yticks=[])
    axes.set_ylim(len(drivers) - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set(visible=False)
    axes.axvline(0, color=HAIR, lw=0.8)


def add_numbers(figure: Figure, right: float, top: float, width: float, driver: Driver) -> None:
    """A channel's two numbers in their colours, right-aligned on one line.

    Args:
        figure: what to draw on.
        right: where they end, in inches.
        top: of the middle of the line, in inches.
        width: inches for both.
        driver: the channel.
    """
    half = width / 2
    for k, (value, sign, colour) in enumerate(
        ((driver.inhibition, "−", BLUE), (driver.excitation, "+", RED))
    ):
        text = f"{sign if value else ''}{format_number(value)}"
        add_text(
            figure, right - (1 - k) * half, top, text,
            width=half - 0.03, size=SMALL, ha="right", va="center", color=colour,
        )  # fmt: skip


def covered_text(drivers: Drivers, side: Side) -> str:
    """What the listed channels cover of a side, such as ': 22 % of all excitation'."""
    covered = drivers.covered(side)
    return "" if covered is None else f": {100 * covered:.0f} % of all {side}"


def within_text(drivers: Drivers) -> str:
    """How much of the tension lies within single channels, as a sentence; empty without tension."""
    share = drivers.tension_within
    if share is None:
        return ""
    return f"{100 * share:.0f} % of the tension lies within single {drivers.kind}s"

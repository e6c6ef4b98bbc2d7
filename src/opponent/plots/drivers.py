"""The answer to `who` as a figure: the upstream channels that drive a feature."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.explain.channels import Driver, Who
from opponent.explain.crops import Synthetic, Tile, opaque
from opponent.plots.layout import (
    FAINT,
    HAIR,
    INK,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    TITLE,
    Area,
    add_axes,
    add_heading,
    add_note,
    add_picture,
    add_text,
    format_number,
    styled,
)


@dataclass(frozen=True, kw_only=True)
class DriverRow:
    """One channel in `drivers_figure`.

    Args:
        name: the channel's.
        mean, spread: of S summed over space: mean and standard deviation over the images.
        exemplars: crops in which the channel is most active.
        visualisation: what is synthesised to excite it; None for not made.
    """

    name: str
    mean: float
    spread: float
    exemplars: Sequence[Tile] = ()
    visualisation: Synthetic | None = None


def plot_who(who: Who) -> Figure:
    """The answer to `who` as a figure of two columns.

    Args:
        who: the answer.
    Returns:
        The figure.
    Source: ours; the sums are those of paper, section 3.
    """
    return drivers_figure(
        [_row(driver) for driver in who.exciting],
        [_row(driver) for driver in who.inhibiting],
        title=who.feature.label,
        about=who.caption,
    )


def _row(driver: Driver) -> DriverRow:
    return DriverRow(
        name=driver.name,
        mean=driver.mean,
        spread=driver.spread,
        exemplars=driver.exemplars,
        visualisation=driver.visualisation,
    )


@styled
def drivers_figure(
    exciting: Sequence[DriverRow],
    inhibiting: Sequence[DriverRow],
    *,
    title: str,
    about: str,
) -> Figure:
    """Channels that excite a feature on the left, channels that inhibit it on the right.

    Args:
        exciting: with positive means, largest first.
        inhibiting: with negative means, most negative first.
        title: the feature.
        about: which images the means are over, and through which layer.
    Returns:
        A figure of two columns.
    Source: ours; the sums are those of paper, section 3.
    """
    gap, rows = 0.3, max(len(exciting), len(inhibiting), 1)
    side = (PAGE - 2 * MARGIN - gap) / 2
    crops = max((len(row.exemplars) for row in (*exciting, *inhibiting)), default=0)
    pictures = crops + any(row.visualisation for row in (*exciting, *inhibiting))
    cell = min((side - 0.04 * (pictures - 1)) / pictures, 0.8) if pictures else 0.0
    pitch, top = cell + 2.3 * LINE, MARGIN + 4.4 * LINE
    figure = Figure(figsize=(PAGE, top + rows * pitch + MARGIN))
    add_text(figure, MARGIN, MARGIN, title, width=PAGE - 2 * MARGIN, size=TITLE, weight="bold")
    room = PAGE - 2 * MARGIN
    add_text(figure, MARGIN, MARGIN + LINE, about, width=room, size=SMALL, color=FAINT)
    longest = max((abs(row.mean) + row.spread for row in (*exciting, *inhibiting)), default=0)
    for k, (name, channels, colour) in enumerate(
        (("excite it", exciting, RED), ("inhibit it", inhibiting, BLUE))
    ):
        left = MARGIN + k * (side + gap)
        add_heading(figure, left, top - 1.6 * LINE, side, name, colour)
        if not channels:
            add_note(figure, Area(left, top, side, LINE), "no channel does")
        for number, row in enumerate(channels):
            _driver(figure, row, Area(left, top + number * pitch, side, cell), longest, colour)
    return figure


def _driver(figure: Figure, row: DriverRow, area: Area, longest: float, colour: str) -> None:
    numbers = f"{format_number(row.mean)} ± {format_number(row.spread)}"
    add_text(figure, area.left, area.top, row.name, width=0.32 * area.width, weight="bold")
    right = area.left + area.width
    room = 0.35 * area.width
    add_text(figure, right, area.top, numbers, width=room, size=SMALL, ha="right", color=FAINT)
    zero, width = area.left + 0.34 * area.width, 0.3 * area.width
    axes = add_axes(figure, Area(zero, area.top + 0.02, width, 0.8 * LINE))
    axes.barh([0], [abs(row.mean)], height=0.7, color=colour)
    ends = [[min(row.spread, abs(row.mean))], [row.spread]]
    axes.errorbar([abs(row.mean)], [0], xerr=ends, color=INK, lw=0.7, capsize=1.5)
    axes.set(xlim=(0, longest or 1), ylim=(-0.5, 0.5), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=False)
    axes.axvline(0, color=HAIR, lw=0.8)
    pictures: list[Tile | Synthetic] = [*row.exemplars]
    if row.visualisation is not None:
        pictures.append(row.visualisation)
    for k, picture in enumerate(pictures):
        left = area.left + k * (area.height + 0.04)
        cell = Area(left, area.top + 1.2 * LINE, area.height, area.height)
        add_picture(figure, cell, opaque(picture))
    if not pictures and area.height:
        cell = Area(area.left, area.top + 1.2 * LINE, area.width, area.height)
        add_note(figure, cell, "never active")

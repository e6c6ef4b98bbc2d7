"""The answer to `why` as a figure: where a feature is excited and inhibited, by which channels."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.core.side import Side
from opponent.explain.crops import Tile, overlay_scale
from opponent.explain.image import Why
from opponent.plots.layout import (
    FAINT,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    TITLE,
    Area,
    add_axes,
    add_picture,
    add_text,
    cell_height,
    format_number,
    styled,
    text_width,
)
from opponent.plots.square import add_square


def plot_why(why: Why) -> Figure:
    """The answer to `why` as a figure of two columns.

    Args:
        why: the answer.
    Returns:
        The figure.
    Raises:
        ValueError: the through layer has no rows and columns, so there are no maps to draw.
    Source: paper, section 3; the sums by channel are ours.
    """
    if why.tile.excitation is None:
        raise ValueError(
            f"{why.through} has no rows and columns, so there are no maps to draw; choose a "
            "convolutional layer"
        )
    return why_figure(
        why.tile,
        excitatory=why.excitatory,
        inhibitory=why.inhibitory,
        title=why.title,
        facts=why.facts()[4:8],
    )


@styled
def why_figure(
    tile: Tile,
    *,
    excitatory: Sequence[tuple[str, float]],
    inhibitory: Sequence[tuple[str, float]],
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    scale: float | None = None,
) -> Figure:
    """Why one photograph gives the activation that it gives: where, and through which channels.

    Args:
        tile: the photograph with its maps.
        excitatory: the channels that add most, largest first: name and sum of S+.
        inhibitory: the channels that take most away: name and sum of S-, >= 0.
        title: what is explained.
        facts: name and value, such as ('activation', '-1.3').
        scale: of the maps, where it is shared with other images; else this image's own.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: the tile has no maps, or a sum is negative.
    Source: paper, section 3; the sums by channel are ours.
    """
    if tile.excitation is None or tile.inhibition is None:
        raise ValueError("why_figure: the tile has no maps, expected excitation and inhibition")
    if any(value < 0 for _, value in (*excitatory, *inhibitory)):
        raise ValueError("why_figure: sums of a sign must be >= 0; inhibition too is stored >= 0")
    end = overlay_scale([tile]) if scale is None else scale
    gap, aside = 0.06, 1.5
    side = (PAGE - 2 * MARGIN - aside - 3 * gap) / 4
    bars = max(len(excitatory), len(inhibitory), 1)
    down = cell_height([tile], side)
    top = MARGIN + 2.6 * LINE
    lower = top + max(down, 1.3) + LINE
    depth = 1.2 * LINE + LINE * max(bars, len(facts))
    figure = Figure(figsize=(PAGE, lower + depth + MARGIN))
    add_text(figure, MARGIN, MARGIN, title, width=PAGE - 2 * MARGIN, size=TITLE, weight="bold")
    for k, (name, image) in enumerate(
        (
            ("photograph", tile.image),
            ("excitation and inhibition", tile.overlaid(end)),
            ("excitation alone", tile.overlaid(end, Side.EXCITATION)),
            ("inhibition alone", tile.overlaid(end, Side.INHIBITION)),
        )
    ):
        left = MARGIN + k * (side + gap)
        add_text(figure, left, top - LINE, name, width=side)
        add_picture(figure, Area(left, top, side, down), image)
    add_square(figure, PAGE - aside + 0.42, top, 1.0, end)
    longest = max((value for _, value in (*excitatory, *inhibitory)), default=0.0)
    for k, (name, channels, colour) in enumerate(
        (
            ("most excitatory channels", excitatory, RED),
            ("most inhibitory channels", inhibitory, BLUE),
        )
    ):
        left = MARGIN + k * 2 * (side + gap)
        add_text(figure, left, lower, name, color=colour, weight="bold")
        area = Area(left, lower + 1.2 * LINE, 2 * side + gap - 0.2, len(channels) * LINE)
        _bars(figure, area, channels, longest, colour)
    for k, (name, value) in enumerate(facts):
        y = lower + 1.2 * LINE + k * LINE
        left = PAGE - aside + 0.05
        room = PAGE - MARGIN - left
        taken = min(text_width(value, SMALL), 0.6 * room)
        add_text(figure, left, y, name, width=room - taken - 0.06, size=SMALL, color=FAINT)
        add_text(figure, left + room, y, value, width=0.6 * room, size=SMALL, ha="right")
    return figure


def _bars(
    figure: Figure, area: Area, channels: Sequence[tuple[str, float]], longest: float, colour: str
) -> None:
    """Bars from one zero line, all on the scale of the longest, names before and values after."""
    if not channels:
        add_text(figure, area.left, area.top, "none", color=FAINT, size=SMALL)
        return
    zero, unit = area.left + 0.42 * area.width, (0.58 * area.width - 0.4) / (longest or 1)
    axes = add_axes(figure, Area(zero, area.top, unit * (longest or 1), area.height))
    axes.barh(range(len(channels)), [value for _, value in channels], height=0.7, color=colour)
    axes.set(xlim=(0, longest or 1), ylim=(len(channels) - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines["bottom"].set_visible(False)
    for k, (name, value) in enumerate(channels):
        middle = area.top + (k + 0.5) * LINE
        text: dict[str, Any] = {"size": SMALL, "va": "center"}
        room = zero - area.left - 0.05
        add_text(figure, zero - 0.05, middle, name, width=room, ha="right", **text)
        add_text(figure, zero + unit * value + 0.04, middle, format_number(value), **text)

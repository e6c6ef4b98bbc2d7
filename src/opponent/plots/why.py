"""The answer to `why` as a figure: where a feature is excited and inhibited, by which channels."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.core.side import Side
from opponent.explain.crops import Tile, overlay_scale
from opponent.explain.drivers import Driver, Drivers
from opponent.explain.image import Why
from opponent.plots.layout import (
    FAINT,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    TITLE,
    Area,
    add_picture,
    add_text,
    cell_height,
    styled,
    text_width,
)
from opponent.plots.sides import add_numbers, add_sides, covered_text, ends
from opponent.plots.square import add_square


def plot_why(why: Why) -> Figure:
    """The answer to `why` as a figure of two columns.

    Args:
        why: the answer.
    Returns:
        The figure.
    Raises:
        ValueError: the through layer has no rows and columns, so there are no maps to draw.
    Source: paper, section 3, for one image and by channel.
    """
    if why.tile.excitation is None:
        raise ValueError(
            f"{why.through} has no rows and columns, so there are no maps to draw; choose a "
            "convolutional layer"
        )
    share = why.drivers.tension_within
    within = [] if share is None else [("of it within channels", f"{100 * share:.0f} %")]
    return why_figure(
        why.tile,
        drivers=why.drivers,
        title=why.title,
        facts=[*why.facts()[4:8], *within],
    )


@styled
def why_figure(
    tile: Tile,
    *,
    drivers: Drivers,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    scale: float | None = None,
) -> Figure:
    """Why one photograph gives the activation that it gives: where, and through which channels.

    Args:
        tile: the photograph with its maps.
        drivers: the channels that add most to either side; their bars go to the right by
            excitation and to the left by inhibition.
        title: what is explained.
        facts: name and value, such as ('activation', '-1.3').
        scale: of the maps, where it is shared with other images; else this image's own.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: the tile has no maps.
    Source: paper, section 3, for one image and by channel.
    """
    if tile.excitation is None or tile.inhibition is None:
        raise ValueError("why_figure: the tile has no maps, expected excitation and inhibition")
    full = overlay_scale([tile]) if scale is None else scale
    gap, aside = 0.06, 1.5
    side = (PAGE - 2 * MARGIN - aside - 3 * gap) / 4
    bars = max(len(drivers.exciting), len(drivers.inhibiting), 1)
    down = cell_height([tile], side)
    top = MARGIN + 2.6 * LINE
    lower = top + max(down, 1.3) + LINE
    depth = 1.2 * LINE + LINE * max(bars, len(facts))
    figure = Figure(figsize=(PAGE, lower + depth + MARGIN))
    add_text(figure, MARGIN, MARGIN, title, width=PAGE - 2 * MARGIN, size=TITLE, weight="bold")
    for k, (name, image) in enumerate(
        (
            ("photograph", tile.image),
            ("excitation and inhibition", tile.overlaid(full)),
            ("excitation alone", tile.overlaid(full, Side.EXCITATION)),
            ("inhibition alone", tile.overlaid(full, Side.INHIBITION)),
        )
    ):
        left = MARGIN + k * (side + gap)
        add_text(figure, left, top - LINE, name, width=side)
        add_picture(figure, Area(left, top, side, down), image)
    add_square(figure, PAGE - aside + 0.42, top, 1.0, full)
    reach = ends((*drivers.exciting, *drivers.inhibiting))
    for k, (which, name, colour) in enumerate(
        ((Side.EXCITATION, "excite it", RED), (Side.INHIBITION, "inhibit it", BLUE))
    ):
        left, room = MARGIN + k * 2 * (side + gap), 2 * side + gap - 0.2
        heading = name + covered_text(drivers, which)
        add_text(figure, left, lower, heading, width=room, color=colour, weight="bold")
        channels = drivers.listed(which)
        area = Area(left, lower + 1.2 * LINE, room, len(channels) * LINE)
        _bars(figure, area, channels, which, reach)
    for k, (name, value) in enumerate(facts):
        y = lower + 1.2 * LINE + k * LINE
        left = PAGE - aside + 0.05
        room = PAGE - MARGIN - left
        taken = min(text_width(value, SMALL), 0.6 * room)
        add_text(figure, left, y, name, width=room - taken - 0.06, size=SMALL, color=FAINT)
        add_text(figure, left + room, y, value, width=0.6 * room, size=SMALL, ha="right")
    return figure


def _bars(
    figure: Figure,
    area: Area,
    channels: Sequence[Driver],
    side: Side,
    scale: tuple[float, float],
) -> None:
    """Bars to either side of one zero line, names before and numbers after."""
    if not channels:
        add_text(figure, area.left, area.top, "none", color=FAINT, size=SMALL)
        return
    names, width = 0.3 * area.width, 0.31 * area.width
    bars = Area(area.left + names, area.top, width, area.height)
    add_sides(figure, bars, channels, side, scale)
    for k, driver in enumerate(channels):
        middle = area.top + (k + 0.5) * LINE
        text: dict[str, Any] = {"size": SMALL, "va": "center"}
        add_text(figure, area.left, middle, driver.name, width=names - 0.05, **text)
        add_numbers(figure, area.left + area.width, middle, 0.37 * area.width, driver)

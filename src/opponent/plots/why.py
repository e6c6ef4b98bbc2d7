"""The answer to `why` as a figure: where a feature is excited and inhibited, by which channels."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.core.side import SIDES, Side
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

# Inches: between pictures, for the column beside them, and of a channel's crop.
_GAP, _ASIDE, _CROP = 0.06, 1.5, 0.36


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
    numbers = [(name.removeprefix("activation of "), value) for name, value in why.numbers()]
    kinds = f"{why.drivers.kind}s"
    within = [] if share is None else [(f"of it within {kinds}", f"{100 * share:.0f} %")]
    return why_figure(
        why.tile,
        drivers=why.drivers,
        title=why.title,
        facts=[*numbers, *within, *why.terms()],
        rivals=None if why.against is None else (why.titles[0], why.titles[1]),
    )


@styled
def why_figure(
    tile: Tile,
    *,
    drivers: Drivers,
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    scale: float | None = None,
    rivals: tuple[str, str] | None = None,
) -> Figure:
    """Why one photograph gives the activation that it gives: where, and through which channels.

    Args:
        tile: the photograph with its maps.
        drivers: the channels that add most to either side; their bars go to the right by
            excitation and to the left by inhibition. The first of their exemplars is drawn.
        title: what is explained.
        facts: name and value, such as ('activation', '-1.3').
        scale: of the maps, where it is shared with other images; else this image's own.
        rivals: the two features, where these are compared: excitation speaks for the first,
            inhibition for the second.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: the tile has no maps.
    Source: paper, section 3, for one image and by channel.
    """
    if tile.excitation is None or tile.inhibition is None:
        raise ValueError("why_figure: the tile has no maps, expected excitation and inhibition")
    full = overlay_scale([tile]) if scale is None else scale
    side = (PAGE - 2 * MARGIN - _ASIDE - 3 * _GAP) / 4
    bars = max(len(drivers.exciting), len(drivers.inhibiting), 1)
    cropped = any(x.exemplars for x in (*drivers.exciting, *drivers.inhibiting))
    pitch = _CROP + 0.04 if cropped else LINE
    down = cell_height([tile], side)
    top = MARGIN + 2.6 * LINE
    lower = top + max(down, 1.3) + LINE
    first = lower + (1.2 if rivals is None else 2.2) * LINE
    figure = Figure(figsize=(PAGE, first + max(pitch * bars, LINE * len(facts)) + MARGIN))
    add_text(figure, MARGIN, MARGIN, title, width=PAGE - 2 * MARGIN, size=TITLE, weight="bold")
    alone = ("excitation alone", "inhibition alone")
    if rivals is not None:
        alone = ("for the first alone", "for the second alone")
    for k, (name, image) in enumerate(
        (
            ("photograph", tile.image),
            ("excitation and inhibition", tile.overlaid(full)),
            (alone[0], tile.overlaid(full, Side.EXCITATION)),
            (alone[1], tile.overlaid(full, Side.INHIBITION)),
        )
    ):
        left = MARGIN + k * (side + _GAP)
        add_text(figure, left, top - LINE, name, width=side)
        add_picture(figure, Area(left, top, side, down), image)
    add_square(figure, PAGE - _ASIDE + 0.42, top, 1.0, full)
    reach = ends((*drivers.exciting, *drivers.inhibiting))
    for k, which in enumerate(SIDES):
        left, room = MARGIN + k * 2 * (side + _GAP), 2 * side + _GAP - 0.2
        _heading(figure, Area(left, lower, room, LINE), drivers, which, rivals)
        channels = drivers.listed(which)
        area = Area(left, first, room, len(channels) * pitch)
        _bars(figure, area, channels, which, reach, cropped)
    for k, (name, value) in enumerate(facts):
        y = first + k * LINE
        left = PAGE - _ASIDE + 0.05
        room = PAGE - MARGIN - left
        taken = min(text_width(value, SMALL), 0.6 * room)
        add_text(figure, left, y, name, width=room - taken - 0.06, size=SMALL, color=FAINT)
        add_text(figure, left + room, y, value, width=0.6 * room, size=SMALL, ha="right")
    return figure


def _heading(
    figure: Figure, area: Area, drivers: Drivers, side: Side, rivals: tuple[str, str] | None
) -> None:
    """What the channels of a side do, and what they cover of it."""
    index = SIDES.index(side)
    options: dict[str, Any] = {"width": area.width, "color": (RED, BLUE)[index]}
    covered = covered_text(drivers, side)
    if rivals is None:
        text = ("excite it", "inhibit it")[index] + covered
        add_text(figure, area.left, area.top, text, weight="bold", **options)
        return
    add_text(figure, area.left, area.top, f"for {rivals[index]}", weight="bold", **options)
    below = covered.removeprefix(": ")
    add_text(figure, area.left, area.top + LINE, below, size=SMALL, **options)


def _bars(
    figure: Figure,
    area: Area,
    channels: Sequence[Driver],
    side: Side,
    scale: tuple[float, float],
    cropped: bool,
) -> None:
    """Bars to either side of one zero line, names before and numbers after.

    Where there are crops, they stand before the names, and the numbers below the names.
    """
    if not channels:
        add_text(figure, area.left, area.top, "none", color=FAINT, size=SMALL)
        return
    indent = _CROP + 0.06 if cropped else 0.0
    start, width = area.left + indent, area.width - indent
    # The shares of the width that names, bars and numbers take.
    names, middle, numbers = (0.6, 0.4, 0.6) if cropped else (0.3, 0.31, 0.37)
    bars = Area(start + names * width, area.top, middle * width, area.height)
    add_sides(figure, bars, channels, side, scale)
    pitch = area.height / len(channels)
    for k, driver in enumerate(channels):
        top = area.top + k * pitch
        level = top + pitch / 2
        above, below = (level - LINE / 2, level + LINE / 2) if cropped else (level, level)
        text: dict[str, Any] = {"size": SMALL, "va": "center"}
        add_text(figure, start, above, driver.name, width=names * width - 0.05, **text)
        end = start + numbers * width if cropped else start + width
        add_numbers(figure, end - 0.05 * cropped, below, numbers * width - 0.05 * cropped, driver)
        for tile in driver.exemplars[:1]:
            add_picture(figure, Area(area.left, top + 0.02, _CROP, _CROP), tile.image)

"""Tension in channels against tension in latents, and images from either end of what remains."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.core.side import SIDES, Side
from opponent.explain.crops import opaque
from opponent.explain.drivers import Drivers
from opponent.explain.interference_images import InterferenceImage, InterferenceImages
from opponent.plots.layout import (
    COLUMN,
    FAINT,
    HAIR,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    TITLE,
    Area,
    add_axes,
    add_caption,
    add_heading,
    add_note,
    add_picture,
    add_text,
    format_number,
    styled,
)
from opponent.plots.square import add_square

# Marks of either end; neither is the red, blue or green of a side.
GOES, STAYS = "#7a4b9a", "#a8620c"
# In inches: of the scatter plot, of a picture, of a driver's crop, between pictures and columns.
_SCATTER, _PICTURE, _CROP, _GAP, _GUTTER = 2.1, 0.82, 0.25, 0.04, 0.3
# Where the names of marks stand, in points from these: images alike lie close together.
_ASIDE = ((4, 0, "left"), (-4, 0, "right"), (0, 7, "center"), (0, -7, "center"))
# Latents or channels a side for which a column has room.
_LISTED = 3
# Dots beyond this number are drawn as one picture.
_DOTS = 5000
# Height of one image with all that is said of it, in inches.
_BLOCK = 1.2 * LINE + _PICTURE + 1.3 * LINE + LINE + _CROP + 2 * LINE + 0.12


def plot_interference(images: InterferenceImages) -> Figure:
    """All images as points, and below them images from either end with what drives them.

    Args:
        images: as `interference_images` gives them.
    Returns:
        A figure of two columns.
    Source: ours; the sums are those of paper, eqs. 2 and 3.
    """
    found = images.found
    return interference_figure(
        found.channels.tension,
        found.latents.tension,
        goes=images.goes,
        stays=images.stays,
        title=f"{found.feature.label} through {images.run.through}",
        facts=[*found.facts(), ("variance that the dictionary leaves", images.left)],
        notes=images.notes,
        scale=images.scale,
    )


@styled
def interference_figure(
    channels: Float[np.ndarray, " n"],
    latents: Float[np.ndarray, " n"],
    *,
    goes: Sequence[InterferenceImage] = (),
    stays: Sequence[InterferenceImage] = (),
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    scale: float = 0.0,
) -> Figure:
    """Tension of all images in channels and in latents, and some of them from either end.

    Each image has its photograph, the maps in channels and in latents on one scale, its numbers,
    and the three latents and channels that add most to either side, by their own first exemplars.

    Args:
        channels, latents: tension of each image.
        goes, stays: the images of either end.
        title: the feature.
        facts: names and values of all images together.
        notes: sentences on what is missing.
        scale: of all maps; 0 where there is none.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: vectors of different length, or no image.
    Source: ours; the sums are those of paper, eqs. 2 and 3.
    """
    rows = max(len(goes), len(stays))
    lower = MARGIN + LINE + _SCATTER + 0.45
    top = lower + 1.7 * LINE * bool(rows)
    figure = Figure(figsize=(PAGE, top + rows * _BLOCK + MARGIN))
    add_text(figure, MARGIN, MARGIN, title, width=PAGE - 2 * MARGIN, size=TITLE, weight="bold")
    axes = add_axes(figure, Area(0.5, MARGIN + 1.4 * LINE, _SCATTER, _SCATTER))
    marks = {GOES: [x.row for x in goes], STAYS: [x.row for x in stays]}
    _draw_scatter(axes, channels, latents, marks)
    _draw_facts(figure, facts, notes)
    if rows and scale:
        add_square(figure, PAGE - MARGIN - 1.0, MARGIN + 1.4 * LINE, 0.95, scale)
    column = (PAGE - 2 * MARGIN - _GUTTER) / 2
    for i, (name, colour, shown) in enumerate(
        (("least remains", GOES, goes), ("most remains", STAYS, stays))
    ):
        left = MARGIN + i * (column + _GUTTER)
        if rows:
            add_heading(figure, left, lower, column, name, colour)
        if rows and not shown:
            add_note(figure, Area(left, top, column, LINE), "no image")
        for j, image in enumerate(shown):
            area = Area(left, top + j * _BLOCK, column, _BLOCK)
            _draw_image(figure, area, f"{'ab'[i]}{j + 1}", image, scale)
    return figure


@styled
def tensions_figure(
    channels: Float[np.ndarray, " n"],
    latents: Float[np.ndarray, " n"],
    *,
    goes: Sequence[int] = (),
    stays: Sequence[int] = (),
) -> Figure:
    """Tension of all images in channels and in latents, some of them marked.

    Args:
        channels, latents: tension of each image.
        goes, stays: rows of the marked images.
    Returns:
        A figure of one column.
    Raises:
        ValueError: vectors of different length, or no image.
    Source: ours.
    """
    side = COLUMN - 0.5 - MARGIN
    figure = Figure(figsize=(COLUMN, MARGIN + side + 0.45))
    axes = add_axes(figure, Area(0.5, MARGIN, side, side))
    _draw_scatter(axes, channels, latents, {GOES: list(goes), STAYS: list(stays)})
    return figure


def _draw_facts(figure: Figure, facts: Sequence[tuple[str, str]], notes: Sequence[str]) -> None:
    """Names over values, and sentences, beside the scatter plot."""
    left, top = 0.5 + _SCATTER + 0.3, MARGIN + 1.4 * LINE
    for name, value in facts:
        add_text(figure, left, top, name, width=2.45, size=SMALL, color=FAINT)
        add_text(figure, left, top + 0.85 * LINE, value, width=2.45, size=SMALL)
        top += 2 * LINE
    for note in notes:
        for line in wrap(note, 58):
            add_text(figure, left, top, line, width=PAGE - MARGIN - left, size=SMALL)
            top += 0.9 * LINE


def _draw_scatter(
    axes: Axes,
    channels: Float[np.ndarray, " n"],
    latents: Float[np.ndarray, " n"],
    marks: Mapping[str, list[int]],
) -> None:
    """Dots, the line on which all remains, that on which half does, and the tenser half."""
    if len(channels) != len(latents) or not len(channels):
        raise ValueError(
            f"tension is given of {len(channels)} images in channels and of {len(latents)} in "
            "latents; give it of the same images, one or more"
        )
    end = 1.06 * float(max(channels.max(), latents.max())) or 1.0
    for share, name in ((1.0, "all remains"), (0.5, "half")):
        axes.plot([0, end], [0, share * end], color=HAIR, lw=0.7, zorder=0)
        axes.annotate(
            name, (0.97 * end, 0.97 * share * end), xytext=(0, 2), textcoords="offset points",
            ha="right", va="bottom", size=SMALL, color=FAINT, rotation=np.degrees(np.arctan(share)),
            rotation_mode="anchor",
        )  # fmt: skip
    axes.axvline(float(np.median(channels)), color=FAINT, lw=0.6, ls=(0, (2, 2)), zorder=0)
    axes.scatter(
        channels, latents, s=float(np.clip(6000 / len(channels), 1.5, 12)), color="#8b8b93",
        linewidths=0, rasterized=len(channels) > _DOTS,
    )  # fmt: skip
    for letter, (colour, rows) in zip("ab", marks.items(), strict=True):
        for i, row in enumerate(rows):
            at = (float(channels[row]), float(latents[row]))
            axes.plot(*at, marker="o" if letter == "b" else "v", ms=4.5, mfc=colour, mec="white")
            across, up, ha = _ASIDE[i % len(_ASIDE)]
            axes.annotate(
                f"{letter}{i + 1}", at, xytext=(across, up), textcoords="offset points", ha=ha,
                va="center", size=SMALL, color=colour, weight="bold",
            )  # fmt: skip
    axes.set(xlim=(0, end), ylim=(0, end))
    axes.set(xlabel="tension in channels", ylabel="tension in latents")
    axes.locator_params(nbins=5)


def _draw_image(
    figure: Figure, area: Area, mark: str, image: InterferenceImage, scale: float
) -> None:
    """One image: pictures and numbers, and what drives it in latents and in channels."""
    left, top = area.left, area.top
    add_text(figure, left, top, f"{mark}  {image.image}", width=area.width, weight="bold")
    top += 1.2 * LINE
    for i, (name, picture) in enumerate(
        (
            ("photograph", image.channels.image),
            ("in channels", image.channels.overlaid(scale)),
            ("in latents", image.latents.overlaid(scale)),
        )
    ):
        cell = Area(left + i * (_PICTURE + _GAP), top, _PICTURE, _PICTURE)
        if i and image.channels.excitation is None:
            add_note(figure, cell, "no places")
            continue
        add_picture(figure, cell, picture)
        add_caption(figure, cell, name)
    aside = left + 3 * (_PICTURE + _GAP) + 0.04
    one, other = (format_number(x) for x in image.tension)
    for i, (text, size) in enumerate(
        (
            ("tension", SMALL), (f"{one} → {other}", SMALL),
            (f"{image.remaining:.0%} stays", SMALL),
            (f"rest: {format_number(image.rest)},", SMALL),
            (f"{image.left:.0%} of |S|", SMALL),
        )
    ):  # fmt: skip
        width = area.width - aside + left
        add_text(figure, aside, top + 1.1 * i * LINE, text, width=width, size=size)
    top += _PICTURE + 1.3 * LINE
    quarter = (area.width - 3 * 2 * _GAP) / 4
    lists = [
        (f"{name} {sign}", drivers, side, colour)
        for name, drivers in (("latents", image.by_latents), ("channels", image.by_channels))
        for side, sign, colour in zip(SIDES, "+−", (RED, BLUE), strict=True)
    ]
    for i, (name, drivers, side, colour) in enumerate(lists):
        cell = Area(left + i * (quarter + 2 * _GAP), top, quarter, _BLOCK)
        _draw_drivers(figure, cell, name, drivers, side, colour)


def _draw_drivers(
    figure: Figure, area: Area, name: str, drivers: Drivers, side: Side, colour: str
) -> None:
    """What adds most to a side: its first exemplar, its number, and what it adds."""
    add_text(figure, area.left, area.top, name, width=area.width, size=SMALL, color=colour)
    listed = drivers.listed(side)[:_LISTED]
    if not listed:
        add_note(figure, Area(area.left, area.top + LINE, area.width, _CROP), "none")
    for i, driver in enumerate(listed):
        cell = Area(area.left + i * (_CROP + 0.015), area.top + LINE, _CROP, _CROP)
        for tile in driver.exemplars[:1]:
            add_picture(figure, cell, opaque(tile))
        middle = cell.left + _CROP / 2
        for j, text in enumerate((str(driver.channel), format_number(driver.of(side)))):
            add_text(
                figure, middle, cell.top + _CROP + 0.02 + 0.85 * j * LINE, text, width=_CROP,
                size=SMALL - 2, ha="center", color=(FAINT, colour)[j],
            )  # fmt: skip

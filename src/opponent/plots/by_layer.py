"""Numbers with intervals, layer by layer, in a grid of small panels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opponent.plots.layout import (
    FAINT,
    HAIR,
    LETTER,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    Area,
    add_axes,
    add_text,
    fit_text,
    styled,
    text_width,
    wrap_text,
)

# In inches: of a panel's height, left of it, above it, and between an entry of the legend's line
# and its text.
_TALL, _LEFT, _HEAD, _DASH = 1.25, 0.46, 0.2, 0.26
_DASHES: dict[str, Any] = {"solid": "-", "dashed": (0, (4, 1.6)), "dotted": (0, (1, 1.4))}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerLine:
    """One line of a panel; NaN for no value.

    Args:
        name: what the legend says, or nothing; equal names look the same.
        colour: as matplotlib reads it.
        dashes: 'solid', 'dashed' or 'dotted'.
        value, low, high: at each layer, and its interval; no interval where low is None.
    """

    name: str
    colour: str
    dashes: str
    value: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"] | None = None
    high: Float[np.ndarray, " layers"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPanel:
    """One panel.

    Args:
        title: above it.
        ylabel: beside the first panel of a row; what all of the row show.
        lines: what it shows.
        bounds: lowest and highest value of the axis; None for those of the lines.
        level: a value that is marked by a line; None for none.
    """

    title: str
    ylabel: str
    lines: Sequence[LayerLine]
    bounds: tuple[float, float] | None = None
    level: float | None = None


@styled
def by_layer_figure(
    layers: Sequence[str], rows: Sequence[Sequence[LayerPanel]], *, about: str
) -> Figure:
    """Panels in rows, all with the same layers.

    Args:
        layers: names, in order.
        rows: the panels, as many in each row.
        about: small print above all.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: no layer, no panel, or rows or lines of another length.
    """
    lines = [line for row in rows for panel in row for line in panel.lines]
    lengths = {len(row) for row in rows} | {0}
    if not layers or len(lengths) != 2 or any(len(x.value) != len(layers) for x in lines):
        raise ValueError("by_layer_figure: expected panels in equal rows, all of all layers")
    shown = [fit_text(name, 1.8, SMALL, "normal") for name in layers]
    longest = max(text_width(name, SMALL) for name in shown)
    # Long names would reach over the figure's edge.
    slant = 45 if longest < 0.6 else 90
    below = longest * np.sin(np.deg2rad(slant)) + 0.16
    names = [line for name, line in {x.name: x for x in lines}.items() if name]
    notes = wrap_text(about, PAGE - 2 * MARGIN)
    places, legend = _legend(names)
    top = MARGIN + LINE * len(notes) + legend + 0.12
    pitch = _HEAD + _TALL + 0.16
    figure = Figure(figsize=(PAGE, top + pitch * len(rows) + below))
    for i, note in enumerate(notes):
        add_text(figure, MARGIN, MARGIN + i * LINE, note, size=SMALL, color=FAINT)
    for line, (left, level) in zip(names, places, strict=True):
        _add_entry(figure, line, left, MARGIN + LINE * (len(notes) + 0.6) + level)
    across = len(rows[0])
    width = (PAGE - MARGIN) / across
    for r, row in enumerate(rows):
        for c, panel in enumerate(row):
            area = Area(c * width + _LEFT, top + r * pitch + _HEAD, width - _LEFT - 0.08, _TALL)
            letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[r * across + c]
            add_text(
                figure, c * width + MARGIN, area.top - _HEAD, letter, size=LETTER, weight="bold"
            )
            room = width - MARGIN - 0.2
            title = fit_text(panel.title, room, SMALL, "normal")
            add_text(figure, c * width + MARGIN + 0.17, area.top - _HEAD + 0.02, title, size=SMALL)
            axes = add_axes(figure, area)
            _draw(axes, panel, len(layers))
            last = r == len(rows) - 1
            axes.set_xticks(
                range(len(layers)), shown if last else [""] * len(layers), rotation=slant,
                ha="right", va="center" if slant == 90 else "top", rotation_mode="anchor",
            )  # fmt: skip
            if c == 0:
                axes.set_ylabel(panel.ylabel)
    return figure


def _draw(axes: Axes, panel: LayerPanel, count: int) -> None:
    places = np.arange(count)
    if panel.level is not None:
        axes.axhline(panel.level, color=FAINT, lw=0.7, zorder=1)
    for i, line in enumerate(panel.lines):
        # Side by side, since intervals of equal values would hide each other.
        apart = min(0.08, 0.6 / len(panel.lines))
        x = places + apart * (i - (len(panel.lines) - 1) / 2)
        if line.low is not None and line.high is not None:
            axes.vlines(x, line.low, line.high, color=line.colour, lw=0.8, alpha=0.6, zorder=2)
            axes.plot(x, line.value, ".", color=line.colour, ms=4, zorder=4)
        dashes = _DASHES[line.dashes]
        if line.low is None and count == 1:
            axes.axhline(line.value[0], color=line.colour, lw=1.1, ls=dashes, zorder=3)
        axes.plot(x, line.value, color=line.colour, lw=1.1, ls=dashes, zorder=3)
    axes.set_xlim(-0.5, count - 0.5)
    if panel.bounds is not None:
        axes.set_ylim(*panel.bounds)
    axes.grid(axis="y", color=HAIR, lw=0.4)
    axes.set_axisbelow(True)


def _legend(lines: Sequence[LayerLine]) -> tuple[list[tuple[float, float]], float]:
    """Where each entry begins, in inches from the left and down, and how much room all take."""
    places, left, level = list[tuple[float, float]](), MARGIN, 0.0
    for line in lines:
        width = _DASH + text_width(line.name, SMALL) + 0.25
        if left + width > PAGE - MARGIN and left > MARGIN:
            left, level = MARGIN, level + LINE
        places.append((left, level))
        left += width
    return places, level + LINE


def _add_entry(figure: Figure, line: LayerLine, left: float, level: float) -> None:
    across, down = figure.get_size_inches()
    y = 1 - level / down
    figure.add_artist(
        Line2D(
            [left / across, (left + 0.2) / across], [y, y], color=line.colour,
            ls=_DASHES[line.dashes], lw=1.2,
        )
    )  # fmt: skip
    add_text(figure, left + _DASH, level, line.name, size=SMALL, va="center")

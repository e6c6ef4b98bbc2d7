"""The upstream channels that drive a feature, shown by what excites them."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from opponent.plots.page import (
    _BLUE,
    _FAINT,
    _HAIR,
    _LINE,
    _MARGIN,
    _RED,
    _SMALL,
    _TITLE,
    PAGE,
    Synthetic,
    Tile,
    _axes,
    _Box,
    _heading,
    _nothing,
    _number,
    _picture,
    _rgb,
    _styled,
    _text,
)


@dataclass(frozen=True, kw_only=True)
class DriverRow:
    """One channel in `drivers_figure`: its name, its mean sum of S, the spread, its pictures."""

    name: str
    mean: float
    spread: float
    exemplars: Sequence[Tile] = ()
    visualisation: Synthetic | None = None


@_styled
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
    side = (PAGE - 2 * _MARGIN - gap) / 2
    shown = max((len(row.exemplars) for row in (*exciting, *inhibiting)), default=0)
    made = any(row.visualisation for row in (*exciting, *inhibiting))
    count = max(shown + made, 1)
    cell = min((side - 0.04 * (count - 1)) / count, 0.8) if shown or made else 0.0
    pitch, top = cell + 2.3 * _LINE, _MARGIN + 4.4 * _LINE
    figure = Figure(figsize=(PAGE, top + rows * pitch + _MARGIN))
    _text(figure, _MARGIN, _MARGIN, title, width=PAGE - 2 * _MARGIN, size=_TITLE, weight="bold")
    room = PAGE - 2 * _MARGIN
    _text(figure, _MARGIN, _MARGIN + _LINE, about, width=room, size=_SMALL, color=_FAINT)
    longest = max((abs(row.mean) + row.spread for row in (*exciting, *inhibiting)), default=0)
    for k, (name, channels, colour) in enumerate(
        (("excite it", exciting, _RED), ("inhibit it", inhibiting, _BLUE))
    ):
        left = _MARGIN + k * (side + gap)
        _heading(figure, left, top - 1.6 * _LINE, side, name, colour)
        if not channels:
            _nothing(figure, _Box(left, top, side, _LINE), "no channel does")
        for number, row in enumerate(channels):
            _driver(figure, row, _Box(left, top + number * pitch, side, cell), longest, colour)
    return figure


def _driver(figure: Figure, row: DriverRow, box: _Box, longest: float, colour: str) -> None:
    numbers = f"{_number(row.mean)} ± {_number(row.spread)}"
    _text(figure, box.left, box.top, row.name, width=0.32 * box.width, weight="bold")
    right = box.left + box.width
    room = 0.35 * box.width
    _text(figure, right, box.top, numbers, width=room, size=_SMALL, ha="right", color=_FAINT)
    zero, width = box.left + 0.34 * box.width, 0.3 * box.width
    axes = _axes(figure, _Box(zero, box.top + 0.02, width, 0.8 * _LINE))
    axes.barh([0], [abs(row.mean)], height=0.7, color=colour)
    ends = [[min(row.spread, abs(row.mean))], [row.spread]]
    axes.errorbar([abs(row.mean)], [0], xerr=ends, color="#262626", lw=0.7, capsize=1.5)
    axes.set(xlim=(0, longest or 1), ylim=(-0.5, 0.5), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=False)
    axes.axvline(0, color=_HAIR, lw=0.8)
    pictures: list[Tile | Synthetic] = [*row.exemplars]
    if row.visualisation is not None:
        pictures.append(row.visualisation)
    for k, picture in enumerate(pictures):
        left = box.left + k * (box.height + 0.04)
        cell = _Box(left, box.top + 1.2 * _LINE, box.height, box.height)
        _picture(figure, cell, _rgb(picture))
    if not pictures and box.height:
        cell = _Box(box.left, box.top + 1.2 * _LINE, box.width, box.height)
        _nothing(figure, cell, "never active")

"""The excitation-inhibition colour square (figure 4g): alone, and beside other panels."""

import numpy as np
from matplotlib.figure import Figure

from opponent.core.colour import balance_square, colour_square, on_white
from opponent.plots.layout import COLUMN, DPI, INK, MARGIN, Area, add_axes, format_number, styled


@styled
def square_figure(limit: float | None = None) -> Figure:
    """The excitation-inhibition colour square alone.

    Args:
        limit: value at the end of its scale, if it is to be said.
    Returns:
        A figure of half a column.
    Source: paper, fig. 4g.
    """
    figure = Figure(figsize=(COLUMN / 2, COLUMN / 2))
    add_square(figure, 0.4, MARGIN, COLUMN / 2 - 0.4 - MARGIN, limit)
    return figure


def add_square(
    figure: Figure, left: float, top: float, side: float, limit: float | None, symbol: str = "φ"
) -> None:
    """The colour square with its axes' names, as the key to maps beside it.

    Args:
        figure: what to draw on.
        left, top: of the square, in inches.
        side: of the square, in inches.
        limit: value at the end of its scale; None says 'strong', 0 nothing.
        symbol: what the two sides are called: φ in maps, E in sums.
    """
    axes = add_axes(figure, Area(left, top, side, side))
    # One pixel of the print is the finest that can be seen.
    axes.imshow(colour_square(round(side * DPI)), extent=(0, 1, 0, 1), interpolation="none")
    # Values beyond the end of the scale are drawn like the end.
    end = "strong" if limit is None else f"≥ {format_number(limit)}" if limit else ""
    axes.set(
        xlabel=f"excitation {symbol}⁺", ylabel=f"inhibition {symbol}⁻", xticks=[0, 1], yticks=[0, 1]
    )
    axes.yaxis.labelpad = 4
    axes.set_xticklabels(["0", end])
    axes.set_yticklabels(["0", end], rotation=90, va="center")
    # Inside its own side: in the middle, the end's label would stand out of the panel.
    axes.get_xticklabels()[1].set_horizontalalignment("right")
    axes.get_yticklabels()[1].set_verticalalignment("top")
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.6, color=INK)


def add_balance(figure: Figure, area: Area, limit: float, ends: tuple[float, float]) -> None:
    """The colours of `balance_colours` with their axes' names.

    Args:
        figure: what to draw on.
        area: of the square.
        limit: the balance at which the hue ends.
        ends: the least and the largest tension.
    """
    axes = add_axes(figure, area)
    count = round(area.width * DPI)
    across, up = np.meshgrid(np.linspace(-1, 1, count), np.linspace(1, 0, count))
    axes.imshow(on_white(balance_square(across, up)), extent=(0, 1, 0, 1), interpolation="none")
    axes.set(xlabel="(E⁺ − E⁻) / (E⁺ + E⁻)", ylabel="min(E⁺, E⁻)")
    axes.set_xticks([0, 0.5, 1], [f"−{limit:.2g}", "0", f"{limit:.2g}"])
    axes.set_yticks([0, 1], [format_number(end) for end in ends], rotation=90, va="center")
    least, most = axes.get_yticklabels()
    least.set_verticalalignment("bottom")
    most.set_verticalalignment("top")
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.6, color=INK)

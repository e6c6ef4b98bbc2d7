"""Toy models of superposition: the paper's figures 7 and 15, and how the seeds spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter

from opponent.core.colour import on_white, tension_colours
from opponent.plots.layout import (
    FAINT,
    HAIR,
    INK,
    LETTER,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    Area,
    add_axes,
    add_text,
    styled,
    text_width,
)
from opponent.plots.square import add_square

# From the widest model to the narrowest; no hue of the colour square.
_WIDTHS = LinearSegmentedColormap.from_list("widths", ["#cfc6e4", "#2b1a55"])
# Losses below this are rounding, and would stretch the scale.
_LEAST = 1e-14


@dataclass(frozen=True, kw_only=True)
class ToyWidth:
    """The models of one width in `toy_figure`.

    Args:
        hidden: their hidden units.
        excitation, inhibition: of the best model: of each output (column) by each probe (row).
        losses: of the best model, for each input of the domain.
        active: how many outputs should not be zero, for each input of the domain.
        seeds: every model's mean loss.
        name: what stands over the matrix; default: the number of hidden units.
    """

    hidden: int
    excitation: Float[np.ndarray, "b f"]
    inhibition: Float[np.ndarray, "b f"]
    losses: Float[np.ndarray, " n"]
    active: Int[np.ndarray, " n"]
    seeds: Float[np.ndarray, " s"]
    name: str = ""


@styled
def toy_figure(
    widths: Sequence[ToyWidth],
    *,
    label: str,
    about: str,
    rows: Sequence[str],
    columns: Sequence[str],
    others: Sequence[ToyWidth] = (),
) -> Figure:
    """Attributions and losses of the best toy model of each width, and the losses of all seeds.

    Args:
        widths: one for each number of hidden units, at most 5.
        label: the task.
        about: how the models were trained.
        rows, columns: names of the probes and the outputs.
        others: further models, of which panel A alone shows the attributions.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: no width, or more than fit on a page.
    Source: paper, figures 7 and 15; panel C is ours.
    """
    shown = [*widths, *others]
    if not 1 <= len(widths) <= len(shown) <= 5:
        raise ValueError(f"toy_figure: {len(shown)} models, expected 1 to 5; draw fewer at once")
    top, tall, lower = MARGIN + 4.2 * LINE, 2.35, 1.75
    below = top + tall + 0.75
    figure = Figure(figsize=(PAGE, below + lower + 0.62))
    add_text(figure, MARGIN, MARGIN, "A", size=LETTER, weight="bold")
    add_text(figure, 0.3, MARGIN, label, width=PAGE - 0.4, weight="bold")
    add_text(figure, 0.3, MARGIN + LINE, about, width=PAGE - 0.4, size=SMALL, color=FAINT)
    names = max(text_width(name, SMALL) for name in rows)
    first = MARGIN + names + 0.1
    side = min((PAGE - first - 1.55) / len(shown) - 0.15, tall * len(columns) / len(rows))
    for number, models in enumerate(shown):
        box = Area(first + number * (side + 0.15), top, side, tall)
        middle, above = box.left + side / 2, top - 1.15 * LINE
        name = models.name or f"{models.hidden} hidden"
        add_text(figure, middle, above, name, width=side + 0.1, ha="center")
        axes = add_axes(figure, box)
        axes.imshow(_matrix(models), aspect="auto", interpolation="none")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows if number == 0 else [""] * len(rows))
        axes.tick_params(length=0, pad=2)
        for spine in axes.spines.values():
            spine.set(visible=True, linewidth=0.6, color=INK)
        axes.axhline(len(rows) / 2 - 0.5, color=HAIR, lw=0.6)
    square = first + len(shown) * (side + 0.15) + 0.3
    add_square(figure, square, top, 0.9, None, "E")
    note = "each column over its", "largest excitation", "or inhibition"
    for line, words in enumerate(note):
        place = top + 1.32 + line * LINE
        add_text(figure, square - 0.15, place, words, size=SMALL, color=FAINT)
    colours = [to_hex(_WIDTHS(x)) for x in np.linspace(0, 1, len(widths))]
    _losses(figure, widths, colours, Area(MARGIN + 0.5, below, 3.3, lower))
    _seeds(figure, widths, colours, Area(MARGIN + 4.55, below, PAGE - 4.55 - 0.2, lower))
    return figure


def _matrix(models: ToyWidth) -> np.ndarray:
    """The colours of figure 7's matrix, each column on a scale of its own."""
    largest = np.maximum(models.excitation, models.inhibition).max(axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    return on_white(tension_colours(models.excitation / scale, models.inhibition / scale))


def _losses(figure: Figure, widths: Sequence[ToyWidth], colours: list[str], box: Area) -> None:
    add_text(figure, MARGIN, box.top - 0.3, "B", size=LETTER, weight="bold")
    axes = add_axes(figure, box)
    counts = np.bincount(widths[0].active)
    step = 0.8 / len(widths)
    for number, (models, colour) in enumerate(zip(widths, colours, strict=True)):
        places = np.arange(len(counts)) - 0.4 + (number + 0.5) * step
        axes.boxplot(
            [models.losses[models.active == k] for k in range(len(counts))],
            positions=places,
            widths=0.8 * step,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "edgecolor": INK, "linewidth": 0.4},
            medianprops={"color": "#d08a1d", "linewidth": 0.9},
            whiskerprops={"color": INK, "linewidth": 0.4},
            capprops={"color": INK, "linewidth": 0.4},
            flierprops={
                "marker": ".",
                "markersize": 1.5,
                "markerfacecolor": colour,
                "markeredgecolor": "none",
            },
        )
    ticks = [f"{k}\n{n:,}" for k, n in enumerate(counts)]
    axes.set_xticks(range(len(counts)), ticks)
    axes.set(xlim=(-0.5, len(counts) - 0.5), ylabel="loss of the best model")
    axes.set_xlabel("active features; number of inputs")
    axes.set_ylim(bottom=0)
    handles = [Line2D([], [], color=c, lw=4) for c in colours]
    labels = [f"{models.hidden} hidden" for models in widths]
    axes.legend(handles, labels, frameon=False, fontsize=SMALL, loc="upper left", handlelength=1)


def _seeds(figure: Figure, widths: Sequence[ToyWidth], colours: list[str], box: Area) -> None:
    add_text(figure, box.left - 0.6, box.top - 0.3, "C", size=LETTER, weight="bold")
    axes = add_axes(figure, box)
    for models, colour in zip(widths, colours, strict=True):
        losses = np.maximum(np.sort(models.seeds), _LEAST)
        axes.plot(np.arange(1, len(losses) + 1), losses, color=colour, lw=1.1)
        axes.plot([1], losses[:1], "o", color=colour, ms=3, clip_on=False)
    axes.set(yscale="log", xlabel="models, best first", ylabel="mean loss, as inputs are drawn")
    count = max(len(models.seeds) for models in widths)
    axes.set_xlim(0.5, count + 0.5)
    if count > 10:
        axes.set(xscale="log", xlim=(0.9, 1.1 * count))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))

"""How a dictionary was learnt: what it leaves, step by step, and how often latents are on."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opponent.dictionaries.learnt import Learnt
from opponent.plots.layout import COLUMN, FAINT, INK, MARGIN, PAGE, Area, add_axes, styled

# In inches: of a panel, and of the room around it.
_TALL, _LEFT, _BELOW, _GAP, _HEAD = 1.8, 0.5, 0.42, 0.4, 0.3


@styled
def plot_learnt(learnt: Learnt) -> Figure:
    """The share of variance that is left, by step; and latents by how often they are on.

    Args:
        learnt: what `learn_dictionary` gives; without steps there is the second panel alone.
    Returns:
        A figure as wide as a page of two columns, or one column.
    """
    dictionary = learnt.dictionary
    across = 2 if learnt.curve else 1
    whole = PAGE if across == 2 else COLUMN
    figure = Figure(figsize=(whole, _HEAD + _TALL + _BELOW))
    width = (whole - across * _LEFT - (across - 1) * _GAP - MARGIN) / across
    areas = [Area(_LEFT + i * (width + _LEFT + _GAP), _HEAD, width, _TALL) for i in range(across)]
    if learnt.curve:
        _draw_curve(add_axes(figure, areas[0]), learnt)
    often = add_axes(figure, areas[-1])
    on = learnt.frequency[learnt.frequency > 0]
    low = np.floor(np.log10(on.min())) if len(on) else -5.0
    often.hist(on, bins=np.logspace(low, 0, 40).tolist(), color=INK)
    often.set_xscale("log")
    often.set_xlabel("share of vectors in which a latent is on")
    often.set_ylabel("latents")
    left = "" if learnt.curve else f", {learnt.left:.1%} of the variance left"
    often.set_title(f"{learnt.dead:,} of {dictionary.latents:,} never on{left}")
    return figure


def _draw_curve(axes: Axes, learnt: Learnt) -> None:
    dictionary = learnt.dictionary
    axes.plot(*np.array(learnt.curve).T, color=INK, linewidth=1)
    axes.axhline(learnt.left, color=FAINT, linewidth=1, linestyle="--")
    axes.annotate(
        f"images kept out: {learnt.left:.1%}", (1, learnt.left), xycoords=("axes fraction", "data"),
        xytext=(-2, 3), textcoords="offset points", ha="right",
    )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("variance left")
    axes.set_title(f"{dictionary.layer}: {dictionary.latents:,} latents, {dictionary.active} on")

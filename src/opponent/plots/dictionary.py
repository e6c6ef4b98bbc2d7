"""How a dictionary was learnt: what it leaves, step by step, and how often latents are on."""

import numpy as np
from matplotlib.figure import Figure

from opponent.dictionaries.learnt import Learnt
from opponent.plots.layout import FAINT, INK, MARGIN, PAGE, Area, add_axes, styled

_TALL, _LEFT, _BELOW, _GAP = 1.8, 0.5, 0.42, 0.65


@styled
def plot_learnt(learnt: Learnt) -> Figure:
    """Two panels: the share of variance that is left, by step; latents by how often they are on.

    Args:
        learnt: what `learn_dictionary` gives.
    Returns:
        A figure as wide as a page of two columns.
    """
    dictionary = learnt.dictionary
    figure = Figure(figsize=(PAGE, _TALL + _BELOW + 0.3))
    width = (PAGE - 2 * _LEFT - _GAP - MARGIN) / 2
    steps, left = np.array(learnt.curve).T if learnt.curve else np.zeros((2, 0))
    curve = add_axes(figure, Area(_LEFT, 0.3, width, _TALL))
    curve.plot(steps, left, color=INK, linewidth=1, label="in training")
    curve.axhline(learnt.left, color=FAINT, linewidth=1, linestyle="--")
    curve.annotate(
        f"images kept out: {learnt.left:.1%}", (1, learnt.left), xycoords=("axes fraction", "data"),
        xytext=(-2, 3), textcoords="offset points", ha="right",
    )  # fmt: skip
    curve.set_ylim(0, 1)
    curve.set_xlabel("step")
    curve.set_ylabel("variance left")
    curve.set_title(f"{dictionary.layer}: {dictionary.latents:,} latents, {dictionary.active} on")
    often = add_axes(figure, Area(2 * _LEFT + width + _GAP - 0.15, 0.3, width, _TALL))
    on = learnt.frequency[learnt.frequency > 0]
    low = -5.0 if not len(on) else np.floor(np.log10(on.min()))
    often.hist(on, bins=np.logspace(low, 0, 40).tolist(), color=INK)
    often.set_xscale("log")
    often.set_xlabel("share of vectors in which a latent is on")
    often.set_ylabel("latents")
    often.set_title(f"{learnt.dead:,} of {dictionary.latents:,} never on")
    return figure

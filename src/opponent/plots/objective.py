"""Why dot * cosine: the paper's figure 11."""

import string
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opponent.core.colour import ACTIVATION
from opponent.plots.layout import (
    FAINT,
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
)

# Of the largest value: where contours lie, on both sides of zero.
_LEVELS = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])


@styled
def objective_figure(
    objectives: Mapping[str, Float[np.ndarray, "n n"]],
    extent: float,
    *,
    clamp: float | None = None,
) -> Figure:
    """What each objective rewards, over the plane of a hidden vector h; v points to the right.

    Args:
        objectives: by name, the values at h = (x, y), rows of y from -extent to extent.
        extent: half the side of the plane, in lengths of v.
        clamp: the cosine below which it is clamped in products ('dot × cosine'): a dotted line.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: no objective, or an extent that is not positive.
    Source: paper, figure 11 and appendix C.
    """
    if not objectives or extent <= 0:
        raise ValueError(
            f"objective_figure: {len(objectives)} objectives over an extent of {extent}; expected "
            "at least one and a positive extent"
        )
    count, left, gap = len(objectives), 0.42, 0.2
    side = (PAGE - left - MARGIN - (count - 1) * gap) / count
    top = MARGIN + 2.3 * LINE
    figure = Figure(figsize=(PAGE, top + side + 0.42 + LINE))
    for number, (name, values) in enumerate(objectives.items()):
        x = left + number * (side + gap)
        letter = string.ascii_uppercase[number]
        add_text(figure, x, MARGIN, letter, size=LETTER, weight="bold")
        add_text(figure, x + 0.16, MARGIN + 0.01, name, width=side - 0.16)
        add_text(
            figure,
            x,
            MARGIN + 1.15 * LINE,
            f"{values.min():+.3g} to {values.max():+.3g}".replace("-", "−"),
            width=side,
            size=SMALL,
            color=FAINT,
        )
        axes = add_axes(figure, Area(x, top, side, side))
        _plane(axes, values, extent)
        if clamp is not None and "×" in name:
            _clamp_lines(axes, extent, clamp)
        _vector(axes)
        axes.set(
            xlim=(-extent, extent),
            ylim=(-extent, extent),
            xlabel="h along v",
            ylabel="h across v" if number == 0 else "",
        )
        axes.tick_params(labelleft=number == 0)
        # Not at the ends, where neighbours' numbers would meet.
        axes.locator_params(nbins=4, prune="both")
    words = "Purple below 0, brown above; contours at equal shares of each panel's largest value."
    if clamp is not None:
        words += f" Dotted: cosine {clamp:g}; on its left the cosine is clamped."
    add_text(
        figure,
        MARGIN,
        top + side + 0.38,
        words,
        width=PAGE - 2 * MARGIN,
        size=SMALL,
        color=FAINT,
    )
    return figure


def _plane(axes: Axes, values: Float[np.ndarray, "n n"], extent: float) -> None:
    """The values as colours, and their contours."""
    largest = float(np.abs(values).max())
    axes.imshow(
        values,
        origin="lower",
        extent=(-extent, extent, -extent, extent),
        cmap=ACTIVATION,
        vmin=-largest,
        vmax=largest,
        interpolation="bilinear",
    )
    grid = np.linspace(-extent, extent, values.shape[0])
    levels = np.concatenate([-_LEVELS[::-1], [0.0], _LEVELS]) * (largest or 1.0)
    axes.contour(grid, grid, values, levels=levels, colors=INK, linewidths=0.5)


def _clamp_lines(axes: Axes, extent: float, clamp: float) -> None:
    """The hidden vectors whose cosine with v is the clamp."""
    slope = np.sqrt(1 - clamp**2) / clamp
    end = extent / max(slope, 1)
    for turn in (1, -1):
        axes.plot([0, end], [0, turn * slope * end], color=INK, lw=0.8, ls=(0, (1, 1.5)))


def _vector(axes: Axes) -> None:
    """The arrow of v."""
    axes.annotate("", (1, 0), (0, 0), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.1})
    axes.text(0.55, 0.08, "v", ha="center", va="bottom", style="italic")

"""What inversions do to the feature, step by step: the paper's figure 14."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from opponent.core.colour import BLUE, RED
from opponent.plots.layout import (
    COLUMN,
    FAINT,
    HAIR,
    INK,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    Area,
    add_axes,
    add_text,
    styled,
)

ACROSS = 3  # layers in a row


@dataclass(frozen=True, kw_only=True)
class TracePanel:
    """One feature or layer in `activation_trace_figure`.

    Args:
        label: its name.
        excitatory: activation in standard deviations, one row for each inversion of S+.
        inhibitory: the same for S-.
        own: the photographs' own activation.
        notes: a line or two under the label, such as through which layer.
    """

    label: str
    excitatory: Float[np.ndarray, "n steps"]
    inhibitory: Float[np.ndarray, "m steps"]
    own: Float[np.ndarray, " p"]
    notes: Sequence[str] = ()


@styled
def activation_trace_figure(
    steps: Num[np.ndarray, " steps"], panels: Sequence[TracePanel]
) -> Figure:
    """The activation that inversions give, while they are optimised: median and full range.

    Args:
        steps: number of each step that was recorded.
        panels: one feature or layer each, all drawn on one scale.
    Returns:
        A figure of one column for one panel, else of two.
    Raises:
        ValueError: no panel, no step, or rows of another length.
    Source: paper, figure 14; the photographs' own activation is ours.
    """
    if not panels:
        raise ValueError("activation_trace_figure: there is no panel to draw")
    for panel in panels:
        for name, values in (("excitatory", panel.excitatory), ("inhibitory", panel.inhibitory)):
            if len(steps) == 0 or values.shape[1:] != steps.shape:
                raise ValueError(
                    f"activation_trace_figure: {name} of {panel.label} is {values.shape} for "
                    f"{len(steps)} steps, expected one value a step and at least one step"
                )
    across = min(ACROSS, len(panels))
    width = COLUMN if across == 1 else PAGE
    left = 0.45
    room = (width - left - MARGIN) / across
    head = (1 + max(len(panel.notes) for panel in panels)) * LINE + 0.06
    tall = 1.6
    height = head + tall + 0.42
    rows = -(-len(panels) // across)
    figure = Figure(figsize=(width, MARGIN + LINE + rows * height))
    # One scale, so that layers can be compared.
    everything = [x.ravel() for p in panels for x in (p.excitatory, p.inhibitory, p.own)]
    low, high = _limits(np.concatenate(everything))
    for number, panel in enumerate(panels):
        row, column = divmod(number, across)
        x, y = left + column * room, MARGIN + LINE + row * height
        wide = room - 0.12
        add_text(figure, x, y, panel.label, width=wide, weight="bold")
        for line, words in enumerate(panel.notes, 1):
            add_text(figure, x, y + line * LINE, words, width=wide, size=SMALL, color=FAINT)
        axes = add_axes(figure, Area(x, y + head, wide, tall))
        _traces(axes, steps, panel)
        axes.set(xlabel="step", ylim=(low, high))
        axes.set_ylabel("activation (sd)" if column == 0 else "")
        axes.tick_params(labelleft=column == 0)
    figure.legend(
        handles=[
            Line2D([], [], color=RED, lw=1.2, label="inversions of S⁺"),
            Line2D([], [], color=BLUE, lw=1.2, label="inversions of S⁻"),
            Line2D([], [], color=INK, lw=0.9, ls=(0, (3, 2)), label="photographs"),
            Patch(color=FAINT, alpha=0.25, lw=0, label="full range"),
        ][: 3 if across == 1 else 4],
        loc="upper left",
        bbox_to_anchor=((left - 0.03) / width, 1 - 0.3 * MARGIN / figure.get_figheight()),
        ncols=4,
        frameon=False,
        fontsize=SMALL,
        handlelength=1.2,
        columnspacing=1.0,
        borderaxespad=0,
        borderpad=0,
    )
    return figure


def _traces(axes: Axes, steps: Num[np.ndarray, " steps"], panel: TracePanel) -> None:
    axes.axhline(0, color=HAIR, lw=0.6, zorder=0)
    axes.margins(x=0.02)
    for rows, colour in ((panel.excitatory, RED), (panel.inhibitory, BLUE)):
        if len(rows) == 0:
            continue
        axes.fill_between(steps, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.2, lw=0)
        # A line of one point would not be seen.
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, np.median(rows, axis=0), color=colour, lw=1.2, marker=marker, ms=3)
    if len(panel.own):
        axes.axhline(float(np.median(panel.own)), color=INK, lw=0.9, ls=(0, (3, 2)))
    axes.locator_params(steps=[1, 2, 5, 10])


def _limits(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    low, high = min(values.min(initial=0.0), 0.0), max(values.max(initial=0.0), 0.0)
    edge = 0.05 * (high - low) or 1.0
    return float(low - edge), float(high + edge)

"""The paper's figure 10 with choices and reaction times, and contact sheets of trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from opponent.core.colour import BLUE, RED
from opponent.explain.crops import Tile
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
    add_caption,
    add_heading,
    add_picture,
    add_text,
    cell_height,
    fit_text,
    styled,
    text_width,
)

_QUESTIONS = {"mei": ("MEI", RED), "mii": ("MII", BLUE)}
_ROLES = {
    "mei": ("the MEI", RED),
    "mii": ("the MII", BLUE),
    "distractor": ("a distractor", HAIR),
}


@dataclass(frozen=True, kw_only=True)
class ExperimentBar:
    """The answers to one question in one layer.

    Args:
        accuracy: share of right answers; None without answers.
        low, high: interval of the accuracy; None for no interval.
        features: accuracy of each feature.
        chosen: share of answers that were the MEI, the MII and a distractor.
        seconds: quartiles of the reaction time.
    """

    accuracy: float | None
    low: float | None = None
    high: float | None = None
    features: Sequence[float] = ()
    chosen: Mapping[str, float | None] = field(default_factory=dict)
    seconds: tuple[float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class ExperimentLayer:
    """A layer in `experiment_figure`.

    Args:
        name: the layer.
        label: what it is called below the bars.
        mei: the answers to the question for the MEI.
        mii: the answers to the question for the MII.
    """

    name: str
    label: str
    mei: ExperimentBar
    mii: ExperimentBar


@styled
def experiment_figure(
    layers: Sequence[ExperimentLayer],
    *,
    chance: Mapping[str, float],
    level: float,
    participants: int,
    simulated: str | None = None,
) -> Figure:
    """Accuracy by layer, choices, and reaction times.

    Args:
        layers: from the network's first to its last.
        chance: accuracy of a participant who guesses, for 'mei' and 'mii'.
        level: of the intervals.
        participants: how many were analysed.
        simulated: the skill of simulated participants; None for people.
    Returns:
        The figure, with one axes for each of the three.
    Raises:
        ValueError: no layer.
    Source: paper, figure 10.
    """
    if not layers:
        raise ValueError("experiment_figure: give at least one layer")
    height = 2.9
    figure = Figure(figsize=(PAGE, height))
    widths, gap, bottom, top = (2.35, 1.75, 1.5), 0.46, 0.72, 0.3
    left, axes = 0.45, []
    for letter, width in zip("abc", widths, strict=True):
        box = Area(left, top, width, height - top - bottom)
        add_text(figure, left - 0.36, 0.06, letter, size=LETTER, weight="bold")
        axes.append(add_axes(figure, box))
        left += width + gap
    _accuracies(axes[0], layers, chance)
    _choices(axes[1], layers)
    _times(axes[2], layers)
    apart = _name_layers(axes, widths, layers)
    _legends(axes)
    count = sorted({len(x.mei.features) for x in layers})
    people = "participants" if simulated is None else f"simulated participants ({simulated})"
    about = f"{participants} {people}, {' to '.join(map(str, count))} features a layer. "
    about += f"Bars: {level:.0%} intervals over both; dots: features. "
    about += "c: quartiles, made up." if simulated else "c: medians and quartiles."
    if apart:
        names = "; ".join(f"{x.label}: {x.name}" for x in layers)
        place = height - 0.2 - LINE
        add_text(figure, 0.09, place, names, width=PAGE - 0.2, size=SMALL, color=FAINT)
    add_text(figure, 0.09, height - 0.2, about, width=PAGE - 0.2, size=SMALL, color=FAINT)
    return figure


def _name_layers(
    axes: Sequence[Axes], widths: Sequence[float], layers: Sequence[ExperimentLayer]
) -> bool:
    """Write the layers' labels below the bars, and their names unless one does not fit.

    Returns:
        Whether the names are left for a line of their own.
    """
    room = [width / len(layers) - 0.05 for width in widths]
    apart = any(text_width(x.name, SMALL) > min(room) for x in layers)
    for panel, space in zip(axes, room, strict=True):
        lines = [[x.label] if apart else [x.label, x.name] for x in layers]
        fitted = [[fit_text(text, space, SMALL, "normal") for text in texts] for texts in lines]
        panel.set_xticks(range(len(layers)), ["\n".join(x) for x in fitted])
        panel.set_xlim(-0.6, len(layers) - 0.4)
        panel.tick_params(axis="x", length=0, labelsize=SMALL if len(layers) < 5 else 5)
    return apart


def _legends(axes: Sequence[Axes]) -> None:
    """The legends over the first and the second panel."""
    options: dict[str, Any] = {
        "frameon": False,
        "fontsize": 6,
        "handletextpad": 0.5,
        "columnspacing": 0.9,
        "loc": "lower center",
        "borderpad": 0,
        "borderaxespad": 0,
        "ncols": 3,
        "bbox_to_anchor": (0.5, 1.02),
    }
    handles: list[Any] = [Patch(color=colour, label=name) for name, colour in _QUESTIONS.values()]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=(0, (3, 2)), label="chance"))
    axes[0].legend(handles=handles, handlelength=1.4, **options)
    handles = [Patch(color=colour, label=name) for name, colour in _ROLES.values()]
    axes[1].legend(handles=handles, handlelength=1.0, **options)


def _bars(layers: Sequence[ExperimentLayer]) -> list[tuple[str, float, list[ExperimentBar]]]:
    """Each question, the distance of its bars from the tick, and the bars."""
    return [("mei", -0.2, [x.mei for x in layers]), ("mii", 0.2, [x.mii for x in layers])]


def _accuracies(axes: Axes, layers: Sequence[ExperimentLayer], chance: Mapping[str, float]) -> None:
    for question, shift, bars in _bars(layers):
        colour = _QUESTIONS[question][1]
        for i, bar in enumerate(bars):
            if bar.accuracy is None:
                continue
            axes.bar(i + shift, bar.accuracy, 0.36, color=colour, alpha=0.75, lw=0)
            # Beside each other in their order, not at random: the same figure each time.
            spread = np.linspace(-0.13, 0.13, len(bar.features)) if len(bar.features) > 1 else [0.0]
            axes.plot(i + shift + np.asarray(spread), list(bar.features), "o", ms=1.6,
                      mfc="white", mec=INK, mew=0.4, zorder=3)  # fmt: skip
            if bar.low is not None and bar.high is not None:
                axes.plot([i + shift] * 2, [bar.low, bar.high], color=INK, lw=1.2, zorder=4)
            axes.plot([i + shift - 0.19, i + shift + 0.19], [chance[question]] * 2, color=INK,
                      lw=0.8, ls=(0, (3, 2)), zorder=5)  # fmt: skip
    axes.set(ylabel="share of right answers", ylim=(0, 1.03), yticks=np.linspace(0, 1, 6))


def _choices(axes: Axes, layers: Sequence[ExperimentLayer]) -> None:
    for question, shift, bars in _bars(layers):
        for i, bar in enumerate(bars):
            base = 0.0
            for role, (_, colour) in _ROLES.items():
                share = bar.chosen.get(role) or 0.0
                axes.bar(i + shift, share, 0.36, bottom=base, color=colour, alpha=0.75, lw=0)
                base += share
            axes.text(i + shift, -0.015, _QUESTIONS[question][0] + "?", ha="center", va="top",
                      size=5)  # fmt: skip
    axes.set(ylabel="share of answers", ylim=(0, 1.03), yticks=np.linspace(0, 1, 6))
    axes.tick_params(axis="x", pad=8)


def _times(axes: Axes, layers: Sequence[ExperimentLayer]) -> None:
    top = 0.0
    for question, shift, bars in _bars(layers):
        for i, bar in enumerate(bars):
            if bar.seconds is None:
                continue
            low, middle, high = bar.seconds
            colour = _QUESTIONS[question][1]
            axes.plot([i + shift] * 2, [low, high], color=colour, lw=1.2)
            axes.plot([i + shift], [middle], "o", ms=3.5, color=colour)
            top = max(top, high)
    axes.set(ylabel="reaction time (s)", ylim=(0, 1.08 * top or 1.0))


# ------------------------------------------------------------------------------------- the sheet


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A trial on a contact sheet: its pictures, captioned with their activations.

    Args:
        label: the trial.
        about: more of it, in lines.
        examples: the feature's most exciting images that were shown.
        mei: the image that excites it most.
        mii: the image that inhibits it most.
        distractors: the other choices.
    """

    label: str
    about: str
    examples: Sequence[Tile]
    mei: Tile
    mii: Tile
    distractors: Sequence[Tile]


@styled
def sheet_figure(title: str, rows: Sequence[SheetRow]) -> Figure:
    """A contact sheet: one row a trial, with the right answers.

    Args:
        title: of the sheet.
        rows: the trials of one layer.
    Returns:
        The figure, with one axes a picture.
    Raises:
        ValueError: no row.
    Source: paper, appendix B.
    """
    if not rows:
        raise ValueError("sheet_figure: give at least one trial")
    counts = [len(rows[0].examples), 1, 1, len(rows[0].distractors)]
    heads = [("examples", RED), ("MEI", RED), ("MII", BLUE), ("distractors", INK)]
    gap, between, name = 0.03, 0.12, 0.95
    space = PAGE - 2 * MARGIN - name - between * len(counts)
    side = (space - gap * (sum(counts) - len(counts))) / sum(counts)
    tiles = [x for row in rows for x in (row.mei, row.mii, *row.examples, *row.distractors)]
    cell = cell_height(tiles, side)
    line = max(cell + 0.16, 0.12 * (2 + max(row.about.count("\n") for row in rows)))
    head = 0.62
    figure = Figure(figsize=(PAGE, head + len(rows) * (line + 0.05) + MARGIN))
    add_text(figure, MARGIN, 0.08, title, width=PAGE - 2 * MARGIN, size=LETTER, weight="bold")
    lefts, left = [], MARGIN + name + between
    for count, (text, colour) in zip(counts, heads, strict=True):
        width = count * side + (count - 1) * gap
        add_heading(figure, left, head - LINE - 0.12, width, text, colour)
        lefts.append(left)
        left += width + between
    for number, row in enumerate(rows):
        top = head + number * (line + 0.05)
        add_text(figure, MARGIN, top, row.label, width=name, size=SMALL, weight="bold")
        for i, text in enumerate(row.about.split("\n")):
            place = top + 0.12 * (i + 1)
            add_text(figure, MARGIN, place, text, width=name, size=5.5, color=FAINT)
        groups = (row.examples, (row.mei,), (row.mii,), row.distractors)
        for start, group in zip(lefts, groups, strict=True):
            for i, tile in enumerate(group):
                box = Area(start + i * (side + gap), top, side, cell)
                add_picture(figure, box, tile.image)
                add_caption(figure, box, tile.caption)
    return figure

"""Toy models whose features are known: tension in units, in true features and in learnt latents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
    format_number,
    styled,
)

# Hues that are none of the colour square's, and differ in lightness too.
_COLOURS = (INK, "#b5651d", "#6a51a3", "#b39ddb", "#a8a8a8")
_DASH = (0, (2.5, 1.5))
_SIDE, _BARS, _TALL, _ROC = 1.55, 0.34, 1.25, 1.4


@dataclass(frozen=True, kw_only=True)
class TermMatrix:
    """S of every output of one model and input, over whatever it is counted by.

    Args:
        name: what it is counted by.
        terms: one row an output, one column a unit or latent.
    """

    name: str
    terms: Float[np.ndarray, "f l"]


@dataclass(frozen=True, kw_only=True)
class TensionPanel:
    """Mean tension by width, of one task.

    Args:
        name: the task.
        hidden: the widths.
        functional: by what tension is counted by, that of the cases held back by their own
            features; empty where there are none.
        interference: that of the cases that other inputs drive.
    """

    name: str
    hidden: Sequence[int]
    functional: Mapping[str, Float[np.ndarray, " w"]]
    interference: Mapping[str, Float[np.ndarray, " w"]]


@dataclass(frozen=True, kw_only=True)
class RocPanel:
    """Curves of one width, with the area under each.

    Args:
        name: the width.
        grid: shares of false positives.
        curves: by predictor, the share of functional cases found at each.
        areas: by predictor; NaN where there are none, as curves are.
    """

    name: str
    grid: Float[np.ndarray, " g"]
    curves: Mapping[str, Float[np.ndarray, " g"]]
    areas: Mapping[str, float]


@styled
def toy_interference_figure(
    example: Sequence[TermMatrix],
    panels: Sequence[TensionPanel],
    curves: Sequence[RocPanel],
    *,
    about: str,
    functional: int = 0,
) -> Figure:
    """S of an example counted in three ways, mean tension by width, and ROC curves by width.

    Args:
        example: the same S, counted by units and by dictionaries; at most 3.
        panels: one for each task; at most 3.
        curves: one for each width; at most 4.
        about: what the example is.
        functional: the row of the example that is held back by its own features.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: none, or more than fit on a page.
    """
    for name, given, most in (
        ("matrices", example, 3),
        ("tasks", panels, 3),
        ("widths", curves, 4),
    ):
        if not 1 <= len(given) <= most:
            raise ValueError(
                f"toy_interference_figure: {len(given)} {name}, expected 1 to {most}; draw fewer"
            )
    first = MARGIN + 2.6 * LINE
    second = first + _SIDE + 0.85
    third = second + _TALL + 0.95
    figure = Figure(figsize=(PAGE, third + _ROC + 0.65))
    add_text(figure, MARGIN, MARGIN, "A", size=LETTER, weight="bold")
    add_text(figure, 0.3, MARGIN, about, width=PAGE - 0.4, size=SMALL, color=FAINT)
    _examples(figure, example, first, functional)
    names = list(panels[0].interference)
    _tensions(figure, panels, names, second)
    _rocs(figure, curves, third)
    return figure


def _examples(figure: Figure, example: Sequence[TermMatrix], top: float, functional: int) -> None:
    scale = max(float(np.abs(x.terms).max()) for x in example) or 1.0
    ends = max(float(_tension(x.terms).max()) for x in example) or 1.0
    step = (PAGE - 0.35) / 3
    for number, matrix in enumerate(example):
        left, (rows, columns) = 0.4 + number * step, matrix.terms.shape
        add_text(figure, left + _SIDE / 2, top - 1.1 * LINE, matrix.name, width=step, ha="center")
        axes = add_axes(figure, Area(left, top, _SIDE, _SIDE))
        positive, negative = np.maximum(matrix.terms, 0), np.maximum(-matrix.terms, 0)
        colours = on_white(tension_colours(positive / scale, negative / scale))
        axes.imshow(colours, aspect="auto", interpolation="none")
        axes.set_xticks([0, columns - 1], ["1", str(columns)])
        labels = [f"f{i + 1}" for i in range(rows)] if number == 0 else [""] * rows
        axes.set_yticks(range(rows), labels, fontsize=5.5)
        axes.tick_params(length=0, pad=2)
        for place in np.arange(rows - 1) + 0.5:
            axes.axhline(place, color=HAIR, lw=0.3)
        for spine in axes.spines.values():
            spine.set(visible=True, linewidth=0.6, color=INK)
        bars = add_axes(figure, Area(left + _SIDE + 0.05, top, _BARS, _SIDE))
        shades = [_COLOURS[1] if i == functional else _COLOURS[4] for i in range(rows)]
        bars.barh(range(rows), _tension(matrix.terms), color=shades, height=0.75)
        bars.set(ylim=(rows - 0.5, -0.5), xlim=(0, 1.02 * ends), yticks=[])
        bars.set_xticks([0, ends], ["0", format_number(ends)])
        bars.spines["left"].set_color(HAIR)
    words = (
        f"S: red excites, blue inhibits, full colour at ±{format_number(scale)}. Bars: tension, "
        f"min(E⁺, E⁻); brown: f{functional + 1}, which its own features excite and inhibit."
    )
    add_text(figure, 0.4, top + _SIDE + 0.27, words, size=SMALL, color=FAINT, width=PAGE - 0.5)


def _tension(terms: Float[np.ndarray, "f l"]) -> Float[np.ndarray, " f"]:
    return np.asarray(np.minimum(np.maximum(terms, 0).sum(1), np.maximum(-terms, 0).sum(1)))


def _tensions(
    figure: Figure, panels: Sequence[TensionPanel], names: Sequence[str], top: float
) -> None:
    add_text(figure, MARGIN, top - 0.3, "B", size=LETTER, weight="bold")
    step = (PAGE - 1.75) / 3
    for number, panel in enumerate(panels):
        box = Area(0.5 + number * step, top, step - 0.35, _TALL)
        axes = add_axes(figure, box)
        places = np.arange(len(panel.hidden))
        for lines, style in ((panel.functional, "-"), (panel.interference, _DASH)):
            for name, values in lines.items():
                colour = _COLOURS[names.index(name)]
                axes.plot(places, values, ls=style, color=colour, lw=1.1, marker="o", ms=2)
        axes.set_xticks(places, [str(x) for x in panel.hidden])
        axes.set(xlabel="hidden units", xlim=(-0.2, len(places) - 0.8))
        axes.set_ylim(bottom=0)
        if number == 0:
            axes.set_ylabel("mean tension")
        add_text(
            figure, box.left + box.width / 2, top - 1.1 * LINE, panel.name, width=step, ha="center"
        )
    handles = [Line2D([], [], color=c, lw=2) for c, _ in zip(_COLOURS, names, strict=False)]
    handles += [Line2D([], [], color=FAINT, lw=1.1, ls=style) for style in ("-", _DASH)]
    labels = [*names, "functional", "interference"]
    _legend(figure, handles, labels, Area(PAGE - 1.3, top, 1.25, _TALL))


def _rocs(figure: Figure, panels: Sequence[RocPanel], top: float) -> None:
    add_text(figure, MARGIN, top - 0.3, "C", size=LETTER, weight="bold")
    names, step = list(panels[0].curves), (PAGE - 1.75) / 4
    side = step - 0.12
    for number, panel in enumerate(panels):
        axes = add_axes(figure, Area(0.5 + number * step, top, side, _ROC))
        axes.plot([0, 1], [0, 1], color=HAIR, lw=0.6)
        for place, name in enumerate(names):
            area = "–" if np.isnan(panel.areas[name]) else f"{panel.areas[name]:.2f}"
            axes.plot(panel.grid, panel.curves[name], color=_COLOURS[place], lw=_line(place))
            axes.text(
                0.97, 0.05 + 0.095 * (len(names) - 1 - place), area,
                color=_COLOURS[place], ha="right", size=6.5, weight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )  # fmt: skip
        _square_axes(axes, first=number == 0)
        add_text(
            figure, 0.5 + number * step + side / 2, top - 1.1 * LINE, panel.name, width=step,
            ha="center",
        )  # fmt: skip
    handles = [
        Line2D([], [], color=_COLOURS[place], lw=_line(place)) for place in range(len(names))
    ]
    _legend(figure, handles, names, Area(PAGE - 1.3, top, 1.25, _ROC))
    words = (
        "Each case is scored by its tension in units, or by the share of it that remains in what "
        "the key names. Numbers: area under the curve."
    )
    add_text(figure, 0.4, top + _ROC + 0.42, words, size=SMALL, color=FAINT, width=PAGE - 0.5)


def _line(place: int) -> float:
    return 1.4 if place < 2 else 1.1


def _square_axes(axes: Axes, *, first: bool) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel="interference taken")
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"] if first else ["", "", ""])
    if first:
        axes.set_ylabel("functional found")


def _legend(figure: Figure, handles: list[Line2D], labels: Sequence[str], area: Area) -> None:
    across, down = figure.get_size_inches()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(area.left / across, 1 - area.top / down),
        bbox_transform=figure.transFigure,
        frameon=False,
        fontsize=SMALL,
        handlelength=1.6,
        borderaxespad=0,
        labelspacing=0.55,
    )

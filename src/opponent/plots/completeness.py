"""Does S sum to the activation, layer by layer: the paper's figures 3 and 13."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opponent.plots.layout import (
    COLUMN,
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
    fit_text,
    styled,
)
from opponent.storage.columns import FEWEST

# Okabe and Ito's colours: apart for the colour blind too, and none of them the square's.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One network's measure, layer by layer.

    Args:
        label: the network.
        depth: each layer's relative depth, 0 for the pixels.
        mean: over features; NaN where it is not defined.
        spread: the standard deviation over features.
        bottleneck: whether the layer is a bottleneck; only those are joined.
        layers: their names.
        about: how many features and images, in words.
    """

    label: str
    depth: Float[np.ndarray, " l"]
    mean: Float[np.ndarray, " l"]
    spread: Float[np.ndarray, " l"]
    bottleneck: Bool[np.ndarray, " l"]
    layers: tuple[str, ...] = ()
    about: str = ""


@styled
def completeness_figure(panels: Sequence[tuple[str, Sequence[Curve]]]) -> Figure:
    """A measure of completeness against relative depth: one panel a measure, one line a network.

    Args:
        panels: what the measure is, such as "Pearson's r", and its curves; a measure whose name
            begins with 'mean' is a distance, all others are correlations.
    Returns:
        A figure of one column for one panel, else of two.
    Source: paper, figures 3 and 13.
    """
    count = len(panels)
    across = COLUMN if count == 1 else PAGE
    labels = list(dict.fromkeys(curve.label for _, curves in panels for curve in curves))
    looks = {
        label: (_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)])
        for i, label in enumerate(labels)
    }
    gap, height, top = 0.62, 2.0 if count == 1 else 1.7, MARGIN + 2.2 * LINE
    width = (across - gap * count - MARGIN) / count
    # The layers of one network have names; of several, only depths can be compared.
    named = panels[0][1][0] if len(labels) == 1 and panels[0][1] else None
    below = top + height + (0.95 if named is not None and named.layers else 0.42)
    rows = 0 if named is not None and named.about else -(-len(labels) // _across(count))
    figure = Figure(figsize=(across, below + rows * LINE + MARGIN))
    if named is not None and named.about:
        words = f"{named.label}: {named.about}"
        add_text(figure, gap, MARGIN + LINE, words, width=across - gap, size=SMALL, color=FAINT)
    for k, (name, curves) in enumerate(panels):
        left = gap + k * (width + gap)
        if count > 1:
            letter = "ABCDEFG"[k]
            add_text(figure, left - 0.5, MARGIN, letter, size=LETTER, weight="bold")
        add_text(figure, left, MARGIN, name, width=width, weight="bold")
        axes = add_axes(figure, Area(left, top, width, height))
        _panel(axes, name, curves, looks)
        if named is not None and named.layers:
            _name_layers(axes, named, width)
    for i, label in enumerate(labels if rows else []):
        row, column = divmod(i, _across(count))
        left, y = gap + column * (across - gap) / _across(count), below + row * LINE
        about = next(x.about for _, curves in panels for x in curves if x.label == label)
        words = f"{label}: {about}" if about else label
        _key(figure, left, y, words, *looks[label])
    return figure


def _across(panels: int) -> int:
    """Networks in a line of the key."""
    return 1 if panels == 1 else 2


def _panel(
    axes: Axes, name: str, curves: Sequence[Curve], looks: dict[str, tuple[str, str]]
) -> None:
    distance = name.startswith("mean")
    low = 0.0
    if not any(np.isfinite(curve.mean).any() for curve in curves):
        undefined = f"undefined: constant, or\nfewer than {FEWEST} images"
        axes.annotate(
            undefined, (0.5, 0.5), xycoords="axes fraction", size=SMALL, ha="center", va="center"
        )
    for curve in curves:
        colour, marker = looks[curve.label]
        joined = curve.bottleneck & np.isfinite(curve.mean)
        depth, mean, spread = (x[joined] for x in (curve.depth, curve.mean, curve.spread))
        axes.fill_between(depth, mean - spread, mean + spread, color=colour, alpha=0.22, lw=0)
        for edge in (mean - spread, mean + spread):
            axes.plot(depth, edge, color=colour, alpha=0.45, lw=0.5)
        axes.plot(depth, mean, color=colour, marker=marker, ms=2.8, lw=1.1, mew=0)
        branch = ~curve.bottleneck & np.isfinite(curve.mean)
        axes.plot(
            curve.depth[branch], curve.mean[branch], marker, ms=2.8, mfc="none", mec=colour, mew=0.5
        )
        values = np.concatenate([mean - spread, curve.mean[branch]])
        low = min(low, float(values.min(initial=0.0)))
    axes.axhline(0 if distance else 1, color=HAIR, lw=0.7, zorder=0)
    axes.set_xlim(-0.04, 1.04)
    if not distance:
        axes.set_ylim(low - 0.04, 1.04)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("relative depth of the layer")
    axes.tick_params(labelsize=SMALL)


def _name_layers(axes: Axes, curve: Curve, width: float) -> None:
    """The names of the bottlenecks, in the place of depths, as far as there is room."""
    places, names = list[float](), list[str]()
    for depth, name, is_joined in zip(curve.depth, curve.layers, curve.bottleneck, strict=True):
        if is_joined and (not places or (depth - places[-1]) * width >= LINE * 0.85):
            places.append(float(depth))
            names.append(fit_text(name, 0.8, SMALL, "normal"))
    axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("S through this layer")


def _key(figure: Figure, left: float, y: float, label: str, colour: str, marker: str) -> None:
    across, down = figure.get_size_inches()
    middle = 1 - (y + 0.06) / down
    line = Line2D(
        [left / across, (left + 0.12) / across, (left + 0.24) / across],
        [middle] * 3,
        color=colour,
        marker=marker,
        markevery=[1],
        ms=3,
        lw=1.1,
        mew=0,
    )
    figure.add_artist(line)
    width = across - left - 0.3 if across == COLUMN else (across - 0.62) / 2 - 0.35
    add_text(figure, left + 0.3, y, label, width=width, size=SMALL, color=INK)


# Modules that get a bar of their own; all others share the last.
_BARS = 14


@styled
def missing_figure(title: str, rows: Sequence[tuple[str, float, float]], about: str) -> Figure:
    """What f - E is made of: a bar for each module that adds much, in the order of the pass.

    Args:
        title: the network and the features.
        rows: modules with the size of the constant part and the standard deviation of the varying
            part, in standard deviations of the activation.
        about: how it was measured.
    Returns:
        A figure of one column.
    """
    most = sorted(rows, key=lambda row: -max(row[1:]))[:_BARS]
    shown = [row for row in rows if row in most]
    if others := [row for row in rows if row not in most]:
        constant, varying = max(row[1] for row in others), max(row[2] for row in others)
        shown.append((f"{len(others)} others, each at most", constant, varying))
    left, top, step = 1.75, MARGIN + 3.4 * LINE, 0.17
    height = step * max(1, len(shown))
    figure = Figure(figsize=(COLUMN, top + height + 0.42))
    add_text(figure, MARGIN, MARGIN, title, width=COLUMN - 2 * MARGIN, weight="bold")
    add_text(figure, MARGIN, MARGIN + LINE, about, width=COLUMN - 2 * MARGIN, size=SMALL)
    axes = add_axes(figure, Area(left, top, COLUMN - left - MARGIN - 0.05, height))
    places = np.arange(len(shown))
    for k, shift, colour in ((2, -0.2, _COLOURS[1]), (1, 0.2, _COLOURS[5])):
        axes.barh(places + shift, [row[k] for row in shown], 0.38, color=colour, lw=0)
    axes.set_yticks(places, [row[0].removesuffix("_pre_relu_conv") for row in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.tick_params(labelsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("share of f − E, in sd of f")
    for k, (label, colour) in enumerate(
        (("differs between images", _COLOURS[1]), ("the same in all", _COLOURS[5]))
    ):
        x, y = MARGIN + k * 1.6, MARGIN + 2.3 * LINE
        add_text(figure, x, y, f"■ {label}", size=SMALL, color=colour)
    return figure

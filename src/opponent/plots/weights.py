"""How many weights are negative: the paper's figure 12."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

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

ACROSS = 3  # networks in a row
_KEY = (
    "Dots: layers, by how many weights; blue: mostly negative.",
    "Line: all weights; band: 95 % interval, from resampled layers.",
)


@dataclass(frozen=True, kw_only=True)
class WeightPanel:
    """One network in `weights_figure`.

    Args:
        label: its name.
        histogram: how many weights lie between neighbouring edges; first and last, beyond them.
        share: of negative ones among those that are not zero.
        interval: of the share, at 95 %.
        layer_shares, layer_sizes: the same share and the number of weights, by layer.
        untrained: whether the weights seem to be random.
        layers: the layers' names; the one farthest from the others is labelled.
    """

    label: str
    histogram: Int[np.ndarray, " b"]
    share: float
    interval: tuple[float, float] | None
    layer_shares: Float[np.ndarray, " l"]
    layer_sizes: Int[np.ndarray, " l"]
    untrained: bool = False
    layers: tuple[str, ...] = ()


@styled
def weights_figure(panels: Sequence[WeightPanel], edges: Float[np.ndarray, " e"]) -> Figure:
    """For each network a histogram of its weights, and under it each layer's share of negatives.

    Args:
        panels: of one network each.
        edges: of the histograms' bins, in standard deviations of the layer; 0 is one of them.
    Returns:
        A figure of one column for one network, else of two.
    Raises:
        ValueError: no network, or a histogram that does not fit the edges.
    Source: paper, figure 12; the shares by layer are ours.
    """
    if not panels:
        raise ValueError("weights_figure: there is no network to draw")
    for panel in panels:
        if len(panel.histogram) != len(edges) + 1:
            raise ValueError(
                f"weights_figure: {panel.label} has {len(panel.histogram)} counts for {len(edges)} "
                f"edges, expected {len(edges) + 1}"
            )
    across = min(ACROSS, len(panels))
    width = COLUMN if across == 1 else PAGE
    room = (width - MARGIN) / across
    head, upper, lower, between = 3.5 * LINE, 1.1, 0.95, 0.48
    height = head + upper + lower + 2 * between
    rows = -(-len(panels) // across)
    figure = Figure(figsize=(width, 2 * MARGIN + rows * height + len(_KEY) * LINE))
    reach = max((np.abs(p.layer_shares - 0.5).max(initial=0.0) for p in panels), default=0.0)
    reach = max(1.1 * float(reach), 0.02)
    tallest = max(float(_density(p, edges).max()) for p in panels)
    for number, panel in enumerate(panels):
        row, column = divmod(number, across)
        left, top = MARGIN + 0.45 + column * room, MARGIN + row * height
        wide = room - 0.45 - MARGIN - 0.06
        add_text(figure, left, top, panel.label, width=wide, weight="bold")
        for line, words in enumerate(_words(panel), 1):
            add_text(figure, left, top + line * LINE, words, width=wide, size=SMALL, color=FAINT)
        axes = add_axes(figure, Area(left, top + head, wide, upper))
        _histogram(axes, panel, edges, tallest)
        axes.set_ylabel("density" if column == 0 else "")
        axes = add_axes(figure, Area(left, top + head + upper + between, wide, lower))
        _layers(axes, panel, reach)
        axes.set_ylabel("negative weights" if column == 0 else "")
    for line, words in enumerate(_KEY):
        top = MARGIN + rows * height + line * LINE
        add_text(figure, MARGIN, top, words, width=width - 2 * MARGIN, size=SMALL, color=FAINT)
    return figure


def _words(panel: WeightPanel) -> list[str]:
    if np.isnan(panel.share):
        return ["no weight but zeros"]
    ends = "" if panel.interval is None else " ({:.1%} to {:.1%})".format(*panel.interval)
    return [
        f"{panel.share:.1%} negative{ends}",
        "signs look random: untrained?"
        if panel.untrained
        else f"{int(panel.layer_sizes.sum()):,} weights, {len(panel.layer_sizes)} layers",
    ]


def _density(panel: WeightPanel, edges: Float[np.ndarray, " e"]) -> Float[np.ndarray, " b"]:
    """Of all weights: those beyond the edges count, though they are not drawn."""
    density: Float[np.ndarray, " b"] = panel.histogram[1:-1] / max(panel.histogram.sum(), 1)
    return density / np.diff(edges)


def _histogram(
    axes: Axes, panel: WeightPanel, edges: Float[np.ndarray, " e"], tallest: float
) -> None:
    density = _density(panel, edges)
    for colour, side in ((BLUE, edges[1:] <= 0), (RED, edges[:-1] >= 0)):
        ends = np.append(edges[:-1][side], edges[1:][side][-1:])
        if len(ends) > 1:
            axes.stairs(density[side], ends, fill=True, color=colour, alpha=0.75, lw=0)
    axes.axvline(0, color=INK, lw=0.6)
    axes.set(
        xlim=(edges[0], edges[-1]),
        ylim=(0, 1.05 * tallest or 1),
        xlabel="weight (sd of its layer)",
    )
    axes.locator_params(axis="y", nbins=4)


def _layers(axes: Axes, panel: WeightPanel, reach: float) -> None:
    count = len(panel.layer_shares)
    if not np.isnan(panel.share):
        if panel.interval is not None:
            axes.axhspan(*panel.interval, color=HAIR, alpha=0.6, lw=0)
        axes.axhline(panel.share, color=INK, lw=0.8)
    axes.axhline(0.5, color=FAINT, lw=0.6, ls=(0, (3, 2)), zorder=0)
    colours = np.where(panel.layer_shares > 0.5, BLUE, RED)
    # Areas go with numbers of weights, on the scale of the network's largest layer.
    areas = 2 + 28 * panel.layer_sizes / max(panel.layer_sizes.max(initial=1), 1)
    axes.scatter(np.arange(1, count + 1), panel.layer_shares, s=areas, c=colours, lw=0, alpha=0.85)
    axes.set(xlim=(0, count + 1), ylim=(0.5 - reach, 0.5 + reach), xlabel="layer")
    if panel.layers and count > 1:
        _name_outlier(axes, panel)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.locator_params(axis="y", nbins=5)


def _name_outlier(axes: Axes, panel: WeightPanel) -> None:
    """The name of the layer whose share lies farthest from the median."""
    far = np.abs(panel.layer_shares - np.nanmedian(panel.layer_shares))
    worst, count = int(np.nanargmax(far)), len(far)
    on_left = worst < count / 2
    axes.annotate(
        panel.layers[worst].removesuffix("_pre_relu_conv"),
        (worst + 1, panel.layer_shares[worst]),
        (4 if on_left else -4, 0),
        textcoords="offset points",
        ha="left" if on_left else "right",
        va="center",
        size=SMALL,
        color=INK,
        parse_math=False,
    )

"""The paper's figure 6: the selected images, their map, the atlas."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from opponent.core.colour import ACTIVATION, activation_colours, on_white, tension_colours
from opponent.plots.page import (
    _FAINT,
    _HAIR,
    _INK,
    _LETTER,
    _LINE,
    _MARGIN,
    _SMALL,
    COLUMN,
    PAGE,
    _axes,
    _Box,
    _square,
    _styled,
    _text,
)

# Contours of the density hold these shares of the selected images.
_SHARES = (0.9, 0.7, 0.5, 0.3, 0.1)
_BINS = 60
TALL = 8.5  # inches: a page's height without its caption


@_styled
def selection_figure(
    excitation: Float[np.ndarray, " n"],
    inhibition: Float[np.ndarray, " n"],
    selected: Bool[np.ndarray, " n"],
    *,
    label: str,
    letter: str = "A",
) -> Figure:
    """Which images an atlas is made of: excitation against inhibition, with their density.

    Args:
        excitation, inhibition: of all images, >= 0.
        selected: which of them the atlas holds.
        label: the feature.
        letter: the panel's letter, or nothing.
    Returns:
        A figure of one column.
    Source: paper, figure 6a.
    """
    side, left, top = 2.5, 0.6, _MARGIN + 2.6 * _LINE
    figure = Figure(figsize=(COLUMN, top + side + 0.5))
    _text(figure, _MARGIN, _MARGIN, letter, size=_LETTER, weight="bold")
    room = COLUMN - left - _MARGIN
    _text(figure, left, _MARGIN, label, width=room, weight="bold")
    what = f"{selected.sum():,} of {len(selected):,} images, largest L2 norm of S"
    _text(figure, left, _MARGIN + _LINE, what, width=room, size=_SMALL, color=_FAINT)
    axes = _axes(figure, _Box(left, top, side, side))
    end = 1.04 * float(max(excitation.max(), inhibition.max())) or 1.0
    axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end))
    axes.set(xlabel="excitation E⁺", ylabel="inhibition E⁻")
    axes.locator_params(nbins=5)
    for which, colour in ((~selected, _HAIR), (selected, _INK)):
        axes.scatter(
            excitation[which],
            inhibition[which],
            s=float(np.clip(6000 / len(selected), 0.6, 8)),
            color=colour,
            alpha=0.6,
            linewidths=0,
            rasterized=len(selected) > 5000,
        )
    axes.plot([0, end], [0, end], color=_HAIR, lw=0.6, zorder=0)
    _density(axes, excitation[selected], inhibition[selected], end)
    return figure


def _density(
    axes: Axes, across: Float[np.ndarray, " n"], up: Float[np.ndarray, " n"], end: float
) -> None:
    """Contours that hold given shares of the points."""
    from scipy.ndimage import gaussian_filter

    counts, edges, _ = np.histogram2d(across, up, bins=_BINS, range=[[0, end], [0, end]])
    smooth = gaussian_filter(counts, 2.0)
    falling = np.sort(smooth.ravel())[::-1]
    held = np.cumsum(falling) / (falling.sum() or 1)
    if not falling[0]:
        return
    levels = sorted({float(falling[np.searchsorted(held, share)]) for share in _SHARES})
    levels = [level for level in levels if 0 < level < falling[0]]
    if levels:
        middles = (edges[:-1] + edges[1:]) / 2
        axes.contour(
            middles, middles, smooth.T, levels=levels, colors="#d08a1d", linewidths=0.9, zorder=3
        )


@_styled
def map_figure(
    places: Float[np.ndarray, "n 2"],
    activation: Float[np.ndarray, " n"],
    *,
    deviation: float,
    grid: int,
    label: str,
    letter: str = "B",
) -> Figure:
    """The selected images on their map, coloured by the activation, under the grid.

    Args:
        places: x and y of each image in the unit square, y upward.
        activation: of each image.
        deviation: standard deviation of the activation over all images; colours end at 4 of them.
        grid: cells a side.
        label: the feature.
        letter: the panel's letter, or nothing.
    Returns:
        A figure of one column.
    Source: paper, figure 6b.
    """
    side, left, top = 2.5, 0.3, _MARGIN + 2.6 * _LINE
    figure = Figure(figsize=(COLUMN, top + side + 0.2))
    _text(figure, _MARGIN, _MARGIN, letter, size=_LETTER, weight="bold")
    room = COLUMN - left - _MARGIN
    _text(figure, left, _MARGIN, label, width=room, weight="bold")
    what = f"{len(places):,} images by their attribution (UMAP)"
    _text(figure, left, _MARGIN + _LINE, what, width=room, size=_SMALL, color=_FAINT)
    axes = _axes(figure, _Box(left, top, side, side))
    limit = 4 * deviation or 1.0
    # Strong ones last, lest the many near zero hide them.
    order = np.argsort(np.abs(activation), kind="stable")
    dots = axes.scatter(
        places[order, 0],
        places[order, 1],
        c=activation[order],
        cmap=ACTIVATION,
        norm=Normalize(-limit, limit),
        s=float(np.clip(8000 / len(places), 1, 12)),
        linewidths=0,
        rasterized=len(places) > 5000,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    for line in np.arange(1, grid) / grid:
        axes.axhline(line, color=_HAIR, lw=0.25, zorder=0)
        axes.axvline(line, color=_HAIR, lw=0.25, zorder=0)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.6, color=_HAIR)
    _activation_bar(figure, dots, _Box(left + side + 0.1, top, 0.08, side))
    return figure


def _activation_bar(figure: Figure, shown: ScalarMappable, box: _Box) -> None:
    bar = figure.colorbar(shown, cax=_axes(figure, box), extend="both", extendfrac=0.03)
    bar.outline.set_linewidth(0)
    limit = float(shown.get_clim()[1] or 1)
    bar.set_ticks([-limit, -limit / 2, 0, limit / 2, limit])
    bar.set_ticklabels(["−4 sd", "−2", "0", "+2", "+4 sd"])


@_styled
def atlas_figure(
    icons: Mapping[tuple[int, int], Sequence[UInt8[np.ndarray, "h w 4"] | None]],
    *,
    grid: int,
    label: str,
    through: str,
    colour_by: Literal["activation", "tension"],
    activation: Mapping[tuple[int, int], Sequence[float | None]],
    energies: Mapping[tuple[int, int], tuple[float, float]],
    deviation: float,
    letter: str = "C",
) -> Figure:
    """The atlas: an icon in each cell of the map that holds enough images.

    Args:
        icons: by cell (row from the top, column), one icon with opacity, or one for each side, of
            which one may be missing.
        grid: cells a side; rows and columns that are empty at the borders are left out.
        label, through: the feature and the layer that it is explained through.
        colour_by: what borders show: the activation that each icon gives, or, as a square under the
            icons, the mean excitation and inhibition of the cell's images.
        activation: the feature's in each icon.
        energies: mean excitation and inhibition of each cell's images.
        deviation: standard deviation of the activation over all images; colours end at 4 of them.
        letter: the figure's letter, or nothing.
    Returns:
        A figure of two columns.
    Source: paper, figure 6c; the second colouring is ours.
    """
    rows, columns = np.array(list(icons)).T
    top_row, left_column = int(rows.min()), int(columns.min())
    down, across = int(rows.max()) - top_row + 1, int(columns.max()) - left_column + 1
    each = len(next(iter(icons.values())))
    right, top = 0.75 if colour_by == "activation" else 1.35, _MARGIN + 2.6 * _LINE
    side = min((PAGE - 2 * _MARGIN - right) / (across * each), 1.1, TALL / down)
    wide = side * each
    width = 2 * _MARGIN + right + across * wide
    height = top + max(down * side, 1.5) + _MARGIN
    figure = Figure(figsize=(max(width, COLUMN), height))
    _text(figure, _MARGIN, _MARGIN, letter, size=_LETTER, weight="bold")
    room = max(width, COLUMN) - 0.3 - _MARGIN
    _text(figure, 0.3, _MARGIN, label, width=room, weight="bold")
    what = f"through {through}, {len(icons)} cells of {grid} x {grid}"
    if each == 2:
        what += "; left: what excites, right: what inhibits"
    _text(figure, 0.3, _MARGIN + _LINE, what, width=room, size=_SMALL, color=_FAINT)
    limit = 4 * deviation or 1.0
    largest = float(np.quantile(list(energies.values()), 0.95)) or 1.0
    axes = _axes(figure, _Box(_MARGIN, top, across * wide, down * side))
    axes.set(xlim=(0, across * each), ylim=(down, 0))
    axes.axis("off")
    edge = 0.05
    for (row, column), pictures in icons.items():
        y = row - top_row
        for k, icon in enumerate(pictures):
            x = (column - left_column) * each + k
            value = activation[row, column][k]
            if icon is None or value is None:
                continue
            inner = 1 - 2 * edge
            box = (x + edge, x + 1 - edge, y + 1 - edge, y + edge)
            colour = activation_colours(np.array(value), limit)
            below: tuple[float, ...] = (1, 1, 1)
            if colour_by == "tension":
                plus, minus = (np.array(v / largest) for v in energies[row, column])
                below = tuple(on_white(tension_colours(plus, minus)) / 255)
                colour = np.array([*below, 1])
            frame = Rectangle((box[0], box[3]), inner, inner, fc=below, ec=tuple(colour), lw=1.6)
            axes.add_patch(frame)
            # The icon's own shape, in the middle of the square.
            high, wide_icon = (inner / 2 * n / max(icon.shape[:2]) for n in icon.shape[:2])
            middle = (x + 0.5, y + 0.5)
            extent = (
                middle[0] - wide_icon, middle[0] + wide_icon, middle[1] + high, middle[1] - high
            )  # fmt: skip
            axes.imshow(icon, extent=extent, aspect="auto", interpolation="hanning", zorder=2)
    axes.set(xlim=(0, across * each), ylim=(down, 0))
    bar_left = _MARGIN + across * wide + 0.12
    if colour_by == "activation":
        shown = ScalarMappable(Normalize(-limit, limit), ACTIVATION)
        _activation_bar(figure, shown, _Box(bar_left, top, 0.08, min(max(down * side, 1.4), 2.5)))
    else:
        _square(figure, bar_left + 0.3, top, 0.9, largest)
    return figure

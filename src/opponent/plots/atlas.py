"""Figure 6: the selected images, their map, the atlas."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from opponent.atlas.atlas import Atlas
from opponent.core.colour import ACTIVATION, activation_colours, balance_colours, on_white
from opponent.core.pictures import seen_part
from opponent.core.side import SIDES, Side
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
    styled,
)
from opponent.plots.square import add_balance
from opponent.storage.columns import Columns

# Contours of the density hold these shares of the selected images.
_SHARES = (0.9, 0.7, 0.5, 0.3, 0.1)
_BINS = 60
TALL = 8.5  # inches: a page's height without its caption
_EDGE = 0.05  # around an icon's square, of a cell's side

ColourBy = Literal["activation", "tension"]


def plot_selection(atlas: Atlas, *, columns: Columns | None = None) -> Figure:
    """Figure 6a: which of a run's images an atlas is made of.

    Args:
        atlas: the atlas.
        columns: its feature's columns, where they were read before.
    Returns:
        A figure of one column.
    Raises:
        RunError: a file of the atlas or of its run is damaged.
    Source: paper, figure 6a.
    """
    columns = _columns(atlas) if columns is None else columns
    on_map = set(atlas.map["image"].to_pylist())
    return selection_figure(
        columns.excitation,
        columns.inhibition,
        np.array([image in on_map for image in columns.images]),
        label=atlas.feature.label,
    )


def plot_map(atlas: Atlas, *, columns: Columns | None = None) -> Figure:
    """Figure 6b: an atlas' images on their map.

    Args:
        atlas: the atlas.
        columns: its feature's columns, where they were read before.
    Returns:
        A figure of one column.
    Raises:
        RunError: a file of the atlas or of its run is damaged.
    Source: paper, figure 6b.
    """
    columns = _columns(atlas) if columns is None else columns
    return map_figure(
        np.stack([atlas.map["x"].to_numpy(), atlas.map["y"].to_numpy()], 1),
        atlas.map["activation"].to_numpy(),
        deviation=columns.deviation,
        grid=atlas.settings.grid,
        label=atlas.feature.label,
    )


def plot_atlas(
    atlas: Atlas,
    *,
    colour_by: ColourBy = "activation",
    signed: bool = False,
    columns: Columns | None = None,
) -> Figure:
    """Figure 6c: an atlas' icons, each in its cell of the map.

    Args:
        atlas: the atlas.
        colour_by: 'activation' colours the borders by the activation that each icon gives,
            'tension' the squares by how excitation and inhibition of the cell's images balance,
            and how tense they are.
        signed: show each cell's icons of excitation and of inhibition, where they were made, in
            place of the one of both.
        columns: its feature's columns, where they were read before.
    Returns:
        A figure of at most two columns.
    Raises:
        RunError: a file of the atlas or of its run is damaged.
    Source: paper, figure 6c; the second colouring is ours.
    """
    columns = _columns(atlas) if columns is None else columns
    cells = {(cell.row, cell.column): cell for cell in atlas.cells}
    sides = list(SIDES) if signed else [Side.BOTH]
    return atlas_figure(
        {at: [cell.pixels(side) for side in sides] for at, cell in cells.items()},
        grid=atlas.settings.grid,
        label=atlas.feature.label,
        through=atlas.run.manifest.explained_by,
        colour_by=colour_by,
        activation={at: [cell.activations[x] for x in sides] for at, cell in cells.items()},
        energies={at: (x.mean_excitation, x.mean_inhibition) for at, x in cells.items()},
        deviation=columns.deviation,
    )


def _columns(atlas: Atlas) -> Columns:
    return atlas.run.columns(atlas.feature, maps=False)


@styled
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
    side, left, top = 2.5, 0.6, MARGIN + 2.6 * LINE
    figure = Figure(figsize=(COLUMN, top + side + 0.5))
    add_text(figure, MARGIN, MARGIN, letter, size=LETTER, weight="bold")
    room = COLUMN - left - MARGIN
    add_text(figure, left, MARGIN, label, width=room, weight="bold")
    what = f"{selected.sum():,} of {len(selected):,} images, largest L2 norm of S"
    add_text(figure, left, MARGIN + LINE, what, width=room, size=SMALL, color=FAINT)
    axes = add_axes(figure, Area(left, top, side, side))
    end = 1.04 * float(max(excitation.max(), inhibition.max())) or 1.0
    axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end))
    axes.set(xlabel="excitation E⁺", ylabel="inhibition E⁻")
    axes.locator_params(nbins=5)
    for which, colour in ((~selected, HAIR), (selected, INK)):
        axes.scatter(
            excitation[which],
            inhibition[which],
            s=float(np.clip(6000 / len(selected), 0.6, 8)),
            color=colour,
            alpha=0.6,
            linewidths=0,
            rasterized=len(selected) > 5000,
        )
    axes.plot([0, end], [0, end], color=HAIR, lw=0.6, zorder=0)
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


@styled
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
    side, left, top = 2.45, 0.3, MARGIN + 2.6 * LINE
    figure = Figure(figsize=(COLUMN, top + side + 0.2))
    add_text(figure, MARGIN, MARGIN, letter, size=LETTER, weight="bold")
    room = COLUMN - left - MARGIN
    add_text(figure, left, MARGIN, label, width=room, weight="bold")
    what = f"{len(places):,} images by their attribution (UMAP)"
    add_text(figure, left, MARGIN + LINE, what, width=room, size=SMALL, color=FAINT)
    axes = add_axes(figure, Area(left, top, side, side))
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
        axes.axhline(line, color=HAIR, lw=0.25, zorder=0)
        axes.axvline(line, color=HAIR, lw=0.25, zorder=0)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.6, color=HAIR)
    _activation_bar(figure, dots, Area(left + side + 0.1, top, 0.08, side), "activation f, sd")
    return figure


def _activation_bar(figure: Figure, shown: ScalarMappable, box: Area, name: str) -> None:
    bar = figure.colorbar(shown, cax=add_axes(figure, box), extend="both", extendfrac=0.03)
    bar.outline.set_linewidth(0)
    limit = float(shown.get_clim()[1] or 1)
    bar.set_ticks([-limit, -limit / 2, 0, limit / 2, limit])
    bar.set_ticklabels(["−4", "−2", "0", "+2", "+4"])
    bar.set_label(name, labelpad=1)


@styled
def atlas_figure(
    icons: Mapping[tuple[int, int], Sequence[UInt8[np.ndarray, "h w 4"] | None]],
    *,
    grid: int,
    label: str,
    through: str,
    colour_by: ColourBy,
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
            icons, balance and tension of the mean excitation and inhibition of the cell's images.
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
    per_cell = len(next(iter(icons.values())))
    right, top = 0.85 if colour_by == "activation" else 1.35, MARGIN + 2.6 * LINE
    side = min((PAGE - 2 * MARGIN - right) / (across * per_cell), 1.1, TALL / down)
    wide = side * per_cell
    width = 2 * MARGIN + right + across * wide
    height = top + max(down * side, 1.5) + MARGIN
    figure = Figure(figsize=(max(width, COLUMN), height))
    add_text(figure, MARGIN, MARGIN, letter, size=LETTER, weight="bold")
    room = max(width, COLUMN) - 0.3 - MARGIN
    add_text(figure, 0.3, MARGIN, label, width=room, weight="bold")
    what = f"through {through}, {len(icons)} cells of {grid} x {grid}"
    if per_cell == 2:
        what += "; left: what excites, right: what inhibits"
    add_text(figure, 0.3, MARGIN + LINE, what, width=room, size=SMALL, color=FAINT)
    limit = 4 * deviation or 1.0
    tints, ends, tensions = balance_colours(*np.array(list(energies.values())).T)
    tint = dict(zip(energies, on_white(tints) / 255, strict=True))
    made = [icon for pictures in icons.values() for icon in pictures if icon is not None]
    part = seen_part(made) if made else (slice(None), slice(None))
    axes = add_axes(figure, Area(MARGIN, top, across * wide, down * side))
    axes.axis("off")
    for (row, column), pictures in icons.items():
        for k, icon in enumerate(pictures):
            value = activation[row, column][k]
            if icon is None or value is None:
                continue
            border = tuple(activation_colours(np.array(value), limit))
            below: tuple[float, ...] = (1.0, 1.0, 1.0)
            if colour_by == "tension":
                border = below = tuple(tint[row, column])
            x, y = (column - left_column) * per_cell + k, row - top_row
            _icon(axes, x, y, icon[part], border=border, below=below)
    # Last, since each picture moves the limits.
    axes.set(xlim=(0, across * per_cell), ylim=(down, 0))
    bar_left = MARGIN + across * wide + 0.12
    if colour_by == "activation":
        shown = ScalarMappable(Normalize(-limit, limit), ACTIVATION)
        _activation_bar(
            figure,
            shown,
            Area(bar_left, top, 0.08, min(max(down * side, 1.4), 2.5)),
            "the icon's activation, sd",
        )
    else:
        add_balance(figure, Area(bar_left + 0.3, top, 0.9, 0.9), ends, tensions)
    return figure


def _icon(
    axes: Axes,
    x: int,
    y: int,
    icon: UInt8[np.ndarray, "h w 4"],
    *,
    border: tuple[float, ...],
    below: tuple[float, ...],
) -> None:
    """An icon with its own proportions, in a square with a border.

    Args:
        axes: one unit a cell, y downward.
        x, y: the cell's upper left corner.
        icon: with its opacity.
        border, below: colours of the square's border and of the square.
    """
    inner = 1 - 2 * _EDGE
    axes.add_patch(Rectangle((x + _EDGE, y + _EDGE), inner, inner, fc=below, ec=border, lw=1.6))
    high, wide = (inner / 2 * n / max(icon.shape[:2]) for n in icon.shape[:2])
    extent = (x + 0.5 - wide, x + 0.5 + wide, y + 0.5 + high, y + 0.5 - high)
    axes.imshow(icon, extent=extent, aspect="auto", interpolation="hanning", zorder=2)

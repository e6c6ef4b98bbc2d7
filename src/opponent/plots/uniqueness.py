"""The paper's figures 8 and 16: which images features share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from opponent.core.colour import RED
from opponent.explain.crops import Tile
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
    add_captioned,
    add_heading,
    add_note,
    add_text,
    cell_height,
    fit_text,
    styled,
    text_width,
    wrap_text,
)

# Activation red, L1 dark green, L2 light; units solid, k-means dotted. Source: paper, fig. 8a.
_BY = {
    "activation": ("activation", RED),
    "l1": ("L¹ norm of S", "#0b6b34"),
    "l2": ("L² norm of S", "#6cbf5f"),
    "permuted": ("L¹, weights permuted", "#b7791f"),
}
_KINDS: dict[str, tuple[str, Any]] = {"units": ("units", "-"), "kmeans": ("k-means", (0, (1, 1.2)))}
_TENSE = "#111111"


@dataclass(frozen=True, kw_only=True)
class UniquenessLine:
    """U of one kind of feature and one way of choosing images, layer by layer; NaN for none.

    Args:
        kind: 'units' or 'kmeans'.
        by: 'activation', 'l1' or 'l2'; 'permuted' is the L1 norm with permuted weights.
        value, low, high: U and its interval.
        chance: U of images drawn at random.
    """

    kind: str
    by: str
    value: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"]
    high: Float[np.ndarray, " layers"]
    chance: Float[np.ndarray, " layers"]


@dataclass(frozen=True, kw_only=True)
class TenseRow:
    """One feature in `tense_rows_figure`.

    Args:
        label: the feature.
        exciting: the images that excite it most.
        tense: its tensest images.
    """

    label: str
    exciting: Sequence[Tile]
    tense: Sequence[Tile]


@dataclass(frozen=True, kw_only=True)
class SharedRow:
    """One layer in `shared_figure`.

    Args:
        layer: its name.
        count: how many images its features share.
        tiles: some of them.
    """

    layer: str
    count: int
    tiles: Sequence[Tile]


@styled
def uniqueness_figure(
    layers: Sequence[str],
    lines: Sequence[UniquenessLine],
    *,
    about: str,
    letter: str = "A",
) -> Figure:
    """How many images features share, layer by layer, beside what chance would give.

    Args:
        layers: names, in order.
        lines: one for each kind of feature and way of choosing images.
        about: how many features and images.
        letter: the panel's letter, or nothing.
    Returns:
        A figure of one column.
    Raises:
        ValueError: no layer, no line, or lines of another length.
    Source: paper, fig. 8a; chance and intervals are ours.
    """
    if not layers or not lines or any(len(line.value) != len(layers) for line in lines):
        raise ValueError(
            f"uniqueness_figure: {len(layers)} layers and lines of "
            f"{[len(line.value) for line in lines]} values, expected as many of each"
        )
    shown = [fit_text(name, 1.6, SMALL, "normal") for name in layers]
    longest = max(text_width(name, SMALL) for name in shown)
    # Long names would reach over the figure's edge.
    slant = 45 if longest < 0.6 else 90
    below = longest * np.sin(np.deg2rad(slant)) + 0.15
    left, side = 0.46, 1.9
    rows = 4 if any(line.by == "permuted" for line in lines) else 3
    top = MARGIN + LINE * (3.2 + rows)
    figure = Figure(figsize=(COLUMN, top + side + below + MARGIN))
    add_text(figure, MARGIN, MARGIN, letter, size=LETTER, weight="bold")
    for i, text in enumerate((about, "bars: 95 % intervals over the choice of features")):
        level = MARGIN + i * LINE
        add_text(figure, left, level, text, width=COLUMN - left, size=SMALL, color=FAINT)
    axes = add_axes(figure, Area(left, top, COLUMN - left - MARGIN, side))
    places = np.arange(len(layers))
    drawn = {line.kind: line.chance for line in lines}
    present = {line.by for line in lines}
    for kind, values in drawn.items():
        # A line needs two layers; of one, chance is a level.
        several = len(layers) > 1
        ends = places if several else [-0.5, 0.5]
        axes.plot(
            ends,
            values if several else values.repeat(2),
            color=FAINT,
            lw=0.9,
            ls=_KINDS[kind][1],
            zorder=1,
        )
    for i, line in enumerate(lines):
        # Side by side, since intervals of equal values would hide each other.
        x = places + 0.07 * (i - (len(lines) - 1) / 2)
        colour, dashes = _BY[line.by][1], _KINDS[line.kind][1]
        axes.vlines(x, line.low, line.high, color=colour, lw=0.7, alpha=0.55, zorder=2)
        face = colour if line.kind == "units" else "white"
        axes.plot(x, line.value, color=colour, lw=1.1, ls=dashes, zorder=3)
        axes.plot(x, line.value, ".", color=colour, mfc=face, ms=4, mew=0.7, zorder=4)
    axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(0, 1.02), ylabel="uniqueness U")
    va = "center" if slant == 90 else "top"
    axes.set_xticks(places, shown, rotation=slant, ha="right", va=va, rotation_mode="anchor")
    axes.grid(axis="y", color=HAIR, lw=0.4)
    axes.set_axisbelow(True)
    kinds = list(drawn)
    entries: list[tuple[str, str, Any]] = [
        (name, colour, "-") for by, (name, colour) in _BY.items() if by in present
    ]
    entries += [(_KINDS[kind][0], INK, _KINDS[kind][1]) for kind in kinds]
    entries.append(("chance", FAINT, "-"))
    across, down = figure.get_size_inches()
    for i, (text, colour, dashes) in enumerate(entries):
        start, y = left + (i // rows) * (COLUMN - left) / 2, MARGIN + LINE * (2.7 + i % rows)
        ends, level = [start / across, (start + 0.22) / across], 1 - y / down
        figure.add_artist(Line2D(ends, [level, level], color=colour, ls=dashes, lw=1.1))
        add_text(figure, start + 0.28, y, text, size=SMALL, va="center")
    return figure


@styled
def tense_rows_figure(
    rows: Sequence[TenseRow], *, label: str, about: str = "", letter: str = "B"
) -> Figure:
    """For each feature the images that excite it most beside its tensest ones.

    Args:
        rows: one feature each.
        label: the layer.
        about: what the captions say.
        letter: the panel's letter, or nothing.
    Returns:
        A figure at most two columns wide.
    Raises:
        ValueError: there is no row.
    Source: paper, fig. 8b.
    """
    if not rows:
        raise ValueError("tense_rows_figure: rows is empty, expected at least one feature")
    count = max(1, *(max(len(row.exciting), len(row.tense)) for row in rows))
    gap, gutter = 0.04, 0.2
    indent = max(text_width(row.label, SMALL) for row in rows) + 0.1
    cell = min(0.85, (PAGE - 2 * MARGIN - indent - gutter) / (2 * count))
    everything = [tile for row in rows for tile in (*row.exciting, *row.tense)]
    down = cell_height(everything, cell - gap)
    pitch = down + 0.05 + LINE * any(tile.caption for tile in everything)
    blocks = [MARGIN + indent, MARGIN + indent + count * cell + gutter]
    width = blocks[1] + count * cell + MARGIN
    wrapped = wrap_text(about, width - 2 * MARGIN)
    head = MARGIN + (1.4 + 1.1 * len(wrapped)) * LINE
    top = head + 1.4 * LINE
    figure = Figure(figsize=(width, top + len(rows) * pitch + MARGIN))
    add_text(figure, MARGIN, MARGIN, letter, size=LETTER, weight="bold")
    add_text(figure, MARGIN + 0.18, MARGIN, label, width=width - 0.4, weight="bold")
    for i, line in enumerate(wrapped):
        level = MARGIN + (1.2 + 1.1 * i) * LINE
        add_text(figure, MARGIN, level, line, width=width, size=SMALL, color=FAINT)
    headings = (("most exciting (MEIs)", RED), ("tensest (MTIs)", _TENSE))
    for left, (text, colour) in zip(blocks, headings, strict=True):
        add_heading(figure, left, head, count * cell - gap, text, colour)
    for row in rows:
        middle = top + down / 2
        add_text(figure, MARGIN, middle, row.label, width=indent, size=SMALL, va="center")
        for left, tiles in zip(blocks, (row.exciting, row.tense), strict=True):
            if not tiles:
                add_note(figure, Area(left, top, count * cell - gap, down), "none")
            for k, tile in enumerate(tiles):
                add_captioned(figure, Area(left + k * cell, top, cell - gap, down), tile)
        top += pitch
    return figure


@styled
def shared_figure(
    panels: Mapping[str, Sequence[SharedRow]], *, about: str, nothing: str, per_line: int = 6
) -> Figure:
    """Images that most features of a layer give a large attribution.

    Args:
        panels: by the panel's heading, a row for each layer, the same ones in all panels.
        about: what the captions say.
        nothing: what to say in a panel without any image.
        per_line: images of a layer, at most.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: there is no panel, or they differ in their layers.
    Source: paper, fig. 16.
    """
    if not panels or len({tuple(row.layer for row in rows) for rows in panels.values()}) > 1:
        raise ValueError("shared_figure: expected panels, all with the same layers")
    gutter, gap = 0.25, 0.04
    block = (PAGE - 2 * MARGIN - (len(panels) - 1) * gutter) / len(panels)
    cell = block / per_line
    # Layers without any image in any panel are left out.
    lines = [rows for rows in zip(*panels.values(), strict=True) if any(r.tiles for r in rows)]
    downs = [cell_height([t for r in rows for t in r.tiles], cell - gap) for rows in lines]
    top = MARGIN + 2.8 * LINE
    total = sum(down + 2.5 * LINE for down in downs) or 2.2 * LINE
    figure = Figure(figsize=(PAGE, top + total + MARGIN))
    add_text(figure, MARGIN, MARGIN + 1.2 * LINE, about, size=SMALL, color=FAINT)
    for number, name in enumerate(panels):
        left, level = MARGIN + number * (block + gutter), top
        add_text(figure, left, MARGIN, "ABCDEFGH"[number], size=LETTER, weight="bold")
        add_text(figure, left + 0.18, MARGIN + 0.01, name, width=block - 0.2, weight="bold")
        if not any(row.tiles for row in panels[name]):
            for i, line in enumerate(wrap_text(nothing, block)):
                add_text(figure, left, top + i * LINE, line, size=SMALL, color=FAINT)
            continue
        for rows, down in zip(lines, downs, strict=True):
            row = rows[number]
            add_text(
                figure, left, level, f"{row.layer}: {row.count or 'none'}", width=block, size=SMALL
            )
            for k, tile in enumerate(row.tiles[:per_line]):
                box = Area(left + k * cell, level + 1.1 * LINE, cell - gap, down)
                add_captioned(figure, box, tile)
            level += down + 2.5 * LINE
    return figure

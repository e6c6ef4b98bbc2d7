"""Figure 2: the images that excite features most, and those that inhibit them most."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from opponent.core.colour import BLUE, RED
from opponent.core.feature import Feature
from opponent.explain.crops import Tile, run_tiles
from opponent.plots.layout import (
    COLUMN,
    LINE,
    MARGIN,
    PAGE,
    TITLE,
    Area,
    add_captioned,
    add_heading,
    add_note,
    add_text,
    cell_height,
    styled,
)
from opponent.selection import exciting, inhibiting
from opponent.storage.columns import Columns
from opponent.storage.lookup import features_of
from opponent.storage.run import Run


@dataclass(frozen=True, kw_only=True)
class ExemplarRow:
    """One feature in `exemplars_figure`.

    Args:
        label: the feature.
        exciting, inhibiting: its images, the most telling first.
        group: a heading that neighbouring rows share, such as their layer.
    """

    label: str
    exciting: Sequence[Tile]
    inhibiting: Sequence[Tile]
    group: str = ""


def plot_exemplars(
    run: Run, features: Sequence[Feature | str] | None = None, *, k: int = 4
) -> Figure:
    """Figure 2: the images that excite a run's features most, and those that inhibit them most.

    Args:
        run: a finished run.
        features: which of its features; default: all.
        k: images a side.
    Returns:
        A figure at most two columns wide, one row a feature.
    Raises:
        ValueError: the run does not hold a feature.
        RunError: the run is unfinished.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figure 2.
    """
    chosen = features_of(run, features)
    return exemplars_figure([exemplar_row(run, feature, k=k) for feature in chosen])


def exemplar_row(
    run: Run, feature: Feature | str, *, k: int = 4, columns: Columns | None = None
) -> ExemplarRow:
    """One of a run's features as a row of `exemplars_figure`.

    Args:
        run: a finished run.
        feature: one of its features.
        k: images a side.
        columns: the feature's columns, where they were read before.
    Returns:
        The row.
    Raises:
        ValueError: the run does not hold that feature.
        RunError: the run is unfinished.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figure 2.
    """
    feature = run.feature(feature)
    columns = run.columns(feature) if columns is None else columns
    return ExemplarRow(
        label=feature.label,
        exciting=run_tiles(run, feature, columns, exciting(columns, k).tolist()),
        inhibiting=run_tiles(run, feature, columns, inhibiting(columns, k).tolist()),
        group=feature.layer,
    )


@styled
def exemplars_figure(rows: Sequence[ExemplarRow]) -> Figure:
    """Images that excite features most, and images that inhibit them most.

    Args:
        rows: one feature each; neighbours with one `group` come under one heading.
    Returns:
        A figure at most two columns wide.
    Raises:
        ValueError: there is no row.
    Source: paper, fig. 2.
    """
    if not rows:
        raise ValueError("exemplars_figure: rows is empty, expected at least one feature")
    count = max(1, *(max(len(row.exciting), len(row.inhibiting)) for row in rows))
    gutter, gap = 0.25, 0.04
    # At 1.1 inches a crop shows all that it holds.
    cell = min(1.1, (PAGE - 2 * MARGIN - gutter) / (2 * count))
    block = max(count * cell, (COLUMN - 2 * MARGIN - gutter) / 2)
    blocks = (MARGIN, MARGIN + block + gutter)
    shown = [tile for row in rows for tile in (*row.exciting, *row.inhibiting)]
    down = cell_height(shown, cell - gap)
    opens = [
        bool(row.group) and (k == 0 or rows[k - 1].group != row.group) for k, row in enumerate(rows)
    ]
    captioned = [any(tile.caption for tile in (*row.exciting, *row.inhibiting)) for row in rows]
    heights = [
        opened * 1.6 * LINE + LINE + down + (0.6 + below) * LINE
        for opened, below in zip(opens, captioned, strict=True)
    ]
    width = 2 * MARGIN + 2 * block + gutter
    figure = Figure(figsize=(width, 2 * MARGIN + 1.4 * LINE + sum(heights)))
    add_heading(figure, blocks[0], MARGIN, block - gap, "most exciting", RED)
    add_heading(figure, blocks[1], MARGIN, block - gap, "most inhibiting", BLUE)
    top = MARGIN + 1.4 * LINE
    for row, opened, height in zip(rows, opens, heights, strict=True):
        line = top
        if opened:
            line += 0.4 * LINE
            add_text(figure, MARGIN, line, row.group, width=width, size=TITLE, weight="bold")
            line += 1.2 * LINE
        add_text(figure, MARGIN, line, row.label, width=width - 2 * MARGIN)
        line += LINE
        for left, tiles in zip(blocks, (row.exciting, row.inhibiting), strict=True):
            if not tiles:
                add_note(figure, Area(left, line, cell - gap, down), "none")
            for k, tile in enumerate(tiles):
                add_captioned(figure, Area(left + k * cell, line, cell - gap, down), tile)
        top += height
    return figure

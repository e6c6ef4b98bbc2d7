"""Figure 4b to g: chosen images under their maps, with the colour square."""

import string
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from opponent.core.colour import group_colours
from opponent.core.feature import Feature
from opponent.explain.crops import Tile, overlay_scale, run_tiles
from opponent.plots.layout import (
    COLUMN,
    FAINT,
    LETTER,
    LINE,
    MARGIN,
    PAGE,
    SMALL,
    Area,
    add_caption,
    add_note,
    add_picture,
    add_ring,
    add_text,
    cell_height,
    styled,
)
from opponent.plots.square import add_square
from opponent.selection import Selection, select
from opponent.storage.columns import Columns
from opponent.storage.run import Run

_EXPLAINED = (
    "Left: what the feature sees. Right: the same under its maps, red where",
    "the through layer excites, blue where it inhibits, green where both.",
)


def plot_groups(
    run: Run,
    feature: Feature | str | None = None,
    *,
    k: int = 4,
    selections: Sequence[Selection | str] | None = None,
    columns: Columns | None = None,
) -> Figure:
    """Figure 4b to g: a run's exciting, inhibiting, silent and tense images under their maps.

    Args:
        run: a finished run.
        feature: one of its features; default: the only one.
        k: images a group.
        selections: which groups, by name or as objects; default: the built-in six.
        columns: the feature's columns, where they were read before.
    Returns:
        A figure at most two columns wide.
    Raises:
        ValueError: the run does not hold that feature, or `select` refuses k or a selection.
        RunError: the run is unfinished.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figure 4b-g.
    """
    feature = run.feature(feature)
    columns = run.columns(feature) if columns is None else columns
    selected = select(columns, k, selections=selections)
    groups = {
        name: run_tiles(run, feature, columns, group.rows.tolist())
        for name, group in selected.items()
    }
    colours = {name: group.selection.colour for name, group in selected.items()}
    label = feature.label if columns.kept is None else f"{feature.label}, {columns.scope}"
    return groups_figure(groups, label=label, colours=colours)


@styled
def groups_figure(
    groups: Mapping[str, Sequence[Tile]],
    *,
    label: str,
    first_letter: str = "B",
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """Chosen images in pairs, the crop and the crop under its maps, with the colour square.

    All maps are drawn on one scale, `overlay_scale` of all images of the figure.

    Args:
        groups: images by name of the group; an empty group is said to be empty.
        label: the feature.
        first_letter: letter of the first panel.
        colours: of the groups by name; default: those of the built-in selections.
    Returns:
        A figure at most two columns wide.
    Raises:
        ValueError: there is no group.
    Source: paper, fig. 4b-g.
    """
    if not groups:
        raise ValueError("groups_figure: groups is empty, expected at least one (it may be empty)")
    everything = [tile for tiles in groups.values() for tile in tiles]
    scale = overlay_scale(everything)
    gap, apart, square = 0.12, 0.02, 0.8
    pair = (PAGE - 2 * MARGIN + gap) / 4
    side = (pair - gap - apart) / 2
    down = cell_height(everything, side)
    pitch = down + 0.06 + LINE * any(tile.caption for tile in everything)
    per_line = min(4, max(1, *(len(tiles) for tiles in groups.values())))
    heights = [
        1.3 * LINE + (-(-len(tiles) // per_line) * pitch if tiles else 0.3)
        for tiles in groups.values()
    ]
    width = max(COLUMN, 2 * MARGIN + per_line * pair - gap)
    top = MARGIN + square + 2.6 * LINE
    figure = Figure(figsize=(width, top + sum(heights) + MARGIN))
    room = width - 2 * MARGIN - square - 0.5
    add_text(figure, MARGIN, MARGIN, label, width=room, weight="bold")
    for line, words in enumerate(_EXPLAINED):
        y = MARGIN + (1.2 + line) * LINE
        add_text(figure, MARGIN, y, words, width=room, size=SMALL, color=FAINT)
    add_square(figure, width - square - MARGIN, MARGIN, square, scale)
    if scale == 0:
        y = MARGIN + (1.2 + len(_EXPLAINED)) * LINE
        add_text(figure, MARGIN, y, "every map is blank", size=SMALL, color=FAINT)
    letters = string.ascii_uppercase[string.ascii_uppercase.index(first_letter) :].ljust(
        len(groups)
    )
    colours = group_colours(list(groups)) | dict(colours or {})
    for k, (name, tiles) in enumerate(groups.items()):
        words = name.replace("_", " ")
        _panel(figure, MARGIN, top, letters[k], words, colours[name], width - 2 * MARGIN)
        if not tiles:
            x = MARGIN + 0.32
            add_text(figure, x, top + 1.2 * LINE, "none among these images", color=FAINT)
        for i, tile in enumerate(tiles):
            x = MARGIN + i % per_line * pair
            y = top + 1.3 * LINE + i // per_line * pitch
            # Narrow crops stand beside their maps, not a cell apart.
            add_picture(figure, Area(x, y, side, down), tile.image, align=1.0)
            beside = Area(x + side + apart, y, side, down)
            if tile.excitation is None:
                add_note(figure, beside, "no map")
            else:
                add_picture(figure, beside, tile.overlaid(scale), align=0.0)
            add_caption(figure, Area(x, y, 2 * side + apart, down), tile.caption)
        top += heights[k]
    return figure


def _panel(
    figure: Figure,
    left: float,
    top: float,
    letter: str,
    text: str,
    colour: str,
    width: float,
) -> None:
    """A panel's letter, the ring of its group, its name."""
    add_text(figure, left, top - 0.015, letter, size=LETTER, weight="bold")
    add_ring(figure, left + 0.23, top + 0.055, colour)
    add_text(figure, left + 0.32, top + 0.01, text, width=width - 0.32)

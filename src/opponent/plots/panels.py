"""The paper's figures 2, 4 and 5, and the answer to a question about one photograph."""

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from opponent.core.colour import ACTIVATION, activation_colours
from opponent.plots.page import (
    _BLUE,
    _FAINT,
    _LETTER,
    _LINE,
    _MARGIN,
    _RAISED,
    _RED,
    _SMALL,
    _TITLE,
    COLUMN,
    PAGE,
    ExemplarRow,
    InversionRow,
    Synthetic,
    Tile,
    _axes,
    _Box,
    _caption,
    _captioned,
    _cell_height,
    _heading,
    _nothing,
    _number,
    _over,
    _picture,
    _ring,
    _square,
    _styled,
    _text,
    _width,
    _words,
    group_colours,
    overlay_scale,
)


@_styled
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
    cell = min(1.1, (PAGE - 2 * _MARGIN - gutter) / (2 * count))
    block = max(count * cell, (COLUMN - 2 * _MARGIN - gutter) / 2)
    blocks = (_MARGIN, _MARGIN + block + gutter)
    shown = [tile for row in rows for tile in (*row.exciting, *row.inhibiting)]
    down = _cell_height(shown, cell - gap)
    opens = [
        bool(row.group) and (k == 0 or rows[k - 1].group != row.group) for k, row in enumerate(rows)
    ]
    captioned = [any(tile.caption for tile in (*row.exciting, *row.inhibiting)) for row in rows]
    heights = [
        opened * 1.6 * _LINE + _LINE + down + (0.6 + below) * _LINE
        for opened, below in zip(opens, captioned, strict=True)
    ]
    width = 2 * _MARGIN + 2 * block + gutter
    figure = Figure(figsize=(width, 2 * _MARGIN + 1.4 * _LINE + sum(heights)))
    _heading(figure, blocks[0], _MARGIN, block - gap, "most exciting", _RED)
    _heading(figure, blocks[1], _MARGIN, block - gap, "most inhibiting", _BLUE)
    top = _MARGIN + 1.4 * _LINE
    for row, opened, height in zip(rows, opens, heights, strict=True):
        line = top
        if opened:
            line += 0.4 * _LINE
            _text(figure, _MARGIN, line, row.group, width=width, size=_TITLE, weight="bold")
            line += 1.2 * _LINE
        _text(figure, _MARGIN, line, row.label, width=width - 2 * _MARGIN)
        line += _LINE
        for left, tiles in zip(blocks, (row.exciting, row.inhibiting), strict=True):
            if not tiles:
                _nothing(figure, _Box(left, line, cell - gap, down), "none")
            for k, tile in enumerate(tiles):
                _captioned(figure, _Box(left + k * cell, line, cell - gap, down), tile)
        top += height
    return figure


@_styled
def energy_figure(
    excitation: Float[np.ndarray, " n"],
    inhibition: Float[np.ndarray, " n"],
    activation: Float[np.ndarray, " n"],
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    label: str,
    through: str,
    deviation: float | None = None,
    letter: str = "A",
) -> Figure:
    """Excitation against inhibition, one dot an image, coloured by the activation.

    The straight lines join points of one E = excitation - inhibition, coloured on the same scale:
    dots and lines agree where the attribution is complete.

    Args:
        excitation: E+ of each image, >= 0.
        inhibition: E- of each image, >= 0.
        activation: f before the ReLU, same unit.
        groups: positions of chosen images by name of the group; each is ringed.
        label: the feature.
        through: the layer that it is explained through.
        deviation: standard deviation of f over all images; the colours then end at 4 of them,
            otherwise at the 99.5th percentile of |f|.
        letter: the panel's letter, or nothing.
    Returns:
        A figure of one column.
    Raises:
        ValueError: no image, vectors of different length, a value that is negative or not finite,
            a position out of range.
    Source: paper, fig. 4a.
    """
    n = len(excitation)
    if not (n > 0 and len(inhibition) == n and len(activation) == n):
        raise ValueError(
            f"energy_figure: excitation, inhibition and activation hold {n}, {len(inhibition)} and "
            f"{len(activation)} values, expected one each for at least one image"
        )
    if not np.isfinite([excitation, inhibition, activation]).all():
        raise ValueError("energy_figure: some values are NaN or infinite; leave those images out")
    if min(excitation.min(), inhibition.min(), deviation or 0) < 0:
        raise ValueError("energy_figure: excitation, inhibition and deviation must be >= 0")
    chosen = {name: list(members) for name, members in (groups or {}).items()}
    for name, members in chosen.items():
        if members and (min(members) < 0 or max(members) >= n):
            raise ValueError(
                f"energy_figure: group '{name}' names images {min(members)} to {max(members)}, but "
                f"there are images 0 to {n - 1}"
            )
    power = _power(max(float(values.max()) for values in (excitation, inhibition)))
    excitation, inhibition, activation = (
        values / 10.0**power for values in (excitation, inhibition, activation)
    )
    limit = float(
        np.quantile(np.abs(activation), 0.995) if deviation is None else 4 * deviation / 10.0**power
    )
    end = limit or 1.0
    side, left, top = 2.0, 0.6, _MARGIN + 4 * _LINE
    per_line = 2
    lines = -(-len(chosen) // per_line)
    figure = Figure(figsize=(COLUMN, top + side + 0.45 + lines * _LINE + _MARGIN))
    _text(figure, _MARGIN, _MARGIN, letter, size=_LETTER, weight="bold")
    room = COLUMN - left - _MARGIN
    _text(figure, left, _MARGIN, label, width=room, weight="bold")
    images = f"through {through}, {n:,} image{'s' if n > 1 else ''}"
    _text(figure, left, _MARGIN + _LINE, images, width=room, size=_SMALL, color=_FAINT)

    axes = _axes(figure, _Box(left, top, side, side))
    across, up = _ends(float(excitation.max()), float(inhibition.max()))
    # The dots of silent images, at zero, are not cut by the axes.
    axes.set(xlim=(-0.02 * across, across), ylim=(-0.02 * up, up))
    unit = f" (×10{str(power).translate(_RAISED)})" if power else ""
    axes.set(xlabel=f"excitation E⁺{unit}", ylabel=f"inhibition E⁻{unit}")
    axes.locator_params(nbins=5)
    dots = axes.scatter(
        excitation,
        inhibition,
        # Area in square points: a few dots are large, 50,000 are specks.
        s=float(np.clip(6000 / n, 1.5, 14)),
        c=activation,
        cmap=ACTIVATION,
        norm=Normalize(-end, end),
        linewidths=0,
        rasterized=n > 5000,
    )
    # Few dots lie over the lines, a cloud of them under.
    _contours(axes, limit, zorder=2.5 if n > 5000 else 0.5)
    _rings(axes, excitation, inhibition, chosen)
    beyond = "both" if np.abs(activation).max() > limit > 0 else "neither"
    cax = _axes(figure, _Box(left + side + 0.3, top, 0.08, side))
    bar = figure.colorbar(dots, cax=cax, extend=beyond, extendfrac=0.03)
    bar.outline.set_linewidth(0)
    bar.set_ticks(_levels(limit))
    scale = f"activation f{unit}" + (", ±4 sd" if deviation else "")
    # Above the labels of the lines.
    _text(figure, COLUMN - _MARGIN, top - 0.2, scale, size=_SMALL, ha="right", va="bottom")
    for k, (name, colour) in enumerate(group_colours(list(chosen)).items()):
        x = left + (k % per_line) * room / per_line
        y = top + side + 0.45 + (k // per_line + 0.5) * _LINE
        _ring(figure, x + 0.04, y, colour)
        text = f"{_words(name)} ({len(chosen[name])})"
        _text(figure, x + 0.12, y, text, width=room / per_line - 0.16, size=_SMALL, va="center")
    return figure


def _ends(across: float, up: float) -> tuple[float, float]:
    """Where the axes end: in equal units where neither sign would be squeezed flat."""
    small, large = sorted((across, up))
    if large == 0:
        return 1.0, 1.0
    if small == 0 or large <= 3 * small:
        across = up = large
    return 1.04 * across, 1.04 * up


def _power(largest: float) -> int:
    """The power of ten to write numbers in: none where they are short as they are."""
    if largest == 0 or 0.01 <= largest < 10_000:
        return 0
    return int(np.floor(np.log10(largest) / 3)) * 3


def _levels(limit: float, nearest: float = 0.0) -> list[float]:
    """Round values within the colour scale, at least `nearest` apart and at most nine."""
    if limit == 0:
        return [0.0]
    least = max(nearest, limit / 4)
    power = 10.0 ** np.floor(np.log10(least))
    step = next(float(k * power) for k in (1, 2, 5, 10) if k * power >= least)
    most = int(limit / step)
    return [k * step for k in range(-most, most + 1)]


def _contours(axes: Axes, limit: float, zorder: float) -> None:
    """Lines of equal E, each ending at its label just outside the axes."""
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    angle = float(np.degrees(np.arctan2(1 / (y1 - y0), 1 / (x1 - x0))))
    # Lines nearer than this part of a side would print their labels on each other.
    for level in _levels(limit, 0.075 * max(x1 - x0, y1 - y0)):
        start, stop = max(x0, y0 + level), min(x1, y1 + level)
        if stop <= start:
            continue
        axes.plot(
            [start, stop],
            [start - level, stop - level],
            color=tuple(activation_colours(np.array(level), limit)),
            lw=0.8,
            path_effects=[withStroke(linewidth=1.6, foreground="white")],
            zorder=zorder,
        )
        axes.annotate(
            _number(level),
            (stop, stop - level),
            (2, 2),
            textcoords="offset points",
            rotation=angle,
            rotation_mode="anchor",
            va="center",
            size=_SMALL,
            color=_FAINT,
            annotation_clip=False,
        )


def _rings(
    axes: Axes,
    excitation: Float[np.ndarray, " n"],
    inhibition: Float[np.ndarray, " n"],
    groups: Mapping[str, Sequence[int]],
) -> None:
    seen: Counter[int] = Counter()
    for name, colour in group_colours(list(groups)).items():
        members = list(groups[name])
        axes.scatter(
            excitation[members],
            inhibition[members],
            # An image of two groups gets a wider ring around the first.
            s=[26 * (1 + 1.6 * seen[member]) for member in members],
            facecolors="none",
            edgecolors=colour,
            linewidths=1.1,
            clip_on=False,
            zorder=3,
            path_effects=[withStroke(linewidth=2.2, foreground="white")],
        )
        seen.update(members)


@_styled
def groups_figure(
    groups: Mapping[str, Sequence[Tile]], *, label: str, first_letter: str = "B"
) -> Figure:
    """Chosen images in pairs, the crop and the crop under its maps, with the colour square.

    All maps are drawn on one scale, `overlay_scale` of all images of the figure.

    Args:
        groups: images by name of the group; an empty group is said to be empty.
        label: the feature.
        first_letter: letter of the first panel; the square takes the one after the last group.
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
    gap, apart, aside = 0.12, 0.02, 1.5
    pair = (PAGE - 2 * _MARGIN - aside) / 4
    side = (pair - gap - apart) / 2
    down = _cell_height(everything, side)
    pitch = down + 0.06 + _LINE * any(tile.caption for tile in everything)
    per_line = min(4, max(1, *(len(tiles) for tiles in groups.values())))
    heights = [
        1.3 * _LINE + (-(-len(tiles) // per_line) * pitch if tiles else 0.3)
        for tiles in groups.values()
    ]
    width = max(COLUMN, 2 * _MARGIN + per_line * pair + aside)
    top = _MARGIN + 1.3 * _LINE
    figure = Figure(figsize=(width, top + max(sum(heights), 1.8) + _MARGIN))
    _text(figure, _MARGIN, _MARGIN, label, width=width - 2 * _MARGIN, weight="bold")
    letters = string.ascii_uppercase[string.ascii_uppercase.index(first_letter) :].ljust(
        len(groups) + 1
    )
    _panel(figure, width - aside, top, letters[len(groups)], "colour scale")
    _square(figure, width - aside + 0.42, top + 1.4 * _LINE, 1.0, scale)
    if scale == 0:
        _text(figure, width - aside + 0.42, top + 1.62, "every map is blank", color=_FAINT)
    for k, (name, colour) in enumerate(group_colours(list(groups)).items()):
        _panel(figure, _MARGIN, top, letters[k], _words(name), colour, width - aside - 2 * _MARGIN)
        if not groups[name]:
            x = _MARGIN + 0.32
            _text(figure, x, top + 1.2 * _LINE, "none among these images", color=_FAINT)
        for i, tile in enumerate(groups[name]):
            x = _MARGIN + i % per_line * pair
            y = top + 1.3 * _LINE + i // per_line * pitch
            # Narrow crops stand beside their maps, not a cell apart.
            _picture(figure, _Box(x, y, side, down), tile.image, align=1.0)
            beside = _Box(x + side + apart, y, side, down)
            if tile.excitation is None:
                _nothing(figure, beside, "no map")
            else:
                _picture(figure, beside, _over(tile, scale), align=0.0)
            _caption(figure, _Box(x, y, 2 * side + apart, down), tile.caption)
        top += heights[k]
    return figure


def _panel(
    figure: Figure,
    left: float,
    top: float,
    letter: str,
    text: str,
    colour: str | None = None,
    width: float = PAGE,
) -> None:
    """A panel's letter, the ring of its group, its name."""
    _text(figure, left, top - 0.015, letter, size=_LETTER, weight="bold")
    if colour is not None:
        _ring(figure, left + 0.23, top + 0.055, colour)
    indent = 0.18 if colour is None else 0.32
    _text(figure, left + indent, top + 0.01, text, width=width - indent)


@_styled
def inversions_figure(
    rows: Sequence[InversionRow],
    *,
    label: str,
    visualisation: tuple[Synthetic | None, Synthetic | None] | None = None,
) -> Figure:
    """Tense photographs with their accentuations and inversions for either sign, on white.

    Args:
        rows: one photograph each.
        label: the feature.
        visualisation: of the feature itself, upward and downward; drawn as the first row.
    Returns:
        A figure of two columns; a kind that was made for no photograph has no column.
    Raises:
        ValueError: there is neither a row nor a visualisation.
    Source: paper, fig. 5.
    """
    if not rows and visualisation is None:
        raise ValueError("inversions_figure: nothing to draw, expected rows or a visualisation")
    made = {
        (k, sign, kind): getattr(row, f"{sign}_{kind}")
        for k, row in enumerate(rows)
        for sign in ("excitatory", "inhibitory")
        for kind in ("accentuation", "inversion")
    }
    kinds = list(dict.fromkeys(kind for (*_, kind), picture in made.items() if picture))
    kinds = sorted(kinds) or ["inversion"]
    shown = [*made.values(), *(visualisation or ()), *(row.photo for row in rows)]
    pictures = [picture for picture in shown if picture is not None]
    gutter, gap = 0.12, 0.04
    cell = (PAGE - 2 * _MARGIN - 2 * gutter) / 5
    side, block = cell - gap, len(kinds) * cell - gap
    down = _cell_height(pictures, side)
    pitch = down + 0.06 + _LINE * any(picture.caption for picture in pictures)
    starts = [_MARGIN + cell + gutter, _MARGIN + (1 + len(kinds)) * cell + 2 * gutter]
    width, top = starts[1] + block + _MARGIN, _MARGIN + 2.7 * _LINE
    lines = len(rows) + (visualisation is not None)
    figure = Figure(figsize=(width, top + lines * pitch + bool(rows) * _LINE + _MARGIN))
    _text(figure, _MARGIN, _MARGIN, label, width=width - 2 * _MARGIN, weight="bold")
    _heading(figure, starts[0], _MARGIN + 1.3 * _LINE, block, "excitation", _RED)
    _heading(figure, starts[1], _MARGIN + 1.3 * _LINE, block, "inhibition", _BLUE)
    if visualisation is not None:
        _nothing(figure, _Box(_MARGIN, top, side, down), "the feature itself")
        for left, picture in zip(starts, visualisation, strict=True):
            _captioned(figure, _Box(left + (block - side) / 2, top, side, down), picture)
        top += pitch
    columns = [
        (left + k * cell, sign, kind)
        for left, sign in zip(starts, ("excitatory", "inhibitory"), strict=True)
        for k, kind in enumerate(kinds)
    ]
    if rows:
        for left, name in ((_MARGIN, "photograph"), *((left, kind) for left, _, kind in columns)):
            _caption(figure, _Box(left, top - 0.03, side, 0.0), name)
        top += _LINE
    for k, row in enumerate(rows):
        _captioned(figure, _Box(_MARGIN, top, side, down), row.photo)
        for left, sign, kind in columns:
            _captioned(figure, _Box(left, top, side, down), made[k, sign, kind])
        top += pitch
    return figure


@_styled
def square_figure(limit: float | None = None) -> Figure:
    """The excitation-inhibition colour square alone.

    Args:
        limit: value at the end of its scale, if it is to be said.
    Returns:
        A figure of half a column.
    Source: paper, fig. 4g.
    """
    figure = Figure(figsize=(COLUMN / 2, COLUMN / 2))
    _square(figure, 0.4, _MARGIN, COLUMN / 2 - 0.4 - _MARGIN, limit)
    return figure


@_styled
def why_figure(
    tile: Tile,
    *,
    excitatory: Sequence[tuple[str, float]],
    inhibitory: Sequence[tuple[str, float]],
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    scale: float | None = None,
) -> Figure:
    """Why one photograph gives the activation that it gives: where, and through which channels.

    Args:
        tile: the photograph with its maps.
        excitatory: the channels that add most, largest first: name and sum of S+.
        inhibitory: the channels that take most away: name and sum of S-, >= 0.
        title: what is explained.
        facts: name and value, such as ('activation', '-1.3').
        scale: of the maps, where it is shared with other images; else this image's own.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: the tile has no maps, or a sum is negative.
    Source: paper, section 3; the sums by channel are ours.
    """
    if tile.excitation is None or tile.inhibition is None:
        raise ValueError("why_figure: the tile has no maps, expected excitation and inhibition")
    if any(value < 0 for _, value in (*excitatory, *inhibitory)):
        raise ValueError("why_figure: sums of a sign must be >= 0; inhibition too is stored >= 0")
    end = overlay_scale([tile]) if scale is None else scale
    gap, aside = 0.06, 1.5
    side = (PAGE - 2 * _MARGIN - aside - 3 * gap) / 4
    bars = max(len(excitatory), len(inhibitory), 1)
    down = _cell_height([tile], side)
    top = _MARGIN + 2.6 * _LINE
    lower = top + max(down, 1.3) + _LINE
    depth = 1.2 * _LINE + _LINE * max(bars, len(facts))
    figure = Figure(figsize=(PAGE, lower + depth + _MARGIN))
    _text(figure, _MARGIN, _MARGIN, title, width=PAGE - 2 * _MARGIN, size=_TITLE, weight="bold")
    for k, (name, image) in enumerate(
        (
            ("photograph", tile.image),
            ("excitation and inhibition", _over(tile, end)),
            ("excitation alone", _over(tile, end, signs="+")),
            ("inhibition alone", _over(tile, end, signs="-")),
        )
    ):
        left = _MARGIN + k * (side + gap)
        _text(figure, left, top - _LINE, name, width=side)
        _picture(figure, _Box(left, top, side, down), image)
    _square(figure, PAGE - aside + 0.42, top, 1.0, end)
    longest = max((value for _, value in (*excitatory, *inhibitory)), default=0.0)
    for k, (name, channels, colour) in enumerate(
        (
            ("most excitatory channels", excitatory, _RED),
            ("most inhibitory channels", inhibitory, _BLUE),
        )
    ):
        left = _MARGIN + k * 2 * (side + gap)
        _text(figure, left, lower, name, color=colour, weight="bold")
        box = _Box(left, lower + 1.2 * _LINE, 2 * side + gap - 0.2, len(channels) * _LINE)
        _bars(figure, box, channels, longest, colour)
    for k, (name, value) in enumerate(facts):
        y = lower + 1.2 * _LINE + k * _LINE
        left = PAGE - aside + 0.05
        room = PAGE - _MARGIN - left
        taken = min(_width(value, _SMALL), 0.6 * room)
        _text(figure, left, y, name, width=room - taken - 0.06, size=_SMALL, color=_FAINT)
        _text(figure, left + room, y, value, width=0.6 * room, size=_SMALL, ha="right")
    return figure


def _bars(
    figure: Figure, box: _Box, channels: Sequence[tuple[str, float]], longest: float, colour: str
) -> None:
    """Bars from one zero line, all on the scale of the longest, names before and values after."""
    if not channels:
        _text(figure, box.left, box.top, "none", color=_FAINT, size=_SMALL)
        return
    zero, unit = box.left + 0.42 * box.width, (0.58 * box.width - 0.4) / (longest or 1)
    axes = _axes(figure, _Box(zero, box.top, unit * (longest or 1), box.height))
    axes.barh(range(len(channels)), [value for _, value in channels], height=0.7, color=colour)
    axes.set(xlim=(0, longest or 1), ylim=(len(channels) - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines["bottom"].set_visible(False)
    for k, (name, value) in enumerate(channels):
        middle = box.top + (k + 0.5) * _LINE
        text: dict[str, Any] = {"size": _SMALL, "va": "center"}
        room = zero - box.left - 0.05
        _text(figure, zero - 0.05, middle, name, width=room, ha="right", **text)
        _text(figure, zero + unit * value + 0.04, middle, _number(value), **text)

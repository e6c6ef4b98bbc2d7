"""Figure 4a: excitation against inhibition, one dot an image."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from opponent.core.colour import ACTIVATION, activation_colours, group_colours
from opponent.core.feature import Feature
from opponent.plots.layout import (
    COLUMN,
    FAINT,
    LETTER,
    LINE,
    MARGIN,
    SMALL,
    Area,
    add_axes,
    add_ring,
    add_text,
    format_number,
    styled,
)
from opponent.selection import Selection, select
from opponent.storage.columns import Columns
from opponent.storage.run import Run

_PER_LINE = 2  # groups in a line of the key
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plot_energies(
    run: Run,
    feature: Feature | str | None = None,
    *,
    k: int = 4,
    selections: Sequence[Selection | str] | None = None,
    columns: Columns | None = None,
) -> Figure:
    """Figure 4a: a run's images by what excites and what inhibits a feature in them.

    Args:
        run: a finished run.
        feature: one of its features; default: the only one.
        k: images of each group that are ringed.
        selections: which groups, by name or as objects; default: the built-in six.
        columns: the feature's columns, where they were read before.
    Returns:
        A figure of one column.
    Raises:
        ValueError: the run does not hold that feature, or `select` refuses k or a selection.
        RunError: the run is unfinished.
    Source: paper, figure 4a.
    """
    feature = run.feature(feature)
    columns = run.columns(feature) if columns is None else columns
    varies = bool(np.ptp(columns.activation))
    selected = select(columns, k, selections=selections)
    return energies_figure(
        columns.excitation,
        columns.inhibition,
        columns.activation,
        groups={name: group.rows.tolist() for name, group in selected.items()},
        colours={name: group.selection.colour for name, group in selected.items()},
        label=feature.label,
        through=run.manifest.explained_by,
        scope=columns.scope,
        # Equal activations have no standard deviation; their colours end at the activation.
        deviation=columns.deviation if varies else None,
    )


@styled
def energies_figure(
    excitation: Float[np.ndarray, " n"],
    inhibition: Float[np.ndarray, " n"],
    activation: Float[np.ndarray, " n"],
    *,
    groups: Mapping[str, Sequence[int]] | None = None,
    colours: Mapping[str, str] | None = None,
    label: str,
    through: str,
    deviation: float | None = None,
    scope: str = "",
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
        colours: of the groups, by name; default: those of the built-in selections.
        label: the feature.
        through: the layer that it is explained through.
        deviation: standard deviation of f over all images; the colours then end at 4 of them,
            otherwise at the 99.5th percentile of |f|.
        scope: how many images these are, in words; default: their number.
        letter: the panel's letter, or nothing.
    Returns:
        A figure of one column.
    Raises:
        ValueError: no image, vectors of different length, a value that is negative or not finite,
            a position out of range.
    Source: paper, fig. 4a.
    """
    n = len(excitation)
    chosen = {name: list(members) for name, members in (groups or {}).items()}
    colours = group_colours(list(chosen)) | dict(colours or {})
    _check(excitation, inhibition, activation, chosen, deviation)
    power = _power(max(float(values.max()) for values in (excitation, inhibition)))
    excitation, inhibition, activation = (
        values / 10.0**power for values in (excitation, inhibition, activation)
    )
    limit = float(
        np.quantile(np.abs(activation), 0.995) if deviation is None else 4 * deviation / 10.0**power
    )
    end = limit or 1.0
    side, left, top = 1.95, 0.55, MARGIN + 3.6 * LINE
    lines = -(-len(chosen) // _PER_LINE)
    figure = Figure(figsize=(COLUMN, top + side + 0.45 + lines * LINE + MARGIN))
    add_text(figure, MARGIN, MARGIN, letter, size=LETTER, weight="bold")
    room = COLUMN - left - MARGIN
    add_text(figure, left, MARGIN, label, width=room, weight="bold")
    images = f"through {through}, {scope or f'{n:,} image' + ('s' if n > 1 else '')}"
    add_text(figure, left, MARGIN + LINE, images, width=room, size=SMALL, color=FAINT)

    axes = add_axes(figure, Area(left, top, side, side))
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
    _rings(axes, excitation, inhibition, chosen, colours)
    beyond = "both" if np.abs(activation).max() > limit > 0 else "neither"
    cax = add_axes(figure, Area(left + side + 0.27, top, 0.07, side))
    bar = figure.colorbar(dots, cax=cax, extend=beyond, extendfrac=0.03)
    bar.outline.set_linewidth(0)
    bar.set_ticks(_levels(limit))
    scale = f"activation f{unit}" + (", ends at ±4 sd" if deviation else "")
    bar.set_label(scale, size=SMALL, labelpad=1)
    sizes = {name: len(members) for name, members in chosen.items()}
    _add_key(figure, Area(left, top + side + 0.45, room, lines * LINE), sizes, colours)
    return figure


def _check(
    excitation: Float[np.ndarray, " n"],
    inhibition: Float[np.ndarray, " m"],
    activation: Float[np.ndarray, " k"],
    groups: Mapping[str, Sequence[int]],
    deviation: float | None,
) -> None:
    n = len(excitation)
    if not (n > 0 and len(inhibition) == n and len(activation) == n):
        raise ValueError(
            f"energies_figure: excitation, inhibition and activation hold {n}, {len(inhibition)} "
            f"and {len(activation)} values, expected one each for at least one image"
        )
    if not np.isfinite([excitation, inhibition, activation]).all():
        raise ValueError("energies_figure: some values are NaN or infinite; leave those images out")
    if min(excitation.min(), inhibition.min(), deviation or 0) < 0:
        raise ValueError("energies_figure: excitation, inhibition and deviation must be >= 0")
    for name, members in groups.items():
        if members and (min(members) < 0 or max(members) >= n):
            raise ValueError(
                f"energies_figure: group '{name}' names images {min(members)} to {max(members)}, "
                f"but there are images 0 to {n - 1}"
            )


def _add_key(
    figure: Figure, area: Area, sizes: Mapping[str, int], colours: Mapping[str, str]
) -> None:
    """Each group's ring, name and number of images."""
    width = area.width / _PER_LINE
    for k, name in enumerate(sizes):
        x = area.left + (k % _PER_LINE) * width
        y = area.top + (k // _PER_LINE + 0.5) * LINE
        add_ring(figure, x + 0.04, y, colours[name])
        text = f"{name.replace('_', ' ')} ({sizes[name]})"
        add_text(figure, x + 0.12, y, text, width=width - 0.16, size=SMALL, va="center")


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
            path_effects=[withStroke(linewidth=1.4, foreground="white", alpha=0.6)],
            zorder=zorder,
        )
        axes.annotate(
            format_number(level),
            (stop, stop - level),
            (2, 2),
            textcoords="offset points",
            rotation=angle,
            rotation_mode="anchor",
            va="center",
            size=SMALL,
            color=FAINT,
            annotation_clip=False,
        )


def _rings(
    axes: Axes,
    excitation: Float[np.ndarray, " n"],
    inhibition: Float[np.ndarray, " n"],
    groups: Mapping[str, Sequence[int]],
    colours: Mapping[str, str],
) -> None:
    """A ring around the dot of each chosen image; of several groups, in an arc of each."""
    of_image: dict[int, list[str]] = {}
    for name, members in groups.items():
        for member in members:
            of_image.setdefault(member, []).append(name)
    for image, names in of_image.items():
        for k, name in enumerate(names):
            ends = np.linspace(k, k + 1, 24) / len(names) * 2 * np.pi
            axes.plot(
                excitation[image],
                inhibition[image],
                # The marker is the arc itself.
                marker=np.stack([np.cos(ends), np.sin(ends)], 1).tolist(),
                ms=6,
                mfc="none",
                mec=colours[name],
                mew=1.2,
                clip_on=False,
                zorder=3,
                path_effects=[withStroke(linewidth=2.2, foreground="white")],
            )

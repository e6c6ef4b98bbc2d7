"""What a feature does without its inhibition: before beside after, what newly fires, confusions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from opponent.explain.disinhibition.result import Disinhibited
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
    fit_text,
    styled,
    text_width,
    wrap_text,
)

# Okabe and Ito's: apart for the colour blind too.
COLOURS = {"own": "#D55E00", "tense": "#0072B2", "silent": "#8a8a8a"}
WORDS = {
    "all": "all channels",
    "most": "{k} channels that inhibit most",
    "random": "{k} channels at random",
    "functional": "all latents",
    "most-latents": "{k} latents that inhibit most",
    "random-latents": "{k} latents at random",
}
_ROW = 0.5  # inches a row of distributions takes


@dataclass(frozen=True, kw_only=True)
class Ridge:
    """One row of `disinhibition_figure`: how the network is run, and what the feature then does.

    Args:
        label: how it is run.
        values: by group of images, activations in standard deviations of f.
        rates: by group the share that fires, with its interval, and the share that does strongly.
    """

    label: str
    values: Mapping[str, Float[np.ndarray, " _"]]
    rates: Mapping[str, tuple[float, float, float, float]]


def words_of(found: Disinhibited, name: str, number: int = 0) -> str:
    """What is taken away, in words.

    Args:
        found: the measurement.
        name: the way to take inhibition away.
        number: of which feature.
    """
    members = found.ablations[found.draws(name)[0]].of(number)
    if members is None:
        return WORDS[name]
    text = WORDS[name].format(k=len(members))
    if len(members) == 1:
        text = text.replace("s that inhibit", " that inhibits").replace("s at", " at")
    return text


def plot_disinhibition(found: Disinhibited, number: int = 0) -> Figure:
    """How one feature's activations move when inhibition is taken away.

    Args:
        found: what `disinhibit` gives.
        number: which of its features.
    Returns:
        A figure of two columns.
    """
    f, label = found.activation[:, number], found.features[number].label
    deviation = float(f.astype(np.float64).std()) or 1.0
    groups = {name: x for name, x in found.groups(number).items() if name in COLOURS}
    rows = {(x["feature"], x["ablation"], x["group"], x["over"]): x for x in found.rates}

    def rates(name: str | None) -> dict[str, tuple[float, float, float, float]]:
        values = dict[str, tuple[float, float, float, float]]()
        for group in groups:
            zero, strong = (rows[label, name or "all", group, x] for x in ("zero", "strong"))
            keys = ("after", "after_low", "after_high") if name else ("before",) * 3
            numbers = [float(zero[key]) for key in keys]
            values[group] = (numbers[0], numbers[1], numbers[2], float(strong[keys[0]]))
        return values

    ridges = [
        Ridge(
            label="nothing",
            values={k: f[x] / deviation for k, x in groups.items()},
            rates=rates(None),
        )
    ]
    for name in found.names:
        place = found.draws(name)[0]
        after = found.exact[:, number, place] / deviation
        ridges.append(
            Ridge(
                label=words_of(found, name, number),
                values={k: after[x] for k, x in groups.items()},
                rates=rates(name),
            )
        )
    count = f"{found.network}, {len(found.images):,} images"
    return disinhibition_figure(
        ridges,
        label=f"{found.title(number)} through {found.through}",
        about=f"{count}, of which " + ", ".join(f"{x.sum():,} {k}" for k, x in groups.items()),
        strong=float(found.threshold[number]) / deviation,
    )


@styled
def disinhibition_figure(rows: Sequence[Ridge], *, label: str, about: str, strong: float) -> Figure:
    """Distributions of activations by group of images, and how often the feature fires.

    Args:
        rows: how the network is run; the first is as it is.
        label: the feature.
        about: how many images of each group.
        strong: the threshold of firing strongly, in standard deviations.
    Returns:
        A figure of two columns.
    """
    indent = max(text_width(row.label, SMALL) for row in rows) + 0.15
    top, gap, beside = MARGIN + 3.6 * LINE, 0.25, 1.6
    height = _ROW * len(rows)
    figure = Figure(figsize=(PAGE, top + height + 0.42))
    add_text(figure, MARGIN, MARGIN, label, width=PAGE - 2 * MARGIN, weight="bold")
    add_text(figure, MARGIN, MARGIN + LINE, about, width=PAGE - 2 * MARGIN, size=SMALL)
    for i, (name, colour) in enumerate(COLOURS.items()):
        words = {"own": "own images", "tense": "tense images", "silent": "silent images (f ≤ 0)"}
        left = MARGIN + indent + i * 1.1
        add_text(figure, left, MARGIN + 2.6 * LINE, f"■ {words[name]}", size=SMALL, color=colour)
    add_text(
        figure, MARGIN, MARGIN + 2.6 * LINE, "inhibition taken away of", size=SMALL, color=FAINT
    )
    width = PAGE - MARGIN - indent - gap - beside - 0.16
    axes = add_axes(figure, Area(MARGIN + indent, top, width, height))
    _draw_ridges(axes, rows, strong)
    right = add_axes(figure, Area(MARGIN + indent + width + gap, top, beside, height))
    _draw_rates(right, rows)
    return figure


def _draw_ridges(axes: Axes, rows: Sequence[Ridge], strong: float) -> None:
    groups = [x for row in rows for x in row.values.values() if len(x)]
    # All of each group in each row, but for an image in a hundred.
    low = min(float(np.quantile(x, 0.01)) for x in groups)
    high = max(float(np.quantile(x, 0.99)) for x in groups)
    room = 0.03 * (high - low) or 1.0
    grid = np.linspace(low - room, high + room, 300)
    for i, row in enumerate(rows):
        base = len(rows) - 1 - i
        axes.axhline(base, color=HAIR, lw=0.5, zorder=0)
        for name in ("silent", "own", "tense"):
            values = row.values[name]
            if not len(values):
                continue
            shape = _density(values, grid)
            shape *= 0.85 / shape.max()
            colour = COLOURS[name]
            axes.fill_between(grid, base, base + shape, color=colour, alpha=0.25, lw=0)
            axes.plot(grid, base + shape, color=colour, lw=0.9)
    axes.axvline(0, color=INK, lw=0.7)
    axes.axvline(strong, color=FAINT, lw=0.7, ls=(0, (2, 2)))
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(grid[0], grid[-1]), ylim=(-0.05, len(rows)))
    axes.set_xlabel("activation, in sd of f over all images")
    axes.spines["left"].set_visible(False)


def _density(
    values: Float[np.ndarray, " n"], grid: Float[np.ndarray, " g"]
) -> Float[np.ndarray, " g"]:
    """A smoothed histogram: Gaussians of Scott's width, at least a 150th of the axis."""
    values = values.astype(np.float64)
    width = max(values.std() * len(values) ** -0.2, (grid[-1] - grid[0]) / 150)
    counts, edges = np.histogram(values.clip(grid[0], grid[-1]), bins=400)
    middles = (edges[1:] + edges[:-1]) / 2
    density: Float[np.ndarray, " g"] = (
        counts * np.exp(-(((grid[:, None] - middles) / width) ** 2) / 2)
    ).sum(1)
    return density


def _draw_rates(axes: Axes, rows: Sequence[Ridge]) -> None:
    for i, row in enumerate(rows):
        base = len(rows) - 1 - i
        axes.axhline(base, color=HAIR, lw=0.5, zorder=0)
        for k, (name, colour) in enumerate(COLOURS.items()):
            value, low, high, strong = (100 * x for x in row.rates[name])
            level = base + 0.7 - 0.25 * k
            axes.plot([low, high], [level, level], color=colour, lw=1, clip_on=False)
            for x, face in ((value, colour), (strong, "white")):
                axes.plot(
                    x, level, "o", ms=3.4, color=colour, mfc=face, mew=0.8, clip_on=False, zorder=3
                )
    axes.set(xlim=(0, 100), ylim=(-0.05, len(rows)), yticks=[])
    axes.set_xlabel("% that fire (●), strongly (○)")
    axes.spines["left"].set_visible(False)


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One panel of `confusion_figure`.

    Args:
        label: how the network is run.
        together: of true classes by answers the shares of images, all logits replaced at once.
        alone: the same, each column with its own logit replaced alone.
        right: the share of all images that is taken for what it is, all replaced at once.
    """

    label: str
    together: Float[np.ndarray, "f f"]
    alone: Float[np.ndarray, "f f"]
    right: float


def plot_confusions(found: Disinhibited) -> Figure:
    """Which chosen classes are taken for which, with and without inhibition.

    Args:
        found: what `disinhibit` gives for logits, with labels.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: there are no labels, or no image is of a chosen class.
    """
    classes = found.classes
    if classes is None or not classes.own.any():
        raise ValueError("confusions need labels, and images of the chosen classes")
    before = found.activation

    def panel(label: str, after: list[np.ndarray]) -> Confusion:
        tables = [classes.shares(before, x) for x in after]
        together, alone = (np.mean([x[i] for x in tables], 0) for i in range(2))
        right = [classes.answer(x, "chosen")[classes.own] for x in after]
        true = classes.labels[classes.own]
        return Confusion(
            label=label,
            together=together,
            alone=alone,
            right=float(np.mean([x == true for x in right])),
        )

    panels = [panel("nothing", [before])]
    for name in found.names:
        places = found.draws(name)
        after = [found.exact[:, :, i] for i in places]
        panels.append(panel(words_of(found, name), after))
    return confusion_figure(
        panels,
        names=[classes.name(unit) for unit in classes.chosen],
        about=f"{found.network}, {int(classes.own.sum()):,} images: inhibition through "
        f"{found.through} taken away of",
    )


@styled
def confusion_figure(panels: Sequence[Confusion], *, names: Sequence[str], about: str) -> Figure:
    """Shares of the images of each class that are taken for each, one panel a way to run.

    Args:
        panels: the ways to run; the first is as it is.
        names: of the classes.
        about: which network and images.
    Returns:
        A figure of two columns.
    """
    shown = [fit_text(name.split(",")[0], 0.95, SMALL, "normal") for name in names]
    longest = max(text_width(x, SMALL) for x in shown)
    indent, gap = longest + 0.12, 0.08
    side = (PAGE - 2 * MARGIN - indent - gap * (len(panels) - 1)) / len(panels)
    side = min(side, 1.5)
    headings = [wrap_text(panel.label, side) for panel in panels]
    first = MARGIN + (3.4 + max(len(x) for x in headings)) * LINE
    second = first + side + 2.6 * LINE
    # Names under columns that are too narrow would run into each other.
    below = longest + 0.12 if side / len(names) > 0.09 else 0.08
    figure = Figure(figsize=(PAGE, second + side + below + 0.5))
    add_text(figure, MARGIN, MARGIN, about, width=PAGE - 2 * MARGIN, weight="bold")
    colours = LinearSegmentedColormap.from_list("share", ["#ffffff", "#0072B2", "#00263b"])
    for top, letter, words in (
        (MARGIN + 1.3 * LINE, "A", "All these logits replaced: the answer among these classes"),
        (second - 1.4 * LINE, "B", "Each logit replaced alone: taken for it among all classes"),
    ):
        add_text(figure, MARGIN, top, letter, size=LETTER, weight="bold")
        add_text(figure, MARGIN + 0.2, top + 0.01, words, size=SMALL)
    for i, (panel, lines) in enumerate(zip(panels, headings, strict=True)):
        left = MARGIN + indent + i * (side + gap)
        options: dict[str, Any] = {"width": side, "size": SMALL, "ha": "center"}
        for k, line in enumerate(lines):
            level = first - (len(lines) - k) * LINE
            add_text(figure, left + side / 2, level, line, color=INK, **options)
        right = f"{100 * panel.right:.0f} % right"
        add_text(figure, left + side / 2, first + side + 0.02, right, color=FAINT, **options)
        for top, values in ((first, panel.together), (second, panel.alone)):
            axes = add_axes(figure, Area(left, top, side, side))
            image = axes.imshow(values, vmin=0, vmax=1, cmap=colours)
            axes.set(xticks=[], yticks=[])
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set(visible=True, color=HAIR)
            if i == 0:
                axes.set_yticks(range(len(names)), shown)
            if top == second and below > 0.1:
                axes.set_xticks(range(len(names)), shown, rotation=90)
    bar = add_axes(figure, Area(MARGIN + indent, second + side + below + 0.06, 1.5, 0.07))
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.set_xticklabels(["0", "50", "100"])
    bar.tick_params(labelsize=SMALL)
    words = "% of a class (row) that is taken for a class (column)"
    add_text(figure, MARGIN + indent + 1.65, second + side + below + 0.04, words, size=SMALL)
    return figure

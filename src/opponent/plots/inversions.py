"""Figure 5: tense photographs, and what is synthesised from either side of their attribution."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from opponent.attribution.rules import AttributionRule
from opponent.core.colour import BLUE, RED
from opponent.core.errors import EmptyTarget
from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown, silent
from opponent.core.side import SIDES, Side
from opponent.core.text import in_deviations
from opponent.explain.crops import Synthetic, Tile, crop_synthetic, run_tiles
from opponent.models.network import Network
from opponent.plots.layout import (
    LINE,
    MARGIN,
    PAGE,
    Area,
    add_caption,
    add_captioned,
    add_heading,
    add_note,
    add_text,
    cell_height,
    styled,
)
from opponent.scan.reopen import network_of, rule_of
from opponent.selection import tense
from opponent.storage.columns import Columns
from opponent.storage.run import Run
from opponent.synthesis.cache import CachedImage, Kind, synthesise
from opponent.synthesis.settings import SynthesisSettings

# Tense images that are inverted and accentuated. Source: paper, figure 5.
TENSE = 3


@dataclass(frozen=True, kw_only=True)
class InversionRow:
    """One tense photograph in `inversions_figure`, and what was synthesised from it.

    Args:
        photo: the photograph.
        excitatory_accentuation, excitatory_inversion: of its excitation; None for not made.
        inhibitory_accentuation, inhibitory_inversion: of its inhibition; None for not made.
    """

    photo: Tile
    excitatory_accentuation: Synthetic | None = None
    excitatory_inversion: Synthetic | None = None
    inhibitory_accentuation: Synthetic | None = None
    inhibitory_inversion: Synthetic | None = None


def plot_inversions(
    run: Run,
    feature: Feature | str | None = None,
    *,
    network: Network | None = None,
    settings: SynthesisSettings | None = None,
    rule: AttributionRule | str | None = None,
    columns: Columns | None = None,
    progress: Progress | None = None,
) -> Figure:
    """Figure 5: a run's tensest images, accentuated and inverted for either side.

    What is synthesised is kept in the run folder, and read from there the next time.

    Args:
        run: a finished run.
        feature: one of its features; default: the only one.
        network: the network that was scanned; default: loaded again.
        settings: how images are synthesised; default: with the run's seed.
        rule: the rule that the run was scanned by, where it is the user's own.
        columns: the feature's columns, where they were read before.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        A figure of two columns.
    Raises:
        ValueError: the run does not hold that feature.
        RunError: the run is unfinished, its network cannot be loaded, or network or rule are
            others than the run's.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figure 5.
    """
    feature = run.feature(feature)
    columns = run.columns(feature) if columns is None else columns
    network, rule = network_of(run, network), rule_of(run, rule)
    settings = settings or SynthesisSettings(seed=run.manifest.seed)
    with shown(progress) as report:
        rows = tense_rows(run, network, feature, columns, settings, rule, report)
        both = visualisations(run, network, feature, columns, settings, report)
    return inversions_figure(rows, label=feature.label, visualisation=both)


def tense_rows(
    run: Run,
    network: Network,
    feature: Feature,
    columns: Columns,
    settings: SynthesisSettings,
    rule: AttributionRule | None = None,
    progress: Progress | None = None,
) -> list[InversionRow]:
    """The tensest images, each accentuated and inverted for both sides.

    Where one side of an image's attribution is empty, nothing is made for it.

    Args:
        run: the run.
        network: the network that was scanned.
        feature: one of the run's features.
        columns: that feature's columns.
        settings: how images are synthesised.
        rule: the rule that the run was scanned by, where it is the user's own.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        One row an image, at most three.
    Raises:
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figure 5.
    """
    indices = tense(columns, TENSE).tolist()
    words = {Side.EXCITATION: "excitatory", Side.INHIBITION: "inhibitory"}
    kinds: list[tuple[Side, Kind]] = [
        (side, kind) for side in SIDES for kind in ("accentuation", "inversion")
    ]
    what = f"{feature.label}: tense images"
    rows, done, total = [], 0, len(indices) * len(kinds)
    for index, tile in zip(indices, run_tiles(run, feature, columns, indices), strict=True):
        pictures: dict[str, Synthetic] = {}
        for side, kind in kinds:
            step = _steps(progress, what, done, total)
            image = columns.images[index]
            try:
                cached = synthesise(
                    run, network, feature, image, kind, side, settings, rule=rule, progress=step
                )
                pictures[f"{words[side]}_{kind}"] = _shown(run, feature, columns, cached)
            except EmptyTarget:
                pass
            done += 1
        rows.append(InversionRow(photo=tile, **pictures))
    return rows


def visualisations(
    run: Run,
    network: Network,
    feature: Feature,
    columns: Columns,
    settings: SynthesisSettings,
    progress: Progress | None = None,
) -> tuple[Synthetic, Synthetic]:
    """The feature visualisation upward and downward; an objective of inversions is not theirs.

    Args:
        run: the run.
        network: the network that was scanned.
        feature: one of the run's features.
        columns: that feature's columns.
        settings: how images are synthesised.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The image that excites the feature, and the one that inhibits it.
    Source: paper, figure 5.
    """
    what, settings = f"{feature.label}: feature visualisation", replace(settings, objective=None)
    up, down = (
        synthesise(
            run, network, feature, None, "visualisation", side, settings,
            progress=_steps(progress, what, done, 2),
        )
        for done, side in enumerate(SIDES)
    )  # fmt: skip
    return _shown(run, feature, columns, up), _shown(run, feature, columns, down)


def _steps(progress: Progress | None, what: str, done: int, total: int) -> Progress:
    """Progress of one of several images, in steps of all of them."""
    report = progress or silent
    return lambda _, step, steps: report(what, done * steps + step, total * steps)


def _shown(run: Run, feature: Feature, columns: Columns, cached: CachedImage) -> Synthetic:
    """A synthesised image, cropped to the receptive field, with the activation that it gives."""
    return crop_synthetic(
        cached,
        run.receptive_field(feature),
        run.preprocessing.size,
        in_deviations(cached.final / columns.deviation),
    )


@styled
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
    synthetics = {
        (k, sign, kind): getattr(row, f"{sign}_{kind}")
        for k, row in enumerate(rows)
        for sign in ("excitatory", "inhibitory")
        for kind in ("accentuation", "inversion")
    }
    kinds = list(dict.fromkeys(kind for (*_, kind), picture in synthetics.items() if picture))
    kinds = sorted(kinds) or ["inversion"]
    cells = [*synthetics.values(), *(visualisation or ()), *(row.photo for row in rows)]
    pictures = [picture for picture in cells if picture is not None]
    gutter, gap = 0.12, 0.04
    cell = (PAGE - 2 * MARGIN - 2 * gutter) / 5
    side, block = cell - gap, len(kinds) * cell - gap
    down = cell_height(pictures, side)
    pitch = down + 0.06 + LINE * any(picture.caption for picture in pictures)
    starts = [MARGIN + cell + gutter, MARGIN + (1 + len(kinds)) * cell + 2 * gutter]
    width, top = starts[1] + block + MARGIN, MARGIN + 2.7 * LINE
    lines = len(rows) + (visualisation is not None)
    figure = Figure(figsize=(width, top + lines * pitch + bool(rows) * LINE + MARGIN))
    add_text(figure, MARGIN, MARGIN, label, width=width - 2 * MARGIN, weight="bold")
    add_heading(figure, starts[0], MARGIN + 1.3 * LINE, block, "excitation", RED)
    add_heading(figure, starts[1], MARGIN + 1.3 * LINE, block, "inhibition", BLUE)
    if visualisation is not None:
        add_note(figure, Area(MARGIN, top, side, down), "the feature itself")
        for left, picture in zip(starts, visualisation, strict=True):
            add_captioned(figure, Area(left + (block - side) / 2, top, side, down), picture)
        top += pitch
    columns = [
        (left + k * cell, sign, kind)
        for left, sign in zip(starts, ("excitatory", "inhibitory"), strict=True)
        for k, kind in enumerate(kinds)
    ]
    if rows:
        for left, name in ((MARGIN, "photograph"), *((left, kind) for left, _, kind in columns)):
            add_caption(figure, Area(left, top - 0.03, side, 0.0), name)
        top += LINE
    for k, row in enumerate(rows):
        add_captioned(figure, Area(MARGIN, top, side, down), row.photo)
        for left, sign, kind in columns:
            add_captioned(figure, Area(left, top, side, down), synthetics[k, sign, kind])
        top += pitch
    return figure

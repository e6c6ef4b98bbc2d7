"""A run's figures: the paper's 2, 4a, 4b to g, 5 and 6."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from opponent.atlas.atlas import Atlas
from opponent.core.box import scale_box
from opponent.core.errors import EmptyTarget
from opponent.core.feature import Feature
from opponent.explain.crops import run_tiles
from opponent.geometry.receptive_field import receptive_field
from opponent.models.network import Network
from opponent.plots import (
    ExemplarRow,
    InversionRow,
    Synthetic,
    atlas_figure,
    energy_figure,
    exemplars_figure,
    groups_figure,
    inversions_figure,
    map_figure,
    save,
    selection_figure,
)
from opponent.selection import exciting, inhibiting, select, tense
from opponent.storage.files import AnyPath, to_path
from opponent.storage.run import Run
from opponent.synthesis.cache import CachedImage, Kind, make
from opponent.synthesis.settings import SynthesisSettings

SUFFIXES = ("png", "pdf", "svg")
# Tense images that are inverted and accentuated. Source: paper, figure 5.
TENSE = 3

Progress = Callable[[str, int, int], None]


def write_figures(
    run: Run,
    folder: str | AnyPath,
    *,
    features: Sequence[Feature],
    k: int = 4,
    suffix: str = "png",
    network: Network | None = None,
    settings: SynthesisSettings | None = None,
    progress: Progress | None = None,
) -> list[AnyPath]:
    """Draw figure 2 for all features together, and figures 4a, 4b to g and 5 for each.

    Args:
        run: a finished run.
        folder: where to.
        features: which of the run's features.
        k: images a group.
        suffix: png, pdf or svg.
        network: the network that was scanned; without it there is no figure 5.
        settings: how images are synthesised.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The files' paths.
    Raises:
        ValueError: another suffix.
    Source: paper, figures 2, 4 and 5.
    """
    check_suffix(suffix)
    folder, paths, rows = to_path(folder), list[AnyPath](), []
    for number, feature in enumerate(features):
        columns = run.columns(feature)
        name = feature.label.replace(":", "-").replace("@", "-").replace(",", "_")
        rows.append(
            ExemplarRow(
                label=feature.label,
                exciting=run_tiles(run, feature, columns, exciting(columns, k).tolist()),
                inhibiting=run_tiles(run, feature, columns, inhibiting(columns, k).tolist()),
                group=feature.layer,
            )
        )
        groups = {group: chosen.tolist() for group, chosen in select(columns, k).items()}
        paths += [
            folder / f"figure4a-{name}.{suffix}",
            folder / f"figure4b-g-{name}.{suffix}",
        ]
        energy = energy_figure(
            columns.excitation,
            columns.inhibition,
            columns.activation,
            groups=groups,
            label=feature.label,
            through=run.manifest.through,
            deviation=float(columns.activation.std()) or None,
        )
        save(energy, paths[-2])
        tiles = {group: run_tiles(run, feature, columns, i) for group, i in groups.items()}
        save(groups_figure(tiles, label=feature.label), paths[-1])
        if network is not None:
            how = settings or SynthesisSettings(seed=run.manifest.seed)
            figure = inversions_figure(
                tense_rows(run, network, feature, how, progress),
                label=feature.label,
                visualisation=visualisations(run, network, feature, how, progress),
            )
            paths.append(folder / f"figure5-{name}.{suffix}")
            save(figure, paths[-1])
        if progress is not None:
            progress("figures", number + 1, len(features))
    save(exemplars_figure(rows), folder / f"figure2.{suffix}")
    return [folder / f"figure2.{suffix}", *paths]


def check_suffix(suffix: str) -> None:
    """Check that figures can be written in that format.

    Raises:
        ValueError: they cannot.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"figures are {', '.join(SUFFIXES)}, not {suffix!r}")


def write_atlas(atlas: Atlas, *, suffix: str = "png") -> list[AnyPath]:
    """Draw an atlas: figure 6a to c, the colouring by tension, and both sides where they were made.

    Returns:
        The files' paths, all in the atlas' folder.
    Source: paper, figure 6.
    """
    check_suffix(suffix)
    columns = atlas.run.columns(atlas.feature, maps=False)
    on_map, label = set(atlas.map["image"].to_pylist()), atlas.feature.label
    deviation = float(columns.activation.std())
    figures = {
        "figure6a": selection_figure(
            columns.excitation,
            columns.inhibition,
            np.array([image in on_map for image in columns.images]),
            label=label,
        ),
        "figure6b": map_figure(
            np.stack([atlas.map["x"].to_numpy(), atlas.map["y"].to_numpy()], 1),
            atlas.map["activation"].to_numpy(),
            deviation=deviation,
            grid=atlas.settings.grid,
            label=label,
        ),
    }
    cells = {(cell.row, cell.column): cell for cell in atlas.cells}
    energies = {at: (c.mean_excitation, c.mean_inhibition) for at, c in cells.items()}
    views: list[tuple[str, Literal["activation", "tension"], list[str]]] = [
        ("atlas", "activation", ["both"]),
        ("atlas-tension", "tension", ["both"]),
    ]
    if atlas.signed:
        views.append(("atlas-signed", "activation", ["excitation", "inhibition"]))
    for name, colour_by, signs in views:
        figures[name] = atlas_figure(
            {at: [cell.pixels(sign) for sign in signs] for at, cell in cells.items()},
            grid=atlas.settings.grid,
            label=label,
            through=atlas.run.manifest.through,
            colour_by=colour_by,
            activation={at: [cell.activations[s] for s in signs] for at, cell in cells.items()},
            energies=energies,
            deviation=deviation,
        )
    paths = [atlas.folder / f"{name}.{suffix}" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save(figure, path)
    return paths


def tense_rows(
    run: Run,
    network: Network,
    feature: Feature,
    settings: SynthesisSettings,
    progress: Progress | None = None,
) -> list[InversionRow]:
    """The tensest images, each accentuated and inverted for both signs.

    Where one side of an image's attribution is empty, nothing is made for it.
    Source: paper, figure 5.
    """
    columns = run.columns(feature)
    indices = tense(columns, TENSE).tolist()
    sides = {1: "excitatory", -1: "inhibitory"}
    kinds: list[tuple[int, Kind]] = [
        (sign, kind) for sign in sides for kind in ("accentuation", "inversion")
    ]
    rows, done, total = [], 0, len(indices) * len(kinds)
    for index, tile in zip(indices, run_tiles(run, feature, columns, indices), strict=True):
        made: dict[str, Synthetic] = {}
        for sign, kind in kinds:
            try:
                tell = _steps(progress, f"{feature.label}: tense images", done, total)
                one = make(run, network, feature, columns.images[index], kind, sign, settings, tell)
                made[f"{sides[sign]}_{kind}"] = _shown(run, feature, one)
            except EmptyTarget:
                pass
            done += 1
        rows.append(InversionRow(photo=tile, **made))
    return rows


def visualisations(
    run: Run,
    network: Network,
    feature: Feature,
    settings: SynthesisSettings,
    progress: Progress | None = None,
) -> tuple[Synthetic, Synthetic]:
    """The feature visualisation upward and downward. Source: paper, figure 5."""
    up, down = (
        _shown(
            run,
            feature,
            make(
                run,
                network,
                feature,
                None,
                "visualisation",
                sign,
                settings,
                _steps(progress, f"{feature.label}: feature visualisation", done, 2),
            ),
        )
        for done, sign in enumerate((1, -1))
    )
    return up, down


def visualisation(
    run: Run,
    network: Network,
    name: str,
    settings: SynthesisSettings,
    progress: Progress | None = None,
    done: int = 0,
    total: int = 1,
) -> Synthetic:
    """The feature visualisation of any unit of a run's network, such as an upstream channel."""
    feature = network.resolve(name)
    tell = _steps(progress, "visualisations of channels", done, total)
    made = make(run, network, feature, None, "visualisation", 1, settings, tell)
    pixels = made.pixels()
    box = scale_box(receptive_field(network, feature), run.preprocessing.size, pixels.shape[:2])
    return Synthetic(image=pixels[box.slices], caption="")


def _steps(
    progress: Progress | None, what: str, done: int, total: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda step, steps: progress(what, done * steps + step, total * steps)


def _shown(run: Run, feature: Feature, made: CachedImage) -> Synthetic:
    """A synthesised image, cropped to the receptive field, with the activation that it gives."""
    pixels = made.pixels().copy()
    if made.kind == "accentuation":
        pixels[..., 3] = 255  # it is a photograph all over
    box = scale_box(run.receptive_field(feature), run.preprocessing.size, pixels.shape[:2])
    deviation = float(run.columns(feature).activation.std()) or 1.0
    return Synthetic(image=pixels[box.slices], caption=f"{made.final / deviation:+.1f} sd")

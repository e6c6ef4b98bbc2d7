"""All figures of a run, of an atlas or of a disinhibition, written to a folder."""

import json
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from opponent.atlas.atlas import Atlas
from opponent.attribution.rules import AttributionRule
from opponent.core.feature import Feature
from opponent.core.progress import Progress, displayed, silent
from opponent.core.text import csv_text, file_name
from opponent.explain.disinhibition.result import Disinhibited
from opponent.explain.disinhibition.shown import firing_tiles
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.plots.atlas import plot_atlas, plot_map, plot_selection
from opponent.plots.disinhibition import plot_confusions, plot_disinhibition, words_of
from opponent.plots.energies import plot_energies
from opponent.plots.exemplars import exemplar_row, exemplars_figure
from opponent.plots.groups import groups_figure, plot_groups
from opponent.plots.inversions import plot_inversions
from opponent.plots.layout import check_suffix, save
from opponent.selection import Selection
from opponent.storage.files import AnyPath, to_path, write_text
from opponent.storage.lookup import features_of
from opponent.storage.run import Run
from opponent.storage.tables import write_table
from opponent.synthesis.settings import SynthesisSettings


@displayed
def write_figures(
    run: Run,
    folder: str | AnyPath,
    *,
    features: Sequence[Feature | str] | None = None,
    k: int = 4,
    selections: Sequence[Selection | str] | None = None,
    suffix: str = "png",
    network: Network | None = None,
    settings: SynthesisSettings | None = None,
    rule: AttributionRule | str | None = None,
    progress: Progress | None = None,
) -> list[AnyPath]:
    """Draw figure 2 for all features together, and figures 4a, 4b to g and 5 for each.

    Args:
        run: a finished run.
        folder: where to.
        features: which of the run's features; default: all of them.
        k: images a group.
        selections: which groups figures 4a to g show, by name or as objects; default: the built-in
            six.
        suffix: png, pdf or svg.
        network: the network that was scanned; without it there is no figure 5.
        settings: how images are synthesised.
        rule: the rule that the run was scanned by, where it is the user's own.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The files' paths.
    Raises:
        ValueError: another suffix, a feature that the run does not hold, or `select` refuses k or a
            selection.
        RunError: the run is unfinished, or network or rule are others than the run's.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, figures 2, 4 and 5.
    """
    check_suffix(suffix)
    report, folder, paths, rows = progress or silent, to_path(folder), list[AnyPath](), []
    chosen = features_of(run, features)
    for number, feature in enumerate(chosen):
        columns = run.columns(feature)
        rows.append(exemplar_row(run, feature, k=k, columns=columns))
        figures = {
            "figure4a": plot_energies(run, feature, k=k, selections=selections, columns=columns),
            "figure4b-g": plot_groups(run, feature, k=k, selections=selections, columns=columns),
        }
        if network is not None:
            figures["figure5"] = plot_inversions(
                run,
                feature,
                network=network,
                settings=settings,
                rule=rule,
                columns=columns,
                progress=report,
            )
        for name, figure in figures.items():
            paths.append(folder / f"{name}-{file_name(feature.label)}.{suffix}")
            save(figure, paths[-1])
        report("figures", number + 1, len(chosen))
    save(exemplars_figure(rows), folder / f"figure2.{suffix}")
    return [folder / f"figure2.{suffix}", *paths]


def write_atlas(atlas: Atlas, *, suffix: str = "png") -> list[AnyPath]:
    """Draw an atlas: figure 6a to c, the colouring by tension, and both sides where they were made.

    Args:
        atlas: the atlas.
        suffix: png, pdf or svg.
    Returns:
        The files' paths, all in the atlas' folder.
    Raises:
        ValueError: another suffix.
        RunError: a file of the atlas or of its run is damaged.
    Source: paper, figure 6.
    """
    check_suffix(suffix)
    columns = atlas.run.columns(atlas.feature, maps=False)
    figures: dict[str, Figure] = {
        "figure6a": plot_selection(atlas, columns=columns),
        "figure6b": plot_map(atlas, columns=columns),
        "atlas": plot_atlas(atlas, columns=columns),
        "atlas-tension": plot_atlas(atlas, colour_by="tension", columns=columns),
    }
    if atlas.signed:
        figures["atlas-signed"] = plot_atlas(atlas, signed=True, columns=columns)
    paths = [atlas.folder / f"{name}.{suffix}" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save(figure, path)
    return paths


@displayed
def write_disinhibited(
    found: Disinhibited,
    folder: str | AnyPath,
    *,
    network: Network,
    images: Images,
    suffix: str = "png",
    progress: Progress | None = None,
) -> list[AnyPath]:
    """Write a disinhibition's tables, its summary, and its figures.

    Args:
        found: what `disinhibit` gives.
        folder: where to.
        network: the network that was measured.
        images: the images that were measured.
        suffix: png, pdf or svg.
        progress: called with what is being done, the features done and the features in all;
            default: a display that appears after two seconds.
    Returns:
        The files' paths: disinhibition.json, tables with one row an image, feature and way, tables
        of groups of images, and for each feature its distributions and the images that newly fire;
        with labels the confusions.
    Raises:
        ValueError: another suffix.
        Unreadable: an image cannot be read any more.
    """
    check_suffix(suffix)
    report, folder = progress or silent, to_path(folder)
    source = open_images(images, size=network.preprocessing.size)
    paths = _write_tables(found, folder)
    for number, feature in enumerate(found.features):
        tiles = firing_tiles(network, source, found, number)
        named = {_heading(found, number, name): each for name, each in tiles.items()}
        label = f"{found.title(number)} through {found.through}: with → without inhibition"
        figures = {
            "before-after": plot_disinhibition(found, number),
            "newly-firing": groups_figure(named, label=label, first_letter="A"),
        }
        for name, figure in figures.items():
            paths.append(folder / f"{name}-{file_name(feature.label)}.{suffix}")
            save(figure, paths[-1])
        report("figures", number + 1, len(found.features))
    if found.classes is not None and found.classes.own.any():
        paths.append(folder / f"confusions.{suffix}")
        save(plot_confusions(found), paths[-1])
    return paths


def _heading(found: Disinhibited, number: int, name: str) -> str:
    if name == "own":
        return "own images; without the inhibition of all channels"
    return f"newly fire without the inhibition of {words_of(found, name, number)}"


def _write_tables(found: Disinhibited, folder: AnyPath) -> list[AnyPath]:
    described = found.describe()
    paths = [folder / f"disinhibition.{x}" for x in ("json", "parquet", "csv")]
    write_text(paths[0], json.dumps(described, indent=1, allow_nan=False) + "\n")
    table = found.to_arrow()
    write_table(paths[1], table)
    columns = [table[name].to_pylist() for name in table.column_names]
    write_text(paths[2], csv_text([table.column_names, *zip(*columns, strict=True)]))
    for name in ("rates", "summary", "predictors", "accuracy", "confusions"):
        rows: Sequence[Mapping[str, object]] = getattr(found, name)
        if rows:
            paths.append(folder / f"{name}.csv")
            write_text(paths[-1], csv_text([tuple(rows[0]), *(tuple(x.values()) for x in rows)]))
    return paths

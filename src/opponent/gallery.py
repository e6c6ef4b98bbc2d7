"""A run's figures: the paper's 2, 4a and 4b to g."""

from collections.abc import Callable, Sequence
from pathlib import Path

from opponent.features import Feature
from opponent.figures import (
    ExemplarRow,
    energy_figure,
    exemplars_figure,
    groups_figure,
    save,
)
from opponent.run import Run
from opponent.tension import exciting, inhibiting, select
from opponent.tiles import run_tiles

SUFFIXES = ("png", "pdf", "svg")


def write_figures(
    run: Run,
    folder: str | Path,
    *,
    features: Sequence[Feature],
    k: int = 4,
    suffix: str = "png",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Draw figure 2 for all features together, and figures 4a and 4b to g for each.

    Args:
        run: a finished run.
        folder: where to.
        features: which of the run's features.
        k: images a group.
        suffix: png, pdf or svg.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The files' paths.
    Raises:
        ValueError: another suffix.
    Source: paper, figures 2 and 4.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"figures are {', '.join(SUFFIXES)}, not {suffix!r}")
    folder, paths, rows = Path(folder), [], []
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
        if progress is not None:
            progress("figures", number + 1, len(features))
    save(exemplars_figure(rows), folder / f"figure2.{suffix}")
    return [folder / f"figure2.{suffix}", *paths]

"""How an atlas is made, stage by stage. A finished stage is kept in files and not repeated.

The stages: the map, the means of the cells, each batch of icons. Source: paper, section 5.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from opponent.atlas.atlas import (
    CELL_COLUMNS,
    COMMAND,
    MAP_COLUMNS,
    Atlas,
    AtlasRecord,
    AtlasSettings,
    IconAgreement,
    activation_column,
    icon_name,
)
from opponent.atlas.icons import IconMaker
from opponent.atlas.layout import (
    cells_of,
    largest,
    lay_out,
    occupied,
    to_square,
    trustworthiness,
)
from opponent.atlas.means import CellMeans, Directions, Means
from opponent.attribution.attribute import attribute_each, refuse_unreadable
from opponent.attribution.rules import AttributionRule
from opponent.core.box import Box
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.progress import Progress, shown
from opponent.core.side import SIDES, Side
from opponent.geometry.receptive_field import receptive_field
from opponent.images.imageset import ImageSet
from opponent.images.loader import load_batches
from opponent.models.network import Network
from opponent.scan.executor import Executor
from opponent.scan.reopen import (
    baseline_of,
    check_whole,
    crop_plan_of,
    dictionary_of,
    network_of,
    rule_of,
)
from opponent.storage.checkpoints import CheckpointFolder
from opponent.storage.columns import SCALARS, Columns
from opponent.storage.files import AnyPath, write_text
from opponent.storage.manifest import feature_record, versions
from opponent.storage.run import Run
from opponent.storage.tables import damage_refused, read_metadata, read_table, write_table
from opponent.synthesis.settings import not_synthesised

# Largest size in bytes of S with its rows and columns, for all images.
LARGEST = 2 * 1024**3
_TRUST = b"trustworthiness"  # in the metadata of the map

# For each cell (row, column), the rows of the map that lie in it.
Members = dict[tuple[int, int], list[int]]


def make_atlas(
    run: Run,
    feature: Feature | str | None = None,
    *,
    network: Network | None = None,
    settings: AtlasSettings | None = None,
    signed: bool = False,
    rule: AttributionRule | str | None = None,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Atlas:
    """Make the atlas of a feature, or continue one that was interrupted.

    Args:
        run: a finished run.
        feature: a feature of the run; default: the only one.
        network: the network that was scanned; default: loaded again.
        settings: which images, cells and icons the atlas has; default: `AtlasSettings` with the
            run's seed.
        signed: also make an icon of each side for each cell, since |S| loses the side.
        rule: the rule that the run was scanned by, where it is a user's own.
        executor: makes the icons elsewhere, batch by batch, such as `opponent.Ray`; None makes
            them here.
        progress: called with what is being done, the steps done and the steps in all; default: a
            display that appears after two seconds.
    Returns:
        The finished atlas.
    Raises:
        RunError: the run is not finished, the network or rule is not that of the run, or a stage
            of the atlas is damaged.
        ValueError: the network takes other images than RGB; there are too few images, or no cell
            holds enough of them; the network does not lie where the executor computes.
        Unreadable: an image that was scanned cannot be read any more.
    Source: paper, section 5 and figure 6.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     opponent.make_atlas(run, settings=opponent.AtlasSettings(
    ...         grid=1, min_images=1, neighbours=2, steps=2))
    Atlas('mixed3b:189@7,7': 4 images, 1 cells of 1 x 1)
    """
    check_whole(run, "an atlas")
    feature, settings = run.feature(feature), settings or AtlasSettings(seed=run.manifest.seed)
    network, rule = network_of(run, network), rule_of(run, rule)
    if reason := not_synthesised(network):
        raise ValueError(reason)
    if executor is not None:
        executor.check(network, by_name=False)
    columns = run.columns(feature, maps=False)
    question = _question(run, feature, settings)
    checkpoints = CheckpointFolder.named(run.folder / "atlas", feature.label, question)
    folder = checkpoints.folder
    with shown(progress) as report:
        builder = _Builder(run, network, rule, feature, settings, checkpoints, report)
        try:
            table = builder.map(columns)
        except Exception:  # too few images, for example: leave no folder behind
            checkpoints.discard_empty()
            raise
        members = _members(table, settings)
        means = builder.means(table, members)
        maker = IconMaker(run, network, feature, settings, folder, list(members), means, report)
        signed = signed or (folder / "icons" / "excitation-000.json").is_file()
        sides = [Side.BOTH, *(SIDES if signed else ())]
        missing = [(side, number) for side in sides for number in maker.missing(side)]
        if executor is None:
            for side, number in missing:
                maker.make(side, number)
        else:
            maker.make_elsewhere(missing, executor)
    icons = {side: maker.activations(side) for side in sides}
    about = AtlasRecord(
        **{**question, "feature": feature_record(feature), "settings": settings},
        images=len(table),
        cells=len(members),
        deviation=columns.spread,
        trustworthiness=_read_trust(folder / "map.parquet"),
        icons_against_images=_agreement(builder.cells(table, members, icons)),
    )
    text = json.dumps(msgspec.to_builtins(about), indent=1) + "\n"
    record = folder / "atlas.json"
    # Not written again: `atlases` sorts by its time.
    if not record.is_file() or record.read_bytes() != text.encode():
        write_text(record, text)
    return Atlas(run, folder)


def _question(run: Run, feature: Feature, settings: AtlasSettings) -> dict[str, Any]:
    """What determines the atlas."""
    question: dict[str, Any] = {
        "feature": feature.describe(),
        "through": run.through,
        "settings": asdict(settings),
        "run": run.digest,
        "versions": {**versions(), "umap-learn": version("umap-learn")},
    }
    if run.manifest.dictionary is not None:
        question["dictionary"] = run.manifest.dictionary.sha256
    return question


class _Builder:
    """The stages of an atlas, but for its icons."""

    def __init__(
        self,
        run: Run,
        network: Network,
        rule: AttributionRule,
        feature: Feature,
        settings: AtlasSettings,
        checkpoints: CheckpointFolder,
        progress: Progress,
    ) -> None:
        self.run, self.network, self.rule, self.feature = run, network, rule, feature
        self.settings, self.checkpoints, self.progress = settings, checkpoints, progress
        self.folder, self.dictionary = checkpoints.folder, dictionary_of(run)

    def map(self, columns: Columns) -> pa.Table:
        """Choose the images and lay them out."""
        path, settings = self.folder / "map.parquet", self.settings
        if path.is_file():
            return read_table(path, COMMAND, MAP_COLUMNS)
        chosen = largest(columns.l2, settings.top)
        what = f"{self.feature.label}: map of {len(chosen):,} images"
        self.progress(what, 0, 1)
        if settings.space:
            vectors = self._with_space([columns.images[i] for i in chosen])
        else:
            vectors = self.run.channels(self.feature, rows=chosen)
        layout = lay_out(
            vectors,
            neighbours=settings.neighbours,
            min_dist=settings.min_dist,
            seed=settings.seed,
        )
        square = to_square(layout)
        trust = trustworthiness(vectors, square, settings.neighbours, settings.seed)
        cells = cells_of(square, settings.grid)
        table = pa.table(
            {
                "image": [columns.images[i] for i in chosen],
                "x": square[:, 0],
                "y": square[:, 1],
                "row": pa.array(cells[:, 0], pa.int32()),
                "column": pa.array(cells[:, 1], pa.int32()),
                **{name: getattr(columns, name)[chosen] for name in SCALARS},
            }
        )
        write_table(path, table.replace_schema_metadata({_TRUST: repr(trust).encode()}))
        self.progress(what, 1, 1)
        return read_table(path, COMMAND, MAP_COLUMNS)

    def _with_space(self, images: Sequence[str]) -> Float[np.ndarray, "n d"]:
        window = self._window()
        length = self.run.manifest.through_shape[0] * window.height * window.width
        if 4 * length * len(images) > LARGEST:
            raise ValueError(
                f"S with its space takes {4 * length * len(images) / 1024**3:.1f} GB for "
                f"{len(images):,} images; lay out at most {LARGEST // (4 * length):,} (--top), "
                "or S summed over space"
            )
        vectors, done = np.empty((len(images), length), np.float32), 0
        for batch, _ in self._attributions(images, "attributions"):
            vectors[done : done + len(batch)] = batch.flatten(1).cpu().numpy()
            done += len(batch)
        return vectors

    def _window(self) -> Box:
        """The box of the through layer's maps that S lies in, tokens beside the image too."""
        return receptive_field(self.network, self.feature, self.run.through)

    def _attributions(
        self, images: Sequence[str], what: str, start: int = 0
    ) -> Iterator[tuple[Float[Tensor, "n l y x"], Float[Tensor, "n l y x"]]]:
        """S and what it weighs (h, or a code), within the window, computed from the photographs.

        Args:
            images: ids of images of the run.
            what: what progress calls it.
            start: how many of the images are skipped, since they are done.
        Returns:
            Batches, in order.
        """
        entries = tuple(self.run.images.find(image) for image in images[start:])
        chosen = ImageSet(source="", entries=entries)
        baseline = baseline_of(self.run, self.network, self.rule)
        plan = crop_plan_of(self.run, self.network, [self.feature])
        batches = load_batches(
            entries, self.run.preprocessing.fit, batch_size=self.run.manifest.batch_size
        )
        with closing(batches):
            for batch in batches:
                refuse_unreadable(batch.unreadable, chosen, "was scanned but cannot be read now")
                if not batch.numbers:
                    continue
                [result] = attribute_each(
                    self.network,
                    self.network.inputs(batch.pixels),
                    [self.feature],
                    self.run.through,
                    rule=self.rule,
                    baseline=baseline,
                    plan=plan,
                    dictionary=self.dictionary,
                )
                yield result.window_attribution, result.change
                self.progress(f"{self.feature.label}: {what}", start + batch.done, len(images))

    def means(self, table: pa.Table, members: Members) -> Means | Directions:
        """The means of each cell, or the directions that they give."""
        window = self._window()
        cells = CellMeans(
            path=self.folder / "cells.safetensors",
            checkpoints=self.checkpoints,
            attributions=self._attributions,
            shape=(self.run.manifest.through_shape[0], window.height, window.width),
            dictionary=self.dictionary,
        )
        return cells.of(table["image"].to_pylist(), list(members.values()))

    def cells(
        self, table: pa.Table, members: Members, icons: Mapping[Side, Sequence[float | None]]
    ) -> pa.Table:
        """Write the table of the cells, where it is not there, and return it."""
        ids = table["image"].to_pylist()
        values = {name: table[name].to_numpy() for name in (*SCALARS[:3], "x", "y")}
        rows = [
            {
                "row": row,
                "column": column,
                "count": len(inside),
                "images": [ids[j] for j in inside],
                **{f"mean_{name}": float(values[name][inside].mean()) for name in SCALARS[:3]},
                **{activation_column(side): activations[i] for side, activations in icons.items()},
                "icon": f"icons/{icon_name(row, column, Side.BOTH)}",
            }
            for i, ((row, column), inside) in enumerate(members.items())
        ]
        cells, path = pa.Table.from_pylist(rows), self.folder / "atlas.parquet"
        with suppress(RunError):  # a damaged one is written again
            if path.is_file() and read_table(path, COMMAND, CELL_COLUMNS, others=True).equals(
                cells
            ):
                return cells
        write_table(path, cells)
        return cells


def _members(table: pa.Table, settings: AtlasSettings) -> Members:
    """For each cell that holds enough images, its rows of the map."""
    cells = np.stack([table["row"].to_numpy(), table["column"].to_numpy()], 1)
    return {
        (row, column): np.flatnonzero((cells == (row, column)).all(1)).tolist()
        for row, column in occupied(cells, settings.min_images).tolist()
    }


def _agreement(cells: pa.Table) -> IconAgreement:
    """Rank correlation of the icons' activations with the mean activations of their cells."""
    from scipy.stats import spearmanr

    icons, images = (cells[name].to_numpy() for name in ("activation", "mean_activation"))
    if len(icons) < 3 or not (np.ptp(icons) and np.ptp(images)):
        return IconAgreement(spearman=None, p=None)
    correlation = spearmanr(icons, images)
    return IconAgreement(spearman=float(correlation.statistic), p=float(correlation.pvalue))


def _read_trust(path: AnyPath) -> float:
    with damage_refused(path, COMMAND):
        return float(read_metadata(path, COMMAND)[_TRUST])

"""The feature attribution atlas: all the ways in which images drive one feature, on one map.

    RUN/atlas/NAME/atlas.json     what was asked for, and how well the map holds
    RUN/atlas/NAME/map.parquet    one row an image: its place and cell, its energies
    RUN/atlas/NAME/cells.safetensors   each cell's mean S
    RUN/atlas/NAME/icons/         each cell's inversions, with opacity
    RUN/atlas/NAME/atlas.parquet  one row a cell

Every stage leaves its files and is not repeated; the icons are a stage a batch.
Source: paper, section 5; constants as Carter et al. (2019) where the paper names none.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from math import floor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from opponent.attribution.attribute import attribute_each
from opponent.core.box import scale_box
from opponent.core.errors import RunError, Unreadable
from opponent.core.feature import Feature
from opponent.images.sources import stream
from opponent.models.network import Network
from opponent.selection import Columns, Indices, top
from opponent.storage.files import AnyPath, local, opened, whole, write_text
from opponent.storage.run import SCALARS, Run, versions
from opponent.synthesis.inversion import SynthesisSettings, invert_attribution

# How the layout becomes a square: its 1st and 99th percentile, and a margin of a tenth around.
PERCENTILES, MARGIN = (1.0, 99.0), 0.1
# Trustworthiness takes all pairs; beyond so many images it is that of a seeded sample.
TRUSTED = 3000
# S with its rows and columns, for all images at once, may take so many bytes.
LARGEST = 2 * 1024**3
# Images between two savings of the cells' sums.
_SAVED = 2048
_TRUST = b"trustworthiness"
SIGNS = {"both": 0, "excitation": 1, "inhibition": -1}
RATE, POWER = 0.06, 2.0

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class AtlasSettings:
    """What an atlas is made of.

    Args:
        top: how many images, those with the largest L2 norm of S.
        grid: cells a side.
        min_images: cells with fewer stay empty; 6 is "more than 5".
        neighbours, min_dist: of UMAP.
        space: lay out S with its rows and columns, not summed over them.
        seed: of the layout and of the icons.
        steps: of each icon's optimisation.
        batch: icons at once; they do not depend on it but for rounding.
    """

    top: int = 10_000
    grid: int = 20
    min_images: int = 6
    neighbours: int = 10
    min_dist: float = 0.1
    space: bool = False
    seed: int = 0
    steps: int = 100
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("top", "grid", "min_images", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.neighbours < 2:
            raise ValueError(f"neighbours must be at least 2, got {self.neighbours}")
        if not 0 <= self.min_dist <= 1:
            raise ValueError(f"min_dist lies between 0 and 1, got {self.min_dist}")

    @property
    def synthesis(self) -> SynthesisSettings:
        """How the icons are made."""
        return SynthesisSettings(
            steps=self.steps, rate=RATE, power=POWER, seed=self.seed, batch=self.batch
        )


# Pure functions: from vectors to cells


def largest(l2: Float[np.ndarray, " n"], count: int) -> Indices:
    """The images with the largest L2 norm of S, largest first; images that nothing drives never.

    Source: paper, section 5, image selection.
    """
    return top(l2, count, l2 > 0)


def lay_out(
    vectors: Float[np.ndarray, "n d"], *, neighbours: int = 10, min_dist: float = 0.1, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """A place in the plane for each vector, so that vectors of like direction lie together: UMAP.

    Raises:
        ValueError: too few vectors; one that is zero or not finite.
    Source: paper, section 5, attribution UMAP.
    """
    least = 2 * neighbours
    if len(vectors) < least:
        raise ValueError(
            f"a map of {len(vectors)} images: UMAP with {neighbours} neighbours needs at least "
            f"{least} that drive the feature; scan more images"
        )
    if not np.isfinite(vectors).all() or not vectors.any(1).all():
        raise ValueError("a map needs vectors that are finite and not zero; scan again")
    # Slow to import: only where it is used.
    from umap import UMAP

    # One thread, as the seed asks for.
    mapper = UMAP(
        n_neighbors=neighbours, min_dist=min_dist, metric="cosine", random_state=seed, n_jobs=1
    )
    threads = torch.get_num_threads()
    try:
        places: Float[np.ndarray, "n 2"] = mapper.fit_transform(vectors)
    finally:
        # Its threads are PyTorch's: it sets how many, and with other threads the icons round
        # otherwise.
        torch.set_num_threads(threads)
    return places


def to_square(layout: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """A layout scaled to the unit square; what lies far out is moved to its border."""
    low, high = np.percentile(layout.astype(np.float64), PERCENTILES, axis=0)
    margin = MARGIN * (high - low)
    low, span = low - margin, high - low + 2 * margin
    scaled: Float[np.ndarray, "n 2"] = np.clip((layout - low) / np.where(span > 0, span, 1), 0, 1)
    return scaled


def cells_of(square: Float[np.ndarray, "n 2"], grid: int) -> Int[np.ndarray, "n 2"]:
    """The cell (row, column) of each place, row 0 at the top, where y is largest."""
    column, up = np.minimum((square * grid).astype(np.int64), grid - 1).T
    return np.stack([grid - 1 - up, column], axis=1)


def occupied(cells: Int[np.ndarray, "n 2"], min_images: int) -> Int[np.ndarray, "m 2"]:
    """The cells with enough images, row by row.

    Raises:
        ValueError: there is none.
    """
    found, counts = np.unique(cells, axis=0, return_counts=True)
    if not (counts >= min_images).any():
        raise ValueError(
            f"no cell of the grid holds {min_images} images (the fullest holds {counts.max()} of "
            f"{len(cells)}); take a coarser grid, fewer images a cell, or more images"
        )
    return found[counts >= min_images]


def trustworthiness(
    vectors: Float[np.ndarray, "n d"], square: Float[np.ndarray, "n 2"], neighbours: int, seed: int
) -> float:
    """How far neighbours on the map are neighbours in truth, from 0 to 1; of a sample if large.

    Source: Venna & Kaski (2001), with the cosine distance.
    """
    from sklearn.manifold import trustworthiness as measure

    rows = np.random.default_rng(seed).permutation(len(vectors))[:TRUSTED]
    neighbours = min(neighbours, (len(rows) - 1) // 2)
    return float(measure(vectors[rows], square[rows], n_neighbors=neighbours, metric="cosine"))


# The atlas of a run


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: where it lies, which images it holds, and what they do on average.

    Args:
        row, column: in the grid, from the top left.
        images: ids, the largest L2 norm first.
        mean_activation, mean_excitation, mean_inhibition: of those images.
        activations: the feature's in the cell's icon ('both') and, in a signed atlas, in those of
            either side; None where nothing was made.
        icon: a PNG with opacity.
    """

    row: int
    column: int
    images: tuple[str, ...]
    mean_activation: float
    mean_excitation: float
    mean_inhibition: float
    activations: dict[str, float | None]
    icon: AnyPath

    def pixels(self, sign: str = "both") -> UInt8[np.ndarray, "h w 4"] | None:
        """The icon, or that of one side; None where nothing was made for it."""
        path = self.icon.with_name(_icon_name(self.row, self.column, sign))
        if not path.is_file():
            return None
        with _damage_told(path), local(path) as file, Image.open(file) as image:
            return np.asarray(image.convert("RGBA"))


class Atlas:
    """A finished atlas in a run folder, open for reading."""

    def __init__(self, run: Run, folder: AnyPath) -> None:
        self.run, self.folder = run, folder
        try:
            self.about: dict[str, Any] = json.loads((folder / "atlas.json").read_text("utf-8"))
            self.feature = Feature.restore(self.about["asked"]["feature"])
            self.settings = AtlasSettings(**self.about["asked"]["settings"])
        except FileNotFoundError as error:
            raise RunError(
                f"{folder} holds no finished atlas; give the same `opponent atlas` again"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{folder / 'atlas.json'} is damaged ({error}); delete it and give the same "
                "`opponent atlas` again"
            ) from error

    @cached_property
    def map(self) -> pa.Table:
        """One row an image: image, x, y (from 0 to 1, y upward), row, column and its energies."""
        return _read_table(self.folder / "map.parquet")

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that hold enough images, row by row."""
        names = ("row", "column", "mean_activation", "mean_excitation", "mean_inhibition")
        path = self.folder / "atlas.parquet"
        with _damage_told(path):
            return tuple(
                Cell(
                    **{name: row[name] for name in names},
                    images=tuple(row["images"]),
                    activations={s: row.get(_activation_of(s)) for s in SIGNS},
                    icon=self.folder / row["icon"],
                )
                for row in _read_table(path).to_pylist()
            )

    @property
    def signed(self) -> bool:
        """Whether there are icons of either side."""
        path = self.folder / "atlas.parquet"
        with _damage_told(path), opened(path) as file:
            return _activation_of("excitation") in pq.read_schema(file).names


def atlases(run: Run, feature: Feature | str | None = None) -> list[Atlas]:
    """The finished atlases of a run, newest first; those of one feature, if it is given."""
    wanted = None if feature is None else run.feature(feature)
    paths: list[AnyPath] = list(run.folder.glob("atlas/*/atlas.json"))
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    found = [Atlas(run, path.parent) for path in paths]
    return [atlas for atlas in found if wanted in (None, atlas.feature)]


def make_atlas(
    run: Run,
    feature: Feature | str | None = None,
    *,
    network: Network | None = None,
    settings: AtlasSettings | None = None,
    signed: bool = False,
    ray: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    progress: Progress | None = None,
) -> Atlas:
    """Make a feature's atlas, or go on with one that was interrupted.

    Args:
        run: a finished run.
        feature: one of its features; default: the first.
        network: the network that was scanned; default: loaded by its name.
        settings: which images, cells and icons.
        signed: make each cell's icons of either side too, since |S| loses the sign.
        ray, cpus, gpus: have Ray's actors make the icons, a batch at a time, as `address`, `cpus`
            and `gpus` of `opponent.scan.ray.scan_on_ray` say; None makes them here.
        progress: called with what is being done, the steps done and the steps in all.
    Raises:
        RunError: the run is unfinished, or the network is not the one that was scanned.
        ValueError: too few images, or no cell with enough of them.
        Unreadable: an image that was scanned cannot be read any more.
        ImportError, ConnectionError: as for `scan_on_ray`, whose other errors are these too.
    Source: paper, section 5 and figure 6.
    """
    feature, settings = run.feature(feature), settings or AtlasSettings(seed=run.manifest.seed)
    if network is None:
        network = run.load_network()
    else:
        run.check_network(network)
    asked = {
        "feature": feature.describe(),
        "through": run.manifest.through,
        "settings": asdict(settings),
        "run": hashlib.sha256(json.dumps(run.manifest.determining()).encode()).hexdigest(),
        "versions": _versions(),
    }
    label = re.sub(r"[^A-Za-z0-9._]+", "-", feature.label)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    folder = run.folder / "atlas" / f"{label}-{digest}"
    making = _Making(run, network, feature, settings, folder, progress or (lambda *_: None))
    columns = run.columns(feature, maps=False)
    table = making.map(columns)
    members = _members(table, settings)
    means = making.means(table, members)
    signed = signed or (folder / "icons" / "excitation-000.json").is_file()
    signs = [sign for sign in SIGNS if signed or sign == "both"]
    missing = [(sign, number) for sign in signs for number in making.missing(members, sign)]
    if ray is None:
        for part in missing:
            making.icons(members, *means, *part)
    else:
        making.icons_on_ray(members, means, missing, ray, cpus, gpus)
    icons = {sign: making.activations(members, sign) for sign in signs}
    rho, p = _correlation(making.cells(table, members, icons))
    about = {
        "asked": asked,
        "images": len(table),
        "cells": len(members),
        "deviation": float(columns.activation.std()),
        "trustworthiness": float(_metadata(making.folder / "map.parquet")[_TRUST]),
        "icons_against_images": {"spearman": rho, "p": p},
    }
    text = json.dumps(about, indent=1) + "\n"
    record = folder / "atlas.json"
    # Not again: the newest atlas is the one that was made last.
    if not record.is_file() or record.read_bytes() != text.encode():
        write_text(record, text)
    return Atlas(run, folder)


Members = dict[tuple[int, int], list[int]]  # for each cell, the rows of the map in it


class _Making:
    """The stages of one atlas, each of which finds what it made before."""

    def __init__(
        self,
        run: Run,
        network: Network,
        feature: Feature,
        settings: AtlasSettings,
        folder: AnyPath,
        progress: Progress,
    ) -> None:
        self.run, self.network, self.feature = run, network, feature
        self.settings, self.folder, self.progress = settings, folder, progress

    def map(self, columns: Columns) -> pa.Table:
        """Choose the images and lay them out."""
        path, settings = self.folder / "map.parquet", self.settings
        if path.is_file():
            return _read_table(path)
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
        _write_table(path, table.replace_schema_metadata({_TRUST: repr(trust).encode()}))
        self.progress(what, 1, 1)
        return _read_table(path)

    def _with_space(self, images: Sequence[str]) -> Float[np.ndarray, "n d"]:
        window = self.run.through_window(self.feature)
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

    def _attributions(
        self, images: Sequence[str], what: str, start: int = 0
    ) -> Iterator[tuple[Float[Tensor, "n k y x"], Float[Tensor, "n k y x"]]]:
        """S and what it weighs (h) within the window, in batches, from the photographs again."""
        prepared, size = self.run.preprocessing, self.run.manifest.batch_size
        entries = [self.run.images.find(image) for image in images]
        baseline = self.run.baseline(self.network)
        part = self.run.plan(self.network, [self.feature])
        decoded = stream(
            entries[start:], size=prepared.size, resize=prepared.resize, draft=prepared.draft
        )
        with closing(decoded):
            for first in range(start, len(entries), size):
                pixels = []
                for entry in entries[first : first + size]:
                    image = next(decoded)
                    if isinstance(image, Unreadable):
                        raise Unreadable(
                            f"{entry.path} was scanned but cannot be read now: {image.reason}"
                        )
                    pixels.append(image)
                inputs = self.network.inputs(np.stack(pixels))
                [one] = attribute_each(
                    self.network,
                    inputs,
                    [self.feature],
                    self.run.manifest.through,
                    rule=self.run.rule,
                    baseline=baseline,
                    plan=part,
                )
                yield one.attribution, one.change
                self.progress(f"{self.feature.label}: {what}", first + len(pixels), len(entries))

    def means(
        self, table: pa.Table, members: Members
    ) -> tuple[Float[Tensor, "m k y x"], Float[Tensor, "m k y x"]]:
        """Each cell's mean S and mean h."""
        path, partial = (self.folder / x for x in ("cells.safetensors", "cells.part.safetensors"))
        if path.is_file():
            partial.unlink(missing_ok=True)  # a call that was killed may have left it
            return _read_means(path, len(members))[:2]
        cell_of = {row: cell for cell, rows in enumerate(members.values()) for row in rows}
        rows = sorted(cell_of)
        ids = table["image"].to_pylist()
        window, k = self.run.through_window(self.feature), self.run.manifest.through_shape[0]
        shape = (len(members), k, window.height, window.width)
        sums, done = torch.zeros(2, *shape, dtype=torch.float64), 0
        if partial.is_file():
            with suppress(RunError):  # a damaged part is made again
                *parts, done = _read_means(partial, len(members))
                sums = torch.stack(parts)
        saved = done
        for pair in self._attributions([ids[row] for row in rows], "mean attributions", done):
            count = len(pair[0])
            where = torch.tensor([cell_of[row] for row in rows[done : done + count]])
            for total, values in zip(sums, pair, strict=True):
                total.index_add_(0, where, values.double().cpu())
            done += count
            if done - saved >= _SAVED:
                _write_means(partial, sums, done)
                saved = done
        counts = torch.tensor([len(rows) for rows in members.values()]).view(-1, 1, 1, 1)
        _write_means(path, (sums / counts).float(), done)
        partial.unlink(missing_ok=True)
        return _read_means(path, len(members))[:2]

    def missing(self, members: Members, sign: str) -> list[int]:
        """The batches whose icons are not there."""
        batches = enumerate(self._batches(members))
        return [number for number, cells in batches if not self._made(number, cells, sign)]

    def activations(self, members: Members, sign: str) -> list[float | None]:
        """The feature's activation in each cell's icon."""
        batches = enumerate(self._batches(members))
        return [
            value
            for number, cells in batches
            for value in _record(self._record(sign, number), len(cells))
        ]

    def icons(
        self,
        members: Members,
        attribution: Float[Tensor, "m k y x"],
        hidden: Float[Tensor, "m k y x"],
        sign: str,
        number: int,
    ) -> None:
        """Invert the mean S of one batch of cells."""
        batches, size = self._batches(members), self.settings.batch
        part = slice(number * size, (number + 1) * size)
        made = self._icons(
            batches[number], attribution[part], hidden[part], sign, number, len(batches)
        )
        write_text(self._record(sign, number), json.dumps(made) + "\n")

    def icons_on_ray(
        self,
        members: Members,
        means: tuple[Tensor, Tensor],
        parts: Sequence[tuple[str, int]],
        address: str,
        cpus: float,
        gpus: float,
    ) -> None:
        """Batches of icons, made by actors, each by its sign and number."""
        from opponent.scan.ray import check_device, map_parts, on_cpu

        check_device(self.network, by_name=False, gpus=gpus)
        make = partial(
            _icon_maker, self.run.folder.absolute(), on_cpu(self.network), self.feature,
            self.settings, self.folder.absolute(), members, means, self.network.device.type,
            max(1, floor(cpus)),
        )  # fmt: skip
        finished = map_parts(make, parts, address=address, cpus=cpus, gpus=gpus)
        with closing(finished):
            for done, _ in enumerate(finished, 1):
                self.progress(f"{self.feature.label}: batches of icons", done, len(parts))

    def _batches(self, members: Members) -> list[list[tuple[int, int]]]:
        cells, size = list(members), self.settings.batch
        return [cells[first : first + size] for first in range(0, len(cells), size)]

    def _record(self, sign: str, number: int) -> AnyPath:
        return self.folder / "icons" / f"{sign}-{number:03d}.json"

    def _made(self, number: int, cells: Sequence[tuple[int, int]], sign: str) -> bool:
        record = self._record(sign, number)
        return record.is_file() and not self._lost(_record(record, len(cells)), cells, sign)

    def _lost(
        self, activations: Sequence[float | None], cells: Sequence[tuple[int, int]], sign: str
    ) -> bool:
        """Whether an icon that was made is not there any more."""
        return any(
            value is not None and not (self.folder / "icons" / _icon_name(*cell, sign)).is_file()
            for value, cell in zip(activations, cells, strict=True)
        )

    def _icons(
        self,
        cells: Sequence[tuple[int, int]],
        attribution: Float[Tensor, "m k y x"],
        hidden: Float[Tensor, "m k y x"],
        sign: str,
        number: int,
        batches: int,
    ) -> list[float | None]:
        """One batch of icons, cropped to the receptive field; None where a side is empty."""
        turn = SIGNS[sign]
        # To unit norm, so that all cells weigh alike.
        target = attribution / attribution.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        part = (turn * target).clamp(min=0) if turn else target
        there = part.flatten(1).any(1).tolist()
        if not any(there):
            return [None] * len(cells)

        def report(done: int, steps: int) -> None:
            what = "icons" if sign == "both" else f"icons of {sign}"
            self.progress(f"{self.feature.label}: {what}", number * steps + done, batches * steps)

        result = invert_attribution(
            self.network,
            target[there],
            self.feature,
            self.run.manifest.through,
            sign=turn,
            hidden=None if (hidden >= 0).all() else hidden[there],
            settings=self.settings.synthesis,
            progress=report,
        )
        images, finals = iter(result.rgba()), iter(result.final.tolist())
        box = None
        activations: list[float | None] = []
        for (row, column), made in zip(cells, there, strict=True):
            if not made:
                activations.append(None)
                continue
            pixels = next(images)
            box = scale_box(
                self.run.receptive_field(self.feature), self.run.preprocessing.size, pixels.shape
            )
            with whole(self.folder / "icons" / _icon_name(row, column, sign)) as part_file:
                Image.fromarray(pixels[box.slices]).save(part_file)
            activations.append(next(finals))
        return activations

    def cells(
        self, table: pa.Table, members: Members, icons: Mapping[str, Sequence[float | None]]
    ) -> pa.Table:
        """Write one row a cell."""
        ids = table["image"].to_pylist()
        values = {name: table[name].to_numpy() for name in (*SCALARS[:3], "x", "y")}
        rows = [
            {
                "row": row,
                "column": column,
                "count": len(inside),
                "images": [ids[j] for j in inside],
                **{f"mean_{name}": float(values[name][inside].mean()) for name in SCALARS[:3]},
                **{_activation_of(sign): activations[i] for sign, activations in icons.items()},
                "icon": f"icons/{_icon_name(row, column, 'both')}",
            }
            for i, ((row, column), inside) in enumerate(members.items())
        ]
        made, path = pa.Table.from_pylist(rows), self.folder / "atlas.parquet"
        with suppress(RunError):  # a damaged one is written again
            if path.is_file() and _read_table(path).equals(made):
                return made
        _write_table(path, made)
        return made


def _icon_maker(
    run: AnyPath,
    network: Network,
    feature: Feature,
    settings: AtlasSettings,
    folder: AnyPath,
    members: Members,
    means: tuple[Tensor, Tensor],
    device: str,
    threads: int,
) -> Callable[[tuple[str, int]], None]:
    """What makes a batch of icons on this machine, given its sign and number."""
    from opponent.scan.ray import settle

    opened, network = settle(run, network, device, threads)
    making = _Making(opened, network, feature, settings, folder, lambda *_: None)
    return lambda part: making.icons(members, *means, *part)


def _members(table: pa.Table, settings: AtlasSettings) -> Members:
    """For each cell with enough images its rows of the map."""
    cells = np.stack([table["row"].to_numpy(), table["column"].to_numpy()], 1)
    return {
        (row, column): np.flatnonzero((cells == (row, column)).all(1)).tolist()
        for row, column in occupied(cells, settings.min_images).tolist()
    }


def _correlation(cells: pa.Table) -> tuple[float, float] | tuple[None, None]:
    """Spearman's correlation of icons' activation with that of their cells' images, and its p."""
    from scipy.stats import spearmanr

    icons, images = (cells[name].to_numpy() for name in ("activation", "mean_activation"))
    if len(icons) < 3 or not (np.ptp(icons) and np.ptp(images)):
        return None, None
    found = spearmanr(icons, images)
    return float(found.statistic), float(found.pvalue)


def _activation_of(sign: str) -> str:
    """The column of an icon's activation."""
    return "activation" if sign == "both" else f"activation_{sign}"


def _icon_name(row: int, column: int, sign: str) -> str:
    return f"{row:02d}-{column:02d}{'' if sign == 'both' else f'-{sign}'}.png"


def _write_means(path: AnyPath, values: Float[Tensor, "2 m k y x"], done: int) -> None:
    with whole(path) as part:
        part.write_bytes(
            save(
                {"attribution": values[0].clone(), "hidden": values[1].clone()}, {"done": str(done)}
            )
        )


def _read_means(path: AnyPath, cells: int) -> tuple[Tensor, Tensor, int]:
    with _damage_told(path), local(path) as here, safe_open(here, framework="pt") as file:
        found = file.get_tensor("attribution"), file.get_tensor("hidden")
        if found[0].shape != found[1].shape or len(found[0]) != cells:
            raise ValueError(f"it holds {len(found[0])} of {cells} cells")
        return *found, int(file.metadata()["done"])


def _record(path: AnyPath, cells: int) -> list[float | None]:
    """The activations of one batch of icons."""
    with _damage_told(path):
        values = json.loads(path.read_text(encoding="utf-8"))
        if (
            not isinstance(values, list)
            or len(values) != cells
            or not all(value is None or isinstance(value, float) for value in values)
        ):
            raise ValueError(f"it does not hold {cells} numbers")
        return values


def _metadata(path: AnyPath) -> Any:
    with _damage_told(path), opened(path) as file:
        metadata = pq.read_schema(file).metadata
        float(metadata[_TRUST])
        return metadata


def _read_table(path: AnyPath) -> pa.Table:
    with _damage_told(path), opened(path) as file:
        return pq.read_table(file, page_checksum_verification=True)


def _write_table(path: AnyPath, table: pa.Table) -> None:
    with whole(path) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)


@contextmanager
def _damage_told(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, SafetensorError, pa.ArrowException) as e:
        raise RunError(
            f"{path} is damaged ({str(e).partition(chr(10))[0]}); delete it and give the same "
            "`opponent atlas` again"
        ) from e


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {**versions(), "umap-learn": version("umap-learn")}

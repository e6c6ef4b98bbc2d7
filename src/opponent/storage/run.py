"""A run's folder: manifest, images, shards; written by a scan, read by everything else.

    RUN/manifest.json       everything that determines the numbers
    RUN/images.parquet      image, path and, for crops, top, left, height, width
    RUN/scan/000000.parquet one row an image and feature; its metadata: what could not be read
    RUN/channels/000000.parquet  for each channel of the through layer, where it is most active
    RUN/baseline.safetensors     the through layer's mean, for a rule that starts there
    RUN/units/000000.safetensors  where all units are scanned, a summary of theirs
    RUN/units.parquet       the same over all images, one row a unit and score
    RUN/unreadable.csv      all images that could not be read, with their reasons

A shard holds a fixed slice of the image list and is written whole, so that a scan goes on from the
shards that are missing.
"""

import csv
import io
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save
from torch import Tensor

from opponent.attribution.all_units import Summary, merge, rows
from opponent.attribution.attribute import Rule
from opponent.core.box import Box
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.geometry.crop import CropPlan, plan_crop, plan_whole_image
from opponent.images.sources import ImageEntry, ImageSet
from opponent.models.network import Network, Preprocessing
from opponent.models.registry import load
from opponent.selection import Columns, Indices
from opponent.storage.files import AnyPath, names, opened, to_path, whole, write_text

FORMAT = 2
# What a network may compute in.
DTYPES = {str(x).removeprefix("torch."): x for x in (torch.float32, torch.bfloat16, torch.float64)}
SCALARS = ("activation", "excitation", "inhibition", "l1", "l2")
LISTS = ("excitation_map", "inhibition_map", "channels", "inhibition_channels")
# Exemplars of each channel that a shard keeps: three rows of three.
EXEMPLARS = 9
_UNREADABLE = b"unreadable"
BOX = ("top", "left", "height", "width")


@dataclass(frozen=True, kw_only=True)
class Exemplar:
    """Where in the images a channel is most active: an image's id, row and column of the map."""

    image: str
    row: int
    column: int
    activation: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that determines a scan's numbers, and where its parts came from.

    Args:
        network: name, weights_sha256, preprocessing; weights_file where a file was given.
        features: each as `Feature.describe` gives it, positions written out.
        through: the through layer; `through_shape` its (channels, rows, columns).
        windows: for each feature the box of the through layer outside which S is zero, as
            (top, left, height, width), and of the input that the activation depends on.
        placement: the input pixel (row, column) of the through layer's first element, and the steps
            to the next ones; None where it has no rows and columns.
        images: source, count and SHA-256 of the list.
        batch_size, shard_size: images a pass and a shard.
        device, seed, versions: where, from which seed, and with which software.
        rule: of attribution, as `Rule.parse` takes it.
        crop_plan: the parts of image and layers that are computed, as `CropPlan.describe` gives
            them.
        units: where all units of the layer are scanned, its name, their position and their number,
            the window of the through layer, and how many images are kept at either end.
    """

    network: Mapping[str, Any]
    features: Sequence[Mapping[str, Any]]
    through: str
    through_shape: Sequence[int]
    windows: Sequence[Mapping[str, Sequence[int]]]
    placement: Sequence[float] | None
    images: Mapping[str, Any]
    batch_size: int
    shard_size: int
    device: str
    seed: int
    versions: Mapping[str, str]
    rule: str = "gradient"
    crop_plan: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, Any] | None = None
    format: int = FORMAT

    def determining(self) -> dict[str, Any]:
        """What two scans must share to be one and the same.

        All but the places of files, and what the first of them found to be enough to compute.
        """
        values: dict[str, Any] = json.loads(self.to_json())
        values.pop("crop_plan")
        values["network"].pop("weights_file", None)
        values["images"].pop("source", None)
        return values

    def to_json(self) -> str:
        """The manifest as a JSON text."""
        # In ASCII, since names of files need not be valid text.
        return json.dumps(asdict(self), indent=1) + "\n"


def versions() -> dict[str, str]:
    """The software that numbers depend on."""
    from importlib.metadata import version

    return {
        "opponent": version("opponent"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


class Run:
    """A run folder, open for reading; `Run.begin` makes one or goes on with one.

    Args:
        folder: a path, or its name, which may be that of another file system: 's3://bucket/run'.
    """

    def __init__(self, folder: str | AnyPath) -> None:
        self.folder = to_path(folder)
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise RunError(
                f"{self.folder} is no run folder: it has no manifest.json; "
                "`opponent scan` makes one"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.get("format") != FORMAT:
                raise RunError(
                    f"{self.folder} has format {values.get('format')}, this version of opponent "
                    f"reads format {FORMAT}; scan again into another folder"
                )
            self.manifest = Manifest(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path} is damaged ({error}); delete the folder and scan again"
            ) from error

    @classmethod
    def begin(cls, folder: str | AnyPath, manifest: Manifest, images: ImageSet) -> "Run":
        """Make a run folder, or go on with one that has the same manifest.

        Raises:
            RunError: the folder holds another scan, or other files.
        """
        folder = to_path(folder)
        if (folder / "manifest.json").exists():
            run = cls(folder)
            ours, theirs = manifest.determining(), run.manifest.determining()
            different = [key for key in ours if ours[key] != theirs.get(key)]
            if different:
                changes = "; ".join(
                    _difference(key, theirs.get(key), ours[key]) for key in different
                )
                raise RunError(
                    f"{folder} holds another scan ({changes}). Scan into another folder, or delete "
                    "this one"
                )
            manifest = replace(manifest, crop_plan=run.manifest.crop_plan)
        elif folder.exists() and not _is_free(folder):
            raise RunError(f"{folder} exists and is not a run folder; choose a folder of its own")
        # Each time anew: the images, or a file of weights, may have moved since.
        boxes = [entry.box or (None,) * 4 for entry in images]
        table = pa.table(
            {
                "image": [entry.id for entry in images],
                "path": _paths(images),
            }
            | {name: pa.array([box[i] for box in boxes], pa.int32()) for i, name in enumerate(BOX)}
        )
        # The manifest comes first: where it lies, all else is ours to write.
        write_text(folder / "manifest.json", manifest.to_json())
        _write_table(folder / "images.parquet", table)
        run = cls(folder)
        # What reading the table would give, without a second list.
        run.__dict__["images"] = ImageSet(
            source=images.source,
            entries=tuple(
                x if x.path.is_absolute() else replace(x, path=x.path.absolute()) for x in images
            ),
        )
        return run

    # What determines it

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features that were scanned, in order."""
        return tuple(Feature.restore(each) for each in self.manifest.features)

    def feature(self, feature: Feature | str | None = None) -> Feature:
        """One of the run's features; without a name, the only one or the first.

        Raises:
            ValueError: the run does not hold that feature, or several that fit.
        """
        if not self.features:
            raise ValueError(
                f"{self.folder} holds all units together and no feature's own rows; `opponent "
                "units` shows them, and a scan of one unit has its images"
            )
        if feature is None:
            return self.features[0]
        if isinstance(feature, Feature):
            label = feature.label
            found = [each for each in self.features if feature in (each, each.at(None))]
        else:
            # By label, for a direction has a name that does not parse.
            label = feature.strip()
            found = [each for each in self.features if label in (each.label, each.at(None).label)]
        if len(found) == 1:
            return found[0]
        labels = ", ".join(each.label for each in found or self.features)
        if found:
            raise ValueError(f"{label!r} fits {labels} of {self.folder}; give the position too")
        raise ValueError(f"{self.folder} holds no {label!r}; it holds {labels}")

    def through_window(self, feature: Feature) -> Box:
        """The box of the through layer that the feature's stored maps cover."""
        return self._window(feature, "through")

    def receptive_field(self, feature: Feature) -> Box:
        """The box of the network's input, in pixels, that the feature depends on."""
        return self._window(feature, "pixels")

    def plan(self, network: Network, features: Sequence[Feature] | None = None) -> CropPlan:
        """The parts of image and layers that are computed for the run's features, or some."""
        through, found = self.manifest.through, self.manifest.crop_plan
        if "crops" not in found:
            reason = str(found.get("whole", "unknown"))
            return plan_whole_image(network, features or self.features, through, reason)
        if features is not None:
            return plan_crop(network, features, through)
        return CropPlan.restore(found, self.features, through)

    def units_plan(self, widest: Feature) -> CropPlan:
        """The parts that are computed for all units: `widest` depends on all that they do."""
        assert self.manifest.units is not None
        through, found = self.manifest.through, self.manifest.crop_plan.get("units", {})
        if "crops" in found:
            return CropPlan.restore(found, [widest], through)
        window = Box.of(self.manifest.units["window"])
        reason = str(found.get("whole", "unknown"))
        return CropPlan(
            features=(widest,), through=through, window=window, inner=window, reason=reason
        )

    def write_summary(self, number: int, summary: Summary) -> None:
        """Write what one shard holds of all units. To be written before the shard itself."""
        with whole(self._summary(number)) as part:
            part.write_bytes(summary.to_bytes())

    def summary(self) -> Summary:
        """Extremes and distributions of all units over all images.

        Raises:
            RunError: the scan is not of all units, not finished, or damaged.
        """
        if self.manifest.units is None:
            raise RunError(f"{self.folder} is no scan of all units; scan 'LAYER:*' for one")
        self._shards()
        found: Summary | None = None
        for number in range(self.shard_count):
            path = self._summary(number)
            with _damage_told(path):
                part = Summary.from_bytes(path.read_bytes())
            found = part if found is None else merge(found, part)
        assert found is not None
        return found

    def units(self) -> pa.Table:
        """One row a unit and score: quantiles, and the images at either end.

        Raises:
            RunError: the scan is not of all units, not finished, or damaged.
        """
        if self.manifest.units is None or not self._units.is_file():
            self.summary()  # says what is wrong
        return self._read(self._units)

    def _summary(self, number: int) -> AnyPath:
        return self.folder / "units" / f"{number:06d}.safetensors"

    @property
    def _units(self) -> AnyPath:
        return self.folder / "units.parquet"

    def _window(self, feature: Feature, source: str) -> Box:
        return Box.of(self.manifest.windows[self.features.index(feature)][source])

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images were prepared."""
        values: dict[str, Any] = self.manifest.network["preprocessing"]
        lists = {name: tuple(x) for name, x in values.items() if isinstance(x, list)}
        return Preprocessing(**{**values, **lists})

    def load_network(self) -> Network:
        """The network that was scanned, loaded by its name and checked by its weights.

        Raises:
            RunError: it cannot be loaded by name, or its weights are others.
        """
        name, file = self.manifest.network["name"], self.manifest.network["weights_file"]
        try:
            network = load(name, file)
        except (ValueError, OSError, ImportError) as error:
            raise RunError(
                f"the network of {self.folder}, {name!r}, cannot be loaded: {error}. In Python, "
                "hand the network over yourself"
            ) from error
        network.preprocessing = replace(network.preprocessing, draft=self.preprocessing.draft)
        network.module.to(DTYPES[self.manifest.network.get("dtype", "float32")])
        self.check_network(network)
        return network

    def check_network(self, network: Network) -> None:
        """Check that a network is the one that was scanned.

        Raises:
            RunError: its weights or its preprocessing are others.
        """
        scanned, found = self.manifest.network["weights_sha256"], network.weights_sha256()
        if scanned != found:
            raise RunError(
                f"{self.folder} was scanned with other weights of {self.manifest.network['name']} "
                f"(SHA-256 {scanned[:12]}…, now {found[:12]}…)"
            )
        if self.preprocessing != network.preprocessing:
            raise RunError(
                f"{self.folder} was scanned with images prepared otherwise ({self.preprocessing}, "
                f"now {network.preprocessing}); hand over the network that was scanned"
            )

    # The rule

    @property
    def rule(self) -> Rule:
        """How S was computed."""
        return Rule.parse(self.manifest.rule)

    def write_baseline(self, baseline: Float[Tensor, "k h w"]) -> None:
        """Keep the through layer's mean, which the rule starts from."""
        with whole(self._baseline) as part:
            part.write_bytes(save({"mean": baseline.cpu().contiguous()}))

    def has_baseline(self) -> bool:
        """Whether the rule's baseline is there, or none is needed."""
        return self.rule.baseline == "zero" or self._baseline.is_file()

    def baseline(self, network: Network) -> Float[Tensor, "k h w"] | None:
        """The through layer's mean, where the network computes; None for a baseline of zero.

        Raises:
            RunError: it is missing or damaged.
        """
        if self.rule.baseline == "zero":
            return None
        try:
            return from_bytes(self._baseline.read_bytes())["mean"].to(network.device, network.dtype)
        except (OSError, SafetensorError, LookupError) as error:
            raise RunError(
                f"{self._baseline} is damaged or missing ({error}); scan again into another folder"
            ) from error

    @property
    def _baseline(self) -> AnyPath:
        return self.folder / "baseline.safetensors"

    # Images

    @cached_property
    def images(self) -> ImageSet:
        """The images of the scan, in order."""
        # Column by column: a dictionary for each of a million rows takes gigabytes.
        table = self._read(self.folder / "images.parquet")
        columns = (table[name].to_pylist() for name in ("image", "path", *BOX))
        entries = (
            ImageEntry(
                id=image,
                path=Path(os.fsdecode(path)),
                box=None if top is None else (top, left, height, width),
            )
            for image, path, top, left, height, width in zip(*columns, strict=True)
        )
        return ImageSet(source=str(self.manifest.images["source"]), entries=tuple(entries))

    # Shards

    @property
    def shard_count(self) -> int:
        """How many shards the whole scan has."""
        return -(-int(self.manifest.images["count"]) // self.manifest.shard_size)

    def shard(self, number: int) -> AnyPath:
        """A shard's file."""
        return self.folder / "scan" / f"{number:06d}.parquet"

    def missing(self) -> list[int]:
        """The shards that are still to be scanned."""
        there = names(self.folder / "scan")
        return [
            number for number in range(self.shard_count) if self.shard(number).name not in there
        ]

    def write_shard(
        self,
        number: int,
        images: Sequence[str],
        parts: Sequence[Sequence[Mapping[str, np.ndarray]]],
        unreadable: Mapping[str, str],
    ) -> None:
        """Write one shard, whole: for each feature its batches' columns, and what was not read."""
        tables = []
        for feature, batches in zip(self.features, parts, strict=True):
            tables.append(_shard_table(images, feature.label, batches))
        # Without features a table without rows still says what could not be read.
        tables = tables or [_shard_table([], "", [])]
        table = pa.concat_tables(tables).replace_schema_metadata(
            {_UNREADABLE: json.dumps(dict(unreadable))}
        )
        _write_table(self.shard(number), table)

    def write_exemplars(
        self,
        number: int,
        images: Sequence[str],
        found: tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"], Int[np.ndarray, "m k"]],
    ) -> None:
        """Write one shard's exemplars: for each channel values, images' numbers and places.

        A place counts along the map's rows. To be written before the shard itself.
        """
        values, numbers, places = (x.T.ravel() for x in found)
        channel = np.repeat(np.arange(found[0].shape[1]), found[0].shape[0])
        width = self.manifest.through_shape[2]
        table = pa.table(
            {
                "channel": pa.array(channel, pa.int32()),
                "image": pa.array([images[i] for i in numbers], pa.string()),
                "row": pa.array(places // width, pa.int32()),
                "column": pa.array(places % width, pa.int32()),
                "activation": pa.array(values, pa.float32()),
            }
        )
        _write_table(self._exemplars(number), table)

    def _exemplars(self, number: int) -> AnyPath:
        return self.folder / "channels" / f"{number:06d}.parquet"

    def finish(self) -> None:
        """Write the list of unreadable images, for people, and the table of all units."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("image", "reason"), *self.unreadable().items()])
        write_text(self.folder / "unreadable.csv", text.getvalue())
        if self.manifest.units is not None:
            names = [entry.id for entry in self.images]
            _write_table(self._units, pa.table(dict(rows(self.summary(), names))))

    def unreadable(self) -> dict[str, str]:
        """The images that could not be read, with their reasons."""
        found: dict[str, str] = {}
        for shard in self._shards():
            with _damage_told(shard), opened(shard) as file:
                found |= json.loads(pq.read_schema(file).metadata[_UNREADABLE])
        return found

    def _shards(self) -> list[AnyPath]:
        missing = self.missing()
        if missing:
            done = self.shard_count - len(missing)
            raise RunError(
                f"the scan in {self.folder} is not finished ({done} of {self.shard_count} parts); "
                "give the same `opponent scan` again, and it goes on"
            )
        return [self.shard(number) for number in range(self.shard_count)]

    # ForwardResult back

    def columns(self, feature: Feature | str | None = None, *, maps: bool = True) -> Columns:
        """One feature over all images that could be read.

        Args:
            feature: one of the run's features; default: the first.
            maps: read the maps too; without, they have no rows and columns.
        Raises:
            RunError: the scan is not finished or damaged, or no image could be read.
            ValueError: the run does not hold that feature.
        """
        feature = self.feature(feature)
        names = ("excitation_map", "inhibition_map")
        table = self._rows(feature, ["image", *SCALARS, *(names if maps else ())])
        window = self.through_window(feature)
        shape = (-1, window.height, window.width)
        none = np.empty((len(table), 0, 0), np.float32)
        plus, minus = (_matrix(table[x]).reshape(shape) if maps else none for x in names)
        return Columns(
            images=tuple(table["image"].to_pylist()),
            **{name: table[name].to_numpy() for name in SCALARS},
            excitation_map=plus,
            inhibition_map=minus,
        )

    def channels(
        self, feature: Feature | str | None = None, *, rows: Indices | None = None
    ) -> Float[np.ndarray, "n channels"]:
        """S summed over space, for each image: what each upstream channel adds.

        Args:
            feature: one of the run's features; default: the first.
            rows: only these rows of the columns, in this order.
        """
        found = self._rows(self.feature(feature), ["channels"], rows)["channels"]
        return _matrix(found, self.manifest.through_shape[0])

    def channel_sides(
        self, feature: Feature | str | None = None, *, rows: Indices | None = None
    ) -> tuple[Float[np.ndarray, "n channels"], Float[np.ndarray, "n channels"]]:
        """What each upstream channel adds to excitation, and what to inhibition, in each image.

        Both are >= 0; over channels they sum to excitation and inhibition. Args as `channels`.
        """
        table = self._rows(self.feature(feature), ["channels", "inhibition_channels"], rows)
        names, width = ("channels", "inhibition_channels"), self.manifest.through_shape[0]
        total, minus = (_matrix(table[name], width) for name in names)
        return (total + minus).clip(0), minus

    def exemplars(self, channel: int, count: int = EXEMPLARS) -> list[Exemplar]:
        """Where in the images a channel of the through layer is most active, one place an image.

        Args:
            channel: of the through layer.
            count: how many; at most 9. Places where the channel is not active are left out.
        Raises:
            RunError: the scan is not finished or damaged.
        """
        self._shards()
        found = []
        for number in range(self.shard_count):
            path = self._exemplars(number)
            with _damage_told(path), opened(path) as file:
                table = pq.read_table(
                    file,
                    filters=[("channel", "==", channel), ("activation", ">", 0)],
                    columns=["image", "row", "column", "activation"],
                    page_checksum_verification=True,
                )
            found += [Exemplar(**row) for row in table.to_pylist()]
        # Stable: of equals, the image that comes first.
        return sorted(found, key=lambda x: -x.activation)[:count]

    def _rows(self, feature: Feature, names: list[str], which: Indices | None = None) -> pa.Table:
        number, count = self.features.index(feature), len(self.features)
        wanted = None if which is None else np.sort(which)
        parts, first = [], 0
        for shard in self._shards():
            table = self._read(shard, names)
            # Features follow each other in the manifest's order, each with the same images.
            rows = len(table) // count
            part = table.slice(number * rows, rows)
            if wanted is not None:
                here = wanted[
                    np.searchsorted(wanted, first) : np.searchsorted(wanted, first + rows)
                ]
                part = part.take(here - first)
            parts.append(part)
            first += rows
        table = pa.concat_tables(parts)
        if wanted is not None and wanted.size and not 0 <= wanted[0] <= wanted[-1] < first:
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {first} images")
        if which is not None:
            # From the order of the shards to the order that was asked for.
            return table.take(np.argsort(np.argsort(which, kind="stable"), kind="stable"))
        if not len(table):
            raise RunError(f"no image of {self.folder} could be read; see unreadable.csv in it")
        return table

    def _read(self, path: AnyPath, columns: list[str] | None = None) -> pa.Table:
        with _damage_told(path), opened(path) as file:
            return pq.read_table(file, columns=columns, page_checksum_verification=True)


@contextmanager
def _damage_told(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, TimeoutError):  # of a file system elsewhere
        raise
    except (OSError, pa.ArrowException, TypeError, ValueError, LookupError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(
            f"{path} is damaged ({reason}); delete it and give the same `opponent scan` again"
        ) from error


def _is_free(folder: AnyPath) -> bool:
    """Whether a folder is empty, but for what a scan leaves that is killed as it begins."""
    return folder.is_dir() and all(
        fnmatchcase(path.name, ".manifest.*.tmp.json") for path in folder.iterdir()
    )


def _paths(images: ImageSet) -> pa.Array:
    """The images' paths: text, or bytes where a name is no valid text."""
    paths = [str(entry.path.absolute()) for entry in images]
    try:
        return pa.array(paths, pa.string())
    except UnicodeEncodeError:
        return pa.array([os.fsencode(path) for path in paths], pa.binary())


def _write_table(path: AnyPath, table: pa.Table) -> None:
    with whole(path) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)


def _shard_table(
    images: Sequence[str], label: str, batches: Sequence[Mapping[str, np.ndarray]]
) -> pa.Table:
    arrays = {
        "image": pa.array(images, pa.string()),
        "feature": pa.array([label] * len(images), pa.string()),
    }
    arrays |= {name: _floats([batch[name] for batch in batches]) for name in SCALARS}
    arrays |= {name: _lists([batch[name] for batch in batches]) for name in LISTS}
    return pa.table(arrays)


def _floats(batches: Sequence[Float[np.ndarray, " _"]]) -> pa.Array:
    return pa.array(np.concatenate([np.empty(0, np.float32), *batches]), pa.float32())


def _lists(batches: Sequence[Float[np.ndarray, "_ ..."]]) -> pa.Array:
    """One list a row; a feature's lists all have one length, but features may differ."""
    lengths = [len(row.ravel()) for batch in batches for row in batch]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _floats([batch.ravel() for batch in batches]))


def _matrix(column: pa.ChunkedArray, width: int = 0) -> Float[np.ndarray, "n m"]:
    """One row a list; `width` is a row's length where there is none."""
    values = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, width)


def _difference(key: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        key, there, here = next(
            (f"{key}.{k}", there.get(k), here.get(k))
            for k in (*here, *there)
            if there.get(k) != here.get(k)
        )
    short = [text if len(text) < 60 else text[:57] + "..." for text in map(str, (there, here))]
    return f"{key} was {short[0]}, is {short[1]}"

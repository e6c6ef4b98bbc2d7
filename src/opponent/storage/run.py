"""A run folder, open for reading: what a scan wrote and everything else reads.

    RUN/manifest.json       everything that determines the numbers
    RUN/images.parquet      image, path; top, left, height, width of a crop; in an archive offset,
                            length, zipped; once all is scanned, digests of contents
    RUN/scan/000000.parquet one row an image and feature; its metadata: the scan that it is of, what
                            could not be read, and digests of the images' contents
    RUN/channels/000000.parquet  for each channel of the through layer, where it is most active
    RUN/baseline.safetensors     the through layer's mean, for a rule that starts there
    RUN/dictionary.safetensors   where S is of a dictionary's latents, the dictionary
    RUN/units/000000.safetensors  where all units are scanned, a summary of theirs
    RUN/units.parquet       the same over all images, one row a unit and score
    RUN/unreadable.csv      all images that are left out, with their reasons

A shard holds a fixed slice of the image list and is written whole, so that a scan goes on from the
shards that are missing.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from safetensors.torch import load as tensors_of
from torch import Tensor

from opponent.core.box import Box
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.images.imageset import ImageSet
from opponent.images.sources import Images
from opponent.models.preprocessing import Preprocessing
from opponent.storage.columns import APART, SCALARS, Columns, Indices, positive_part
from opponent.storage.files import AnyPath, names, to_path
from opponent.storage.image_table import run_images
from opponent.storage.lookup import find_feature
from opponent.storage.manifest import UnitsRecord, read_manifest
from opponent.storage.shards import (
    COMMAND,
    Exemplar,
    Shard,
    read_exemplars,
    read_rows,
    read_summary,
)
from opponent.storage.summary import UNITS_COLUMNS, Summary, merge
from opponent.storage.tables import damage_refused, matrix, read_table

MAPS = ("excitation_map", "inhibition_map")
CHANNELS = ("channels", "inhibition_channels")
# Exemplars of each channel that a shard keeps: three rows of three.
EXEMPLARS = 9


class Run:
    """A run folder, open for reading.

    Args:
        folder: a path, or its name, which may be that of another file system: 's3://bucket/run'.
        images: the images that were scanned, where they are no files; else the folder knows them.
    Raises:
        RunError: the folder is missing or damaged, or the images are others than were scanned.

    >>> import tempfile, numpy as np, opponent
    >>> class Noise:
    ...     name = "noise"
    ...     def ids(self):
    ...         return ["0", "1", "2", "3"]
    ...     def image(self, id):
    ...         return np.random.default_rng(int(id)).integers(0, 256, (64, 64, 3), np.uint8)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _ = opponent.scan_images(
    ...         "inceptionv1-small", Noise(), "mixed3b:189", "mixed3a", out=out)
    ...     run = opponent.Run(out, images=Noise())
    ...     run.through, run.features, run.columns()
    ('mixed3a', (Feature('mixed3b:189@7,7'),), Columns(4 images, maps of 5 x 5))
    """

    def __init__(self, folder: str | AnyPath, *, images: Images | None = None) -> None:
        self.folder: AnyPath = to_path(folder)
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise RunError(
                f"{self.folder} is no run folder: it has no manifest.json; `{COMMAND}` makes one"
            )
        self.manifest = read_manifest(path)
        self._handed = images
        if images is not None:
            _ = self.images  # it refuses others

    def __repr__(self) -> str:
        if self.manifest.units is not None:
            what = f"all units of {self.manifest.units.layer}"
        else:
            what = ", ".join(feature.label for feature in self.features)
        count = self.manifest.images.count
        return f"Run({str(self.folder)!r}: {what}, {count:,} images)"

    def _repr_html_(self) -> str:
        from opponent.storage.run_view import run_html

        return run_html(self)

    # What was scanned

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features that were scanned, in order."""
        return tuple(record.feature for record in self.manifest.features)

    def feature(self, feature: Feature | str | None = None) -> Feature:
        """One of the run's features; without a name, the only one.

        Args:
            feature: a feature or its label, with or without the position.
        Raises:
            ValueError: no name where there are several features, a name that fits none or several.
        """
        return find_feature(self.folder, self.manifest, self.features, feature)

    @property
    def through(self) -> str:
        """The layer that the features are explained through."""
        return self.manifest.through

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images were prepared."""
        return self.manifest.network.preprocessing

    def through_window(self, feature: Feature) -> Box:
        """The box of the through layer that the feature's stored maps cover.

        Args:
            feature: one of the run's features.
        Raises:
            ValueError: the run does not hold that feature.
        """
        return Box.of(self.manifest.windows[self.features.index(feature)].through)

    def receptive_field(self, feature: Feature) -> Box:
        """The box of the network's input, in pixels, that the feature depends on.

        Args:
            feature: one of the run's features.
        Raises:
            ValueError: the run does not hold that feature.
        """
        return Box.of(self.manifest.windows[self.features.index(feature)].pixels)

    @cached_property
    def images(self) -> ImageSet:
        """The images of the scan, in order; of a finished one they know what they contained.

        Raises:
            RunError: the list is damaged, or other images were handed over.
        """
        return run_images(self.folder, self.manifest, self._handed)

    @property
    def shard_count(self) -> int:
        """How many shards the whole scan has."""
        return -(-self.manifest.images.count // self.manifest.shard_size)

    def shard_rows(self, number: int) -> range:
        """The places among the images that a shard holds.

        Args:
            number: the shard's, from 0.
        """
        size = self.manifest.shard_size
        return range(number * size, min((number + 1) * size, self.manifest.images.count))

    def shard(self, number: int) -> AnyPath:
        """A shard's file.

        Args:
            number: the shard's, from 0.
        """
        return self.folder / "scan" / f"{number:06d}.parquet"

    def exemplars_file(self, number: int) -> AnyPath:
        """The file of a shard's exemplars.

        Args:
            number: the shard's, from 0.
        """
        return self.folder / "channels" / f"{number:06d}.parquet"

    def summary_file(self, number: int) -> AnyPath:
        """The file of a shard's summary of all units.

        Args:
            number: the shard's, from 0.
        """
        return self.folder / "units" / f"{number:06d}.safetensors"

    @property
    def units_file(self) -> AnyPath:
        """The file of the table of all units over all images."""
        return self.folder / "units.parquet"

    @property
    def baseline_file(self) -> AnyPath:
        """The file of the through layer's mean, for a rule that starts there."""
        return self.folder / "baseline.safetensors"

    def missing(self) -> list[int]:
        """The shards that are still to be scanned."""
        there = names(self.folder / "scan")
        return [
            number for number in range(self.shard_count) if self.shard(number).name not in there
        ]

    @cached_property
    def digest(self) -> str:
        """The digest of the manifest, which stands in each file of results."""
        return self.manifest.digest()

    def read_shard(self, number: int) -> Shard:
        """One shard that is there, and what must be in it.

        Args:
            number: the shard's, from 0.
        """
        return Shard(
            path=self.shard(number),
            scan=self.digest,
            images=len(self.shard_rows(number)),
            features=len(self.features),
        )

    def _shards(self) -> list[Shard]:
        missing = self.missing()
        if missing:
            done = self.shard_count - len(missing)
            raise RunError(
                f"the scan in {self.folder} is not finished ({done} of {self.shard_count} shards); "
                f"give the same `{COMMAND}` again, and it goes on"
            )
        return [self.read_shard(number) for number in range(self.shard_count)]

    def unreadable(self) -> dict[str, str]:
        """The images that could not be read, or gave numbers that are 'not finite: …', with why.

        Raises:
            RunError: the scan is not finished or damaged.
        """
        reasons: dict[str, str] = {}
        for shard in self._shards():
            reasons |= shard.unreadable()
        return reasons

    # What was measured of each feature

    def columns(self, feature: Feature | str | None = None, *, maps: bool = True) -> Columns:
        """One feature over all images that could be read and gave finite numbers.

        Args:
            feature: one of the run's features; default: the only one.
            maps: read the maps too; without, they have no rows and columns.
        Raises:
            RunError: the scan is not finished or damaged, or no image could be read.
            ValueError: the run does not hold that feature.
        """
        feature = self.feature(feature)
        apart = () if self.manifest.dictionary is None else APART
        table = self._rows(feature, ["image", *SCALARS, *apart, *(MAPS if maps else ())])
        window = self.through_window(feature)
        shape = (-1, window.height, window.width)
        none = np.empty((len(table), 0, 0), np.float32)
        excitation, inhibition = (matrix(table[x]).reshape(shape) if maps else none for x in MAPS)
        return Columns(
            images=tuple(table["image"].to_pylist()),
            **{name: table[name].to_numpy() for name in (*SCALARS, *apart)},
            excitation_map=excitation,
            inhibition_map=inhibition,
            kept=self.manifest.kept_of(self.features.index(feature)),
        )

    def channels(
        self, feature: Feature | str | None = None, *, rows: Indices | None = None
    ) -> Float[np.ndarray, "n channels"]:
        """S summed over space, for each image: what each upstream channel adds.

        Args:
            feature: one of the run's features; default: the only one.
            rows: only these rows of the columns, in this order.
        Raises:
            RunError: the scan is not finished or damaged, or no image could be read.
            ValueError: as `feature` says.
            IndexError: there is no such row.
        """
        table = self._rows(self.feature(feature), ["channels"], rows)
        return matrix(table["channels"], self.manifest.through_shape[0])

    def channel_sides(
        self, feature: Feature | str | None = None, *, rows: Indices | None = None
    ) -> tuple[Float[np.ndarray, "n channels"], Float[np.ndarray, "n channels"]]:
        """What each upstream channel adds to excitation, and what to inhibition, in each image.

        Args:
            feature: one of the run's features; default: the only one.
            rows: only these rows of the columns, in this order.
        Returns:
            Two arrays, both >= 0; over channels they sum to excitation and inhibition. Of a channel
            whose excitation is lost in the rounding of its inhibition (1e-5 of it in float32, 2 %
            in bfloat16), it is 0.
        Raises:
            RunError: the scan is not finished or damaged, or no image could be read.
            ValueError: as `feature` says.
            IndexError: there is no such row.
        """
        table = self._rows(self.feature(feature), list(CHANNELS), rows)
        total, inhibition = (
            matrix(table[name], self.manifest.through_shape[0]) for name in CHANNELS
        )
        return positive_part(total, inhibition, self.manifest.network.dtype), inhibition

    def exemplars(self, channel: int, count: int = EXEMPLARS) -> list[Exemplar]:
        """Where in the images a channel of the through layer is most active, one place an image.

        Args:
            channel: of the through layer.
            count: how many; at most 9. Places where the channel is not active are left out.
        Raises:
            RunError: the scan is not finished or damaged.
        """
        self._shards()
        files = [self.exemplars_file(number) for number in range(self.shard_count)]
        _, height, width = self.manifest.through_shape
        return read_exemplars(files, self.digest, (height, width), channel, count)

    def _rows(
        self, feature: Feature, names: Sequence[str], which: Indices | None = None
    ) -> pa.Table:
        """Some columns of one feature's rows: of all images, or of some, in their order."""
        window, channels = self.through_window(feature), self.manifest.through_shape[0]
        sizes = dict.fromkeys(MAPS, window.height * window.width) | dict.fromkeys(
            CHANNELS, channels
        )
        lengths = {name: sizes.get(name) for name in names}
        table = read_rows(self._shards(), self.features.index(feature), lengths, which)
        if which is None and not len(table):
            raise RunError(f"no image of {self.folder} could be read or used; see unreadable.csv")
        return table

    def all_units(self) -> UnitsRecord:
        """Which units were scanned together.

        Raises:
            RunError: the scan is not of all units.
        """
        if self.manifest.units is None:
            raise RunError(f"{self.folder} is no scan of all units; scan 'LAYER:*' for one")
        return self.manifest.units

    def summary(self) -> Summary:
        """Extremes and distributions of all units over all images.

        Raises:
            RunError: the scan is not of all units, not finished, or damaged.
        """
        units = self.all_units()
        self._shards()
        count = self.manifest.images.count
        total: Summary | None = None
        for file in map(self.summary_file, range(self.shard_count)):
            summary = read_summary(file, self.digest, units.count, units.keep, count)
            total = summary if total is None else merge(total, summary)
        assert total is not None
        return total

    def units(self) -> pa.Table:
        """One row a unit and score: quantiles, and the images at either end.

        Raises:
            RunError: the scan is not of all units, not finished, or damaged.
        """
        if self.manifest.units is None or not self.units_file.is_file():
            self.summary()  # says what is wrong
        return read_table(self.units_file, COMMAND, UNITS_COLUMNS)

    def baseline(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "k h w"]:
        """The through layer's mean, which the rule starts from.

        Args:
            device: where it is wanted.
            dtype: the type of numbers that is wanted.
        Raises:
            RunError: it is missing or damaged.
        """
        with damage_refused(self.baseline_file, COMMAND):
            return tensors_of(self.baseline_file.read_bytes())["mean"].to(device, dtype)

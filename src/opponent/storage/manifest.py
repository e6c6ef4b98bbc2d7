"""The manifest of a run: everything that determines its numbers, typed and validated."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from math import isfinite
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import PIL
import torch

from opponent.core.box import Box
from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.models.network import PIXELS
from opponent.models.preprocessing import Preprocessing
from opponent.storage.columns import Kept
from opponent.storage.files import AnyPath

FORMAT = 4
# What manifests of this format did not have at first: RGB, and what a byte means.
_NEWER = {"channels", "value_range", "largest"}

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
# (top, left, height, width)
BoxNumbers = tuple[int, int, Positive, Positive]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a manifest share: fields have types, and others are refused."""


class NetworkRecord(_Record, frozen=True, kw_only=True):
    """Which network was scanned.

    Args:
        name: what it is called.
        weights_file: the file of weights, where one was given.
        weights_sha256: of all parameters and buffers.
        preprocessing: how images were prepared.
        dtype: the type of numbers that it computed in.
        narrower: the type of fewer bits that a layer gave, where the network leaves its own (by
            autocast, for example), and the layer's name.
        signature: what it computes of made-up images, as `models.signature` gives it; empty
            where that is not known.
        asked: the text that `opponent.load` made it from; None where it was handed over as an
            object, and in manifests of earlier versions.
    """

    name: str
    weights_file: str | None
    weights_sha256: str
    preprocessing: Preprocessing
    dtype: str
    narrower: tuple[str, str] | None = None
    asked: str | None = None
    signature: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _ = self.preprocessing.fit  # it refuses sizes that are no sizes


class FeatureRecord(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """A feature with its position written out, as `Feature.describe` gives it.

    Args:
        layer: the layer's name.
        unit: the channel, for a one-hot direction.
        name: what the direction is called.
        power: p of dot * cos^p; None is 0.
        vector: one weight a channel, for any other direction.
        position: (row, column) in the layer's map; None where it has but one.
        token: what the token at that position is called, if it lies nowhere on the image.
    """

    layer: str
    unit: Count | None = None
    name: str | None = None
    power: Count | None = None
    vector: list[float] | None = None
    position: tuple[Count, Count] | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        _ = self.feature  # it refuses what makes no feature

    @property
    def feature(self) -> Feature:
        """The feature."""
        return Feature.restore(msgspec.to_builtins(self))


class WindowRecord(_Record, frozen=True, kw_only=True):
    """Boxes that a feature depends on, as (top, left, height, width).

    Args:
        through: of the through layer, outside which S is zero.
        pixels: of the network's input.
    """

    through: BoxNumbers
    pixels: BoxNumbers


class ImagesRecord(_Record, frozen=True, kw_only=True):
    """Which images were scanned.

    Args:
        source: where they came from.
        count: how many.
        sha256: of their list, as `ImageSet.digest` gives it.
    """

    source: str
    count: Positive
    sha256: str


class CropRecord(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """What was computed of image and layers, as a `CropPlan` says.

    Args:
        reason: why it was the whole image, where it was; then there is nothing else.
        crops: the box of the input and of each layer on the way that went on.
        positions: of the features in the cropped map.
        window, inner, region: as in `CropPlan`.
    """

    reason: str | None = None
    crops: dict[str, BoxNumbers] | None = None
    positions: list[tuple[int, int]] | None = None
    window: BoxNumbers | None = None
    inner: BoxNumbers | None = None
    region: BoxNumbers | None = None

    def __post_init__(self) -> None:
        boxes = (self.crops, self.positions, self.window, self.inner, self.region)
        given = [value is not None for value in boxes]
        if any(given) != all(given) or any(given) == (self.reason is not None):
            raise ValueError("a crop has all boxes and positions, or is whole and has none")
        if self.crops is not None and PIXELS not in self.crops:
            raise ValueError(f"the crops have no box of the {PIXELS}")


class UnitsRecord(_Record, frozen=True, kw_only=True):
    """All units of a layer, where they were scanned together.

    Args:
        layer: the layer.
        position: (row, column) in its map; '*' is every position; None where the layer has none.
        token: what the token at that position is called, if it lies nowhere on the image.
        count: how many units.
        window: the box of the through layer that they depend on.
        keep: images that are kept at either end of each score.
    """

    layer: str
    position: Literal["*"] | tuple[Count, Count] | None
    count: Positive
    window: BoxNumbers
    keep: Positive
    token: str | None = None


class DictionaryRecord(_Record, frozen=True, kw_only=True):
    """The dictionary whose latents S is of.

    Args:
        sha256: of kind, number of active latents and all arrays.
        latents: how many there are.
        kind: how hidden vectors are encoded.
    """

    sha256: str
    latents: Positive
    kind: str


class KeptRecord(_Record, frozen=True, kw_only=True):
    """That a run holds only images that a scan of all units keeps.

    Args:
        images: how many images that scan could read.
        keep: images that it kept at either end of each score.
        deviations: of each feature's activation over all those images.
    """

    images: Positive
    keep: Positive
    deviations: list[float]


class Manifest(_Record, frozen=True, kw_only=True):
    """Everything that determines a scan's numbers, and where its parts came from.

    Args:
        network: the network.
        features: the features, with positions written out.
        through: the through layer.
        through_shape: its (channels, rows, columns).
        tokens: names of its tokens that lie nowhere on the image, such as 'cls'.
        windows: for each feature the boxes that it depends on.
        placement: the input pixel (row, column) of the through layer's first element, and the steps
            to the next ones; None where it has no rows and columns.
        images: the images.
        batch_size, shard_size: images a pass and a shard.
        device, seed, versions: where, from which seed, and with which software.
        rule: the label of the rule of attribution.
        crop_plan: what is computed of image and layers for the features; None without features.
        units: where all units of the layer are scanned, which.
        units_crop_plan: what is computed for them.
        kept: where the images are those that a scan of all units keeps, of how many.
        dictionary: whose latents S is of, where they are not the through layer's channels;
            `through_shape` has their number then.
        format: of the run folder.
    """

    network: NetworkRecord
    features: list[FeatureRecord]
    through: str
    through_shape: tuple[Positive, Positive, Positive]
    windows: list[WindowRecord]
    placement: tuple[float, float, float, float] | None
    images: ImagesRecord
    batch_size: Positive
    shard_size: Positive
    device: str
    seed: int
    versions: dict[str, str]
    rule: str = "gradient"
    tokens: tuple[str, ...] = ()
    crop_plan: CropRecord | None = None
    units: UnitsRecord | None = None
    units_crop_plan: CropRecord | None = None
    kept: KeptRecord | None = None
    dictionary: DictionaryRecord | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        if len(self.windows) != len(self.features):
            raise ValueError(f"{len(self.features)} features have {len(self.windows)} windows")
        positions = None if self.crop_plan is None else self.crop_plan.positions
        if positions is not None and len(positions) != len(self.features):
            raise ValueError(f"{len(self.features)} features have {len(positions)} positions")
        if self.kept is not None and len(self.kept.deviations) != len(self.features):
            raise ValueError(
                f"{len(self.features)} features have {len(self.kept.deviations)} deviations"
            )

    @property
    def explained_by(self) -> str:
        """What features are explained through: the layer, or latents of it."""
        return self.through if self.dictionary is None else f"latents of {self.through}"

    def kept_of(self, place: int) -> Kept | None:
        """Of which images those of a feature were kept; None where they are all.

        Args:
            place: the feature's place among the features.
        """
        if self.kept is None:
            return None
        deviation = self.kept.deviations[place]
        return Kept(images=self.kept.images, keep=self.kept.keep, deviation=deviation)

    def determining(self) -> dict[str, Any]:
        """What two scans must share to be one and the same.

        All but the places of files, and what the first of them found to be enough to compute.
        """
        values: dict[str, Any] = json.loads(self.to_json())
        del values["crop_plan"], values["units_crop_plan"]
        del values["network"]["weights_file"], values["network"]["asked"]
        del values["network"]["signature"]
        del values["images"]["source"]
        return values

    def digest(self) -> str:
        """What stands in each shard, so that those of another scan are told from its own."""
        text = json.dumps(self.determining(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """The manifest as a JSON text."""
        values = msgspec.to_builtins(self)
        for name in ("kept", "dictionary"):
            if values[name] is None:
                del values[name]
        # In ASCII, since names of files need not be valid text.
        return json.dumps(values, indent=1) + "\n"


def read_manifest(path: AnyPath) -> Manifest:
    """Read and validate a manifest.

    Raises:
        RunError: it is damaged, or of another format; the message names the field.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise RunError(
                f"{path.parent} has format {values.get('format')}, this version of opponent reads "
                f"format {FORMAT}; scan again into another folder"
            )
        manifest = msgspec.convert(values, Manifest)
        # It is no record, and what is missing in it would get a default.
        preparation = {field.name for field in fields(Preprocessing)}
        there = values["network"]["preprocessing"].keys()
        if different := preparation ^ (there | _NEWER):
            names = ", ".join(sorted(different))
            raise ValueError(f"missing or unknown: {names} - at `$.network.preprocessing`")
        # JSON has no such numbers, but Python reads and writes them.
        if place := next(_not_finite(values, "$"), None):
            raise ValueError(f"a number that is not finite - at `{place}`")
        # A new one has all fields: msgspec writes only those that it has read.
        network = msgspec.structs.replace(
            manifest.network, preprocessing=replace(manifest.network.preprocessing)
        )
        return msgspec.structs.replace(manifest, network=network)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{path} is damaged ({reason}); delete the folder and scan again") from error


def _not_finite(value: object, place: str) -> Iterator[str]:
    """Where numbers that are not finite lie in what JSON gave."""
    if isinstance(value, float) and not isfinite(value):
        yield place
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{number}]")


def feature_record(feature: Feature) -> FeatureRecord:
    """A feature for the manifest."""
    return msgspec.convert(feature.describe(), FeatureRecord)


def box_numbers(box: Box) -> BoxNumbers:
    """A box for the manifest."""
    return box.top, box.left, box.height, box.width


def versions() -> dict[str, str]:
    """The software that numbers depend on."""
    from importlib.metadata import version

    return {
        "opponent": version("opponent"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }

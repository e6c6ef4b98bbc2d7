"""Random units and k-means directions of many layers, measured in every image.

    OUT/question.json                  everything that determines the numbers
    OUT/directions/LAYER.safetensors   k-means directions of a layer
    OUT/checkpoints/...                of each image and feature: activation, E+, E-, L2 norm of S
    OUT/uniqueness-m100.json           U of each layer, the shared images, and the question
    OUT/uniqueness-m100.parquet        U of each layer as a table, beside the figures

Measurements do not depend on m: for another m, nothing is measured again.

Source: paper, section 6 and appendix H.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from opponent.attribution.attribute import BATCH
from opponent.core.feature import Feature
from opponent.core.progress import Progress, displayed, silent
from opponent.core.text import file_name
from opponent.directions import Directions, load_or_find_directions
from opponent.images.imageset import ImageSet
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.paper.layer_pairs import LayerPair, bottleneck_pairs, parse_pair, random_units
from opponent.paper.uniqueness.batch import measure_batch, plan_crops
from opponent.storage.checkpoints import SHARD, CheckpointFolder, map_images
from opponent.storage.columns import Columns
from opponent.storage.files import AnyPath
from opponent.storage.manifest import versions

KINDS = ("units", "kmeans")
SELECTIONS = ("activation", "l1", "l2")
# Images of a layer for each centroid, at least; the paper has 50. Ours.
IMAGES_A_CENTROID = 4


@dataclass(frozen=True, kw_only=True)
class UniquenessSettings:
    """What determines the numbers beside network, layers and images.

    Args:
        features: n, units and k-means directions a layer. Source: paper, section 6.
        kmeans: directions that these are chosen from, if there are images enough. Source: app. H.
        power: of the cosine in a k-means direction's activation. Source: appendix B.
        batch_size, shard_size: images a pass and a file.
        seed: of units, clusters and their choice.
    Raises:
        ValueError: a number is not positive, or more features than k-means centroids.
    """

    features: int = 20
    kmeans: int = 1000
    power: int = 2
    batch_size: int = BATCH
    shard_size: int = SHARD
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("features", "kmeans", "batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.kmeans < self.features:
            raise ValueError(
                f"{self.features} directions cannot be chosen from {self.kmeans} k-means centroids"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureGroup:
    """Features of one layer and kind, with their measurements in every image.

    Args:
        pair: the layer and what it is explained through.
        kind: 'units' or 'kmeans'.
        features: n of them, read at the layer's centre.
        population: how many they were drawn from without replacement; None if it is not known.
        values: activation, E+, E- and the L2 norm of S.
    """

    pair: LayerPair
    kind: str
    features: tuple[Feature, ...]
    population: int | None
    values: Float[np.ndarray, "images n 4"]

    def by(self, selection: str) -> Float[np.ndarray, "images n"]:
        """What images are chosen by: 'activation', 'l1' or 'l2'."""
        activation, plus, minus, l2 = np.moveaxis(self.values, 2, 0)
        values: dict[str, np.ndarray] = {"activation": activation, "l1": plus + minus, "l2": l2}
        return values[selection]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMeasurements:
    """The measurements of all layers' features, as `measure_features` returns them.

    Args:
        folder: where they lie.
        question: what determines the numbers.
        groups: units and k-means directions of each layer, in order.
        images: the ids of the images that could be read and gave finite numbers.
        unreadable: the others, with reasons.
        source: all images.
    """

    folder: AnyPath
    question: Mapping[str, Any]
    groups: tuple[FeatureGroup, ...]
    images: tuple[str, ...]
    unreadable: Mapping[str, str]
    source: ImageSet

    def group(self, layer: str, kind: str) -> FeatureGroup:
        """The features of one layer and kind."""
        [group] = [x for x in self.groups if (x.pair.target, x.kind) == (layer, kind)]
        return group

    def columns(self, group: FeatureGroup, number: int) -> Columns:
        """The measurements of one feature of a group, without maps."""
        activation, plus, minus, l2 = group.values[:, number].T
        none = np.empty((len(self.images), 0, 0), np.float32)
        return Columns(
            images=self.images,
            activation=activation,
            excitation=plus,
            inhibition=minus,
            l1=plus + minus,
            l2=l2,
            excitation_map=none,
            inhibition_map=none,
        )


def choose_layers(network: Network, layers: Sequence[str] | None = None) -> list[LayerPair]:
    """The layers to measure, each with the one before it.

    Args:
        network: the network.
        layers: 'TARGET', or 'TARGET:THROUGH'. Default: every activation function that is a
            bottleneck between the images and the logits, but the first, each through the nearest
            such layer or block before it; of InceptionV1 conv2d1 to mixed5b.
    Raises:
        ValueError: an unknown layer, one that nothing comes before, one named twice, or none.
    """
    if layers:
        pairs = [parse_pair(network, name.strip()) for name in layers]
    else:
        pairs = bottleneck_pairs(network)
    if not pairs:
        raise ValueError(
            f"{network.name} has no two activation functions that all goes through; name layers "
            "as TARGET:THROUGH"
        )
    targets = [pair.target for pair in pairs]
    if len(set(targets)) < len(targets):
        raise ValueError(f"a layer is named twice among {', '.join(targets)}")
    return pairs


@displayed
def measure_features(
    network: Network,
    images: Images,
    *,
    out: str | AnyPath,
    layers: Sequence[str] | None = None,
    settings: UniquenessSettings | None = None,
    progress: Progress | None = None,
) -> FeatureMeasurements:
    """Measure random units and k-means directions of many layers in every image.

    An interrupted measurement goes on where it stopped, and ends with the same numbers.

    Args:
        network: the network.
        images: a folder, files, a text list, or 'photos'.
        out: the folder, new or that of the same question.
        layers: as in `choose_layers`.
        settings: how many features, from which seed.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The measurements of all layers.
    Raises:
        ValueError: a layer or source that does not fit, or too few images.
        RunError: the folder holds another question's results.
    Source: paper, appendix H.
    """
    settings, report = settings or UniquenessSettings(), progress or silent
    pairs = choose_layers(network, layers)
    source = open_images(images, size=network.preprocessing.size)
    question = _question(network, source, pairs, settings)
    checkpoints = CheckpointFolder(out, question)
    features: dict[LayerPair, list[Feature]] = {}
    for pair, units in zip(pairs, question["units"], strict=True):
        directions = _directions(
            network, source, pair.target, checkpoints.folder, question["centroids"], settings.seed,
            report,
        )  # fmt: skip
        chosen = directions.spread(settings.features, seed=settings.seed)
        features[pair] = [Feature(layer=pair.target, unit=unit) for unit in units]
        features[pair] += chosen.features([f"{pair.target}:*"], power=settings.power)
    plans = plan_crops(network, features)
    arrays, read, unreadable = map_images(
        checkpoints,
        network,
        source,
        lambda inputs, _: measure_batch(network, inputs, plans),
        until=pairs[-1].target,
        batch_size=settings.batch_size,
        shard_size=settings.shard_size,
        what="measuring",
        progress=report,
    )
    groups = list[FeatureGroup]()
    for pair, units in zip(pairs, question["units"], strict=True):
        channels = network.layer(pair.target).shape[0]
        groups += _groups(pair, features[pair], len(units), channels, arrays[pair.target])
    return FeatureMeasurements(
        folder=checkpoints.folder,
        question=question,
        groups=tuple(groups),
        images=read,
        unreadable=unreadable,
        source=source,
    )


def _question(
    network: Network, images: ImageSet, pairs: Sequence[LayerPair], settings: UniquenessSettings
) -> dict[str, Any]:
    """What determines the numbers, as it is read back from JSON.

    Raises:
        ValueError: too few images.
    """
    centroids = min(settings.kmeans, len(images) // IMAGES_A_CENTROID)
    if centroids < settings.features:
        raise ValueError(
            f"{len(images)} images are too few for {settings.features} k-means directions a layer: "
            f"give at least {IMAGES_A_CENTROID * settings.features}, or fewer features"
        )
    question = {
        "experiment": "uniqueness",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "preprocessing": network.preprocessing.describe(),
        "images": {"count": len(images), "sha256": images.digest()},
        "layers": [asdict(pair) for pair in pairs],
        "units": [
            random_units(network, pair.target, settings.features, settings.seed) for pair in pairs
        ],
        "centroids": centroids,
        "settings": asdict(settings),
        "device": network.device.type,
        "versions": versions(),
    }
    restored: dict[str, Any] = json.loads(json.dumps(question))
    return restored


def _directions(
    network: Network,
    images: ImageSet,
    layer: str,
    folder: AnyPath,
    count: int,
    seed: int,
    report: Progress,
) -> Directions:
    """A layer's k-means directions."""
    return load_or_find_directions(
        network,
        images,
        layer,
        folder / "directions" / f"{file_name(layer)}.safetensors",
        count=count,
        seed=seed,
        progress=lambda what, done, total: report(f"{layer}: {what}", done, total),
    )


def _groups(
    pair: LayerPair,
    features: Sequence[Feature],
    units: int,
    channels: int,
    values: Float[np.ndarray, "images f 4"],
) -> list[FeatureGroup]:
    """One layer's units, the first of its features, and its k-means directions."""
    rows = {"units": slice(units), "kmeans": slice(units, None)}
    populations = {"units": channels, "kmeans": None}
    return [
        FeatureGroup(
            pair=pair,
            kind=kind,
            features=tuple(features[rows[kind]]),
            population=populations[kind],
            values=values[:, rows[kind]],
        )
        for kind in KINDS
    ]

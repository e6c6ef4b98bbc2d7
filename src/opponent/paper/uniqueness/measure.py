"""Random units and k-means directions of many layers, measured in every image.

    OUT/question.json                  everything that determines the numbers
    OUT/directions/LAYER.safetensors   k-means directions of a layer
    OUT/checkpoints/...                of each image and feature: activation, E+, E-, L2 norm of S,
                                       and what the controls and dictionaries give
    OUT/uniqueness-m100.json           U of each layer, the shared images, and the question
    OUT/uniqueness-m100.parquet        U of each layer as a table, beside the figures
    OUT/controls-m100.parquet          the same beside the controls

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
from opponent.attribution.through_dictionary import check_dictionary
from opponent.core.feature import Feature
from opponent.core.progress import Progress, displayed, silent
from opponent.core.text import file_name
from opponent.dictionaries.dictionary import Dictionary
from opponent.directions import Directions, load_or_find_directions
from opponent.images.imageset import ImageSet
from opponent.images.sources import Images, open_images
from opponent.models.network import Network
from opponent.paper.layer_pairs import LayerPair, bottleneck_pairs, parse_pair, random_units
from opponent.paper.uniqueness.batch import LayerPlan, measure_batch, plan_crops
from opponent.paper.uniqueness.controls import Controls
from opponent.paper.uniqueness.measurements import FeatureGroup, FeatureMeasurements
from opponent.storage.checkpoints import SHARD, CheckpointFolder, map_images
from opponent.storage.files import AnyPath
from opponent.storage.manifest import versions

# Images of a layer for each centroid, at least; the paper has 50. Ours.
IMAGES_A_CENTROID = 4


@dataclass(frozen=True, kw_only=True)
class UniquenessSettings:
    """What determines the numbers beside network, layers and images.

    Args:
        features: n, units and k-means directions a layer. Source: paper, section 6.
        kmeans: directions that these are chosen from, if there are images enough. Source: app. H.
        power: of the cosine in a k-means direction's activation. Source: appendix B.
        controls: draws of each kind of control; 0 for none. Ours.
        batch_size, shard_size: images a pass and a file.
        seed: of units, clusters and their choice.
    Raises:
        ValueError: a number is not positive, or more features than k-means centroids; a negative
            number of controls.
    """

    features: int = 20
    kmeans: int = 1000
    power: int = 2
    controls: int = 5
    batch_size: int = BATCH
    shard_size: int = SHARD
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("features", "kmeans", "batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.controls < 0:
            raise ValueError(f"controls must not be negative, got {self.controls}")
        if self.kmeans < self.features:
            raise ValueError(
                f"{self.features} directions cannot be chosen from {self.kmeans} k-means centroids"
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
    dictionaries: Sequence[Dictionary] = (),
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
        dictionaries: of the layers that are gone through; S is measured in each as well.
        settings: how many features, from which seed.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        The measurements of all layers.
    Raises:
        ValueError: a layer, source or dictionary that does not fit, or too few images.
        RunError: the folder holds another question's results.
    Source: paper, appendix H.
    """
    settings, report = settings or UniquenessSettings(), progress or silent
    pairs = choose_layers(network, layers)
    source = open_images(images, size=network.preprocessing.size)
    bases = _bases(network, pairs, dictionaries)
    question = _question(network, source, pairs, settings, bases)
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
    plans = _plans(network, features, bases, settings)
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
        groups += _groups(pair, features[pair], len(units), channels, arrays)
    return FeatureMeasurements(
        folder=checkpoints.folder,
        question=question,
        groups=tuple(groups),
        images=read,
        unreadable=unreadable,
        source=source,
    )


Bases = Mapping[LayerPair, Mapping[str, Dictionary]]


def _bases(
    network: Network, pairs: Sequence[LayerPair], dictionaries: Sequence[Dictionary]
) -> dict[LayerPair, dict[str, Dictionary]]:
    """Of each pair of layers its dictionaries, by their titles.

    Raises:
        ValueError: a dictionary that is of no layer that is gone through, or two of one title.
    """
    bases: dict[LayerPair, dict[str, Dictionary]] = {pair: {} for pair in pairs}
    for dictionary in dictionaries:
        having = [pair for pair in pairs if dictionary.layer == pair.through]
        if not having:
            names = ", ".join(dict.fromkeys(pair.through for pair in pairs))
            raise ValueError(f"{dictionary} is of none of the layers gone through: {names}")
        for pair in having:
            check_dictionary(network, dictionary, pair.through)
            if dictionary.title in bases[pair]:
                raise ValueError(
                    f"two dictionaries of {pair.through!r} are called {dictionary.title!r}: "
                    "measure them in two calls, with another folder each"
                )
            bases[pair][dictionary.title] = dictionary
    return bases


def _plans(
    network: Network,
    features: Mapping[LayerPair, Sequence[Feature]],
    bases: Bases,
    settings: UniquenessSettings,
) -> dict[LayerPair, LayerPlan]:
    """What is measured of each layer."""
    return {
        pair: LayerPlan(
            crop=crop,
            controls=Controls.of(network, crop, settings.controls, settings.seed),
            kinds=_rows(min(settings.features, network.layer(pair.target).shape[0])),
            dictionaries=bases[pair],
        )
        for pair, crop in plan_crops(network, features).items()
    }


def _question(
    network: Network,
    images: ImageSet,
    pairs: Sequence[LayerPair],
    settings: UniquenessSettings,
    bases: Bases,
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
        "dictionaries": [
            {"through": pair.through, "title": title, "sha256": dictionary.sha256()}
            for pair in pairs
            for title, dictionary in bases[pair].items()
        ],
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


def _rows(units: int) -> dict[str, slice]:
    """Which of a layer's features are of which kind: its units are the first."""
    return {"units": slice(units), "kmeans": slice(units, None)}


def _groups(
    pair: LayerPair,
    features: Sequence[Feature],
    units: int,
    channels: int,
    arrays: Mapping[str, Float[np.ndarray, "images ..."]],
) -> list[FeatureGroup]:
    """One layer's units and its k-means directions."""
    populations, layer = {"units": channels, "kmeans": None}, pair.target
    sizes = f"{layer}/sizes/"
    return [
        FeatureGroup(
            pair=pair,
            kind=kind,
            features=tuple(features[rows]),
            population=populations[kind],
            values=arrays[layer][:, rows],
            hidden=arrays[f"{layer}/hidden"],
            sizes={
                name.removeprefix(sizes): values[:, rows]
                for name, values in arrays.items()
                if name.startswith(sizes)
            },
            parallel=arrays[f"{layer}/parallel/{kind}"],
        )
        for kind, rows in _rows(units).items()
    ]

"""How many images features share: by activation few, by the norm of their attributions many.

    OUT/asked.json              everything that determines the numbers
    OUT/directions/LAYER.safetensors   k-means directions of a layer
    OUT/parts/...               of each image and feature: activation, E+, E- and L2 norm of S
    OUT/uniqueness-m100.json    U of each layer, the shared images, and where all this comes from
    OUT/uniqueness-m100.parquet U of each layer as a table, beside the figures

Measurements do not depend on m: asked with another, they are not made again.

Source: paper, section 6 and appendix H.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opponent.core.box import Box
from opponent.core.feature import Feature
from opponent.directions import Directions, find_directions
from opponent.geometry.receptive_field import receptive_field
from opponent.images.sources import ImageSet, open_images
from opponent.models.forward import ForwardResult
from opponent.models.network import Network
from opponent.paper.inversion_check import Pair, parse_pair, random_units, trunk
from opponent.scan.local import BATCH, SHARD
from opponent.selection import Columns, top
from opponent.storage.checkpoints import CheckpointFolder, map_images
from opponent.storage.run import versions

KINDS = ("units", "kmeans")
SELECTIONS = ("activation", "l1", "l2")
# Images a feature. Source: paper, appendix H, which takes 100 of 50,000.
TOP = 100
# With 20 features, U of images drawn by chance is 0.83 at one in 50, and falls below 0.5 at one in
# 12, where little is left to be seen. Ours.
LEAST_IMAGES = 50
# Images of a layer for each centroid, at least; the paper has 50. Ours.
IMAGES_A_CENTROID = 4
# An image is shared if 15 of 20 features have it among their top images. Source: appendix H.
SHARED = 0.75

Progress = Callable[[str, int, int], None]
Members = Int[np.ndarray, "n m"]


# ---------------------------------------------------------------------------------- the measure


def uniqueness(members: Members) -> float:
    """The share of different images among those that n features chose.

    Args:
        members: for each feature its m images, all different, as numbers.
    Returns:
        U, between 1/n (all chose the same) and 1 (all chose others).
    Source: paper, eq. 6.
    """
    return len(np.unique(members)) / members.size


def chance(features: int, top: int, images: int) -> float:
    """U to be expected where each feature draws its images at random.

    Args:
        features: n.
        top: m, images a feature.
        images: N, images in all.
    Returns:
        N (1 - (1 - m/N)^n) / (n m): an image is missed by all features with (1 - m/N)^n.
    """
    return images * (1 - (1 - top / images) ** features) / (features * top)


def interval(
    members: Members, population: int | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for the U that choices of as many features give on average.

    From the jackknife: U without each feature in turn. The bootstrap would draw a feature twice,
    whose images then count as shared, and would so put U too low. The jackknife draws nothing
    twice, and errs on the wide side, most where features share images by chance only. Features
    drawn from a layer without replacement leave the less open the more of the layer they are: at
    all of it the interval is a point. It tells nothing of what other images would give.

    Args:
        members: as in `uniqueness`.
        population: features to choose from; None is without end.
        confidence: of the interval.
    Returns:
        Low and high, within 1/n and 1. For a single feature nothing is known but these bounds.
    Source: Efron & Stein (1981), "The jackknife estimate of variance"; Cochran (1977), "Sampling
        techniques", section 2.6, for the finite population.
    """
    from scipy.special import stdtrit

    n, m = members.shape
    if n < 2:
        return 1 / n, 1.0
    _, number, count = np.unique(members, return_inverse=True, return_counts=True)
    own = (count[number.reshape(n, m)] == 1).sum(1)  # images that leave with the feature
    without = (len(count) - own) / ((n - 1) * m)
    variance = (n - 1) / n * float(((without - without.mean()) ** 2).sum())
    if population is not None:
        variance *= max(0.0, 1 - n / population)
    value = len(count) / members.size
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * math.sqrt(variance)
    return max(1 / n, value - half), min(1.0, value + half)


def ranked(values: Float[np.ndarray, "images n"], m: int) -> Bool[np.ndarray, " n"]:
    """Which features have m top images: more than their lowest value, to m images at least.

    Others give one value to nearly all images, such as S = 0 above units that are never on, and
    the order of the images would choose.
    """
    if not values.size:
        return np.zeros(values.shape[1], bool)
    found: Bool[np.ndarray, " n"] = np.partition(values, -m, axis=0)[-m] > values.min(0)
    return found


# ------------------------------------------------------------------------------------- one pass


@dataclass(frozen=True, kw_only=True)
class _Near:
    """The window of the through layer that decides a layer's centre, and where it then lies.

    Without a window, the whole network has to run.
    """

    window: Box | None
    position: tuple[int, int]


def _near(network: Network, pair: Pair) -> _Near:
    """Find the window, and try on noise whether it gives the same as the whole map does."""
    channels, height, width = network.layer(pair.target).shape
    box = receptive_field(network, Feature.direction(pair.target, [1.0] * channels), pair.through)
    rows, columns = network.map_shape(pair.through)[1:]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, 3, *network.preprocessing.size, generator=generator)
    inputs = network.preprocessing.normalise(noise).to(network.device, network.dtype)
    centre = height // 2, width // 2
    reading = network.run(inputs, pair.target, pair.through, differentiate="target")
    assert reading.through is not None
    at = reading.target[:, :, centre[0], centre[1]]
    slope = _slope(at, reading.through)
    # Strides may ask for a window that begins at an even row and column.
    for stride in (1, 2, 4, max(rows, columns)):
        window = _grown(box, stride, (rows, columns))
        crop = reading.through.detach()[:, :, *window.slices]
        try:
            part = _run_near(network, inputs, pair, crop)
        except (RuntimeError, ValueError):
            continue  # what follows takes no other size
        assert part.through is not None
        if part.target.shape[:2] != at.shape:
            continue
        gaps = (part.target.detach() - at.detach()[:, :, None, None]).abs().amax((0, 1))
        row, column = divmod(int(gaps.argmin()), gaps.shape[1])
        found = part.target[:, :, row, column]
        pairs = [(at, found), (slope[:, :, *window.slices], _slope(found, part.through))]
        if all((a - b).abs().max() <= 1e-4 * a.abs().max().clamp(min=1e-6) for a, b in pairs):
            return _Near(window=window, position=(row, column))
    return _Near(window=None, position=centre)


def _slope(values: Float[Tensor, "n c"], through: Float[Tensor, "n k h w"]) -> Tensor:
    [slope] = torch.autograd.grad(values.sum(), through, retain_graph=True)
    return slope


def _grown(box: Box, stride: int, size: tuple[int, int]) -> Box:
    top, left = box.top // stride * stride, box.left // stride * stride
    bottom = min(size[0], -(-(box.top + box.height) // stride) * stride)
    right = min(size[1], -(-(box.left + box.width) // stride) * stride)
    return Box(top=top, left=left, height=bottom - top, width=right - left)


def _run_near(network: Network, inputs: Tensor, pair: Pair, crop: Tensor) -> ForwardResult:
    """Run on from a crop of the through layer; one image leads there, and its map is dropped."""
    return network.run(
        inputs[:1], pair.target, pair.through, differentiate="target", substitute=lambda _: crop
    )


def _norms(
    attribution: Float[Tensor, "n k h w"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """E+, E- and the L2 norm of S, in three sweeps and no copies: a quarter of the time.

    Source: paper, eq. 2, by E+ + E- = L1 norm and E+ - E- = sum.
    """
    # Channel by channel: a norm adds one value after the other, and loses digits over a whole map.
    flat, norm = attribution.flatten(2), torch.linalg.vector_norm
    l1, total = norm(flat, 1, 2).sum(1), flat.sum((1, 2))
    plus, minus = ((l1 + sign * total).clamp(min=0) / 2 for sign in (1, -1))
    return plus, minus, norm(norm(flat, 2, 2), 2, 1)


def measure(
    network: Network,
    inputs: Float[Tensor, "n 3 h w"],
    features: Mapping[Pair, Sequence[Feature]],
    near: Mapping[Pair, "_Near"] | None = None,
) -> dict[str, Float[np.ndarray, "n f 4"]]:
    """Activation, excitation, inhibition and L2 norm of S, of features at many layers' centres.

    One pass through the network gives all through layers. Gradients are then taken within the small
    window of the through layer that decides the centre, where that gives the same.

    Args:
        network: the network.
        inputs: its own input, preprocessed.
        features: of each layer, all without position.
        near: as found before, by `_near`.
    Returns:
        By layer; all in units of the activation.
    Source: paper, eqs. 1 and 2, appendix H (the central position).
    """
    near = near or {pair: _near(network, pair) for pair in features}
    throughs = list(dict.fromkeys(pair.through for pair in features if near[pair].window))
    maps: Mapping[str, Tensor] = {}
    if throughs:
        record = network.record(inputs, targets=[], throughs=throughs)
        maps = {name: values.detach() for name, values in record.throughs.items()}
        del record
    found = {}
    for pair, several in features.items():
        window = near[pair].window
        if window is None:
            reading = network.run(inputs, pair.target, pair.through, differentiate="target")
        else:
            reading = _run_near(
                network, inputs, pair, maps[pair.through][:, :, *window.slices].contiguous()
            )
        assert reading.through is not None
        hidden, columns = reading.through.detach(), []
        with torch.inference_mode(False), torch.enable_grad():
            for feature in several:
                activation = feature.at(near[pair].position).read(reading.target)
                [slope] = torch.autograd.grad(activation.sum(), reading.through, retain_graph=True)
                columns.append(torch.stack([activation.detach(), *_norms(slope * hidden)], 1))
        found[pair.target] = torch.stack(columns, 1).float().cpu().numpy()
    return found


# --------------------------------------------------------------------------------------- a run


@dataclass(frozen=True, kw_only=True)
class UniquenessSettings:
    """What determines the numbers beside network, layers and images.

    Args:
        features: n, units and k-means directions a layer. Source: paper, section 6.
        kmeans: directions that these are chosen from, if there are images enough. Source: app. H.
        power: of the cosine in a k-means direction's activation. Source: appendix B.
        batch_size, shard_size: images a pass and a file.
        seed: of units, clusters and their choice.
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
class Group:
    """Features of one layer and kind, with what was measured of each in every image.

    Args:
        pair: the layer and what it is explained through.
        kind: 'units' or 'kmeans'.
        features: n of them, read at the layer's centre.
        population: of so many they were drawn without replacement; None if it is not known.
        values: activation, E+, E- and the L2 norm of S.
    """

    pair: Pair
    kind: str
    features: tuple[Feature, ...]
    population: int | None
    values: Float[np.ndarray, "images n 4"]

    def by(self, selection: str) -> Float[np.ndarray, "images n"]:
        """What images are chosen by: 'activation', 'l1' or 'l2'."""
        activation, plus, minus, l2 = np.moveaxis(self.values, 2, 0)
        found: dict[str, np.ndarray] = {"activation": activation, "l1": plus + minus, "l2": l2}
        return found[selection]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What `measure_features` found.

    Args:
        folder: where it lies.
        asked: what determines the numbers.
        groups: units and k-means directions of each layer, in order.
        images: the ids of the images that could be read.
        unreadable: the others, with reasons.
        source: all images.
    """

    folder: Path
    asked: Mapping[str, Any]
    groups: tuple[Group, ...]
    images: tuple[str, ...]
    unreadable: Mapping[str, str]
    source: ImageSet

    def group(self, layer: str, kind: str) -> Group:
        """The features of one layer and kind."""
        [found] = [x for x in self.groups if (x.pair.target, x.kind) == (layer, kind)]
        return found

    def columns(self, group: Group, number: int) -> Columns:
        """What was measured of one feature, without maps."""
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


def choose_layers(network: Network, layers: Sequence[str] | None = None) -> list[Pair]:
    """The layers to measure, each with the one before it.

    Args:
        network: the network.
        layers: 'TARGET', or 'TARGET:THROUGH'. Default: every activation function that all goes
            through from the images to the logits, but the first, each through the nearest such
            layer or block before it; of InceptionV1 conv2d1 to mixed5b.
    Raises:
        ValueError: an unknown layer, one that nothing comes before, one named twice, or none.
    """
    pairs = [parse_pair(network, name.strip()) for name in layers] if layers else trunk(network)
    if not pairs:
        raise ValueError(
            f"{network.name} has no two activation functions that all goes through; name layers "
            "as TARGET:THROUGH"
        )
    targets = [pair.target for pair in pairs]
    if len(set(targets)) < len(targets):
        raise ValueError(f"a layer is named twice among {', '.join(targets)}")
    return pairs


def measure_features(
    network: Network,
    images: str | Path | Sequence[str | Path] | ImageSet,
    out: str | Path,
    *,
    layers: Sequence[str] | None = None,
    settings: UniquenessSettings | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure random units and k-means directions of many layers in every image.

    Interrupted, it goes on where it stopped, and ends with the same numbers.

    Args:
        network: the network.
        images: a folder, files, a text list, or 'photos'.
        out: the folder, new or that of the same question.
        layers: as in `choose_layers`.
        settings: how many features, from which seed.
        progress: called with what is being done, the steps done and the steps in all.
    Raises:
        ValueError: a layer or source that does not fit, or too few images.
        RunError: the folder holds another question's results.
    Source: paper, appendix H.
    """
    settings, tell = settings or UniquenessSettings(), progress or (lambda *_: None)
    pairs = choose_layers(network, layers)
    found = open_images(images, size=network.preprocessing.size)
    centroids = min(settings.kmeans, len(found) // IMAGES_A_CENTROID)
    if centroids < settings.features:
        raise ValueError(
            f"{len(found)} images are too few for {settings.features} k-means directions a layer: "
            f"give at least {IMAGES_A_CENTROID * settings.features}, or fewer features"
        )
    asked = {
        "question": "uniqueness",
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "preprocessing": asdict(network.preprocessing),
        "images": {"count": len(found), "sha256": found.digest()},
        "layers": [asdict(pair) for pair in pairs],
        "units": [
            random_units(network, pair.target, settings.features, settings.seed) for pair in pairs
        ],
        "centroids": centroids,
        "settings": asdict(settings),
        "device": network.device.type,
        "versions": versions(),
    }
    asked = json.loads(json.dumps(asked))  # as a reader will find it
    parts = CheckpointFolder(out, asked)
    features: dict[Pair, list[Feature]] = {}
    for pair, units in zip(pairs, asked["units"], strict=True):
        directions = _directions(
            network, pair.target, found, parts.folder, centroids, settings, tell
        )
        chosen = directions.spread(settings.features, seed=settings.seed)
        features[pair] = [Feature(layer=pair.target, unit=unit) for unit in units]
        features[pair] += chosen.features([f"{pair.target}:*"], power=settings.power)
    near = {pair: _near(network, pair) for pair in pairs}
    arrays, read, unreadable = map_images(
        parts,
        network,
        found,
        lambda inputs: measure(network, inputs, features, near),
        batch_size=settings.batch_size,
        shard_size=settings.shard_size,
        progress=lambda done, total: tell("measuring", done, total),
    )
    groups = []
    for pair, units in zip(pairs, asked["units"], strict=True):
        values, several = arrays[pair.target], features[pair]
        some = {"units": slice(len(units)), "kmeans": slice(len(units), None)}
        for kind, channels in (("units", network.layer(pair.target).shape[0]), ("kmeans", None)):
            groups.append(
                Group(
                    pair=pair,
                    kind=kind,
                    features=tuple(several[some[kind]]),
                    population=channels,
                    values=values[:, some[kind]],
                )
            )
    return Measured(
        folder=parts.folder,
        asked=asked,
        groups=tuple(groups),
        images=read,
        unreadable=unreadable,
        source=found,
    )


def _directions(
    network: Network,
    layer: str,
    images: ImageSet,
    folder: Path,
    count: int,
    settings: UniquenessSettings,
    tell: Progress,
) -> Directions:
    """A layer's k-means directions; read back from their file, so that all runs see the same."""
    file = folder / "directions" / f"{layer}.safetensors"
    if not file.is_file():
        keep = file.with_name(f".{layer}.vectors.safetensors")
        find_directions(
            network,
            layer,
            images,
            count=count,
            seed=settings.seed,
            keep=keep,
            progress=lambda what, done, total: tell(f"{layer}: {what}", done, total),
        ).save(file)
        keep.unlink(missing_ok=True)
    return Directions.load(file)


# ---------------------------------------------------------------------------------- the results


@dataclass(frozen=True, kw_only=True)
class Uniqueness:
    """How many images the features of one layer share, by one way of choosing images.

    Args:
        layer, through: where.
        kind: 'units' or 'kmeans'.
        by: what the images are the largest in: 'activation', 'l1' or 'l2' norm of S.
        features, top, images: n, m and N.
        value: U; like all that follows not a number where no feature is left.
        low, high: a 95 % interval over the choice of features, by `interval`.
        chance: U of images drawn at random.
        skipped: features left out, since `ranked` says that they have no m top images.
    """

    layer: str
    through: str
    kind: str
    by: str
    features: int
    top: int
    images: int
    value: float
    low: float
    high: float
    chance: float
    skipped: int


@dataclass(frozen=True, kw_only=True)
class SharedImage:
    """An image among the top m by the L1 norm of S, for so many of a layer's features."""

    layer: str
    through: str
    kind: str
    image: str
    features: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """U of all layers, and the images that three in four of a layer's features share."""

    table: tuple[Uniqueness, ...]
    shared: tuple[SharedImage, ...]


def sensible_top(images: int) -> int:
    """m for so many images: 100, or fewer where chance alone would make features share images."""
    return max(1, min(TOP, images // LEAST_IMAGES))


def assess(measured: Measured, m: int) -> Assessment:
    """U by layer, kind of feature and way of choosing images.

    Args:
        measured: as `measure_features` gives it.
        m: images a feature.
    Raises:
        ValueError: m is less than 1, or more than half of the images.
    Source: paper, eq. 6, figures 8a and 16.
    """
    images = len(measured.images)
    if not 1 <= m <= images // 2:
        raise ValueError(
            f"the top {m} of {images} images: give 1 to {images // 2}; with more, U says nothing "
            "of the features"
        )
    table, shared = list[Uniqueness](), list[SharedImage]()
    for group in measured.groups:
        # The same features for every selection, so that these can be compared.
        kept = np.logical_and.reduce([ranked(group.by(x), m) for x in SELECTIONS])
        n = int(kept.sum())
        where = {"layer": group.pair.target, "through": group.pair.through, "kind": group.kind}
        for by in SELECTIONS:
            chosen = [top(values, m) for values in group.by(by)[:, kept].T]
            members = np.array(chosen, dtype=np.intp).reshape(n, m)
            low, high = interval(members, group.population) if n else (math.nan, math.nan)
            table.append(
                Uniqueness(
                    **where,
                    by=by,
                    features=n,
                    top=m,
                    images=images,
                    value=uniqueness(members) if n else math.nan,
                    low=low,
                    high=high,
                    chance=chance(n, m, images) if n else math.nan,
                    skipped=len(kept) - n,
                )
            )
            if by != "l1" or n < 2:
                continue
            numbers, counts = np.unique(members, return_counts=True)
            for i in np.argsort(-counts, kind="stable"):
                if counts[i] >= SHARED * n:
                    image = measured.images[numbers[i]]
                    shared.append(SharedImage(**where, image=image, features=int(counts[i]), of=n))
    return Assessment(table=tuple(table), shared=tuple(shared))

"""The candidates for trials from run folders: activations, norms of hidden vectors, and crops."""

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from opponent.core.errors import RunError
from opponent.core.feature import Feature
from opponent.core.progress import Progress
from opponent.explain.crops import photograph
from opponent.images.imageset import ImageEntry
from opponent.models.network import Network
from opponent.scan.reopen import check_network, check_whole
from opponent.storage.checkpoints import CheckpointFolder, map_images
from opponent.storage.files import atomic_write
from opponent.storage.run import Run
from opponent.study.design.choosing import Candidate
from opponent.study.design.settings import ImageList, ScanRecord

_BATCH = 32


class Crops:
    """A run's images as the network sees them, cropped to a feature's receptive field.

    Args:
        run: a finished scan.
        feature: one of its features.
        seed: of the study.
    """

    def __init__(self, run: Run, feature: Feature, seed: int) -> None:
        self.run, self.seed = run, seed
        self.box = run.receptive_field(feature)

    def pixels(self, entry: ImageEntry) -> UInt8[np.ndarray, "h w 3"]:
        """The crop of an image.

        Args:
            entry: the image.
        Raises:
            Unreadable: the file cannot be read any more.
        """
        image = photograph(entry, self.run.preprocessing)
        return np.ascontiguousarray(image[self.box.slices])

    def id(self, entry: ImageEntry) -> str:
        """The id of a crop, which does not reveal its role in a trial.

        Args:
            entry: the image.
        Returns:
            A hash of the crop's pixels and the seed: 16 hexadecimal digits.
        """
        pixels = self.pixels(entry)
        about = f"{self.seed} {pixels.shape}\n".encode()
        return hashlib.sha256(about + pixels.tobytes()).hexdigest()[:16]

    def write(self, entry: ImageEntry, path: Path) -> None:
        """Write the crop as PNG without metadata, unless the file exists.

        Args:
            entry: the image.
            path: of the file.
        """
        if path.is_file():
            return
        data = io.BytesIO()
        Image.fromarray(self.pixels(entry)).save(data, "png", optimize=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(data.getvalue())
        # When it was written would tell which picture of a trial was chosen first.
        os.utime(path, (0, 0))


@dataclass(frozen=True, kw_only=True)
class ScannedFeature:
    """A feature of a run, with what is known of each image.

    Args:
        run: the scan.
        feature: one of its features.
        candidate: the same feature, to choose a trial from.
        images: ids of the images that could be read, in the order of the candidate's arrays.
        crops: of these images.
    """

    run: Run
    feature: Feature
    candidate: Candidate
    images: tuple[str, ...]
    crops: Crops

    def stimulus(self, index: int, *, example: bool) -> str:
        """The id of an image's crop, another where it is an example than where it is a choice.

        In a catch trial the right choice is an example too: the same id would tell it.

        Args:
            index: of the image.
            example: whether it is shown among the examples.
        """
        crop = self.candidate.crop(index)
        return hashlib.sha256(f"example {crop}".encode()).hexdigest()[:16] if example else crop

    def write_crop(self, index: int, folder: Path, *, example: bool) -> None:
        """Write the crop of an image, unless the file exists.

        Args:
            index: of the image.
            folder: of the study.
            example: whether it is shown among the examples.
        """
        entry = self.run.images.find(self.images[index])
        name = f"{self.stimulus(index, example=example)}.png"
        self.crops.write(entry, folder / "stimuli" / name)


def check_finished(run: Run) -> None:
    """Refuse a run that is not finished.

    Raises:
        RunError: shards are missing.
    """
    if run.missing():
        run.unreadable()  # raises with the reason


def record(run: Run) -> ScanRecord:
    """What study.json says about a run."""
    manifest, first = run.manifest, run.features[0]
    return ScanRecord(
        folder=str(run.folder),
        layer=first.layer,
        features=len(run.features),
        power=first.power,
        network=manifest.network.name,
        weights_sha256=manifest.network.weights_sha256,
        images=ImageList(count=manifest.images.count, sha256=manifest.images.sha256),
        versions=dict(manifest.versions),
    )


def runs_by_layer(runs: Sequence[Run], network: Network) -> dict[str, list[Run]]:
    """The runs of each layer, from the network's first layer to its last.

    Args:
        runs: finished scans.
        network: the network that was scanned.
    Returns:
        One or several runs by the layer of their features.
    Raises:
        RunError: a run is of another network.
        ValueError: a feature is in two runs, or a run has no features, or those of several powers.
    """
    of_layer: dict[str, list[Run]] = {}
    for run in runs:
        check_network(run, network)
        check_whole(run, "a study")
        if not run.features:
            raise ValueError(
                f"{run.folder} holds all units together and no unit's own rows; scan the units of "
                "the study by themselves"
            )
        if len({feature.power for feature in run.features}) > 1:
            raise ValueError(
                f"{run.folder} holds features of several powers; a study needs runs of one each"
            )
        of_layer.setdefault(run.features[0].layer, []).append(run)
    for layer, same in of_layer.items():
        labels = [feature.label for run in same for feature in run.features]
        if twice := sorted({x for x in labels if labels.count(x) > 1}):
            raise ValueError(
                f"{', '.join(twice[:5])} of {layer} {'is' if len(twice) == 1 else 'are'} in two "
                "of the runs; give each feature once"
            )
    order = sorted(of_layer, key=lambda layer: network.layers.target_point(layer).order)
    return {layer: of_layer[layer] for layer in order}


def scanned_features(
    run: Run, network: Network, folder: Path, seed: int, progress: Progress
) -> list[ScannedFeature]:
    """All features of a run, with the norms of the hidden vectors at their positions.

    Args:
        run: a finished scan.
        network: the network that was scanned.
        folder: of the study, in which the norms are kept.
        seed: of the study.
        progress: called with what is being done, the images done and the images in all.
    Returns:
        The features in the run's order.
    Raises:
        RunError: images of the scan cannot be read any more.
    """
    layer = run.features[0].layer
    shape = network.map_shape(layer)
    positions = sorted({feature.resolve(*shape) for feature in run.features})
    images, activations = _activations(run)
    norm = _norms(run, network, positions, images, folder, progress)
    photos = [str(run.images.find(image).path) for image in images]
    features = []
    for feature, activation in zip(run.features, activations, strict=True):
        crops = Crops(run, feature, seed)
        candidate = Candidate(
            label=feature.label,
            activation=activation,
            norm=norm[:, positions.index(feature.resolve(*shape))],
            photos=photos,
            crop=_cached_ids(crops, images),
        )
        features.append(
            ScannedFeature(
                run=run, feature=feature, candidate=candidate, images=images, crops=crops
            )
        )
    return features


def _cached_ids(crops: Crops, images: Sequence[str]) -> Callable[[int], str]:
    return cache(lambda i: crops.id(crops.run.images.find(images[i])))


def _activations(run: Run) -> tuple[tuple[str, ...], Float[np.ndarray, "features n"]]:
    """The images that could be read, and each feature's activation in them, read in one pass."""
    images, activations = list[str](), list[np.ndarray]()
    for number in range(run.shard_count):
        table = run.read_shard(number).rows(None, {"image": None, "activation": None})
        # A shard holds the rows of one feature after the other, each with the same images.
        count = len(table) // len(run.features)
        images += table["image"].slice(0, count).to_pylist()
        activations.append(table["activation"].to_numpy().reshape(len(run.features), count))
    return tuple(images), np.concatenate(activations, 1)


def _norms(
    run: Run,
    network: Network,
    positions: Sequence[tuple[int, int]],
    images: Sequence[str],
    folder: Path,
    progress: Progress,
) -> Float[np.ndarray, "n positions"]:
    """The L1 norm of each image's hidden vector at each position of the features' layer."""
    layer, run_digest = run.features[0].layer, run.digest
    rows, columns = (list(x) for x in zip(*positions, strict=True))

    def norms(
        inputs: Float[Tensor, "n bands h w"], numbers: Int[np.ndarray, " n"]
    ) -> Mapping[str, np.ndarray]:
        hidden = network.run(inputs, layer, after=True).target
        norm = hidden[:, :, rows, columns].cpu().double().abs().sum(1)
        return {"norm": norm.float().numpy()}

    question = {"run": run_digest, "layer": layer, "norms at": list(positions)}
    checkpoints = CheckpointFolder(folder / "norms" / run_digest[:12], question)
    arrays, ids, left_out = map_images(
        checkpoints, network, run.images, norms, until=layer, batch_size=_BATCH,
        what=f"{layer}: norms", progress=progress,
    )  # fmt: skip
    norm_of = dict(zip(ids, arrays["norm"], strict=True))
    if gone := [image for image in images if image not in norm_of]:
        raise RunError(
            f"{len(gone):,} images of {run.folder} cannot be read any more, or gave no finite "
            f"numbers, first {gone[0]} ({left_out[gone[0]]}); put them back, or scan again into "
            "another folder"
        )
    return np.stack([norm_of[image] for image in images])

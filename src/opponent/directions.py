"""Feature directions that are no units: k-means centroids of hidden vectors, or from a file."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from opponent.core.errors import Unreadable
from opponent.core.feature import Feature
from opponent.images.sources import ImageSet, open_images, stream
from opponent.models.network import Network
from opponent.models.registry import load, read_weights
from opponent.storage.files import whole
from opponent.storage.run import versions

_BATCH = 32
_EXPECTED = "expected are numbers with a point, one row a direction and one column a channel"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Directions:
    """Named vectors in the channel space of a layer.

    Args:
        vectors: one row a direction.
        labels: their names, such as 'kmeans17'; 'LAYER:kmeans17' names the feature.
        layer: whose channels they weigh; None where a file does not say.
        provenance: what made them.
    Raises:
        ValueError: no direction; a row that is zero or not finite; labels that are missing, that
            repeat, that are numbers or hold one of ':@*,' or space.
    """

    vectors: Float[np.ndarray, "n c"]
    labels: tuple[str, ...]
    layer: str | None
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.vectors.size:
            raise ValueError(f"there is no direction in an array of shape {self.vectors.shape}")
        if len(self.labels) != len(self.vectors) or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"{len(self.vectors)} directions need as many labels, all different")
        for label in self.labels:
            if (
                not label
                or label.isdecimal()
                or set(":@*,") & set(label)
                or label.split() != [label]
            ):
                raise ValueError(
                    f"{label!r} cannot name a direction: a number names a unit, and ':', '@', '*', "
                    "',' and spaces have other meanings"
                )
        for fault, bad in (
            ("holds NaN or infinity", ~np.isfinite(self.vectors).all(1)),
            ("is zero", ~self.vectors.any(1)),
        ):
            if bad.any():
                raise ValueError(
                    f"direction {bad.argmax()} ({self.labels[bad.argmax()]!r}) of "
                    f"{len(self.labels)} {fault}; take it out of the array"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def feature(self, name: str, *, power: int = 0) -> Feature:
        """One direction as a feature.

        Args:
            name: 'kmeans17', 'mixed4c:kmeans17' or 'mixed4c:kmeans17@7,3'.
            power: of the cosine in its activation; see `Feature`.
        Raises:
            ValueError: no such direction, or another layer.
        """
        rest, sign, at = name.strip().partition("@")
        layer, _, label = rest.rpartition(":")
        if self.layer and layer and layer != self.layer:
            raise ValueError(f"{name!r}: these directions belong to layer {self.layer!r}")
        layer = layer or self.layer or ""
        if not layer:
            raise ValueError(
                f"{name!r} names no layer, nor do these directions: write LAYER:{label}"
            )
        if label not in self.labels:
            near = difflib.get_close_matches(label, self.labels, n=5) or self.labels[:5]
            raise ValueError(
                f"there is no direction {label!r} among these {len(self)}; the nearest names: "
                f"{', '.join(near)}"
            )
        position = Feature.parse(f"{layer}:0@{at}").position if sign else None
        return Feature.direction(
            layer,
            torch.from_numpy(self.vectors[self.labels.index(label)]),
            name=label,
            position=position,
            power=power,
        )

    def features(self, names: Sequence[str], *, power: int = 0) -> list[Feature]:
        """Features by name, units among them; 'LAYER:*' stands for all directions."""
        found = []
        for name in names:
            layer, _, what = name.strip().rpartition(":")
            unit, sign, at = what.partition("@")
            if unit.isdecimal():
                found.append(Feature.parse(name))
                continue
            chosen = self.labels if unit == "*" else (unit,)
            found += [self.feature(f"{layer}:{one}{sign}{at}", power=power) for one in chosen]
        return found

    def spread(self, count: int, *, seed: int = 0) -> "Directions":
        """Directions that point far apart: k-means among them, one at random of each cluster.

        Raises:
            ValueError: more than there are, or than point different ways.
        Source: paper, appendix H.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"{count} of {len(self)} directions cannot be spread: give 1 to all")
        groups = _clusters(_unit(self.vectors), count, seed)[1]
        generator = np.random.default_rng(seed)
        rows = sorted(int(generator.choice(np.flatnonzero(groups == g))) for g in range(count))
        return Directions(
            vectors=self.vectors[rows],
            labels=tuple(self.labels[row] for row in rows),
            layer=self.layer,
            provenance={**self.provenance, "spread": {"count": count, "seed": seed}},
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole, with labels and provenance in its metadata.

        Raises:
            ValueError: another suffix than .safetensors.
        """
        check_suffix(path)
        about = {"labels": self.labels, "layer": self.layer, "provenance": dict(self.provenance)}
        tensors = {"directions": torch.from_numpy(np.ascontiguousarray(self.vectors))}
        with whole(Path(path)) as part:
            part.write_bytes(save(tensors, {"opponent": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> "Directions":
        """Directions from a file: ours, or anyone's array with one row a direction.

        Args:
            path: safetensors, a state dict with one tensor, or .npy. Without labels of its own,
                directions are called by the file's name and their number.
        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no two-dimensional array, or one that `Directions` refuses.
        """
        path, about = Path(path).expanduser(), dict[str, Any]()
        if path.suffix == ".npy":
            if not path.is_file():
                raise FileNotFoundError(f"there is no file of directions at {path}")
            values = _read_npy(path)
        else:
            tensors = read_weights(path)
            if "directions" not in tensors and len(tensors) != 1:
                raise ValueError(
                    f"{path} holds {len(tensors)} tensors and none called 'directions': give one "
                    "array with one row a direction"
                )
            values = tensors.get("directions", next(iter(tensors.values()), torch.empty(0)))
            if values.layout != torch.strided or not values.is_floating_point():
                raise ValueError(f"{path} holds numbers of type {values.dtype}; {_EXPECTED}")
            values = values.detach().to(torch.float64).numpy()
            about = _metadata(path)
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
            raise ValueError(
                f"{path} holds an array of shape {values.shape} of {values.dtype}; {_EXPECTED}"
            )
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told
            values = values.astype(np.float32)
        stem = "".join("_" if x in ":@*," or x.isspace() else x for x in path.stem)
        labels = about.get("labels") or [f"{stem}-{i}" for i in range(len(values))]
        try:
            return cls(
                vectors=values,
                labels=tuple(labels),
                layer=about.get("layer"),
                provenance=about.get("provenance") or {"file": path.name},
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _metadata(path: Path) -> dict[str, Any]:
    """What we wrote beside the directions; nothing where another program wrote them."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("opponent", "{}"))
    except (SafetensorError, ValueError):
        return {}
    kinds = {"labels": list, "layer": str | None, "provenance": dict}
    ours = isinstance(about, dict) and all(isinstance(about.get(k), t) for k, t in kinds.items())
    return about if ours and all(isinstance(label, str) for label in about["labels"]) else {}


def check_suffix(path: str | Path) -> None:
    """Check that directions can be written to a file of that name.

    Raises:
        ValueError: its suffix is another than .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: directions are written to a file whose name ends .safetensors")


def _read_npy(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of directions at {path}")
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # damaged headers fail in as many ways as there are bytes
        reason = str(error).partition("\n")[0]
        raise OSError(f"{path} is no array that can be read safely: {reason}") from error


def find_directions(
    network: Network | str,
    layer: str,
    images: str | Path | Sequence[str | Path] | ImageSet,
    *,
    count: int = 1000,
    weights: str | Path | None = None,
    seed: int = 0,
    keep: str | Path | None = None,
    progress: Progress | None = None,
) -> Directions:
    """Cluster a layer's hidden vectors: one random position an image, spherical k-means.

    Args:
        network: a network or its name.
        layer: whose output (after the ReLU) is clustered.
        images: a folder, files, a text list, or 'photos'.
        count: k, the number of directions.
        weights: a file of weights, for a network given by name.
        seed: of the positions and of the clustering.
        keep: a file for the vectors of a pass that was interrupted; the next call goes on with it,
            and the caller deletes it when the directions are saved.
        progress: called with what is being done, the steps done and the steps in all.
    Returns:
        Directions of unit length, 'kmeans0' and so on.
    Raises:
        ValueError: fewer images than directions; a layer that is not there.
    Source: paper, appendices B and H.
    """
    network = load(network, weights)
    shape = network.map_shape(layer)
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed of a clustering lies between 0 and 2^32 - 1, got {seed}")
    found = open_images(images, size=network.preprocessing.size)
    if not 1 <= count <= len(found):
        raise ValueError(
            f"k = {count} directions from {len(found)} images, one vector each: give more images "
            "or a smaller k"
        )
    provenance = {
        "method": "spherical k-means",
        "k": count,
        "seed": seed,
        "network": network.name,
        "weights_sha256": network.weights_sha256(),
        "layer": layer,
        "preprocessing": asdict(network.preprocessing),
        "images": {"count": len(found), "sha256": found.digest()},
        "versions": {**versions(), "scikit-learn": _version("scikit-learn")},
    }
    vectors = _hidden_vectors(network, layer, shape, found, provenance, keep, progress)
    vectors = _unit(vectors[vectors.any(1) & np.isfinite(vectors).all(1)])
    different = len(np.unique(vectors, axis=0))
    if different < count:
        raise ValueError(
            f"only {different} of {len(found)} images gave a vector of {layer!r} of its own, "
            f"finite and not zero, too few for k = {count}; give more images or a smaller k"
        )
    if progress is not None:
        progress("clustering", 0, 1)
    centres = _clusters(vectors, count, seed)[0]
    if progress is not None:
        progress("clustering", 1, 1)
    return Directions(
        vectors=_unit(centres).astype(np.float32),
        labels=tuple(f"kmeans{i}" for i in range(count)),
        layer=layer,
        provenance={**provenance, "vectors": len(vectors)},
    )


def _hidden_vectors(
    network: Network,
    layer: str,
    shape: tuple[int, int, int],
    images: ImageSet,
    provenance: Mapping[str, Any],
    keep: str | Path | None,
    progress: Progress | None,
) -> Float[np.ndarray, "n c"]:
    """The layer's output in each image at one random position; zeros where none could be read."""
    vectors = np.zeros((len(images), shape[0]), np.float32)
    generator = np.random.default_rng(seed=provenance["seed"])
    rows, columns = (generator.integers(n, size=len(images)) for n in shape[1:])
    asked = json.dumps({**provenance, "k": None})  # another k takes the same vectors
    done = _resume(vectors, keep, asked)
    prepared = network.preprocessing
    decoded = stream(
        images.entries[done:], size=prepared.size, resize=prepared.resize, draft=prepared.draft
    )
    try:
        with closing(decoded):
            numbered = iter(enumerate(decoded, done))
            while batch := list(islice(numbered, _BATCH)):
                which = [i for i, image in batch if not isinstance(image, Unreadable)]
                if which:
                    pixels = [image for _, image in batch if not isinstance(image, Unreadable)]
                    inputs = network.inputs(np.stack(pixels))
                    hidden = network.run(inputs, layer, after=True).target
                    at = hidden[range(len(which)), :, rows[which], columns[which]]
                    vectors[which] = at.float().cpu().numpy()
                done = batch[-1][0] + 1
                if progress is not None:
                    progress("hidden vectors", done, len(images))
    finally:
        if keep is not None:
            with whole(Path(keep)) as part:
                tensors = {"vectors": torch.from_numpy(vectors[:done].copy())}
                part.write_bytes(save(tensors, {"opponent": asked}))
    return vectors


def _unit(vectors: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """Vectors that are not zero, scaled to unit length."""
    scaled = vectors / np.abs(vectors).max(1, keepdims=True)
    unit: Float[np.ndarray, "n c"] = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return unit


def _resume(vectors: Float[np.ndarray, "n c"], keep: str | Path | None, asked: str) -> int:
    """Fill in what an interrupted pass kept, if it was this one; how many images that are."""
    if keep is None or not Path(keep).is_file():
        return 0
    try:
        with safe_open(keep, framework="numpy") as file:
            if (file.metadata() or {}).get("opponent") != asked:
                return 0
            kept = file.get_tensor("vectors")
    except SafetensorError:
        return 0
    vectors[: len(kept)] = kept
    return len(kept)


def _clusters(
    vectors: Float[np.ndarray, "n c"], count: int, seed: int
) -> tuple[Float[np.ndarray, "k c"], Int[np.ndarray, " n"]]:
    """Centres and memberships of k-means; on one thread, for sums in a fixed order."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if len(np.unique(vectors, axis=0)) < count:
        raise ValueError(f"there are fewer than {count} directions that differ: ask for fewer")
    with threadpool_limits(1):
        found = KMeans(n_clusters=count, n_init=1, random_state=seed).fit(vectors)
    return found.cluster_centers_, found.labels_


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)

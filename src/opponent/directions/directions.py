"""Named directions in a layer's channel space, and files of them."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from opponent.core.feature import Feature
from opponent.dictionaries.kmeans import clusters, unit_vectors
from opponent.models.weights import read_weights
from opponent.storage.files import atomic_write

_EXPECTED = "expected are numbers with a point, one row a direction and one column a channel"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Directions:
    """Named vectors in the channel space of a layer.

    Args:
        vectors: one row for each direction.
        labels: their names, such as 'kmeans17'; 'LAYER:kmeans17' names the feature.
        layer: the layer whose channels they weigh; None where a file does not say.
        provenance: how they were computed, ready for JSON.
    Raises:
        ValueError: there is no direction; a row is zero or not finite; labels are missing, repeat,
            are numbers, or contain one of ':@*,' or space.
    Source: paper, appendices B and H, for directions of k-means.

    >>> import tempfile, numpy as np, opponent
    >>> directions = opponent.Directions(
    ...     vectors=np.eye(2, 128, dtype=np.float32), labels=("edge", "dot"), layer="mixed3a",
    ...     provenance={"method": "by hand"})
    >>> directions.feature("edge@8,8", power=2)
    Feature('mixed3a:edge@8,8')
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     directions.save(folder + "/mine.safetensors")
    ...     opponent.Directions.load(folder + "/mine.safetensors").labels
    ('edge', 'dot')
    """

    vectors: Float[np.ndarray, "n c"]
    labels: tuple[str, ...]
    layer: str | None
    provenance: Mapping[str, object]

    def __post_init__(self) -> None:
        if not self.vectors.size:
            raise ValueError(f"there is no direction in an array of shape {self.vectors.shape}")
        if len(self.labels) != len(self.vectors) or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"{len(self.vectors)} directions need as many labels, all different")
        for label in self.labels:
            if label.isdecimal() or not re.fullmatch(r"[^\s:@*,]+", label):
                raise ValueError(
                    f"{label!r} cannot name a direction: a number names a unit, and ':', '@', '*', "
                    "',' and spaces have other meanings"
                )
        for fault, bad in (
            ("holds NaN or infinity", ~np.isfinite(self.vectors).all(1)),
            ("is zero", (self.vectors == 0).all(1)),
        ):
            if bad.any():
                raise ValueError(
                    f"direction {bad.argmax()} ({self.labels[bad.argmax()]!r}) of "
                    f"{len(self.labels)} {fault}; take it out of the array"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        count, channels = self.vectors.shape
        where = "any layer" if self.layer is None else repr(self.layer)
        return f"Directions({count:,} in {where} of {channels:,} channels)"

    def feature(self, name: str, *, power: int = 0) -> Feature:
        """A direction as a feature.

        Args:
            name: 'kmeans17', 'mixed4c:kmeans17' or 'mixed4c:kmeans17@7,3'.
            power: power of the cosine in its activation; see `Feature`.
        Raises:
            ValueError: there is no such direction; the layer is another, or missing.
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
        """Several features by name.

        Args:
            names: of directions and of units; 'LAYER:*' is all directions.
            power: power of the cosine in the activation of directions.
        Raises:
            ValueError: there is no such direction; the layer is another, or missing.
        """
        features = list[Feature]()
        for name in names:
            layer, _, what = name.strip().rpartition(":")
            unit, sign, at = what.partition("@")
            if unit.isdecimal():
                features.append(Feature.parse(name))
                continue
            for label in self.labels if unit == "*" else (unit,):
                features.append(self.feature(f"{layer}:{label}{sign}{at}", power=power))
        return features

    def spread(self, count: int, *, seed: int = 0) -> "Directions":
        """Directions that point far apart: a random one of each cluster of their k-means.

        Args:
            count: number of directions.
            seed: seed of the clustering and of the choice.
        Raises:
            ValueError: there are fewer directions, or fewer that point in different ways.
        Source: paper, appendix H.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"{count} of {len(self)} directions cannot be spread: give 1 to all")
        groups = clusters(unit_vectors(self.vectors), count, seed)[1]
        generator = np.random.default_rng(seed)
        rows = sorted(int(generator.choice(np.flatnonzero(groups == g))) for g in range(count))
        return Directions(
            vectors=self.vectors[rows],
            labels=tuple(self.labels[row] for row in rows),
            layer=self.layer,
            provenance={**self.provenance, "spread": {"count": count, "seed": seed}},
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, with labels and provenance in its metadata.

        Args:
            path: the file, ending .safetensors.
        Raises:
            ValueError: the suffix is another.
        """
        check_suffix(path)
        about = {"labels": self.labels, "layer": self.layer, "provenance": dict(self.provenance)}
        tensors = {"directions": torch.from_numpy(np.ascontiguousarray(self.vectors))}
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(save(tensors, {"opponent": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> "Directions":
        """Directions from a file: one that `save` wrote, or any array of one row a direction.

        Args:
            path: safetensors, a state dict with one tensor, or .npy. Where it holds no labels, the
                labels are the file's name with a number.
        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no two-dimensional array, or one that `Directions` refuses.
        """
        path, about = Path(path).expanduser(), dict[str, Any]()
        if path.suffix == ".npy":
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
        with np.errstate(over="ignore"):  # too large becomes infinite, which is refused below
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
    """The metadata that `save` wrote; empty where another program wrote the file."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("opponent", "{}"))
    except (SafetensorError, ValueError, RecursionError):
        return {}
    kinds = {"labels": list, "layer": str | None, "provenance": dict}
    ours = isinstance(about, dict) and all(isinstance(about.get(k), t) for k, t in kinds.items())
    return about if ours and all(isinstance(label, str) for label in about["labels"]) else {}


def check_suffix(path: str | Path) -> None:
    """Check that directions can be written to a file of that name.

    Args:
        path: the file.
    Raises:
        ValueError: its suffix is not .safetensors.
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

"""Run folders with made-up numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from opponent import Feature, Preprocessing
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.storage.manifest import (
    ImagesRecord,
    Manifest,
    NetworkRecord,
    WindowRecord,
    feature_record,
    versions,
)  # fmt: skip
from opponent.storage.run import SCALARS

FEATURES = (
    Feature(layer="block", unit=3, position=(1, 2)),
    Feature(layer="block", vector=(0.1, -1e-9, 3.0), name="mine", position=(0, 0)),
)
WINDOWS = [
    WindowRecord(through=(0, 1, 2, 3), pixels=(0, 2, 5, 7)),
    WindowRecord(through=(0, 0, 1, 1), pixels=(0, 0, 3, 3)),
]
NETWORK = NetworkRecord(
    name="toy",
    weights_file=None,
    weights_sha256="ab" * 32,
    preprocessing=Preprocessing(size=(8, 9), mean=(0.5,) * 3, std=(1.0,) * 3),
    dtype="float32",
)


def manifest_for(count: int, shard_size: int = 2, **other: Any) -> Manifest:
    """The manifest of a scan of so many images."""
    values: dict[str, Any] = {
        "network": NETWORK,
        "features": [feature_record(feature) for feature in FEATURES],
        "through": "before",
        "through_shape": (4, 3, 5),
        "windows": WINDOWS,
        "placement": (0.0, 0.5, 2.0, 2.0),
        "images": ImagesRecord(source="somewhere", count=count, sha256="cd" * 32),
        "batch_size": 2,
        "shard_size": shard_size,
        "device": "cpu",
        "seed": 0,
        "versions": versions(),
    }
    return Manifest(**(values | other))


def images_for(count: int) -> ImageSet:
    """So many images that are not there."""
    entries = (ImageEntry(id=f"{i}.png", path=Path(f"/data/{i}.png")) for i in range(count))
    return ImageSet(source="somewhere", entries=tuple(entries))


Batches = list[list[dict[str, np.ndarray]]]


def batches_for(count: int, generator: np.random.Generator) -> Batches:
    """For each feature, one batch an image."""
    return [
        [
            {name: generator.normal(size=1).astype(np.float32) for name in SCALARS}
            | {
                name: generator.normal(size=(1, *window.through[2:])).astype(np.float32)
                for name in ("excitation_map", "inhibition_map")
            }
            | {
                name: generator.normal(size=(1, 4)).astype(np.float32)
                for name in ("channels", "inhibition_channels")
            }
            for _ in range(count)
        ]
        for window in WINDOWS
    ]

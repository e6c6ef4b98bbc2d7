"""A folder of an experiment: what was asked, and its parts as they are finished.

    DIR/asked.json               everything that determines the numbers
    DIR/parts/NAME.safetensors   one finished part

A part is written whole, so that what was interrupted goes on from the parts that are missing.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from opponent.core.errors import RunError, Unreadable
from opponent.images.sources import ImageSet, stream
from opponent.models.network import Network
from opponent.storage.files import whole, write_text


class CheckpointFolder:
    """The folder, made or gone on with.

    Args:
        folder: new, or that of the same question.
        asked: what determines the numbers, ready for JSON.
    Raises:
        RunError: the folder holds the results of another question, or other files.
    """

    def __init__(self, folder: str | Path, asked: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        path = self.folder / "asked.json"
        ours = json.loads(json.dumps(asked))
        if path.is_file():
            try:
                theirs = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise RunError(f"{path} is damaged ({error}); delete the folder") from error
            different = [key for key in ours if ours[key] != theirs.get(key)]
            if different or ours.keys() != theirs.keys():
                raise RunError(
                    f"{self.folder} holds results of another question (other than this one in "
                    f"{', '.join(different) or 'its kind'}); give another --out, or delete it"
                )
        elif self.folder.exists() and any(
            not name.name.startswith(".") for name in self.folder.iterdir()
        ):
            raise RunError(f"{self.folder} holds other files; give another --out")
        else:
            write_text(path, json.dumps(ours, indent=1) + "\n")

    def path(self, name: str) -> Path:
        """A part's file."""
        return self.folder / "parts" / f"{name}.safetensors"

    def has(self, name: str) -> bool:
        """Whether that part is finished."""
        return self.path(name).is_file()

    def write(
        self, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None
    ) -> None:
        """Write one part, whole, with what else there is to say about it, ready for JSON."""
        values = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        with whole(self.path(name)) as part:
            part.write_bytes(save(values, {"about": json.dumps(about or {})}))

    def read(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A finished part, and what was said about it.

        Raises:
            RunError: it is damaged.
        """
        try:
            with safe_open(self.path(name), framework="numpy") as file:
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                return arrays, json.loads(file.metadata()["about"])
        except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
            raise RunError(
                f"{self.path(name)} is damaged ({error}); delete it and give the command again"
            ) from error


def map_images(
    parts: CheckpointFolder,
    network: Network,
    images: ImageSet,
    compute: Callable[[Float[Tensor, "n 3 h w"]], Mapping[str, np.ndarray]],
    *,
    batch_size: int,
    shard_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, str]]:
    """Compute something for every image, shard by shard, but for the shards that are there.

    Args:
        parts: where the shards are kept.
        network: whose input the images become.
        images: all of them.
        compute: from a batch, arrays with one row an image.
        batch_size, shard_size: images a pass and a part.
        progress: called with the images done and the images in all.
    Returns:
        The arrays over all images that could be read, those images' ids, and what could not be read
        with its reason.
    Raises:
        RunError: a shard is damaged, or no image could be read.
    """
    shards = [
        range(first, min(first + shard_size, len(images)))
        for first in range(0, len(images), shard_size)
    ]
    names = [f"images-{number:06d}" for number in range(len(shards))]
    missing = [i for i, name in enumerate(names) if not parts.has(name)]
    done = len(images) - sum(len(shards[i]) for i in missing)
    prepared = network.preprocessing
    waiting = [images[n] for i in missing for n in shards[i]]
    if progress is not None:
        progress(done, len(images))
    with closing(
        stream(
            waiting,
            size=prepared.size,
            resize=prepared.resize,
            draft=prepared.draft,
            ahead=2 * batch_size,
        )
    ) as decoded:
        for i in missing:
            read: list[str] = []
            unreadable: dict[str, str] = {}
            found: list[Mapping[str, np.ndarray]] = []
            batch: list[np.ndarray] = []
            for n in shards[i]:
                image = next(decoded)
                if isinstance(image, Unreadable):
                    unreadable[images[n].id] = image.reason
                else:
                    read.append(images[n].id)
                    batch.append(image)
                if batch and (len(batch) == batch_size or n == shards[i][-1]):
                    found.append(compute(network.inputs(np.stack(batch))))
                    batch.clear()
                done += 1
                if progress is not None:
                    progress(done, len(images))
            arrays = {key: np.concatenate([x[key] for x in found]) for key in (found or [{}])[0]}
            parts.write(names[i], arrays, {"images": read, "unreadable": unreadable})
    return _joined(parts, names)


def _joined(
    parts: CheckpointFolder, names: list[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, str]]:
    all_arrays, ids, unreadable = [], list[str](), dict[str, str]()
    for name in names:
        arrays, about = parts.read(name)
        if arrays:
            all_arrays.append(arrays)
        ids += about["images"]
        unreadable |= about["unreadable"]
    if not all_arrays:
        raise RunError(f"no image could be read: {'; '.join(list(unreadable.values())[:3])}")
    return (
        {key: np.concatenate([x[key] for x in all_arrays]) for key in all_arrays[0]},
        tuple(ids),
        unreadable,
    )

"""The one way to resume: a folder that knows its question, and keeps what is finished of it.

    DIR/question.json                   everything that determines the numbers
    DIR/checkpoints/NAME.safetensors    one finished part

A checkpoint is written whole, so that what was interrupted goes on from those that are missing.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from safetensors.numpy import save
from torch import Tensor

from opponent.core.errors import RunError
from opponent.core.progress import Progress, silent
from opponent.core.text import file_name, one_line
from opponent.images.compare import refuse_changed
from opponent.images.imageset import ImageEntry, ImageSet
from opponent.images.loader import Batch, load_batches
from opponent.models.finite import NOT_FINITE, likely_cause, not_finite
from opponent.models.network import Network
from opponent.models.signature import is_other, signature
from opponent.storage.files import AnyPath, atomic_write, names, to_path, write_text
from opponent.storage.tables import damage_refused, read_about, read_arrays

# Images a checkpoint holds: files are few, and an interruption costs seconds.
SHARD = 256


def plain(question: Mapping[str, Any]) -> dict[str, Any]:
    """A question as a reader of its JSON finds it."""
    values: dict[str, Any] = json.loads(json.dumps(question))
    return values


def question_digest(question: Mapping[str, Any], length: int = 10) -> str:
    """A few digits that differ whenever anything in a question differs."""
    text = json.dumps(plain(question), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


class CheckpointFolder:
    """A folder of results that is begun, or gone on with.

    Args:
        folder: new, or that of the same question.
        question: what determines the numbers, ready for JSON.
    Raises:
        RunError: the folder holds the results of another question, or other files.
    """

    def __init__(self, folder: str | AnyPath, question: Mapping[str, Any]) -> None:
        self.folder: AnyPath = to_path(folder)
        path = self.folder / "question.json"
        ours = plain(question)
        if path.is_file():
            try:
                theirs = dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError, RecursionError) as error:
                reason = one_line(error)
                raise RunError(f"{path} is damaged ({reason}); delete the folder") from error
            different = [key for key in ours if ours[key] != theirs.get(key)]
            if different or ours.keys() != theirs.keys():
                raise RunError(
                    f"{self.folder} holds results of another question (other than this one in "
                    f"{', '.join(different) or 'its kind'}); give another --out, or delete it"
                )
        elif any(not name.startswith(".") for name in names(self.folder)):
            raise RunError(f"{self.folder} holds other files; give another --out")
        else:
            write_text(path, json.dumps(ours, indent=1) + "\n")

    @classmethod
    def named(cls, parent: AnyPath, label: str, question: Mapping[str, Any]) -> "CheckpointFolder":
        """The folder of a question among those of others: its name has a digest of the question.

        Args:
            parent: the folder of them all.
            label: what the name begins with.
            question: what determines the numbers, ready for JSON.
        Raises:
            RunError: the folder holds other files.
        """
        return cls(parent / f"{file_name(label)}-{question_digest(question, 8)}", question)

    def path(self, name: str) -> AnyPath:
        """A checkpoint's file."""
        return self.folder / "checkpoints" / f"{name}.safetensors"

    def has(self, name: str) -> bool:
        """Whether that checkpoint is finished."""
        return self.path(name).is_file()

    def drop(self, name: str) -> None:
        """Delete a checkpoint that nobody needs any more, if it is there."""
        self.path(name).unlink(missing_ok=True)

    def discard_empty(self) -> None:
        """Delete the folder if it holds nothing but its question."""
        if isinstance(self.folder, Path) and names(self.folder) == {"question.json"}:
            (self.folder / "question.json").unlink()
            self.folder.rmdir()

    def write(
        self, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any] | None = None
    ) -> None:
        """Write one checkpoint, whole.

        Args:
            name: of the checkpoint.
            arrays: what it holds.
            about: what else there is to say about it, ready for JSON.
        """
        values = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        with atomic_write(self.path(name)) as temporary:
            temporary.write_bytes(save(values, {"about": json.dumps(about or {})}))

    def about(self, name: str) -> dict[str, Any]:
        """What was said about a finished checkpoint, without its arrays.

        Raises:
            RunError: it is damaged.
        """
        path = self.path(name)
        with damage_refused(path):
            return dict(json.loads(read_about(path)["about"]))

    def read(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A finished checkpoint, and what was said about it.

        Raises:
            RunError: it is damaged.
        """
        path = self.path(name)
        with damage_refused(path):
            arrays, metadata = read_arrays(path)
            return arrays, dict(json.loads(metadata["about"]))


# What a pass computes of a batch: arrays with one row an image, from the network's input and the
# images' places in their set.
Compute = Callable[
    [Float[Tensor, "n bands h w"], Int[np.ndarray, " n"]], Mapping[str, Float[np.ndarray, "n ..."]]
]


def map_images(
    checkpoints: CheckpointFolder,
    network: Network,
    images: ImageSet,
    compute: Compute,
    *,
    until: str,
    batch_size: int,
    shard_size: int = SHARD,
    what: str = "images",
    progress: Progress = silent,
) -> tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, str]]:
    """Compute something for every image, shard by shard, but for the shards that are there.

    Args:
        checkpoints: where the shards are kept.
        network: whose input the images become.
        images: all of them.
        compute: what is computed of a batch.
        until: the last layer that the numbers depend on.
        batch_size, shard_size: images a pass and a checkpoint.
        what: what progress calls it.
        progress: called with `what`, the images done and the images in all.
    Returns:
        The arrays over all images that could be read and gave finite numbers, those images' ids,
        and all other images with their reasons.
    Raises:
        RunError: a shard is damaged, or of images or a network that have changed; no image could
            be read, or none gave finite numbers.
    """
    shards = [
        range(first, min(first + shard_size, len(images)))
        for first in range(0, len(images), shard_size)
    ]
    shard_names = [f"images-{number:06d}" for number in range(len(shards))]
    missing = [i for i, name in enumerate(shard_names) if not checkpoints.has(name)]
    made_by = {"signature": signature(network, until, after=True), "device": network.device.type}
    known = list[ImageEntry]()
    for number in sorted(set(range(len(shards))) - set(missing)):
        about = checkpoints.about(shard_names[number])
        refuse_another_computation(checkpoints, about, network, made_by)
        known += _known(images, shards[number], about)
    refuse_changed(known, progress)
    places = [n for i in missing for n in shards[i]]
    before = len(images) - len(places)
    progress(what, before, len(images))
    batches = load_batches(
        [images[n] for n in places],
        network.preprocessing.fit,
        batch_size=batch_size,
        groups=[len(shards[i]) for i in missing],
    )
    results, ids, unreadable = list[Mapping[str, np.ndarray]](), list[str](), dict[str, str]()
    contents = dict[int, bytes]()
    with closing(batches):
        for batch in batches:
            unreadable |= _reasons(batch, places, images)
            contents |= batch.contents
            if batch.numbers:
                numbers = [places[k] for k in batch.numbers]
                arrays = compute(network.inputs(batch.pixels), np.array(numbers))
                wrong = not_finite(arrays)
                unreadable |= {images[numbers[row]].id: why for row, why in wrong.items()}
                kept = [row for row in range(len(numbers)) if row not in wrong]
                ids += [images[numbers[row]].id for row in kept]
                results.append({name: values[kept] for name, values in arrays.items()})
            if batch.ends_group:
                digests = [contents[k].hex() for k in sorted(contents)]
                about = {"images": ids, "unreadable": unreadable, "contents": digests}
                about |= made_by
                checkpoints.write(shard_names[missing[batch.group]], _joined(results), about)
                results, ids, unreadable, contents = [], [], {}, {}
            progress(what, before + batch.done, len(images))
    arrays, names, left_out = _all_shards(checkpoints, shard_names)
    if not names:
        raise RunError(_nothing_left(left_out, network))
    return arrays, names, left_out


def refuse_another_computation(
    checkpoints: CheckpointFolder,
    about: Mapping[str, Any],
    network: Network,
    made_by: Mapping[str, Any],
) -> None:
    """Refuse a network with the weights of the question that computes something else.

    Args:
        checkpoints: the folder.
        about: what is said about one of its shards.
        network: the network.
        made_by: what would be said of it.
    """
    on_cpu = about["device"] == made_by["device"] == "cpu"
    theirs = [float(x) for x in about["signature"]]
    if is_other(made_by["signature"], theirs, on_cpu=on_cpu, dtype=network.dtype):
        raise RunError(
            f"{checkpoints.folder} was begun with a network of the same weights that computes "
            f"something else (of made-up images): was the code of {network.name} changed? Give "
            "another --out, or delete the folder"
        )


def _known(images: ImageSet, shard: range, about: Mapping[str, Any]) -> list[ImageEntry]:
    """The images of a finished shard, with what they contained."""
    contents = [bytes.fromhex(x) or None for x in about["contents"]]
    entries = images[shard.start : shard.stop]
    return [replace(x, content=content) for x, content in zip(entries, contents, strict=True)]


def _reasons(batch: Batch, places: list[int], images: ImageSet) -> dict[str, str]:
    """The reasons of images that cannot be read, by id."""
    return {images[places[k]].id: reason for k, reason in batch.unreadable.items()}


def _joined(results: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    keys = results[0] if results else {}
    return {key: np.concatenate([x[key] for x in results]) for key in keys}


def _all_shards(
    checkpoints: CheckpointFolder, shard_names: list[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...], dict[str, str]]:
    results, ids, unreadable = list[Mapping[str, np.ndarray]](), list[str](), dict[str, str]()
    for name in shard_names:
        arrays, about = checkpoints.read(name)
        if arrays:
            results.append(arrays)
        ids += about["images"]
        unreadable |= about["unreadable"]
    return _joined(results), tuple(ids), unreadable


def _nothing_left(left_out: Mapping[str, str], network: Network) -> str:
    """Why no image is left, with the first reasons, and the cause where numbers are not finite."""
    reasons = "; ".join(list(left_out.values())[:3])
    if any(reason.startswith(NOT_FINITE) for reason in left_out.values()):
        return f"no image gave finite numbers ({reasons}): {likely_cause(network)}"
    return f"no image could be read: {reasons}"

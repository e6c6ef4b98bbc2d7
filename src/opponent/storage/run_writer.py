"""What a scan writes into a run folder: the manifest first, then shards, whole, in any order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor

from opponent.core.errors import RunError
from opponent.core.text import csv_text
from opponent.images.imageset import ImageSet
from opponent.storage.columns import APART, SCALARS
from opponent.storage.files import AnyPath, atomic_write, create_text, to_path, write_text
from opponent.storage.image_table import image_table
from opponent.storage.manifest import Manifest
from opponent.storage.run import CHANNELS, MAPS, Run
from opponent.storage.shards import SCAN, about
from opponent.storage.summary import UNITS_COLUMNS, Summary, rows
from opponent.storage.tables import floats, lists, schema_of, write_table


def begin_run(folder: str | AnyPath, manifest: Manifest, images: ImageSet) -> Run:
    """Make a run folder, or go on with one that has the same manifest.

    Args:
        folder: a path or its name.
        manifest: of the scan.
        images: of the scan.
    Raises:
        RunError: the folder holds another scan, or other files.
    """
    folder = to_path(folder)
    path = folder / "manifest.json"
    # The manifest comes first: where it lies, all else is ours to write. Of several scans that
    # begin here at once, one creates it, and the others are compared with it.
    free = not path.exists() and (not folder.exists() or _is_free(folder))
    if not (free and create_text(path, manifest.to_json())):
        if not path.exists():
            raise RunError(f"{folder} exists and is not a run folder; choose a folder of its own")
        manifest = _continued(Run(folder), manifest)
        write_text(path, manifest.to_json())
    run = Run(folder)
    # Each time anew: the images, or a file of weights, may have moved since.
    _list_images(run, images)
    return run


def _list_images(run: Run, images: ImageSet) -> None:
    """Write the table of the images; where all shards are there, with their contents' digests."""
    contents: list[bytes | None] = [None] * len(images)
    if not run.missing():
        contents = [
            x for number in range(run.shard_count) for x in run.read_shard(number).contents()
        ]
    known = images.with_contents(contents)
    write_table(run.folder / "images.parquet", image_table(known))
    # What reading the table would give, without a second list.
    run.images = ImageSet(
        source=images.source,
        entries=tuple(
            x if x.path is None or x.path.is_absolute() else replace(x, path=x.path.absolute())
            for x in known
        ),
        origin=images.origin,
    )


def _continued(run: Run, manifest: Manifest) -> Manifest:
    """The manifest with which a run goes on.

    Args:
        run: what the folder holds.
        manifest: of the scan that goes on.
    Raises:
        RunError: it is another scan.
    """
    there = run.manifest
    ours, theirs = manifest.determining(), there.determining()
    different = [key for key in ours if ours[key] != theirs.get(key)]
    if different:
        changes = "; ".join(_difference(key, theirs.get(key), ours[key]) for key in different)
        raise RunError(
            f"{run.folder} holds another scan ({changes}). Scan into another folder, or delete "
            "this one"
        )
    # The same network may have been loaded by name before, and be handed over now.
    handed_over = there.network.asked and not manifest.network.asked
    network = (there if handed_over else manifest).network
    return msgspec.structs.replace(
        manifest,
        # Of made-up images numbers differ in their rounding, machine by machine.
        network=msgspec.structs.replace(network, signature=there.network.signature),
        crop_plan=there.crop_plan,
        units_crop_plan=there.units_crop_plan,
    )


def write_baseline(run: Run, baseline: Float[Tensor, "k h w"]) -> None:
    """Keep the through layer's mean, which the rule starts from."""
    with atomic_write(run.baseline_file) as temporary:
        temporary.write_bytes(save({"mean": baseline.cpu().contiguous()}))


def write_shard(
    run: Run,
    number: int,
    images: Sequence[str],
    columns: Sequence[Sequence[Mapping[str, np.ndarray]]],
    unreadable: Mapping[str, str],
    contents: Sequence[bytes] = (),
) -> None:
    """Write one shard, whole.

    Args:
        run: the run.
        number: the shard's.
        images: ids of the images that have rows.
        columns: for each feature, its batches' columns.
        unreadable: the others, which could not be read or gave no finite numbers, with reasons.
        contents: digests of the contents of all its images, in order; empty where none is known.
    """
    tables = [
        _shard_table(images, feature.label, batches, run.manifest.dictionary is not None)
        for feature, batches in zip(run.features, columns, strict=True)
    ]
    # Without features a table without rows still says what could not be read.
    table = pa.concat_tables(tables or [_shard_table([], "", [], False)])
    write_table(
        run.shard(number),
        table.replace_schema_metadata(about(run.digest, unreadable, contents)),
    )


def write_exemplars(
    run: Run,
    number: int,
    images: Sequence[str],
    values: Float[np.ndarray, "m k"],
    numbers: Int[np.ndarray, "m k"],
    places: Int[np.ndarray, "m k"],
) -> None:
    """Write one shard's exemplars; to be written before the shard itself.

    Args:
        run: the run.
        number: the shard's.
        images: ids of its images.
        values: for each channel its largest values.
        numbers: the images that they lie in.
        places: where in the map, counted along its rows.
    """
    width = run.manifest.through_shape[2]
    table = pa.table(
        {
            "channel": pa.array(np.repeat(np.arange(values.shape[1]), len(values)), pa.int32()),
            "image": pa.array([images[i] for i in numbers.T.ravel()], pa.string()),
            "row": pa.array(places.T.ravel() // width, pa.int32()),
            "column": pa.array(places.T.ravel() % width, pa.int32()),
            "activation": pa.array(values.T.ravel(), pa.float32()),
        }
    )
    write_table(run.exemplars_file(number), table.replace_schema_metadata({SCAN: run.digest}))


def write_summary(run: Run, number: int, summary: Summary) -> None:
    """Write what one shard holds of all units; to be written before the shard itself.

    Args:
        run: the run.
        number: the shard's.
        summary: of all units over its images.
    """
    with atomic_write(run.summary_file(number)) as temporary:
        temporary.write_bytes(summary.to_bytes(run.digest))


def finish_run(run: Run) -> None:
    """Write the list of images that are left out, for people, and tables of images and units."""
    _list_images(run, run.images)
    lines = [("image", "reason"), *run.unreadable().items()]
    write_text(run.folder / "unreadable.csv", csv_text(lines))
    if run.manifest.units is not None:
        ids = [entry.id for entry in run.images]
        columns = dict(rows(run.summary(), ids))
        write_table(run.units_file, pa.table(columns, schema=schema_of(UNITS_COLUMNS)))


def _is_free(folder: AnyPath) -> bool:
    """Whether a folder is empty, but for what a scan leaves that is killed as it begins."""
    return folder.is_dir() and all(
        fnmatchcase(path.name, ".manifest.*.tmp.json") for path in folder.iterdir()
    )


def _shard_table(
    images: Sequence[str],
    label: str,
    batches: Sequence[Mapping[str, np.ndarray]],
    of_latents: bool,
) -> pa.Table:
    scalars = (*SCALARS, *(APART if of_latents else ()))
    arrays = {
        "image": pa.array(images, pa.string()),
        "feature": pa.array([label] * len(images), pa.string()),
    }
    arrays |= {name: floats([batch[name] for batch in batches]) for name in scalars}
    arrays |= {name: lists([batch[name] for batch in batches]) for name in (*MAPS, *CHANNELS)}
    return pa.table(arrays)


def _difference(key: str, there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        key, there, here = next(
            (f"{key}.{k}", there.get(k), here.get(k))
            for k in (*here, *there)
            if there.get(k) != here.get(k)
        )
    short = [text if len(text) < 60 else text[:57] + "..." for text in map(str, (there, here))]
    return f"{key} was {short[0]}, is {short[1]}"

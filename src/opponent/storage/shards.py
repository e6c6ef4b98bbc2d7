"""What the shards of a scan hold: rows of one feature, and exemplars of a channel."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from opponent.images.content import LENGTH
from opponent.storage.columns import Indices
from opponent.storage.files import AnyPath
from opponent.storage.summary import SCORES, Summary
from opponent.storage.tables import (
    NUMBER,
    NUMBERS,
    TEXT,
    WHOLE,
    damage_refused,
    read_arrays,
    read_metadata,
    read_table,
    refuse_not_finite,
    refuse_other_lengths,
)

COMMAND = "opponent scan"
# What a shard says beside its rows: of which scan it is, what could not be read, and of all of its
# images the digests of their contents.
SCAN, UNREADABLE, CONTENTS = b"scan", b"unreadable", b"contents"
# In the place of a digest, where an image could not even be opened.
_UNKNOWN = bytes(LENGTH)


@dataclass(frozen=True, kw_only=True)
class Exemplar:
    """Where in the images a channel is most active.

    Args:
        image: the image's id.
        row: row of the through layer's map.
        column: column of the map.
        activation: the channel's activation there.
    """

    image: str
    row: int
    column: int
    activation: float


def about(
    scan: str, unreadable: Mapping[str, str], contents: Sequence[bytes]
) -> dict[bytes, bytes]:
    """What a shard says beside its rows.

    Args:
        scan: the digest of the manifest.
        unreadable: ids of images without rows, with reasons.
        contents: of all its images the digests of their contents, empty where there is none.
    """
    joined = b"".join(content or _UNKNOWN for content in contents)
    return {
        SCAN: scan.encode(),
        UNREADABLE: json.dumps(dict(unreadable)).encode(),
        CONTENTS: joined.hex().encode(),
    }


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard, and what must be in it.

    Args:
        path: its file.
        scan: the digest of the manifest.
        images: how many images it is of.
        features: how many features it has rows of.
    """

    path: AnyPath
    scan: str
    images: int
    features: int

    def unreadable(self) -> dict[str, str]:
        """Ids of its images that have no rows, with reasons.

        Raises:
            RunError: it is damaged, or of another scan.
        """
        return self._about(read_metadata(self.path, COMMAND))[0]

    def contents(self) -> list[bytes | None]:
        """Of all its images the digests of their contents; None where there is none.

        Raises:
            RunError: it is damaged, or of another scan.
        """
        return self._about(read_metadata(self.path, COMMAND))[1]

    def _about(self, metadata: Mapping[bytes, bytes]) -> tuple[dict[str, str], list[bytes | None]]:
        with damage_refused(self.path, COMMAND):
            refuse_other_scan(metadata.get(SCAN, b"").decode(), self.scan)
            reasons = json.loads(metadata[UNREADABLE])
            if not isinstance(reasons, dict) or len(reasons) > self.images:
                raise ValueError("what could not be read is in disorder")
            joined = bytes.fromhex(metadata[CONTENTS].decode())
            if len(joined) not in (0, LENGTH * self.images):
                raise ValueError(f"digests of other than {self.images} images")
            digests = [joined[i : i + LENGTH] for i in range(0, len(joined), LENGTH)]
            known = [None if each == _UNKNOWN else each for each in digests]
            texts = {str(image): str(reason) for image, reason in reasons.items()}
            return texts, known or [None] * self.images

    def rows(self, place: int | None, lengths: Mapping[str, int | None]) -> pa.Table:
        """Some columns of one feature's rows, or of all features' rows, one after the other.

        Args:
            place: the feature's place among the run's features; None for all.
            lengths: names of the columns, and of those that hold lists the lists' length.
        Raises:
            RunError: it is damaged, or of another scan.
        """
        kinds = {name: NUMBER if x is None else NUMBERS for name, x in lengths.items()}
        kinds |= {name: TEXT for name in lengths if name == "image"}
        table = read_table(self.path, COMMAND, kinds)
        unreadable, _ = self._about(table.schema.metadata or {})
        with damage_refused(self.path, COMMAND):
            # Features follow each other in the manifest's order, each with the same images.
            rows = self.images - len(unreadable)
            if len(table) != rows * self.features:
                raise ValueError(f"{len(table)} rows of {self.features} features and {rows} images")
            if place is not None:
                table = table.slice(place * rows, rows)
            for name, length in lengths.items():
                if length is not None:
                    refuse_other_lengths(table[name], length, name)
            refuse_not_finite(table)
        return table


def refuse_other_scan(found: str, scan: str) -> None:
    """Refuse what another scan has written.

    Args:
        found: the digest of the manifest that is written in a file.
        scan: that of this scan.
    Raises:
        ValueError: they differ.
    """
    if found != scan:
        raise ValueError("it is of another scan than the folder's manifest")


def read_rows(
    shards: Iterable[Shard],
    place: int,
    lengths: Mapping[str, int | None],
    which: Indices | None = None,
) -> pa.Table:
    """Some columns of one feature's rows: of all images, or of some, in their order.

    Args:
        shards: in order.
        place: the feature's place among the run's features.
        lengths: names of the columns, and of those that hold lists the lists' length.
        which: only these rows, in this order.
    Raises:
        RunError: a file is damaged or missing.
        IndexError: there is no such row.
    """
    wanted = None if which is None else np.sort(which)
    tables, first = [], 0
    for shard in shards:
        table = shard.rows(place, lengths).replace_schema_metadata(None)
        rows = len(table)
        if wanted is not None:
            here = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + rows)]
            table = table.take(here - first)
        tables.append(table)
        first += rows
    table = pa.concat_tables(tables)
    if wanted is not None and wanted.size and not 0 <= wanted[0] <= wanted[-1] < first:
        raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {first} images")
    if which is None:
        return table
    # From the order of the shards to the order that was asked for.
    return table.take(np.argsort(np.argsort(which, kind="stable"), kind="stable"))


def read_exemplars(
    files: Iterable[AnyPath], scan: str, grid: tuple[int, int], channel: int, count: int
) -> list[Exemplar]:
    """Where a channel is most active, one place an image, most active first.

    Args:
        files: of the shards' exemplars, in order.
        scan: the digest of the manifest.
        grid: rows and columns of the through layer.
        channel: of the through layer.
        count: how many at most. Places where the channel is not active are left out.
    Raises:
        RunError: a file is damaged or missing, or of another scan.
    """
    exemplars = []
    for file in files:
        table = read_table(
            file,
            COMMAND,
            {"image": TEXT, "row": WHOLE, "column": WHOLE, "activation": NUMBER},
            filters=[("channel", "==", channel), ("activation", ">", 0)],
        )
        with damage_refused(file, COMMAND):
            refuse_other_scan((table.schema.metadata or {}).get(SCAN, b"").decode(), scan)
            refuse_not_finite(table)
            found = [Exemplar(**row) for row in table.to_pylist()]
            for each in found:
                if not (0 <= each.row < grid[0] and 0 <= each.column < grid[1]):
                    raise ValueError(f"a place outside the map: {each.row}, {each.column}")
        exemplars += found
    # Stable: of equals, the image that comes first.
    return sorted(exemplars, key=lambda x: -x.activation)[:count]


def read_summary(path: AnyPath, scan: str, units: int, keep: int, images: int) -> Summary:
    """What a shard holds of all units.

    Args:
        path: its file.
        scan: the digest of the manifest.
        units, keep: how many there are, and how many images are kept at either end.
        images: how many the scan has.
    Raises:
        RunError: it is damaged or missing, or of another scan.
    """
    with damage_refused(path, COMMAND):
        arrays, metadata = read_arrays(path)
        refuse_other_scan(metadata.get("scan", ""), scan)
        summary = Summary.from_arrays(arrays)
        if summary.values.shape != (units, len(SCORES), 2, keep):
            raise ValueError(f"extremes of shape {summary.values.shape}")
        if summary.images.min(initial=0) < -1 or summary.images.max(initial=-1) >= images:
            raise ValueError(f"an image that is none of {images}")
        return summary

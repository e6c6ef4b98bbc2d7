"""What the shards of a scan hold: rows of one feature, and exemplars of a channel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from opponent.storage.columns import Indices
from opponent.storage.files import AnyPath
from opponent.storage.tables import read_table

COMMAND = "opponent scan"


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


def read_rows(
    shards: Iterable[AnyPath],
    place: int,
    count: int,
    names: Sequence[str],
    which: Indices | None = None,
) -> pa.Table:
    """Some columns of one feature's rows: of all images, or of some, in their order.

    Args:
        shards: the files, in order.
        place: the feature's place among the run's features.
        count: how many features the run has.
        names: of the columns.
        which: only these rows, in this order.
    Raises:
        RunError: a file is damaged or missing.
        IndexError: there is no such row.
    """
    wanted = None if which is None else np.sort(which)
    tables, first = [], 0
    for shard in shards:
        table = read_table(shard, COMMAND, columns=names)
        # Features follow each other in the manifest's order, each with the same images.
        rows = len(table) // count
        table = table.slice(place * rows, rows)
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


def read_exemplars(files: Iterable[AnyPath], channel: int, count: int) -> list[Exemplar]:
    """Where a channel is most active, one place an image, most active first.

    Args:
        files: of the shards' exemplars, in order.
        channel: of the through layer.
        count: how many at most. Places where the channel is not active are left out.
    Raises:
        RunError: a file is damaged or missing.
    """
    exemplars = []
    for file in files:
        table = read_table(
            file,
            COMMAND,
            columns=["image", "row", "column", "activation"],
            filters=[("channel", "==", channel), ("activation", ">", 0)],
        )
        exemplars += [Exemplar(**row) for row in table.to_pylist()]
    # Stable: of equals, the image that comes first.
    return sorted(exemplars, key=lambda x: -x.activation)[:count]

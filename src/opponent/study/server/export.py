"""Answers and participants as tables: Parquet for programs, CSV for people."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from opponent.core.text import csv_cell
from opponent.storage.files import atomic_write
from opponent.study.server.store import Store


def export_tables(store: Store, folder: Path) -> list[Path]:
    """Write `answers` and `participants`, each as CSV and as Parquet.

    In the CSV, text that a spreadsheet would take for a formula begins with an apostrophe. Truth
    values are true and false, and unknown values are empty.

    Args:
        store: a study's answers.
        folder: where the tables go. Those of an earlier export are replaced.
    Returns:
        The paths of the files.
    """
    paths = []
    for name, table in (("answers", store.answers()), ("participants", store.participants())):
        path = folder / f"{name}.parquet"
        with atomic_write(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        paths += [path, folder / f"{name}.csv"]
        _write_csv(paths[-1], table)
    return paths


def _write_csv(path: Path, table: pa.Table) -> None:
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            writer.writerow([csv_cell(value) for value in row])

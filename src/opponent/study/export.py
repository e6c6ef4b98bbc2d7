"""Answers and participants as tables: Parquet for programs, CSV for people."""

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from opponent.storage.files import whole
from opponent.study.store import Store

# What spreadsheets take for the beginning of a formula.
# Source: OWASP, "CSV Injection".
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def export(store: Store, folder: Path) -> list[Path]:
    """Write `answers` and `participants`, each as CSV and as Parquet.

    In the CSV an apostrophe stands before text that a spreadsheet would compute; numbers are
    numbers, yes and no are true and false, and what is unknown is empty.

    Args:
        store: a study's answers.
        folder: where the tables go; those of an earlier export are replaced.
    """
    paths = []
    for name, table in (("answers", store.answers()), ("participants", store.participants())):
        path = folder / f"{name}.parquet"
        with whole(path) as part:
            pq.write_table(table, part, compression="zstd", write_page_checksum=True)
        paths += [path, folder / f"{name}.csv"]
        _write_csv(paths[-1], table)
    return paths


def _write_csv(path: Path, table: pa.Table) -> None:
    with whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            writer.writerow([_cell(value) for value in row])


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.lstrip(" ").startswith(FORMULA):
        return f"'{value}"
    return value

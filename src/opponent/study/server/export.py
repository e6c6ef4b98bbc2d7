"""Answers and participants as tables: Parquet for programs, CSV for people."""

from pathlib import Path

import pyarrow.parquet as pq

from opponent.core.text import csv_text
from opponent.storage.files import atomic_write, write_text
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
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        write_text(paths[-1], csv_text([table.column_names, *rows]))
    return paths

"""The tables of answers and participants."""

import csv
from pathlib import Path

import pyarrow.parquet as pq
from tests.support.study import give

from opponent.study.design.study import Study
from opponent.study.server.export import export_tables
from opponent.study.server.store import Store


def test_export_writes_what_is_stored(store: Store, study: Study, tmp_path: Path) -> None:
    token, participant = store.start(prolific_pid="-1+1", browser={"user_agent": '=HYPERLINK("x")'})
    store.consent(participant.id, "=1", True)
    give(store, study, participant.id, 0, "mei", 0)
    paths = export_tables(store, tmp_path / "out")
    assert {path.name for path in paths} == {
        "answers.csv", "answers.parquet", "participants.csv", "participants.parquet",
    }  # fmt: skip
    assert pq.read_table(tmp_path / "out" / "answers.parquet") == store.answers()
    people = pq.read_table(tmp_path / "out" / "participants.parquet")
    assert people == store.participants()
    assert people.column("prolific_pid").to_pylist() == ["-1+1"]
    with (tmp_path / "out" / "answers.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    (stored,) = store.answers().to_pylist()
    assert row["choice"] == stored["choice"]
    assert row["correct"] == str(stored["correct"]).lower()
    assert row["reaction_ms"] == "0"
    assert row["shown_at"] == ""
    with (tmp_path / "out" / "participants.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["prolific_pid"] == "'-1+1"
    assert row["consent_version"] == "'=1"
    assert all(not x.startswith(("=", "+", "-", "@")) for x in row.values())
    for path in paths:
        assert token.encode() not in path.read_bytes()


def test_an_empty_store_exports_empty_tables(store: Store, tmp_path: Path) -> None:
    export_tables(store, tmp_path)
    table = pq.read_table(tmp_path / "answers.parquet")
    assert len(table) == 0
    assert table.schema == store.answers().schema

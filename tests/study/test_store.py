"""The answers' file: what is stored once and for all, what is refused, and what is exported."""

import asyncio
import csv
import hashlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.support.study import small_study

from opponent.core.errors import RunError
from opponent.study.export import export
from opponent.study.store import Answer, Refused, Store
from opponent.study.study import QUESTIONS, Shown, Study
from opponent.study.writer import Writer


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small_study(tmp_path_factory.mktemp("store") / "study", features=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.sqlite3", create=True) as store:
        yield store


def seen(study: Study, number: int = 0) -> list[Shown]:
    return [shown for block in study.session(number) for shown in block.trials]


def begin(store: Store, **ids: str) -> tuple[str, str]:
    """A participant with consent: their token and id."""
    token, participant = store.start(**ids)
    store.consent(participant.id, "1", True)
    return token, participant.id


def give(
    store: Store, study: Study, id: str, at: int, question: str, place: int, number: int = 0
) -> list[Answer]:
    shown = seen(study, number)
    return store.answer(
        id, shown, trial=shown[at].trial.id, question=question, choice=shown[at].choices[place],
        reaction_ms=at * 10 + place, fingerprint="of the study",
    )  # fmt: skip


def together(store: Store, *acts: Callable[[], object]) -> list[object]:
    """What acts give or raise that are asked while the writer is busy."""
    busy, free = threading.Event(), threading.Event()

    async def main() -> list[object]:
        writer = Writer(store)
        first = asyncio.ensure_future(writer.do(lambda: (busy.set(), free.wait())))
        await asyncio.to_thread(busy.wait)
        others = [asyncio.ensure_future(writer.do(act)) for act in acts]
        await asyncio.sleep(0)
        free.set()
        await first
        replies = await asyncio.gather(*others, return_exceptions=True)
        writer.close()
        return list(replies)

    return asyncio.run(main())


def test_what_is_stored_is_what_was_given(store: Store, study: Study) -> None:
    _, id = begin(store, prolific_pid="p", study_id="s", session_id="x")
    shown = seen(study)
    for at in range(len(shown)):
        give(store, study, id, at, "mei", at % 9)
        give(store, study, id, at, "mii", (at + 3) % 9)
    rows = store.answers().to_pylist()
    assert len(rows) == 2 * len(shown)
    for i, row in enumerate(rows):
        at, question = i // 2, QUESTIONS[i % 2]
        place = (at + 3 * (i % 2)) % 9
        trial = shown[at].trial
        expected = {
            "participant": id, "number": 0, "trial": trial.id, "kind": trial.kind,
            "layer": trial.layer, "feature": trial.feature, "question": question,
            "choice": shown[at].choices[place], "place": place,
            "correct": shown[at].choices[place] == getattr(trial, question),
            "reaction_ms": at * 10 + place, "shown_at": None,
        }  # fmt: skip
        assert {k: row[k] for k in expected} == expected
    times = [row["answered_at"] for row in rows]
    assert times == sorted(times)
    assert all(time.endswith("Z") for time in times)
    assert store.end(id, "complete", answers=len(rows)) == "complete"
    (person,) = store.participants().to_pylist()
    assert person["state"] == "complete"
    assert (person["prolific_pid"], person["study_id"], person["session_id"]) == ("p", "s", "x")
    assert person["consent_version"] == "1"
    assert person["started_at"] <= person["ended_at"]


def test_the_same_again_changes_nothing_and_another_is_refused(store: Store, study: Study) -> None:
    _, id = begin(store)
    first = give(store, study, id, 0, "mei", 4)
    before = store.answers()
    assert give(store, study, id, 0, "mei", 4) == first
    with pytest.raises(Refused, match="stored already") as refused:
        give(store, study, id, 0, "mei", 5)
    assert refused.value.stored == first[0].choice
    assert store.answers() == before


def test_answers_come_in_the_order_shown(store: Store, study: Study) -> None:
    _, id = begin(store)
    with pytest.raises(Refused, match="another question comes before"):
        give(store, study, id, 0, "mii", 0)
    with pytest.raises(Refused, match="another question comes before"):
        give(store, study, id, 1, "mei", 0)
    give(store, study, id, 0, "mei", 0)
    with pytest.raises(Refused, match="answer to the first question"):
        give(store, study, id, 0, "mii", 0)
    with pytest.raises(Refused, match="another question comes before"):
        give(store, study, id, 1, "mei", 0)
    shown = seen(study)
    with pytest.raises(Refused, match="not one of this trial"):
        store.answer(
            id, shown, trial=shown[0].trial.id, question="mii", choice=shown[1].choices[0],
            reaction_ms=1,
        )  # fmt: skip
    with pytest.raises(Refused, match="of 8 answers are missing"):
        store.end(id, "complete", answers=8)
    assert len(store.answers()) == 1


def test_nothing_is_answered_without_consent_or_after_the_end(store: Store, study: Study) -> None:
    _, waiting = store.start()
    with pytest.raises(Refused, match="no consent"):
        give(store, study, waiting.id, 0, "mei", 0)
    assert store.consent(waiting.id, "1", False) == "no_consent"
    assert store.consent(waiting.id, "1", False) == "no_consent"
    with pytest.raises(Refused, match="ended"):
        store.consent(waiting.id, "1", True)
    with pytest.raises(Refused, match="ended"):
        give(store, study, waiting.id, 0, "mei", 0)
    _, id = begin(store)
    with pytest.raises(Refused, match="consent was given"):
        store.consent(id, "1", False)
    assert store.end(id, "screened_out") == "screened_out"
    assert store.end(id, "complete", answers=0) == "screened_out"


def test_who_withdraws_takes_their_answers_back(store: Store, study: Study) -> None:
    _, first = begin(store)
    _, second = begin(store)
    choice = give(store, study, first, 0, "mei", 0)[0].choice
    others = seen(study, 1)[0].choices
    kept = next(i for i, x in enumerate(others) if x != choice)
    give(store, study, second, 0, "mei", kept, number=1)
    assert store.end(first, "withdrawn") == "withdrawn"
    assert [x["participant"] for x in store.answers().to_pylist()] == [second]
    assert [x["state"] for x in store.participants().to_pylist()] == ["withdrawn", "started"]
    store.close()
    # Closing moved the log into the file: what was deleted is not left in it.
    data = store.path.read_bytes()
    assert others[kept].encode() in data
    assert choice.encode() not in data


def test_only_the_first_browser_goes_on_after_an_answer(store: Store, study: Study) -> None:
    token, one = store.start(prolific_pid="p", session_id="x")
    again, same = store.start(prolific_pid="p", session_id="y")
    assert (same.id, same.number) == (one.id, one.number)
    assert store.find(token) is None
    found = store.find(again)
    assert found is not None
    assert found.id == one.id
    store.consent(one.id, "1", True)
    give(store, study, one.id, 0, "mei", 0)
    with pytest.raises(Refused, match="already taken part"):
        store.start(prolific_pid="p", session_id="x")
    assert store.find(again) is not None
    # Without Prolific nobody is known, and each is another.
    assert store.start()[1].number == 1
    assert store.start()[1].number == 2


def test_tokens_are_not_in_the_file(store: Store) -> None:
    token, _ = begin(store, prolific_pid="p")
    store.close()
    data = store.path.read_bytes()
    assert token.encode() not in data
    assert hashlib.sha256(token.encode()).digest() in data


def test_many_at_once_are_numbered_without_gaps(store: Store, study: Study) -> None:
    def one(i: int) -> str:
        _, id = begin(store, prolific_pid=f"p{i}")
        number = store.participants().column("participant").to_pylist().index(id)
        give(store, study, id, 0, "mei", i % 9, number=number)
        return id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(one, range(24)))
    people = store.participants().to_pylist()
    assert [x["number"] for x in people] == list(range(24))
    assert {x["participant"] for x in people} == set(ids)
    assert sorted(store.answers().column("number").to_pylist()) == list(range(24))


def test_what_was_committed_outlives_the_process(study: Study, tmp_path: Path) -> None:
    """Killed at once after the commit, and read by another process."""
    path = tmp_path / "answers.sqlite3"
    script = (
        "import os, signal, sys\n"
        "from opponent.study.store import Store\n"
        "store = Store(sys.argv[1], create=True)\n"
        "print(store.start(prolific_pid='p')[1].id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9
    with Store(path) as store:
        assert store.participants().column("participant").to_pylist() == [done.stdout.strip()]


def test_the_first_answer_fixes_the_study(store: Store, study: Study) -> None:
    _, id = begin(store)
    assert store.fingerprint() is None
    give(store, study, id, 0, "mei", 0)
    assert store.fingerprint() == "of the study"


def test_many_are_stored_together_and_each_fails_alone(store: Store, study: Study) -> None:
    """One commit for all that wait; what one is refused undoes nothing of the others'."""
    _, one = begin(store)
    _, two = begin(store)
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    store._connection.set_trace_callback(count)
    replies = together(
        store,
        lambda: give(store, study, one, 0, "mei", 1),
        lambda: give(store, study, one, 1, "mei", 1),
        lambda: give(store, study, two, 0, "mei", 2, number=1),
        lambda: store.end(one, "withdrawn"),
    )
    # And one of what they waited for.
    assert commits == 2
    assert [isinstance(x, Refused) for x in replies] == [False, True, False, False]
    assert [(x["number"], x["place"]) for x in store.answers().to_pylist()] == [(1, 2)]
    assert store.participants().column("state").to_pylist() == ["withdrawn", "started"]


def test_nothing_is_told_that_could_not_be_committed(store: Store, study: Study) -> None:
    _, id = begin(store)
    replies = together(
        store,
        lambda: give(store, study, id, 0, "mei", 1),
        lambda: store._connection.execute("ROLLBACK"),
    )
    assert [isinstance(x, sqlite3.OperationalError) for x in replies] == [True, True]
    assert len(store.answers()) == 0
    # The next is stored as ever.
    (given,) = together(store, lambda: give(store, study, id, 0, "mei", 1))
    assert isinstance(given, list)
    assert len(store.answers()) == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nobody has taken part yet"):
        Store(tmp_path / "none.sqlite3")
    assert not (tmp_path / "none.sqlite3").exists()
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(RunError, match="cannot be used"):
        Store(tmp_path / "text", create=True)
    connection = sqlite3.connect(tmp_path / "other.sqlite3")
    connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(RunError, match="not a study's answers"):
        Store(tmp_path / "other.sqlite3", create=True)


def test_export_writes_what_is_stored(store: Store, study: Study, tmp_path: Path) -> None:
    token, one = store.start(prolific_pid="-1+1", browser={"user_agent": '=HYPERLINK("x")'})
    store.consent(one.id, "=1", True)
    give(store, study, one.id, 0, "mei", 0)
    paths = export(store, tmp_path / "out")
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
    export(store, tmp_path)
    table = pq.read_table(tmp_path / "answers.parquet")
    assert len(table) == 0
    assert table.schema == store.answers().schema

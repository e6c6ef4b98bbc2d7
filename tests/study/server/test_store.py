"""The answers' file: what is stored once and for all, and what is refused."""

import hashlib
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.study import begin, give, seen

from opponent.core.errors import RunError
from opponent.study.design.settings import QUESTIONS
from opponent.study.design.study import Study
from opponent.study.design.texts import CONSENT
from opponent.study.server.database import PARTICIPANTS
from opponent.study.server.store import Refused, Store


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


def _traces(store: Store, study: Study, id: str, number: int) -> int:
    """How often a row of a participant's answers begins in the database or the log beside it."""
    files = (store.path, store.path.with_name(f"{store.path.name}-wal"))
    data = b"\0".join(path.read_bytes() for path in files if path.exists())
    return sum(data.count((id + shown.trial.id).encode()) for shown in seen(study, number))


def _everyone_answers(store: Store, study: Study, people: int) -> list[str]:
    """In turns, so that their rows lie among one another."""
    with store.transaction():
        ids = [begin(store, prolific_pid=f"p{i}")[1] for i in range(people)]
        for at in range(len(study.trials)):
            for question in QUESTIONS:
                for number, id in enumerate(ids):
                    place = (at + number + 3 * (question == "mii")) % 9
                    give(store, study, id, at, question, place, number=number)
    return ids


def test_nothing_withdrawn_is_in_any_file_while_the_server_runs(store: Store, study: Study) -> None:
    ids = _everyone_answers(store, study, 20)
    assert _traces(store, study, ids[7], 7) > 0
    with store.transaction():
        store.end(ids[7], "withdrawn")
    assert _traces(store, study, ids[7], 7) == 0
    assert _traces(store, study, ids[8], 8) > 0
    log = store.path.with_name(f"{store.path.name}-wal")
    assert log.stat().st_size == 0
    # Of the participant's own id there is the row that says that they withdrew, and its index.
    assert store.path.read_bytes().count(ids[7].encode()) == 2


@pytest.mark.parametrize("then", ["commit", "close"])
def test_a_reader_only_delays_that(store: Store, study: Study, then: str) -> None:
    ids = _everyone_answers(store, study, 3)
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    before = reader.execute("SELECT count(*) FROM answers").fetchone()
    assert store.end(ids[1], "withdrawn") == "withdrawn"
    assert _traces(store, study, ids[1], 1) > 0
    # The reader still sees what was, and its end alone changes nothing.
    assert reader.execute("SELECT count(*) FROM answers").fetchone() == before
    reader.execute("COMMIT")
    if then == "commit":
        store.start()
    else:
        store.close()
    assert _traces(store, study, ids[1], 1) == 0
    reader.close()


def test_what_a_killed_server_left_is_emptied_by_the_next(store: Store, study: Study) -> None:
    ids = _everyone_answers(store, study, 2)
    reader = sqlite3.connect(store.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM answers").fetchone()
    store.end(ids[1], "withdrawn")
    reader.execute("COMMIT")
    # As after a kill: another process opens the files with the log still there.
    with Store(store.path, create=True):
        assert _traces(store, study, ids[1], 1) == 0
    reader.close()


def test_the_consent_names_all_that_stays_after_withdrawing() -> None:
    """A column that is added has to be told as well."""
    told = {
        "participant": "you agreed and withdrew",
        "number": "you agreed and withdrew",
        "prolific_pid": "recruiting service's IDs",
        "study_id": "recruiting service's IDs",
        "session_id": "recruiting service's IDs",
        "state": "you agreed and withdrew",
        "consent_version": "you agreed and withdrew",
        "started_at": "when you began and withdrew",
        "ended_at": "when you began and withdrew",
        "browser": "the kind of your browser, the size of its window and of the screen",
    }
    assert list(told) == PARTICIPANTS.names
    kept = CONSENT.split("What is kept says")[1].split("There are no known risks")[0]
    assert all(words in kept for words in told.values())


def test_only_the_first_browser_goes_on_after_an_answer(store: Store, study: Study) -> None:
    token, participant = store.start(prolific_pid="p", session_id="x")
    again, same = store.start(prolific_pid="p", session_id="y")
    assert (same.id, same.number) == (participant.id, participant.number)
    assert store.find(token) is None
    person = store.find(again)
    assert person is not None
    assert person.id == participant.id
    store.consent(participant.id, "1", True)
    give(store, study, participant.id, 0, "mei", 0)
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
    def take_part(i: int) -> str:
        _, id = begin(store, prolific_pid=f"p{i}")
        number = store.participants().column("participant").to_pylist().index(id)
        give(store, study, id, 0, "mei", i % 9, number=number)
        return id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(take_part, range(24)))
    people = store.participants().to_pylist()
    assert [x["number"] for x in people] == list(range(24))
    assert {x["participant"] for x in people} == set(ids)
    assert sorted(store.answers().column("number").to_pylist()) == list(range(24))


def test_what_was_committed_outlives_the_process(study: Study, tmp_path: Path) -> None:
    """Killed at once after the commit, and read by another process."""
    path = tmp_path / "answers.sqlite3"
    script = (
        "import os, signal, sys\n"
        "from opponent.study.server.store import Store\n"
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

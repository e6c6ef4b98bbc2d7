"""The answers of a study: one SQLite file, in which each answer is on the disk before it is told.

The standard library's SQLite in WAL mode with synchronous=FULL: a commit is on the disk when it
returns, so that neither a killed process nor a power cut takes back what a participant was told is
stored. One connection writes; others, such as the export, may read at any time.
"""

import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from opponent.core.errors import RunError
from opponent.study.study import QUESTIONS, Shown

# Bytes of "Oppo", so that `file` and other tools can tell the database from others.
APPLICATION = int.from_bytes(b"Oppo", "big")
VERSION = 1
STATES = ("started", "no_consent", "screened_out", "complete", "withdrawn")
# Seconds to wait for another process that writes.
PATIENCE = 30.0

_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE participants (
    number INTEGER PRIMARY KEY,
    participant TEXT NOT NULL UNIQUE,
    token BLOB NOT NULL UNIQUE,
    prolific_pid TEXT NOT NULL,
    study_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    state TEXT NOT NULL,
    consent_version TEXT,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    browser TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_session ON participants (prolific_pid) WHERE prolific_pid <> '';
CREATE TABLE answers (
    participant TEXT NOT NULL REFERENCES participants (participant),
    trial TEXT NOT NULL,
    kind TEXT NOT NULL,
    layer TEXT NOT NULL,
    feature TEXT NOT NULL,
    question TEXT NOT NULL,
    choice TEXT NOT NULL,
    place INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    reaction_ms INTEGER NOT NULL,
    shown_at TEXT,
    answered_at TEXT NOT NULL,
    UNIQUE (participant, trial, question)
) STRICT;
"""

_ANSWERS = pa.schema(
    [
        ("participant", pa.string()),
        ("number", pa.int64()),
        ("trial", pa.string()),
        ("kind", pa.string()),
        ("layer", pa.string()),
        ("feature", pa.string()),
        ("question", pa.string()),
        ("choice", pa.string()),
        ("place", pa.int64()),
        ("correct", pa.bool_()),
        ("reaction_ms", pa.int64()),
        ("shown_at", pa.string()),
        ("answered_at", pa.string()),
    ]
)
_PARTICIPANTS = pa.schema(
    [
        ("participant", pa.string()),
        ("number", pa.int64()),
        ("prolific_pid", pa.string()),
        ("study_id", pa.string()),
        ("session_id", pa.string()),
        ("state", pa.string()),
        ("consent_version", pa.string()),
        ("started_at", pa.string()),
        ("ended_at", pa.string()),
        ("browser", pa.string()),
    ]
)


class Refused(Exception):
    """What a participant may not do now.

    Args:
        reason: one word for programs.
        message: a sentence for people.
        stored: the answer that is stored instead, where there is one.
    """

    def __init__(self, reason: str, message: str, stored: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.stored = reason, stored


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One participant, as the server needs to know them."""

    id: str
    number: int
    state: str
    consented: bool
    from_prolific: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One stored answer."""

    trial: str
    question: str
    choice: str
    correct: bool


def now() -> str:
    """The time, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _hash(token: str) -> bytes:
    """What is stored of a token: who reads the file cannot act for a participant."""
    return hashlib.sha256(token.encode()).digest()


class Store:
    """A study's answers.

    Args:
        path: the database's file, `answers.sqlite3` in the study's folder.
        create: make it where it is missing.
    Raises:
        RunError: it is missing, is no such database, or is one of another version.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise RunError(
                f"{self.path} is not there: nobody has taken part yet; "
                f"`opponent experiment serve {self.path.parent}` makes it"
            )
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._open(create)
        except sqlite3.DatabaseError as error:
            raise RunError(f"{self.path} cannot be used: {error}") from error

    def _open(self, create: bool) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        # What a participant takes back is overwritten, not only forgotten.
        run("PRAGMA secure_delete = ON")
        with self.transaction():
            if run("SELECT count(*) FROM sqlite_master").fetchone() == (0,) and create:
                for statement in _TABLES.split(";"):
                    run(statement)
                run(f"PRAGMA application_id = {APPLICATION}")
                run(f"PRAGMA user_version = {VERSION}")
            found = (
                run("PRAGMA application_id").fetchone()[0],
                run("PRAGMA user_version").fetchone()[0],
            )
        if found != (APPLICATION, VERSION):
            self._connection.close()
            raise RunError(
                f"{self.path} is not a study's answers of version {VERSION}; move it away, or use "
                "the version of opponent that made it"
            )

    def close(self) -> None:
        """Close the file; what is stored stays."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and nobody else writes between; one in another is undone by itself."""
        run = self._connection.execute
        with self._lock:
            inner = self._connection.in_transaction
            run("SAVEPOINT inner_one" if inner else "BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # Some errors of SQLite have undone everything already.
                if self._connection.in_transaction:
                    run("ROLLBACK TO inner_one" if inner else "ROLLBACK")
                    if inner:
                        run("RELEASE inner_one")
                raise
            run("RELEASE inner_one" if inner else "COMMIT")

    # Who takes part

    def start(
        self,
        *,
        prolific_pid: str = "",
        study_id: str = "",
        session_id: str = "",
        browser: Mapping[str, Any] | None = None,
    ) -> tuple[str, Participant]:
        """Begin a session; who comes again before the first answer gets a new token for theirs.

        A new token makes the old one worthless. After the first answer only the browser that has
        the token can go on, so that nobody takes over a session by knowing its Prolific IDs.

        Args:
            prolific_pid, study_id, session_id: what Prolific puts into the link, or empty.
            browser: what is known of the browser.
        Returns:
            The token, of which only a hash is stored, and the participant.
        Raises:
            Refused: that person has answered already, or has ended.
        """
        token = secrets.token_urlsafe(32)
        known = json.dumps(dict(browser or {}), sort_keys=True)
        run = self._connection.execute
        with self.transaction():
            found = None
            if prolific_pid:
                found = run(
                    "SELECT participant, number, state FROM participants WHERE prolific_pid = ?",
                    (prolific_pid,),
                ).fetchone()
            if found is None:
                number = run("SELECT coalesce(max(number) + 1, 0) FROM participants").fetchone()[0]
                run(
                    "INSERT INTO participants "
                    "VALUES (?, ?, ?, ?, ?, ?, 'started', NULL, ?, NULL, ?)",
                    (
                        number, secrets.token_hex(8), _hash(token), prolific_pid, study_id,
                        session_id, now(), known,
                    ),
                )  # fmt: skip
            else:
                id, number, state = found
                query = "SELECT 1 FROM answers WHERE participant = ? LIMIT 1"
                if state != "started" or run(query, (id,)).fetchone():
                    raise Refused("already_started", "this person has already taken part")
                run(
                    "UPDATE participants SET token = ?, study_id = ?, session_id = ?, browser = ? "
                    "WHERE participant = ?",
                    (_hash(token), study_id, session_id, known, id),
                )
        participant = self.find(token)
        assert participant is not None
        return token, participant

    def find(self, token: str) -> Participant | None:
        """Whose token that is, or None."""
        with self._lock:
            row = self._connection.execute(
                "SELECT participant, number, state, consent_version, prolific_pid "
                "FROM participants WHERE token = ?",
                (_hash(token),),
            ).fetchone()
        return row and Participant(
            id=row[0],
            number=row[1],
            state=row[2],
            consented=row[3] is not None,
            from_prolific=row[4] != "",
        )

    def consent(self, participant: str, version: str, agreed: bool) -> str:
        """Store that somebody consents, or does not; again the same changes nothing.

        Returns:
            The state after it.
        Raises:
            Refused: the session has ended otherwise, or one who consented says now that they do
                not (that is `withdraw`).
        """
        run = self._connection.execute
        with self.transaction():
            state, given = run(
                "SELECT state, consent_version FROM participants WHERE participant = ?",
                (participant,),
            ).fetchone()
            if state == "started" and agreed:
                run(
                    "UPDATE participants SET consent_version = coalesce(consent_version, ?) "
                    "WHERE participant = ?",
                    (version, participant),
                )
            elif state == "started" and given is None:
                state = "no_consent"
                self._end(participant, state)
            elif state != "no_consent" or agreed:
                raise Refused("ended", "consent was given or the session has ended already")
        return str(state)

    def end(self, participant: str, state: str, *, answers: int = 0) -> str:
        """End a session; one that has ended stays as it is.

        Who withdraws takes their answers back: they are deleted.

        Args:
            participant: their id.
            state: 'complete', 'screened_out' or 'withdrawn'.
            answers: how many there must be for 'complete'.
        Returns:
            The state after it.
        Raises:
            Refused: answers are missing.
        """
        run = self._connection.execute
        with self.transaction():
            (before,) = run(
                "SELECT state FROM participants WHERE participant = ?", (participant,)
            ).fetchone()
            if before != "started":
                return str(before)
            (given,) = run(
                "SELECT count(*) FROM answers WHERE participant = ?", (participant,)
            ).fetchone()
            if state == "complete" and given < answers:
                raise Refused("unfinished", f"{answers - given} of {answers} answers are missing")
            if state == "withdrawn":
                run("DELETE FROM answers WHERE participant = ?", (participant,))
            self._end(participant, state)
        return state

    def _end(self, participant: str, state: str) -> None:
        self._connection.execute(
            "UPDATE participants SET state = ?, ended_at = ? WHERE participant = ?",
            (state, now(), participant),
        )

    # What they answer

    def answer(
        self,
        participant: str,
        session: Sequence[Shown],
        *,
        trial: str,
        question: str,
        choice: str,
        reaction_ms: int,
        shown_at: str | None = None,
        fingerprint: str = "",
    ) -> list[Answer]:
        """Store an answer; it is on the disk when this returns. The same once more changes nothing.

        Args:
            participant: their id.
            session: the trials as this participant sees them, in order.
            trial, question, choice: which image to which question of which trial.
            reaction_ms: milliseconds from showing to choosing.
            shown_at: when it was shown, by the browser's clock.
            fingerprint: the study's, kept with the first answer of all.
        Returns:
            All that this participant has answered in this trial.
        Raises:
            Refused: another answer is stored, it is not this question's turn, the image was the
                answer to the first question, or the session has not begun or has ended.
        """
        run = self._connection.execute
        with self.transaction():
            state, consent = run(
                "SELECT state, consent_version FROM participants WHERE participant = ?",
                (participant,),
            ).fetchone()
            if state != "started":
                raise Refused("ended", "the session has ended")
            if consent is None:
                raise Refused("no_consent", "there is no consent yet")
            given = self._given(participant)
            stored = {(x.trial, x.question): x for x in given}
            if before := stored.get((trial, question)):
                if before.choice != choice:
                    raise Refused(
                        "conflict", "another answer to this is stored already", before.choice
                    )
                return [x for x in given if x.trial == trial]
            turns = [(shown, each) for shown in session for each in QUESTIONS]
            shown, turn = turns[len(given)] if len(given) < len(turns) else (None, "")
            if shown is None or (shown.trial.id, turn) != (trial, question):
                raise Refused("order", "another question comes before this one")
            if choice not in shown.choices:
                raise Refused("choice", "that image is not one of this trial's nine")
            if question == QUESTIONS[1] and stored[trial, QUESTIONS[0]].choice == choice:
                raise Refused("same", "that image was the answer to the first question")
            if not given:
                run("INSERT OR IGNORE INTO about VALUES ('fingerprint', ?)", (fingerprint,))
            correct = choice == shown.trial.answer(question)
            run(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    participant, trial, shown.trial.kind, shown.trial.layer, shown.trial.feature,
                    question, choice, shown.choices.index(choice), correct, reaction_ms, shown_at,
                    now(),
                ),
            )  # fmt: skip
            answer = Answer(trial=trial, question=question, choice=choice, correct=correct)
        return [*(x for x in given if x.trial == trial), answer]

    def _given(self, participant: str) -> list[Answer]:
        rows = self._connection.execute(
            "SELECT trial, question, choice, correct FROM answers WHERE participant = ? "
            "ORDER BY rowid",
            (participant,),
        )
        return [Answer(trial=a, question=b, choice=c, correct=bool(d)) for a, b, c, d in rows]

    def given(self, participant: str) -> list[Answer]:
        """What a participant has answered, in order."""
        with self._lock:
            return self._given(participant)

    # What is read

    def fingerprint(self) -> str | None:
        """The fingerprint of the study that was answered, or None before the first answer."""
        with self._lock:
            row = self._connection.execute(
                "SELECT value FROM about WHERE key = 'fingerprint'"
            ).fetchone()
        return row and str(row[0])

    def answers(self) -> pa.Table:
        """All answers, by participant and in the order given."""
        return self._read(
            "SELECT {} FROM answers JOIN participants USING (participant) "
            "ORDER BY number, answers.rowid",
            _ANSWERS,
        )

    def participants(self) -> pa.Table:
        """All participants in the order of arrival, those without answers too."""
        return self._read("SELECT {} FROM participants ORDER BY number", _PARTICIPANTS)

    def _read(self, query: str, schema: pa.Schema) -> pa.Table:
        with self._lock:
            rows = self._connection.execute(query.format(", ".join(schema.names))).fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        return pa.table(
            [
                pa.array(
                    [bool(x) for x in column] if field.type == pa.bool_() else column, field.type
                )
                for field, column in zip(schema, columns, strict=True)
            ],
            schema=schema,
        )

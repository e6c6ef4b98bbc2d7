"""The answers of a study: who takes part, and what they answer, each stored at once."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from opponent.core.errors import RunError
from opponent.study.design.settings import QUESTIONS
from opponent.study.design.study import Shown
from opponent.study.server.database import ANSWERS, PARTICIPANTS, Database

STATES = ("started", "no_consent", "screened_out", "complete", "withdrawn")


class Refused(Exception):
    """An action that a participant may not take now.

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
    """A participant.

    Args:
        id: random, 16 hexadecimal digits.
        number: in order of arrival, from 0.
        state: one of `STATES`.
        consented: whether they consented.
        from_prolific: whether they came with a Prolific ID.
    """

    id: str
    number: int
    state: str
    consented: bool
    from_prolific: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A stored answer.

    Args:
        trial: the trial's id.
        question: 'mei' or 'mii'.
        choice: id of the chosen picture.
        correct: whether it is the right one.
    """

    trial: str
    question: str
    choice: str
    correct: bool


def now() -> str:
    """The time, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _hash(token: str) -> bytes:
    """What is stored of a token, so that a reader of the file cannot act for a participant."""
    return hashlib.sha256(token.encode()).digest()


class Store:
    """A study's answers.

    Args:
        path: of the database, `answers.sqlite3` in the study's folder.
        create: make the file where it is missing.
    Raises:
        RunError: the file is missing, is another database, or is of another version.
    """

    def __init__(self, path: str | Path, *, create: bool = False) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise RunError(
                f"{self.path} is not there: nobody has taken part yet; "
                f"`opponent experiment serve {self.path.parent}` makes it"
            )
        self.database = Database(self.path, create=create)
        self._run = self.database.connection.execute

    def close(self) -> None:
        """Close the file; what is stored stays."""
        self.database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def transaction(self) -> AbstractContextManager[None]:
        """A block whose changes are stored together, or not at all."""
        return self.database.transaction()

    # Participants

    def start(
        self,
        *,
        prolific_pid: str = "",
        study_id: str = "",
        session_id: str = "",
        browser: Mapping[str, object] | None = None,
    ) -> tuple[str, Participant]:
        """Begin a session. A person who comes again before the first answer gets a new token.

        A new token makes the old one invalid. After the first answer only the browser that has the
        token can go on, so that nobody takes over a session by knowing its Prolific IDs.

        Args:
            prolific_pid, study_id, session_id: what Prolific puts into the link, or empty.
            browser: what is known of the browser.
        Returns:
            The token, of which only a hash is stored, and the participant.
        Raises:
            Refused: that person has answered already, or their session has ended.
        """
        token = secrets.token_urlsafe(32)
        known = json.dumps(dict(browser or {}), sort_keys=True)
        with self.transaction():
            before = None
            if prolific_pid:
                before = self._run(
                    "SELECT participant, state FROM participants WHERE prolific_pid = ?",
                    (prolific_pid,),
                ).fetchone()
            if before is None:
                number = self._run(
                    "SELECT coalesce(max(number) + 1, 0) FROM participants"
                ).fetchone()[0]
                self._run(
                    "INSERT INTO participants "
                    "VALUES (?, ?, ?, ?, ?, ?, 'started', NULL, ?, NULL, ?)",
                    (
                        number, secrets.token_hex(8), _hash(token), prolific_pid, study_id,
                        session_id, now(), known,
                    ),
                )  # fmt: skip
            else:
                id, state = before
                query = "SELECT 1 FROM answers WHERE participant = ? LIMIT 1"
                if state != "started" or self._run(query, (id,)).fetchone():
                    raise Refused("already_started", "this person has already taken part")
                self._run(
                    "UPDATE participants SET token = ?, study_id = ?, session_id = ?, browser = ? "
                    "WHERE participant = ?",
                    (_hash(token), study_id, session_id, known, id),
                )
        participant = self.find(token)
        assert participant is not None
        return token, participant

    def find(self, token: str) -> Participant | None:
        """The participant whose token that is, or None."""
        with self.database.lock:
            row = self._run(
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
        """Store whether a participant consents. The same again changes nothing.

        Args:
            participant: their id.
            version: of the text.
            agreed: whether they consent.
        Returns:
            The state after it.
        Raises:
            Refused: the session has ended in another way, or a participant who has consented now
                does not (that is `end` with 'withdrawn').
        """
        with self.transaction():
            state, given = self._run(
                "SELECT state, consent_version FROM participants WHERE participant = ?",
                (participant,),
            ).fetchone()
            if state == "started" and agreed:
                self._run(
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
        """End a session. A session that has ended stays as it is.

        The answers of a participant who withdraws are deleted, and are soon in no file: neither in
        the database nor in the log beside it.

        Args:
            participant: their id.
            state: 'complete', 'screened_out' or 'withdrawn'.
            answers: how many there must be for 'complete'.
        Returns:
            The state after it.
        Raises:
            Refused: answers are missing.
        """
        with self.transaction():
            (before,) = self._run(
                "SELECT state FROM participants WHERE participant = ?", (participant,)
            ).fetchone()
            if before != "started":
                return str(before)
            (given,) = self._run(
                "SELECT count(*) FROM answers WHERE participant = ?", (participant,)
            ).fetchone()
            if state == "complete" and given < answers:
                raise Refused("unfinished", f"{answers - given} of {answers} answers are missing")
            if state == "withdrawn":
                self._run("DELETE FROM answers WHERE participant = ?", (participant,))
                self.database.erase()
            self._end(participant, state)
        return state

    def _end(self, participant: str, state: str) -> None:
        self._run(
            "UPDATE participants SET state = ?, ended_at = ? WHERE participant = ?",
            (state, now(), participant),
        )

    # Answers

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
        """Store an answer; it is on the disk when this returns. The same again changes nothing.

        Args:
            participant: their id.
            session: the trials as this participant sees them, in order.
            trial: id of the trial.
            question: 'mei' or 'mii'.
            choice: id of the stimulus.
            reaction_ms: milliseconds from showing to choosing.
            shown_at: when the trial was shown, by the browser's clock.
            fingerprint: of the study, stored with the first answer of all.
        Returns:
            All answers of this participant in this trial.
        Raises:
            Refused: another answer is stored, another question comes first, the choice is not one
                of the trial's or was the answer to the first question, or the session has not begun
                or has ended.
        """
        with self.transaction():
            state, consent = self._run(
                "SELECT state, consent_version FROM participants WHERE participant = ?",
                (participant,),
            ).fetchone()
            if state != "started":
                raise Refused("ended", "the session has ended")
            if consent is None:
                raise Refused("no_consent", "there is no consent yet")
            given = self._given(participant)
            of_trial = [x for x in given if x.trial == trial]
            before = {x.question: x.choice for x in of_trial}
            if question in before:
                if before[question] != choice:
                    raise Refused(
                        "conflict", "another answer to this is stored already", before[question]
                    )
                return of_trial
            turns = [(shown, turn) for shown in session for turn in QUESTIONS]
            shown, turn = turns[len(given)] if len(given) < len(turns) else (None, "")
            if shown is None or (shown.trial.id, turn) != (trial, question):
                raise Refused("order", "another question comes before this one")
            if choice not in shown.choices:
                raise Refused("choice", "that image is not one of this trial's nine")
            if question == QUESTIONS[1] and before[QUESTIONS[0]] == choice:
                raise Refused("same", "that image was the answer to the first question")
            if not given:
                self._run("INSERT OR IGNORE INTO about VALUES ('fingerprint', ?)", (fingerprint,))
            correct = choice == shown.trial.answer(question)
            self._run(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    participant, trial, shown.trial.kind, shown.trial.layer, shown.trial.feature,
                    question, choice, shown.choices.index(choice), correct, reaction_ms, shown_at,
                    now(),
                ),
            )  # fmt: skip
        answer = Answer(trial=trial, question=question, choice=choice, correct=correct)
        return [*of_trial, answer]

    def _given(self, participant: str) -> list[Answer]:
        rows = self._run(
            "SELECT trial, question, choice, correct FROM answers WHERE participant = ? "
            "ORDER BY rowid",
            (participant,),
        )
        return [Answer(trial=a, question=b, choice=c, correct=bool(d)) for a, b, c, d in rows]

    def given(self, participant: str) -> list[Answer]:
        """All answers of a participant, in the order given."""
        with self.database.lock:
            return self._given(participant)

    # Reading

    def fingerprint(self) -> str | None:
        """The fingerprint of the study that was answered, or None before the first answer."""
        with self.database.lock:
            row = self._run("SELECT value FROM about WHERE key = 'fingerprint'").fetchone()
        return row and str(row[0])

    def answers(self) -> pa.Table:
        """All answers, by participant and in the order given."""
        return self.database.table(
            "SELECT {} FROM answers JOIN participants USING (participant) "
            "ORDER BY number, answers.rowid",
            ANSWERS,
        )

    def participants(self) -> pa.Table:
        """All participants in the order of arrival, those without answers too."""
        return self.database.table("SELECT {} FROM participants ORDER BY number", PARTICIPANTS)

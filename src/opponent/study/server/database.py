"""The SQLite file of a study's answers: its tables, how it is opened, and reading it as Arrow.

The standard library's SQLite in WAL mode with synchronous=FULL: a commit is on the disk when it
returns, so that neither a killed process nor a power cut undoes what a participant was told is
stored. One connection writes; others, such as the export, may read at any time.
"""

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from opponent.core.errors import RunError

LOG = logging.getLogger("opponent.study")
# Bytes of "Oppo", by which `file` and other tools recognise the database.
APPLICATION = int.from_bytes(b"Oppo", "big")
VERSION = 1
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

# The columns that are exported and analysed.
ANSWERS = pa.schema(
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
PARTICIPANTS = pa.schema(
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


class Database:
    """The open file. Threads may share it.

    Args:
        path: of the file.
        create: make the file where it is missing.
    Raises:
        RunError: it cannot be used, is another database, or is of another version.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self.lock = threading.RLock()
        # Whether the log beside the file has to be emptied, since it may hold what was deleted. A
        # server that was killed may have left such a log.
        self._erasing = create
        try:
            self.connection = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._open(create)
        except sqlite3.DatabaseError as error:
            raise RunError(f"{path} cannot be used: {error}") from error

    def _open(self, create: bool) -> None:
        run = self.connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        # What a participant takes back is overwritten, not only unlinked.
        run("PRAGMA secure_delete = ON")
        with self.transaction():
            if run("SELECT count(*) FROM sqlite_master").fetchone() == (0,) and create:
                for statement in _TABLES.split(";"):
                    run(statement)
                run(f"PRAGMA application_id = {APPLICATION}")
                run(f"PRAGMA user_version = {VERSION}")
            kind = (
                run("PRAGMA application_id").fetchone()[0],
                run("PRAGMA user_version").fetchone()[0],
            )
        if kind != (APPLICATION, VERSION):
            self.connection.close()
            raise RunError(
                f"{self.path} is not a study's answers of version {VERSION}; move it away, or use "
                "the version of opponent that made it"
            )

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._empty_log()
            self._erasing = False
            self.connection.close()

    def erase(self) -> None:
        """Leave nothing of what was deleted in the log beside the file, from the next commit on.

        While another process reads, the log cannot be emptied: each later commit tries again, and
        so does closing.
        """
        self._erasing = True

    def _empty_log(self) -> None:
        """Move the log into the file, whose deleted rows are overwritten, and cut it to nothing."""
        if not self._erasing:
            return
        run = self.connection.execute
        try:
            # What is committed is told at once, and waits for no reader.
            run("PRAGMA busy_timeout = 0")
            busy, *_ = run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._erasing = bool(busy)
        except sqlite3.Error as error:
            # The commit stands all the same.
            LOG.warning("the log of %s cannot be emptied yet: %s", self.path.name, error)
        finally:
            run(f"PRAGMA busy_timeout = {int(1000 * PATIENCE)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A block whose changes are all stored, or none; nobody else writes meanwhile.

        Transactions nest: an inner one that fails is undone by itself.
        """
        run = self.connection.execute
        with self.lock:
            inner = self.connection.in_transaction
            run("SAVEPOINT inner_one" if inner else "BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # Some errors of SQLite have undone everything already.
                if self.connection.in_transaction:
                    run("ROLLBACK TO inner_one" if inner else "ROLLBACK")
                    if inner:
                        run("RELEASE inner_one")
                raise
            run("RELEASE inner_one" if inner else "COMMIT")
            if not inner:
                self._empty_log()

    def table(self, query: str, schema: pa.Schema) -> pa.Table:
        """The result of a query as a table.

        Args:
            query: in SQL, with '{}' for the columns.
            schema: names and types of the columns.
        """
        with self.lock:
            rows = self.connection.execute(query.format(", ".join(schema.names))).fetchall()
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

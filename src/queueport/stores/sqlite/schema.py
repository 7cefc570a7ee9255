"""Creates and migrates the tables of the SQLite store, and names them in statements. For the SQLite store.

In a statement, `@ALIVE` stands for the entry `ALIVE` of WORDS, and so on. Every other `@name`, such as `@jobs`, stands
for the table, index or trigger with this name that belongs to the namespace. Triggers update the counts, so that the
counts stay right even if somebody changes a row by hand.
"""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from queueport.errors import BackendUnavailable
from queueport.spi.record import RECORD_VERSION, Record
from queueport.status import JobState

__all__ = ["FIELDS", "SCHEMA", "Tables", "named", "prepare"]

SCHEMA = 6
"""The version of the tables. If you change a statement below, raise the version and add a step to MIGRATIONS."""

FIELDS = ("seq", *(field.name for field in dataclasses.fields(Record)))
"""The columns that a search reads: the insertion number `seq`, then the fields of the record."""
WORDS = {
    "COLUMNS": ", ".join(f'"{name}"' for name in FIELDS),
    "ALIVE": "state IN ('scheduled', 'queued', 'running', 'retrying')",
    "READABLE": f"v <= {RECORD_VERSION}",  # false for a row that a newer release wrote
    "NEWER": f"v > {RECORD_VERSION}",
    "HELD": "(reason IS 'limited' AND held_by IS NOT NULL)",  # of a queued job: it waits for a limit
    "PASSED": "reason IS NULL AND held_by IS NOT NULL",  # of a queued job: it has waited for a limit
    "SCHEMA": str(SCHEMA),
    "STATES": ", ".join(f"'{state.value}'" for state in JobState),
}
"""Texts that replace names such as `@ALIVE` in statements. The statements that create indexes use the same texts,
because SQLite uses a partial index only for a statement that repeats the condition of the index."""

DOCUMENTS = """
    CREATE TABLE @documents (
        kind TEXT NOT NULL, name TEXT NOT NULL, rev TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, name)
    ) WITHOUT ROWID"""
HISTORY = """
    CREATE TABLE @history (
        step INTEGER NOT NULL, at INTEGER NOT NULL, queue TEXT NOT NULL, task TEXT NOT NULL, name TEXT NOT NULL,
        n INTEGER NOT NULL, PRIMARY KEY (step, at, queue, task, name)
    ) WITHOUT ROWID"""
"""The numbers of the history: `step` is the length of the interval in seconds, and `at` is its start."""
KEPT = """
    CREATE TABLE @kept (
        task TEXT NOT NULL, key TEXT NOT NULL, id TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (task, key)
    ) WITHOUT ROWID"""
"""The keys that ended jobs keep until a time."""
KEPT_UNTIL = "CREATE INDEX @kept_until ON @kept (until)"

COLUMN = """ALTER TABLE @jobs ADD COLUMN "tags" TEXT NOT NULL DEFAULT '[]'"""
LIMITS = (
    'ALTER TABLE @jobs ADD COLUMN "limit_key" TEXT',
    'ALTER TABLE @jobs ADD COLUMN "slots" TEXT',
    'ALTER TABLE @jobs ADD COLUMN "held_by" TEXT',
    "CREATE TABLE @rates (name TEXT PRIMARY KEY, full_at REAL NOT NULL) WITHOUT ROWID",
)
"""The columns and the table of limits. `rates` has `LimitState.full_at` of each limit with a rate."""
FOLLOW_UPS = (
    'ALTER TABLE @jobs ADD COLUMN "links" TEXT',
    'ALTER TABLE @jobs ADD COLUMN "waits_for" INTEGER NOT NULL DEFAULT 0',
    'ALTER TABLE @jobs ADD COLUMN "released" INTEGER NOT NULL DEFAULT 0',
)
"""These columns are added to new tables too, so that migrated tables are the same."""
TAGS = """
    CREATE TABLE @tags (
        tag TEXT NOT NULL, state TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (tag, state, seq)
    ) WITHOUT ROWID"""
"""The jobs by tag and state. `Writing` writes it, because a trigger would cost time for each job without tags, too.
Only the deletion of a job is left to a trigger, because another job may get the same seq later."""

TABLES = (
    """
    CREATE TABLE @jobs (
        seq INTEGER PRIMARY KEY,
        "id" TEXT NOT NULL UNIQUE, "task" TEXT NOT NULL, "queue" TEXT NOT NULL, "state" TEXT NOT NULL,
        "priority" INTEGER NOT NULL DEFAULT 0, "group" TEXT, "key" TEXT,
        "rev" TEXT NOT NULL DEFAULT '', "life" INTEGER NOT NULL DEFAULT 1, "attempts" INTEGER NOT NULL DEFAULT 0,
        "failures" INTEGER NOT NULL DEFAULT 0, "crashes" INTEGER NOT NULL DEFAULT 0,
        "token" TEXT, "wake_at" REAL, "sent" INTEGER NOT NULL DEFAULT 0, "sent_at" REAL,
        "sends" INTEGER NOT NULL DEFAULT 0, "cancel_requested" INTEGER NOT NULL DEFAULT 0,
        "cancel_interrupts" INTEGER NOT NULL DEFAULT 1, "interrupted" INTEGER NOT NULL DEFAULT 0,
        "buried" INTEGER NOT NULL DEFAULT 0,
        "enqueued_at" REAL NOT NULL DEFAULT 0.0, "queued_at" REAL, "run_at" REAL, "expires_at" REAL,
        "started_at" REAL, "finished_at" REAL, "unknown_since" REAL,
        "worker" TEXT, "reason" TEXT, "v" INTEGER NOT NULL,
        "headers" TEXT NOT NULL DEFAULT '{}', "options" TEXT NOT NULL DEFAULT '{}',
        "defaults" TEXT NOT NULL DEFAULT '{}', "progress" TEXT, "errors" TEXT NOT NULL DEFAULT '[]',
        error TEXT,       -- the type of the newest error
        error_name TEXT,  -- the names in `newest_error`; in older rows, the class without its module
        "payload" BLOB NOT NULL,
        "result" BLOB,
        "key_until" REAL
    )""",
    COLUMN,
    *FOLLOW_UPS,
    *LIMITS,
    """
    CREATE TABLE @counts (
        state TEXT NOT NULL, queue TEXT NOT NULL, task TEXT NOT NULL, priority INTEGER NOT NULL, n INTEGER NOT NULL,
        PRIMARY KEY (state, queue, task, priority)
    ) WITHOUT ROWID""",
    "CREATE TABLE @meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO @meta (name, value) VALUES ('schema', @SCHEMA), ('processed', 0), ('failed', 0)",
    """
    CREATE TABLE @workers (
        name TEXT PRIMARY KEY, queues TEXT NOT NULL, tasks TEXT NOT NULL, heartbeat_at REAL NOT NULL,
        until REAL NOT NULL
    ) WITHOUT ROWID""",
    # Rows that could not be read. `record` contains all columns as JSON, blobs in hexadecimal.
    "CREATE TABLE @aside (seq INTEGER PRIMARY KEY, id TEXT, reason TEXT NOT NULL, at REAL NOT NULL, record TEXT)",
    DOCUMENTS,
    HISTORY,
    KEPT,
    TAGS,
)
SENT = """
    CREATE INDEX @sent ON @jobs (queue, priority, sent_at)
    WHERE state = 'queued' AND sent = 1 AND sent_at IS NOT NULL"""
READY = """
    CREATE INDEX @ready ON @jobs (queue, task, priority, queued_at, seq, expires_at, unknown_since, v)
    WHERE state = 'queued' AND NOT @HELD"""
LIMITED = (
    READY,
    "CREATE INDEX @held ON @jobs (held_by, priority DESC, queued_at, seq) WHERE state = 'queued' AND @HELD",
    "CREATE INDEX @held_queued ON @jobs (queue, task, priority, queued_at) WHERE state = 'queued' AND @HELD",
    "CREATE INDEX @passed ON @jobs (held_by) WHERE state = 'queued' AND @PASSED",
    "CREATE INDEX @slots ON @jobs (slots) WHERE state = 'running' AND slots IS NOT NULL",
)
"""The indexes of limits. Except for `ready`, they contain only jobs that a limit concerns."""
KEYED = "CREATE INDEX @keyed ON @jobs (key, seq) WHERE key IS NOT NULL"
INDEXES = (
    "CREATE UNIQUE INDEX @key ON @jobs (task, key) WHERE key IS NOT NULL AND @ALIVE",
    "CREATE INDEX @due ON @jobs (wake_at) WHERE wake_at IS NOT NULL",
    *LIMITED,
    SENT,
    "CREATE INDEX @listed ON @jobs (state, queue, task, seq, finished_at)",
    """
    CREATE INDEX @errors ON @jobs (state, queue, task, error_name, seq, error, finished_at)
    WHERE error_name IS NOT NULL""",
    "CREATE INDEX @newer ON @jobs (v) WHERE @NEWER",
    KEPT_UNTIL,
    KEYED,
)
_UP = """INSERT INTO @counts (state, queue, task, priority, n) VALUES (new.state, new.queue, new.task, new.priority, 1)
    ON CONFLICT DO UPDATE SET n = n + 1;"""
_DOWN = """UPDATE @counts SET n = n - 1
    WHERE state = old.state AND queue = old.queue AND task = old.task AND priority = old.priority;"""
TRIGGERS = (
    f"CREATE TRIGGER @come AFTER INSERT ON @jobs BEGIN {_UP} END",
    f"CREATE TRIGGER @go AFTER DELETE ON @jobs BEGIN {_DOWN} END",
    f"""
    CREATE TRIGGER @move AFTER UPDATE OF state, queue, task, priority ON @jobs
    WHEN (old.state, old.queue, old.task, old.priority) <> (new.state, new.queue, new.task, new.priority)
    BEGIN {_DOWN} {_UP} END""",
)
UNTAG = """
    CREATE TRIGGER @untag AFTER DELETE ON @jobs WHEN old.tags <> '[]' BEGIN
        DELETE FROM @tags WHERE state IN (@STATES) AND seq = old.seq
        AND tag IN (SELECT value FROM json_each(CASE WHEN json_valid(old.tags) THEN old.tags ELSE '[]' END));
    END"""
CREATE = (*TABLES, *INDEXES, *TRIGGERS, UNTAG)

MIGRATIONS: Mapping[int, Sequence[str]] = {
    1: ("DROP INDEX @sent", SENT),
    2: (DOCUMENTS, HISTORY),
    3: ('ALTER TABLE @jobs ADD COLUMN "key_until" REAL', KEPT, KEPT_UNTIL, KEYED, COLUMN, TAGS, UNTAG),
    4: FOLLOW_UPS,
    5: (*LIMITS, "DROP INDEX @ready", *LIMITED),
}
"""For each older version, the statements that migrate tables of this version to the next version. A statement may add
columns and tables but must not remove any, because processes of the previous release may still use the tables."""


class Tables(sqlite3.Connection):
    """A connection for one namespace. Its own methods replace names such as `@jobs` in statements, unlike `execute`."""

    text_factory: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.namespace = ""
        self.has_log = False
        """Whether the database has a write-ahead log."""
        self.interval: tuple[int, int] = (0, 0)
        self.pairs: set[tuple[str, str]] = set()
        """Pairs of queue and task that the history counts separately in the interval `interval`."""
        self._named: dict[str, str] = {}

    def name_of(self, table: str) -> str:
        """The name that a table such as `aside` has in the file. The namespace is part of this name."""
        return named(f"@{table}", self.namespace).strip('"')

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement and return all its rows. Texts that are not valid UTF-8 are returned as bytes.

        If there is such a text, the statement is run again. A statement that writes must therefore return no texts.
        """
        try:
            return self.cursor_of(statement, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if hasattr(error, "sqlite_errorcode"):  # an error of SQLite, not of the decoder
                raise
        return self.rows_with_bytes(statement, parameters)

    def rows_with_bytes(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Like `rows`, but also for a statement that writes and returns texts. Takes longer than `rows`."""
        self.text_factory = _text
        try:
            return self.cursor_of(statement, parameters).fetchall()
        finally:
            self.text_factory = str

    def cursor_of(self, statement: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement and return a cursor for its rows. Reading a row with a text that is not UTF-8 fails."""
        return self.execute(self._text(statement), parameters)

    def count_of(self, statement: str, parameters: Sequence[Sequence[Any]]) -> int:
        """Run a statement once for each row of parameters. Returns the number of rows that were changed in all."""
        return self.executemany(self._text(statement), parameters).rowcount

    def _text(self, statement: str) -> str:
        text = self._named.get(statement)
        if text is None:
            text = self._named[statement] = named(statement, self.namespace)
        return text


def _text(raw: bytes) -> str | bytes:
    """Decode a text. If it is not valid UTF-8, return the bytes, so that only its own record cannot be read."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def named(statement: str, namespace: str) -> str:
    """Replace each `@name` in a statement, for one namespace. A capital letter such as `X` in the namespace becomes
    `$x`, because SQLite ignores case in names: the namespaces `X` and `x` would otherwise share their tables.
    """
    prefix = re.sub("[A-Z]", lambda match: "$" + match[0].lower(), namespace)
    return re.sub(r"@(\w+)", lambda match: WORDS.get(match[1], f'"{prefix}_{match[1]}"'), statement)


def prepare(db: sqlite3.Connection, namespace: str, path: str) -> None:
    """Create or migrate the tables, if necessary. Raises sqlite3.Error, and BackendUnavailable if they are too new."""
    if _version(db, namespace) == SCHEMA:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, namespace)  # read again: another process may have created or migrated the tables
        if version > SCHEMA:
            raise BackendUnavailable(
                f"the tables {namespace!r} in the SQLite database {path} have version {version}, and this queueport "
                f"knows versions up to {SCHEMA}: upgrade queueport"
            )
        if version == 0:
            steps: Sequence[str] = CREATE
        else:
            steps = [step for known in range(version, SCHEMA) for step in MIGRATIONS[known]]
        for step in steps:
            db.execute(named(step, namespace))
        db.execute(named("UPDATE @meta SET value = ? WHERE name = 'schema'", namespace), (SCHEMA,))
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _version(db: sqlite3.Connection, namespace: str) -> int:
    """The version of the tables; 0 if there are none."""
    table = named("@meta", namespace).strip('"')
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone() is None:
        return 0
    row = db.execute(named("SELECT value FROM @meta WHERE name = 'schema'", namespace)).fetchone()
    return int(row[0])

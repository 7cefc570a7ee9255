"""The tables of the SQLite store, their version and how an older one is brought up to date. For readers of the store.

In a statement `@jobs` is the namespace's table or index of that name, and `@LIVING` a phrase of WORDS. The counts are
kept by triggers, so that they are right whoever changes a row.
"""

from __future__ import annotations

import dataclasses
import re
import sqlite3
from collections.abc import Mapping, Sequence

from queueport.errors import BackendUnavailable
from queueport.record import RECORD_VERSION, Record

__all__ = ["FIELDS", "SCHEMA", "named", "prepare"]

SCHEMA = 1
"""Raised with each change below; the change itself also goes into MIGRATIONS."""

FIELDS = ("seq", *(field.name for field in dataclasses.fields(Record)))
"""What is read of a row: the number of its insertion, then the record."""
WORDS = {
    "COLUMNS": ", ".join(f'"{name}"' for name in FIELDS),
    "LIVING": "state IN ('scheduled', 'queued', 'running', 'retrying')",
    "READABLE": f"v <= {RECORD_VERSION}",  # leaves out the records of a newer queueport
    "NEWER": f"v > {RECORD_VERSION}",
    "SCHEMA": str(SCHEMA),
}
"""Written once, for SQLite uses a partial index only where the statement has the very words of the index."""

TABLES = (
    """
    CREATE TABLE @jobs (
        seq INTEGER PRIMARY KEY,
        "id" TEXT NOT NULL UNIQUE,
        "task" TEXT NOT NULL,
        "queue" TEXT NOT NULL,
        "state" TEXT NOT NULL,
        "priority" INTEGER NOT NULL DEFAULT 0,
        "group" TEXT,
        "key" TEXT,
        "rev" TEXT NOT NULL DEFAULT '',
        "life" INTEGER NOT NULL DEFAULT 1,
        "attempts" INTEGER NOT NULL DEFAULT 0,
        "failures" INTEGER NOT NULL DEFAULT 0,
        "crashes" INTEGER NOT NULL DEFAULT 0,
        "token" TEXT,
        "wake_at" REAL,
        "sent" INTEGER NOT NULL DEFAULT 0,
        "sent_at" REAL,
        "sends" INTEGER NOT NULL DEFAULT 0,
        "cancel_requested" INTEGER NOT NULL DEFAULT 0,
        "cancel_interrupts" INTEGER NOT NULL DEFAULT 1,
        "interrupted" INTEGER NOT NULL DEFAULT 0,
        "buried" INTEGER NOT NULL DEFAULT 0,
        "enqueued_at" REAL NOT NULL DEFAULT 0.0,
        "queued_at" REAL,
        "run_at" REAL,
        "expires_at" REAL,
        "started_at" REAL,
        "finished_at" REAL,
        "unknown_since" REAL,
        "worker" TEXT,
        "reason" TEXT,
        "v" INTEGER NOT NULL,
        "headers" TEXT NOT NULL DEFAULT '{}',
        "options" TEXT NOT NULL DEFAULT '{}',
        "defaults" TEXT NOT NULL DEFAULT '{}',
        "progress" TEXT,
        "errors" TEXT NOT NULL DEFAULT '[]',
        error TEXT,       -- type of the newest error
        error_name TEXT,  -- the same without its module
        "payload" BLOB NOT NULL,
        "result" BLOB
    )""",
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
    # Records that could not be read: `record` has every column as JSON, blobs in hexadecimal.
    "CREATE TABLE @aside (seq INTEGER PRIMARY KEY, id TEXT, reason TEXT NOT NULL, at REAL NOT NULL, record TEXT)",
)
INDEXES = (
    "CREATE UNIQUE INDEX @key ON @jobs (task, key) WHERE key IS NOT NULL AND @LIVING",
    "CREATE INDEX @due ON @jobs (wake_at) WHERE wake_at IS NOT NULL",
    """
    CREATE INDEX @ready ON @jobs (queue, task, priority, queued_at, seq, expires_at, unknown_since, v)
    WHERE state = 'queued'""",
    "CREATE INDEX @sent ON @jobs (queue, priority, sent_at) WHERE state = 'queued' AND sent = 1",
    "CREATE INDEX @listed ON @jobs (state, queue, task, seq, finished_at)",
    """
    CREATE INDEX @errors ON @jobs (state, queue, task, error_name, seq, error, finished_at)
    WHERE error_name IS NOT NULL""",
    "CREATE INDEX @newer ON @jobs (v) WHERE @NEWER",
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
CREATE = TABLES + INDEXES + TRIGGERS

MIGRATIONS: Mapping[int, Sequence[str]] = {}
"""From each version, the statements that lead to the next. A process of the release before may still be at work on the
tables, so they may add, and may not take away."""


def named(statement: str, namespace: str) -> str:
    """The statement for one namespace. SQLite sees no difference of case, so a capital is written `$x`."""
    prefix = re.sub("[A-Z]", lambda match: "$" + match[0].lower(), namespace)
    return re.sub(r"@(\w+)", lambda match: WORDS.get(match[1], f'"{prefix}_{match[1]}"'), statement)


def prepare(db: sqlite3.Connection, namespace: str, path: str) -> None:
    """Create the tables, or bring them up to date. Raises BackendUnavailable where they are of a newer version."""
    if _version(db, namespace) == SCHEMA:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, namespace)  # another process may have been at it
        if version > SCHEMA:
            raise BackendUnavailable(
                f"the tables {namespace!r} in the SQLite database {path} are of version {version}, and this queueport "
                f"knows versions up to {SCHEMA}: upgrade it"
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
    """The version of the tables; 0 where there are none."""
    table = named("@meta", namespace).strip('"')
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone() is None:
        return 0
    row = db.execute(named("SELECT value FROM @meta WHERE name = 'schema'", namespace)).fetchone()
    return int(row[0])

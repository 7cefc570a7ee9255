"""The SQLite store: one file, many threads and processes, nothing to install. For those who run it or change it.

Every verb that writes is one transaction that has the database for itself; the clock is read inside it, so that times
are in the order of the transactions. Idle callers only read: they look whether there is something to do before they
ask for the lock. A job whose row cannot be read is moved into a table of its own when a verb meets it, with a warning.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import ConfigurationError
from queueport.record import Change, CorruptRecord, Record
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import Beat, Begin, ClaimingStore, Insert, Query, StoreStats, Swap, Written
from queueport.stores import LIMITS, sqlite_listing
from queueport.stores.sqlite_connection import Database, Tables
from queueport.stores.sqlite_health import warnings
from queueport.stores.sqlite_rows import aside, record, records, row_of
from queueport.stores.sqlite_writing import Writing
from queueport.url import BackendURL

__all__ = ["SqliteOptions", "SqliteStore"]

log: logging.Logger = logging.getLogger(__name__)

OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING."""
GLANCE = 0.015
"""Seconds between two looks whether another process or thread has changed something; a look costs microseconds."""


class SqliteOptions(BaseModel):
    """The options of `sqlite:///` URLs."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    synchronous: Literal["normal", "full"] = Field(
        "normal", description="full: what was accepted outlives a power cut too, at a quarter of the speed"
    )


class SqliteStore(ClaimingStore):
    """Records in one SQLite file, in tables whose names begin with the namespace."""

    limits = LIMITS
    settings: ClassVar[type[Any] | None] = SqliteOptions
    poll: float = 0.1

    def __init__(
        self,
        path: str | Path,
        *,
        namespace: str = "queueport",
        call_timeout: float = 5.0,
        synchronous: Literal["normal", "full"] = "normal",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            needed = ".".join(map(str, OLDEST_SQLITE[:2]))
            raise ConfigurationError(
                f"this Python has SQLite {sqlite3.sqlite_version}, the SQLite store needs {needed}: use a newer Python"
            )
        self.database: Database = Database(
            str(Path(path).absolute()), namespace=namespace, call_timeout=call_timeout, synchronous=synchronous
        )
        self._clock = clock
        self._seen = threading.local()
        self._newer_told = False

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        host, slash, _ = url.text.partition("://")[2].partition("/")
        if host or not slash or url.path in ("", ":memory:") or "\0" in url.path:
            raise ConfigurationError(
                f"{url} names no file: write 'sqlite:///jobs.db', 'sqlite:////var/lib/jobs.db' (an absolute path) or, "
                "for no file at all, 'memory://'"
            )
        options = url.settings(SqliteOptions)
        return cls(url.path, namespace=namespace, call_timeout=call_timeout, synchronous=options.synchronous)

    def insert(self, inserts: Sequence[Insert]) -> Sequence[Written]:
        with self._writing() as writing:
            return [writing.insert(insert) for insert in inserts]

    def swap(self, swaps: Sequence[Swap]) -> Sequence[Written]:
        with self._writing() as writing:
            return [writing.swap(swap) for swap in swaps]

    def begin(self, begins: Sequence[Begin]) -> Sequence[Written]:
        with self._writing() as writing:
            return [writing.begin(begin) for begin in begins]

    def heartbeat(self, beats: Sequence[Beat]) -> Sequence[Written]:
        with self._writing() as writing:
            return [writing.beat(beat) for beat in beats]

    @contextmanager
    def _writing(self) -> Iterator[Writing]:
        with self.database.write() as tables:
            writing = Writing(tables, self._clock())
            yield writing
            writing.close()

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        with self.database.read() as tables:
            self._tell_newer(tables)
            if not sqlite_listing.due(tables, self._clock(), 1, leases=leases):
                return []
        with self._writing() as writing:
            due = sqlite_listing.due(writing.tables, writing.now, limit, leases=leases)
            return [job for seq in due if (job := writing.claim(seq, claim, rev)) is not None]

    def _tell_newer(self, tables: Tables) -> None:
        if self._newer_told:
            return
        for job_id, version in tables.rows("SELECT id, v FROM @jobs WHERE @NEWER LIMIT 1"):
            self._newer_told = True
            log.warning("job %s has version %s, of a newer queueport: such jobs are left alone here", job_id, version)

    def take(self, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str) -> Sequence[Record]:
        with self.database.read() as tables:
            if not sqlite_listing.queued(tables, queues, changes):
                return []
        with self._writing() as writing:
            lines = sqlite_listing.queued(writing.tables, queues, changes)
            ready = sqlite_listing.ready(writing.tables, lines, writing.now, limit)
            return [job for seq, task in ready if (job := writing.take(seq, changes[task], rev)) is not None]

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        with self.database.read() as tables:
            rows = [row_of(tables, job_id) for job_id in ids]
        return [None if row is None else _checked(row) for row in rows]

    def find(self, query: Query) -> Sequence[Record]:
        return self._found(lambda tables: sqlite_listing.find(tables, query))

    def count(self, query: Query) -> int:
        with self.database.read() as tables:
            return sqlite_listing.count(tables, query)

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        return self._found(lambda tables: sqlite_listing.unreceived(tables, queue, priority, sent_before, limit))

    def overflow(self, state: JobState, keep: int, limit: int) -> Sequence[Record]:
        return self._found(lambda tables: sqlite_listing.overflow(tables, state, keep, limit))

    def unknown(self, queues: Sequence[str], tasks: Collection[str], limit: int) -> Sequence[Record]:
        return self._found(lambda tables: sqlite_listing.unnoticed(tables, queues, tasks, limit))

    def _found(self, search: Callable[[Tables], list[Any]]) -> list[Record]:
        """The records of a search. Rows that cannot be read are put aside, and then it is searched again."""
        with self.database.read() as tables:
            found, damaged = records(search(tables))
        if damaged:
            with self.database.write() as tables:
                moved = [aside(tables, seq, self._clock()) for seq in damaged]
            if any(moved):
                return self._found(search)
        return found

    def stats(self) -> StoreStats:
        with self.database.read() as tables:
            return sqlite_listing.stats(tables, self._clock())

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        queues, tasks = json.dumps(worker.queues), json.dumps(worker.tasks)
        with self.database.write() as tables:
            now = self._clock()
            tables.rows(
                "INSERT OR REPLACE INTO @workers (name, queues, tasks, heartbeat_at, until) VALUES (?, ?, ?, ?, ?)",
                (worker.name, queues, tasks, now, now + ttl),
            )
            tables.rows("DELETE FROM @workers WHERE until <= ?", (now,))

    def workers(self) -> Sequence[WorkerStats]:
        statement = "SELECT name, queues, tasks, heartbeat_at FROM @workers WHERE until > ? ORDER BY name"
        with self.database.read() as tables:
            rows = tables.rows(statement, (self._clock(),))
        return [
            WorkerStats(name, tuple(json.loads(queues)), tuple(json.loads(tasks)), datetime.fromtimestamp(heard, UTC))
            for name, queues, tasks, heard in rows
        ]

    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        wanted = list(ids)
        deadline = time.monotonic() + timeout
        seen = None
        while True:
            with self.database.read() as tables:
                version = _version(tables)
                rows = sqlite_listing.ended(tables, wanted) if version != seen else []
            found, _ = records(rows)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            seen = version
            time.sleep(min(GLANCE, left))

    def wait_for_work(self, queues: Sequence[str], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            with self.database.read() as tables:
                version = _version(tables)
            left = deadline - time.monotonic()
            if version != getattr(self._seen, "version", None) or left <= 0:
                self._seen.version = version
                return
            time.sleep(min(GLANCE, left))

    def now(self) -> float:
        return self._clock()

    def setup(self) -> None:
        with self.database.write():
            pass  # connecting makes the tables

    def check(self) -> Sequence[str]:
        self.setup()
        with self.database.read() as tables:
            return warnings(tables, Path(self.database.path))

    def close(self) -> None:
        self.database.close()


def _version(tables: Tables) -> int:
    """Another number after every commit, of whatever process or thread."""
    version: int = tables.execute("PRAGMA data_version").fetchone()[0]
    return version


def _checked(row: Sequence[Any]) -> Record:
    try:
        return record(row)
    except CorruptRecord as error:
        raise CorruptRecord(f"job {row[1]!r} is damaged: {error}") from None

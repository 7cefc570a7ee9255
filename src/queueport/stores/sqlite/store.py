"""The SQLite store: one file for many threads and processes of one machine. For those who operate or change it.

Each verb makes its writes in one transaction with the write lock. The clock is read inside the transaction, so that
times are in the order of the transactions. `claim_due` and `take` first search without the write lock, so that idle
callers do not take this lock. `take` omits this search if the previous `take` found as many jobs as its limit, because
more jobs then probably wait. A verb that finds a damaged row moves the row into the table `aside` and logs a warning,
except `get` and `wait`. A damaged row that a newer release wrote stays in the table of jobs.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.history import HistoryCounts, HistoryQuery
from queueport.spi.record import Change, Record
from queueport.spi.settings import options
from queueport.spi.storage import document_text, readable_workers, reading, worker_stats
from queueport.spi.store import (
    LOOKED_AT,
    LOST_KEPT,
    Begin,
    ClaimingStore,
    Document,
    HeldJobs,
    Insert,
    LeaseRenewal,
    Query,
    StoreStats,
    Swap,
    TakeLimits,
    WriteResult,
)
from queueport.spi.url import BackendURL
from queueport.stats import WorkerStats
from queueport.stores import LIMITS
from queueport.stores.sqlite import history, listing
from queueport.stores.sqlite import limits as limited
from queueport.stores.sqlite.connection import Database
from queueport.stores.sqlite.health import try_to_insert, warnings
from queueport.stores.sqlite.listing import Candidate
from queueport.stores.sqlite.records import (
    REV_OF,
    NotAll,
    Writing,
    documents,
    put_aside,
    put_document_aside,
    record,
    records,
    row_of,
)
from queueport.stores.sqlite.schema import Tables

__all__ = ["SqliteOptions", "SqliteStore"]

log: logging.Logger = logging.getLogger(__name__)

OLDEST_SQLITE = (3, 35, 0)
"""The oldest supported version of SQLite. Older versions lack RETURNING."""
SCANNED = 2000
"""The number of jobs whose arguments one transaction searches for a text."""
PAUSES = (0.001, 0.004)
"""The minimum and maximum seconds between two checks for changes by other processes or threads. On average, a worker
starts a job half of this time after the job was queued. Its checks use 3 % of a processor at the minimum, and 1 % at
the maximum.
"""
IDLE, LONG_WAIT = 40.0, 0.4
"""The time between two checks grows, and reaches the maximum when a worker has had no job for IDLE seconds, or when a
caller has waited LONG_WAIT seconds for the end of a job.
"""


class SqliteOptions(BaseModel):
    """The options in URLs of the SQLite store."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    synchronous: Literal["normal", "full"] = Field(
        "normal", description="full: accepted jobs survive even a power failure, but calls take four times as long"
    )


class SqliteStore(ClaimingStore):
    """Keeps records in one SQLite file, in tables whose names begin with the namespace."""

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
                f"this Python has SQLite {sqlite3.sqlite_version}, and the SQLite store needs {needed} or newer: use a "
                "Python with a newer SQLite"
            )
        self.database: Database = Database(
            _absolute(path), namespace=namespace, call_timeout=call_timeout, synchronous=synchronous
        )
        self._clock = clock
        self._seen = threading.local()
        self._taken_at = time.monotonic()
        self._newer_logged = False
        self._more_waits = False
        """True if the previous `take` found as many jobs as its limit."""

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        host, slash, _ = url.text.partition("://")[2].partition("/")
        if host or not slash or url.path in ("", ":memory:"):
            raise ConfigurationError(
                f"{url} does not name a file: write 'sqlite:///jobs.db', or with an absolute path "
                "'sqlite:////var/lib/jobs.db', or 'memory://' for no file at all"
            )
        return cls(
            url.path,
            namespace=namespace,
            call_timeout=call_timeout,
            synchronous=options(url, SqliteOptions).synchronous,
        )

    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        if len(inserts) > 1:
            with suppress(NotAll):
                return self._insert(inserts, lambda writing: writing.insert_all(inserts))
        return self._insert(inserts, lambda writing: [writing.insert(insert) for insert in inserts])

    def _insert(
        self, inserts: Sequence[Insert], insert: Callable[[Writing], Sequence[WriteResult]]
    ) -> Sequence[WriteResult]:
        done = False
        try:
            with self.database.write() as tables:
                writing = Writing(tables, self._clock())
                written = insert(writing)
                writing.close()
                done = True
        except BackendUnavailable as error:
            if not done:  # the commit was not reached, so nothing was inserted
                error.rejected = tuple(one.record.id for one in inserts)
            raise
        return written

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        if len(swaps) > 1:
            with suppress(NotAll), self._writing() as writing:
                return writing.swap_all(swaps)
        with self._writing() as writing:
            return [writing.swap(swap) for swap in swaps]

    def begin(self, begins: Sequence[Begin]) -> Sequence[WriteResult]:
        with self._writing() as writing:
            return [writing.begin(begin) for begin in begins]

    def heartbeat(self, beats: Sequence[LeaseRenewal]) -> Sequence[WriteResult]:
        with self._writing() as writing:
            return [writing.heartbeat(beat) for beat in beats]

    @contextmanager
    def _writing(self) -> Iterator[Writing]:
        with self.database.write() as tables:
            writing = Writing(tables, self._clock())
            yield writing
            writing.close()

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        with self.database.read() as tables:
            self._log_newer(tables)
            if not listing.due(tables, self._clock(), 1, leases=leases):
                return []
        with self._writing() as writing:
            due = listing.due(writing.tables, writing.now, limit, leases=leases)
            claimed = writing.change_rows(due, Change(stamp={"wake_at": claim}), rev)
        return [claimed[seq] for seq in due if seq in claimed]

    def _log_newer(self, tables: Tables) -> None:
        if self._newer_logged:
            return
        for job_id, version in tables.rows("SELECT id, v FROM @jobs WHERE @NEWER LIMIT 1"):
            self._newer_logged = True
            log.warning(
                "a newer release wrote job %s (version %s): this release does not run such jobs; upgrade queueport",
                job_id,
                version,
            )

    def take(
        self,
        queues: Sequence[str],
        changes: Mapping[str, Change],
        limit: int,
        rev: str,
        limits: TakeLimits | None = None,
    ) -> Sequence[Record]:
        if not self._more_waits:
            with self.database.read() as tables:
                waiting = listing.queued(tables, queues, changes)
                if limits is not None and waiting:  # the jobs that wait may be held
                    waiting = waiting if listing.ready(tables, waiting, self._clock(), 1) else []
                if not waiting:
                    return []
        with self._writing() as writing:
            buckets = listing.queued(writing.tables, queues, changes)
            more = 0 if limits is None else LOOKED_AT
            ready = listing.ready(writing.tables, buckets, writing.now, limit + more)
            begun: dict[int, Record] = {}
            if limits is not None:

                def begin(job: Candidate) -> Begin | None:
                    _, job_id, task, queue = job
                    own = limits.of(queue, task)
                    return Begin(job_id, task, changes[task], rev, queue, own, limits.hold) if own else None

                ready, begun = self._admitted(writing, ready, limit, begin)
            self._more_waits = len(ready) == limit
            for task in {task for _, _, task, _ in ready}:
                found = [seq for seq, _, its_task, _ in ready if its_task == task and seq not in begun]
                if found:
                    begun |= writing.change_rows(found, changes[task], rev, starts=True)
        self._taken_at = time.monotonic() if begun else self._taken_at
        return [begun[seq] for seq, *_ in ready if seq in begun]

    @staticmethod
    def _admitted(
        writing: Writing, ready: Sequence[Candidate], limit: int, begin: Callable[[Candidate], Begin | None]
    ) -> tuple[list[Candidate], dict[int, Record]]:
        """At most `limit` of the jobs that may begin. Begins or holds those for which `begin` returns a Begin.

        Also returns the records of those that have begun.
        """
        admitted, begun = list[Candidate](), dict[int, Record]()
        for job in ready:
            if len(admitted) == limit:
                break
            item = begin(job)
            if item is not None:
                written = writing.begin(item)
                if not written.applied or written.record is None:
                    continue
                begun[job[0]] = written.record
            admitted.append(job)
        return admitted, begun

    def held(self, names: Sequence[str] | None, limit: int, after: str = "") -> Sequence[HeldJobs]:
        with self.database.read() as tables:
            some = limited.names_of(tables, names, after)
            states = [limited.limit_state(tables, name) for name in some]
        now = self._clock()
        return [
            HeldJobs(name, state, self._found(partial(limited.held, name=name, limit=limit)), now)
            for name, state in zip(some, states, strict=True)
        ]

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        with self.database.read() as tables:
            rows = [row_of(tables, job_id) for job_id in ids]
        return [None if row is None else _checked(row) for row in rows]

    def find(self, query: Query) -> Sequence[Record]:
        if query.text is None:
            return self._found(lambda tables: listing.find(tables, query))
        found: list[Record] = []
        for page in self._containing(query, query.text):
            found += self._found(partial(listing.rows_of, found=page[: query.limit - len(found)]))
            if len(found) >= query.limit:
                break
        return found

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        with self.database.read() as tables:
            return listing.ids(tables, prefix, limit)

    def count(self, query: Query) -> int:
        return self.count_within(query, math.inf)[0]

    def count_within(self, query: Query, seconds: float) -> tuple[int, bool]:
        if query.text is None:
            with self.database.read() as tables:
                return listing.count(tables, query), True
        end, number = time.monotonic() + seconds, 0
        for page in self._containing(replace(query, after=None), query.text):
            number += len(page)
            if time.monotonic() >= end:
                return number, False
        return number, True

    def _containing(self, query: Query, text: str) -> Iterator[list[int]]:
        """The seqs of the rows that match the query and contain the text, page by page.

        A page has a transaction of its own, so that a search through many jobs does not block other threads.
        """
        with self.database.read() as tables:
            end = listing.place(tables, query)
        while end:
            with self.database.read() as tables:
                checked = listing.numbers(tables, query, end, SCANNED)
                found = listing.containing(tables, checked, text)
            yield found
            end = checked[-1] if len(checked) == SCANNED else 0

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        return self._found(lambda tables: listing.unreceived(tables, queue, priority, sent_before, limit))

    def overflow(self, query: Query, keep: int, limit: int) -> Sequence[Record]:
        return self._found(lambda tables: listing.overflow(tables, query, keep, limit))

    def unknown(self, queues: Sequence[str], tasks: Collection[str], limit: int) -> Sequence[Record]:
        return self._found(lambda tables: listing.unnoticed(tables, queues, tasks, limit))

    def _found(self, search: Callable[[Tables], list[Any]]) -> list[Record]:
        """Run a search, and return the records that can be read. Puts damaged rows aside.

        If at least one was put aside, the search is run again, because it may find other rows instead.
        """
        with self.database.read() as tables:
            found, unreadable = records(search(tables))
        if unreadable:
            with self.database.write() as tables:
                moved = [put_aside(tables, seq, self._clock()) for seq in unreadable]
            if any(moved):
                return self._found(search)
        return found

    def stats(self) -> StoreStats:
        with self.database.read() as tables:
            return listing.stats(tables, self._clock())

    def history(self, query: HistoryQuery) -> Sequence[HistoryCounts]:
        with self.database.read() as tables:
            return history.find(tables, query)

    def fold_history(self) -> None:
        with self.database.read() as tables:
            if not any(history.ended(tables, self._clock())):
                return
        with self.database.write() as tables:
            history.fold(tables, self._clock())

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        queues, tasks = json.dumps(worker.queues), json.dumps(worker.tasks)
        with self.database.write() as tables:
            now = self._clock()
            tables.rows(
                "INSERT OR REPLACE INTO @workers (name, queues, tasks, heartbeat_at, until) VALUES (?, ?, ?, ?, ?)",
                (worker.name, queues, tasks, now, now + ttl),
            )
            removed = worker.name if ttl <= 0 else None
            tables.rows("DELETE FROM @workers WHERE until <= ? OR name = ?", (now - LOST_KEPT, removed))

    def workers(self, *, lost: bool = False) -> Sequence[WorkerStats]:
        statement = "SELECT name, queues, tasks, heartbeat_at FROM @workers WHERE (until <= ?) = ? ORDER BY name"
        with self.database.read() as tables:
            rows = tables.rows(statement, (self._clock(), lost))
        return readable_workers(rows, lambda row: worker_stats(row[0], json.loads(row[1]), json.loads(row[2]), row[3]))

    def documents(self, kind: str) -> Sequence[Document]:
        with self.database.read() as tables:
            found, unreadable = documents(tables, kind)
        if unreadable:
            with self.database.write() as tables:
                for name, reason in unreadable:
                    put_document_aside(tables, kind, name, reason, self._clock())
        return found

    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        key = document.kind, document.name
        with self._writing() as writing:
            rev = next((rev for (rev,) in writing.tables.rows(REV_OF, key)), None)
            if rev == expected:
                put = "INSERT OR REPLACE INTO @documents (kind, name, rev, value) VALUES (?, ?, ?, ?)"
                writing.tables.rows(put, (*key, document.rev, document_text(document.value)))
                if insert is not None:
                    writing.insert(insert)
        return rev in (expected, document.rev)

    def delete_document(self, kind: str, name: str, expected: str) -> bool:
        delete = "DELETE FROM @documents WHERE kind = ? AND name = ? AND rev = ?"
        with self.database.write() as tables:
            return tables.cursor_of(delete, (kind, name, expected)).rowcount > 0

    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        wanted, began = list(ids), time.monotonic()
        deadline = began + timeout
        seen = None
        while True:
            with self.database.read() as tables:
                version = _version(tables)
                rows = listing.ended(tables, wanted) if version != seen else []
            found, _ = records(rows)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            seen = version
            time.sleep(min(_pause(began, LONG_WAIT), left))

    def wait_for_work(self, queues: Sequence[str], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            with self.database.read() as tables:
                version = _version(tables)
            left = deadline - time.monotonic()
            if version != getattr(self._seen, "version", None) or left <= 0:
                self._seen.version = version
                return
            time.sleep(min(_pause(self._taken_at, IDLE), left))

    def now(self) -> float:
        return self._clock()

    def setup(self) -> None:
        with self.database.write():
            pass  # opening the connection has created the tables

    def check(self) -> Sequence[str]:
        with self.database.write() as tables:
            try_to_insert(tables)
        with self.database.read() as tables:
            return warnings(tables, Path(self.database.path))

    def close(self) -> None:
        self.database.close()


def _absolute(path: str | Path) -> str:
    """Make a path absolute, without I/O on the file. Raises ConfigurationError if the path cannot be made absolute."""
    try:
        os.fsencode(path)
        return str(Path(path).absolute())
    except UnicodeError as error:
        raise ConfigurationError(
            f"the name of the SQLite database {str(path)!a} has a character that no file name can have: choose another"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"the SQLite database {path} has a relative path, but the working directory was deleted: write an absolute "
            f"path, such as 'sqlite:////var/lib/{path}'"
        ) from error


def _pause(since: float, slowest_after: float) -> float:
    """Seconds until the next check for changes. The times are of the monotonic clock."""
    shortest, longest = PAUSES
    return min(max(shortest, longest * (time.monotonic() - since) / slowest_after), longest)


def _version(tables: Tables) -> int:
    """A number that changes when another connection, in this or another process, has committed a transaction."""
    version: int = tables.execute("PRAGMA data_version").fetchone()[0]
    return version


def _checked(row: Sequence[Any]) -> Record:
    with reading(row[1]):
        return record(row)

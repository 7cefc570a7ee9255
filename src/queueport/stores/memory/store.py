"""The memory store: the model with which the tests compare every other store. For authors of stores, and for tests.

One lock protects all data. Each call that opens `memory://` makes a new store. All calls that open `memory://name` with
the same namespace make stores that share their records. These records are kept until the process ends.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from heapq import merge
from itertools import islice
from typing import Any, ClassVar, Self

from queueport.errors import ConfigurationError
from queueport.spi import storage
from queueport.spi.history import HistoryCounts, HistoryQuery, events
from queueport.spi.record import Change, Record, Release
from queueport.spi.settings import NoOptions, options
from queueport.spi.storage import Tally, Verb, begun, matches, readable, startable
from queueport.spi.store import (
    LOOKED_AT,
    LOST_KEPT,
    MOST_LIMITS,
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
    WriteOutcome,
    WriteResult,
)
from queueport.spi.url import BackendURL
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.stores import LIMITS
from queueport.stores.memory.records import Records

__all__ = ["MemoryStore"]


class MemoryStore(ClaimingStore):
    """Keeps records in the memory of this process. After a fork, the child process has a copy of its own."""

    limits = LIMITS
    settings: ClassVar[type[Any] | None] = NoOptions
    shared = False
    poll: float = 0.05

    def __init__(self, records: Records | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.records: Records = Records() if records is None else records
        self._changed = self.records.changed
        self._clock = clock
        self._seen = threading.local()

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        options(url, NoOptions)
        name = url.text.partition("://")[2]
        if not re.fullmatch(r"[A-Za-z0-9_.-]*", name):
            raise ConfigurationError(
                f"{url} is not a memory store: write 'memory://', or 'memory://NAME' with letters, digits, _, - and ."
            )
        return cls(_named.setdefault((name, namespace), Records()) if name else None)

    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        with self._changed:
            now = self._clock()
            try:
                return [self._insert(one, now) for one in inserts]
            finally:
                self._changed.notify_all()

    def _insert(self, insert: Insert, now: float) -> WriteResult:
        written = self._write(insert.record.id, partial(storage.insert, insert), now)
        holder = written.record
        if insert.replace is None or written.outcome is not WriteOutcome.KEY_HELD or holder is None:
            return written
        change = storage.replacing(insert, holder)
        if change is None:
            return written
        changed = change.applied(holder, insert.rev, now)
        self._replace(holder, changed, change, now)
        if holder.state is JobState.RUNNING:
            return self._write(insert.record.id, partial(storage.insert, insert), now)
        return WriteResult(WriteOutcome.REPLACED, changed)

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        return self._write_all((one.id, partial(storage.swap, one)) for one in swaps)

    def begin(self, begins: Sequence[Begin]) -> Sequence[WriteResult]:
        limit = self.records.limit
        return self._write_all((one.id, partial(storage.begin, one, state_of=limit)) for one in begins)

    def heartbeat(self, beats: Sequence[LeaseRenewal]) -> Sequence[WriteResult]:
        return self._write_all((one.id, partial(storage.renew, one)) for one in beats)

    def _write_all(self, writes: Iterable[tuple[str, Verb]]) -> list[WriteResult]:
        with self._changed:
            now = self._clock()
            try:
                return [self._write(job_id, verb, now) for job_id, verb in writes]
            finally:
                self._changed.notify_all()

    def _write(self, job_id: str, verb: Verb, now: float) -> WriteResult:
        found = self.records.get(job_id)
        made = verb(now, found)
        if made is None:
            return WriteResult(WriteOutcome.REFUSED, found)
        holder = None if made.new is None else self.records.holder(made.new)
        if holder is None and found is None and made.new is not None and made.new.key is not None:
            holder = self.records.keeper(made.new, now)
        if holder is not None:
            return WriteResult(WriteOutcome.KEY_HELD, holder)
        self._replace(found, made.new, made.change, now)
        if made.new is not None and made.new.key is not None:
            self._keep_key(found, made.new, made.change, now)
        if made.full_at:
            self.records.limits.full_at |= made.full_at
        for release in made.change.releases:
            self._release(release, job_id, now)
        return WriteResult(WriteOutcome.LIMITED if made.limited else WriteOutcome.APPLIED, made.new)

    def _release(self, release: Release, by: str, now: float) -> None:
        waiting = self.records.get(release.id)
        change = storage.releasing(release, waiting)
        if waiting is not None and change is not None:
            self._replace(waiting, change.applied(waiting, by, now), change, now)

    def _keep_key(self, old: Record | None, new: Record, change: Change, now: float) -> None:
        if not new.state.final:
            if old is not None and old.state.final:
                self.records.kept.pop((new.task, new.key or ""), None)
        elif new.key_until is not None and ("key_until" in change.stamp or "key_until" in change.set):
            self.records.keep(new, new.key_until, now)

    def _replace(self, old: Record | None, new: Record | None, change: Change, now: float) -> None:
        self.records.write(old, new, change)
        where, name = new or old, events(old, new, change, now)
        if where is not None and name:
            self.records.history.count((where.queue, where.task), name, now)

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        with self._changed:
            return [self.records.get(job_id) for job_id in ids]

    def find(self, query: Query) -> Sequence[Record]:
        with self._changed:
            before = math.inf if query.after is None else self.records.numbers.get(query.after, 0)
            return list(islice(self._matching(query, before), query.limit))

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        with self._changed:
            return sorted(job_id for job_id in self.records.numbers if job_id.startswith(prefix))[:limit]

    def count(self, query: Query) -> int:
        with self._changed:
            return sum(1 for _ in self._matching(query, math.inf))

    def count_within(self, query: Query, seconds: float) -> tuple[int, bool]:
        return self.count(query), True

    def _matching(self, query: Query, before: float) -> Iterator[Record]:
        """The matching records with a lower insertion number than `before`, newest first."""
        numbers: Iterable[int] = reversed(self.records.jobs)
        if query.state is not None:
            numbers = (number for (number,) in reversed(self.records.states[query.state]))
        jobs = (self.records.jobs[number] for number in numbers if number < before)
        return (job for job in jobs if matches(query, job))

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        with self._changed:
            now = self._clock()
            due = self._until(self.records.due, (now, math.inf))
            found = (job for job in due if readable(job) and (leases or job.state is not JobState.RUNNING))
            claimed, change = list(islice(found, limit)), Change(stamp={"wake_at": claim})
            return self._replaced([(job, change.applied(job, rev, now), change) for job in claimed], now)

    def _until(self, entries: list[Any], end: tuple[float, ...]) -> Iterator[Record]:
        return self.records.listed(entries[: bisect_left(entries, end)])

    def _replaced(self, writes: Sequence[tuple[Record, Record, Change]], now: float) -> list[Record]:
        for write in writes:
            self._replace(*write, now)
        self._changed.notify_all()
        return [new for _, new, _ in writes]

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        with self._changed:
            sent = self._until(self.records.sent[queue, priority], (sent_before,))
            return list(islice(filter(readable, sent), limit))

    def overflow(self, query: Query, keep: int, limit: int) -> Sequence[Record]:
        with self._changed:
            beyond = list(islice(self._matching(query, math.inf), keep, None))
            return beyond[::-1][:limit]

    def stats(self) -> StoreStats:
        with self._changed:
            tally = Tally()
            for (queue, priority, state), n in self.records.counts.items():
                tally.add(queue, priority, state.value, n)
            oldest = {queue: entries[0][0] for queue, entries in self.records.oldest.items() if entries}
            return StoreStats(self._clock(), tally.counts(oldest), self.records.processed, self.records.failed)

    def history(self, query: HistoryQuery) -> Sequence[HistoryCounts]:
        with self._changed:
            return self.records.history.find(query)

    def fold_history(self) -> None:
        with self._changed:
            self.records.history.fold(self._clock())

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        with self._changed:
            now = self._clock()
            seen = dataclasses.replace(worker, heartbeat_at=datetime.fromtimestamp(now, UTC))
            known = {**self.records.workers, worker.name: (seen, now + ttl)}
            if ttl <= 0:
                del known[worker.name]
            self.records.workers = {name: kept for name, kept in known.items() if kept[1] > now - LOST_KEPT}

    def workers(self, *, lost: bool = False) -> Sequence[WorkerStats]:
        with self._changed:
            now = self._clock()
            return [worker for _, (worker, until) in sorted(self.records.workers.items()) if (until <= now) is lost]

    def documents(self, kind: str) -> Sequence[Document]:
        with self._changed:
            found = [one for (its_kind, _), one in sorted(self.records.documents.items()) if its_kind == kind]
        return [dataclasses.replace(one, value=copy.deepcopy(one.value)) for one in found]

    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        with self._changed:
            rev = self._rev_of(document.kind, document.name)
            if rev == expected:
                kept = dataclasses.replace(document, value=copy.deepcopy(dict(document.value)))
                self.records.documents[document.kind, document.name] = kept
                if insert is not None:
                    self._insert(insert, self._clock())
                    self._changed.notify_all()
            return rev in (expected, document.rev)

    def delete_document(self, kind: str, name: str, expected: str) -> bool:
        with self._changed:
            found = self._rev_of(kind, name) == expected
            if found:
                del self.records.documents[kind, name]
            return found

    def _rev_of(self, kind: str, name: str) -> str | None:
        found = self.records.documents.get((kind, name))
        return None if found is None else found.rev

    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        with self._changed:
            found, ended = self._final(ids), self.records.ended
            if not found and self._changed.wait_for(lambda: self.records.ended != ended, timeout):
                found = self._final(ids)
            return found

    def _final(self, ids: Collection[str]) -> list[Record]:
        return [job for job_id in ids if (job := self.records.get(job_id)) is not None and job.state.final]

    def now(self) -> float:
        return self._clock()

    def take(
        self,
        queues: Sequence[str],
        changes: Mapping[str, Change],
        limit: int,
        rev: str,
        limits: TakeLimits | None = None,
    ) -> Sequence[Record]:
        with self._changed:
            now = self._clock()
            lists = [self.records.queued[queue, task] for queue in set(queues) for task in changes]
            ready = (job for job in self.records.listed(merge(*lists)) if startable(job, now))
            if limits is not None:
                begins = (
                    Begin(
                        job.id,
                        job.task,
                        changes[job.task],
                        rev,
                        job.queue,
                        limits.of(job.queue, job.task),
                        limits.hold,
                    )
                    for job in list(islice(ready, limit + LOOKED_AT))
                )
                return self._begin_until(begins, limit, now)
            taken = [(job, changes[job.task]) for job in islice(ready, limit)]
            return self._replaced([(job, begun(job, change, rev, now), change) for job, change in taken], now)

    def _begin_until(self, begins: Iterable[Begin], limit: int, now: float) -> list[Record]:
        """Begin or hold jobs until `limit` jobs have begun. Returns these."""
        written = (self._write(one.id, partial(storage.begin, one, state_of=self.records.limit), now) for one in begins)
        taken = list(islice((one.record for one in written if one.applied and one.record is not None), limit))
        self._changed.notify_all()
        return taken

    def held(self, names: Sequence[str] | None, limit: int, after: str = "") -> Sequence[HeldJobs]:
        with self._changed:
            now, records, held = self._clock(), self.records, self.records.limits.held
            records.forget_limits(now)
            wanted = held if names is None else held.keys() & set(names)
            some = sorted(name for name in wanted if name > after)[:MOST_LIMITS]
            return [HeldJobs(name, records.limit(name), list(records.listed(held[name][:limit])), now) for name in some]

    def unknown(self, queues: Sequence[str], tasks: Collection[str], limit: int) -> Sequence[Record]:
        with self._changed:
            queued = self.records.queued.items()
            lists = [entries for (queue, task), entries in queued if queue in queues and task not in tasks]
            found = (job for job in self.records.listed(merge(*lists)) if job.unknown_since is None and readable(job))
            return list(islice(found, limit))

    def wait_for_work(self, queues: Sequence[str], timeout: float) -> None:
        with self._changed:
            seen = getattr(self._seen, "arrivals", None)
            self._changed.wait_for(lambda: self._arrivals(queues) != seen, timeout)
            self._seen.arrivals = self._arrivals(queues)

    def _arrivals(self, queues: Sequence[str]) -> int:
        return sum(self.records.arrivals[queue] for queue in queues)


_named: dict[tuple[str, str], Records] = {}

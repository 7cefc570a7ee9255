"""The memory store: the model that every other store is compared with. For authors of stores, and for apps under test.

One lock guards everything. `memory://` is a store of its own each time it is opened; `memory://name` opened twice in
one process with one namespace is one set of records, which lives as long as the process.
"""

from __future__ import annotations

import dataclasses
import math
import re
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from queueport.errors import ConfigurationError
from queueport.record import Change, Record
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import Beat, Begin, ClaimingStore, Insert, Outcome, Query, QueueCounts, StoreStats, Swap, Written
from queueport.stores import LIMITS
from queueport.stores.conditions import begun, matches, readable, startable
from queueport.stores.records import Records
from queueport.url import BackendURL

__all__ = ["MemoryOptions", "MemoryStore"]


class MemoryOptions(BaseModel):
    """The memory store has no options of its own."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class MemoryStore(ClaimingStore):
    """Records in the memory of this process; a child after a fork goes on with a copy of its own."""

    limits = LIMITS
    settings: ClassVar[type[Any] | None] = MemoryOptions
    shared = False
    poll: float = 0.05

    def __init__(self, records: Records | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.records: Records = Records() if records is None else records
        self._changed = self.records.changed
        self._clock = clock
        self._seen = threading.local()

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        url.settings(MemoryOptions)
        name = url.text.partition("://")[2]
        if not re.fullmatch(r"[A-Za-z0-9_.-]*", name):
            raise ConfigurationError(f"{url} is no memory store: write 'memory://' or 'memory://name'")
        return cls(_named.setdefault((name, namespace), Records()) if name else None)

    def insert(self, inserts: Sequence[Insert]) -> Sequence[Written]:
        with self._changed:
            now = self._clock()
            return [self._insert(insert, now) for insert in inserts]

    def _insert(self, insert: Insert, now: float) -> Written:
        found = self.records.get(insert.record.id)
        if found is not None:
            return Written(Outcome.REFUSED, found)
        return self._write(None, insert.change.applied(insert.record, insert.rev, now), insert.change)

    def _write(self, old: Record | None, new: Record | None, change: Change | None = None) -> Written:
        holder = None if new is None else self.records.holder(new)
        if holder is not None:
            return Written(Outcome.KEY_HELD, holder)
        self.records.write(old, new, change)
        return Written(Outcome.APPLIED, new)

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        with self._changed:
            return [self.records.get(job_id) for job_id in ids]

    def find(self, query: Query) -> Sequence[Record]:
        with self._changed:
            before = math.inf if query.after is None else self.records.numbers.get(query.after, 0)
            return list(islice(self._matching(query, before), query.limit))

    def count(self, query: Query) -> int:
        with self._changed:
            return sum(1 for _ in self._matching(query, math.inf))

    def _matching(self, query: Query, before: float) -> Iterator[Record]:
        """Newest first, from those inserted before that number."""
        numbers: Iterable[int] = reversed(self.records.jobs)
        if query.state is not None:
            numbers = (number for (number,) in reversed(self.records.states[query.state]))
        jobs = (self.records.jobs[number] for number in numbers if number < before)
        return (job for job in jobs if matches(query, job))

    def swap(self, swaps: Sequence[Swap]) -> Sequence[Written]:
        with self._changed:
            now = self._clock()
            return [self._swap(swap, now) for swap in swaps]

    def _swap(self, swap: Swap, now: float) -> Written:
        found = self.records.get(swap.id)
        if found is None or found.rev != swap.expected:
            return Written(Outcome.REFUSED, found)
        new = None if swap.change.delete else swap.change.applied(found, swap.rev, now)
        return self._write(found, new, swap.change)

    def begin(self, begins: Sequence[Begin]) -> Sequence[Written]:
        with self._changed:
            now = self._clock()
            return [self._begin(begin, now) for begin in begins]

    def _begin(self, begin: Begin, now: float) -> Written:
        found = self.records.get(begin.id)
        if found is None or not startable(found, now):
            return Written(Outcome.REFUSED, found)
        return self._write(found, begun(found, begin.change, begin.rev, now), begin.change)

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        with self._changed:
            now = self._clock()
            due = self._until(self.records.due, (now, math.inf))
            found = (job for job in due if readable(job) and (leases or job.state is not JobState.RUNNING))
            new = [(job, dataclasses.replace(job, rev=rev, wake_at=now + claim)) for job in islice(found, limit)]
            return [self._applied(old, record) for old, record in new]

    def _until(self, entries: list[Any], end: tuple[float, ...]) -> Iterator[Record]:
        return self.records.listed(entries[: bisect_left(entries, end)])

    def _applied(self, old: Record, new: Record, change: Change | None = None) -> Record:
        self.records.write(old, new, change)
        return new

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        with self._changed:
            sent = self._until(self.records.sent[queue, priority], (sent_before,))
            return list(islice(filter(readable, sent), limit))

    def overflow(self, state: JobState, keep: int, limit: int) -> Sequence[Record]:
        with self._changed:
            entries = self.records.states[state]
            return list(self.records.listed(entries[: max(0, min(limit, len(entries) - keep))]))

    def heartbeat(self, beats: Sequence[Beat]) -> Sequence[Written]:
        with self._changed:
            now = self._clock()
            return [self._beat(beat, now) for beat in beats]

    def _beat(self, beat: Beat, now: float) -> Written:
        found = self.records.get(beat.id)
        if found is None or found.state is not JobState.RUNNING or found.token != beat.token:
            return Written(Outcome.REFUSED, found)
        return self._write(found, dataclasses.replace(found, rev=beat.rev, wake_at=now + beat.lease, **beat.values))

    def stats(self) -> StoreStats:
        with self._changed:
            queues: dict[str, Counter[tuple[int, JobState]]] = defaultdict(Counter)
            for (queue, priority, state), count in self.records.counts.items():
                queues[queue][priority, state] = count
            counts = {queue: self._counts(queue, counted) for queue, counted in queues.items()}
            return StoreStats(self._clock(), counts, self.records.processed, self.records.failed)

    def _counts(self, queue: str, counted: Mapping[tuple[int, JobState], int]) -> QueueCounts:
        states = dict.fromkeys(JobState, 0)
        for (_, state), count in counted.items():
            states[state] += count
        queued = {priority: count for (priority, state), count in counted.items() if state is JobState.QUEUED and count}
        oldest = self.records.oldest[queue]
        return QueueCounts(states, queued, oldest[0][0] if oldest else None)

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        with self._changed:
            now = self._clock()
            heard = dataclasses.replace(worker, heartbeat_at=datetime.fromtimestamp(now, UTC))
            known = {**self.records.workers, worker.name: (heard, now + ttl)}
            self.records.workers = {name: kept for name, kept in known.items() if kept[1] > now}

    def workers(self) -> Sequence[WorkerStats]:
        with self._changed:
            now = self._clock()
            return [worker for _, (worker, until) in sorted(self.records.workers.items()) if until > now]

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

    def take(self, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str) -> Sequence[Record]:
        with self._changed:
            now = self._clock()
            lists = [self.records.queued[queue, task] for queue in set(queues) for task in changes]
            ready = (job for job in self.records.listed(merge(*lists)) if startable(job, now))
            taken = [(job, changes[job.task]) for job in islice(ready, limit)]
            return [self._applied(job, begun(job, change, rev, now), change) for job, change in taken]

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

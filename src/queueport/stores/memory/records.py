"""The records of one memory store, and their indexes. For the memory store."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any

from queueport.spi.locks import ForkAware
from queueport.spi.record import Change, Record
from queueport.spi.storage import is_held, is_passed, unreadable_holder
from queueport.spi.store import Document, LimitState
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.stores.memory.history import History

__all__ = ["Records"]

Entry = tuple[Any, ...]
"""A sort key in an index. Its last item is the record's insertion number, so no two entries of an index are equal."""


class LimitCounts:
    """What the records say about limits, by the name of the limit."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        """The number of running jobs that have the limit in their slots."""
        self.held: defaultdict[str, list[Entry]] = defaultdict(list)
        """The held jobs, in the order in which they are let on."""
        self.passed: Counter[str] = Counter()
        """The number of jobs that were let on and have not begun."""
        self.full_at: dict[str, float] = {}
        """The `LimitState.full_at` of limits with a rate. It does not follow from the records."""


class Records(ForkAware):
    """Keeps each record under its insertion number. Each index is a sorted list of entries.

    Callers must hold the lock of the condition `changed`, and notify this condition after calls of `write`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed: threading.Condition = threading.Condition(threading.Lock())
        self.jobs: dict[int, Record] = {}
        self.numbers: dict[str, int] = {}
        """The insertion number of each job, by id."""
        self.last: int = 0
        self.holders: dict[tuple[str, str], str] = {}
        """The id of the job that holds each key, by task and key."""
        self.kept: dict[tuple[str, str], tuple[str, float]] = {}
        """The keys that ended jobs keep, by task and key: the id of the job, and the time until which it keeps the key.
        Some of these times may have passed."""
        self._kept_until: list[tuple[float, tuple[str, str]]] = []
        """A heap of the keys in `kept`, by time."""
        self.states: dict[JobState, list[Entry]] = {state: [] for state in JobState}
        self.due: list[Entry] = []
        """The jobs with a wake_at, in the order of wake_at."""
        self.queued: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
        """The queued jobs by queue and task, in the order in which workers take them."""
        self.oldest: defaultdict[str, list[Entry]] = defaultdict(list)
        """The queued jobs that have a queued_at, by queue, in the order of queued_at."""
        self.sent: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
        """The queued jobs whose message was sent, by queue and priority, in the order of sent_at."""
        self.counts: Counter[tuple[str, int, JobState]] = Counter()
        self.arrivals: Counter[str] = Counter()
        """The number of writes of queued jobs, by queue. An idle worker waits until this number changes."""
        self.ended: int = 0
        """The number of writes of jobs in a final state. A caller of `wait` waits until this number changes."""
        self.limits: LimitCounts = LimitCounts()
        self.processed: int = 0
        self.failed: int = 0
        self.documents: dict[tuple[str, str], Document] = {}
        """The documents by kind and name."""
        self.history: History = History()
        self.workers: dict[str, tuple[WorkerStats, float]] = {}
        """The workers by name, each with the time until which the worker counts as live."""

    def get(self, job_id: str) -> Record | None:
        number = self.numbers.get(job_id)
        return None if number is None else self.jobs[number]

    def listed(self, entries: Iterable[Entry]) -> Iterator[Record]:
        return (self.jobs[entry[-1]] for entry in entries)

    def holder(self, record: Record) -> Record | None:
        """The record of another job that holds this record's key. None if there is none, or if this record is final."""
        if record.key is None or record.state.final:
            return None
        job_id = self.holders.get((record.task, record.key), record.id)
        return None if job_id == record.id else self.get(job_id)

    def keeper(self, new: Record, now: float) -> Record | None:
        """The record of the ended job that keeps the key of `new`, which has a key and is to be added; None: no job."""
        job_id, until = self.kept.get((new.task, new.key or ""), ("", now))
        if until <= now or new.state.final:
            return None
        return self.get(job_id) or unreadable_holder(job_id)

    def keep(self, ended: Record, until: float, now: float) -> None:
        """Let an ended job keep its key. Also forgets keys whose time is over."""
        key = ended.task, ended.key or ""
        self.kept[key] = ended.id, until
        heappush(self._kept_until, (until, key))
        while self._kept_until and self._kept_until[0][0] <= now:
            past, key = heappop(self._kept_until)
            if key in self.kept and self.kept[key][1] <= past:
                del self.kept[key]

    def forget_limits(self, now: float) -> None:
        """Forget the limits that nothing is known about any more. Each `limit_key` is a limit of its own."""
        known = self.limits
        known.full_at = {name: at for name, at in known.full_at.items() if at > now}
        for name in [name for name, jobs in known.held.items() if not jobs]:
            del known.held[name]

    def limit(self, name: str) -> LimitState:
        """The state of a limit."""
        known = self.limits
        return LimitState(
            known.running[name], len(known.held.get(name, ())), known.passed[name], known.full_at.get(name, 0.0)
        )

    def write(self, old: Record | None, new: Record | None, change: Change | None = None) -> None:
        """Replace `old` by `new`, and update the indexes. If `old` is None, `new` is added; if `new` is None, `old` is
        deleted. Adds the numbers in `change` to the counters `processed` and `failed`.
        """
        if old is None:
            number = self.last = self.last + 1
        else:
            number = self.numbers[old.id]
            self._remove_entries(old, number)
        if new is not None:
            self._add(new, number)
        elif old is not None:
            del self.jobs[number], self.numbers[old.id]
        if change is not None:
            self.processed += change.processed
            self.failed += change.failed

    def _add(self, record: Record, number: int) -> None:
        self.jobs[number] = record
        self.numbers[record.id] = number
        for entries, entry in self._entries(record, number):
            insort(entries, entry)
        self.counts[record.queue, record.priority, record.state] += 1
        if record.slots is not None or record.held_by is not None:
            self._count_slots(record, 1)
        self.arrivals[record.queue] += record.state is JobState.QUEUED
        final = record.state.final
        self.ended += final
        if record.key is not None and not final:
            self.holders[record.task, record.key] = record.id

    def _remove_entries(self, record: Record, number: int) -> None:
        for entries, entry in self._entries(record, number):
            del entries[bisect_left(entries, entry)]
        self.counts[record.queue, record.priority, record.state] -= 1
        if record.slots is not None or record.held_by is not None:
            self._count_slots(record, -1)
        if record.key is not None and self.holders.get((record.task, record.key)) == record.id:
            del self.holders[record.task, record.key]

    def _count_slots(self, record: Record, more: int) -> None:
        for name in (record.slots or ()) if record.state is JobState.RUNNING else ():
            _add(self.limits.running, name, more)
        if record.held_by is not None and is_passed(record):
            _add(self.limits.passed, record.held_by, more)

    def _entries(self, record: Record, number: int) -> list[tuple[list[Entry], Entry]]:
        """Pairs of an index that contains the record, and the record's entry in this index."""
        found: list[tuple[list[Entry], Entry]] = [(self.states[record.state], (number,))]
        if record.wake_at is not None:
            found.append((self.due, (record.wake_at, number)))
        if record.state is JobState.QUEUED:
            place = -record.priority, record.queued_at or 0.0, number
            if record.held_by is not None and is_held(record):
                found.append((self.limits.held[record.held_by], place))
            else:
                found.append((self.queued[record.queue, record.task], place))
            if record.queued_at is not None:
                found.append((self.oldest[record.queue], (record.queued_at, number)))
            if record.sent and record.sent_at is not None:
                found.append((self.sent[record.queue, record.priority], (record.sent_at, number)))
        return found

    def before_fork(self) -> None:
        self.changed.acquire()

    def after_fork(self, *, child: bool) -> None:
        self.changed.release()


def _add(counts: Counter[str], name: str, number: int) -> None:
    """Add to a count, and forget a count of 0."""
    counts[name] += number
    if not counts[name]:
        del counts[name]

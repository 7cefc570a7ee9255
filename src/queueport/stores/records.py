"""One namespace's records in memory, with all that is derived from them. For readers of the memory store."""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from queueport.record import Change, Record
from queueport.stats import WorkerStats
from queueport.status import JobState

__all__ = ["Records"]

Entry = tuple[Any, ...]
"""What a list is ordered by; its last item is the record's insertion number, so that no two are equal."""


class Records:
    """The records by insertion number. Whoever uses it holds the lock of `changed`, which tells of every write."""

    def __init__(self) -> None:
        self.changed: threading.Condition = threading.Condition(threading.Lock())
        self.jobs: dict[int, Record] = {}
        self.numbers: dict[str, int] = {}
        self.last: int = 0
        self.holders: dict[tuple[str, str], str] = {}
        """The living job of each task and key."""
        self.states: dict[JobState, list[Entry]] = {state: [] for state in JobState}
        self.due: list[Entry] = []
        self.queued: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
        """By queue and task, in the order in which they are to be taken."""
        self.oldest: defaultdict[str, list[Entry]] = defaultdict(list)
        self.sent: defaultdict[tuple[str, int], list[Entry]] = defaultdict(list)
        self.counts: Counter[tuple[str, int, JobState]] = Counter()
        self.arrivals: Counter[str] = Counter()
        """How often a queue may have got something to run: what an idle worker waits for."""
        self.ended: int = 0
        self.processed: int = 0
        self.failed: int = 0
        self.workers: dict[str, tuple[WorkerStats, float]] = {}
        _all.add(self)

    def get(self, job_id: str) -> Record | None:
        """The record of this id."""
        number = self.numbers.get(job_id)
        return None if number is None else self.jobs[number]

    def listed(self, entries: Iterable[Entry]) -> Iterator[Record]:
        """The records of these entries."""
        return (self.jobs[entry[-1]] for entry in entries)

    def holder(self, record: Record) -> Record | None:
        """The other living job that has the key which this one, as it is to become, would hold."""
        if record.key is None or record.state.final:
            return None
        job_id = self.holders.get((record.task, record.key), record.id)
        return None if job_id == record.id else self.get(job_id)

    def write(self, old: Record | None, new: Record | None, change: Change | None = None) -> None:
        """The one way in which a record comes, changes or goes, and everything derived from it with it."""
        if old is None:
            number = self.last = self.last + 1
        else:
            number = self.numbers[old.id]
            self._forget(old, number)
        if new is not None:
            self._remember(new, number)
        elif old is not None:
            del self.jobs[number], self.numbers[old.id]
        if change is not None:
            self.processed += change.processed
            self.failed += change.failed
        self.changed.notify_all()

    def _remember(self, record: Record, number: int) -> None:
        self.jobs[number] = record
        self.numbers[record.id] = number
        for entries, entry in self._entries(record, number):
            insort(entries, entry)
        self.counts[record.queue, record.priority, record.state] += 1
        self.arrivals[record.queue] += record.state is JobState.QUEUED
        self.ended += record.state.final
        if record.key is not None and not record.state.final:
            self.holders[record.task, record.key] = record.id

    def _forget(self, record: Record, number: int) -> None:
        for entries, entry in self._entries(record, number):
            del entries[bisect_left(entries, entry)]
        self.counts[record.queue, record.priority, record.state] -= 1
        if record.key is not None and self.holders.get((record.task, record.key)) == record.id:
            del self.holders[record.task, record.key]

    def _entries(self, record: Record, number: int) -> Iterator[tuple[list[Entry], Entry]]:
        """Where a record is listed, and as what."""
        yield self.states[record.state], (number,)
        if record.wake_at is not None:
            yield self.due, (record.wake_at, number)
        if record.state is JobState.QUEUED:
            yield self.queued[record.queue, record.task], (-record.priority, record.queued_at or 0.0, number)
            if record.queued_at is not None:
                yield self.oldest[record.queue], (record.queued_at, number)
            if record.sent and record.sent_at is not None:
                yield self.sent[record.queue, record.priority], (record.sent_at, number)


_all: weakref.WeakSet[Records] = weakref.WeakSet()
_held: list[Records] = []


def _hold() -> None:
    """Before a fork: no thread may be half-way through a change, for the child would keep it so for ever."""
    _held[:] = _all
    for records in _held:
        records.changed.acquire()


def _release() -> None:
    while _held:
        _held.pop().changed.release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release)

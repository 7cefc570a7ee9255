"""The DynamoDB store: one table, nothing to run, for jobs that SQS carries or any other backend. For those who use it.

    get_queue("sqs://eu-central-1", store="dynamodb://eu-central-1/jobs")

Every write is on the condition that the job is as it was read, and what moves a count or a key is a transaction.
Indexes lag behind, so what they name is read again before it is believed. What an item looks like is told in
`dynamodb_items`, what is written together in `dynamodb_batch` and `dynamodb_commit`.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import ConfigurationError
from queueport.record import Record
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import (
    Beat,
    Begin,
    Insert,
    JobStore,
    Outcome,
    Query,
    QueueCounts,
    StoreStats,
    Swap,
    Written,
)
from queueport.stores.conditions import begun, readable, startable
from queueport.url import BackendURL
from queueport_sqs.dynamodb_batch import Batch, Move, Step
from queueport_sqs.dynamodb_commit import Commit, Failed, Write, refused
from queueport_sqs.dynamodb_counts import Counts
from queueport_sqs.dynamodb_items import LIMITS, Item, Names, check_size
from queueport_sqs.dynamodb_listing import Listing
from queueport_sqs.dynamodb_reading import Known, Reading, checked, ended
from queueport_sqs.dynamodb_table import Table
from queueport_sqs.dynamodb_waiting import Waiting
from queueport_sqs.dynamodb_workers import Workers

__all__ = ["DynamoOptions", "DynamoStore"]

REGION, TABLE = re.compile(r"[a-z0-9-]*"), re.compile(r"[a-zA-Z0-9_.-]{3,255}")
"""Names that can be; without a region it is that of the environment."""


class DynamoOptions(BaseModel):
    """The options of `dynamodb://` URLs."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(None, description="URL of an emulator, or of a private endpoint")
    shards: int = Field(
        8, ge=1, le=64, description="parts of each index and count, so that none is hot; may be raised, never lowered"
    )
    create: bool = Field(False, description="make a missing table on first use, as `queueport setup` does")
    poll: float = Field(
        0.5, gt=0, le=10, description="seconds between two looks of a dispatcher; what is due starts so much later"
    )


class DynamoStore(JobStore):
    """Records in one DynamoDB table, their keys beginning with the namespace."""

    limits = LIMITS
    settings: ClassVar[type[Any] | None] = DynamoOptions

    def __init__(
        self,
        table: str,
        *,
        region: str = "",
        namespace: str = "queueport",
        call_timeout: float = 5.0,
        options: DynamoOptions | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        options = DynamoOptions.model_validate({}) if options is None else options
        self.poll = options.poll
        self.table: Table = Table(
            table, region=region, endpoint=options.endpoint, call_timeout=call_timeout, create=options.create
        )
        self.names: Names = Names(namespace, options.shards)
        self._counts = Counts(self.table, self.names)
        self._commit = Commit(self.table, self.names, self._counts)
        self._workers = Workers(self.table, self.names)
        self._clock = clock
        self._known = Known()
        self._places = _Places()
        self._waiting = Waiting(self._final)
        _all.add(self)

    def forget(self) -> None:
        """In a child after a fork: what another thread of the parent may have been at is made anew."""
        self._known, self._places, self._waiting = Known(), _Places(), Waiting(self._final)
        self.table.forget()

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        region, _, table = url.text.partition("://")[2].partition("/")
        if not TABLE.fullmatch(table) or not REGION.fullmatch(region):
            raise ConfigurationError(
                f"{url} names no table: write 'dynamodb://REGION/TABLE', such as dynamodb://eu-central-1/jobs"
            )
        return cls(
            table, region=region, namespace=namespace, call_timeout=call_timeout, options=url.settings(DynamoOptions)
        )

    def now(self) -> float:
        if self._clock is not None:
            return self._clock()
        if not self.table.clock.heard:
            self.table.get([self.names.counters])
        return self.table.clock.now()

    def insert(self, inserts: Sequence[Insert]) -> Sequence[Written]:
        for insert in inserts:
            check_size(insert.record)
        now = self.now()

        def step(insert: Insert) -> Step:
            def decide(found: Record | None) -> Move | None:
                change = insert.change
                return None if found else Move(change.applied(insert.record, insert.rev, now), change)

            return Step(insert.record.id, decide, seq=self._places.next(self.table.clock.now()))

        return self._batch(now).run([step(insert) for insert in inserts])

    def swap(self, swaps: Sequence[Swap]) -> Sequence[Written]:
        now = self.now()

        def step(swap: Swap) -> Step:
            def decide(found: Record | None) -> Move | None:
                if found is None or found.rev != swap.expected:
                    return None
                return Move(None if swap.change.delete else swap.change.applied(found, swap.rev, now), swap.change)

            return Step(swap.id, decide, expected=swap.expected)

        return self._batch(now).run([step(swap) for swap in swaps])

    def begin(self, begins: Sequence[Begin]) -> Sequence[Written]:
        now = self.now()

        def step(begin: Begin) -> Step:
            def decide(found: Record | None) -> Move | None:
                if found is None or not startable(found, now):
                    return None
                return Move(begun(found, begin.change, begin.rev, now), begin.change)

            return Step(begin.id, decide)

        return self._batch(now).run([step(begin) for begin in begins])

    def _batch(self, now: float) -> Batch:
        return Batch(self.names, self._commit, self._reading(now), self._known, self.table.deadline())

    def _reading(self, now: float) -> Reading:
        return Reading(self.table, self.names, self._commit, now)

    def _listing(self, now: float) -> Listing:
        return Listing(self.table, self.names, self._reading(now))

    def heartbeat(self, beats: Sequence[Beat]) -> Sequence[Written]:
        now = self.now()
        reading = self._reading(now)
        answers = self.table.each([lambda beat=beat: self._commit.beat(beat, now) for beat in beats])  # type: ignore[misc]
        return [self._beaten(reading, beat, answer) for beat, answer in zip(beats, answers, strict=True)]

    def _beaten(self, reading: Reading, beat: Beat, answer: Item | Failed) -> Written:
        failed = isinstance(answer, Failed)
        found = reading.meet(beat.id, answer.found[0] if isinstance(answer, Failed) else answer)
        if found is None:
            return Written(Outcome.REFUSED, None)
        self._known.remember(found.record)
        return Written(Outcome.REFUSED if failed else Outcome.APPLIED, found.record)

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        now = self.now()
        due = (job.record for job in self._listing(now).due(now, limit))
        mine = (job for job in due if readable(job) and (leases or job.state is not JobState.RUNNING))
        claimed: list[Record] = []
        while some := list(islice(mine, limit - len(claimed))):
            claimed += self._claimed(some, now + claim, rev)
        return claimed

    def _claimed(self, jobs: Sequence[Record], until: float, rev: str) -> list[Record]:
        """Those of the jobs that are still as they were read, now claimed."""
        claims = {job.id: (job, replace(job, rev=rev, wake_at=until)) for job in jobs}
        answers = self._commit([Write(job_id, [self._commit.update(*pair)]) for job_id, pair in claims.items()])
        claimed = [new for job_id, (_, new) in claims.items() if not refused(answers[job_id], new)]
        for record in claimed:
            self._known.remember(record)
        return claimed

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        found = self._listing(self.now()).unreceived(queue, priority, sent_before, limit)
        return list(islice((job.record for job in found if readable(job.record)), limit))

    def overflow(self, state: JobState, keep: int, limit: int) -> Sequence[Record]:
        beyond = max(0, min(limit, self.count(Query(state)) - keep))
        found = self._listing(self.now()).oldest(state, beyond) if beyond else ()
        return [job.record for job in islice(found, beyond)]

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        now = self.now()
        items = self.table.get([self.names.job(job_id) for job_id in ids])
        return [checked(job_id, items.get(self.names.job(job_id)), now) for job_id in ids]

    def find(self, query: Query) -> Sequence[Record]:
        return self._listing(self.now()).find(query)

    def count(self, query: Query) -> int:
        if query.task is not None or query.error is not None or query.finished_before is not None:
            return self._listing(self.now()).count(query)
        queues, _, _ = self._counts.read()
        states = JobState if query.state is None else [query.state]
        wanted = [kept for queue, kept in queues.items() if query.queue in (None, queue)]
        return sum(kept.states[state] for kept in wanted for state in states)

    def stats(self) -> StoreStats:
        now = self.now()
        queues, processed, failed = self._counts.read()
        heads = self._listing(now).heads([queue for queue, kept in queues.items() if kept.states[JobState.QUEUED] > 0])
        counts = {
            queue: QueueCounts(
                {state: max(0, n) for state, n in kept.states.items()},  # parts are read one after the other
                {priority: n for priority, n in kept.queued.items() if n > 0},
                heads.get(queue),
            )
            for queue, kept in queues.items()
        }
        return StoreStats(now, counts, processed, failed)

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        self._workers.announce(worker, ttl, self.now())

    def workers(self) -> Sequence[WorkerStats]:
        now = self.now()
        return self._workers.alive(self._listing(now), now)

    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        return self._waiting.wait(set(ids), timeout)

    def _final(self, ids: Collection[str], consistent: bool) -> list[Record]:
        items = self.table.get([self.names.job(job_id) for job_id in ids], consistent=consistent)
        now = self.now() if items else 0.0
        return [job for item in items.values() if (job := ended(item, now)) is not None]

    def setup(self) -> None:
        self.table.setup()

    def check(self) -> Sequence[str]:
        return self.table.problems()

    def close(self) -> None:
        self.table.close()


class _Places:
    """Places in the order of insertion: by time, never the same twice, and growing within a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, now: float) -> str:
        """A new place."""
        with self._lock:
            self._last = max(self._last + 1, int(now * 1e9))
            return f"{self._last:016x}{secrets.token_hex(2)}"


_all: weakref.WeakSet[DynamoStore] = weakref.WeakSet()


def _forget() -> None:
    for store in list(_all):
        store.forget()


os.register_at_fork(after_in_child=_forget)

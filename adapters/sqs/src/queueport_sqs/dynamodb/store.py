"""The DynamoDB store, for SQS or any other backend that needs a store. For those who use this store or change it.

    get_queue("sqs://eu-central-1", store="dynamodb://eu-central-1/jobs")

`records` describes the items of the table. A verb that writes jobs uses a `Batch`: each write has the condition that
the job is still as this process last read or wrote it, and `commit` puts writes that change a count or a key into
transactions. A verb that searches for jobs uses a `Listing`: indexes lag behind the table, so each job that an index
names is read again from the table, except for counts and for the time since which a queue's oldest job is queued.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from typing import Annotated, Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi import storage
from queueport.spi.history import HistoryCounts, HistoryQuery
from queueport.spi.locks import ForkAware
from queueport.spi.record import Change, Record
from queueport.spi.settings import Duration, options
from queueport.spi.storage import readable
from queueport.spi.store import (
    Begin,
    Document,
    HeldJobs,
    Insert,
    JobStore,
    LeaseRenewal,
    Query,
    StoreStats,
    Swap,
    WriteOutcome,
    WriteResult,
)
from queueport.spi.url import BackendURL
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport_sqs.dynamodb import limits
from queueport_sqs.dynamodb.batch import Batch, BesideFailed, Step
from queueport_sqs.dynamodb.commit import Action, Commit
from queueport_sqs.dynamodb.connection import Table
from queueport_sqs.dynamodb.documents import Documents
from queueport_sqs.dynamodb.history import History
from queueport_sqs.dynamodb.listing import Listing
from queueport_sqs.dynamodb.reading import Known, Reading, Waiting, checked, jobs
from queueport_sqs.dynamodb.records import LIMITS, Names, check_size, value
from queueport_sqs.dynamodb.stats import Counts, worker_item

__all__ = ["DynamoOptions", "DynamoStore"]

REGION, TABLE = re.compile(r"[a-z0-9-]*"), re.compile(r"[a-zA-Z0-9_.-]{3,255}")
"""Patterns of names that AWS allows. If a URL has no region, botocore finds one in the environment or a profile."""


class DynamoOptions(BaseModel):
    """The options of `dynamodb://` URLs."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    endpoint: str | None = Field(None, description="URL of an emulator or of a private endpoint")
    shards: int = Field(
        8,
        ge=1,
        le=64,
        description="number of parts of each index and count, to spread the load; it must never be lowered",
    )
    create: bool = Field(False, description="create a missing table on first use, as `queueport setup` does")
    poll: Annotated[float, Duration] = Field(
        0.5, gt=0, le=10, description="seconds between two polls of a dispatcher; a due job may start that much later"
    )


class DynamoStore(JobStore, ForkAware):
    """Keeps records in one DynamoDB table, under keys that begin with the namespace. Only tests pass `clock`."""

    limits = LIMITS
    settings: ClassVar[type[Any] | None] = DynamoOptions
    own_clock = True

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
        super().__init__()
        options = DynamoOptions.model_validate({}) if options is None else options
        self.poll = options.poll
        self.table: Table = Table(
            table, region=region, endpoint=options.endpoint, call_timeout=call_timeout, create=options.create
        )
        self.names: Names = Names(namespace, options.shards)
        self._counts = Counts(self.table, self.names)
        self._history = History(self.table, self.names)
        self._commit = Commit(self.table, self.names, self._counts, self._history)
        self._documents = Documents(self._commit)
        self._clock = clock
        self._share()

    def _share(self) -> None:
        """Make the caches and locks that threads of one process share. Called again in a child process after a fork."""
        self._known, self._places = Known(), _Places()
        self._waiting = Waiting(self.table, self.names, self.now)

    def after_fork(self, *, child: bool) -> None:
        if child:
            self._share()

    @classmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        region, _, table = url.text.partition("://")[2].partition("/")
        if not TABLE.fullmatch(table) or not REGION.fullmatch(region):
            raise ConfigurationError(
                f"{url} does not name a table: write 'dynamodb://REGION/TABLE', such as dynamodb://eu-central-1/jobs"
            )
        return cls(
            table, region=region, namespace=namespace, call_timeout=call_timeout, options=options(url, DynamoOptions)
        )

    def now(self) -> float:
        if self._clock is not None:
            return self._clock()
        if not self.table.clock.known:
            self.table.get([self.names.counters])
        return self.table.clock.now()

    def check_size(self, record: Record) -> None:
        check_size(record)

    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        written: set[str] = set()
        try:
            if all(one.replace is None for one in inserts):
                return self._insert(inserts, written)
            return [result for some in _independent(inserts) for result in self._insert_or_replace(some, written)]
        except BackendUnavailable as error:
            error.rejected = tuple(one.record.id for one in inserts if one.record.id not in written)
            raise

    def _insert(self, inserts: Sequence[Insert], written: set[str]) -> list[WriteResult]:
        """Insert records. Adds the ids of those that were, or may have been, inserted to `written`."""
        batch = Batch(self._reading(), self._known)
        try:
            return batch.run([self._step(one) for one in inserts])
        finally:
            written |= batch.written

    def _step(self, insert: Insert) -> Step:
        seq = self._places.next(self.table.clock.now())
        return Step(insert.record.id, partial(storage.insert, insert), seq=seq)

    def _insert_or_replace(self, inserts: Sequence[Insert], written: set[str]) -> list[WriteResult]:
        """`_insert` for records of which no two have one id or one key; also applies `Insert.replace`."""
        results = self._insert(inserts, written)

        def replace(number: int) -> Record | None:
            """Apply `replace` of an insert whose key is held. Returns the changed holder; None if there was none."""
            insert = inserts[number]
            deadline = self.table.deadline()
            while (change := _change_of(insert, results[number])) is not None:
                written.add(insert.record.id)
                holder = cast("Record", results[number].record)
                replaced = self._replace(insert, holder, change)
                if replaced is not None:
                    results[number] = replaced
                    return self._known.get(holder.id, rev=insert.rev)
                deadline.again(None)
                results[number] = self._insert([insert], written)[0]
            return None

        held = [number for number, insert in enumerate(inserts) if _change_of(insert, results[number]) is not None]
        for number, holder in zip(held, self.table.each(replace, held), strict=True):
            for later in range(number + 1, len(inserts)):
                if holder is not None and inserts[later].record.id == holder.id:
                    results[later] = WriteResult(WriteOutcome.REFUSED, holder)
        return results

    def _replace(
        self, insert: Insert, holder: Record, change: Change, beside: Sequence[Action] = ()
    ) -> WriteResult | None:
        """Make the change to the job that holds the key of an insert, and insert the record if the holder is running.

        Returns None if the holder was moved to another state meanwhile. Raises BesideFailed for an action of `beside`.
        """
        reading = self._reading()
        if holder.state is not JobState.RUNNING:
            step = Step(holder.id, partial(storage.replace_waiting, insert), holder)
            (done,) = Batch(reading, self._known, beside).run([step])
            return WriteResult(WriteOutcome.REPLACED, done.record) if done.applied else None
        released = change.applied(holder, insert.rev, reading.now)
        try:
            (done,) = Batch(reading, self._known, beside, (holder, released)).run([self._step(insert)])
        except BesideFailed as failed:
            if failed.number < len(beside):
                raise
            return None
        if done.applied:
            self._known.remember(released)
        return done

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        results: list[WriteResult] = []
        for releases, group in groupby(swaps, lambda one: bool(one.change.releases)):
            some = list(group)
            if releases:
                results += map(self._swap_and_release, some)
            else:
                results += self._run([self._swap_step(one) for one in some])
        return results

    def _swap_step(self, swap: Swap) -> Step:
        return Step(swap.id, partial(storage.swap, swap), self._known.get(swap.id, rev=swap.expected))

    def _swap_and_release(self, swap: Swap) -> WriteResult:
        """Apply a swap together with its releases, in one transaction."""
        deadline = self.table.deadline()
        while True:
            reading = self._reading()
            found = reading.found({release.id for release in swap.change.releases})
            released: list[tuple[Record, Record]] = []
            for release in swap.change.releases:
                waiting = found[release.id].record if release.id in found else None
                change = storage.releasing(release, waiting)
                if waiting is not None and change is not None:
                    released.append((waiting, change.applied(waiting, swap.id, reading.now)))
            beside = [self._commit.update(*pair) for pair in released]
            try:
                (done,) = Batch(reading, self._known, beside).run([self._swap_step(swap)])
            except BesideFailed:  # another job has released the same one meanwhile
                deadline.again(None)
                continue
            for _, new in released if done.applied else ():
                self._known.remember(new)
            return done

    def begin(self, begins: Sequence[Begin]) -> Sequence[WriteResult]:
        return self._run(
            [Step(one.id, partial(storage.begin, one), begin=one if one.limits else None) for one in begins]
        )

    def held(self, names: Sequence[str] | None, limit: int, after: str = "") -> Sequence[HeldJobs]:
        return limits.held(self._reading(), names, limit, after)

    def heartbeat(self, beats: Sequence[LeaseRenewal]) -> Sequence[WriteResult]:
        known = [self._known.get(one.id, state=JobState.RUNNING, token=one.token) for one in beats]
        steps = zip(beats, known, strict=True)
        return self._run([Step(one.id, partial(storage.renew, one), record) for one, record in steps])

    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        reading = self._reading()
        due = self._listing(reading).due(limit)
        mine = (job for job in due if readable(job) and (leases or job.state is not JobState.RUNNING))
        change, until = Change(stamp={"wake_at": claim}), reading.now + claim
        claimed: list[Record] = []
        while some := list(islice(mine, limit - len(claimed))):
            swaps = [Step(job.id, partial(storage.swap, Swap(job.id, job.rev, change, rev)), job) for job in some]
            found = (written.record for written in self._run(swaps, reading))
            # If the answer to a claim was lost, the claim was sent again, and DynamoDB refused the repeated claim. The
            # record then shows by its rev and wake_at that the first claim was applied.
            claimed += [job for job in found if job is not None and (job.rev, job.wake_at) == (rev, until)]
        return claimed

    def _run(self, steps: Sequence[Step], reading: Reading | None = None) -> Sequence[WriteResult]:
        return Batch(reading or self._reading(), self._known).run(steps)

    def _reading(self) -> Reading:
        return Reading(self._commit, self.now())

    def _listing(self, reading: Reading | None = None) -> Listing:
        return Listing(reading or self._reading(), timed=self._clock is None)

    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        found = self._listing().unreceived(queue, priority, sent_before, limit)
        return list(islice(filter(readable, found), limit))

    def overflow(self, query: Query, keep: int, limit: int) -> Sequence[Record]:
        beyond = max(0, min(limit, self.count(query) - keep))
        return list(islice(self._listing().oldest(query, beyond), beyond)) if beyond else []

    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        now = self.now()
        items = jobs(self.table, self.names, ids)
        return [checked(job_id, items.get(job_id), now) for job_id in ids]

    def find(self, query: Query) -> Sequence[Record]:
        return self._listing().find(query)

    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        return sorted(self._listing().ids(prefix, self.table.call_timeout))[:limit]

    def count_within(self, query: Query, seconds: float) -> tuple[int, bool]:
        return (self.count(query), True) if _has_counter(query) else super().count_within(query, seconds)

    def count(self, query: Query) -> int:
        if not _has_counter(query):
            return self._listing().count(query)
        counts = self._counts.read()[0].states
        states = JobState if query.state is None else [query.state]
        return sum(counts[queue][state] for queue in counts if query.queue in (None, queue) for state in states)

    def stats(self) -> StoreStats:
        now = self.now()
        tally, processed, failed = self._counts.read()
        waiting = [queue for queue, states in tally.states.items() if states[JobState.QUEUED] > 0]
        return StoreStats(now, tally.counts(self._listing().heads(waiting)), processed, failed)

    def history(self, query: HistoryQuery) -> Sequence[HistoryCounts]:
        return self._history.find(query)

    def fold_history(self) -> None:
        self._history.fold(self.now())

    def announce(self, worker: WorkerStats, ttl: float) -> None:
        if ttl <= 0:
            key = {"pk": value(self.names.worker(worker.name))}
            self.table.call("delete_item", TableName=self.table.name, Key=key)
        else:
            item = worker_item(self.names, worker, ttl, self.now())
            self.table.call("put_item", TableName=self.table.name, Item=item)

    def workers(self, *, lost: bool = False) -> Sequence[WorkerStats]:
        return self._listing().workers(lost=lost)

    def documents(self, kind: str) -> Sequence[Document]:
        return self._documents.read(kind, self.now())

    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        actions = self._documents.putting(document, expected)
        try:
            if insert is None or not self._insert_beside(insert, actions):
                self._documents.put(actions)
        except BesideFailed as failed:
            return failed.item is not None and failed.item.get("rev") == value(document.rev)
        return True

    def _insert_beside(self, insert: Insert, actions: Sequence[Action]) -> bool:
        """Insert a record, or apply `Insert.replace`, in one transaction with these actions. Returns False if nothing
        was written, because the id exists or the key is held. Raises BesideFailed.
        """
        deadline = self.table.deadline()
        while True:
            (written,) = Batch(self._reading(), self._known, actions).run([self._step(insert)])
            change = _change_of(insert, written)
            if change is None:
                return written.applied
            replaced = self._replace(insert, cast("Record", written.record), change, actions)
            if replaced is not None:
                return replaced.outcome in (WriteOutcome.APPLIED, WriteOutcome.REPLACED)
            deadline.again(None)

    def delete_document(self, kind: str, name: str, expected: str) -> bool:
        return self._documents.delete(kind, name, expected)

    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        return self._waiting.wait(set(ids), timeout)

    def setup(self) -> None:
        self.table.setup()

    def check(self) -> Sequence[str]:
        found = self.table.problems()
        self._commit.try_to_put()
        return found

    def close(self) -> None:
        self.table.close()


def _has_counter(query: Query) -> bool:
    """True if the table counts the jobs that match this query."""
    return replace(query, after=None, limit=0) == Query(query.state, query.queue, limit=0)


def _independent(inserts: Sequence[Insert]) -> Iterator[Sequence[Insert]]:
    """Split the inserts, in order, into groups in which no two have the same id, or the same task and key."""
    start, seen = 0, set[object]()
    for number, insert in enumerate(inserts):
        new = insert.record
        own: set[object] = {new.id} if new.key is None else {new.id, (new.task, new.key)}
        if seen & own:
            yield inserts[start:number]
            start, seen = number, set()
        seen |= own
    yield inserts[start:]


def _change_of(insert: Insert, result: WriteResult) -> Change | None:
    """The change to the job that holds the key of an insert with this result; None if no change is to be made."""
    if result.outcome is not WriteOutcome.KEY_HELD or result.record is None:
        return None
    return storage.replacing(insert, result.record)


class _Places:
    """Makes the places of new jobs in the order of insertion: by time, and ascending within one object.

    A place ends with random digits, so two processes are very unlikely to make the same place.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, now: float) -> str:
        """Make a new place, which is higher than all places that this object made before."""
        with self._lock:
            self._last = max(self._last + 1, int(now * 1e9))
            return f"{self._last:016x}{secrets.token_hex(2)}"

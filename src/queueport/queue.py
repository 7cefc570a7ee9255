"""What an application sees: `JobQueue`, the same over every backend, and `JobHandle`, one job in it. Start here.

A call goes from here to `operations`, which asks the `lifecycle` and writes to the store; the backend only delivers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

from queueport import connect, hooks, lifecycle
from queueport.accepting import Accepting
from queueport.capability import Capability, Limits
from queueport.dead_letters import DeadLetters
from queueport.driver import Depth, Driver
from queueport.enqueueing import admitted, made
from queueport.errors import (
    BackendUnavailable,
    ConfigurationError,
    DuplicateJob,
    InvalidState,
    JobCancelled,
    JobFailed,
    JobNotFound,
    QueueClosed,
    ResultTimeout,
)
from queueport.job import JOB_ID, Job
from queueport.lifecycle import Refusal
from queueport.operations import Operations
from queueport.record import Change, Record
from queueport.stats import Counts, Health, Queues, QueueStats, Stats
from queueport.status import WAITING, CancelOutcome, JobState, JobStatus
from queueport.store import JobStore, Query, QueueCounts
from queueport.tasks import Task, registry
from queueport.url import BackendURL, KeepCount

if TYPE_CHECKING:
    from queueport.settings import Settings
    from queueport.worker import Worker

__all__ = ["JobHandle", "JobQueue"]

P = ParamSpec("P")
R = TypeVar("R")

BATCH = 500
"""Jobs inserted and published in one step of `enqueue_many`, and records cancelled in one step of `purge`."""


@dataclass(frozen=True, slots=True)
class JobHandle(Generic[R]):
    """One job, by its id; `R` is what its task returns. It holds no data: each call reads the record."""

    id: str
    queue: JobQueue = field(repr=False, compare=False)
    task: Task[..., R, Any] | None = field(default=None, repr=False, compare=False)

    def status(self) -> JobStatus:
        """The job as it is now. Raises JobNotFound, BackendUnavailable."""
        return self.queue.status(self.id)

    def result(self, timeout: float | None = None) -> R:
        """Wait for the end and return what the task returned, as its annotated type; see `JobQueue.result`."""
        value: R = self.queue.decode_result(self.queue.wait(self.id, timeout), self.task)
        return value

    def cancel(self, interrupt: bool = True) -> CancelOutcome:
        """See `JobQueue.cancel`."""
        return self.queue.cancel(self.id, interrupt)

    def retry(self) -> JobHandle[R]:
        """See `JobQueue.retry`."""
        self.queue.retry(self.id)
        return self


class JobQueue:
    """One queue system: a backend that delivers and a store that decides. Made by `get_queue`; thread-safe.

    Every method may raise `BackendUnavailable` within `call_timeout`, and `QueueClosed` after `close()`.
    """

    def __init__(self, url: BackendURL, settings: Settings, driver: Driver, store: JobStore) -> None:
        self._url = url
        self.settings = settings
        buries = Capability.NATIVE_DEAD_LETTERS in driver.capabilities
        self._operations = Operations(store, driver, settings.rules(driver.carries, buries))
        self._closed = False

    # -- what it is --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Its URL, without passwords."""
        return str(self._url)

    @property
    def backend(self) -> str:
        """The backend's name, for messages."""
        return self._operations.driver.name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backend can do beyond the contract."""
        return self._operations.driver.capabilities

    @property
    def limits(self) -> Limits:
        """How large arguments and results may be: what backend and store both take."""
        return self._operations.limits

    @property
    def native(self) -> Any:
        """The backend's own client or app, for what queueport does not cover."""
        return self._operations.driver.native

    @property
    def driver(self) -> Driver:
        """The adapter to the backend; for workers."""
        return self.operations.driver

    @property
    def operations(self) -> Operations:
        """The steps that calls are made of; for workers. Raises QueueClosed."""
        if self._closed:
            raise QueueClosed(f"the queue {self.url} is closed: open a new one with get_queue")
        return self._operations

    @property
    def dead_letters(self) -> DeadLetters:
        """The jobs that were given up."""
        return DeadLetters(self)

    # -- enqueue -----------------------------------------------------------------------------------

    @overload
    def enqueue(self, task: Task[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    @overload
    def enqueue(self, job: Job[R], /) -> JobHandle[R]: ...
    @overload
    def enqueue(self, name: str, /, *args: Any, **kwargs: Any) -> JobHandle[Any]: ...
    def enqueue(self, what: Task[Any, Any, Any] | Job[Any] | str, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Enqueue a task with arguments, a job made before, or a task by its name.

            queue.enqueue(send_email, 42, "welcome")
            queue.enqueue("other.service.resize", 7)

        Where the job's `key` is held, the holder's handle comes back. Raises InvalidJob, PayloadTooLarge, DuplicateJob
        and Unsupported before anything is sent; after BackendUnavailable the job will not run.
        """
        return self.enqueue_many([made(what, args, kwargs)])[0]

    def enqueue_many(self, jobs: Iterable[Job[R]]) -> list[JobHandle[R]]:
        """Enqueue many jobs in few round trips; handles in the order given.

        All are checked before the first is sent. Where the batch is cut in the middle, BackendUnavailable tells
        `accepted` and `rejected` ids.
        """
        prepared = [hooks.prepare(made(job, (), {})) for job in jobs]
        records = [admitted(job, self.operations) for job in prepared]
        doubled = _first_twice([job.id for job in prepared])
        if doubled is not None:
            message = f"the id {doubled!r} is given twice in one batch: nothing was sent"
            raise DuplicateJob(message, rejected=[job.id for job in prepared])
        accepting = Accepting(self.operations)
        ids: list[str] = []
        for start in range(0, len(records), BATCH):
            chunk = records[start : start + BATCH]
            try:
                ids += accepting.enqueue(chunk)
            except (BackendUnavailable, DuplicateJob) as error:
                known = {*error.accepted, *error.rejected}
                rest = [record.id for record, _ in chunk if record.id not in known]
                rest += [record.id for record, _ in records[start + BATCH :]]
                told = {"accepted": (*ids, *error.accepted), "rejected": (*error.rejected, *rest)}
                raise type(error)(str(error), **told) from error.__cause__
        return [JobHandle(job_id, self, job.task_ref) for job_id, job in zip(ids, prepared, strict=True)]

    # -- one job -----------------------------------------------------------------------------------

    @overload
    def handle(self, job_id: str, task: Task[..., R, Any]) -> JobHandle[R]: ...
    @overload
    def handle(self, job_id: str, task: None = None) -> JobHandle[Any]: ...
    def handle(self, job_id: str, task: Task[..., Any, Any] | None = None) -> JobHandle[Any]:
        """The handle of a job by its id; no I/O. `task` types its result."""
        return JobHandle(job_id, self, task)

    def status(self, job_id: str) -> JobStatus:
        """The job's record. Raises JobNotFound."""
        return self.operations.status(self.read(job_id))

    def result(self, job_id: str, timeout: float | None = None) -> Any:
        """Wait for the job's end, at most `timeout` seconds (None: for ever), and return what its task returned.

        Raises JobNotFound, JobFailed where it is dead, JobCancelled, ResultTimeout.
        """
        return self.decode_result(self.wait(job_id, timeout), None)

    def retry(self, job_id: str) -> JobHandle[Any]:
        """Run it again: a dead or cancelled job with fresh budgets, a scheduled or retrying one now.

        Raises JobNotFound, InvalidState for a job in another state, DuplicateJob where another holds its key.
        """
        operations = self.operations
        settled = operations.settle(possible(job_id), lambda record: lifecycle.retry(operations.rules, record))
        if settled.record is None:
            raise missing(job_id)
        if settled.change is None:
            raise InvalidState(
                f"job {job_id} is {settled.record.state}: retry() takes dead, cancelled, scheduled or retrying"
            )
        return JobHandle(job_id, self)

    def cancel(self, job_id: str, interrupt: bool = True) -> CancelOutcome:
        """Cancel a waiting job, or ask a running one to stop: `interrupt` False leaves that to the task itself.

        Raises JobNotFound.
        """
        settled = self.operations.cancel(possible(job_id), interrupts=interrupt)
        if settled.record is None:
            raise missing(job_id)
        if settled.refusal is Refusal.FINAL:
            return CancelOutcome.ALREADY_FINISHED
        return CancelOutcome.CANCELLED if settled.record.state is JobState.CANCELLED else CancelOutcome.REQUESTED

    def read(self, job_id: str) -> Record:
        """The job's raw record; for the core. Raises JobNotFound."""
        record = self.operations.store.get([possible(job_id)])[0]
        if record is None:
            raise missing(job_id)
        return record

    def wait(self, job_id: str, timeout: float | None) -> Record:
        """The job's record in its final state; for the core. Raises JobNotFound, ResultTimeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            record = self.read(job_id)
            left = WAIT if deadline is None else min(WAIT, deadline - time.monotonic())
            if record.state.final:
                return record
            if left <= 0:
                raise ResultTimeout(f"job {job_id} is still {record.state} after {timeout:g} s")
            self.operations.store.wait([job_id], left)

    def decode_result(self, record: Record, task: Task[..., Any, Any] | None) -> Any:
        """What a final record answers to result(); for handles."""
        if record.state is JobState.DEAD:
            error = record.errors[-1] if record.errors else None
            why = "it is dead" if error is None else f"{error.type}: {error.message}"
            raise JobFailed(f"job {record.id} ({record.task}) failed: {why}", error)
        if record.state is JobState.CANCELLED:
            raise JobCancelled(f"job {record.id} ({record.task}) was cancelled: {record.reason}")
        task = registry.get(record.task) if task is None else task
        data = b"null" if record.result is None else record.result
        return json.loads(data) if task is None else task.signature.decode_result(data)

    # -- many jobs ---------------------------------------------------------------------------------

    def jobs(
        self,
        state: JobState | str | None = None,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[JobStatus]:
        """Jobs that match all that is given, newest first; `after` is the id of the last one already seen."""
        name = task.name if isinstance(task, Task) else task
        found = None if state is None else JobState(state)
        query = Query(state=found, queue=queue, task=name, limit=limit, after=after)
        operations = self.operations
        return [operations.status(record) for record in operations.store.find(query)]

    def stats(self) -> Stats:
        """Counts per queue and in total, workers, and the two counters that only grow."""
        store = self.operations.store
        read, workers = store.stats(), sorted(store.workers(), key=lambda worker: worker.name)
        names = {*read.queues, *(queue for worker in workers for queue in worker.queues)}
        queues = Queues()
        for name in sorted(names):
            counts = read.queues.get(name, QueueCounts({}, {}, None))
            states = {state.value: counts.states.get(state, 0) for state in JobState}
            oldest = counts.oldest_queued_at
            age = None if oldest is None else max(0.0, read.now - oldest)
            queues[name] = QueueStats(**states, oldest_queued_age=age, depth=self._depth(name, states["queued"]))
        totals = Counts(**{state.value: sum(getattr(q, state.value) for q in queues.values()) for state in JobState})
        return Stats(queues, totals, workers, read.processed, read.failed)

    def _depth(self, queue: str, queued: int) -> int | None:
        """The backend's own count; where the store is the queue, that of its queued records."""
        driver = self.operations.driver
        depth = driver.depth(queue) if driver.carries else Depth(queued)
        return None if depth is None else depth.ready

    def purge(self, queue: str) -> int:
        """Cancel every job that waits in that queue (queued, scheduled or retrying), reason "purged"; how many."""
        operations = self.operations
        operations.driver.purge(queue)
        count = 0
        for state in sorted(WAITING):
            found = True
            while found:
                records = operations.store.find(Query(state=state, queue=queue, limit=BATCH))
                changes = [(record, lifecycle.purge(operations.rules, record)) for record in records]
                count += operations.apply(
                    [(record, change) for record, change in changes if isinstance(change, Change)]
                )
                found = bool(records)
        return count

    # -- the system --------------------------------------------------------------------------------

    def check(self) -> Health:
        """Reach backend and store and time a round trip to each; problems are told, not raised."""
        operations = self.operations
        problems: list[str] = []
        warnings: list[str] = []
        seconds: list[float | None] = []
        for part in (operations.driver, operations.store):
            started = time.perf_counter()
            try:
                warnings += part.check()
                seconds.append(time.perf_counter() - started)
            except (BackendUnavailable, ConfigurationError) as error:
                problems.append(str(error))
                seconds.append(None)
        return Health(not problems, seconds[0], seconds[1], problems, warnings)

    def setup(self, *queues: str) -> None:
        """Make what backend and store need before use: queues, tables. Idempotent."""
        self.operations.store.setup()
        self.operations.driver.setup(queues)

    def worker(
        self,
        *queues: str,
        tasks: Iterable[Task[..., Any, Any]] = (),
        threads: int = 8,
        processes: int = 1,
        burst: bool = False,
        grace: float = 30.0,
    ) -> Worker:
        """A worker for these queues (none given: those of its tasks), not yet running.

        `tasks`: those it knows, by default all that are registered. `grace`: seconds that running jobs have when it
        is stopped. `burst`: it ends when nothing is due.
        """
        from queueport.worker import Worker  # which takes asyncio and more: not before it is needed

        self.operations  # noqa: B018  # a closed queue says so here
        return Worker(self, queues, tasks=tasks, threads=threads, processes=processes, burst=burst, grace=grace)

    def spec(self) -> dict[str, Any]:
        """What another process needs to open the same queue, plain JSON with its secrets; for workers."""
        settings = self.settings.model_dump(mode="json", exclude_defaults=True)
        if isinstance(self.settings.keep_succeeded, KeepCount):
            settings["keep_succeeded"] = f"{self.settings.keep_succeeded.jobs} jobs"
        return {"url": self._url.full, "settings": settings}

    @contextmanager
    def as_default(self) -> Iterator[Self]:
        """Make this the process's default queue for a while: `task.enqueue()` goes here."""
        with connect.default_queue(self):
            yield self

    def close(self) -> None:
        """Let go of every connection; closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._operations.driver.close()
            self._operations.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<JobQueue {self.url}>"


WAIT = 1.0
"""Seconds of one wait for a result, after which the record is read again."""


def possible(job_id: str) -> str:
    """An id that a job can have. Raises JobNotFound for any other, before a store has to make sense of it."""
    if JOB_ID.fullmatch(job_id):
        return job_id
    raise missing(job_id)


def missing(job_id: str) -> JobNotFound:
    """The error for an id without a record."""
    return JobNotFound(f"there is no job {job_id!r}: it never was, or its retention is over")


def _first_twice(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((job_id for job_id in ids if job_id in seen or seen.add(job_id)), None)  # type: ignore[func-returns-value]

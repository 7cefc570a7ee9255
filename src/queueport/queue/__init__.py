"""`JobQueue`: the interface that applications call, the same on every backend. Start reading here.

The methods call `engine.operations`, which asks `engine.lifecycle` for each decision and writes it to the store. The
backend only delivers messages. `docs/architecture.md` follows one job through the files.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from queueport import hooks
from queueport.capability import Capability, Limits
from queueport.context import check_wait, default_queue, warn_of_wait
from queueport.engine.arguments import (
    checked,
    checked_batch,
    filters,
    missing,
    missing_batch,
    queue_name,
    seconds,
    unfinished,
)
from queueport.engine.bulk import cancelling, purging
from queueport.engine.enqueue import Enqueue, Verdict, make_job, make_jobs
from queueport.engine.follow_ups import linked_batch, linked_chain
from queueport.engine.health import check_health
from queueport.engine.history import last, points, recent, spans
from queueport.engine.operations import Operations
from queueport.engine.replay import replayed, with_result
from queueport.engine.rules import Refusal, Rules
from queueport.engine.runtime import Runtime
from queueport.engine.watcher import Watcher
from queueport.errors import (
    ConfigurationError,
    DuplicateJob,
    InvalidJob,
    InvalidState,
    JobCancelled,
    JobFailed,
    QueueClosed,
    ResultTimeout,
    encodable,
)
from queueport.job import Job, JobFilters, JobHandle, ResultType, check_id, new_id
from queueport.job.limits import QueueLimit
from queueport.queue.batch import Batch
from queueport.queue.dead_letters import DeadLetters
from queueport.queue.schedules import Schedules
from queueport.spi.driver import Driver
from queueport.spi.history import HOUR, MINUTE
from queueport.spi.message import Depth
from queueport.spi.record import Record
from queueport.spi.store import JobStore, Query, QueueCounts
from queueport.spi.url import BackendURL
from queueport.stats import Counts, Health, HistoryPoint, Pause, Queues, QueueStats, Stats
from queueport.status import CancelOutcome, JobState, JobStatus
from queueport.tasks import Task, registry

if TYPE_CHECKING:
    from queueport.spi.settings import Settings
    from queueport.workers.worker import Worker

__all__ = ["JobQueue"]

P = ParamSpec("P")
R = TypeVar("R")


class JobQueue:
    """All queues of one backend, and the store of their jobs. `get_queue` opens it. Thread-safe.

    Every method that does I/O may raise BackendUnavailable, and raises QueueClosed after `close`. A method that reads a
    damaged record may raise `queueport.spi.record.CorruptRecord`.

    The code that opens a queue with a URL owns it and must close it. Other code gets the queue as `shared`, whose
    `close` does nothing.
    """

    def __init__(
        self, url: BackendURL, settings: Settings, driver: Driver, store: JobStore, runtime: Runtime | None = None
    ) -> None:
        self._url = url
        self.settings = settings
        keys = settings.signing_key
        signer = None if keys is None else keys.signer(settings.namespace)
        self._operations = Operations(store, driver, Rules.of(settings, driver), runtime, signer)
        self._enqueue = Enqueue(self._operations)
        self._watcher = Watcher()
        self._closed = False
        self._owner: JobQueue | None = None
        """If this object is the `shared` view of a queue, that queue; else None."""
        self._view: JobQueue | None = None

    # -- properties --------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The queue's URL, with hidden passwords."""
        return str(self._url)

    @property
    def backend(self) -> str:
        """The backend's name, as error messages show it."""
        return self._operations.driver.name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """The optional features that this backend has."""
        return self._operations.driver.capabilities

    @property
    def limits(self) -> Limits:
        """The maximum sizes in bytes that the backend and the store both accept."""
        return self._operations.limits

    @property
    def native(self) -> Any:
        """The client or app of the backend's own library, for features that queueport does not cover; may be None."""
        return self._operations.driver.native

    @property
    def driver(self) -> Driver:
        """The adapter to the backend. Raises QueueClosed. For the suites in `queueport.testing`."""
        return self.operations.driver

    @property
    def operations(self) -> Operations:
        """The steps of the protocol over this store and backend. Raises QueueClosed.

        For workers, `DeadLetters`, `AsyncJobQueue` and the command line.
        """
        self._check_open()
        return self._operations

    def _check_open(self) -> None:
        if (self._owner or self)._closed:
            raise QueueClosed(f"the queue {self.url} is closed: open a new one with get_queue")

    @property
    def shared(self) -> JobQueue:
        """A view of this queue for code that does not own the queue: same connections, and `close` does nothing.

        `get_queue()` without arguments returns such a view, so a task cannot close the queue of its worker.
        """
        if self._owner is not None:
            return self
        if self._view is None:
            view = copy.copy(self)
            view._owner = self
            self._view = view
        return self._view

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead jobs of all queues: list, retry or discard them."""
        return DeadLetters(self)

    @property
    def schedules(self) -> Schedules:
        """The recurring jobs: add, list, pause or remove them."""
        return Schedules(self)

    # -- enqueue -----------------------------------------------------------------------------------

    @overload
    def enqueue(self, task: Task[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]: ...
    @overload
    def enqueue(self, job: Job[R], /) -> JobHandle[R]: ...
    @overload
    def enqueue(self, name: str, /, *args: Any, **kwargs: Any) -> JobHandle[Any]: ...
    def enqueue(self, what: Task[Any, Any, Any] | Job[Any] | str, /, *args: Any, **kwargs: Any) -> JobHandle[Any]:
        """Enqueue a task with arguments, a `Job`, or a task by its name; returns the job's handle.

            queue.enqueue(send_email, 42, "welcome")
            queue.enqueue(send_email.using(delay=60).job(42, "welcome"))
            queue.enqueue("other.service.resize", 7)

        If another job of the same task holds the job's `key`, no job is added, and the handle of that other job is
        returned with `created` False. A warning is logged if that other job has different arguments. `key_mode` changes
        this.
        With the Django setting ENQUEUE_ON_COMMIT, a call in a transaction returns a handle before the job is enqueued.

        Raises InvalidJob, PayloadTooLarge, DuplicateJob (the id exists, or the key is taken), Unsupported,
        BackendUnavailable, ConfigurationError (an annotation, a task's name or a hook is wrong), and the errors of
        hooks. After an error, this call has not enqueued the job, with one exception: the job may run if its id is in
        `BackendUnavailable.unknown`.
        """
        return self._accept([make_job(what, args, kwargs)])[0]

    def enqueue_many(self, jobs: Iterable[Job[R]]) -> list[JobHandle[R]]:
        """Enqueue many jobs in few round trips; returns their handles in the order given.

        All jobs are checked before the first one is sent. Raises the same errors as `enqueue`. If only some of the jobs
        were accepted, raises BackendUnavailable or DuplicateJob: `accepted` contains the ids of the accepted jobs,
        `rejected` those of the jobs that this call has not enqueued, and `BackendUnavailable.unknown` those of the jobs
        that may run.
        """
        return self._accept(make_jobs("enqueue_many", jobs))

    def _accept(self, jobs: Sequence[Job[R]], *, linked: bool = False) -> list[JobHandle[R]]:
        """Enqueue jobs. With `linked`, each comes after those that follow it, and the hooks have seen them."""
        if not linked:
            for job in jobs:
                if job.options.then is not None:
                    return self._accept_chains(jobs)
            jobs = [hooks.call_before_enqueue(job) for job in jobs]
        self._check_open()
        if hooks.defer(lambda: self._send(jobs)):
            return [JobHandle(job.id, self, job.task_ref) for job in jobs]
        return self._send(jobs)

    def _accept_chains(self, jobs: Sequence[Job[R]]) -> list[JobHandle[R]]:
        """Enqueue jobs together with those that follow them."""
        chains = [linked_chain(job) for job in jobs]
        following = [job for chain in chains for job in reversed(chain[1:])]
        handles = self._accept([*following, *(chain[0] for chain in chains)], linked=True)
        by_id = dict(zip([job.id for job in following], handles, strict=False))
        return [
            replace(handle, follow_ups=tuple([by_id[job.id] for job in chain[1:]]))
            for chain, handle in zip(chains, handles[len(following) :], strict=True)
        ]

    def _send(self, jobs: Sequence[Job[R]]) -> list[JobHandle[R]]:
        send = hooks.around_send
        accept = self._enqueue.accept
        verdicts: list[Verdict] = accept(jobs) if send is None else send(jobs, self.backend, accept)
        return [
            JobHandle(v.id, self, job.task_ref, created=v.id == job.id and not v.held, replaced=v.replaced)
            for v, job in zip(verdicts, jobs, strict=True)
        ]

    def batch(
        self,
        jobs: Iterable[Job[Any]],
        *,
        then: Job[Any] | None = None,
        on_dead: Job[Any] | None = None,
        batch_id: str | None = None,
    ) -> Batch:
        """Enqueue jobs together, and jobs that follow them. Returns a handle of the batch.

            queue.batch([resize.job(n) for n in range(100)], then=notify.job("ann"), on_dead=alert.job("ann"))

        `then` runs once, when every job of the batch has ended: it has succeeded, or was cancelled, discarded or
        expired. A dead job keeps the batch open until it is retried or discarded. `on_dead` runs once, when the first
        job dies. No job of a batch may have a `key` or a `then`. `batch_id`: like `job_id`, default: a new one.

        Raises the errors of `enqueue_many`, and DuplicateJob if a batch with this `batch_id` exists; but two calls with
        the same `batch_id` at the same moment make one batch. If a job was not accepted, `then` and `on_dead` are not
        enqueued.
        """
        given = new_id() if batch_id is None else check_id("batch_id", batch_id)
        following, members = linked_batch(given, make_jobs("batch", jobs), then, on_dead)
        if not members:
            raise InvalidJob("a batch needs at least one job")
        if batch_id is not None:
            self._check_open()
            self._enqueue.check_batch(given, [*following, *members])
        self._accept([*following, *members], linked=True)
        return Batch(given, self)

    def get_batch(self, batch_id: str) -> Batch:
        """The handle of the batch with this id. Raises JobNotFound if it has no jobs, or their records were deleted."""
        batch = Batch(checked_batch(batch_id), self)
        if batch.progress().total == 0 and not batch.follow_ups():
            raise missing_batch(batch_id)
        return batch

    # -- one job -----------------------------------------------------------------------------------

    @overload
    def handle(self, job_id: str, task: Task[..., R, Any]) -> JobHandle[R]: ...
    @overload
    def handle(self, job_id: str, task: None = None) -> JobHandle[Any]: ...
    def handle(self, job_id: str, task: Task[..., Any, Any] | None = None) -> JobHandle[Any]:
        """The handle of the job with this id, without a check that the job exists. `task` gives its result a type."""
        return JobHandle(job_id, self, task)

    def status(self, job_id: str) -> JobStatus:
        """The job as it is now. Raises JobNotFound if no job has this id."""
        return self.operations.status(self.operations.read(job_id))

    def result(self, job_id: str, timeout: float | None = None, task: ResultType[Any] | None = None) -> Any:
        """Wait until the job has ended, at most `timeout` seconds (None: no limit), and return its result.

        The result is decoded to the return annotation of `task`. Without `task`, the registered task with the job's
        task name is used. If there is none, the result is a plain JSON value.

        In a task, a wait without `timeout` can last forever, because the worker may have no free thread for the job
        that the task waits for. After about a second of such a wait, a warning is logged if that job is waiting, or if
        this call blocks the event loop of an `async def` task.

        Raises JobNotFound, JobFailed (the job is dead), JobCancelled, ResultTimeout, InvalidJob (the result does not
        match the annotation), ConfigurationError (the annotation cannot be resolved), and InvalidState if a task waits
        for its own job.
        """
        self.check_wait(job_id)
        if timeout is not None:
            seconds("timeout", timeout, -math.inf)
        deadline = None if timeout is None else time.monotonic() + timeout
        warn_at = time.monotonic() + WAIT if timeout is None else math.inf
        while True:
            record = self.operations.read(job_id)
            left = WAIT if deadline is None else min(WAIT, deadline - time.monotonic())
            if record.state.final:
                return final_result(record, task)
            if left <= 0:
                raise ResultTimeout(
                    f"job {job_id} is still {record.state} after {timeout:g} s: call result() again to wait longer, "
                    "and check that a live worker takes jobs from its queue"
                )
            if time.monotonic() >= warn_at:
                warn_of_wait(job_id, record.state)
                warn_at = math.inf
            self.operations.store.wait([job_id], left)

    def watch(self, job_id: str, seconds: float) -> Future[Record]:
        """The job's record when the job has ended, or as it is after `seconds`. For AsyncJobQueue and `queueport.web`.

        One thread waits for all these jobs; see `engine.watcher.Watcher.watch`. Does not check that the job exists.
        """
        return self._watcher.watch(lambda: self.operations.store, job_id, seconds)

    def check_wait(self, job_id: str) -> None:
        """Raise InvalidState if a task would wait for its own job. For `result` of this class and AsyncJobQueue."""
        check_wait(job_id)

    def retry(self, job_id: str) -> JobHandle[Any]:
        """Run a dead or cancelled job again, with fresh budgets and no expiry; run a scheduled or retrying job now.

        Raises JobNotFound, InvalidState if the job is in another state, and DuplicateJob if another job holds its key.
        """
        settled = self.operations.settle(checked(job_id), self.operations.lifecycle.retry)
        if settled.record is None:
            raise missing(job_id)
        if settled.change is None:
            raise InvalidState(
                f"job {job_id} is {settled.record.state}: retry() takes dead, cancelled, scheduled or retrying jobs"
            )
        return JobHandle(job_id, self)

    def replay(
        self,
        job_id: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        new_id: str | None = None,
    ) -> JobHandle[Any]:
        """Enqueue a new job like an existing one, in any state, and return the handle of the new job.

            status = queue.status(job_id)
            queue.replay(job_id, kwargs={**status.kwargs, "address": "ann@example.org"})

        The new job has the task, the queue and the options of the existing job, which does not change. It has no delay,
        and if the existing job expires, the new one does so as long after its own enqueueing. `status().replay_of` of
        the new job is the id of the existing one. `args` and `kwargs` replace the positional and the named arguments;
        None keeps them. They are plain JSON values, as `status` shows them, or values of the annotated types. If this
        process has registered the task, its annotations check all arguments. `new_id` is the id of the new job.

        The new job follows no other job, and no job follows it. If the existing job has `pass_result`, the result of
        the job before it is still the first argument. If `args` are given, they are all positional arguments.

        Raises JobNotFound, InvalidJob if the arguments do not fit or the job before it has no result any more,
        DuplicateJob if the key is taken, perhaps by the existing job itself, and the other errors of `enqueue`.
        """
        record = self.operations.read(job_id)
        if args is None:
            record = with_result(record, self.operations.store)
        job = replayed(record, args, kwargs, new_id)
        handle = self._accept([job])[0]
        if handle.id != job.id:
            raise DuplicateJob(
                f"job {job_id} cannot be replayed while job {handle.id} holds its key {job.options.key!r}: wait until "
                "that job has ended and its unique_for, if it has one, is over; or cancel it",
                rejected=[job.id],
            )
        return handle

    def cancel(self, job_id: str, interrupt: bool = True) -> CancelOutcome:
        """Cancel a waiting job, or request that a running job stops. The returned `CancelOutcome` tells what happened.

        A running job becomes cancelled when its attempt ends, even if its task returns a result. With `interrupt=False`
        the task is not interrupted: the task's own code must check `current_job().cancel_requested`.
        Raises JobNotFound if no job has this id.
        """
        settled = self.operations.cancel(checked(job_id), interrupts=interrupt)
        if settled.record is None:
            raise missing(job_id)
        if settled.refusal is Refusal.FINAL:
            return CancelOutcome.ALREADY_FINISHED
        return CancelOutcome.CANCELLED if settled.record.state is JobState.CANCELLED else CancelOutcome.REQUESTED

    # -- many jobs ---------------------------------------------------------------------------------

    def jobs(
        self,
        state: JobState | str | None = None,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
        *,
        error: str | None = None,
        **more: Unpack[JobFilters],
    ) -> list[JobStatus]:
        """Find jobs that match all given filters; returns at most `limit`, the latest enqueued first.

            queue.jobs("dead", error="OSError", since=3600)         # enqueued in the last hour

        `JobFilters` lists more filters. `error` is the name of the class of the latest error or of an ancestor, see
        `DeadLetters`. `after` is the id of the last job of the previous page. Raises ConfigurationError for a wrong
        argument, and JobNotFound if the job of `after` has been deleted.
        """
        operations = self.operations
        given: dict[str, Any] = {"state": state, "queue": queue, "task": task, "error": error}
        return operations.find(filters(**given, limit=limit, after=after, more=more, now=operations.store.now))

    def count(
        self,
        state: JobState | str | None = None,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        *,
        error: str | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """The number of jobs that match all given filters, which are those of `jobs`."""
        store = self.operations.store
        return store.count(filters(state=state, queue=queue, task=task, error=error, more=more, now=store.now))

    def cancel_all(
        self,
        state: JobState | str | None = None,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        *,
        error: str | None = None,
        interrupt: bool = True,
        **more: Unpack[JobFilters],
    ) -> int:
        """Cancel every job that matches all given filters and has not ended, as `cancel` does; returns their number.

            queue.cancel_all(tag="import-7")

        The number includes running jobs that were asked to stop. A job that is enqueued or changed during the call, or
        whose record cannot be written, may be left out. Raises ConfigurationError for a wrong argument, for a final
        state, and if no filter is given.
        """
        operations = self.operations
        given: dict[str, Any] = {"queue": queue, "task": task, "error": error}
        query = filters(state=state, **given, more=more, now=operations.store.now)

        states = unfinished(query.state, filtered=query != Query(limit=query.limit))
        return cancelling(operations, query, states, interrupt=interrupt).run()

    def stats(self) -> Stats:
        """The number of jobs by queue and state, the live workers, counters of ended jobs and failed attempts, and what
        happened in the last minute and the last hour.
        """
        store, driver = self.operations.store, self.operations.driver
        read, workers = store.stats(), sorted(store.workers(), key=lambda worker: worker.name)
        paused, limits = self.paused(), self.queue_limits()
        names = {*read.queues, *paused, *limits, *(queue for worker in workers for queue in worker.queues)}
        minute, hour = recent(store, read.now, MINUTE), recent(store, read.now, HOUR)
        queues = Queues()
        for name in sorted(names):
            counts = read.queues.get(name, QueueCounts({}, {}, None))
            states: dict[str, Any] = {state.value: counts.states.get(state, 0) for state in JobState}
            oldest = counts.oldest_queued_at
            age = None if oldest is None else max(0.0, read.now - oldest)
            depth = driver.depth(name) if driver.carries else Depth(states["queued"])
            ready = None if depth is None else depth.ready
            queues[name] = QueueStats(
                **states,
                oldest_queued_age=age,
                depth=ready,
                paused=paused.get(name),
                limit=limits.get(name),
                last_minute=minute[name],
                last_hour=hour[name],
            )
        totals = Counts(**{state.value: sum(getattr(q, state.value) for q in queues.values()) for state in JobState})
        return Stats(queues, totals, workers, read.processed, read.failed, minute[None], hour[None])

    def history(
        self,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        since: float | timedelta = HOUR,
        step: float | timedelta = MINUTE,
    ) -> list[HistoryPoint]:
        """What happened to jobs, in points of `step` seconds that cover the last `since` seconds, oldest first.

            for point in queue.history("emails", since=6 * 3600, step=600):
                print(point.at, point.succeeded, point.wait.p95)

        The store keeps 24 hours by minute, and 30 days by hour: `step` must be whole minutes, or whole hours if `since`
        is more than 24 hours. The first point starts at a multiple of `step` since 1970, and the last one contains now.
        If a minute has more than 100 pairs of a queue and a task, the others are counted together, and only the history
        without filters contains them. Raises ConfigurationError for a wrong argument.
        """
        back, length = spans(since, step)
        wanted, store = filters(queue=queue, task=task), self.operations.store
        now = store.now()
        query = last(back, length, now, wanted)
        return points(store.history(query), query, now)

    def pause(self, queue: str, reason: str | None = None) -> None:
        """Start no more jobs of a queue, in any worker, until `resume`. Takes effect within two seconds.

            queue.pause("emails", reason="the mail server is down")

        Running jobs continue. Jobs can be enqueued, become due and expire as before. If the queue is paused already,
        only the reason changes. Raises ConfigurationError for a wrong argument.
        """
        given: object = reason
        if not (given is None or isinstance(given, str)) or len(given or "") > REASON:
            raise ConfigurationError(f"reason={given!r:.80} is not valid: pass a text of at most {REASON} characters")
        self.operations.pauses.add(queue_name(queue), None if reason is None else encodable(reason))

    def resume(self, queue: str) -> bool:
        """End the pause of a queue: its jobs start again within two seconds. Returns False if it was not paused.

        If this call raises BackendUnavailable, repeat it. Raises ConfigurationError if `queue` is not a valid queue
        name.
        """
        return self.operations.resume(queue_name(queue))

    def paused(self) -> dict[str, Pause]:
        """The paused queues by name, each with the start of its pause and the reason."""
        return self.operations.pauses.read()

    def limit(
        self, queue: str, *, concurrency: int | None = None, rate: str | None = None, burst: int | None = None
    ) -> None:
        """Limit the jobs of a queue, over all workers. Takes effect within two seconds.

            queue.limit("emails", concurrency=5, rate="100/m")
            queue.limit("emails")  # no limit any more

        At most `concurrency` jobs of the queue run at a time, and at most `rate` start in a second, minute, hour or day
        on average; see `LimitOptions`. The new limit replaces the queue's earlier one. Jobs that run already continue.
        Raises ConfigurationError for a wrong argument.
        """
        given = QueueLimit(concurrency=concurrency, rate=rate, burst=burst)
        self.operations.limits_at_begin.put(queue_name(queue), given)

    def queue_limits(self) -> dict[str, QueueLimit]:
        """The limits of queues that `limit` has set, by the name of the queue."""
        found = self.operations.limits_at_begin.read()
        return {name: limit for name, limit in found.items() if limit != QueueLimit()}

    def purge(self, queue: str) -> int:
        """Cancel every waiting job of a queue, with the reason "purged"; returns the number of cancelled jobs.

        First deletes the messages that wait in the backend, if the backend's driver can do that. Running jobs are not
        affected. A job that is enqueued or changed during the call, or whose record cannot be written, may be left
        out. Raises ConfigurationError if `queue` is not a valid queue name.
        """
        return purging(self.operations, queue_name(queue)).run()

    # -- the system --------------------------------------------------------------------------------

    def check(self, *, workers: bool = False) -> Health:
        """Test whether the backend and the store can do what `enqueue` needs, and measure the time. Adds no job.

        The returned `Health` lists problems; they are not raised. It warns of environment variables without effect, of
        jobs whose messages could not be published, of paused queues, and, if there are no problems, of jobs that wait
        without a live worker. With `workers`, such waiting jobs are a problem. The driver and the store add warnings of
        their own.
        """
        return check_health(self.operations, workers=workers)

    def setup(self, *queues: str) -> None:
        """Create the tables and indexes of the store, and what the backend needs for these queues. Idempotent.

        Raises ConfigurationError if one of `queues` is not a valid queue name.
        """
        queues = tuple(queue_name(queue) for queue in queues)
        self.operations.store.setup()
        self.operations.driver.setup(queues)

    def worker(
        self,
        *queues: str,
        tasks: Iterable[Task[..., Any, Any]] = (),
        threads: int = 8,
        processes: int = 1,
        coroutines: int | None = None,
        burst: bool = False,
        grace: float = 30.0,
        wait: float | None = None,
        alive_file: str | os.PathLike[str] | None = None,
    ) -> Worker:
        """Make a worker for these queues; without names, for the queues of its tasks. `run` or `start` then runs it.

            queue.worker("emails", threads=4).run()

        `tasks`: the tasks that the worker knows; by default all registered tasks. Each of its `processes` runs at most
        `threads` plain tasks and `coroutines` `async def` tasks at once (default: the setting `coroutines`). On a
        backend without THREADS, `threads` x `processes` processes run one job each. `burst`: the worker ends when no
        job is due, none that it could run is queued, and none is running; it waits for jobs that are held by a limit.
        `grace`: seconds that running jobs have to end after `Worker.stop` or a signal. `wait`: seconds that the worker
        waits at its start for store and backend to answer. With None, the worker waits for the store only, without a
        limit. `alive_file`: a file for liveness probes, which each process of the worker touches about every second, or
        less often while the store does not answer.

        Raises ConfigurationError, Unsupported (several processes on a backend without PERSISTENT) and QueueClosed.
        """
        from queueport.workers.worker import Worker  # imported here, because it imports asyncio, which is slow

        self.operations  # noqa: B018  # raises QueueClosed
        options: dict[str, Any] = {"threads": threads, "processes": processes, "coroutines": coroutines}
        return Worker(self, queues, tasks=tasks, **options, burst=burst, grace=grace, wait=wait, alive_file=alive_file)

    def spec(self) -> dict[str, Any]:
        """The URL and settings, with passwords and keys, with which another process opens this queue. For workers."""
        settings = self.settings.model_dump(mode="json", exclude_defaults=True)
        if "keep_succeeded" in settings:
            keep = self.settings.keep_succeeded
            settings["keep_succeeded"] = f"{keep}s" if isinstance(keep, float) else str(keep)
        if self.settings.signing_key is not None:
            settings["signing_key"] = self.settings.signing_key.text
        return {"url": self._url.full, "settings": settings}

    @contextmanager
    def as_default(self) -> Iterator[Self]:
        """Make this queue the default of the process until the context ends, so that `Task.enqueue` uses this queue.

        Inside a task, the queue of the worker remains the default queue.
        """
        with default_queue.use(self.shared):
            yield self

    def close(self) -> None:
        """Close all connections. Does nothing on a second call, and on a `shared` queue."""
        if not self._closed and self._owner is None:
            self._closed = True
            self._operations.marks.close(self.settings.call_timeout)
            self._operations.driver.close()
            self._operations.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<JobQueue {self.url}>"


WAIT = 1.0
"""Maximum seconds to wait in the store for a result before the record is read again. After this time, a warning may be
logged about a task that waits without a timeout."""


REASON = 1000
"""The maximum number of characters of the reason of a pause."""


REASONS = {
    "cancelled": "this was requested",
    "expired": "it expired before an attempt began",
    "purged": "its queue was purged",
    "discarded": "it was discarded from the dead letters",
    "not_sent": "its enqueue failed",
    "parent_cancelled": "the job that it follows was cancelled or discarded",
    "not_needed": "no job of its batch died",
    "incomplete": "its producer was lost before all jobs that it follows were enqueued",
}
"""The text for each value of `JobStatus.reason`, in the error that `JobQueue.result` raises."""


def final_result(record: Record, task: ResultType[Any] | None) -> Any:
    """The result of a job in a final state, decoded as `JobQueue.result` describes.

    Raises JobFailed, JobCancelled, InvalidJob and ConfigurationError.
    """
    if record.state is JobState.DEAD:
        error = record.errors[-1] if record.errors else None
        why = "it is dead" if error is None else f"{error.type}: {error.message}"
        raise JobFailed(f"job {record.id} ({record.task}) failed: {why}", error)
    if record.state is JobState.CANCELLED:
        reason = REASONS.get(record.reason or "", record.reason)
        raise JobCancelled(f"job {record.id} ({record.task}) was cancelled: {reason}")
    known = registry.get(record.task) if task is None else task
    data = b"null" if record.result is None else record.result
    if known is not None:
        return known.decode_result(data)
    from queueport.job.arguments import decode_json  # imported here, because pydantic is slow to import

    return decode_json(data, "the result")

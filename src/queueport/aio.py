"""`AsyncJobQueue`: `JobQueue` for coroutines. Calls that do I/O run in threads.

For each queue, one thread waits for all jobs whose results or changes coroutines await, see `engine/watcher.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from queueport.capability import Capability, Limits
from queueport.context import warn_of_wait
from queueport.engine.arguments import seconds
from queueport.engine.enqueue import make_job, make_jobs
from queueport.errors import ConfigurationError, ResultTimeout
from queueport.job import AsyncJobHandle, Job, JobFilters, JobHandle, ResultType
from queueport.job.limits import QueueLimit
from queueport.job.recurrence import Schedule
from queueport.queue import WAIT, JobQueue, final_result
from queueport.queue.batch import Batch, BatchProgress
from queueport.spi.record import Record
from queueport.stats import Health, HistoryPoint, Pause, Stats
from queueport.status import CancelOutcome, JobState, JobStatus
from queueport.tasks import Task

__all__ = ["AsyncBatch", "AsyncDeadLetters", "AsyncJobHandle", "AsyncJobQueue", "AsyncSchedules"]

P = ParamSpec("P")
R = TypeVar("R")


class AsyncJobQueue:
    """A `JobQueue` for coroutines: its methods that do I/O are awaitable.

        aq = AsyncJobQueue(queue)
        handle = await aq.enqueue(send_email, 42)
        await handle.result(timeout=10)

    The methods raise the errors of `JobQueue`. `close`, and the end of an `async with` block, close the `JobQueue`,
    unless it is a `JobQueue.shared`.
    """

    def __init__(self, queue: JobQueue) -> None:
        given: object = queue
        if not isinstance(given, JobQueue):
            raise ConfigurationError(
                f"AsyncJobQueue takes a JobQueue, not {type(given).__name__}: pass for example get_queue(URL)"
            )
        self.sync = queue

    @property
    def url(self) -> str:
        """See `JobQueue.url`."""
        return self.sync.url

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `JobQueue.capabilities`."""
        return self.sync.capabilities

    @property
    def limits(self) -> Limits:
        """See `JobQueue.limits`."""
        return self.sync.limits

    @property
    def native(self) -> Any:
        """See `JobQueue.native`."""
        return self.sync.native

    @property
    def dead_letters(self) -> AsyncDeadLetters:
        """See `JobQueue.dead_letters`."""
        return AsyncDeadLetters(self)

    @property
    def schedules(self) -> AsyncSchedules:
        """See `JobQueue.schedules`."""
        return AsyncSchedules(self)

    @overload
    async def enqueue(self, task: Task[P, R, Any], /, *args: P.args, **kwargs: P.kwargs) -> AsyncJobHandle[R]: ...
    @overload
    async def enqueue(self, job: Job[R], /) -> AsyncJobHandle[R]: ...
    @overload
    async def enqueue(self, name: str, /, *args: Any, **kwargs: Any) -> AsyncJobHandle[Any]: ...
    async def enqueue(
        self, what: Task[Any, Any, Any] | Job[Any] | str, /, *args: Any, **kwargs: Any
    ) -> AsyncJobHandle[Any]:
        """See `JobQueue.enqueue`."""
        # The arguments are encoded before the thread runs, because the caller may change them while the thread runs.
        job = make_job(what, args, kwargs)
        return self._async_handle(await asyncio.to_thread(self.sync.enqueue, job))

    async def enqueue_many(self, jobs: Iterable[Job[R]]) -> list[AsyncJobHandle[R]]:
        """See `JobQueue.enqueue_many`."""
        return [self._async_handle(handle) for handle in await asyncio.to_thread(self.sync.enqueue_many, jobs)]

    async def batch(
        self,
        jobs: Iterable[Job[Any]],
        *,
        then: Job[Any] | None = None,
        on_dead: Job[Any] | None = None,
        batch_id: str | None = None,
    ) -> AsyncBatch:
        """See `JobQueue.batch`."""
        enqueue = partial(self.sync.batch, make_jobs("batch", jobs), then=then, on_dead=on_dead, batch_id=batch_id)
        return AsyncBatch(await asyncio.to_thread(enqueue))

    async def get_batch(self, batch_id: str) -> AsyncBatch:
        """See `JobQueue.get_batch`."""
        return AsyncBatch(await asyncio.to_thread(self.sync.get_batch, batch_id))

    @overload
    def handle(self, job_id: str, task: Task[..., R, Any]) -> AsyncJobHandle[R]: ...
    @overload
    def handle(self, job_id: str, task: None = None) -> AsyncJobHandle[Any]: ...
    def handle(self, job_id: str, task: Task[..., Any, Any] | None = None) -> AsyncJobHandle[Any]:
        """See `JobQueue.handle`."""
        return AsyncJobHandle(job_id, self, task)

    async def status(self, job_id: str) -> JobStatus:
        """See `JobQueue.status`."""
        return await asyncio.to_thread(self.sync.status, job_id)

    async def result(self, job_id: str, timeout: float | None = None, task: ResultType[Any] | None = None) -> Any:
        """Wait until the job has ended, at most `timeout` seconds (None: no limit), and return its result.

        The result is decoded to the return annotation of `task`. The errors are those of `JobQueue.result`. If a task
        waits without `timeout`, a warning is logged after about a second if the awaited job is waiting (scheduled,
        queued or retrying): the worker may have no free place for that job.
        """
        self.sync.check_wait(job_id)
        if timeout is not None:
            seconds("timeout", timeout, -math.inf)
        deadline = None if timeout is None else time.monotonic() + timeout
        warn_at = time.monotonic() + WAIT if timeout is None else math.inf
        record = await self._read(job_id)
        while not record.state.final:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise ResultTimeout(
                    f"job {job_id} is still {record.state} after {timeout:g} s: call result() again to wait longer, "
                    "and check that a live worker takes jobs from its queue"
                )
            if time.monotonic() >= warn_at:
                warn_of_wait(job_id, record.state, awaits=True)
                warn_at = math.inf
            try:
                async with asyncio.timeout(left):
                    record = await self._watch(job_id, READ_EVERY if warn_at == math.inf else WAIT)
            except TimeoutError:
                record = await self._read(job_id)
        return final_result(record, task)

    async def changes(self, job_id: str, every: float = 0.5) -> AsyncIterator[JobStatus]:
        """Yield the job's status now, and again each time it has changed, until the job has ended.

            async for status in aq.changes(job_id):
                print(status.state, status.progress)

        The job is read every `every` seconds, and as soon as it has ended. Of several changes between two reads, only
        the last one is seen. All coroutines that wait share one thread, and its reads.

        Raises JobNotFound, also if the job is deleted meanwhile, and ConfigurationError if `every` is not positive.
        """
        seconds("every", every)
        if not every > 0:
            raise ConfigurationError(f"every={every!r} is not a pause: pass a number of seconds greater than 0")
        record, seen = await self._read(job_id), None
        while True:
            status = self.sync.operations.status(record)
            if status != seen:
                yield status
                seen = status
            if record.state.final:
                return
            record = await self._watch(job_id, every)

    async def _read(self, job_id: str) -> Record:
        return await asyncio.to_thread(self.sync.operations.read, job_id)

    async def _watch(self, job_id: str, seconds: float) -> Record:
        return await asyncio.wrap_future(self.sync.watch(job_id, seconds))

    async def retry(self, job_id: str) -> AsyncJobHandle[Any]:
        """See `JobQueue.retry`."""
        return self._async_handle(await asyncio.to_thread(self.sync.retry, job_id))

    async def replay(
        self,
        job_id: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        new_id: str | None = None,
    ) -> AsyncJobHandle[Any]:
        """See `JobQueue.replay`."""
        return self._async_handle(await asyncio.to_thread(self.sync.replay, job_id, args, kwargs, new_id=new_id))

    async def cancel(self, job_id: str, interrupt: bool = True) -> CancelOutcome:
        """See `JobQueue.cancel`."""
        return await asyncio.to_thread(self.sync.cancel, job_id, interrupt)

    async def jobs(
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
        """See `JobQueue.jobs`."""
        return await asyncio.to_thread(self.sync.jobs, state, queue, task, limit, after, error=error, **more)

    async def count(
        self,
        state: JobState | str | None = None,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        *,
        error: str | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """See `JobQueue.count`."""
        return await asyncio.to_thread(self.sync.count, state, queue, task, error=error, **more)

    async def cancel_all(
        self,
        state: JobState | str | None = None,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        *,
        error: str | None = None,
        interrupt: bool = True,
        **more: Unpack[JobFilters],
    ) -> int:
        """See `JobQueue.cancel_all`."""
        cancel_all = partial(self.sync.cancel_all, state, queue, task, error=error, interrupt=interrupt, **more)
        return await asyncio.to_thread(cancel_all)

    async def stats(self) -> Stats:
        """See `JobQueue.stats`."""
        return await asyncio.to_thread(self.sync.stats)

    async def pause(self, queue: str, reason: str | None = None) -> None:
        """See `JobQueue.pause`."""
        await asyncio.to_thread(self.sync.pause, queue, reason)

    async def resume(self, queue: str) -> bool:
        """See `JobQueue.resume`."""
        return await asyncio.to_thread(self.sync.resume, queue)

    async def limit(
        self, queue: str, *, concurrency: int | None = None, rate: str | None = None, burst: int | None = None
    ) -> None:
        """See `JobQueue.limit`."""
        await asyncio.to_thread(self.sync.limit, queue, concurrency=concurrency, rate=rate, burst=burst)

    async def queue_limits(self) -> dict[str, QueueLimit]:
        """See `JobQueue.queue_limits`."""
        return await asyncio.to_thread(self.sync.queue_limits)

    async def paused(self) -> dict[str, Pause]:
        """See `JobQueue.paused`."""
        return await asyncio.to_thread(self.sync.paused)

    async def history(
        self,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        since: float | timedelta = 3600,
        step: float | timedelta = 60,
    ) -> list[HistoryPoint]:
        """See `JobQueue.history`."""
        return await asyncio.to_thread(self.sync.history, queue, task, since, step)

    async def purge(self, queue: str) -> int:
        """See `JobQueue.purge`."""
        return await asyncio.to_thread(self.sync.purge, queue)

    async def check(self, *, workers: bool = False) -> Health:
        """See `JobQueue.check`."""
        return await asyncio.to_thread(self.sync.check, workers=workers)

    async def setup(self, *queues: str) -> None:
        """See `JobQueue.setup`."""
        await asyncio.to_thread(self.sync.setup, *queues)

    async def close(self) -> None:
        """See `JobQueue.close`."""
        await asyncio.to_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _async_handle(self, handle: JobHandle[R]) -> AsyncJobHandle[R]:
        following = tuple([self._async_handle(each) for each in handle.follow_ups])
        return AsyncJobHandle(handle.id, self, handle.task, handle.created, handle.replaced, following)

    def __repr__(self) -> str:
        return f"<AsyncJobQueue {self.url}>"


class AsyncBatch:
    """`Batch` with awaitable methods."""

    def __init__(self, batch: Batch) -> None:
        self.sync = batch

    @property
    def id(self) -> str:
        """The id of the batch."""
        return self.sync.id

    async def progress(self) -> BatchProgress:
        """See `Batch.progress`."""
        return await asyncio.to_thread(self.sync.progress)

    async def jobs(self, state: JobState | str | None = None) -> AsyncIterator[JobStatus]:
        """See `Batch.jobs`."""
        found = self.sync.jobs(state)
        while (status := await asyncio.to_thread(next, found, None)) is not None:
            yield status

    async def follow_ups(self) -> list[JobStatus]:
        """See `Batch.follow_ups`."""
        return await asyncio.to_thread(self.sync.follow_ups)

    async def cancel(self, interrupt: bool = True) -> int:
        """See `Batch.cancel`."""
        return await asyncio.to_thread(self.sync.cancel, interrupt)

    async def retry(self) -> int:
        """See `Batch.retry`."""
        return await asyncio.to_thread(self.sync.retry)

    async def wait(self, timeout: float | None = None) -> BatchProgress:
        """See `Batch.wait`. Takes a thread for as long as it waits."""
        return await asyncio.to_thread(self.sync.wait, timeout)

    def __repr__(self) -> str:
        return f"<AsyncBatch {self.id}>"


class AsyncDeadLetters:
    """`DeadLetters` with awaitable methods."""

    def __init__(self, queue: AsyncJobQueue) -> None:
        self._queue = queue
        self._sync = queue.sync.dead_letters

    async def list(
        self,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        limit: int = 100,
        after: str | None = None,
        *,
        older_than: float | timedelta | None = None,
        **more: Unpack[JobFilters],
    ) -> list[JobStatus]:
        """See `DeadLetters.list`."""
        listing = self._sync.list
        return await asyncio.to_thread(listing, queue, task, error, limit, after, older_than=older_than, **more)

    async def get(self, job_id: str) -> JobStatus:
        """See `DeadLetters.get`."""
        return await asyncio.to_thread(self._sync.get, job_id)

    async def count(
        self,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        *,
        older_than: float | timedelta | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """See `DeadLetters.count`."""
        return await asyncio.to_thread(self._sync.count, queue, task, error, older_than=older_than, **more)

    async def retry(self, job_id: str) -> AsyncJobHandle[Any]:
        """See `DeadLetters.retry`."""
        await asyncio.to_thread(self._sync.retry, job_id)
        return self._queue.handle(job_id)

    async def retry_all(
        self,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """See `DeadLetters.retry_all`."""
        return await asyncio.to_thread(self._sync.retry_all, queue, task, error, **more)

    async def discard(self, job_id: str) -> None:
        """See `DeadLetters.discard`."""
        await asyncio.to_thread(self._sync.discard, job_id)

    async def purge(
        self,
        queue: str | None = None,
        older_than: float | timedelta | None = None,
        *,
        task: str | None = None,
        error: str | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """See `DeadLetters.purge`."""
        return await asyncio.to_thread(self._sync.purge, queue, older_than, task=task, error=error, **more)

    async def add(self, job: Job[Any], error: str) -> AsyncJobHandle[Any]:
        """See `DeadLetters.add`."""
        return self._queue._async_handle(await asyncio.to_thread(self._sync.add, job, error))


class AsyncSchedules:
    """`Schedules` with awaitable methods."""

    def __init__(self, queue: AsyncJobQueue) -> None:
        self._queue = queue
        self._sync = queue.sync.schedules

    async def add(
        self,
        name: str,
        job: Job[Any],
        *,
        every: float | timedelta | None = None,
        cron: str | None = None,
        timezone: str = "UTC",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: str = "one",
        overlap: bool = True,
    ) -> Schedule:
        """See `Schedules.add`."""
        times: dict[str, Any] = {"every": every, "cron": cron, "timezone": timezone, "start": start, "end": end}
        add = partial(self._sync.add, name, job, **times, catch_up=catch_up, overlap=overlap)
        return await asyncio.to_thread(add)

    async def list(self) -> list[Schedule]:
        """See `Schedules.list`."""
        return await asyncio.to_thread(self._sync.list)

    async def get(self, name: str) -> Schedule:
        """See `Schedules.get`."""
        return await asyncio.to_thread(self._sync.get, name)

    async def pause(self, name: str) -> Schedule:
        """See `Schedules.pause`."""
        return await asyncio.to_thread(self._sync.pause, name)

    async def resume(self, name: str) -> Schedule:
        """See `Schedules.resume`."""
        return await asyncio.to_thread(self._sync.resume, name)

    async def run_now(self, name: str) -> AsyncJobHandle[Any]:
        """See `Schedules.run_now`."""
        return self._queue._async_handle(await asyncio.to_thread(self._sync.run_now, name))

    async def remove(self, name: str) -> None:
        """See `Schedules.remove`."""
        await asyncio.to_thread(self._sync.remove, name)


READ_EVERY = 10.0
"""Maximum seconds between two reads of a record by a coroutine that waits for the job: retention may have deleted the
record meanwhile."""

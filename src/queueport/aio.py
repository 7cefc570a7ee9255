"""`AsyncJobQueue`: the same names, awaitable. Short calls go to threads; waiting for a result ties up none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, Generic, ParamSpec, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from queueport.capability import Capability, Limits
from queueport.enqueueing import made
from queueport.errors import BackendUnavailable, ResultTimeout
from queueport.job import Job
from queueport.queue import JobHandle, JobQueue
from queueport.record import Record
from queueport.stats import Health, Stats
from queueport.status import CancelOutcome, JobState, JobStatus
from queueport.store import JobStore
from queueport.tasks import Task

__all__ = ["AsyncDeadLetters", "AsyncJobHandle", "AsyncJobQueue"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AsyncJobHandle(Generic[R]):
    """`JobHandle` with awaitable methods."""

    id: str
    queue: AsyncJobQueue = field(repr=False, compare=False)
    task: Task[..., R, Any] | None = field(default=None, repr=False, compare=False)

    async def status(self) -> JobStatus:
        """See `JobHandle.status`."""
        return await self.queue.status(self.id)

    async def result(self, timeout: float | None = None) -> R:
        """See `JobHandle.result`; no thread is held while it waits."""
        value: R = self.queue.sync.decode_result(await self.queue.wait(self.id, timeout), self.task)
        return value

    async def cancel(self, interrupt: bool = True) -> CancelOutcome:
        """See `JobQueue.cancel`."""
        return await self.queue.cancel(self.id, interrupt)

    async def retry(self) -> AsyncJobHandle[R]:
        """See `JobQueue.retry`."""
        await self.queue.retry(self.id)
        return self


class AsyncJobQueue:
    """A `JobQueue` for coroutines: `aq = AsyncJobQueue(queue)`. Closing it closes the queue; errors are the same."""

    def __init__(self, queue: JobQueue) -> None:
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
        return (await self.enqueue_many([made(what, args, kwargs)]))[0]

    async def enqueue_many(self, jobs: Iterable[Job[R]]) -> list[AsyncJobHandle[R]]:
        """See `JobQueue.enqueue_many`."""
        return [self._mine(handle) for handle in await asyncio.to_thread(self.sync.enqueue_many, jobs)]

    @overload
    def handle(self, job_id: str, task: Task[..., R, Any]) -> AsyncJobHandle[R]: ...
    @overload
    def handle(self, job_id: str, task: None = None) -> AsyncJobHandle[Any]: ...
    def handle(self, job_id: str, task: Task[..., Any, Any] | None = None) -> AsyncJobHandle[Any]:
        """See `JobQueue.handle`; no I/O."""
        return AsyncJobHandle(job_id, self, task)

    async def status(self, job_id: str) -> JobStatus:
        """See `JobQueue.status`."""
        return await asyncio.to_thread(self.sync.status, job_id)

    async def result(self, job_id: str, timeout: float | None = None) -> Any:
        """See `JobQueue.result`; no thread is held while it waits."""
        return self.sync.decode_result(await self.wait(job_id, timeout), None)

    async def retry(self, job_id: str) -> AsyncJobHandle[Any]:
        """See `JobQueue.retry`."""
        return self._mine(await asyncio.to_thread(self.sync.retry, job_id))

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
    ) -> list[JobStatus]:
        """See `JobQueue.jobs`."""
        return await asyncio.to_thread(self.sync.jobs, state, queue, task, limit, after)

    async def stats(self) -> Stats:
        """See `JobQueue.stats`."""
        return await asyncio.to_thread(self.sync.stats)

    async def purge(self, queue: str) -> int:
        """See `JobQueue.purge`."""
        return await asyncio.to_thread(self.sync.purge, queue)

    async def check(self) -> Health:
        """See `JobQueue.check`."""
        return await asyncio.to_thread(self.sync.check)

    async def setup(self, *queues: str) -> None:
        """See `JobQueue.setup`."""
        await asyncio.to_thread(self.sync.setup, *queues)

    async def close(self) -> None:
        """See `JobQueue.close`."""
        await asyncio.to_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def wait(self, job_id: str, timeout: float | None) -> Record:
        """The job's record in its final state; for handles."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            record = await asyncio.to_thread(self.sync.read, job_id)
            left = LOOK if deadline is None else min(LOOK, deadline - time.monotonic())
            if record.state.final:
                return record
            if left <= 0:
                raise ResultTimeout(f"job {job_id} is still {record.state} after {timeout:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    store = self.sync.operations.store
                    await _Waiter.of(store).final(store, job_id)

    def _mine(self, handle: JobHandle[R]) -> AsyncJobHandle[R]:
        return AsyncJobHandle(handle.id, self, handle.task)

    def __repr__(self) -> str:
        return f"<AsyncJobQueue {self.url}>"


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
    ) -> list[JobStatus]:
        """See `DeadLetters.list`."""
        return await asyncio.to_thread(self._sync.list, queue, task, error, limit, after)

    async def get(self, job_id: str) -> JobStatus:
        """See `DeadLetters.get`."""
        return await asyncio.to_thread(self._sync.get, job_id)

    async def count(self, queue: str | None = None, task: str | None = None, error: str | None = None) -> int:
        """See `DeadLetters.count`."""
        return await asyncio.to_thread(self._sync.count, queue, task, error)

    async def retry(self, job_id: str) -> AsyncJobHandle[Any]:
        """See `DeadLetters.retry`."""
        await asyncio.to_thread(self._sync.retry, job_id)
        return self._queue.handle(job_id)

    async def retry_all(self, queue: str | None = None, task: str | None = None, error: str | None = None) -> int:
        """See `DeadLetters.retry_all`."""
        return await asyncio.to_thread(self._sync.retry_all, queue, task, error)

    async def discard(self, job_id: str) -> None:
        """See `DeadLetters.discard`."""
        await asyncio.to_thread(self._sync.discard, job_id)

    async def purge(self, queue: str | None = None, older_than: float | timedelta | None = None) -> int:
        """See `DeadLetters.purge`."""
        return await asyncio.to_thread(self._sync.purge, queue, older_than)

    async def add(self, job: Job[Any], error: str) -> AsyncJobHandle[Any]:
        """See `DeadLetters.add`."""
        await asyncio.to_thread(self._sync.add, job, error)
        return self._queue.handle(job.id)


class _Waiter:
    """One thread for a store, alive while anything waits: it waits for all the jobs at once."""

    _all: ClassVar[WeakKeyDictionary[JobStore, _Waiter]] = WeakKeyDictionary()
    _making = threading.Lock()

    def __init__(self) -> None:  # it does not keep the store, which would keep both for ever
        self._lock = threading.Lock()
        self._calls: dict[str, list[Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, store: JobStore) -> _Waiter:
        with cls._making:
            return cls._all.setdefault(store, cls())

    async def final(self, store: JobStore, job_id: str) -> None:
        """Return when the job is final, or gone."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def call() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)

        self._add(store, job_id, call)
        try:
            await ended.wait()
        finally:
            self._remove(job_id, call)

    def _add(self, store: JobStore, job_id: str, call: Callable[[], None]) -> None:
        with self._lock:
            self._calls.setdefault(job_id, []).append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=[store], name="queueport-results", daemon=True)
                self._thread.start()

    def _remove(self, job_id: str, call: Callable[[], None]) -> None:
        with self._lock:
            calls = self._calls.get(job_id, [])
            if call in calls:
                calls.remove(call)
            if not calls:
                self._calls.pop(job_id, None)

    def _run(self, store: JobStore) -> None:
        while True:
            with self._lock:
                ids = list(self._calls)
                if not ids:
                    self._thread = None
                    return
            try:
                found = [record.id for record in store.wait(ids, SLICE)]
            except BackendUnavailable:
                time.sleep(SLICE)
                continue
            with self._lock:
                calls = [call for job_id in found for call in self._calls.pop(job_id, [])]
            for call in calls:
                call()


LOOK = 10.0
"""Seconds after which a waiting coroutine reads the record itself: retention may have removed it."""
SLICE = 0.05
"""Seconds of one wait of the thread: so long a job asked for meanwhile is not yet waited for."""

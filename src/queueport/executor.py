"""Runs begun jobs in one process: plain ones in the thread that brings them, `async def` ones in an event loop; and the
drain at the end. For queueport's own worker, and for drivers whose framework has threads of its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from queueport.attempt import Attempt, Why
from queueport.driver import Work
from queueport.errors import BackendUnavailable
from queueport.heartbeat import STUCK_AFTER
from queueport.record import Record
from queueport.runner import Runner, Verdict
from queueport.status import JobError, JobState

__all__ = ["COROUTINES", "LOOK", "Delivered", "Executor"]

logger: logging.Logger = logging.getLogger("queueport")

COROUTINES = 100
"""`async def` tasks that run at once in a process."""
LOOK = 0.1
"""Seconds between two looks at what has changed."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a message that a framework delivered: whether it is to be acknowledged or put aside, and the job
    after its attempt has ended here. `record` is None where none was made, or where it goes on beside the caller.
    """

    verdict: Verdict
    record: Record | None = None

    @property
    def error(self) -> JobError | None:
        """What the attempt failed with, for the framework's own tools; None where it did not."""
        failed = self.record is not None and self.record.state in (JobState.RETRYING, JobState.DEAD)
        return self.record.errors[-1] if self.record is not None and failed and self.record.errors else None


class Executor:
    """What runs in this process on behalf of a worker. Thread-safe; `close` it after the last job."""

    def __init__(self, runner: Runner, work: Work) -> None:
        self._runner = runner
        self._work = work
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._finishers = ThreadPoolExecutor(work.threads, "queueport-finish")
        self._coroutines: set[asyncio.Task[None]] = set()
        self._coroutine_slots = threading.Semaphore(COROUTINES)
        self._ended = threading.Condition()

    def deliver(self, body: bytes) -> Delivered:
        """Begin and run what a framework delivered, in its thread; an `async def` task goes on beside it.

        Blocks until the store answers. Once this is stopped nothing is begun any more, and the job goes to others.
        """
        if self._work.stop.is_set() or self.retired:
            return Delivered(self._runner.hand_on(body))
        found = self._runner.begin([body])[0]
        if isinstance(found, Verdict):
            return Delivered(found)
        if found.task.is_async:
            self._coroutine_slots.acquire()
            self.spawn(found, lambda _: self._coroutine_slots.release())
            return Delivered(Verdict.ACKNOWLEDGE)
        return Delivered(Verdict.ACKNOWLEDGE, self.run(found))

    def wait(self) -> None:
        """Until this worker is to take no more jobs: it was stopped, has retired, or nothing is due in a burst."""
        idle = 0
        while idle < 2 and not self._work.stop.wait(LOOK) and not self.retired:
            idle = idle + 1 if self._work.burst and self._nothing_due() else 0

    def _nothing_due(self) -> bool:
        operations = self._runner.operations
        try:
            moved, counts = operations.dispatch(100, leases=False), operations.store.stats().queues
        except BackendUnavailable as error:
            logger.warning("the worker waits: %s", error)
            return False
        queued = sum(counts[name].states.get(JobState.QUEUED, 0) for name in self._runner.queues if name in counts)
        return not moved and not queued and not self._runner.heartbeat.running()

    def run(self, attempt: Attempt) -> Record | None:
        """Run a plain task in this thread; blocks until its end is recorded. The job as it is then, if known."""
        try:
            return self._runner.run(attempt)
        except Exception:
            logger.exception("job %s: its end could not be recorded; its lease will lapse", attempt.record.id)
            self._runner.heartbeat.remove(attempt)
            return None
        finally:
            self._notify()

    def spawn(self, attempt: Attempt, ended: Callable[[Attempt], object] = lambda _: None) -> None:
        """Run an `async def` task in the event loop, beside the caller; `ended` is called there when it is over."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_loop, args=[self._loop], name="queueport-async", daemon=True).start()
        self._loop.call_soon_threadsafe(self._start, self._loop, attempt, ended)

    def _start(self, loop: asyncio.AbstractEventLoop, attempt: Attempt, ended: Callable[[Attempt], object]) -> None:
        task = loop.create_task(self._coroutine(loop, attempt, ended))
        self._coroutines.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._coroutines.discard)

    async def _coroutine(
        self, loop: asyncio.AbstractEventLoop, attempt: Attempt, ended: Callable[[Attempt], object]
    ) -> None:
        try:
            if await loop.run_in_executor(self._finishers, self._runner.ready, attempt):
                outcome = await loop.create_task(self._runner.run_async(attempt, loop))
                await loop.run_in_executor(self._finishers, self._runner.finish, attempt, outcome)
        except Exception:
            logger.exception("job %s: its end could not be recorded; its lease will lapse", attempt.record.id)
            self._runner.heartbeat.remove(attempt)
        ended(attempt)
        self._notify()

    # -- the end -----------------------------------------------------------------------------------

    @property
    def retired(self) -> bool:
        """Code that cannot be interrupted ends this process's work, where it has the process to itself."""
        return self._work.owns_process and bool(self._runner.heartbeat.stuck())

    def drain(self) -> None:
        """Let running jobs end; past the grace period give back those that can be stopped, and leave the others."""
        heartbeat = self._runner.heartbeat
        self._wait_until_idle()
        for attempt in heartbeat.running():
            attempt.interrupt(Why.STOP)
        self._wait_until_idle(STUCK_AFTER)
        for attempt in heartbeat.running():
            try:
                self._leave(attempt)
            except BackendUnavailable as error:
                logger.warning("job %s is left to its lease: %s", attempt.record.id, error)

    def close(self) -> None:
        """Let go of the event loop; what still runs there ends with the process."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._finishers.shutdown(wait=False)

    def _notify(self) -> None:
        with self._ended:
            self._ended.notify_all()

    def _wait_until_idle(self, seconds: float | None = None) -> None:
        """Until nothing runs but what is stuck; so many seconds at most, or the grace period once this is stopped."""
        heartbeat = self._runner.heartbeat
        deadline = None if seconds is None else time.monotonic() + seconds
        while len(heartbeat.running()) > len(stuck := heartbeat.stuck()):
            if deadline is None and self._work.stop.is_set():
                deadline = time.monotonic() + self._work.grace
            if deadline is not None and time.monotonic() > deadline:
                return
            if any(attempt.task.is_async for attempt in stuck):  # it holds up the loop, and all coroutines with it
                for attempt in heartbeat.running():
                    if attempt.task.is_async:
                        attempt.interrupt(Why.STOP)
            with self._ended:
                self._ended.wait(LOOK)

    def _leave(self, attempt: Attempt) -> None:
        """Its code ends with this process. Its end is for others to record: they must not begin it before."""
        if attempt.why is Why.STOP or not self._work.owns_process:
            logger.warning("job %s cannot be interrupted; its lease ends with this process", attempt.record.id)
            self._runner.leave_running(attempt)
        else:
            self._work.stuck.append(self._runner.describe_stuck(attempt))
            self._runner.heartbeat.beat([attempt])


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The event loop's thread: it runs until it is stopped, and leaves nothing open."""
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()

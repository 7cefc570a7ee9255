"""Queueport's own worker within one process: threads for tasks, one event loop for `async def` tasks, and the drain.

For drivers without workers of their own: `run(intake, runner, work)`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from queueport import supervisor
from queueport.attempt import Attempt, Why
from queueport.driver import Work
from queueport.errors import BackendUnavailable
from queueport.heartbeat import STUCK_AFTER
from queueport.runner import Runner

__all__ = ["Intake", "Pool", "run"]

logger: logging.Logger = logging.getLogger("queueport")

COROUTINES = 100
"""`async def` tasks that run at once in a process."""
ROOM = 0.1
"""Seconds that a busy worker waits for room before it looks whether it is to stop."""


class Intake(ABC):
    """Where a pool's jobs come from."""

    filters: bool
    """It can be asked for some tasks only."""
    wait: float = 0.5
    """Seconds that an idle worker waits for work before it looks whether it is to stop."""

    @abstractmethod
    def next(self, tasks: Sequence[str], limit: int, wait: float) -> Sequence[Attempt]:
        """At most `limit` begun jobs of these tasks, waiting up to `wait` seconds. Raises BackendUnavailable."""


def run(intake: Intake, runner: Runner, work: Work) -> None:
    """Run jobs here, or in as many processes as asked for; returns when stopped and drained."""
    if work.processes > 1:
        supervisor.run(runner, work)
    else:
        Pool(intake, runner, work).run()


class Pool:
    """Slots for running jobs. `run` blocks in the thread that calls it."""

    def __init__(self, intake: Intake, runner: Runner, work: Work) -> None:
        self._intake = intake
        self._runner = runner
        self._work = work
        self._plain = [name for name, task in runner.tasks.items() if not task.is_async]
        self._async = [name for name, task in runner.tasks.items() if task.is_async]
        self._room = {False: work.threads if self._plain else 0, True: COROUTINES if self._async else 0}
        self._free = threading.Condition()
        self._jobs: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finishers = ThreadPoolExecutor(work.threads, "queueport-finish")
        self._coroutines: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Run jobs until `work.stop` is set, or, in a burst, until nothing is due."""
        for number in range(self._room[False]):
            threading.Thread(target=self._thread, name=f"queueport-{number}", daemon=True).start()
        if self._async:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_run_loop, args=[self._loop], name="queueport-async", daemon=True).start()
        try:
            self._feed()
            self._drain()
        finally:
            self._work.stop.set()
            for _ in range(self._work.threads):
                self._jobs.put(None)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._finishers.shutdown(wait=False)

    # -- taking jobs -------------------------------------------------------------------------------

    def _feed(self) -> None:
        pause, idle = 0.0, 0
        while not self._work.stop.wait(pause) and not self._retired() and idle < 2:
            try:
                busy = self._feed_once()
                idle = idle + 1 if self._work.burst and not busy and self._nothing_due() else 0
                pause = 0.0  # and once more when idle: another thread may just have queued something
            except BackendUnavailable as error:
                logger.warning("the worker waits: %s", error)
                pause = _longer(pause)
            except Exception:
                logger.exception("the worker met an error it does not know, and goes on")
                pause = _longer(pause)

    def _feed_once(self) -> bool:
        """Fill free slots, once; False when nothing runs and nothing came."""
        tasks, limit = self._wanted()
        full = len(tasks) < len(self._plain) + len(self._async)  # for some: wait for their room, not for the others
        wait = 0.0 if full or (self._work.burst and self._intake.filters) else self._intake.wait
        attempts = self._intake.next(tasks, limit, wait) if limit else []
        for attempt in attempts:
            self._start(attempt)
        if full and not attempts:
            with self._free:
                self._free.wait_for(lambda: self._wanted()[0] != tasks, ROOM)
            return True
        if not attempts and self._work.burst and self._runner.heartbeat.running():
            self._wait_for_room()
            return True
        return bool(attempts)

    def _wanted(self) -> tuple[list[str], int]:
        """Which tasks there is room for, and for how many jobs at the most."""
        with self._free:
            kinds = {kind: names for kind, names in ((False, self._plain), (True, self._async)) if names}
            roomy = [kind for kind in kinds if self._room[kind] > 0]
            if not roomy or (len(roomy) < len(kinds) and not self._intake.filters):
                return [], 0
            return [name for kind in roomy for name in kinds[kind]], min(self._room[kind] for kind in roomy)

    def _wait_for_room(self) -> None:
        with self._free:
            self._free.wait(ROOM)

    def _nothing_due(self) -> bool:
        return not self._runner.operations.dispatch(100, leases=False) and not self._runner.heartbeat.running()

    def _retired(self) -> bool:
        """Code that cannot be interrupted ends this process's work, where it has the process to itself."""
        return self._work.owns_process and bool(self._runner.heartbeat.stuck())

    # -- running them ------------------------------------------------------------------------------

    def _start(self, attempt: Attempt) -> None:
        with self._free:
            self._room[attempt.task.is_async] -= 1
        if attempt.task.is_async and self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_coroutine, self._loop, attempt)
        else:
            self._jobs.put(attempt)

    def _thread(self) -> None:
        while (attempt := self._jobs.get()) is not None:
            try:
                self._runner.run(attempt)
            except Exception:
                logger.exception("job %s: its end could not be recorded; its lease will lapse", attempt.record.id)
                self._runner.heartbeat.remove(attempt)
            self._ended(attempt)

    def _start_coroutine(self, loop: asyncio.AbstractEventLoop, attempt: Attempt) -> None:
        task = loop.create_task(self._coroutine(loop, attempt))
        self._coroutines.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._coroutines.discard)

    async def _coroutine(self, loop: asyncio.AbstractEventLoop, attempt: Attempt) -> None:
        try:
            if await loop.run_in_executor(self._finishers, self._runner.ready, attempt):
                outcome = await loop.create_task(self._runner.run_async(attempt, loop))
                await loop.run_in_executor(self._finishers, self._runner.finish, attempt, outcome)
        except Exception:
            logger.exception("job %s: its end could not be recorded; its lease will lapse", attempt.record.id)
            self._runner.heartbeat.remove(attempt)
        self._ended(attempt)

    def _ended(self, attempt: Attempt) -> None:
        with self._free:
            self._room[attempt.task.is_async] += 1
            self._free.notify_all()

    # -- the end -----------------------------------------------------------------------------------

    def _drain(self) -> None:
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
            self._wait_for_room()

    def _leave(self, attempt: Attempt) -> None:
        """Its code ends with this process. Its end is for others to record: they must not begin it before."""
        if attempt.why is Why.STOP or not self._work.owns_process:
            logger.warning("job %s cannot be interrupted; its lease ends with this process", attempt.record.id)
            self._runner.leave_running(attempt)
        else:
            self._work.stuck.append(self._runner.describe_stuck(attempt))
            self._runner.heartbeat.beat([attempt])


def _longer(pause: float) -> float:
    return min(max(pause * 2, 0.05), 2.0)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The event loop's thread: it runs until it is stopped, and leaves nothing open."""
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()

"""Queueport's own worker within one process: threads that run what an intake brings, as long as there is room.

For drivers without workers of their own: `run(intake, runner, work)`.
"""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from queueport import supervisor
from queueport.attempt import Attempt
from queueport.driver import Work
from queueport.errors import BackendUnavailable
from queueport.executor import COROUTINES, LOOK, Executor
from queueport.runner import Runner

__all__ = ["Intake", "Pool", "run"]

logger: logging.Logger = logging.getLogger("queueport")


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
        self._executor = Executor(runner, work)
        self._plain = [name for name, task in runner.tasks.items() if not task.is_async]
        self._async = [name for name, task in runner.tasks.items() if task.is_async]
        self._room = {False: work.threads if self._plain else 0, True: COROUTINES if self._async else 0}
        self._free = threading.Condition()
        self._jobs: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Run jobs until `work.stop` is set, or, in a burst, until nothing is due."""
        for number in range(self._room[False]):
            threading.Thread(target=self._thread, name=f"queueport-{number}", daemon=True).start()
        try:
            self._feed()
            self._executor.drain()
        finally:
            self._work.stop.set()
            for _ in range(self._work.threads):
                self._jobs.put(None)
            self._executor.close()

    # -- taking jobs -------------------------------------------------------------------------------

    def _feed(self) -> None:
        pause, idle = 0.0, 0
        while not self._work.stop.wait(pause) and not self._executor.retired and idle < 2:
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
                self._free.wait_for(lambda: self._wanted()[0] != tasks, LOOK)
            return True
        if not attempts and self._work.burst and self._runner.heartbeat.running():
            with self._free:
                self._free.wait(LOOK)
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

    def _nothing_due(self) -> bool:
        return not self._runner.operations.dispatch(100, leases=False) and not self._runner.heartbeat.running()

    # -- running them ------------------------------------------------------------------------------

    def _start(self, attempt: Attempt) -> None:
        with self._free:
            self._room[attempt.task.is_async] -= 1
        if attempt.task.is_async:
            self._executor.spawn(attempt, self._ended)
        else:
            self._jobs.put(attempt)

    def _thread(self) -> None:
        while (attempt := self._jobs.get()) is not None:
            self._executor.run(attempt)
            self._ended(attempt)

    def _ended(self, attempt: Attempt) -> None:
        with self._free:
            self._room[attempt.task.is_async] += 1
            self._free.notify_all()


def _longer(pause: float) -> float:
    return min(max(pause * 2, 0.05), 2.0)

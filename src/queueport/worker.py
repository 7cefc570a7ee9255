"""`queue.worker(...)`: runs jobs until told to stop, the dispatcher beside it. For applications and the command."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from queueport import connect, hooks
from queueport.capability import Capability
from queueport.dispatcher import Dispatcher
from queueport.driver import Work
from queueport.errors import ConfigurationError, Unsupported
from queueport.job import QUEUE_NAME
from queueport.retry import importable
from queueport.runner import Runner
from queueport.tasks import Task, registry
from queueport.url import KeepCount

if TYPE_CHECKING:
    from queueport.queue import JobQueue

__all__ = ["Worker"]

logger: logging.Logger = logging.getLogger("queueport")


class Worker:
    """Made by `JobQueue.worker`. Run it once: `run()` blocks, `start()` or `with` runs it beside the caller.

    Raises ConfigurationError where there is no task to run, or where one's annotations cannot be resolved.
    """

    def __init__(
        self,
        queue: JobQueue,
        queues: Sequence[str],
        *,
        tasks: Iterable[Task[..., Any, Any]] = (),
        threads: int = 8,
        processes: int = 1,
        burst: bool = False,
        grace: float = 30.0,
    ) -> None:
        for name, number in (("threads", threads), ("processes", processes)):
            if type(number) is not int or number < 1:
                raise ConfigurationError(f"{name} must be a whole number, 1 or more, not {number!r}")
        if not grace >= 0:
            raise ConfigurationError(f"grace must be a number of seconds, 0 or more, not {grace!r}")
        if threads > 1 and Capability.THREADS not in queue.capabilities:
            logger.info("%s runs one job in a process: %d processes", queue.backend, threads * processes)
            threads, processes = 1, threads * processes
        if processes > 1 and Capability.PERSISTENT not in queue.capabilities:
            raise Unsupported(
                f"{queue.backend} lives in one process: use processes=1, or a URL such as sqlite:///jobs.db"
            )
        self._queue = queue
        self._tasks = list(tasks) or registry.tasks()
        if not self._tasks:
            raise ConfigurationError(
                "no task is registered: import the modules that declare them before making a worker"
            )
        for task in self._tasks:
            task.signature.resolve()
        for name in queues:
            if not QUEUE_NAME.fullmatch(name):
                raise ConfigurationError(f"{name!r} is no queue's name: those are letters, digits, _, - and .")
        of_tasks = sorted({task.queue for task in self._tasks})
        self.queues: tuple[str, ...] = tuple(dict.fromkeys(queues or of_tasks))
        self._work = Work(self.queues, threads, processes, burst, grace, child=None)
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._stopped = False
        known = {name: task for task in self._tasks for name in (task.name, *task.aliases)}
        enter = partial(connect.worker_queue.set, queue)
        self._runner = Runner(queue.operations, known, self.queues, enter)

    @property
    def name(self) -> str:
        """What the job's status calls this worker; with several processes each has a name of its own."""
        return self._runner.name

    @property
    def stopped(self) -> bool:
        """Whether somebody has stopped it; a burst, or code that cannot be interrupted, ends `run` without."""
        return self._stopped

    @property
    def idle(self) -> bool:
        """Whether no task's code runs here; False after `run` where some cannot be interrupted."""
        return not self._runner.heartbeat.running()

    def run(self, *, owns_process: bool = False) -> list[dict[str, Any]]:
        """Run jobs; blocks until stopped, or, in a burst, until nothing is due. SIGTERM and SIGINT stop it.

        `owns_process`: nothing else needs this process, so that code which cannot be interrupted may end with it;
        such attempts come back, for the process that is started next (`finish_stuck`).
        """
        with self._signals(signal.SIGTERM, signal.SIGINT):
            return self._run(owns_process)

    def start(self) -> Self:
        """Run jobs in a thread beside the caller. Raises Unsupported where the backend lacks THREADS."""
        if Capability.THREADS not in self._queue.capabilities:
            raise Unsupported(
                f"{self._queue.backend} runs workers as processes of their own: use run(), or queueport worker"
            )
        self._thread = threading.Thread(target=self._run_beside, name="queueport-worker", daemon=True)
        self._thread.start()
        return self

    def stop(self, *, wait: bool = True) -> None:
        """Take no more jobs and let the running ones end, for `grace` seconds. From any thread; idempotent.

        `wait`: return only when a started worker has ended. Raises what ended it before its time.
        """
        self._stopped = True
        self._work.stop.set()
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure

    def finish_stuck(self, stuck: Sequence[dict[str, Any]]) -> None:
        """Record the end of what `run` gave back in the process before this one."""
        for attempt in stuck:
            self._runner.finish_stuck(attempt)

    def run_process(self) -> list[dict[str, Any]]:
        """Run as one process of several: the parent has the dispatcher, and hears what is typed at the terminal."""
        with self._signals(signal.SIGTERM):
            return self._run(owns_process=True, dispatches=False)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run_beside(self) -> None:
        try:
            self._run(owns_process=False)
        except BaseException as error:
            self._failure = error
            logger.exception("the worker ended")

    def _run(self, owns_process: bool, dispatches: bool = True) -> list[dict[str, Any]]:
        settings = self._queue.settings
        keep = settings.keep_succeeded if isinstance(settings.keep_succeeded, KeepCount) else None
        self._work.owns_process = owns_process
        if self._work.processes > 1:
            self._work.child = self._child()
        dispatcher = Dispatcher(self._queue.operations, self._runner, keep=keep)
        logger.info("worker %s takes %s", self.name, ", ".join(self.queues))
        with self._queue.as_default():
            if self._work.processes == 1:
                self._runner.start()
            if dispatches or self._queue.driver.carries:  # for what was lost: each process knows what it received
                dispatcher.start()
            try:
                self._queue.driver.work(self._runner, self._work)
            finally:
                dispatcher.stop()
                self._runner.stop()
        logger.info("worker %s has ended", self.name)
        return self._work.stuck

    def _child(self) -> dict[str, Any]:
        """What a process of this worker needs to know, as plain JSON."""
        modules = list(dict.fromkeys(map(importable, (*hooks.modules(), *(task.__module__ for task in self._tasks)))))
        if "__main__" in modules:
            raise ConfigurationError(
                "tasks and hooks declared in a script cannot run in other processes: move them to a module"
            )
        options = {"threads": self._work.threads, "burst": self._work.burst, "grace": self._work.grace}
        root = logging.getLogger()
        formatter = root.handlers[0].formatter if root.handlers else None
        return {
            **self._queue.spec(),
            "path": sys.path,
            "modules": modules,
            "queues": self.queues,
            "tasks": [task.name for task in self._tasks],
            "options": options,
            "log_level": root.getEffectiveLevel(),
            "log_format": logging.BASIC_FORMAT if formatter is None else formatter._fmt,
        }

    @contextmanager
    def _signals(self, *numbers: signal.Signals) -> Iterator[None]:
        """Stop on these signals. A handler may interrupt anything, so it only leaves word for a thread that may act."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        seen: SimpleQueue[int] = SimpleQueue()

        def listen() -> None:
            while number := seen.get():
                logger.info("%s: the worker stops when its jobs have ended", signal.Signals(number).name)
                self.stop(wait=False)

        before = {number: signal.signal(number, lambda got, _: seen.put(got)) for number in numbers}
        threading.Thread(target=listen, name="queueport-signals", daemon=True).start()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            seen.put(0)

"""`Worker`, which runs jobs and a dispatcher until it is stopped. For applications and the command line."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self

from queueport import hooks
from queueport.capability import Capability
from queueport.context import EnqueuesJobs
from queueport.engine.arguments import queue_name, seconds
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.operations import Operations
from queueport.errors import BackendUnavailable, ConfigurationError, Unsupported, log_error
from queueport.retry import importable
from queueport.spi.runner import Work
from queueport.tasks import Task, registry
from queueport.workers import children, modules, supervisor
from queueport.workers.process import WorkerProcess

if TYPE_CHECKING:
    from queueport.spi.settings import Settings

__all__ = ["REPEATED", "Worker", "WorkerQueue"]

logger: logging.Logger = logging.getLogger("queueport")

REPEATED = 0.5
"""Signals within this number of seconds after the first signal are ignored. Programs such as `uv run` pass on a signal
that the whole process group has received, so that the worker receives it twice."""


class WorkerQueue(EnqueuesJobs, Protocol):
    """The members of `JobQueue` that a worker uses."""

    @property
    def url(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def operations(self) -> Operations: ...
    @property
    def shared(self) -> EnqueuesJobs: ...
    def spec(self) -> dict[str, Any]: ...
    def as_default(self) -> AbstractContextManager[Any]: ...


def _checked(tasks: object) -> list[Task[..., Any, Any]]:
    """The tasks of a worker as a list. Raises ConfigurationError if something else than a task is among them."""
    if isinstance(tasks, str | Task) or not isinstance(tasks, Iterable):
        raise ConfigurationError(f"tasks={tasks!r:.80} is not a list of tasks: pass for example tasks=[send_email]")
    found = list(tasks)
    for each in found:
        if not isinstance(each, Task):
            raise ConfigurationError(
                f"tasks= contains {each!r:.80}, which is not a task: pass functions that are decorated with @task"
            )
    return found


class Worker:
    """Takes jobs from queues and runs them. `JobQueue.worker` makes a worker; run each worker only once.

        queue.worker("emails").run()        # blocks until SIGTERM, SIGINT or SIGHUP
        with queue.worker("emails"):        # runs in threads of this process
            ...

    Raises ConfigurationError for a wrong option, if no task is registered, or if the annotations of a task cannot be
    resolved; and Unsupported for several processes on a backend without PERSISTENT.
    """

    def __init__(
        self,
        queue: WorkerQueue,
        queues: Sequence[str],
        *,
        tasks: Iterable[Task[..., Any, Any]] = (),
        threads: int = 8,
        processes: int = 1,
        coroutines: int | None = None,
        burst: bool = False,
        grace: float = 30.0,
        wait: float | None = None,
        alive_file: str | os.PathLike[str] | None = None,
    ) -> None:
        coroutines = queue.settings.coroutines if coroutines is None else coroutines
        for name, number in (("threads", threads), ("processes", processes), ("coroutines", coroutines)):
            if type(number) is not int or number < 1:
                raise ConfigurationError(f"{name} must be a whole number, 1 or more, not {number!r}")
        seconds("grace", grace)
        if wait is not None:
            seconds("wait", wait)
        self._queue = queue
        self._driver = driver = queue.operations.driver
        if threads > 1 and Capability.THREADS not in driver.capabilities:
            logger.info(
                "%s runs one job at a time in each process: starting %d processes", driver.name, threads * processes
            )
            threads, processes = 1, threads * processes
        if processes > 1 and Capability.PERSISTENT not in driver.capabilities:
            raise Unsupported(
                f"jobs of {driver.name} exist in one process only: use processes=1, or a URL such as sqlite:///jobs.db"
            )
        self._tasks = _checked(tasks) or registry.tasks()
        if not self._tasks:
            raise ConfigurationError(
                "no task is registered: import the modules that declare tasks before you make a worker"
            )
        for task in self._tasks:
            task.signature.resolve()
        for name in queues:
            queue_name(name)
        of_tasks = sorted({task.queue for task in self._tasks})
        self.queues: tuple[str, ...] = tuple(dict.fromkeys(queues or of_tasks))
        touched = None if alive_file is None else _touched(Path(alive_file))
        self._work = Work(self.queues, threads, processes, burst, grace, coroutines, touched)
        self._wait = wait
        self._folder = modules.working_directory()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._stopped = False
        self._beside: supervisor.Beside | None = None
        self._runner = WorkerProcess(queue.operations, self._tasks, self._work, queue.shared)

    @property
    def name(self) -> str:
        """The name of the worker in this process, as in `JobStatus.worker`. With several `processes`, each child
        process, which runs the jobs, has a name of its own.
        """
        return self._runner.name

    @property
    def stopped(self) -> bool:
        """True if `stop` was called or a signal arrived. The end of a burst, or a stuck attempt, does not set this."""
        return self._stopped

    @property
    def retired(self) -> bool:
        """True if `run` ends because of a stuck attempt, as soon as the worker takes no more jobs for this reason."""
        return self._runner.retired

    @property
    def idle(self) -> bool:
        """True if no attempt is running in this process. After `run`, False means that an attempt is stuck."""
        return not self._runner.heartbeat.running()

    def run(self, *, owns_process: bool = False) -> list[dict[str, Any]]:
        """Run jobs, and block until `stop`, SIGTERM, SIGINT or SIGHUP; in a burst, at the latest until no job is
        due, queued or running. After `stop` or a signal, wait for running jobs until the grace period is over. Jobs
        that still run then are interrupted and return to the queue; a job that cannot be interrupted returns when its
        lease lapses. A second signal, more than half a second after the first, interrupts the running jobs at once.

        Signals stop the worker only if `run` is called in the main thread. With several `processes`, the jobs run in
        child processes; raises ConfigurationError if a task or hook is declared in a script or a child cannot start.
        Raises BackendUnavailable if the store or the backend does not answer within `wait` seconds at the start.
        Returns an empty list, unless `owns_process` is set.

        With `owns_process`, if an attempt in this process is stuck, `run` also ends, when the other attempts have
        ended, and returns the stuck attempts. The caller must then exit, or start another program by exec, because only
        this ends the code of stuck attempts. After that, another program must pass each stuck attempt to
        `finish_stuck`. One of these signals that arrives after `run` has ended does not end the process; it only sets
        `stopped`.
        """
        if owns_process:
            self._runner.replace = self._start_beside
        with self._signals(*children.STOPPING, owns_process=owns_process):
            return self._run(owns_process, child=self._child() if self._work.processes > 1 else None)

    def start(self) -> Self:
        """Run jobs in threads of this process, or in several `processes`, and return at once.

        Raises Unsupported if the backend lacks THREADS. An error that ends the worker later is raised by `stop`.
        """
        if Capability.THREADS not in self._driver.capabilities:
            raise Unsupported(
                f"{self._driver.name} cannot run a worker in a thread: use run(), or the command queueport worker"
            )
        self._thread = threading.Thread(target=self._run_in_thread, name="queueport-worker", daemon=True)
        self._thread.start()
        return self

    def stop(self, *, wait: bool = True, grace: float | None = None) -> None:
        """Take no more jobs, and let running jobs end within the grace period. Idempotent; call it in any thread.

        Jobs that still run after the grace period are interrupted and return to the queue; a job that cannot be
        interrupted returns when its lease lapses.
        `grace` replaces the grace period, in seconds from the first call: a second call with `grace=0` interrupts the
        running jobs at once.
        With `wait`, a call after `start` returns when the worker has ended, and raises the error that ended the worker,
        if any. Otherwise, `stop` returns at once.
        """
        if grace is not None:
            seconds("grace", grace)
            self._work.grace = grace
        self._stopped = True
        self._work.stop.set()
        if self._beside is not None:
            self._beside.stop(self._work.grace)
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure

    def run_process(self, replace: Callable[[], object]) -> list[dict[str, Any]]:
        """Run jobs as `run` does with `owns_process`, in this process, which is a child process of a worker.

        Of the signals, only SIGTERM stops this process: the parent process handles SIGINT and SIGHUP, and runs a
        dispatcher. This process runs a dispatcher too if the backend carries messages.

        `replace` is called when this process takes no more jobs because a job is stuck. Other jobs may still run in
        this process. Returns the stuck attempts. A SIGTERM that arrives after the return does not end the process.
        """
        self._runner.replace = replace
        with self._signals(signal.SIGTERM, owns_process=True):
            return self._run(owns_process=True, dispatches=False)

    def supervise(self, adopted: Iterable[Sequence[int]]) -> None:
        """Like `run` with `owns_process`, but run the jobs in child processes. Returns nothing.

        `adopted` is the list that `replaced_by` returned before this process started its program again by exec. It
        describes children that already run.
        """
        running = [supervisor.Child.adopt(*each) for each in adopted]
        with self._signals(*children.STOPPING, owns_process=True):
            self._run(owns_process=True, child=self._child(), adopted=running)

    def replaced_by(self) -> list[list[int]]:
        """Describe the child processes that take jobs in place of this process, for `supervise` in the next program.
        Empty if there are none. Call this after `run`.
        """
        return [] if self._beside is None else self._beside.end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run_in_thread(self) -> None:
        try:
            self._run(owns_process=False, child=self._child() if self._work.processes > 1 else None)
        except BaseException as error:  # noqa: BLE001  # `stop` raises it
            self._failure = error
            log_error(logger, error, "an error ended the worker")

    def _start_beside(self) -> None:
        """Called if an attempt is stuck. If other jobs still run in this process, start a process that takes new jobs.

        If the backend lacks PERSISTENT, or if a task or hook is declared in a script, starts no process: this worker
        then takes no new jobs while its other jobs run, and no process takes jobs in its place.
        """
        others = len(self._runner.heartbeat.running()) > len(self._runner.heartbeat.stuck())
        if others and Capability.PERSISTENT in self._driver.capabilities:
            try:
                spec = self._child()
            except ConfigurationError as error:
                message = "a job is stuck: the worker takes no new jobs until its other jobs have ended, because %s"
                logger.warning(message, error)
            else:
                logger.warning("a job is stuck: another process takes new jobs, and this one finishes its other jobs")
                self._beside = supervisor.Beside(self._runner.operations, self._work, spec)
                if self._stopped:  # `stop` was called before `_beside` was set
                    self._beside.stop(self._work.grace)

    def _run(
        self,
        owns_process: bool,
        dispatches: bool = True,
        child: dict[str, Any] | None = None,
        adopted: Sequence[supervisor.Child] = (),
    ) -> list[dict[str, Any]]:
        """Run until the worker is stopped, its burst is over, or this process must exit because of a stuck attempt.
        Returns the stuck attempts whose end another program must record.

        `child` configures child processes that run the jobs; if `child` is None, this process runs the jobs.
        `dispatches` is False if the parent process runs a dispatcher: this process then runs one only if the backend
        carries messages.
        """
        self._work.owns_process = owns_process
        runner = self._runner
        dispatcher = Dispatcher(
            runner.operations,
            refresh=runner.heartbeat.refresh,
            received=runner.received,
            serves=1 if child is None or self._driver.carries else self._work.processes,
            tasks=self._tasks,
        )
        logger.info("worker %s takes jobs from %s", self.name, ", ".join(self.queues))
        runner.operations.pauses.expire()  # an old copy may still contain a queue that was resumed before this start
        with self._queue.as_default():
            started = runner.start if child is None else lambda: runner.announce(ttl=0.0)
            if not adopted and not self._wait_for_answer(started):  # adopted children run already: do not wait
                return []
            # If the backend carries messages, each process dispatches: a dispatcher knows only the messages that its
            # own process has received.
            if dispatches or self._driver.carries:
                dispatcher.start()
            try:
                if child is None:
                    self._driver.work(runner)
                else:
                    supervisor.run(runner.operations, self._work, child, adopted)
            finally:
                dispatcher.stop()
                runner.stop()
        logger.info("worker %s has ended", self.name)
        return self._work.stuck

    def _wait_for_answer(self, start: Callable[[], object]) -> bool:
        """Call `start` until the store answers. If the option `wait` was given, also wait until the backend answers.

        Touches the file for liveness probes before each call. Returns False if the worker is stopped during the wait.
        Raises BackendUnavailable if there is no answer within `wait` seconds.
        """
        runtime = self._runner.operations.runtime
        now = log_at = runtime.monotonic()
        deadline = math.inf if self._wait is None else now + self._wait
        interval, pause = 1.0, 0.1
        while True:
            self._runner.heartbeat.touch()
            try:
                if self._wait is not None:
                    self._driver.check()
                start()
                return True
            except BackendUnavailable as error:
                now = runtime.monotonic()
                if now >= deadline:
                    raise
                if now >= log_at:
                    logger.warning("worker %s waits at its start, and tries again: %s", self.name, error)
                    log_at, interval = now + interval, min(interval * 2, 60.0)
            if self._work.stop.wait(min(pause, deadline - now)):
                return False
            pause = min(pause * 2, 2.0)

    def _child(self) -> dict[str, Any]:
        """The configuration of a child process, as plain JSON. Raises ConfigurationError if a task or hook is declared
        in a script.
        """
        names = list(dict.fromkeys(map(importable, (*hooks.modules(), *(task.__module__ for task in self._tasks)))))
        if "__main__" in names:
            raise ConfigurationError(
                "tasks and hooks declared in a script cannot run in other processes: move them to a module"
            )
        options = {name: getattr(self._work, name) for name in ("threads", "coroutines", "burst", "grace")}
        options["alive_file"] = None if self._work.alive_file is None else str(self._work.alive_file)
        root = logging.getLogger()
        formatter = root.handlers[0].formatter if root.handlers else None
        return {
            **self._queue.spec(),
            "path": sys.path,
            "folder": self._folder,
            "modules": names,
            "queues": self.queues,
            "tasks": [task.name for task in self._tasks],
            "options": options,
            "log_level": root.getEffectiveLevel(),
            "log_format": logging.BASIC_FORMAT if formatter is None else formatter._fmt,
        }

    @contextmanager
    def _signals(self, *numbers: signal.Signals, owns_process: bool) -> Iterator[None]:
        """A context manager inside which the first of these signals stops the worker, if this is the main thread.

        A later signal interrupts the running jobs, unless it comes within REPEATED seconds after the first signal. If
        SIGHUP is ignored, it stays ignored. A signal handler may interrupt code that holds a lock. So the handler only
        sets `stopped` and notifies a thread, which calls `stop`. With `owns_process`, the handlers stay after the end
        of the context, because a signal must not end a process that still has to pass on its stuck attempts or its
        children.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        received: SimpleQueue[int] = SimpleQueue()

        def handle(number: int, _: object) -> None:
            self._stopped = True
            received.put(number)

        def listen() -> None:
            first: float | None = None
            while number := received.get():
                name = signal.Signals(number).name
                if first is None:
                    first = time.monotonic()
                    self.stop(wait=False)
                    message = "received %s: the worker stops when its jobs have ended, or are interrupted after %g s"
                    logger.info(message, name, self._work.grace)
                elif time.monotonic() - first > REPEATED:
                    logger.info("received %s: the running jobs are interrupted and return to the queue", name)
                    self.stop(wait=False, grace=0.0)

        handled = [n for n in numbers if n is not signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handle) for number in handled}
        threading.Thread(target=listen, name="queueport-signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # `hold_signals` has blocked them before an exec
        try:
            children.default_signals(True)
            yield
        finally:
            if not owns_process:
                children.default_signals(False)
                for number, handler in before.items():
                    signal.signal(number, handler)
                received.put(0)


def _touched(path: Path) -> Path:
    """Touch a file, and return its absolute path, because a task may change the working directory.

    Raises ConfigurationError if the file cannot be touched.
    """
    try:
        path.touch()
    except OSError as error:
        raise ConfigurationError(f"alive_file {str(path)!r} cannot be written: {error.strerror}") from error
    return path.absolute()

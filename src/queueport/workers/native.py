"""Runs jobs in a worker process that a framework's own command has started. For the `queueport_NAME.worker` modules.

With Celery and RQ, the parent process runs the dispatcher. With Dramatiq, each worker process runs one, because the
parent does not import queueport. Each process that runs jobs, which may be a fork of the parent, sends its own
heartbeats.

Operators set environment variables: QUEUEPORT_URL names the queue, QUEUEPORT_TASKS the modules that declare tasks,
QUEUEPORT_GRACE the grace period in seconds, QUEUEPORT_COROUTINES the maximum number of `async def` jobs that run at
once in each process, and QUEUEPORT_ALIVE_FILE a file that each process with heartbeats touches about every second, for
liveness probes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from queueport.engine.dispatcher import Dispatcher
from queueport.errors import BackendUnavailable, ConfigurationError, QueueportError
from queueport.spi.driver import Driver
from queueport.spi.message import Message, NotAMessage
from queueport.spi.runner import DeliveryResult, Work
from queueport.spi.settings import duration
from queueport.spi.url import hidden
from queueport.tasks import registry
from queueport.workers import children, modules
from queueport.workers.process import WorkerProcess
from queueport.workers.receiver import note_received
from queueport.workers.worker import WorkerQueue

__all__ = ["STUCK_EXIT_CODE", "NativeWorker", "own_driver", "starting"]

logger: logging.Logger = logging.getLogger("queueport")
D = TypeVar("D", bound=Driver)

GRACE, ALIVE_FILE = "QUEUEPORT_GRACE", "QUEUEPORT_ALIVE_FILE"
DEFAULT_GRACE = 30.0
"""The default grace period in seconds. `queueport worker --grace` has the same default."""
STUCK_EXIT_CODE = 1
"""The exit code of a process that exits because of stuck attempts."""


class NativeWorker:
    """A worker in a framework's processes. If the parent process imports queueport, it must make this object before it
    forks.

    Thread-safe. `queues` are the queues to take jobs from. `threads` is the maximum number of plain jobs that each
    process runs at once. `grace` is the number of seconds that running jobs have to end after `stop`.
    """

    def __init__(
        self, queue: WorkerQueue, queues: Sequence[str], *, threads: int = 1, grace: float = DEFAULT_GRACE
    ) -> None:
        self.queue = queue
        self.queues: tuple[str, ...] = tuple(queues)
        self.received: dict[tuple[str, int], float] = {}
        file = os.environ.get(ALIVE_FILE)
        self._work = Work(
            self.queues,
            threads,
            grace=grace,
            coroutines=queue.settings.coroutines,
            alive_file=Path(file).absolute() if file else None,
            owns_process=True,
        )
        self._folder = modules.working_directory()
        self._lock = threading.RLock()
        self._recording = threading.Lock()
        self._recorders: list[subprocess.Popen[bytes]] = []
        self._made_in = os.getpid()
        self._pid = 0
        self._process: WorkerProcess | None = None
        self._dispatcher: Dispatcher | None = None

    @classmethod
    def from_environment(cls, queue: WorkerQueue, queues: Sequence[str], *, threads: int = 1) -> NativeWorker:
        """Make a worker for this queue, and import the task modules that QUEUEPORT_TASKS names.

        Raises ConfigurationError if QUEUEPORT_GRACE is not a valid number of seconds, if a module cannot be imported,
        or if the annotations of a task cannot be resolved.
        """
        grace = _grace()
        modules.load(modules.environment())
        for task in registry.tasks():
            task.signature.resolve()
        return cls(queue, queues, threads=threads, grace=grace)

    def dispatch(self) -> None:
        """Start a dispatcher in this process, unless this object has started one before. `stop` ends the dispatcher."""
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(self.queue.operations, received=self.received, tasks=registry.tasks())
            self._dispatcher.start()

    def note(self, body: bytes) -> None:
        """Record that a message has arrived in this process, so that the dispatcher of this process can find lost
        messages that were sent before this message.
        """
        with suppress(NotAMessage):
            note_received(self.received, self.queues, Message.parse(body, self.queue.operations.signer))

    def read_pauses(self) -> None:
        """Read again which queues are paused, if this was last read more than a second ago.

        A parent that forks a process for each job calls this before the fork, so that the children need not read them.
        """
        with suppress(BackendUnavailable):  # the child tries again
            self.queue.operations.pauses.current()

    def deliver(self, body: bytes) -> DeliveryResult:
        """Begin and run the job of one message, as `JobRunner.deliver` does.

        Raises BackendUnavailable if the store does not answer while the worker stops: the message must then not be
        acknowledged.
        """
        return self.process.deliver(body)

    def begin(self) -> None:
        """Announce the worker and start the heartbeats, unless this was done before in this process. Call this in each
        process before its first job, and in the process that fetches the messages.

        A fork of the process that made this object is not announced, because it fetches no messages.
        """
        _ = self.process

    def hand_back(self, job_id: str) -> None:
        """Hand back the job that a forked process had received and not begun when the process was killed.

        Does nothing if the process had begun the job. Never raises: if the store does not answer, the search for lost
        messages finds the job later. A record that cannot be read is left to the verb that puts it aside.
        """
        operations = self.queue.operations
        try:
            operations.settle(job_id, operations.lifecycle.release)
        except QueueportError as error:
            logger.warning("job %s, whose process was killed, could not be handed back: %s", job_id, error)

    @property
    def process(self) -> WorkerProcess:
        """The runner of this process. The first use in a process makes and starts the runner; a forked child thus gets
        a runner of its own.
        """
        with self._lock:
            if self._process is None or self._pid != os.getpid():
                self._work.fetches = os.getpid() == self._made_in
                process = WorkerProcess(self.queue.operations, registry.tasks(), self._work, self.queue.shared)
                process.start(waits=True)  # `waits`, because a framework would not handle an error here
                children.default_signals(True)
                self._pid, self._process = os.getpid(), process
                threading.Thread(target=self._exit_if_stuck, name="queueport-watch", daemon=True).start()
                logger.info("worker %s takes jobs from %s", process.name, ", ".join(self.queues))
            return self._process

    def _exit_if_stuck(self) -> None:
        """Wait until this process is stopped, or must exit because of stuck attempts.

        If it must exit, wait until its other jobs have ended or are stuck, start the exit recorder, and end the
        process. The framework or its supervisor then replaces the process.
        """
        process = self.process
        process.wait()
        if process.must_exit:
            process.drain()
            logger.warning(
                "this process exits, because interrupted jobs did not end in time; %d of them still run",
                len(self._work.stuck),
            )
            self._start_recorder()
            logging.shutdown()
            os._exit(STUCK_EXIT_CODE)

    def _start_recorder(self) -> None:
        """Start the exit recorder for the stuck attempts, if there are any. The process must then exit."""
        with self._recording:  # the thread of `_exit_if_stuck` and the caller of `stop` may both call this
            if not self._work.stuck:
                return
            # A service manager may send SIGTERM to all processes of a service. The exit recorder inherits the blocked
            # signals, so they do not end it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, children.SIGNALS)
            # The recorder reads the line that is written below, then waits until its standard input closes, which
            # happens when this process exits. Keep the Popen object, because the pipe would be closed with it.
            recorder = subprocess.Popen(
                [sys.executable, "-m", "queueport.cli.record_stuck"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # a signal to the group of this process must not end the recorder
                cwd=modules.existing(self._folder),  # a task may have changed the working directory of this process
            )
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if recorder.stdin is not None:
                spec = {**self.queue.spec(), "path": sys.path, "stuck": self._work.stuck}
                recorder.stdin.write(json.dumps(spec).encode() + b"\n")
                recorder.stdin.flush()
            self._recorders.append(recorder)
            self._work.stuck.clear()

    def stop(self) -> None:
        """Begin no more jobs, stop the dispatcher, let running jobs end within the grace period, and stop the
        heartbeats.

        Jobs that still run after the grace period are interrupted before the heartbeats stop. If a job cannot be
        interrupted, `process.must_exit` is True afterwards, and the process must exit: an exit recorder waits for that.
        Idempotent.
        """
        self._work.stop.set()
        if self._dispatcher is not None:
            self._dispatcher.stop()
        if self._process is not None and self._pid == os.getpid():
            self._process.drain()
            self._start_recorder()
            self._process.stop()
            self._process.close()


def own_driver(queue: WorkerQueue, kind: type[D], example: str) -> D:
    """The queue's driver, which must be of class `kind`. Raises ConfigurationError if it is of another class.

    `example` is a valid URL, which the error shows.
    """
    driver = queue.operations.driver
    if not isinstance(driver, kind):
        raise ConfigurationError(
            f"QUEUEPORT_URL is {queue.url}, from which this worker cannot take jobs: set it to a URL such as {example}"
        )
    return driver


@contextmanager
def starting(command: str) -> Iterator[None]:
    """A context manager for the start of a worker. If a QueueportError is raised inside it, the process ends with one
    line of text that begins with `command`.

    Without this context manager, a framework would print a traceback, or would log the error and continue without
    queueport.
    """
    try:
        yield
    except QueueportError as error:
        raise SystemExit(f"{command}: {' '.join(hidden(str(error)).split())}") from error


def _grace() -> float:
    text = os.environ.get(GRACE, str(DEFAULT_GRACE))
    try:
        grace = float(duration(text))
    except ValueError:
        grace = -1.0
    if not grace >= 0:
        raise ConfigurationError(f"{GRACE} must be a number of seconds, 0 or more, not {text!r}")
    return grace

"""queueport in a worker process of a framework's own, such as `celery worker`. For `queueport_NAME.worker` modules.

A parent process dispatches, and the processes that run jobs, forks of it perhaps, deliver them: each has a heart of
its own. Environment variables name the queue (QUEUEPORT_URL) and the modules that declare tasks (QUEUEPORT_TASKS), and
say how long running jobs have at the end (QUEUEPORT_GRACE).
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from functools import partial

from queueport import connect, modules, witness
from queueport.dispatcher import Dispatcher
from queueport.driver import Work
from queueport.errors import ConfigurationError
from queueport.executor import Delivered, Executor
from queueport.message import Message, NotAMessage
from queueport.queue import JobQueue
from queueport.runner import Runner
from queueport.tasks import registry
from queueport.url import KeepCount

__all__ = ["NativeWorker"]

logger: logging.Logger = logging.getLogger("queueport")

GRACE = "QUEUEPORT_GRACE"
DEFAULT_GRACE = 30.0
"""Seconds, as of `queueport worker --grace`."""
RETIRED = 1
"""The exit code of a process that ends with code which cannot be interrupted."""


class NativeWorker:
    """What the processes of one such worker share: made in the parent, before it forks. Thread-safe.

    `queues` are those that it takes from, `threads` the jobs at once in each process that runs some, `grace` the
    seconds that running jobs have to end after `stop`.
    """

    def __init__(
        self, queue: JobQueue, queues: Sequence[str], *, threads: int = 1, grace: float = DEFAULT_GRACE
    ) -> None:
        self.queue = queue
        self.queues: tuple[str, ...] = tuple(queues)
        self.received: dict[tuple[str, int], float] = {}
        self._work = Work(self.queues, threads, grace=grace, owns_process=True)
        self._lock = threading.RLock()
        self._pid = 0
        self._runner: Runner | None = None
        self._executor: Executor | None = None
        self._dispatcher: Dispatcher | None = None

    @classmethod
    def from_environment(cls, queues: Sequence[str], *, threads: int = 1) -> NativeWorker:
        """Of the process's default queue, with the tasks of the modules that the environment names imported.

        Raises ConfigurationError.
        """
        grace = _grace()
        modules.load(modules.environment())
        for task in registry.tasks():
            task.signature.resolve()
        return cls(connect.get_queue(), queues, threads=threads, grace=grace)

    def dispatch(self) -> None:
        """Start a dispatcher in this process, if it has none; it stops with `stop`."""
        if self._dispatcher is None:
            settings = self.queue.settings
            keep = settings.keep_succeeded if isinstance(settings.keep_succeeded, KeepCount) else None
            self._dispatcher = Dispatcher(self.queue.operations, keep=keep, received=self.received)
            self._dispatcher.start()

    def note(self, body: bytes) -> None:
        """A message has arrived in this process, whoever runs it: its dispatcher then knows what others are late."""
        try:
            message = Message.parse(body)
        except NotAMessage:
            return
        place = (message.queue, message.priority)
        self.received[place] = max(self.received.get(place, 0.0), message.sent_at)

    def deliver(self, body: bytes) -> Delivered:
        """Begin and run one message's job in this thread; see `Executor.deliver`."""
        return self.executor.deliver(body)

    def begin(self) -> None:
        """This process's heart begins to beat, and the worker is announced: before its first job, that is."""
        _ = self.executor

    @property
    def executor(self) -> Executor:
        """This process's own, with its heart: made on first use, and anew after a fork."""
        with self._lock:
            if self._executor is None or self._pid != os.getpid():
                known = {name: task for task in registry.tasks() for name in (task.name, *task.aliases)}
                enter = partial(connect.worker_queue.set, self.queue)
                runner = Runner(self.queue.operations, known, self.queues, enter)
                runner.start()
                self._pid, self._runner, self._executor = os.getpid(), runner, Executor(runner, self._work)
                threading.Thread(target=self._watch, name="queueport-watch", daemon=True).start()
                logger.info("worker %s takes %s", runner.name, ", ".join(self.queues))
            return self._executor

    def _watch(self) -> None:
        """Code that cannot be interrupted ends with this process; the framework, or its supervisor, starts another."""
        executor = self.executor
        executor.wait()
        if executor.retired:
            executor.drain()
            logger.warning("%d jobs cannot be interrupted: this process ends with them", len(self._work.stuck))
            witness.call(self.queue.spec(), self._work.stuck)
            logging.shutdown()
            os._exit(RETIRED)

    def stop(self) -> None:
        """Begin nothing more, let running jobs end for the grace period, say goodbye. Idempotent."""
        self._work.stop.set()
        if self._dispatcher is not None:
            self._dispatcher.stop()
        if self._runner is not None and self._executor is not None and self._pid == os.getpid():
            self._executor.drain()
            self._runner.stop()
            self._executor.close()


def _grace() -> float:
    text = os.environ.get(GRACE, str(DEFAULT_GRACE))
    try:
        grace = float(text)
    except ValueError:
        grace = -1.0
    if not grace >= 0:
        raise ConfigurationError(f"{GRACE} must be a number of seconds, 0 or more, not {text!r}")
    return grace

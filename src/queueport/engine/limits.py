"""Which limits hold for the jobs that a process begins, and which of them let held jobs on. For the core.

`docs/protocol.md#limits` specifies the rules. A task's limit is that of its declaration in the process that begins the
job. A queue's limit is a document in the store, of which the process keeps a copy, as of the pauses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from queueport.engine.copies import Copy
from queueport.engine.runtime import Runtime
from queueport.errors import ConfigurationError
from queueport.job.limits import QueueLimit
from queueport.spi.record import Change
from queueport.spi.store import Document, JobStore, StartLimit, TakeLimits
from queueport.tasks import Task

__all__ = ["StartLimits"]

KIND = "limit"
"""The kind of the documents. The name of a document is that of its queue."""
QUEUE, TASK = "queue:", "task:"
"""The beginning of a limit's name. The rest is the name of the queue or task. A blank and a `limit_key` may follow."""
NO_LIMIT = QueueLimit()


class StartLimits(Copy[QueueLimit]):
    """The limits of one store, and those of the tasks that this process runs. Thread-safe."""

    kind = KIND
    what = "the limits of queues"

    def __init__(self, store: JobStore, runtime: Runtime) -> None:
        super().__init__(store, runtime)
        self._tasks: dict[str, StartLimit | None] = {}
        """The limit of each task that this process runs, by name and alias."""
        self._ignored = False
        self._declared = False
        """True if one of these tasks has a limit."""

    def ignore(self) -> None:
        """Apply no limits from now on. For `FakeQueue`, which runs one job after the other."""
        self._ignored = True

    def declare(self, tasks: Iterable[Task[..., Any, Any]]) -> None:
        """Apply the limits that these tasks declare."""
        for task in tasks:
            limit = task.limit
            known = None if limit is None else _start_limit(TASK + task.name, limit, keyed=limit.key is not None)
            self._tasks |= dict.fromkeys((task.name, *task.aliases), known)
            self._declared |= known is not None

    @property
    def exist(self) -> bool:
        """True if this process knows a limit."""
        return bool(self.current()) or self._declared

    def of(self, queue: str, task: str) -> tuple[StartLimit, ...]:
        """The limits of the jobs of this queue and task. Raises BackendUnavailable."""
        if self._ignored:
            return ()
        limits, own = self.current(), self._tasks.get(task)
        if not limits:
            return () if own is None else (own,)
        named = limits.get(queue, NO_LIMIT)
        shared = () if named == NO_LIMIT else (_start_limit(QUEUE + queue, named),)
        return shared if own is None else (own, *shared)

    def for_take(self, queues: Iterable[str], tasks: Iterable[str], hold: Change) -> TakeLimits | None:
        """The limits for a call of `take`; None if there are none. Raises BackendUnavailable."""
        if not self.exist:
            return None
        tasks = tuple(tasks)
        found = {(queue, task): own for queue in queues for task in tasks if (own := self.of(queue, task))}
        return TakeLimits(found, hold) if found else None

    def named(self, name: str) -> StartLimit | None:
        """The limit with this name, without a limit if it was lifted; None if only other processes know it."""
        rest = name.partition(" ")[0]
        if rest.startswith(QUEUE):
            limit = self.current().get(rest.removeprefix(QUEUE))
            return StartLimit(name) if limit is None else _start_limit(rest, limit)
        task = rest.removeprefix(TASK)
        return self._tasks[task] or StartLimit(name) if task in self._tasks else None

    def put(self, queue: str, limit: QueueLimit) -> None:
        """Set the limit of a queue. Raises BackendUnavailable.

        A document without a limit stays, so that dispatchers go on to let jobs on that were held before.
        """
        value = {"concurrency": limit.concurrency, "rate": limit.rate, "burst": limit.burst}
        self._put(queue, lambda _: value)

    def value_of(self, document: Document) -> QueueLimit:
        """The limit in a document. A wrong value, which queueport has not written, is ignored."""
        try:
            return QueueLimit(**document.value)
        except (ConfigurationError, TypeError):
            return QueueLimit()


def _start_limit(name: str, limit: QueueLimit, *, keyed: bool = False) -> StartLimit:
    rate, burst = limit.starts
    return StartLimit(name, limit.concurrency, rate, burst, keyed)

"""The interface of the object that a worker passes to `Driver.work` to run jobs. For authors of adapters."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from queueport.spi.record import Record
from queueport.spi.store import ClaimingStore
from queueport.status import JobError, JobState

__all__ = ["Delivery", "DeliveryResult", "FrameworkWorker", "JobRunner", "MessageAction", "MessageSource", "Work"]


COROUTINES = 100
"""The default of the setting `coroutines`."""


@dataclass(slots=True)
class Work:
    """A worker's options, the event that stops the worker, and the attempts that are stuck when the worker ends."""

    queues: tuple[str, ...]
    threads: int = 8
    processes: int = 1
    burst: bool = False
    """End when no job is due, none that the worker could run is queued, and none is running."""
    grace: float = 30.0
    """Seconds that running jobs have to end after `stop` is set. `Worker.stop` may change this number."""
    coroutines: int = COROUTINES
    """The maximum number of `async def` jobs that run at once in each process, in addition to the jobs in threads."""
    alive_file: Path | None = None
    """A file that each process touches about every second, for liveness probes. During a call to the store, which may
    take longer, a process does not touch it."""
    owns_process: bool = False
    """True if the process only runs this worker. The process must then exit if an attempt is stuck."""
    fetches: bool = True
    """False in a process that gets each message from another process of the worker. The store lists only processes that
    fetch messages, because the list shows whose messages must be published again after a crash."""
    stop: threading.Event = field(default_factory=threading.Event)
    stuck: list[dict[str, Any]] = field(default_factory=list)
    """The stuck attempts whose end this program cannot record, because their code still runs. After this process has
    exited, or has started another program by exec, the next program must call `finish_stuck` with each of them.
    """


class MessageAction(Enum):
    """The action that the driver must take with a message."""

    ACKNOWLEDGE = "acknowledge"
    """Acknowledge the message."""
    PUT_ASIDE = "put aside"
    """Move the message to a place where an operator can look at it, because queueport cannot use it."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The result of `JobRunner.deliver`.

    `record` is the job's record after the attempt has ended. `record` is None if no attempt was made, if the end of
    the attempt was not recorded, or if the attempt of an `async def` task continues in the event loop.
    """

    action: MessageAction
    record: Record | None = None

    @property
    def error(self) -> JobError | None:
        """The error of the attempt if `record` says that it failed, for the framework's own tools; otherwise None."""
        failed = self.record is not None and self.record.state in (JobState.RETRYING, JobState.DEAD)
        return self.record.errors[-1] if self.record is not None and failed and self.record.errors else None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A received message: its bytes, its queue, and the data with which the transport acknowledges it."""

    body: bytes
    queue: str
    receipt: Any = field(default=None, repr=False)


class MessageSource(Protocol):
    """The members of `queueport.spi.transport.Transport` that `JobRunner.pull` uses."""

    pushes: bool
    holds: bool
    idle_wait: float

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]: ...
    def ack(self, deliveries: Sequence[Delivery]) -> None: ...
    def prolong(self, deliveries: Sequence[Delivery]) -> None: ...
    def put_aside(self, delivery: Delivery) -> None: ...


class FrameworkWorker(Protocol):
    """A framework's own worker in this process. `JobRunner.serve` calls each method once, in this order.

    If `start` or `pause` raises, `stop` is called next.
    """

    def start(self) -> None:
        """Begin to receive messages in other threads, and pass each one to `JobRunner.deliver`. Must not block."""

    def pause(self) -> None:
        """Receive no more messages. Running jobs must continue, and their messages must still be acknowledged."""

    def stop(self) -> None:
        """End all threads and close the connections."""


class JobRunner(ABC):
    """Runs the jobs of one process. Thread-safe. `Driver.work` must call either `pull` or `serve`, and only once."""

    name: str
    """The name of this process in the store: a name that no other process of any worker has."""
    work: Work

    @abstractmethod
    def pull(self, source: MessageSource | ClaimingStore) -> None:
        """Take jobs from `source` and run them, at most as many at once as `work` allows.

        Returns when this process takes no more jobs and its jobs have ended or are stuck. A process takes no more jobs
        if `work.stop` is set, if a burst is over, or if the process must exit because of a stuck attempt.
        """

    @abstractmethod
    def serve(self, framework: FrameworkWorker) -> None:
        """Start the framework's worker, and wait until this process takes no more jobs; `pull` lists the reasons.

        Then pause the framework's worker, wait until the jobs have ended or are stuck, stop the worker, and return.
        """

    @abstractmethod
    def deliver(self, body: bytes) -> DeliveryResult:
        """Begin and run the job of one message in the calling thread. An `async def` task continues in the event loop.

        Returns when the job of a plain task has ended, or when an `async def` task was started. Before that, may block
        until the store answers, a place for a coroutine is free, or a suspect has ended. If `work.stop` is set, or if
        this process must exit because of a stuck attempt, a job that has not begun is handed back and does not run. If
        the store does not answer in this case, raises BackendUnavailable: the message must then not be acknowledged.
        """

    @abstractmethod
    def cancel(self, job_id: str) -> None:
        """Cancel a job that an operator has revoked with the framework's own tools. Does nothing if the job has ended.

        Raises BackendUnavailable if the store does not answer.
        """

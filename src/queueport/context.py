"""What a task sees of its own job while it runs: `current_job()`, and the exceptions by which it steers its retry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Final

from queueport.errors import InvalidState, JobCancelled
from queueport.status import JobStatus, Progress

__all__ = ["Abort", "CurrentJob", "RetryLater", "current_job"]


class RetryLater(Exception):
    """Raise it in a task: try again in `delay` seconds. `burns=False`: without counting a failure."""

    def __init__(self, message: str = "", *, delay: float, burns: bool = True) -> None:
        super().__init__(message or f"the task asked to be tried again in {delay:g} s")
        if not 0 <= delay < float("inf"):
            raise ValueError(f"delay={delay!r} must be a number of seconds, 0 or more")
        self.delay: float = float(delay)
        self.burns = burns


class Abort(Exception):
    """Raise it in a task: the job is dead at once, whatever its retry policy says."""


class CurrentJob:
    """The job that is running here.

        job = current_job()
        job.progress(50, total=100, message="resizing")

    `attempt` counts from 1; `deadline` is when its timeout ends it (aware UTC, None: no timeout).
    """

    __slots__ = ("_latest", "_status", "attempt", "cancel_requested", "deadline", "headers", "id", "queue", "task")

    id: Final[str]
    task: Final[str]
    queue: Final[str]
    attempt: Final[int]
    headers: Final[Mapping[str, str]]
    deadline: Final[datetime | None]
    cancel_requested: bool

    def __init__(
        self,
        *,
        id: str,
        task: str,
        queue: str,
        attempt: int,
        headers: Mapping[str, str],
        deadline: datetime | None,
        status: Callable[[], JobStatus],
    ) -> None:
        self.id = id
        self.task = task
        self.queue = queue
        self.attempt = attempt
        self.headers = headers
        self.deadline = deadline
        self.cancel_requested = False
        self._status = status
        self._latest: Progress | None = None

    def status(self) -> JobStatus:
        """The job's record as it is now; one read of the store."""
        return self._status()

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far it is. Costs nothing here: the worker writes the latest word, at most four times a second."""
        self._latest = Progress(current, total, message)

    def raise_if_cancelled(self) -> None:
        """Raise JobCancelled if somebody asked to cancel this job; let it through, the job then ends cancelled."""
        if self.cancel_requested:
            raise JobCancelled(f"job {self.id} was asked to stop")

    def latest_progress(self) -> Progress | None:
        """The latest word; for the worker."""
        return self._latest

    def __repr__(self) -> str:
        return f"<CurrentJob {self.id} {self.task} attempt {self.attempt}>"


running: ContextVar[CurrentJob] = ContextVar("queueport_current_job")


def current_job() -> CurrentJob:
    """The job that is running in this thread or coroutine. Raises InvalidState outside a task."""
    job = running.get(None)
    if job is None:
        raise InvalidState("current_job() was called outside a task; it works only while a worker runs one")
    return job

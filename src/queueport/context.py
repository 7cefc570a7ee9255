"""The running job, for the code of tasks: `current_job`, `RetryLater` and `Abort`. Also the process's default queue."""

from __future__ import annotations

import logging
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from queueport.errors import InvalidState, JobCancelled, encodable
from queueport.job import Job, JobHandle
from queueport.retry import LONGEST
from queueport.status import WAITING, JobState, JobStatus, Progress

__all__ = ["Abort", "CurrentJob", "RetryLater", "current_job"]

logger: logging.Logger = logging.getLogger("queueport")
R = TypeVar("R")

MESSAGE_LIMIT = 1_000
"""The maximum number of characters of a progress message, so that the message fits into a record of any store."""


def _number(name: str, value: object) -> float:
    """The value as a plain int or float. Numbers of other types, such as Decimal or those of NumPy, are converted.

    Raises TypeError if the value is a bool or not a number, and ValueError if it is not finite or too big for a float.
    """
    number: Any = value
    if isinstance(value, bool) or not (hasattr(number, "__index__") or hasattr(number, "__float__")):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        plain = int(operator.index(number)) if hasattr(number, "__index__") else float(number)
        if math.isfinite(plain):
            return plain
    except (OverflowError, ValueError):  # an int that is larger than any float, or a signalling NaN
        pass
    raise ValueError(f"{name} must be a finite number")


def retry_delay(value: object) -> float:
    """Check the delay of a RetryLater, and return it in seconds. For RetryLater itself, and for the worker.

    Raises TypeError if `value` is not a number, and ValueError if it is not finite, negative or longer than 100 years.
    """
    delay = float(_number("delay", value))
    if not 0 <= delay <= LONGEST:
        raise ValueError(f"delay must be a number of seconds from 0 to 100 years, not {delay:g}")
    return delay


class RetryLater(Exception):
    """Raise this in a task to retry its job after `delay` seconds: `raise RetryLater(delay=30)`.

    The attempt counts as a failure, and the job is dead if it then has `max_attempts` failures. `retry_on` and
    `abort_on` of the retry policy do not apply. With `burns=False` the attempt does not count as a failure, so the job
    is always retried. If the job was cancelled while it ran, it ends as cancelled. The constructor raises TypeError if
    `delay` is not a number, and ValueError if it is not finite, negative or longer than 100 years.
    """

    def __init__(self, message: str = "", *, delay: float, burns: bool = True) -> None:
        self.delay: float = retry_delay(delay)
        self.burns: bool = bool(burns)
        super().__init__(message or f"the task asked for a retry in {self.delay:g} s")


class Abort(Exception):
    """Raise this in a task to make its job dead at once, without a retry.

    If the job was cancelled while it ran, it ends as cancelled.
    """


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class CurrentJob:
    """The running job, as the code of its task sees it.

        job = current_job()
        job.progress(50, total=100, message="resizing")

    `attempt` counts from 1, and is not reset by a retry() of the job. `key` is the job's key, or None. `deadline` is
    the aware UTC time at which the timeout ends the attempt; None if the job has no timeout. `cancel_requested` becomes
    True about a second after somebody cancelled the job, or later if the store does not answer.
    """

    id: Final[str]
    task: Final[str]
    queue: Final[str]
    attempt: Final[int]
    headers: Final[Mapping[str, str]]
    key: Final[str | None]
    deadline: Final[datetime | None]
    _status: Callable[[], JobStatus]
    batch: Final[str | None] = None
    """The id of the batch to which the job belongs, or None."""
    after_batch: Final[str | None] = None
    """The id of the batch that the job follows, or None: `get_queue().get_batch(job.after_batch).jobs()`."""
    cancel_requested: bool = False
    latest_progress: Progress | None = None
    """The latest progress report, or None. For the worker."""
    log_fields: Mapping[str, str] = field(default_factory=dict)
    """Fields that an `around_job` hook adds to the worker's log line about the end of the attempt."""

    def status(self) -> JobStatus:
        """Read the job's present status from the store.

        Raises JobCancelled if the job's record was deleted, and BackendUnavailable if the store does not answer.
        """
        return self._status()

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress: `current` of `total`, and a message about the present step. `JobStatus.progress` shows it.

        This call does no I/O. The worker writes the latest report to the store at most about four times a second,
        and at the end of the attempt. A message is cut to 1,000 characters. Raises TypeError if `current` or `total` is
        not a number or the message is not text, and ValueError if a number is not finite.
        """
        if not isinstance(message, str | None):
            raise TypeError(f"progress: message must be text, not {type(message).__name__}")
        self.latest_progress = Progress(
            _number("progress: current", current),
            None if total is None else _number("progress: total", total),
            None if message is None else encodable(message)[:MESSAGE_LIMIT],
        )

    def raise_if_cancelled(self) -> None:
        """Raise JobCancelled if `cancel_requested` is True, because somebody has cancelled the job.

        The job ends as cancelled in any case, even if the task catches this exception and returns a result.
        """
        if self.cancel_requested:
            raise JobCancelled(f"job {self.id} was asked to stop")

    def __repr__(self) -> str:
        return f"<CurrentJob {self.id} {self.task} attempt {self.attempt}>"


running_job: ContextVar[CurrentJob] = ContextVar("queueport_current_job")


def current_job() -> CurrentJob:
    """The job that runs in this thread or coroutine. Hooks of `around_job` may call it, too.

    Raises InvalidState outside a task, and in a thread that the task has started without a copy of its context.
    """
    job = running_job.get(None)
    if job is None:
        raise InvalidState(
            "current_job() found no job in this thread or coroutine: call it in the thread or coroutine of a task"
        )
    return job


def check_wait(job_id: str) -> None:
    """Raise InvalidState if `job_id` is the running job, because a job cannot end while it waits for its own result."""
    job = running_job.get(None)
    if job is not None and job.id == job_id:
        raise InvalidState(f"job {job_id} waits for its own result, which it can never get: return the value instead")


def warn_of_wait(job_id: str, state: JobState, *, awaits: bool = False) -> None:
    """Log a warning if the running job waits for job `job_id` in a way that may block the worker.

    Call this once for each wait without a timeout, some time after the wait began. `state` is the present state of the
    job `job_id`. `awaits` is True if the wait is asynchronous, so that it does not block the event loop.
    """
    job, asyncio = running_job.get(None), sys.modules.get("asyncio")  # importing asyncio would be slow
    if job is None:
        return
    if not awaits and asyncio is not None and asyncio._get_running_loop() is not None:
        problem = "blocks the event loop of its worker: await the result on an AsyncJobQueue"
    elif state in WAITING:
        place = "one of the `coroutines`" if awaits else "a thread"
        problem = (
            f"occupies {place} of its worker: if this happens to all of them in all workers, the awaited jobs cannot "
            "run; pass a timeout to result()"
        )
    else:
        return
    logger.warning("job %s waits for the result of job %s (%s). The wait %s", job.id, job_id, state, problem)


class EnqueuesJobs(Protocol):
    """The method of `JobQueue` that `Task.enqueue` calls."""

    def enqueue(self, job: Job[R], /) -> JobHandle[R]: ...


class DefaultQueue:
    """The queue that `get_queue()` returns without arguments. `queueport.connect` sets `open` and `as_async`."""

    open: Callable[[], EnqueuesJobs]
    """Returns the queue of QUEUEPORT_URL, and opens it on the first call in this process."""
    as_async: Callable[[Any], Any]
    """Returns the `AsyncJobQueue` of a queue."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._chosen: dict[object, EnqueuesJobs] = {}
        """The queues of the uses that have not ended, the latest last. Each use has a key of its own, because several
        uses may have the same queue."""
        os.register_at_fork(after_in_child=self._replace_lock)

    def get(self) -> EnqueuesJobs:
        """Return the default queue.

        Inside a task, it is the queue of the task's worker. Otherwise it is the queue of the latest `use` that has not
        ended. If there is none, it is the queue of QUEUEPORT_URL.
        """
        running = worker_queue.get(None)
        if running is not None:
            return running
        with self._lock:
            return next(reversed(self._chosen.values())) if self._chosen else self.open()

    @contextmanager
    def use(self, queue: EnqueuesJobs) -> Iterator[None]:
        """Make `queue` the default in every thread until the context ends, except inside tasks of a worker.

        While a `use` that began later has not ended, its queue is the default instead.
        """
        use = object()
        with self._lock:
            self._chosen[use] = queue
        try:
            yield
        finally:
            with self._lock:
                del self._chosen[use]

    def _replace_lock(self) -> None:
        self._lock = threading.RLock()


worker_queue: ContextVar[EnqueuesJobs | None] = ContextVar("queueport_worker_queue")
"""The queue of the worker that runs the present task. Not set outside tasks."""
default_queue: Final = DefaultQueue()

"""Every exception queueport raises, for those who catch them.

QueueportError
├── ConfigurationError      a URL, an option or a task declaration is wrong; the message says what to write
├── InvalidJob              (ValueError) the job cannot be enqueued as it is
│   ├── PayloadTooLarge         its arguments, or its result, are over the limit
│   └── DuplicateJob            its id, or its key, is taken
├── Unsupported             (NotImplementedError) this backend lacks that feature
├── JobNotFound             (LookupError) no job with this id
├── InvalidState            the job is in a state that does not allow this
├── JobFailed               the job is dead; `.error` says why
├── JobCancelled            the job was cancelled
├── ResultTimeout           (TimeoutError) the job did not end in time
├── BackendUnavailable      backend or store did not answer; nothing of `.rejected` will run
├── UnknownTask             no worker knows a task of this name
├── JobTimeout              an attempt ran longer than its `timeout`
├── WorkerLost              a worker vanished while it ran the job
└── QueueClosed             the queue was closed before the call
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queueport.status import JobError

__all__ = [
    "BackendUnavailable",
    "ConfigurationError",
    "DuplicateJob",
    "InvalidJob",
    "InvalidState",
    "JobCancelled",
    "JobFailed",
    "JobNotFound",
    "JobTimeout",
    "PayloadTooLarge",
    "QueueClosed",
    "QueueportError",
    "ResultTimeout",
    "UnknownTask",
    "Unsupported",
    "WorkerLost",
]


class QueueportError(Exception):
    """The root of every error that queueport raises."""


class ConfigurationError(QueueportError):
    """A URL, a setting or a task declaration is wrong."""


class InvalidJob(QueueportError, ValueError):
    """The job cannot be enqueued as it is; nothing was recorded or sent."""


class PayloadTooLarge(InvalidJob):
    """The encoded arguments or the encoded result are larger than the backend or the store takes."""


class DuplicateJob(InvalidJob):
    """The job's id exists already, or another living job holds its key.

    For a batch, `accepted` are the ids that will run and `rejected` those that will not, in the order given.
    """

    def __init__(self, message: str, *, accepted: Sequence[str] = (), rejected: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.accepted: tuple[str, ...] = tuple(accepted)
        self.rejected: tuple[str, ...] = tuple(rejected)


class Unsupported(QueueportError, NotImplementedError):
    """The backend lacks the feature; refused before any I/O."""


class JobNotFound(QueueportError, LookupError):
    """There is no job with this id: it never existed, or retention removed it."""


class InvalidState(QueueportError):
    """The job's present state does not allow the operation."""


class JobFailed(QueueportError):
    """The job is dead. `error` is its last error: type, message and traceback."""

    def __init__(self, message: str, error: JobError | None = None) -> None:
        super().__init__(message)
        self.error = error


class JobCancelled(QueueportError):
    """The job was cancelled, or it expired before a worker started it."""


class ResultTimeout(QueueportError, TimeoutError):
    """The job did not end within the time given; it goes on."""


class BackendUnavailable(QueueportError):
    """Backend or store could not be reached; the library's own exception is `__cause__`.

    For a batch that was cut in the middle, `accepted` are the ids that will run and `rejected` those that
    never will, each in the order given.
    """

    def __init__(self, message: str, *, accepted: Sequence[str] = (), rejected: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.accepted: tuple[str, ...] = tuple(accepted)
        self.rejected: tuple[str, ...] = tuple(rejected)


class UnknownTask(QueueportError):
    """No worker has registered a task of this name."""


class JobTimeout(QueueportError):
    """An attempt ran longer than its `timeout`."""


class WorkerLost(QueueportError):
    """The worker vanished in mid-job as often as `crash_limit` allows."""


class QueueClosed(QueueportError):
    """The queue was closed; open a new one with `get_queue`."""

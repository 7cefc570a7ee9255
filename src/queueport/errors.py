"""The exceptions that queueport raises or records, for applications that catch them. Also the texts of errors.

QueueportError
├── ConfigurationError      a URL, an option or a task declaration is wrong; the message says what to write
├── InvalidJob              (ValueError) the job is not valid, so it is not enqueued; or its result is not valid
│   ├── PayloadTooLarge         the job or its result exceeds a size limit
│   └── DuplicateJob            its id exists, or another job holds its key
├── Unsupported             (NotImplementedError) the backend lacks this feature
├── JobNotFound             (LookupError) no job has this id
├── ScheduleNotFound        (LookupError) no schedule has this name
├── InvalidState            the job's state does not allow the operation
├── JobFailed               the job is dead; `.error` says why
├── JobCancelled            the job was cancelled
├── ResultTimeout           (TimeoutError) the job did not end in time
├── BackendUnavailable      the backend or the store did not answer or did not take a job; lists the jobs of `enqueue`
│   └── BackendMisconfigured    (ConfigurationError) the call is refused until the server or the URL is changed
├── UnknownTask             no worker knows a task of this name
├── JobTimeout              an attempt ran longer than its `timeout`
├── WorkerLost              a worker was lost while it ran the job
├── PublishFailed           the backend did not confirm the job's message
└── QueueClosed             the queue was closed before the call

A call that reads records may also raise `queueport.spi.record.CorruptRecord`, a QueueportError for a damaged record.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queueport.status import JobError

__all__ = [
    "BackendMisconfigured",
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
    "PublishFailed",
    "QueueClosed",
    "QueueportError",
    "ResultTimeout",
    "ScheduleNotFound",
    "UnknownTask",
    "Unsupported",
    "WorkerLost",
]


class QueueportError(Exception):
    """The base class of queueport's own errors. A value of a wrong type may also raise TypeError or ValueError."""


class ConfigurationError(QueueportError):
    """A URL, a setting, an argument, a hook or a task declaration is wrong, or a package for a URL is missing."""


class InvalidJob(QueueportError, ValueError):
    """The job is not valid, for example because of a wrong argument or option; or its result does not match the task.

    If `enqueue` raises this error, this call has neither recorded nor sent the job. The same is true for `enqueue_many`
    and all its jobs, except for a DuplicateJob whose `accepted` is not empty.
    """


class PayloadTooLarge(InvalidJob):
    """The job or its result is larger than the backend or the store accepts.

    The text says which part is too large: the encoded arguments, the message with its headers, the other fields of the
    record, or the encoded result.
    """


class DuplicateJob(InvalidJob):
    """The job's id exists already or is twice in a batch; another job has its key, with `key_mode="reject"`; or the job
    cannot be retried or replayed while another job holds its key.

    After `enqueue` and `enqueue_many`, `accepted` contains the ids of the jobs that will run, and `rejected` the ids of
    the jobs that this call has not enqueued. Both are in the order given. In place of a job whose key another job
    holds, `accepted` contains the id of that other job.
    """

    def __init__(self, message: str, *, accepted: Sequence[str] = (), rejected: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.accepted: tuple[str, ...] = tuple(accepted)
        self.rejected: tuple[str, ...] = tuple(rejected)


class Unsupported(QueueportError, NotImplementedError):
    """The backend lacks the feature. Raised before any I/O."""


class JobNotFound(QueueportError, LookupError):
    """There is no job with this id: it never existed in this namespace, its producer withdrew it, or its record was
    removed, usually after its retention.

    `get`, `retry` and `discard` of `DeadLetters` also raise this error for a job that is not dead.
    """


class ScheduleNotFound(QueueportError, LookupError):
    """There is no schedule with this name in this namespace."""


class InvalidState(QueueportError):
    """The job's present state does not allow the operation.

    Also raised by `current_job` outside a task, and if a task waits for the result of its own job.
    """


class JobFailed(QueueportError):
    """The job is dead. `error` is the job's latest error, with type, message and traceback; None if there is none."""

    def __init__(self, message: str, error: JobError | None = None) -> None:
        super().__init__(message)
        self.error = error


class JobCancelled(QueueportError):
    """The job was cancelled, purged, discarded or withdrawn, or it expired before an attempt; the text says which.

    In the code of a task, `CurrentJob.raise_if_cancelled` raises this error after a cancel request, and
    `CurrentJob.status` raises it if the record of the running job was removed.
    """


class ResultTimeout(QueueportError, TimeoutError):
    """The job did not end within the given time. The job is not cancelled by this."""


class BackendUnavailable(QueueportError):
    """The backend or the store did not answer, is down, or did not take a job.

    `__cause__` is the exception of the client library, if there is one. If `enqueue` or `enqueue_many` raises this
    error, three tuples contain the ids of the jobs, in the order given. Jobs in `accepted` will run; in place of a job
    whose key another job holds, there is the id of that other job. Jobs in `rejected` were not enqueued by this call.
    They will not run, unless an earlier call has enqueued a job with the same id. Jobs in `unknown` may run, because
    the store did not answer. To find out, enqueue an unknown job again with the same `job_id`, before the retention of
    that job is over: DuplicateJob means that the first call has enqueued the job.
    """

    def __init__(
        self,
        message: str,
        *,
        accepted: Sequence[str] = (),
        rejected: Sequence[str] = (),
        unknown: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.accepted: tuple[str, ...] = tuple(accepted)
        self.rejected: tuple[str, ...] = tuple(rejected)
        self.unknown: tuple[str, ...] = tuple(unknown)


class BackendMisconfigured(BackendUnavailable, ConfigurationError):
    """The backend or the store answered, but it refuses the call until the server or the URL is changed.

    For example, a queue exists with other arguments, or the user lacks a permission. Repeating the call does not help.
    """


class UnknownTask(QueueportError):
    """No live worker of the job's queue has known its task for `unknown_after` seconds. Recorded as the job's error.

    Also raised when a `Task` is unpickled and the module of the task does not register the task.
    """


class JobTimeout(QueueportError):
    """An attempt ran longer than its `timeout`. Recorded as the job's error, not raised in the task."""


class WorkerLost(QueueportError):
    """A worker sent no heartbeat for the length of a lease while it ran the job, for example after a crash.

    Recorded as the job's error, not raised.
    """


class PublishFailed(QueueportError):
    """The backend did not confirm the job's message. Recorded as the job's error, not raised.

    If the job is queued, a dispatcher publishes it again. If the job is dead, the backend refuses the message for good.
    """


class QueueClosed(QueueportError):
    """The queue was closed; open a new one with `get_queue`."""


# -- the text of errors --------------------------------------------------------------------------


class NeedsExtra:
    """A context manager for imports of packages that only an extra of queueport installs, such as `queueport[web]`.

        with NeedsExtra("web", __name__):
            from starlette.routing import Route

    If a package is missing, its ModuleNotFoundError is replaced by one that says what to install.
    """

    def __init__(self, extra: str, what: str) -> None:
        """`what` is the module, or the feature, that needs the packages."""
        self._extra = extra
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, ModuleNotFoundError) or error.name is None or error.name.startswith("queueport"):
            return
        package = error.name.partition(".")[0]
        sentence = f"{self._what} needs the package {package}: run `pip install 'queueport[{self._extra}]'`"
        raise ModuleNotFoundError(sentence, name=error.name, path=error.path) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: `; did you mean 'x'?` if a name is similar, else the known names."""
    known = sorted(known)
    close = get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known are {', '.join(known)}" if known else "; there are none"


# Formatting an exception of an application runs code of its class, such as `__str__` or `__getattr__`. That code may
# raise any exception, even SystemExit. The functions below, except `_dotted`, do not pass on such an exception. The
# texts that they return can be encoded as UTF-8.

TYPE_LIMIT = 500
"""The maximum number of characters for the name of a class together with the names of its ancestors."""
MESSAGE_LIMIT = 2_000
"""The number of characters to keep from the start of an error's message."""
TRACEBACK_LIMIT = 8_000
"""The number of characters to keep from the end of a traceback, so that ten of them fit into a record of any store."""


def type_of(error: BaseException) -> str:
    """The dotted name of the exception's class, such as "pkg.module.Error"; for a built-in class, only "ValueError"."""
    text, _ = _shown(lambda: _dotted(type(error)))
    return text[:TYPE_LIMIT]


def bases_of(error: BaseException) -> tuple[str, ...]:
    """The dotted names of the ancestors of the exception's class, nearest first, without `object`; as many as fit into
    TYPE_LIMIT together with the name of the class.
    """
    ancestors: Sequence[type] = vars(type)["__mro__"].__get__(type(error))[1:-1]  # without the class and `object`
    names: list[str] = []
    left = TYPE_LIMIT - len(type_of(error))
    for kind in ancestors:
        name, _ = _shown(partial(_dotted, kind))
        left -= len(name) + 1
        if left < 0:
            break
        names.append(name)
    return tuple(names)


def message_of(error: BaseException) -> str:
    """The exception's message, cut to MESSAGE_LIMIT characters. If `str(error)` raises, a text that says so."""
    text, broken = _shown(lambda: str(error))
    if broken is not None:
        text = f"<its message cannot be shown: {type_of(broken)}>"
    return text[:MESSAGE_LIMIT]


def trace_of(error: BaseException) -> TracebackType | None:
    """The exception's own traceback object, even if its class redefines the attribute."""
    trace: TracebackType | None = vars(BaseException)["__traceback__"].__get__(error)
    return trace


def traceback_of(error: BaseException, trace: TracebackType | None) -> str:
    """The formatted traceback, with the frames of `trace`; only its last TRACEBACK_LIMIT characters."""
    text, broken = _formatted(error, trace)
    if broken is not None:
        frames, _ = _shown(lambda: "".join(traceback.format_tb(trace)))
        text = f"Traceback (most recent call last):\n{frames}{type_of(error)}: {message_of(error)}\n"
        text += f"Python cannot format this exception completely: {type_of(broken)}: {message_of(broken)}\n"
    return text[-TRACEBACK_LIMIT:]


def log_error(logger: logging.Logger, error: BaseException, message: str, *args: object) -> None:
    """Log an unexpected exception with its traceback: as `exc_info`, or as text if Python cannot format it."""
    _, broken = _formatted(error, trace_of(error))
    if broken is None:
        _shown(lambda: logger.error(message, *args, exc_info=(type(error), error, trace_of(error))))
    else:
        text = traceback_of(error, trace_of(error))
        _shown(lambda: logger.error(f"{message}\n%s", *args, text))  # noqa: G004  # `message` is a constant


def encodable(text: str) -> str:
    """The text with escapes in place of lone surrogates, which UTF-8 cannot encode."""
    return str.encode(text, errors="backslashreplace").decode()


def _formatted(error: BaseException, trace: TracebackType | None) -> tuple[str, BaseException | None]:
    return _shown(lambda: "".join(traceback.format_exception(type(error), error, trace)))


def _shown(show: Callable[[], Any]) -> tuple[str, BaseException | None]:
    """Call `show`. Returns its text, made encodable as UTF-8, and None; or "" and the exception that `show` raised."""
    try:
        return encodable(show() or ""), None
    except BaseException as broken:  # noqa: BLE001  # the code of an exception's class may raise anything
        return "", broken


def _dotted(kind: type) -> str:
    # Read through `type`, because a metaclass may redefine `__module__` and `__qualname__`.
    module, name = (vars(type)[attribute].__get__(kind) for attribute in ("__module__", "__qualname__"))
    return str(name) if module == "builtins" or not isinstance(module, str) else f"{module}.{name}"

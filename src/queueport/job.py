"""A job before it is enqueued, and the options a producer may give it. For applications and the core."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar, cast

from queueport.errors import ConfigurationError, InvalidJob
from queueport.retry import LONGEST, Retry

if TYPE_CHECKING:
    from queueport.tasks import Task

__all__ = ["Job", "JobOptions", "Options", "TaskOptions"]

R_co = TypeVar("R_co", covariant=True)

DEFAULT_QUEUE = "default"


def new_id() -> str:
    """A random job id."""
    return uuid.uuid4().hex


class TaskOptions(TypedDict, total=False):
    """The options that a task's declaration takes, `@task(queue="uploads", ...)`; None is the same as not given."""

    queue: str | None
    """The queue it goes to: letters, digits, `_`, `-` and `.`, up to 64. Default: "default"."""
    retry: Retry | None
    """What to do when it raises. Default: the queue's."""
    timeout: float | timedelta | None
    """Seconds that one attempt may take. Default: no limit."""
    expires: float | timedelta | None
    """Seconds from enqueueing after which it is not started any more. Default: never."""
    crash_limit: int | None
    """Which vanished worker is its last; 1 = never run it again by itself. Default: the queue's."""
    keep_result: float | timedelta | None
    """Seconds that its record and result are kept after it succeeded. Default: the queue's `keep_succeeded`."""


class JobOptions(TaskOptions, total=False):
    """The options that one job takes besides, `send_email.using(delay=60, ...)`; None is the same as not given."""

    delay: float | timedelta | None
    """Seconds from enqueueing before which it does not run."""
    run_at: datetime | None
    """An aware time before which it does not run; a past one is now. Not together with `delay`."""
    priority: int | None
    """-10 to 10, higher is sooner. Default: 0."""
    group: str | None
    """Jobs of one group run in the order they were enqueued."""
    key: str | None
    """While a job of the same task and key is alive, enqueueing another returns that one."""
    job_id: str | None
    """The job's id: letters, digits, `_` and `-`, up to 64. Default: a random one."""
    headers: Mapping[str, str] | None
    """Text that travels with the job beside its arguments: trace context, tenant."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options as they were given, checked; None = not given. `JobOptions` says what each one means.

    Durations are seconds, `run_at` is in UTC. Raises InvalidJob for a value that is out of its range.
    """

    queue: str | None = None
    retry: Retry | None = None
    timeout: float | None = None
    expires: float | None = None
    crash_limit: int | None = None
    keep_result: float | None = None
    delay: float | None = None
    run_at: datetime | None = None
    priority: int | None = None
    group: str | None = None
    key: str | None = None
    job_id: str | None = None
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.delay is not None and self.run_at is not None:
            raise InvalidJob("delay and run_at say the same thing: give one of them")
        for name, value in self.given().items():
            object.__setattr__(self, name, _CHECKS[name](name, value))

    @classmethod
    def of(cls, options: JobOptions | TaskOptions, known: frozenset[str]) -> Self:
        """Options from keyword arguments as callers write them; ConfigurationError for one that is not `known`."""
        for name in options:
            if name not in known:
                nearest = get_close_matches(name, known, 1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(sorted(known))}"
                raise ConfigurationError(f"there is no option {name!r} here; {hint}")
        return cls(**cast("dict[str, Any]", options))  # the checks make seconds of timedeltas

    def given(self) -> dict[str, Any]:
        """Those that were given, by name."""
        return {name: value for name in _CHECKS if (value := getattr(self, name)) is not None}

    def over(self, base: Options) -> Options:
        """These options, and those of `base` for what is not given here."""
        given = self.given()
        if "delay" in given or "run_at" in given:
            base = replace(base, delay=None, run_at=None)
        return replace(base, **given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[R_co]):
    """One request to run a task, not yet enqueued. Made by `Task.job`; change it with `dataclasses.replace`.

    Raises InvalidJob for an id, a queue, headers or a time to live that cannot be.
    """

    id: str = field(default_factory=new_id)
    task: str
    """The task's name."""
    payload: bytes
    """The call as JSON, see `queueport.arguments`."""
    queue: str = DEFAULT_QUEUE
    expires: float | None = None
    """Seconds from enqueueing after which it is not started any more; None = never."""
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    """What else the producer gave. `queue`, `expires`, `job_id` and `headers` are not given here: the fields above."""
    task_ref: Task[..., R_co, Any] | None = field(default=None, compare=False, repr=False)
    """The task itself, which types the result; None for a job that was read from elsewhere."""

    def __post_init__(self) -> None:
        _job_id("id", self.id)
        _queue("queue", self.queue)
        if self.expires is not None:
            object.__setattr__(self, "expires", _seconds("expires", self.expires))
        object.__setattr__(self, "headers", _headers("headers", self.headers))

    @property
    def args(self) -> list[Any]:
        """The positional arguments, as plain JSON."""
        return self._call()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments given by name, as plain JSON."""
        return self._call()[1]

    def _call(self) -> tuple[list[Any], dict[str, Any]]:
        from queueport.arguments import decode_plain  # which takes pydantic: not before it is needed

        return decode_plain(self.payload)


QUEUE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SURROGATES = re.compile(r"[\ud800-\udfff]")  # UTF-8 has no bytes for them
_NOT_PLAIN = re.compile(rf"[\x00-\x1f\x7f]|{_SURROGATES.pattern}")


def _queue(name: str, value: object) -> str:
    if isinstance(value, str) and QUEUE_NAME.fullmatch(value):
        return value
    raise InvalidJob(f"{name} must be 1 to 64 letters, digits, _, - or ., and not begin with a dot, not {value!r}")


def _job_id(name: str, value: object) -> str:
    if isinstance(value, str) and JOB_ID.fullmatch(value):
        return value
    raise InvalidJob(f"{name} must be 1 to 64 letters, digits, _ or -, not {value!r}")


def _label(name: str, value: object) -> str:
    if isinstance(value, str) and 0 < len(value) <= 256 and not _NOT_PLAIN.search(value):
        return value
    raise InvalidJob(f"{name} must be 1 to 256 characters of text without control characters, not {value!r}")


def _seconds(name: str, value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= LONGEST:
        return float(seconds)
    raise InvalidJob(f"{name} must be a number of seconds from 0 to a century, not {value!r}")


def _timeout(name: str, value: object) -> float:
    if (seconds := _seconds(name, value)) == 0:
        raise InvalidJob(f"{name} must be more than 0 seconds; for no limit leave it out")
    return seconds


def _integer(low: int, high: int | None = None) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high):
            return int(value)
        until = "" if high is None else f" to {high}"
        raise InvalidJob(f"{name} must be a whole number from {low}{until}, not {value!r}")

    return check


def _run_at(name: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidJob(f"{name} must be a datetime, not {value!r}")
    if value.utcoffset() is None:
        raise InvalidJob(f"{name} must be an aware datetime, for example datetime.now(UTC): {value!r} has no time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidJob(f"{name} must be a time that exists in UTC, not {value!r}") from None


def _retry(name: str, value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    raise InvalidJob(f"{name} must be a Retry, for example Retry(max_attempts=5), not {value!r}")


def _headers(name: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidJob(f"{name} must be a mapping of text to text, not {value!r}")
    headers = dict(cast("Mapping[str, Any]", value))  # a copy: what the caller changes later is not sent
    for key, text in headers.items():
        _label("the name of a header", key)
        if not isinstance(text, str) or _SURROGATES.search(text):  # not shown: it may be a secret
            raise InvalidJob(f"the header {key!r} must be text")
    return headers


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "queue": _queue,
    "retry": _retry,
    "timeout": _timeout,
    "expires": _seconds,
    "crash_limit": _integer(1),
    "keep_result": _seconds,
    "delay": _seconds,
    "run_at": _run_at,
    "priority": _integer(-10, 10),
    "group": _label,
    "key": _label,
    "job_id": _job_id,
    "headers": _headers,
}

"""`Job`, before it is enqueued; `JobHandle`, for an enqueued job; and options of tasks and jobs. For applications."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, Protocol, Self, TypedDict, TypeVar, cast, get_args

from queueport.errors import ConfigurationError, InvalidJob, nearest
from queueport.retry import LONGEST, Retry
from queueport.status import CancelOutcome, JobStatus

__all__ = [
    "AsyncJobHandle",
    "Job",
    "JobFilters",
    "JobHandle",
    "JobOptions",
    "Links",
    "Options",
    "PlainJobOptions",
    "TaskOptions",
    "chain",
]

R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

DEFAULT_QUEUE = "default"
KeyMode = Literal["return", "reject", "replace"]
KEY_MODES: tuple[KeyMode, ...] = get_args(KeyMode)
HIGHEST_PRIORITY = 10
"""The highest priority of a job; the lowest is its negative. For adapters."""


def new_id() -> str:
    """A new job id: a UUID of version 7 in hexadecimal, in which 72 bits are random.

    It begins with the time in milliseconds, so that the ids of new jobs are next to each other in a database's index.
    """
    random = os.urandom(9).hex()
    return f"{time.time_ns() // 1_000_000:012x}7{random[:3]}8{random[3:]}"


def draft_of(kind: type[Any]) -> Any:
    """Make a class of drafts, which `frozen` turns into objects of `kind`, a frozen dataclass with slots.

    To make a draft and turn it into the object is faster than `__init__` of a frozen dataclass, which assigns each
    field by a call of `object.__setattr__`: for a record, 1 microsecond instead of 6. A draft has the same fields as
    the object, and can be changed. The values of a draft are not checked.
    """
    fields = [
        (f.name, f.type, dataclasses.field(default=f.default, default_factory=f.default_factory, kw_only=f.kw_only))
        for f in dataclasses.fields(kind)
    ]
    return dataclasses.make_dataclass(kind.__name__, fields, bases=getattr(kind, "__orig_bases__", ()), slots=True)


def frozen(draft: Any, kind: type[T]) -> T:
    """Turn a draft, without a copy, into an object of `kind`, the class that was passed to `draft_of`."""
    draft.__class__ = kind
    made: T = draft
    return made


class TaskOptions(TypedDict, total=False):
    """The options of a task's declaration, `@task(queue="uploads", ...)`. None is the same as not given."""

    queue: str | None
    """The queue of the task's jobs: up to 64 ASCII letters, digits, `_`, `-` and `.`, not `.` first. Default:
    "default"."""
    retry: Retry | None
    """The retry policy: which failed attempts are retried, and after how many seconds. Default: `Retry()`."""
    timeout: float | timedelta | None
    """The seconds that one attempt may take. Default: no limit."""
    expires: float | timedelta | None
    """No attempt starts later than this number of seconds after enqueueing. A job that still waits is then cancelled,
    at the latest when a worker receives it. Default: no limit. The retry of a dead or cancelled job removes the
    limit."""
    crash_limit: int | None
    """The number of crashes after which a job is dead. Default: the setting `crash_limit`."""
    keep_result: float | timedelta | None
    """The seconds for which the record is kept after the job has succeeded. Default: the setting `keep_succeeded`. If
    this setting is a number of jobs, the record may be deleted earlier."""


class PlainJobOptions(TaskOptions, total=False):
    """The options of one job except `pass_result`, which changes the arguments that the job takes."""

    delay: float | timedelta | None
    """The job does not run earlier than this number of seconds after enqueueing, unless `JobQueue.retry` is called."""
    run_at: datetime | None
    """The aware time before which the job does not run, unless `JobQueue.retry` is called. Cannot be combined with
    `delay`."""
    priority: int | None
    """-10 to 10; of two waiting jobs, the one with the higher number runs sooner. Default: 0. Other numbers need the
    capability PRIORITY."""
    group: str | None
    """Jobs of one group run in the order in which they were enqueued. While a job waits for its time or for a retry,
    other jobs of its group may run. Needs the capability GROUPS."""
    key: str | None
    """At most one job with the same task and key is alive. If there already is such a job, `enqueue` adds no job, even
    if the arguments differ, and returns the handle of the job that is alive, with `created` False. `key_mode` changes
    this.
    """
    key_mode: KeyMode | None
    """What `enqueue` does if the key is taken. "return", the default: return the handle of the job that has it.
    "reject": raise DuplicateJob. "replace": if that job is waiting, it takes over the arguments, the options and the
    run time of the new job; if it is running, it goes on, and a new job gets the key."""
    unique_for: float | timedelta | None
    """The key stays taken for this number of seconds after the job has succeeded or died, also if the dead job is
    discarded. If the job is cancelled before that, the key is free at once. Cannot be combined with
    `key_mode="replace"`."""
    job_id: str | None
    """The job's id: up to 64 ASCII letters, digits, `_` and `-`. Default: a new UUID."""
    headers: Mapping[str, str] | None
    """Names and texts that are sent with the job in addition to its arguments, such as a trace context."""
    tags: Sequence[str] | None
    """Texts by which the job can be found later, such as ("vip", "import-7"): at most 10, of up to 100 characters."""
    then: Job[Any] | None
    """The job that runs when this job has succeeded. It is enqueued with this job, and waits until then; see
    docs/follow-up-jobs.md. Cannot be combined with `key`."""


class JobOptions(PlainJobOptions, total=False):
    """The options of one job, as in `send_email.using(delay=60, ...)`: PlainJobOptions, and those listed here."""

    pass_result: bool | None
    """True if the job follows another one (`then`, `chain`), whose result is its first argument. The other arguments
    follow it."""


class JobFilters(TypedDict, total=False):
    """Filters of calls that find jobs, such as `JobQueue.jobs`, besides those for state, queue, task and error.

    A job must match all filters that are given. None is the same as not given.
    """

    key: str | None
    """The job's `key`. The jobs that held the key earlier match too."""
    tag: str | None
    """One of the job's `tags`."""
    batch: str | None
    """The id of the batch to which the job belongs. Cannot be combined with `tag`."""
    since: datetime | float | timedelta | None
    """The job was enqueued at this aware time or later, or at most this number of seconds ago."""
    until: datetime | float | timedelta | None
    """The job was enqueued before this aware time, or more than this number of seconds ago."""
    text: str | None
    """A part of the arguments as compact JSON, such as '"order":17' in {"args":[],"kwargs":{"order":17}}. Upper and
    lower case differ. No index helps: the search reads each job that matches the other filters."""


@dataclass(frozen=True, slots=True)
class Options:
    """The checked options of a task or job. None: the option was not given. `JobOptions` documents each option.

    Durations are in seconds, `run_at` is in UTC. `__init__` raises InvalidJob for a value of a wrong type or range, and
    for `delay` together with `run_at`.
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
    key_mode: str | None = None
    unique_for: float | None = None
    job_id: str | None = None
    headers: Mapping[str, str] | None = None
    tags: tuple[str, ...] | None = None
    then: Job[Any] | None = None
    pass_result: bool | None = None

    def __post_init__(self) -> None:
        if self.delay is not None and self.run_at is not None:
            raise InvalidJob("delay and run_at cannot be combined: give one of them")
        if self.unique_for is not None and self.key_mode == "replace":
            raise InvalidJob(
                'unique_for and key_mode="replace" cannot be combined, because the last call within unique_for would '
                "be lost: give one of them"
            )
        for name, value in self.given().items():
            object.__setattr__(self, name, _CHECKS[name](name, value))

    @classmethod
    def of(cls, options: JobOptions | TaskOptions, known: frozenset[str]) -> Self:
        """Make options from a caller's keyword arguments, and check them.

        Raises ConfigurationError for an option that is not in `known`, and InvalidJob for a wrong value.
        """
        for name in options:
            if name not in known:
                raise ConfigurationError(f"there is no option {name!r} here{nearest(name, known)}")
        return cls(**cast("dict[str, Any]", options))  # `__post_init__` converts timedeltas to seconds

    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        return {name: value for name in _CHECKS if (value := getattr(self, name)) is not None}

    def over(self, base: Options) -> Options:
        """Combine these options with those of `base`. If both give an option, the value of this object is used.

        `delay` and `run_at` exclude each other. So if this object gives one of them, both are ignored in `base`.
        """
        given = self.given()
        if "delay" in given or "run_at" in given:
            base = replace(base, delay=None, run_at=None)
        return replace(base, **given)

    def for_record(self) -> dict[str, Any]:
        """The given options that are stored in `Record.options`, as plain JSON values."""
        none = self.retry is None and self.timeout is None and self.crash_limit is None and self.keep_result is None
        if none and self.unique_for is None:
            return {}
        kept = {name: getattr(self, name) for name in ("timeout", "crash_limit", "keep_result", "unique_for")}
        kept["retry"] = None if self.retry is None else self.retry.as_dict()
        return {name: value for name, value in kept.items() if value is not None}


BATCH_TAG = "queueport:batch:"
"""The beginning of the tag of the jobs of a batch, which ends with the id of the batch."""
AFTER_TAG = "queueport:after:"
"""The beginning of the tag of the jobs that follow a batch."""


def is_own_tag(tag: str) -> bool:
    """True if only queueport gives jobs this tag."""
    return tag.startswith("queueport:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """How a job depends on other jobs: ids of jobs and batches, None where there is none. For the core."""

    then: str | None = None
    """The job that waits for the end of this one."""
    on_dead: str | None = None
    """The job that waits for the death of this one, or of another job of its batch."""
    batch: str | None = None
    """The batch to which the job belongs. The end of such a job counts, also without success."""
    after: str | None = None
    """The job that this one follows."""
    after_batch: str | None = None
    """The batch that this job follows."""
    waits_for: int = 0
    """The number of jobs that this one waits for at first."""
    if_dead: bool = False
    """True if this job runs only if a job of the batch `after_batch` dies."""
    pass_result: bool = False
    """True if the result of the job `after` is the first argument."""

    def own_tags(self) -> tuple[str, ...]:
        """The tags by which the jobs of a batch, and those that follow it, are found."""
        if self.batch is not None:
            return (f"{BATCH_TAG}{self.batch}",)
        return () if self.after_batch is None else (f"{AFTER_TAG}{self.after_batch}",)

    def as_dict(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make links from the output of `as_dict`. Ignores unknown fields."""
        return cls(**{f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data})

    def shown(self) -> dict[str, Any]:
        """The fields of a `JobStatus`."""
        children = [job for job in (self.then, self.on_dead) if job is not None]
        parents = [] if self.after is None else [self.after]
        return {
            "parents": parents,
            "children": children,
            "batch": self.batch,
            "after_batch": self.after_batch,
            "pass_result": self.pass_result and self.after is not None,
        }


class ResultType(Protocol[R_co]):
    """Decodes the result of a job. `Task` implements it."""

    def decode_result(self, data: bytes) -> R_co:
        """Decode a result from JSON to the annotated type. Raises InvalidJob if the result is not of that type, and
        ConfigurationError if the annotation cannot be resolved.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[R_co]):
    """One request to run a task, before it is enqueued. `Task.job` makes it; change it with `dataclasses.replace`.

    Raises InvalidJob for an invalid id, task, payload, queue, header, `expires` or `limit_key`.
    """

    id: str = field(default_factory=new_id)
    task: str
    """The task's name."""
    payload: bytes
    """The positional and named arguments as JSON. `queueport.job.arguments` describes the format."""
    queue: str = DEFAULT_QUEUE
    expires: float | None = None
    """No attempt starts later than this number of seconds after enqueueing. None: no limit. `TaskOptions.expires`
    describes what then happens to a job that still waits."""
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    """The producer's other options. Options that `Job` has as a field, such as `queue`, are ignored here."""
    limit_key: str | None = None
    """What the task's `concurrency_key` returned for the arguments; None if the task has none."""
    links: Links | None = field(default=None, repr=False)
    """For the core, which sets this when it enqueues jobs that depend on each other."""
    task_ref: ResultType[R_co] | None = field(default=None, compare=False, repr=False)
    """The task, which decodes the result; None if `Task.job` did not make the job."""

    def __post_init__(self) -> None:
        check_id("id", self.id)
        if not is_task_name(self.task):
            raise InvalidJob(f"task must be {TASK_NAME}, not {self.task!r}")
        _queue("queue", self.queue)
        self._call()
        if self.expires is not None:
            object.__setattr__(self, "expires", _seconds("expires", self.expires))
        if self.limit_key is not None:
            _label("limit_key", self.limit_key)
        object.__setattr__(self, "headers", _headers("headers", self.headers))

    @property
    def args(self) -> list[Any]:
        """The positional arguments, as plain JSON values. Raises InvalidJob if the payload is not valid."""
        return self._call()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The named arguments, as plain JSON values. Raises InvalidJob if the payload is not valid."""
        return self._call()[1]

    def _call(self) -> tuple[list[Any], dict[str, Any]]:
        from queueport.job.arguments import decode_plain  # imported here, because pydantic is slow to import

        return decode_plain(self.payload)


def chain(first: Job[R], *others: Job[Any]) -> Job[R]:
    """Make the first job such that each of the others follows when the job before it has succeeded.

        queue.enqueue(chain(fetch.job(7), resize.using(pass_result=True).job(), notify.job("ann")))

    The same as `then` of each job. Raises InvalidJob if one of the jobs but the last has a `then` already, and if an
    argument is not a job.
    """
    jobs = [check_job("each argument of chain", job) for job in (first, *others)]
    following = jobs.pop()
    while jobs:
        job = jobs.pop()
        if job.options.then is not None:
            raise InvalidJob(f"job {job.id} of the chain has then= already: add that job to the chain")
        following = replace(job, options=replace(job.options, then=following))
    return following


JobDraft: Any = draft_of(Job)
"""The class of drafts of `Job`. Takes the arguments of `Job`, but does not check them; see `draft_of`."""


class HandleQueue(Protocol):
    """The methods of `JobQueue` that a handle calls."""

    def status(self, job_id: str) -> JobStatus: ...
    def result(self, job_id: str, timeout: float | None = None, task: ResultType[R] | None = None) -> R: ...
    def cancel(self, job_id: str, interrupt: bool = True) -> CancelOutcome: ...
    def retry(self, job_id: str) -> JobHandle[Any]: ...


class AsyncHandleQueue(Protocol):
    """The methods of `AsyncJobQueue` that a handle awaits."""

    async def status(self, job_id: str) -> JobStatus: ...
    async def result(self, job_id: str, timeout: float | None = None, task: ResultType[R] | None = None) -> R: ...
    async def cancel(self, job_id: str, interrupt: bool = True) -> CancelOutcome: ...
    async def retry(self, job_id: str) -> AsyncJobHandle[Any]: ...


@dataclass(frozen=True, slots=True)
class JobHandle(Generic[R]):
    """One enqueued job, by its id; `R` is the type of its result. It keeps no data of the job."""

    id: str
    queue: HandleQueue = field(repr=False, compare=False)
    task: ResultType[R] | None = field(default=None, repr=False, compare=False)
    created: bool = field(default=False, repr=False, compare=False)
    """True if the call that made this handle added the job. False if another job had the key, for handles that
    `JobQueue.handle`, `JobQueue.retry` or `enqueue_on_commit` returned, and for jobs that the Django setting
    ENQUEUE_ON_COMMIT delays until the commit.
    """
    replaced: bool = field(default=False, repr=False, compare=False)
    """True if the call that made this handle added no job, but gave its arguments and options to this one, because of
    `key_mode="replace"`. If both this and `created` are False, the call changed nothing: the job existed."""
    follow_ups: tuple[JobHandle[Any], ...] = field(default=(), repr=False, compare=False)
    """The handles of the jobs that the same call has enqueued to follow this one (`then`, `chain`), in order. It is an
    attribute: the method `Batch.follow_ups` reads the store, and returns the status of each job instead."""

    def status(self) -> JobStatus:
        """The job as it is now. Raises JobNotFound if there is no such job."""
        return self.queue.status(self.id)

    def result(self, timeout: float | None = None) -> R:
        """Wait until the job has ended, and return its result; see `JobQueue.result`."""
        return self.queue.result(self.id, timeout, self.task)

    def cancel(self, interrupt: bool = True) -> CancelOutcome:
        """Cancel the job if it is waiting, or request that it stops if it is running; see `JobQueue.cancel`."""
        return self.queue.cancel(self.id, interrupt)

    def retry(self) -> JobHandle[R]:
        """Run the job again if it is dead or cancelled, or now if it is scheduled or retrying. Returns this handle.

        Raises the errors of `JobQueue.retry`.
        """
        self.queue.retry(self.id)
        return self


@dataclass(frozen=True, slots=True)
class AsyncJobHandle(Generic[R]):
    """`JobHandle` with awaitable methods."""

    id: str
    queue: AsyncHandleQueue = field(repr=False, compare=False)
    task: ResultType[R] | None = field(default=None, repr=False, compare=False)
    created: bool = field(default=False, repr=False, compare=False)
    """See `JobHandle.created`."""
    replaced: bool = field(default=False, repr=False, compare=False)
    """See `JobHandle.replaced`."""
    follow_ups: tuple[AsyncJobHandle[Any], ...] = field(default=(), repr=False, compare=False)
    """See `JobHandle.follow_ups`."""

    async def status(self) -> JobStatus:
        """The job as it is now. Raises JobNotFound if there is no such job."""
        return await self.queue.status(self.id)

    async def result(self, timeout: float | None = None) -> R:
        """Wait until the job has ended, and return its result; see `AsyncJobQueue.result`."""
        return await self.queue.result(self.id, timeout, self.task)

    async def cancel(self, interrupt: bool = True) -> CancelOutcome:
        """Cancel the job if it is waiting, or request that it stops if it is running; see `JobQueue.cancel`."""
        return await self.queue.cancel(self.id, interrupt)

    async def retry(self) -> AsyncJobHandle[R]:
        """Run the job again if it is dead or cancelled, or now if it is scheduled or retrying. Returns this handle.

        Raises the errors of `JobQueue.retry`.
        """
        await self.queue.retry(self.id)
        return self


QUEUE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
TASK_NAME = "1 to 200 printable characters without spaces"
_LABEL = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,256}")
_TAG = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,100}")
TAGS = 10
"""The maximum number of tags of a job."""
_ENCODABLE = re.compile(r"[^\ud800-\udfff]*")  # UTF-8 cannot encode surrogates


def is_task_name(name: object) -> bool:
    """True if a task can have this name. TASK_NAME describes such names, for errors."""
    return isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() and " " not in name


def _text(pattern: re.Pattern[str], description: str) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise InvalidJob(f"{name} must be {description}, not {value!r}")

    return check


_queue = _text(QUEUE_NAME, "1 to 64 letters, digits, _, - or ., and must not begin with a dot")
check_id: Callable[[str, object], str] = _text(JOB_ID, "1 to 64 letters, digits, _ or -")
"""Takes the name of an argument and its value, and returns the value if it is a valid id. Raises InvalidJob."""
_label = _text(_LABEL, "1 to 256 characters of text without control characters")


def _seconds(name: str, value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= LONGEST:
        return float(seconds)
    raise InvalidJob(f"{name} must be a number of seconds from 0 to 100 years, not {value!r}")


def _timeout(name: str, value: object) -> float:
    if (seconds := _seconds(name, value)) == 0:
        raise InvalidJob(f"{name} must be more than 0 seconds; leave it out for no limit")
    return seconds


def _unique_for(name: str, value: object) -> float:
    if (seconds := _seconds(name, value)) == 0:
        raise InvalidJob(f"{name} must be more than 0 seconds; leave it out if the key is free when the job has ended")
    return seconds


def _integer(low: int, high: int | None = None) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high):
            return int(value)
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidJob(f"{name} must be a whole number {allowed}, not {value!r}")

    return check


def _run_at(name: str, value: object) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidJob(f"{name} must be a datetime, not {value!r}")
    if value.utcoffset() is None:
        raise InvalidJob(f"{name} must be an aware datetime, for example datetime.now(UTC): {value!r} has no time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidJob(f"{name} must be in the years 1 to 9999 in UTC, not {value!r}") from None


def _retry(name: str, value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    raise InvalidJob(f"{name} must be a Retry, for example Retry(max_attempts=5), not {value!r}")


def _key_mode(name: str, value: object) -> str:
    if isinstance(value, str) and value in KEY_MODES:
        return value
    raise InvalidJob(f"{name} must be one of {', '.join(map(repr, KEY_MODES))}, not {value!r}")


def _headers(name: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidJob(f"{name} must be a mapping of text to text, not {value!r}")
    headers: dict[str, Any] = {**value}  # a copy, because the caller may change the mapping later
    for key, text in headers.items():
        _label("the name of a header", key)
        if not isinstance(text, str) or not _ENCODABLE.fullmatch(text):
            # The error does not show the value, because a header may contain a secret.
            raise InvalidJob(f"the value of the header {key!r} must be text that UTF-8 can encode")
    return headers


def _tags(name: str, value: object) -> tuple[str, ...]:
    tags = tuple(value) if isinstance(value, list | tuple | set | frozenset) else ("",)
    if len(tags) > TAGS or not all(isinstance(tag, str) and _TAG.fullmatch(tag) for tag in tags):
        raise InvalidJob(
            f"{name} must be at most {TAGS} texts of 1 to 100 characters without control characters, such as ('vip',), "
            f"not {value!r:.200}"
        )
    if any(map(is_own_tag, tags)):
        raise InvalidJob(f"{name} must not begin with 'queueport:', which is for queueport's own tags")
    return tuple(dict.fromkeys(tags))


def check_job(name: str, value: object) -> Job[Any]:
    """Return the value of the argument `name` if it is a job. Raises InvalidJob otherwise."""
    if isinstance(value, Job):
        return value
    raise InvalidJob(f"{name} must be a job, for example notify.job(7), not {value!r:.80}")


def _pass_result(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidJob(f"{name} must be True or False, not {value!r:.80}")


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "queue": _queue,
    "retry": _retry,
    "timeout": _timeout,
    "expires": _seconds,
    "crash_limit": _integer(1),
    "keep_result": _seconds,
    "delay": _seconds,
    "run_at": _run_at,
    "priority": _integer(-HIGHEST_PRIORITY, HIGHEST_PRIORITY),
    "group": _label,
    "key": _label,
    "key_mode": _key_mode,
    "unique_for": _unique_for,
    "job_id": check_id,
    "headers": _headers,
    "tags": _tags,
    "then": check_job,
    "pass_result": _pass_result,
}

"""The record of a job, and the changes that a store applies to it. For authors of stores and for the core."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from types import NoneType
from typing import Any, Generic, Self, TypeVar

from queueport.errors import ConfigurationError, QueueportError
from queueport.job import Links, draft_of, frozen, is_own_tag
from queueport.retry import Retry
from queueport.status import JobError, JobState, JobStatus, Progress, utc

__all__ = [
    "RECORD_VERSION",
    "Change",
    "CorruptRecord",
    "FollowUp",
    "Links",
    "OfChange",
    "Record",
    "RecordDraft",
    "Release",
]

T = TypeVar("T")

RECORD_VERSION = 1
REPLAY_OF = "queueport-replay-of"
"""The header of a job that `JobQueue.replay` made: the id of the job that it was made from."""

Flat = str | int | float | bytes | None
Tags = tuple[str, ...]


class CorruptRecord(QueueportError, ValueError):
    """A stored record cannot be read. The message says why.

    The record is damaged, or another program or a newer release of queueport wrote it.
    """


@dataclass(frozen=True, slots=True)
class Record:
    """One job. A store must not interpret the bytes of payload and result.

    Times are seconds since the epoch, by the store's clock. A `run_at` that the producer gave as a time, not as a
    delay, is by the producer's clock, and so is the first `wake_at` of a scheduled job with such a `run_at`.
    """

    id: str
    task: str
    queue: str
    payload: bytes
    state: JobState
    priority: int = 0
    group: str | None = None
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options `retry`, `timeout`, `crash_limit`, `keep_result` and `unique_for` that the producer gave. They change
    only if the job is replaced."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The first four of these options, as the worker of the latest attempt declares its task. `options` take
    precedence."""
    rev: str = ""
    """A random text, new on every write. A swap is applied only if the `expected` of the swap is equal to this text."""
    life: int = 1
    """1 at first. Each retry of the dead or cancelled job, by retry() or a redrive, adds 1."""
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    token: str | None = None
    """Identifies the latest attempt. Heartbeats and the end of an attempt are rejected if they have another token. None
    before the first attempt, and after the job was queued again or a dispatcher has ended an attempt with a lapsed
    lease."""
    wake_at: float | None = None
    """When a dispatcher must next check the job, such as at its due time or the end of its lease. None: no check is
    needed."""
    sent: bool = False
    """True if a queued job only waits for a worker: the backend has taken its message, or the store is the queue. False
    while the job waits because a worker handed it back or does not know its task. Without meaning in other states."""
    sent_at: float | None = None
    sends: int = 0
    """The number of messages that were, or may have been, published since the job last entered `queued`, or since a
    worker last handed it back or did not know its task."""
    cancel_requested: bool = False
    cancel_interrupts: bool = True
    """True if the task's code must be interrupted when `cancel_requested` is True."""
    interrupted: bool = False
    """True if a worker ended although the task's code still ran, so that the lapse of the lease ends the attempt; also
    while a suspect waits for the start of its task. If the lease lapses while this is True, no crash is counted."""
    buried: bool = False
    """True after a copy was put into the backend's own dead letters, until the job is retried, discarded or buried
    again."""
    enqueued_at: float = 0.0
    queued_at: float | None = None
    """The time at which the job last entered `queued`. If the store is the queue, jobs of one priority run in the order
    of this time."""
    run_at: float | None = None
    expires_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    unknown_since: float | None = None
    """The time at which a worker first found that it does not know the task of this queued job. None if this has not
    happened since the job last entered `queued`, or if a worker that knows the task was found since."""
    worker: str | None = None
    result: bytes | None = None
    errors: tuple[JobError, ...] = ()
    """The latest errors, newest last. `Lifecycle` keeps at most ten errors."""
    progress: Progress | None = None
    reason: str | None = None
    """Why the job is cancelled, or "paused" or "limited"; see `JobStatus.reason`."""
    key_until: float | None = None
    """Until when the job keeps its key although it has ended. The write that ends the job sets this time. None: the key
    is free from the end."""
    tags: Tags = ()
    """The texts by which `find` finds the job, each once. They never change."""
    limit_key: str | None = None
    """What the task's `concurrency_key` returned for the arguments: jobs with this key have limits of their own."""
    slots: Tags | None = None
    """The names of the limits that the latest attempt is counted against. While the job is running, it uses a slot of
    each. In other states, the names have no meaning. None: no limits."""
    held_by: str | None = None
    """The name of the limit that a queued job waits for. The job is held if `reason` is "limited". If `reason` is None,
    it was let on: it may begin before jobs that are held."""
    links: Links | None = None
    """The jobs before and after this one, if it belongs to a chain or a batch. They never change."""
    waits_for: int = 0
    """The number of jobs that must end before this scheduled job is due. Without meaning in other states."""
    released: bool = False
    """True after the end of this job has released the jobs that wait for it. A job does this at most once."""
    v: int = RECORD_VERSION

    def option(self, name: str, default: Any) -> Any:
        """The value of an option: from `options` if not None there, else from `defaults`, else `default`."""
        given = self.options.get(name)
        if given is None:
            given = self.defaults.get(name)
        return default if given is None else given

    def expired(self, now: float) -> bool:
        """True if the job has expired, so that no attempt may start. `now` is the store's time."""
        return self.expires_at is not None and self.expires_at <= now

    def retry_policy(self, default: T) -> Retry | T:
        """The job's retry policy: from `options` if not None there, else from `defaults`, else `default`."""
        given = self.option("retry", None)
        return default if given is None else Retry.from_dict(given)

    def status(self, default: Retry | None) -> JobStatus:
        """The status of the job. `default` is the retry policy if the record contains none; None: it is not known.

        Raises CorruptRecord if the payload, the result, the retry policy or a time cannot be read.
        """
        try:
            return self._status(default)
        # datetime raises OverflowError or OSError for a time that it cannot represent
        except (ConfigurationError, ValueError, KeyError, TypeError, RecursionError, OverflowError, OSError) as error:
            raise CorruptRecord(f"a part of the record of job {self.id} cannot be read ({error})") from None

    def _status(self, default: Retry | None) -> JobStatus:
        payload = json.loads(self.payload)
        args, kwargs = list(payload["args"]), dict(payload["kwargs"])
        result = None if self.result is None else json.loads(self.result)
        policy = self.retry_policy(default)
        waiting = self.state in (JobState.SCHEDULED, JobState.RETRYING)
        return JobStatus(
            id=self.id,
            task=self.task,
            queue=self.queue,
            state=self.state,
            args=args,
            kwargs=kwargs,
            attempts=self.attempts,
            failures=self.failures,
            crashes=self.crashes,
            max_attempts=None if policy is None else policy.max_attempts,
            enqueued_at=datetime.fromtimestamp(self.enqueued_at, UTC),
            run_at=utc(self.run_at),
            started_at=utc(self.started_at),
            finished_at=utc(self.finished_at),
            next_attempt_at=utc(self.wake_at) if waiting else None,
            worker=self.worker,
            result=result,
            error=self.errors[-1] if self.errors and self.state is not JobState.SUCCEEDED else None,
            errors=list(self.errors),
            progress=self.progress,
            key=self.key,
            headers=dict(self.headers),
            tags=[tag for tag in self.tags if not is_own_tag(tag)],
            reason=None if self.state is JobState.SCHEDULED else self.reason,
            replay_of=self.headers.get(REPLAY_OF),
            waits_for=self.waits_for if self.state is JobState.SCHEDULED else 0,
            **({} if self.links is None else self.links.shown()),
        )

    def values(self) -> dict[str, Any]:
        """Every field by name."""
        return dict(zip(_KINDS, VALUES(self), strict=True))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Make a record from the output of `flat`. Missing fields get their default; unknown fields are ignored.

        Raises CorruptRecord if a value cannot be converted, or if a field without a default is missing.
        """
        known: dict[str, Any] = {}
        name = ""
        try:
            for name, read in _READERS.items():
                if name in values:
                    value = values[name]
                    known[name] = value if _is_plain(name, type(value)) else read(value)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise CorruptRecord(f"the record's {name} cannot be read ({error})") from None
        try:
            return frozen(RecordDraft(**known), cls)
        except TypeError as error:
            raise CorruptRecord(f"the record lacks fields ({error})") from None

    @classmethod
    def from_flat_values(cls, values: Sequence[Any]) -> Self:
        """Make a record from the flat values of all fields, in the order of the fields. Faster than `from_flat`.

        Raises CorruptRecord if a value cannot be converted.
        """
        known = list(values)
        try:
            for position, read in _readers(tuple(map(type, known))):
                known[position] = read(known[position])
            return frozen(RecordDraft(*known), cls)
        except Exception:  # noqa: BLE001  # the next call raises CorruptRecord, with the name of the field
            return cls.from_flat(dict(zip(_KINDS, values, strict=True)))


class FollowUp(StrEnum):
    """A step that a process must take after the store has applied the change that the process wrote."""

    PUBLISH = "publish"
    BURY = "bury"
    UNBURY = "unbury"
    CALL_ON_DEAD = "call_on_dead"
    """Call the on_dead hooks."""
    START = "start"
    """Start the jobs that the change has released."""


@dataclass(frozen=True, slots=True)
class Release:
    """What a change of one job means for the job `id`, which waits for it. Part of the same atomic step.

    If the job `id` is scheduled and has a `waits_for` greater than 0, the store must subtract 1 from `waits_for`, or
    with `all` set it to 0, and set the fields in `set`. The new rev must be the id of the changed job, which releases a
    job at most once. If `waits_for` then is 0, the store must also set `wake_at` to its present time. If the job `id`
    does not wait, the store must change nothing.
    """

    id: str
    all: bool = False
    set: Mapping[str, Any] = field(default_factory=dict)
    after: str | None = None
    """The id of the changed job, or of its batch. The store must change nothing if the job `id` follows neither of them
    (`Links.after`, `Links.after_batch`): it is another job, whose producer has used the id again. None: any job."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a record. Usually the lifecycle decides the change. A store applies it in one atomic step."""

    set: Mapping[str, Any] = field(default_factory=dict)
    """New values by field name."""
    stamp: Mapping[str, float] = field(default_factory=dict)
    """Time fields to set, by name. Each value is a number of seconds, to which the store adds its present time."""
    processed: int = 0
    """The number to add to the store's counter of ended jobs."""
    failed: int = 0
    """The number to add to the store's counter of attempts that failed or crashed."""
    delete: bool = False
    """Delete the record. `set` and `stamp` are then empty."""
    then: frozenset[FollowUp] = frozenset()
    releases: tuple[Release, ...] = ()
    """The jobs that wait for this one, if the change ends it. Not for inserts, begins and heartbeats."""

    @property
    def writes(self) -> bool:
        """True if the change writes to the record or deletes it; False if the change has only follow-ups."""
        return self.delete or bool(self.set) or bool(self.stamp)

    def with_next(self, other: Change) -> Change:
        """Combine this change with `other`, as if `other` was applied second. Neither change may delete the record.

        The combined change has no follow-ups and releases no jobs.
        """
        mine = {name: value for name, value in self.set.items() if name not in other.stamp}
        stamp = {name: seconds for name, seconds in self.stamp.items() if name not in other.set}
        counts = self.processed + other.processed, self.failed + other.failed
        return Change({**mine, **other.set}, {**stamp, **other.stamp}, *counts)

    def applied(self, record: Record, rev: str, now: float, *, starts: bool = False) -> Record:
        """The record after this change, which must not delete it. The new record has the rev `rev`.

        `now` is the store's time. With `starts`, adds 1 to `attempts`.
        """
        changed = RecordDraft(*VALUES(record))
        for name, value in self.set.items():
            setattr(changed, name, value)
        for name, seconds in self.stamp.items():
            setattr(changed, name, now + seconds)
        changed.rev = rev
        changed.attempts += starts
        return frozen(changed, Record)


RecordDraft: Any = draft_of(Record)
"""The class of drafts of `Record`: it has the same fields and arguments, but the fields of a draft can be changed.
`frozen` turns a draft into a Record."""


class OfChange(Generic[T]):
    """Calls a function with a change, and keeps the latest change with its result. Thread-safe.

    Most new jobs share one object as their first change, so the function is rarely called for them.
    """

    def __init__(self, make: Callable[[Change], T]) -> None:
        self._make = make
        self._latest: tuple[Change, T] | None = None

    def __call__(self, change: Change) -> T:
        latest = self._latest
        if latest is None or latest[0] is not change:
            latest = self._latest = change, self._make(change)
        return latest[1]


def flat(values: Mapping[str, Any]) -> dict[str, Flat]:
    """Convert fields to values that any store can keep: mappings, errors and progress to JSON, booleans to 0 or 1, the
    state to text.
    """
    return {name: flat_value(name, value) for name, value in values.items()}


def flat_value(name: str, value: Any) -> Flat:
    """The value of one field, converted as `flat` does."""
    if value is None or (write := _WRITERS.get(name)) is None:
        flat: Flat = value
        return flat
    return write(value)


@lru_cache
def writers(names: tuple[str, ...]) -> list[tuple[int, Callable[[Any], Flat]]]:
    """How to convert a list of these fields' values as `flat` does: each position to convert, and its function."""
    return [(position, _WRITERS[name]) for position, name in enumerate(names) if name in _WRITERS]


def _is_plain(name: str, kind: type) -> bool:
    """True if a flat value of this type is the value of the field, without a conversion."""
    return kind is _PLAIN.get(name) or (kind is NoneType and name in _OPTIONAL)


@lru_cache
def _readers(kinds: tuple[type, ...]) -> list[tuple[int, Callable[[Any], Any]]]:
    """How to convert the flat values of all fields, which have these types, to the values of a record: each position to
    convert, and the function for this position.
    """
    fields = enumerate(zip(_READERS.items(), kinds, strict=True))
    return [
        (position, bool if (kind, _KINDS[name]) == (int, "bool") else read)
        for position, ((name, read), kind) in fields
        if not _is_plain(name, kind)
    ]


def _text(value: Any) -> str:
    text: str = value.decode() if isinstance(value, bytes) else _expect(str, value)
    return text


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected")
    return value


def _errors(value: Any) -> tuple[JobError, ...]:
    return tuple([JobError.from_dict(error) for error in _expect(list, json.loads(value))])


_STATES = {state.value: state for state in JobState}
_json = json.JSONEncoder(separators=(",", ":")).encode  # writes ASCII: UTF-8 cannot encode a lone surrogate
_WRITE: dict[str, Callable[[Any], Flat]] = {
    "JobState": str,
    "bool": int,
    "Mapping": lambda value: _json(dict(value)) if value else "{}",
    "tuple": lambda errors: _json([error.as_dict() for error in errors]) if errors else "[]",
    "Tags": lambda tags: _json(tags) if tags else "[]",
    "Progress": lambda value: _json(dataclasses.asdict(value)),
    "Links": lambda value: _json(value.as_dict()),
}
_READ: dict[str, Callable[[Any], Any]] = {
    "JobState": lambda value: _STATES.get(value) or JobState(_text(value)),
    "bool": lambda value: bool(int(value)),
    "Mapping": lambda value: {} if value == "{}" else _expect(dict, json.loads(value)),
    "tuple": lambda value: () if value == "[]" else _errors(value),
    "Tags": lambda value: () if value == "[]" else tuple(map(_text, _expect(list, json.loads(value)))),
    "Progress": lambda value: Progress(**_expect(dict, json.loads(value))),
    "Links": lambda value: Links.from_dict(_expect(dict, json.loads(value))),
    "str": _text,
    "int": int,
    "float": float,
    "bytes": lambda value: bytes(_expect(bytes, value)),
}
_TYPES: dict[str, str] = {f.name: str(f.type) for f in dataclasses.fields(Record)}
_OPTIONAL = {name for name, kind in _TYPES.items() if kind.endswith(" | None")}
_KINDS = {name: kind.removesuffix(" | None").partition("[")[0] for name, kind in _TYPES.items()}
_WRITERS = {name: _WRITE[kind] for name, kind in _KINDS.items() if kind in _WRITE}
VALUES = attrgetter(*_KINDS)
_READERS = {name: _READ[kind] for name, kind in _KINDS.items()}
_PLAIN: dict[str, type] = {
    name: kind for name, named in _KINDS.items() for kind in (str, int, float, bytes) if kind.__name__ == named
}
"""Fields of plain types, each with its type. `from_flat` does not convert a value that already has this type."""

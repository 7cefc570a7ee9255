"""The record of a job, as stores keep it, and the changes made to it. For authors of stores and of the core."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from operator import attrgetter
from typing import Any, Self

from queueport.errors import QueueportError
from queueport.retry import Retry
from queueport.status import JobError, JobState, JobStatus, Progress, utc

__all__ = ["RECORD_VERSION", "Change", "CorruptRecord", "Record", "Then"]

RECORD_VERSION = 1

Flat = str | int | float | bytes | None


class CorruptRecord(QueueportError, ValueError):
    """A stored record cannot be read: not written by queueport, or damaged. The message names the field."""


@dataclass(frozen=True, slots=True)
class Record:
    """One job. Times are seconds since the epoch on the store's clock; payload and result are opaque bytes."""

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
    """What the producer gave of `retry`, `timeout`, `crash_limit`, `keep_result`: frozen."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The same from the registration of the worker that began it last."""
    rev: str = ""
    """New on every write; what a swap compares."""
    life: int = 1
    """One more at each retry()."""
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    token: str | None = None
    """Made by the worker before it begins: the fence between attempts."""
    wake_at: float | None = None
    """The one time index: due time, end of a claim, end of a lease, or end of retention."""
    sent: bool = False
    """The backend has taken a message for this wait in the queue."""
    sent_at: float | None = None
    sends: int = 0
    """How often a message was published in this wait."""
    cancel_requested: bool = False
    cancel_interrupts: bool = True
    """A requested cancel also interrupts the task's thread."""
    interrupted: bool = False
    """A graceful stop could not end the attempt; its lease lapses without a crash counted."""
    buried: bool = False
    """A copy lies in the backend's own dead letters."""
    enqueued_at: float = 0.0
    queued_at: float | None = None
    """When it last entered its queue: the order within a priority."""
    run_at: float | None = None
    expires_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    unknown_since: float | None = None
    """Since when no live worker knows its task."""
    worker: str | None = None
    result: bytes | None = None
    errors: tuple[JobError, ...] = ()
    """Newest last; bounded."""
    progress: Progress | None = None
    reason: str | None = None
    v: int = RECORD_VERSION

    def option(self, name: str, default: Any) -> Any:
        """An option as it holds now: the producer's word, else the worker's registration, else `default`."""
        given = self.options.get(name)
        if given is None:
            given = self.defaults.get(name)
        return default if given is None else given

    def retry_policy(self, default: Retry) -> Retry:
        """The retry policy as it holds now."""
        given = self.option("retry", None)
        return default if given is None else Retry.from_dict(given)

    def status(self, default: Retry) -> JobStatus:
        """What a caller sees; `default` is the retry policy where neither producer nor worker named one."""
        try:
            payload = json.loads(self.payload)
            args, kwargs = list(payload["args"]), dict(payload["kwargs"])
            result = None if self.result is None else json.loads(self.result)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptRecord(f"the payload of job {self.id} cannot be read ({error})") from None
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
            max_attempts=self.retry_policy(default).max_attempts,
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
            reason=self.reason,
        )

    def flat(self) -> dict[str, Flat]:
        """Every field as a value that any store can keep; `Record.from_flat` reads it back."""
        return flat(self.values())

    def values(self) -> dict[str, Any]:
        """Every field by its name."""
        return dict(zip(_KINDS, _VALUES(self), strict=True))

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Read flat values; unknown fields are dropped, missing ones take their default. Raises CorruptRecord."""
        known: dict[str, Any] = {}
        name = ""
        try:
            for name, read in _READERS.items():
                if name in values:
                    value = values[name]
                    known[name] = None if value is None and name in _OPTIONAL else read(value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptRecord(f"the record's {name} cannot be read ({error})") from None
        try:
            return cls(**known)
        except TypeError as error:
            raise CorruptRecord(f"the record is not whole ({error})") from None


class Then(Enum):
    """What the one whose swap was applied has to do next."""

    PUBLISH = "publish"
    BURY = "bury"
    UNBURY = "unbury"
    TELL_DEATH = "tell_death"
    """Call the on_dead hooks."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of a record: decided by the lifecycle, applied by a store in one atomic step."""

    set: Mapping[str, Any] = field(default_factory=dict)
    """New values by field name."""
    stamp: Mapping[str, float] = field(default_factory=dict)
    """Time fields that become the store's own now plus so many seconds."""
    processed: int = 0
    """Added to the store's counter of jobs ended."""
    failed: int = 0
    """Added to the store's counter of attempts failed."""
    delete: bool = False
    """The record goes; everything else is empty."""
    then: frozenset[Then] = frozenset()

    @property
    def writes(self) -> bool:
        """False where there is nothing to swap, only something to do."""
        return self.delete or bool(self.set) or bool(self.stamp)

    def with_next(self, other: Change) -> Change:
        """This change and then that one, in one step; what is to follow is left to the caller."""
        mine = {name: value for name, value in self.set.items() if name not in other.stamp}
        stamp = {name: seconds for name, seconds in self.stamp.items() if name not in other.set}
        counts = self.processed + other.processed, self.failed + other.failed
        return Change({**mine, **other.set}, {**stamp, **other.stamp}, *counts)

    def applied(self, record: Record, rev: str, now: float) -> Record:
        """The record after this change, at the store's time `now`."""
        stamps = {name: now + seconds for name, seconds in self.stamp.items()}
        return Record(**{**record.values(), **self.set, **stamps, "rev": rev})


def flat(values: Mapping[str, Any]) -> dict[str, Flat]:
    """Field values as a store can keep them: JSON text for what has structure, 0 or 1 for what is true or false."""
    return {name: value if value is None else _WRITERS[name](value) for name, value in values.items()}


def _write_errors(errors: tuple[JobError, ...]) -> str:
    return _json([error.as_dict() for error in errors]) if errors else "[]"


def _read_errors(value: Any) -> tuple[JobError, ...]:
    return tuple([JobError.from_dict(error) for error in _expect(list, json.loads(value))])


def _read_mapping(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {} if value == "{}" else _expect(dict, json.loads(value))
    return found


def _text(value: Any) -> str:
    text: str = value.decode() if isinstance(value, bytes) else _expect(str, value)
    return text


def _expect(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} expected")
    return value


_json = json.JSONEncoder(separators=(",", ":")).encode  # ASCII, so that a lone surrogate in an error survives
_WRITE: dict[str, Callable[[Any], Flat]] = {
    "JobState": lambda value: str(value.value),
    "bool": int,
    "Mapping": lambda value: _json(dict(value)) if value else "{}",
    "tuple": _write_errors,
    "Progress": lambda value: _json(dataclasses.asdict(value)),
}
_READ: dict[str, Callable[[Any], Any]] = {
    "JobState": lambda value: JobState(_text(value)),
    "bool": lambda value: bool(int(value)),
    "Mapping": _read_mapping,
    "tuple": _read_errors,
    "Progress": lambda value: Progress(**_expect(dict, json.loads(value))),
    "str": _text,
    "int": int,
    "float": float,
    "bytes": lambda value: bytes(_expect(bytes, value)),
}
_TYPES: dict[str, str] = {f.name: str(f.type) for f in dataclasses.fields(Record)}
_OPTIONAL = {name for name, kind in _TYPES.items() if kind.endswith(" | None")}
_KINDS = {name: kind.removesuffix(" | None").partition("[")[0] for name, kind in _TYPES.items()}
_WRITERS: dict[str, Callable[[Any], Flat]] = {
    name: _WRITE.get(kind, lambda value: value) for name, kind in _KINDS.items()
}
_VALUES = attrgetter(*_KINDS)
_READERS = {name: _READ[kind] for name, kind in _KINDS.items()}

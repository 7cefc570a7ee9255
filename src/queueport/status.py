"""What a caller sees of one job: its state, its errors, its progress. Plain data, for applications and operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any, Self

__all__ = ["CancelOutcome", "JobError", "JobState", "JobStatus", "Progress"]


class JobState(StrEnum):
    """Where a job stands, and who moves it on."""

    SCHEDULED = "scheduled"
    """Waiting for its time. In: the producer, with a delay. Out: the dispatcher when due, or retry or cancel."""
    QUEUED = "queued"
    """Waiting for a worker. In: the producer or the dispatcher. Out: the worker that begins it, or cancel."""
    RUNNING = "running"
    """An attempt is under way and holds a lease. Out: its worker, or the dispatcher when the lease has lapsed."""
    RETRYING = "retrying"
    """An attempt failed and the next one has its time. Out: the dispatcher when due, or retry or cancel."""
    SUCCEEDED = "succeeded"
    """The task returned. Final; retention removes it."""
    DEAD = "dead"
    """Given up: in the dead letters. Final, until retry() revives it."""
    CANCELLED = "cancelled"
    """Cancelled, expired, purged or discarded (`reason` says which). Final, until retry() revives it."""

    @property
    def final(self) -> bool:
        """True when the job will not move any more by itself."""
        return self in FINAL


FINAL = frozenset({JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED})
WAITING = frozenset({JobState.SCHEDULED, JobState.QUEUED, JobState.RETRYING})


class CancelOutcome(Enum):
    """What cancel() could do."""

    CANCELLED = "cancelled"
    """The job was waiting; it will never run."""
    REQUESTED = "requested"
    """The job is running; its worker has been asked to stop it."""
    ALREADY_FINISHED = "already_finished"
    """The job had ended; nothing changed."""


@dataclass(frozen=True, slots=True)
class JobError:
    """One failed attempt. `type` is the exception's dotted class name; `attempt` counts from 1."""

    type: str
    message: str
    traceback: str
    at: datetime
    attempt: int

    def as_dict(self) -> dict[str, Any]:
        """The error as plain JSON values; `at` in ISO 8601."""
        return {**dataclasses.asdict(self), "at": self.at.isoformat()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote; fields this version does not know are dropped."""
        known = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**known, "at": datetime.fromisoformat(known["at"])})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job says it is: `current` of `total` (None: unknown), and what it is doing."""

    current: float
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's record as its caller sees it: readable without the task's code, times in aware UTC.

    `args`, `kwargs` and `result` are plain JSON values; `JobHandle.result()` gives the typed value.
    """

    id: str
    task: str
    queue: str
    state: JobState
    args: list[Any]
    kwargs: dict[str, Any]
    attempts: int
    """How often the job was started, over all its lives."""
    failures: int
    """How often the task raised, since the last retry()."""
    crashes: int
    """How often its worker vanished in mid-job, since the last retry()."""
    max_attempts: int
    """After so many failures the job is dead."""
    enqueued_at: datetime
    run_at: datetime | None
    """When the producer wanted it to run; None: at once."""
    started_at: datetime | None
    """Start of the latest attempt."""
    finished_at: datetime | None
    """When it reached a final state."""
    next_attempt_at: datetime | None
    """When a scheduled or retrying job becomes due."""
    worker: str | None
    """Name of the worker of the latest attempt."""
    result: Any
    error: JobError | None
    """The latest error; None once the job has succeeded."""
    errors: list[JobError]
    """The newest errors, newest last; bounded."""
    progress: Progress | None
    key: str | None
    headers: dict[str, str]
    reason: str | None
    """Why a cancelled job was cancelled: "cancelled", "expired", "purged", "discarded" or "not_sent"."""

    @property
    def finished(self) -> bool:
        """True in a final state."""
        return self.state.final

    def as_dict(self) -> dict[str, Any]:
        """The status as plain JSON values; times in ISO 8601, the state by its name."""
        data: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name, value in data.items():
            if isinstance(value, datetime):
                data[name] = value.isoformat()
        data["state"] = self.state.value
        data["finished"] = self.finished
        data["error"] = None if self.error is None else self.error.as_dict()
        data["errors"] = [error.as_dict() for error in self.errors]
        data["progress"] = None if self.progress is None else dataclasses.asdict(self.progress)
        return data


def utc(timestamp: float | None) -> datetime | None:
    """An aware UTC datetime from seconds since the epoch."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)

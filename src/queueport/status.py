"""The status of one job: its state, errors and progress, as plain data. For applications and operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any, Self

__all__ = ["CancelOutcome", "JobError", "JobState", "JobStatus", "Progress"]


class JobState(StrEnum):
    """The state of a job.

    The text of each state says who usually moves a job into it ("In") and out of it ("Out"). `docs/protocol.md#states`
    lists every case, such as expiry and purge.
    """

    SCHEDULED = "scheduled"
    """The job waits for its time. In: the producer, with a delay. Out: the dispatcher when due, retry() or cancel()."""
    QUEUED = "queued"
    """The job waits for a worker. In: producer, dispatcher, retry(), a worker that is stopped.
    Out: a worker's begin, or cancel()."""
    RUNNING = "running"
    """An attempt runs under a lease. In: a worker's begin. Out: that worker, or a dispatcher after the lease lapsed."""
    RETRYING = "retrying"
    """The job waits to be retried. In: a worker, after an error. Out: the dispatcher when due, retry() or cancel()."""
    SUCCEEDED = "succeeded"
    """The task returned. Final; a dispatcher deletes the record as `keep_succeeded` or the job's `keep_result` says."""
    DEAD = "dead"
    """The job was given up and is in the dead letters. Final, until retry() or `DeadLetters.discard`."""
    CANCELLED = "cancelled"
    """The job was cancelled, purged, discarded or withdrawn, or it expired; see `reason`. Final, until retry()."""

    @property
    def final(self) -> bool:
        """Whether the job has ended: succeeded, dead or cancelled."""
        return self in FINAL


FINAL = frozenset({JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED})
WAITING = frozenset({JobState.SCHEDULED, JobState.QUEUED, JobState.RETRYING})


class CancelOutcome(Enum):
    """The result of `JobQueue.cancel`."""

    CANCELLED = "cancelled"
    """The job was waiting, and is now cancelled. It will not run, unless somebody calls retry()."""
    REQUESTED = "requested"
    """The job is running. The request is recorded, and the job becomes cancelled when its attempt ends."""
    ALREADY_FINISHED = "already_finished"
    """The job had ended before the call. Nothing changed."""


@dataclass(frozen=True, slots=True)
class JobError:
    """An error of a job, usually of one attempt.

    `type` is the dotted name of the exception's class, without a module for a built-in class; or
    "queueport.DeadLetters" for a job of `DeadLetters.add`. `message` and `traceback` are cut to a few thousand
    characters. `traceback` is empty for errors that no task raised, such as WorkerLost. `at` is an aware UTC datetime.
    `attempt` is the number of the job's latest attempt when the error occurred, from 1; 0: there was no attempt before.
    `bases` are the dotted names of the ancestors of the class, nearest first. If all names together have more than 500
    characters, the last names are left out.
    """

    type: str
    message: str
    traceback: str
    at: datetime
    attempt: int
    bases: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The error as plain JSON values; `at` in ISO 8601."""
        return dataclasses.asdict(self, dict_factory=plain)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make an error from the output of `as_dict`. Ignores unknown fields; without `bases`, there are none."""
        known = {field.name: data[field.name] for field in dataclasses.fields(cls) if field.name != "bases"}
        at, bases = datetime.fromisoformat(known["at"]), tuple(map(str, data.get("bases", ())))
        return cls(**{**known, "at": at, "bases": bases})


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress that a job reported: `current` of `total` (None: unknown), and a message about the present step."""

    current: float
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job, as it was when its record was read. No code of the task is needed to read it. Times are in aware UTC.

    `args`, `kwargs` and `result` are plain JSON values; `JobHandle.result` returns the typed value.
    """

    id: str
    task: str
    queue: str
    state: JobState
    args: list[Any]
    kwargs: dict[str, Any]
    attempts: int
    """The number of attempts, including those before a retry()."""
    failures: int
    """The number of attempts that count as failures, since the job was enqueued or last revived by a retry."""
    crashes: int
    """The number of attempts whose worker was lost, since the job was enqueued or last revived by a retry."""
    max_attempts: int | None
    """The number of failures after which the job is dead. None if it is not known: the producer gave no retry policy,
    no attempt has begun, and the task is not registered in this process.
    """
    enqueued_at: datetime
    run_at: datetime | None
    """The earliest start, from the option `run_at` or `delay`; None without them. retry() can start the job earlier."""
    started_at: datetime | None
    """The start of the latest attempt. None before the first one."""
    finished_at: datetime | None
    """The time at which the job ended; for a discarded job, the time of its death. None if the job has not ended, or
    was retried since."""
    next_attempt_at: datetime | None
    """The time at which a scheduled or retrying job is due, or the end of the claim while a dispatcher has claimed the
    job to queue it. None in other states."""
    worker: str | None
    """The name of the worker of the latest attempt. None before the first one."""
    result: Any
    error: JobError | None
    """The latest error; None if there is none, and after the job has succeeded."""
    errors: list[JobError]
    """The latest ten errors, newest last."""
    progress: Progress | None
    key: str | None
    headers: dict[str, str]
    tags: list[str]
    reason: str | None
    """Why the job is cancelled: "cancelled", "expired", "purged", "discarded", "not_sent" (it is not known whether
    the backend has taken the message, and the producer raised an error), "parent_cancelled" (the job that it follows
    was cancelled or discarded), "not_needed" (no job of its batch has died) or "incomplete" (the producer was lost
    before it had enqueued all jobs of the batch or chain). "paused" if the job is queued and rests in the store because
    its queue is paused, and "limited" if it is queued and waits there for a limit. Otherwise None."""
    replay_of: str | None = None
    """The id of the job that `JobQueue.replay` made this job from; None if the job is not a replay. The record of that
    job may have been deleted since."""
    waits_for: int = 0
    """The number of jobs that must end before this scheduled job runs; 0 if it waits for none."""
    parents: list[str] = field(default_factory=list)
    """The id of the job that this one follows, if any. A job that follows a batch has `after_batch` instead."""
    children: list[str] = field(default_factory=list)
    """The ids of the jobs that follow this one."""
    batch: str | None = None
    """The id of the batch to which the job belongs."""
    after_batch: str | None = None
    """The id of the batch that this job follows."""
    pass_result: bool = False
    """True if the first argument is the result of the job in `parents`. `args` contains the arguments after it."""

    @property
    def finished(self) -> bool:
        """Whether the job is in a final state."""
        return self.state.final

    def as_dict(self) -> dict[str, Any]:
        """The status as plain JSON values; times in ISO 8601."""
        values = dataclasses.asdict(self, dict_factory=plain)
        return {**values, "state": self.state.value, "finished": self.finished}


def plain(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a dataclass as plain JSON values; datetimes in ISO 8601. A `dict_factory` for `asdict`."""
    return {name: _plain(value) for name, value in fields}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(value) if isinstance(value, tuple) else value


def utc(timestamp: float | None) -> datetime | None:
    """Convert seconds since the epoch to an aware UTC datetime, and None to None."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)

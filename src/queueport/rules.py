"""The words of the lifecycle: the rules in force, how an attempt ended, why a change is refused. For its callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from queueport.retry import Retry
from queueport.status import JobError

__all__ = ["Failed", "Outcome", "Refusal", "Rules", "Succeeded"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide. All durations in seconds."""

    lease: float = 30.0
    """How long a claim on a running job holds without a heartbeat."""
    claim: float = 10.0
    """How long a queued job belongs to the one who is publishing it; longer than a publish may take."""
    crash_limit: int = 3
    lost_after: float = 60.0
    unknown_after: float = 60.0
    keep_succeeded: float | None = 86_400.0
    """None: kept by count, which the dispatcher sees to."""
    keep_dead: float = 30 * 86_400.0
    retry: Retry = field(default_factory=Retry)
    carries: bool = True
    """The backend has messages of its own. False where the store is the queue: a queued record is the message."""
    buries: bool = False
    """The backend has dead letters of its own."""


class Refusal(StrEnum):
    """Why the lifecycle refuses."""

    GONE = "gone"
    """There is no record."""
    FINAL = "final"
    """The job has ended."""
    NOT_MINE = "not mine"
    """Another attempt holds the job, or none does."""
    NOT_ALLOWED = "not allowed"
    """The job's state does not allow this."""
    NOTHING = "nothing"
    """It is so already: by an earlier call of mine whose answer was lost, where a token or a rev tells."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """An attempt that returned; `result` is encoded."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that raised.

    `names` are the error class and its ancestors. `delay` is the task's own wish (seconds), None: the policy's.
    `burns` False: no failure is counted. `fatal`: no further attempt, whatever the policy says.
    """

    error: JobError
    names: Sequence[str] = ()
    delay: float | None = None
    burns: bool = True
    fatal: bool = False


Outcome = Succeeded | Failed

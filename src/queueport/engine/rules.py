"""The data that the lifecycle takes and returns: rules, outcomes of attempts, refusals. For its callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Self

from queueport.capability import Capability
from queueport.retry import Retry
from queueport.spi.driver import Driver
from queueport.spi.record import Record
from queueport.spi.url import KeepByName, KeepCount
from queueport.status import JobError

if TYPE_CHECKING:
    from queueport.spi.settings import Settings

__all__ = ["AttemptOutcome", "Failed", "Refusal", "Rules", "Succeeded"]

CLAIM = 2
"""The length of a claim, as a multiple of `call_timeout`. A claim must last longer than a publish can take."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings on which the lifecycle's decisions depend. All durations are in seconds."""

    lease: float = 30.0
    """The time for which a worker holds a running job without a further heartbeat."""
    claim: float = 10.0
    """The time for which a record belongs to the process that publishes, buries or dispatches it."""
    crash_limit: int = 3
    lost_after: float = 60.0
    unknown_after: float = 60.0
    keep_succeeded: float | None = 86_400.0
    """Seconds for which records of succeeded and cancelled jobs are kept; a succeeded job's `keep_result` takes
    precedence. None: succeeded jobs are kept by count, see `keep_count`, and cancelled jobs for KEEP_CANCELLED
    seconds."""
    keep_count: KeepCount | None = None
    """The number of succeeded jobs to keep, in all or for each queue or task. None: succeeded jobs are kept by age, see
    `keep_succeeded`."""
    keep_by: Literal["queue", "task"] = "queue"
    """Whether `keep_named` contains names of queues or of tasks."""
    keep_named: Mapping[str, float | KeepCount] = field(default_factory=dict)
    """The retention of succeeded jobs by name, which takes precedence over `keep_succeeded` and `keep_count`."""
    keep_dead: float = 30 * 86_400.0
    retry: Retry = field(default_factory=Retry)
    carries: bool = True
    """True if the backend carries messages; False if the store is the queue."""
    buries: bool = False
    """True if the backend has its own dead letters."""

    @classmethod
    def of(cls, settings: Settings, driver: Driver) -> Self:
        """Derive the rules from the settings and the backend."""
        given = settings.keep_succeeded
        named = given if isinstance(given, KeepByName) else KeepByName(given, "queue", {})
        keep = named.others
        return cls(
            lease=settings.lease,
            claim=CLAIM * settings.call_timeout,
            crash_limit=settings.crash_limit,
            lost_after=settings.lost_after,
            unknown_after=settings.unknown_after,
            keep_succeeded=None if isinstance(keep, KeepCount) else keep,
            keep_count=keep if isinstance(keep, KeepCount) else None,
            keep_by=named.by,
            keep_named=named.named,
            keep_dead=settings.keep_dead,
            carries=driver.carries,
            buries=Capability.NATIVE_DEAD_LETTERS in driver.capabilities,
        )

    def keeps(self, record: Record) -> float | None:
        """Seconds for which the record is kept after the job has succeeded. None: it is kept by count."""
        keep = self.keep_named.get(record.queue if self.keep_by == "queue" else record.task, self.keep_succeeded)
        return None if isinstance(keep, KeepCount) else keep


class Refusal(StrEnum):
    """Why the lifecycle refuses a change."""

    GONE = "gone"
    """The job has no record."""
    FINAL = "final"
    """The job is in a final state."""
    NOT_MINE = "not mine"
    """This attempt does not hold the job: another attempt does, or none."""
    NOT_ALLOWED = "not allowed"
    """The job's state or life does not allow the change, or the lifecycle could not decide because of an error."""
    NOTHING = "nothing"
    """No write is needed now, for example because an earlier call whose answer was lost has been applied."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The task returned. `result` is its encoded result."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt raised an error, exceeded its timeout or returned an unusable result.

    `names` are the names of the error's class and its ancestors, see `queueport.retry.ancestry`. `delay` is the delay
    in seconds that the task asked for; None: the retry policy chooses it. `burns`: the attempt counts as a failure.
    `fatal`: the job is dead, whatever its retry policy is. A job with a cancel request becomes cancelled in any case.
    """

    error: JobError
    names: Sequence[str] = ()
    delay: float | None = None
    burns: bool = True
    fatal: bool = False


AttemptOutcome = Succeeded | Failed

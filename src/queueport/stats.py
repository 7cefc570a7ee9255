"""The statistics of all queues and the result of a health check, as plain data. For operators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from queueport.job.limits import QueueLimit
from queueport.status import plain

__all__ = [
    "BUCKETS",
    "Counts",
    "Health",
    "HistoryPoint",
    "Pause",
    "Percentiles",
    "QueueStats",
    "Queues",
    "Stats",
    "WorkerStats",
]

BUCKETS: tuple[float, ...] = (
    *(float(f"{digits}e{power}") for power in range(-3, 5) for digits in (1, 1.6, 2.5, 4, 6.3)),
    1e5,
)
"""The upper bounds, in seconds, of the buckets in which the history counts waits and run times: from a millisecond to
28 hours. Each is at most 1.6 times the one before it. Longer times are in one more bucket, after the last bound."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Percentiles of waits or run times, in seconds; None if there were none.

    They are estimated from the counts of `BUCKETS`. An estimate is between 1/1.6 and 1.6 times the exact percentile, if
    that is between 1 millisecond and 28 hours. For shorter times it is at most a millisecond, and for longer ones it is
    28 hours.
    """

    count: int = 0
    """The number of waits or runs."""
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, buckets: Mapping[int, int]) -> Percentiles:
        """The percentiles of times that were counted by the number of their bucket."""
        total = sum(buckets.values())
        return cls(total, *(_percentile(buckets, math.ceil(total * part)) for part in (0.5, 0.95, 0.99)))


def _percentile(buckets: Mapping[int, int], rank: int) -> float | None:
    """The estimate of the time with this rank, 1 for the shortest; None if there are no times.

    Within a bucket, times are assumed to be spread evenly on a logarithmic scale.
    """
    before = 0
    for number, n in sorted(buckets.items()):
        if before + n >= rank > before:
            part = (rank - before - 0.5) / n
            if number == 0:
                return BUCKETS[0] * part
            low, high = BUCKETS[number - 1], BUCKETS[min(number, len(BUCKETS) - 1)]
            return low * math.pow(high / low, part)
        before += n
    return None


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """What happened to jobs in one span of time. `enqueued + retried - succeeded - dead - cancelled` is the change of
    the number of jobs that have not ended.
    """

    at: datetime
    """The start of the span."""
    seconds: float
    """The length of the span. It is shorter than the step if the span has not ended yet."""
    enqueued: int = 0
    """The number of jobs that were inserted."""
    succeeded: int = 0
    failed: int = 0
    """The number of attempts that count as failures or crashes, as in `Stats.failed`."""
    dead: int = 0
    retried: int = 0
    """The number of dead or cancelled jobs that `retry` or a redrive gave a new life. A further attempt after a failure
    does not count."""
    cancelled: int = 0
    """The number of jobs that were cancelled, purged or withdrawn, or that expired. Discards do not count, because the
    death was counted."""
    wait: Percentiles = field(default_factory=Percentiles)
    """Times from `queued` to the start of an attempt, of the attempts that have started in the span."""
    run: Percentiles = field(default_factory=Percentiles)
    """Times from the start of an attempt to its end, of the attempts that have ended in the span. After a crash, this
    includes the time until the crash was noticed."""

    @property
    def throughput(self) -> float:
        """The number of jobs that have succeeded or died, for each second."""
        return (self.succeeded + self.dead) / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def of(cls, at: datetime, seconds: float, counts: Mapping[str, int]) -> HistoryPoint:
        """The point with these numbers, by the names that stores use (`queueport.spi.history`)."""
        numbers: dict[str, Any] = {name: counts.get(name, 0) for name in _EVENTS}
        return cls(at, seconds, **numbers, wait=_times("wait", counts), run=_times("run", counts))

    def as_dict(self) -> dict[str, Any]:
        """The point as plain JSON values; times in ISO 8601."""
        return {**dataclasses.asdict(self, dict_factory=plain), "throughput": self.throughput}


def _times(kind: str, counts: Mapping[str, int]) -> Percentiles:
    return Percentiles.of({int(name[len(kind) :]): n for name, n in counts.items() if name.startswith(kind)})


_EVENTS = ("enqueued", "succeeded", "failed", "dead", "retried", "cancelled")


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of jobs in each state. The store maintains these counts; they are not the result of a scan."""

    scheduled: int = 0
    queued: int = 0
    running: int = 0
    retrying: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """The number of jobs in all states together."""
        return sum(getattr(self, name) for name in Counts.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Pause:
    """The pause of a queue: since when, and why. `JobQueue.pause` makes it."""

    since: datetime
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class QueueStats(Counts):
    """The counts of one queue."""

    oldest_queued_age: float | None = None
    """Seconds for which the queue's oldest queued job has waited; None if no job is queued."""
    depth: int | None = None
    """The number of messages that wait in the queue, as the backend reports it; None if the backend cannot know it. If
    the store is the queue, the number of queued jobs."""
    paused: Pause | None = None
    """The pause of the queue; None if it is not paused."""
    limit: QueueLimit | None = None
    """The limit that `JobQueue.limit` has set; None if the queue has none."""
    last_minute: HistoryPoint | None = None
    """What happened from the start of the previous minute until now; None if the queue is not listed."""
    last_hour: HistoryPoint | None = None
    """What happened in the 60 minutes before the present one, and in the present one; None if the queue is not listed.
    """

    @property
    def ready(self) -> int:
        """The number of jobs that wait for a worker. This is the same number as `queued`."""
        return self.queued


class Queues(dict[str, QueueStats]):
    """Statistics by queue name. For a name that is not listed, `queues[name]` returns a QueueStats with counts of 0."""

    def __missing__(self, name: str) -> QueueStats:
        return QueueStats(depth=0)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, schema_of: Callable[[Any], Any]) -> Any:
        """Make pydantic treat this class as a dict, so that a web framework can use `Stats` as a response model."""
        return schema_of(dict[str, QueueStats])


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """A worker process: its name, its queues, and the names of the tasks that it knows.

    `heartbeat_at` is the time at which the process last recorded in the store that it is live.
    """

    name: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    heartbeat_at: datetime


@dataclass(frozen=True, slots=True)
class Stats:
    """The result of `JobQueue.stats`: statistics of each queue and of all together, the live workers, and counters."""

    queues: Queues
    totals: Counts
    workers: list[WorkerStats]
    processed: int
    """How often jobs have reached a final state. A job that ends again after `JobQueue.retry` counts again, but a
    discard does not count. The number never decreases."""
    failed: int
    """The number of attempts that count as failures or crashes: the task raised an error (but not a RetryLater with
    `burns=False`), exceeded its timeout or returned a result that cannot be stored, or the worker crashed. The number
    never decreases."""
    last_minute: HistoryPoint
    """What happened in all queues from the start of the previous minute until now."""
    last_hour: HistoryPoint
    """What happened in all queues in the 60 minutes before the present one, and in the present one."""

    def as_dict(self) -> dict[str, Any]:
        """The statistics as plain JSON values; times in ISO 8601."""
        whole = dataclasses.asdict(self, dict_factory=plain)
        queues = {
            name: {**whole["queues"][name], "ready": counts.ready, **_recent(counts)}
            for name, counts in self.queues.items()
        }
        return {**whole, "queues": queues, **_recent(self)}


def _recent(stats: QueueStats | Stats) -> dict[str, dict[str, Any] | None]:
    """The last minute and the last hour, each as `HistoryPoint.as_dict` returns it."""
    recent = {"last_minute": stats.last_minute, "last_hour": stats.last_hour}
    return {name: None if point is None else point.as_dict() for name, point in recent.items()}


@dataclass(frozen=True, slots=True)
class Health:
    """The result of `JobQueue.check`. `problems` and `warnings` are sentences without secrets."""

    ok: bool
    """True if `problems` is empty: the backend and the store do what `enqueue` needs and, with `check(workers=True)`,
    each queue with waiting jobs has a live worker."""
    backend_seconds: float | None
    """Seconds that the check of the backend took; None if it failed."""
    store_seconds: float | None
    """Seconds that the check of the store took; None if it failed."""
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return dataclasses.asdict(self)

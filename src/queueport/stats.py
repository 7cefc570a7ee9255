"""What an operator sees of the whole: counts per queue, live workers, health. Plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Counts", "Health", "QueueStats", "Queues", "Stats", "WorkerStats"]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state, by the store's kept counts."""

    scheduled: int = 0
    queued: int = 0
    running: int = 0
    retrying: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        """All jobs the store still remembers."""
        return sum(getattr(self, name) for name in Counts.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class QueueStats(Counts):
    """One queue: its counts, how long its oldest queued job has waited (seconds), and the backend's own depth.

    `depth` is what the backend itself reports as waiting; None when it cannot be known.
    """

    oldest_queued_age: float | None = None
    depth: int | None = None

    @property
    def ready(self) -> int:
        """Jobs that a free worker could start now: another word for `queued`."""
        return self.queued


class Queues(dict[str, QueueStats]):
    """Stats by queue name; a queue that nobody has used yet reads as zeros."""

    def __missing__(self, name: str) -> QueueStats:
        return QueueStats(depth=0)


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """A live worker: its name, the queues it takes from, the tasks it knows, and when it was last heard of."""

    name: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    heartbeat_at: datetime


@dataclass(frozen=True, slots=True)
class Stats:
    """Everything counted: `processed` jobs ended and `failed` attempts only ever grow."""

    queues: Queues
    totals: Counts
    workers: list[WorkerStats]
    processed: int
    """Jobs that reached a final state; a job revived and ended again counts again."""
    failed: int
    """Attempts that raised, timed out or lost their worker."""

    def as_dict(self) -> dict[str, Any]:
        """The stats as plain JSON values."""
        workers = [{**dataclasses.asdict(w), "heartbeat_at": w.heartbeat_at.isoformat()} for w in self.workers]
        queues = {name: {**dataclasses.asdict(q), "ready": q.ready} for name, q in self.queues.items()}
        totals = dataclasses.asdict(self.totals)
        counters = {"processed": self.processed, "failed": self.failed}
        return {"queues": queues, "totals": totals, "workers": workers, **counters}


@dataclass(frozen=True, slots=True)
class Health:
    """What check() found: `ok` when backend and store both answered, their round-trip times in seconds.

    `problems` and `warnings` hold one sentence each, without secrets.
    """

    ok: bool
    backend_seconds: float | None
    store_seconds: float | None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The findings as plain JSON values."""
        return dataclasses.asdict(self)

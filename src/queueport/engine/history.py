"""Reads the history of a store for `JobQueue.history` and `JobQueue.stats`. For the core."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from queueport.errors import ConfigurationError
from queueport.spi.history import HOUR, KEEP_HOURS, KEEP_MINUTES, MINUTE, HistoryCounts, HistoryQuery, start_of
from queueport.spi.store import JobStore, Query
from queueport.stats import HistoryPoint

__all__ = ["Recent", "last", "points", "recent", "spans"]

Recent = Mapping[str | None, HistoryPoint]
"""One span of time: the point of each queue by its name, and that of all queues together under None."""


def spans(since: object, step: object) -> tuple[int, int]:
    """Check the arguments of `JobQueue.history`, and return both in whole seconds. Raises ConfigurationError."""
    back, length = _number(since), _number(step)
    if not 0 < back <= KEEP_HOURS:
        raise ConfigurationError(f"since={since!r:.80} is not within the history: pass up to 30 days, in seconds")
    unit, name = (MINUTE, "minutes") if back <= KEEP_MINUTES else (HOUR, "hours, as since is more than 24 hours")
    if not 0 < length <= KEEP_HOURS or length % unit:
        raise ConfigurationError(f"step={step!r:.80} cannot be used: pass a multiple of {unit} seconds ({name})")
    return math.ceil(back), int(length)


def _number(value: object) -> float:
    """The value in seconds; -1 if it is neither a number nor a timedelta."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else -1.0


def last(since: int, step: int, now: float, wanted: Query) -> HistoryQuery:
    """The query for the last `since` seconds of the queue and task in `wanted`. `now` is the store's time."""
    return HistoryQuery(start_of(step, now - since), start_of(MINUTE, now) + MINUTE, step, wanted.queue, wanted.task)


def points(found: Iterable[HistoryCounts], query: HistoryQuery, now: float) -> list[HistoryPoint]:
    """The points of the span of a query, oldest first, with those of the numbers found that match it."""
    sums: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for one in found:
        sums[one.at].update(one.counts)
    steps = range(query.since, query.until, query.step)
    return [_point(at, min(now, at + query.step), sums[at]) for at in steps]


def recent(store: JobStore, now: float, seconds: int) -> Recent:
    """What has happened in the `seconds` before the present minute, and in the present minute. `now` is the store's
    time.
    """
    end = start_of(MINUTE, now) + MINUTE
    start = end - MINUTE - seconds
    total: Counter[str] = Counter()
    queues: dict[str | None, HistoryPoint] = {}
    for found in store.history(HistoryQuery(start, end, end - start)):
        total.update(found.counts)
        queues[found.queue] = _point(start, now, found.counts)
    return defaultdict(lambda: _point(start, now, {}), {**queues, None: _point(start, now, total)})


def _point(start: int, end: float, counts: Mapping[str, int]) -> HistoryPoint:
    return HistoryPoint.of(datetime.fromtimestamp(start, UTC), max(0.0, end - start), counts)

"""`Past`: the points of one backend's charts, of which those that cannot change any more are read only once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

from queueport.queue import JobQueue
from queueport.stats import HistoryPoint

__all__ = ["SPANS", "Past", "Span"]


class Span(NamedTuple):
    """A length of time that a page can show. Lengths are in seconds."""

    label: str
    since: int
    step: int
    form: str
    """How times are shown."""


SPANS: Mapping[str, Span] = {
    "hour": Span("1 hour", 3600, 60, "%H:%M"),
    "day": Span("24 hours", 24 * 3600, 15 * 60, "%d %b %H:%M"),
    "month": Span("30 days", 30 * 24 * 3600, 6 * 3600, "%d %b"),
}
SETTLED = 300.0
"""Seconds after which the numbers of a step do not change any more."""
MOST_KEPT = 50
"""The number of charts' pages whose points are kept."""


class Kept(NamedTuple):
    """The points that a page has shown, the store's time of their reading, and that of the monotonic clock."""

    points: Sequence[HistoryPoint]
    now: float
    read_at: float


class Past:
    """Reads the points of a backend's charts. Thread-safe.

    A day by minute of many queues and tasks has hundreds of thousands of numbers, which no store adds up in a moment.
    The numbers of a step that has ended SETTLED seconds ago do not change any more, not even on a store whose writers
    use clocks of their own.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._kept: dict[tuple[str, str, Span], Kept] = {}

    def prepare(self) -> None:
        """Read the points of all queues and tasks, so that the first page with charts need not wait for them."""
        with suppress(Exception):  # the page will show the error
            for span in SPANS.values():
                self.read("", "", span)

    def read(self, queue: str, task: str, span: Span) -> list[HistoryPoint]:
        """The points of a span of time, oldest first. An empty text means all queues or tasks."""
        key = (queue, task, span)
        kept = self._kept.pop(key, None)
        found = None if kept is None else self._rest(queue, task, span, kept)
        if found is None:
            found = self._queue.history(queue or None, task or None, span.since, span.step)
        end = found[-1].at.timestamp() + found[-1].seconds
        self._kept[key] = Kept(found, end, time.monotonic())  # the latest is the last
        for oldest in [*self._kept][:-MOST_KEPT]:
            self._kept.pop(oldest, None)
        return found

    def _rest(self, queue: str, task: str, span: Span, kept: Kept) -> list[HistoryPoint] | None:
        """The settled ones of these points, and the points after them. None if a point between them is missing."""
        settled = [point for point in kept.points if point.at.timestamp() + span.step <= kept.now - SETTLED]
        if not settled:
            return None
        since = kept.now - (settled[-1].at.timestamp() + span.step) + time.monotonic() - kept.read_at
        new = self._queue.history(queue or None, task or None, min(span.since, max(since, 1.0)), span.step)
        before = [point for point in settled if point.at < new[0].at]
        points = [*before, *new][-(-(-span.since // span.step) + 1) :]
        steps = {round((b.at - a.at).total_seconds()) for a, b in pairwise(points)}
        return points if steps <= {span.step} and len(points) > span.since // span.step else None

"""`Past`: the points of one backend's charts. The numbers that cannot change any more are read only once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from queueport.engine.arguments import filters
from queueport.engine.history import last, points
from queueport.queue import JobQueue
from queueport.spi.history import HistoryCounts, HistoryQuery, start_of
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


class Kept(NamedTuple):
    """The numbers of each queue and task that were read, by the start of their step, and the start of the first step
    whose numbers may have changed since.
    """

    steps: Mapping[int, list[HistoryCounts]]
    until: int


class Past:
    """Reads the points of a backend's charts. Thread-safe.

    A day by minute of many queues and tasks has hundreds of thousands of numbers, which no store adds up in a moment.
    The numbers of a step that has ended SETTLED seconds ago do not change any more, not even on a store whose writers
    use clocks of their own. The numbers of all queues and tasks are kept, so the charts of each need no reading of
    their own.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._kept: dict[Span, Kept] = {}

    def prepare(self) -> None:
        """Read the numbers of all spans, so that the first page with charts need not wait for them."""
        with suppress(Exception):  # the page will show the error
            for span in SPANS.values():
                self.read("", "", span)

    def read(self, queue: str, task: str, span: Span) -> list[HistoryPoint]:
        """The points of a span of time, oldest first. An empty text means all queues or tasks.

        Raises ConfigurationError for a wrong name, and BackendUnavailable.
        """
        wanted = filters(queue=queue or None, task=task or None)
        now = self._queue.operations.store.now()
        query = last(span.since, span.step, now, wanted)
        numbers = (one for found in self._steps(span, query, now).values() for one in found)
        return points((one for one in numbers if query.matches((one.queue, one.task))), query, now)

    def _steps(self, span: Span, query: HistoryQuery, now: float) -> Mapping[int, list[HistoryCounts]]:
        """The numbers of each queue and task in the span of this query, by the start of their step."""
        kept, start = self._kept.get(span), query.since
        steps: dict[int, list[HistoryCounts]] = {}
        if kept is not None and kept.until <= now:  # else the store's clock was set back
            start = max(start, kept.until)
            steps = {at: found for at, found in kept.steps.items() if query.since <= at < start}
        rest = replace(query, since=start, queue=None, task=None, by_task=True)
        for one in self._queue.operations.store.history(rest):
            steps.setdefault(one.at, []).append(one)
        self._kept[span] = Kept(steps, start_of(span.step, now - SETTLED))
        return steps

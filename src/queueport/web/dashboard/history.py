"""The page with charts of the history: throughput, failures, waits and run times. For the app."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from queueport.stats import HistoryPoint, Percentiles
from queueport.web.dashboard.charts import Line, nice
from queueport.web.dashboard.pages import Filter, Pages
from queueport.web.dashboard.rendering import Rendering
from queueport.web.dashboard.sources import Source
from queueport.web.dashboard.text import duration

__all__ = ["History"]


class Span(NamedTuple):
    """A length of time that the page can show. Lengths are in seconds."""

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
SHORTEST = 30.0
"""A step that has begun less than this number of seconds ago is not drawn, because its rates would jump."""
SETTLED = 300.0
"""Seconds after which the numbers of a step do not change any more."""
MOST_KEPT = 50
"""The number of charts' pages whose points are kept."""
NONE = "\u2013"
"""Stands for a value that does not exist."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One chart, with the texts of its scale from the top down."""

    title: str
    label: str
    lines: Sequence[Line]
    top: float
    scale: Sequence[str]


class Kept(NamedTuple):
    """The points that a page has shown, the store's time of their reading, and that of the monotonic clock."""

    points: Sequence[HistoryPoint]
    now: float
    read_at: float


class Past:
    """Reads the points of a page, of which those of the past only once. Thread-safe.

    A day by minute of many queues and tasks has hundreds of thousands of numbers, which no store adds up in a moment.
    The numbers of a step that has ended SETTLED seconds ago do not change any more, not even on a store whose writers
    use clocks of their own.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str, Span], Kept] = {}

    def read(self, source: Source, queue: str, task: str, span: Span) -> list[HistoryPoint]:
        """The points of a span of time, oldest first."""
        key = (source.name, queue, task, span)
        kept = self._kept.pop(key, None)
        found = None if kept is None else self._rest(source, queue, task, span, kept)
        if found is None:
            found = source.queue.history(queue or None, task or None, span.since, span.step)
        end = found[-1].at.timestamp() + found[-1].seconds
        self._kept[key] = Kept(found, end, time.monotonic())  # the latest is the last
        for oldest in [*self._kept][:-MOST_KEPT]:
            self._kept.pop(oldest, None)
        return found

    def _rest(self, source: Source, queue: str, task: str, span: Span, kept: Kept) -> list[HistoryPoint] | None:
        """The settled ones of these points, and the points after them. None if a point between them is missing."""
        settled = [point for point in kept.points if point.at.timestamp() + span.step <= kept.now - SETTLED]
        if not settled:
            return None
        since = kept.now - (settled[-1].at.timestamp() + span.step) + time.monotonic() - kept.read_at
        new = source.queue.history(queue or None, task or None, min(span.since, max(since, 1.0)), span.step)
        before = [point for point in settled if point.at < new[0].at]
        points = [*before, *new][-(-(-span.since // span.step) + 1) :]
        steps = {round((b.at - a.at).total_seconds()) for a, b in pairwise(points)}
        return points if steps <= {span.step} and len(points) > span.since // span.step else None


class History:
    """The handler of the page."""

    def __init__(self, pages: Pages, rendering: Rendering) -> None:
        self._pages = pages
        self._rendering = rendering
        self._past = Past()

    def page(self, request: Request) -> Response:
        """The charts of a backend, or of a queue or a task in it."""
        source, chosen = self._pages.source(request), Filter.of(request)
        name = request.query_params.get("span", "hour")
        if name not in SPANS:
            raise HTTPException(400, f"There is no span {name!r}: use one of {', '.join(SPANS)}.")
        span = SPANS[name]
        points = self._past.read(source, chosen.queue, chosen.task, span)
        drawn = points[:-1] if points[-1].seconds < SHORTEST else points
        return self._rendering.page(
            request,
            "history.html",
            source=source,
            filter=chosen,
            spans=SPANS,
            span=name,
            plots=plots(points, drawn, span.label),
            start=points[0].at.timestamp(),
            end=drawn[-1].at.timestamp(),
            times=[f"{at:{span.form}}" for at in (points[0].at, _middle(drawn), drawn[-1].at)],
            snapshot=source.snapshot(),
        )


def _middle(points: Sequence[HistoryPoint]) -> datetime:
    return points[0].at + (points[-1].at - points[0].at) / 2


def plots(points: Sequence[HistoryPoint], drawn: Sequence[HistoryPoint], span: str) -> list[Plot]:
    """The charts. The totals in their legends are those of `points`, which can have one more than `drawn`."""

    def counts(title: str, **inks: str) -> Plot:
        lines = []
        for name, ink in inks.items():
            rates = [(p.at.timestamp(), getattr(p, name) / p.seconds * 60 if p.seconds else 0.0) for p in drawn]
            lines.append(Line(name, ink, rates, f"{sum(getattr(p, name) for p in points):,}"))
        return _plot(f"{title} per minute", lines, span, _number)

    def times(title: str, of: Callable[[HistoryPoint], Percentiles]) -> Plot:
        lines = []
        for name, ink in (("p50", "ink-1"), ("p95", "ink-2"), ("p99", "ink-3")):
            values = [(p.at.timestamp(), getattr(of(p), name)) for p in drawn]
            latest = next((value for _, value in reversed(values) if value is not None), None)
            lines.append(Line(name, ink, values, duration(latest) or NONE))
        return _plot(title, lines, span, duration)

    return [
        counts("Throughput", enqueued="ink-1", succeeded="ink-2"),
        counts("Failures", failed="ink-4", dead="ink-5"),
        times("Wait for a worker", lambda point: point.wait),
        times("Run time", lambda point: point.run),
    ]


def _plot(title: str, lines: Sequence[Line], span: str, shown: Callable[[float], str]) -> Plot:
    known = [value for line in lines for _, value in line.points if value is not None]
    highest = max(known, default=0.0)
    top = nice(highest)
    values = ", ".join(f"{line.name} {line.note}" for line in lines)
    label = f"{title} over {span}: {values}; the highest value is {shown(highest)}"
    return Plot(title, label, lines, top, [shown(top), shown(top / 2), "0"])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"

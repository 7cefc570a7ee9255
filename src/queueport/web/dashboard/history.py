"""The page with charts of the history: throughput, failures, waits and run times. For the app."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from queueport.stats import HistoryPoint, Percentiles
from queueport.web.dashboard.charts import Line, nice
from queueport.web.dashboard.pages import Filter, Pages
from queueport.web.dashboard.past import SPANS
from queueport.web.dashboard.rendering import Rendering
from queueport.web.dashboard.text import duration

__all__ = ["History"]


SHORTEST = 30.0
"""A step that has begun less than this number of seconds ago is not drawn, because its rates would jump."""
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


class History:
    """The handler of the page."""

    def __init__(self, pages: Pages, rendering: Rendering) -> None:
        self._pages = pages
        self._rendering = rendering

    def page(self, request: Request) -> Response:
        """The charts of a backend, or of a queue or a task in it."""
        source, chosen = self._pages.source(request), Filter.of(request)
        name = request.query_params.get("span", "hour")
        if name not in SPANS:
            raise HTTPException(400, f"There is no span {name!r}: use one of {', '.join(SPANS)}.")
        span = SPANS[name]
        points = source.past.read(chosen.queue, chosen.task, span)
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

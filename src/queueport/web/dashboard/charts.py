"""Draws numbers over time as SVG pictures, without scripts and styles. For the templates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from queueport.web.dashboard.text import visible

__all__ = ["Line", "Point", "chart", "nice", "sparkline"]

Point = tuple[float, float]
"""A time in seconds, and the value at this time."""

WIDTH, HEIGHT = 160, 32
POINTS = 80
"""The maximum number of points of a small picture, so that a page with hundreds of queues stays small."""
CHART_WIDTH, CHART_HEIGHT, EDGE = 600, 140, 2
"""The size of a chart. The browser stretches it. EDGE is the space above the top of the scale and below 0."""


def sparkline(points: Sequence[Point], label: str, kind: str = "line") -> Markup:
    """A line over time, from 0 to the highest value. `label` says what it shows; `kind` is a CSS class."""
    drawn = _places(points)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
    area = f"{drawn[0][0]:.1f},{HEIGHT} {line} {drawn[-1][0]:.1f},{HEIGHT}" if drawn else ""
    return Markup(
        '<svg class="spark {}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<polygon points="{}"/><polyline points="{}"/></svg>'
    ).format(kind, WIDTH, HEIGHT, visible(label), area, line)


def _places(points: Sequence[Point]) -> list[Point]:
    """Where to draw each point, at most POINTS of them. Equal values become a level line."""
    if not points:
        return []
    if len({value for _, value in points}) == 1:
        points = [(points[0][0] - 1, points[0][1]), points[-1]]
    step = -(-len(points) // POINTS)
    points = points[::-step][::-1]  # the latest point is always drawn
    start, end = points[0][0], points[-1][0]
    highest = max(value for _, value in points) or 1
    across, up = (end - start) or 1, HEIGHT - 2
    return [((at - start) / across * WIDTH, HEIGHT - 1 - value / highest * up) for at, value in points]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart. `kind` is a CSS class, and `note` a text about the values, for the legend."""

    name: str
    kind: str
    points: Sequence[tuple[float, float | None]]
    """Times and values. The line has a gap where a value is None."""
    note: str


def nice(highest: float) -> float:
    """The upper end of a scale for values up to this one: 1, 2 or 5 times a power of ten."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= highest * (1 - 1e-9))


def chart(lines: Sequence[Line], start: float, end: float, top: float, label: str) -> Markup:
    """Lines over the time from `start` to `end`, on a scale from 0 to `top`. `label` says what they show."""
    drawn = [(line, part) for line in lines for part in _parts(line.points)]
    across = (end - start) or 1
    return Markup(
        '<svg class="chart" viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img" aria-label="{2}">'
        '<path d="M0 {3}H{0}M0 {4}H{0}M0 {5}H{0}"/>{6}</svg>'
    ).format(
        CHART_WIDTH,
        CHART_HEIGHT,
        visible(label),
        *(EDGE, CHART_HEIGHT / 2, CHART_HEIGHT - EDGE),
        Markup("").join(
            Markup('<polyline class="{}" points="{}"/>').format(
                line.kind,
                " ".join(
                    f"{(at - start) / across * CHART_WIDTH:.1f},"
                    f"{CHART_HEIGHT - EDGE - value / top * (CHART_HEIGHT - 2 * EDGE):.1f}"
                    for at, value in part
                ),
            )
            for line, part in drawn
        ),
    )


def _parts(points: Sequence[tuple[float, float | None]]) -> list[list[Point]]:
    """The points between gaps. A point that stands alone comes twice, so that it is drawn as a dot."""
    parts = []
    for known, group in groupby(points, lambda point: point[1] is not None):
        part = [(at, value) for at, value in group if value is not None]
        if known:
            parts.append(part if len(part) > 1 else part * 2)
    return parts

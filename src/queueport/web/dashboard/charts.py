"""Draws numbers over time as small SVG pictures, without scripts and styles. For the templates."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from queueport.web.dashboard.text import visible

__all__ = ["Point", "sparkline"]

Point = tuple[float, float]
"""A time in seconds, and the value at this time."""

WIDTH, HEIGHT = 160, 32
POINTS = 80
"""The maximum number of points of a picture, so that a page with hundreds of queues stays small."""


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

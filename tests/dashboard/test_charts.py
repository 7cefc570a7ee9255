"""The small charts of the dashboard."""

from __future__ import annotations

import re

import pytest

from queueport.web.dashboard.charts import HEIGHT, POINTS, WIDTH, Point, sparkline


def line(points: list[Point]) -> list[Point]:
    """The points of the drawn line."""
    (drawn,) = re.findall(r'<polyline points="([^"]*)"', sparkline(points, "label"))
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in drawn.split())]


def test_a_line_begins_left_ends_right_and_is_highest_at_the_highest_value() -> None:
    drawn = line([(10.0, 0), (11.0, 4), (14.0, 2)])
    assert drawn == [(0, HEIGHT - 1), (WIDTH / 4, 1), (WIDTH, HEIGHT / 2)]


@pytest.mark.parametrize("points", [[(5.0, 0)], [(5.0, 3)], [(5.0, 3), (6.0, 3), (7.0, 3)]])
def test_equal_values_are_a_level_line(points: list[Point]) -> None:
    (left, one), (right, other) = line(points)
    assert (left, right) == (0, WIDTH)
    assert one == other


def test_many_points_are_thinned_and_the_latest_is_kept() -> None:
    drawn = line([(float(number), number) for number in range(299)])
    assert POINTS / 2 <= len(drawn) <= POINTS
    assert drawn[-1] == (WIDTH, 1)


def test_no_points_are_an_empty_picture_and_labels_are_escaped() -> None:
    assert line([]) == []
    assert 'aria-label="&lt;b&gt;&#34;"' in sparkline([], '<b>"')

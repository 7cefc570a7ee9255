"""The times of recurring jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueport import Recurrence
from queueport.errors import ConfigurationError

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def ticks(recurrence: Recurrence, after: str, count: int) -> list[str]:
    """The first ticks of a cron expression after a time, in its time zone."""
    from zoneinfo import ZoneInfo

    found, moment = [], at(after)
    for _ in range(count):
        following = recurrence.following(moment, 0.0)
        assert following is not None
        found.append(datetime.fromtimestamp(following, ZoneInfo(recurrence.timezone)).isoformat())
        moment = following
    return found


@given(every=st.floats(1.0, 1e7), origin=st.floats(0, 2e9), moment=st.floats(0, 2e9))
def test_the_following_tick_is_the_first_one_after_the_moment(every: float, origin: float, moment: float) -> None:
    recurrence = Recurrence(every=every)
    tick = recurrence.following(moment, origin)
    assert tick is not None
    assert tick > moment
    assert tick == origin or tick - moment <= every * (1 + 1e-6)


@given(every=st.integers(1, 100_000), steps=st.integers(0, 1000), rest=st.floats(0, 0.99))
def test_the_latest_tick_is_not_after_the_moment(every: int, steps: int, rest: float) -> None:
    moment = NOW + every * (steps + rest)
    assert Recurrence(every=every).latest(moment, NOW, NOW) == NOW + every * steps


@given(every=st.floats(1.0, 1000.0), steps=st.integers(0, 100_000), rest=st.sampled_from([0.0, 1e-6, 0.5]))
def test_the_latest_tick_is_exact_where_floats_are_not(every: float, steps: int, rest: float) -> None:
    origin = NOW + 0.1
    tick = origin + steps * every
    assert Recurrence(every=every).latest(tick + rest, origin, origin) == tick


def test_a_timedelta_is_an_interval() -> None:
    assert Recurrence(every=timedelta(minutes=5)) == Recurrence(every=300)


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        pytest.param(  # 02:30 does not exist on this day
            "30 2 * * *",
            "2026-03-28T12:00+01:00",
            ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"],
            id="skipped",
        ),
        pytest.param(  # 02:30 exists twice on this day
            "30 2 * * *",
            "2026-10-24T12:00+02:00",
            ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"],
            id="doubled",
        ),
        pytest.param(  # the second 02:15 has passed, so this day has no further tick
            "45 2 * * *",
            "2026-10-25T02:15+01:00",
            ["2026-10-26T02:45:00+01:00", "2026-10-27T02:45:00+01:00"],
            id="after-doubled",
        ),
        pytest.param(
            "30 * * * *",
            "2026-10-25T02:00+02:00",
            ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"],
            id="every-hour-doubled",
        ),
        pytest.param(
            "30 * * * *",
            "2026-03-29T01:00+01:00",
            ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"],
            id="every-hour-skipped",
        ),
        pytest.param(
            "0 3 * * mon-fri",
            "2026-11-27T12:00+01:00",
            ["2026-11-30T03:00:00+01:00", "2026-12-01T03:00:00+01:00"],
            id="weekdays",
        ),
    ],
)
def test_cron_and_daylight_saving_time(cron: str, after: str, expected: list[str]) -> None:
    assert ticks(Recurrence(cron=cron, timezone="Europe/Berlin"), after, 2) == expected


@given(moment=st.integers(0, 400 * 86_400))
def test_the_latest_tick_of_a_cron_expression(moment: int) -> None:
    recurrence = Recurrence(cron="*/40 1-3 * * *", timezone="Europe/Berlin")
    first = at("2026-01-01T01:00+01:00")
    latest = recurrence.latest(first + moment, first, 0.0)
    assert first <= latest <= first + moment
    following = recurrence.following(latest, 0.0)
    assert following is not None
    assert following > first + moment


def test_no_tick_before_start_or_after_end() -> None:
    start = datetime(2030, 1, 1, 3, tzinfo=UTC)
    daily = Recurrence(cron="0 3 * * *", start=start, end=start + timedelta(days=1))
    first = start.timestamp()
    assert daily.following(NOW, 0.0) == first
    assert daily.following(first, 0.0) == first + 86_400
    assert daily.following(first + 86_400, 0.0) is None
    assert daily.latest(first + 10 * 86_400, first, 0.0) == first + 86_400
    assert Recurrence(every=60, start=start).following(NOW, start.timestamp()) == start.timestamp()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, r"either every= \(seconds\) or cron="),
        ({"every": 5, "cron": "* * * * *"}, "not both"),
        ({"every": 0.5}, "every must be a number of seconds from 1"),
        ({"every": "5"}, "every must be a number of seconds from 1"),
        ({"every": True}, "every must be a number of seconds from 1"),
        ({"every": float("nan")}, "every must be a number of seconds from 1"),
        ({"cron": "daily"}, "'daily' is not a cron expression"),
        ({"cron": 5}, "is not a cron expression"),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "0 0 30 2 *"}, "is not a cron expression"),
        ({"cron": "0 3 * * *", "timezone": "Mars/Olympus"}, "there is no time zone 'Mars/Olympus'"),
        ({"cron": "0 3 * * *", "timezone": "../etc"}, "there is no time zone"),
        ({"cron": "0 3 * * *", "timezone": "Europe"}, "there is no time zone"),
        ({"every": 5, "start": datetime(2026, 1, 1)}, "start must be an aware datetime"),  # noqa: DTZ001
        ({"every": 5, "end": "tomorrow"}, "end must be an aware datetime"),
        ({"every": 5, "start": datetime(2026, 1, 2, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)}, "is before"),
        ({"every": 5, "catch_up": "some"}, "catch_up must be one of one, all, none"),
        ({"every": 5, "overlap": "no"}, "overlap must be True or False"),
    ],
)
def test_a_wrong_recurrence_is_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as raised:
        Recurrence(**options)
    assert "\n" not in str(raised.value)


def test_a_recurrence_survives_json() -> None:
    recurrence = Recurrence(
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        start=datetime(2030, 1, 1, tzinfo=UTC),
        catch_up="all",
        overlap=False,
    )
    assert Recurrence.from_dict(recurrence.as_dict()) == recurrence
    assert Recurrence.from_dict({**recurrence.as_dict(), "of_a_newer_release": 1}) == recurrence

"""Failures that a loop repeats are logged once, then at growing intervals with a count."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest

from queueport.errors import BackendUnavailable
from queueport.spi.failures import FIRST_INTERVAL, FORGOTTEN_AFTER, LONGEST_INTERVAL, FailureLog, RepeatFilter

logger = logging.getLogger("queueport.tests.failures")
DOWN, FULL = BackendUnavailable("it is down"), BackendUnavailable("it is full")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock) -> FailureLog:
    return FailureLog(logger, clock)


def test_an_identical_failure_is_logged_once_and_then_at_growing_intervals_with_a_count(
    failures: FailureLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    logged_at: list[float] = []
    for _ in range(3000):
        failures.warning("%s waits: %s", "any job", DOWN)
        if len(caplog.messages) > len(logged_at):
            logged_at.append(clock.now - 1000.0)
        clock.now += 1.0
    gaps = [later - earlier for earlier, later in pairwise(logged_at)]
    assert gaps == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0, 600.0]
    assert (gaps[0], gaps[-1]) == (FIRST_INTERVAL, LONGEST_INTERVAL)
    assert caplog.messages[:3] == [
        "any job waits: it is down",
        "any job waits: it is down (10 times in the last 10 s)",
        "any job waits: it is down (20 times in the last 20 s)",
    ]


def test_another_failure_and_one_after_a_long_pause_are_logged_at_once(
    failures: FailureLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for error in (DOWN, FULL, DOWN, FULL):
        failures.warning("it waits: %s", error)
    failures.warning("it still waits: %s", DOWN)
    clock.now += FIRST_INTERVAL + FORGOTTEN_AFTER + 1
    failures.warning("it waits: %s", DOWN)
    assert caplog.messages == [
        "it waits: it is down",
        "it waits: it is full",
        "it still waits: it is down",
        "it waits: it is down",
    ]


def test_an_unexpected_error_is_logged_with_its_traceback_and_repeated_rarely(
    failures: FailureLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(12):
        failures.error(ValueError("odd"), "the loop continues")
        clock.now += 1.0
    assert caplog.messages == ["the loop continues", "the loop continues (10 times in the last 10 s)"]
    assert all(record.exc_info is not None for record in caplog.records)


def test_a_filter_lets_a_library_log_the_same_line_once(caplog: pytest.LogCaptureFixture) -> None:
    repeats = RepeatFilter([logger.name])
    repeats.install()
    try:
        with caplog.at_level(logging.INFO):
            for number in range(3):
                logger.error("cannot connect: %s", "refused")
                logger.info("tries again")
                logger.warning("number %d", number)
    finally:
        repeats.remove()
    logger.error("cannot connect: %s", "refused")
    assert caplog.messages == [
        *("cannot connect: refused", "tries again", "number 0", "tries again", "number 1", "tries again", "number 2"),
        "cannot connect: refused",
    ]

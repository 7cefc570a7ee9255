"""`eventually` waits until a condition is true, or fails after a timeout. For tests with other processes or threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

T = TypeVar("T")

STEP = 0.02
"""The minimum pause between two checks, in seconds. After a check that took longer than STEP, the pause is as long as
the check, so that checks use a slow server for at most half of the time."""


def eventually(condition: Callable[[], T], timeout: float = 10.0, what: Callable[[], object] | None = None) -> T:
    """Wait until the condition is true, and return its value. After `timeout` seconds, raises AssertionError with the
    details that `what` returns; without `what`, with the last value of the condition.

    If the condition raises AssertionError, it is checked again; if its last check, after the timeout, raises
    AssertionError, that error is raised instead. Other errors of the condition are raised at once.
    """
    deadline = time.monotonic() + timeout
    while True:
        started = time.monotonic()
        late = started >= deadline
        try:
            value = condition()
        except AssertionError:
            if late:
                raise
            value = None
        if value:
            return value
        if late:
            details = f"the last value was {value!r}" if what is None else what()
            raise AssertionError(f"the condition did not hold within {timeout:g} s: {details}")
        time.sleep(max(STEP, time.monotonic() - started))

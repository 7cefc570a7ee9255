"""`eventually`: wait for a condition with a deadline, never for a time that somebody hopes is enough; and `at_once`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["THREADS", "at_once", "eventually"]

T = TypeVar("T")

STEP = 0.02
"""Seconds between two looks."""
THREADS = 8
"""Those of `at_once`."""


def eventually(condition: Callable[[], T], timeout: float = 10.0, what: Callable[[], object] | None = None) -> T:
    """Look until the condition is true and return its value; `what` tells the story when it is not in time.

    An AssertionError inside the condition counts as not yet, and is raised when the time is over.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        try:
            value = condition()
        except AssertionError:
            if late:
                raise
            value = None  # not yet
        if value:
            return value
        if late:
            story = f"last seen: {value!r}" if what is None else what()
            raise AssertionError(f"still not so after {timeout:g} s; {story}")
        time.sleep(STEP)


def at_once(call: Callable[[int], T]) -> list[T]:
    """Call it in several threads, which start together; what each returned."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> T:
        start.wait(10)
        return call(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))

"""The clocks, pauses, locks and random values that engine and workers use. For `Operations` and its callers.

The fault search in `queueport.testing.machine` replaces `Runtime`, because it simulates time.
"""

from __future__ import annotations

import _thread
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple

__all__ = ["ClockReading", "Runtime"]


class ClockReading(NamedTuple):
    """The time on two clocks. `monotonic` may stop while the machine sleeps. An operator can set `wall`."""

    monotonic: float
    wall: float


class Runtime:
    """The clocks, pauses, locks and random values of this process."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back and that nobody can set."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the epoch, by the clock of this machine, which an operator can set."""
        return time.time()

    def read(self) -> ClockReading:
        """Read both clocks."""
        return ClockReading(self.monotonic(), self.wall())

    def since(self, reading: ClockReading) -> float:
        """Seconds since `reading`, on the clock that advanced further, so that time in sleep mode counts too."""
        return max(self.monotonic() - reading.monotonic, self.wall() - reading.wall)

    def wait(self, awaited: threading.Event | threading.Condition, seconds: float) -> bool:
        """Wait at most `seconds`; returns True if the event was set or the condition was notified."""
        return awaited.wait(seconds)

    def start(self, work: Callable[[], None]) -> None:
        """Call `work` in another thread, and do not wait for it, so that an interruption of the caller cannot hang it.

        Does nothing if the process can have no more threads.
        """
        with suppress(RuntimeError):
            _thread.start_new_thread(work, ())

    def lock(self) -> AbstractContextManager[object]:
        """Make a lock that a thread may hold while it calls the store."""
        return threading.Lock()

    def new_id(self) -> str:
        """A random id for a rev or token, long enough to be unique."""
        return os.urandom(8).hex()

    def random(self) -> float:
        """A random number in [0, 1), for jitter."""
        return random.random()

"""How long ago something was, the time included that the machine slept through. For heartbeat and dispatcher."""

from __future__ import annotations

import time
from typing import NamedTuple, Self

__all__ = ["Moment"]


class Moment(NamedTuple):
    """A point in time on both clocks: one stands still while the machine sleeps, the other may be set by hand."""

    monotonic: float
    wall: float

    @classmethod
    def now(cls) -> Self:
        """This one."""
        return cls(time.monotonic(), time.time())

    def ago(self) -> float:
        """Seconds since then, by the clock that has gone further: leases lapse by the wall clock, asleep or not."""
        return max(time.monotonic() - self.monotonic, time.time() - self.wall)

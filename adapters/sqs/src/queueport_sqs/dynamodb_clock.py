"""The clock of the DynamoDB store: this process's own, put right by what DynamoDB says. For readers of the store.

DynamoDB has no clock that an expression could use, but each response bears a `Date`, in whole seconds. A response that
was asked for at `asked` and came at `came` proves that DynamoDB's clock is between `Date - came` and `Date + 1 - asked`
ahead of ours. What several responses prove holds together, and ours is believed as far as they allow: a machine whose
clock is right within a second is not corrected at all, a wrong one is off by no more than a second and a response time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

__all__ = ["ServiceClock"]

DRIFT = 100e-6
"""Seconds that a machine's clock may gain or lose in a second: what was proved is worth less, the older it is."""
RESOLUTION = 1.0
"""Seconds that the `Date` of a response may lag behind."""


class ServiceClock:
    """Seconds since the epoch, as DynamoDB counts them."""

    def __init__(self, local: Callable[[], float] = time.time) -> None:
        self.local = local
        self._lock = threading.Lock()
        self._bounds = (-math.inf, math.inf)
        self._heard_at: float | None = None

    @property
    def heard(self) -> bool:
        """Whether any response has been seen."""
        return self._heard_at is not None

    def now(self) -> float:
        """The time."""
        low, high = self._bounds
        return self.local() + min(max(0.0, low), high)

    def forget(self) -> None:
        """In a child after a fork: whoever held the lock is not in this process."""
        self._lock = threading.Lock()

    def hear(self, date: str | None, asked: float) -> None:
        """Take in the `Date` of a response that was asked for at that time, by `local`."""
        try:
            said = None if date is None else parsedate_to_datetime(date).timestamp()
        except ValueError:
            said = None
        if said is None:
            return
        came = self.local()
        proved = (said - came, said + RESOLUTION - asked)
        with self._lock:
            aged = DRIFT * abs(came - self._heard_at) if self._heard_at is not None else 0.0
            low, high = max(self._bounds[0] - aged, proved[0]), min(self._bounds[1] + aged, proved[1])
            self._bounds = (low, high) if low <= high else proved  # one of the clocks was set: what was known is void
            self._heard_at = came

"""The Redis server's clock, without asking it each time. For readers of the store.

What is sent to a server that hangs lies in its socket, and is read when the server goes on: perhaps long after the
producer was told that the job will not run. So an insert says, by this clock, until when it may be made.
"""

from __future__ import annotations

import time

__all__ = ["ServerClock"]


class ServerClock:
    """The server's clock as far as it is known here: never ahead of it, unless somebody sets it back."""

    def __init__(self) -> None:
        self._ahead: float | None = None

    @property
    def known(self) -> bool:
        """Whether the server has told its time."""
        return self._ahead is not None

    def heard(self, now: float) -> None:
        """The server has just told its time; it was so a moment ago, so that what is added up here is behind it."""
        self._ahead = now - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch. Raises RuntimeError where the server has not told its time yet."""
        if self._ahead is None:
            raise RuntimeError("the server has not told its time yet")
        return time.monotonic() + self._ahead

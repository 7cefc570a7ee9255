"""When whoever waits for the end of a job looks at its record. For readers of the DynamoDB store.

DynamoDB tells nobody that an item was changed, except through streams, and every look is paid for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from queueport.record import Record

__all__ = ["Waiting"]

FIRST, LONGEST = 0.05, 0.8
"""Seconds between two looks at a job, at first and at most."""
FORGOTTEN = 10.0
"""Seconds without a look after which nobody waits for a job any more."""


class Waiting:
    """Looks at each job at once and then ever less often, however many wait for it and in however many calls."""

    def __init__(self, final: Callable[[Collection[str], bool], list[Record]]) -> None:
        self._final = final
        self._next: dict[str, tuple[float, float]] = {}
        """By id: when to look again, and how long it is then until the next time."""
        self._swept = time.monotonic()
        self._lock = threading.Lock()

    def wait(self, ids: Collection[str], timeout: float) -> list[Record]:
        """See `JobStore.wait`."""
        if timeout <= 0:
            return self._final(ids, True)
        deadline = time.monotonic() + timeout
        while True:
            new, again = self._due(ids)
            # Half the price for those that will be looked at again anyway.
            found = [*self._final(new, True), *self._final(again, False)]
            left = deadline - time.monotonic()
            if found or left <= 0:
                with self._lock:
                    for record in found:
                        self._next.pop(record.id, None)
                return found
            with self._lock:
                due = min((self._next[job_id][0] for job_id in ids if job_id in self._next), default=deadline)
            time.sleep(max(0.0, min(left, due - time.monotonic())))

    def _due(self, ids: Collection[str]) -> tuple[list[str], list[str]]:
        """The jobs that nobody has looked at yet, and those to look at again; from now on they have been."""
        now = time.monotonic()
        new: list[str] = []
        again: list[str] = []
        with self._lock:
            if now - self._swept > FORGOTTEN:
                self._next = {job_id: look for job_id, look in self._next.items() if now - look[0] < FORGOTTEN}
                self._swept = now
            for job_id in ids:
                at, pause = self._next.get(job_id, (None, FIRST))
                if at is None or at <= now:
                    (new if at is None else again).append(job_id)
                    self._next[job_id] = (now + pause, min(2 * pause, LONGEST))
        return new, again

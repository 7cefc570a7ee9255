"""Sends to the broker, counts and purges there: connections, a second try after a stale one, errors in a sentence.

For the driver. Thread-safe, and a child after a fork has connections of its own.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from celery import Celery

from queueport.driver import SendOutcome, Sent
from queueport.errors import BackendUnavailable
from queueport_celery.envelope import Parcel
from queueport_celery.link import Batch, Link
from queueport_celery.names import Names

__all__ = ["Publisher"]

T = TypeVar("T")

SENT = Sent(SendOutcome.SENT)


class Publisher:
    """Links that are free, the latest used first; as many as there are threads that send at once."""

    def __init__(self, app: Celery, names: Names, call_timeout: float, where: str) -> None:
        self._app = app
        self._names = names
        self._timeout = call_timeout
        self._where = where
        self._free: deque[Link] = deque()
        self._pid = os.getpid()

    def publish(self, parcels: Sequence[Parcel]) -> list[Sent]:
        """The outcome of each, in order."""
        batch, deadline = Batch(parcels), time.monotonic() + self._timeout
        error: BackendUnavailable | None = None
        doubtful: set[int] = set()
        for fresh in (False, True):
            try:
                self._with_link(lambda link: link.send(batch, deadline), fresh=fresh)
            except BackendUnavailable as failed:
                error = failed
            left = batch.left()
            doubtful |= {i for i in left if batch.outcomes[i] is SendOutcome.UNKNOWN}
            if not left or time.monotonic() > deadline - self._timeout / 2:
                break  # all went out; or it took so long that it was no stale connection
        error = error or BackendUnavailable(f"{self._where} gave the message back: is its queue full?")
        batch.set([i for i in batch.left() if i in doubtful], SendOutcome.UNKNOWN)
        return [SENT if each is SendOutcome.SENT else Sent(each, error) for each in batch.outcomes]

    def depth(self, name: str) -> int:
        """How many messages wait in that queue of the broker's."""
        return self._call(lambda link: link.depth(name))

    def purge(self, name: str) -> int:
        """Drop them."""
        return self._call(lambda link: link.purge(name))

    def declare(self, names: Sequence[str]) -> None:
        """Make these queues."""
        self._call(lambda link: link.declare(names))

    def close(self) -> None:
        """Let go of what is free."""
        if self._pid == os.getpid():
            while self._free:
                self._free.pop().close()

    def _call(self, call: Callable[[Link], T]) -> T:
        """Call, and once more over a new connection where that failed at once."""
        started = time.monotonic()
        try:
            return self._with_link(call)
        except BackendUnavailable:
            if time.monotonic() - started > self._timeout / 2:
                raise
            return self._with_link(call, fresh=True)

    def _with_link(self, call: Callable[[Link], T], *, fresh: bool = False) -> T:
        """Raises BackendUnavailable; the link is given up then, and whatever else is raised."""
        if self._pid != os.getpid():  # the parent's connections are the parent's
            self._free, self._pid = deque(), os.getpid()
        link = None if fresh else self._taken()
        known = link is not None
        link = link or Link(self._app.connection_for_write(), self._names, self._timeout)
        try:
            if not known:
                link.open()
            answer = call(link)
        except link.failures as error:
            link.close()
            raise link.unavailable(self._where, error) from error
        except BaseException:
            link.close()
            raise
        self._free.append(link)
        return answer

    def _taken(self) -> Link | None:
        try:
            return self._free.pop()
        except IndexError:  # another thread was faster, or there is none
            return None

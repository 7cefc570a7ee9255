"""Which queues are paused: the documents in the store, and the copy of them that a process keeps. For the core.

`docs/protocol.md#pause` specifies the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable
from queueport.spi.failures import FailureLog
from queueport.spi.store import Document, JobStore
from queueport.stats import Pause

__all__ = ["READ_EVERY", "Pauses"]

logger: logging.Logger = logging.getLogger("queueport")

KIND = "pause"
"""The kind of the documents. The name of a document is that of its queue."""
READ_EVERY = 1.0
"""The maximum age of the copy in seconds when a process uses it. Together with the time of a call to the store, a pause
takes effect within two seconds."""


class Pauses:
    """The pauses of one store. Thread-safe.

    Only a process that runs jobs or dispatches calls `follow`, and then keeps a copy of all pauses. If the copy is too
    old when the process needs it, the process reads the pauses again. So there is at most one call in READ_EVERY
    seconds, however many jobs there are. A forked child begins with the copy of its parent.
    """

    def __init__(self, store: JobStore, runtime: Runtime) -> None:
        self._store = store
        self._runtime = runtime
        self._failures = FailureLog(logger, runtime.monotonic)
        self._follows = False
        self._copy: Mapping[str, Pause] = MappingProxyType({})
        self._read_at: float | None = None
        self._tried_at = 0.0
        self._stale = False

    def follow(self) -> None:
        """Keep a copy from now on. Does no I/O."""
        self._follows = True

    def expire(self) -> None:
        """Read the copy again at its next use, even if it is not old."""
        self._stale = True

    @property
    def read_at(self) -> float | None:
        """The time on the monotonic clock just before the copy was read; None if it was never read."""
        return self._read_at

    def current(self) -> Mapping[str, Pause]:
        """The copy, which is at most READ_EVERY seconds old, by queue. Empty if this process does not follow.

        If the store does not answer, the last copy stays. Raises BackendUnavailable if there is none.
        """
        if not self._follows:
            return self._copy
        now = self._runtime.monotonic()
        if self._read_at is None or self._stale or now - self._tried_at >= READ_EVERY:
            self._stale, self._tried_at = False, now  # other threads use the last copy meanwhile
            try:
                copy = self.read()
            except BackendUnavailable as error:
                if self._read_at is None:
                    raise
                self._failures.warning("the pauses of queues could not be read; the last known ones hold: %s", error)
            else:
                if self._read_at is None or self._read_at <= now:
                    self._copy, self._read_at = copy, now
        return self._copy

    def known(self) -> Mapping[str, Pause]:
        """Like `current`, but without I/O as long as the copy says that no queue is paused."""
        return self.current() if self._copy else self._copy

    def read(self) -> dict[str, Pause]:
        """Read the pauses, by queue. Raises BackendUnavailable."""
        return {document.name: _pause(document) for document in self._store.documents(KIND)}

    def add(self, queue: str, reason: str | None) -> None:
        """Pause a queue. If it is paused, only the reason changes. Raises BackendUnavailable."""
        while True:
            found = self._find(queue)
            since = self._store.now() if found is None else _pause(found).since.timestamp()
            new = Document(KIND, queue, {"reason": reason, "since": since}, self._runtime.new_id())
            if self._store.put_document(new, None if found is None else found.rev):
                self.expire()
                return

    def remove(self, queue: str) -> bool:
        """End the pause of a queue. Returns whether it was paused. Raises BackendUnavailable."""
        removed = False
        while (found := self._find(queue)) is not None:
            removed |= self._store.delete_document(KIND, queue, found.rev)
        self.expire()
        return removed

    def _find(self, queue: str) -> Document | None:
        return next((one for one in self._store.documents(KIND) if one.name == queue), None)


def _pause(document: Document) -> Pause:
    """The pause in a document. A wrong value, which queueport has not written, is ignored."""
    since, reason = document.value.get("since"), document.value.get("reason")
    try:
        at = datetime.fromtimestamp(since if isinstance(since, (int, float)) else 0.0, UTC)
    except (ValueError, OverflowError, OSError):  # not a time that `datetime` can represent
        at = datetime.fromtimestamp(0.0, UTC)
    return Pause(at, reason if isinstance(reason, str) else None)

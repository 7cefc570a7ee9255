"""Which queues are paused: the documents in the store, and the copy of them that a process keeps. For the core.

`docs/protocol.md#pause` specifies the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from queueport.engine.copies import Copy
from queueport.spi.store import Document
from queueport.stats import Pause

__all__ = ["Pauses"]


class Pauses(Copy[Pause]):
    """The pauses of one store. Thread-safe."""

    kind = "pause"
    what = "the pauses of queues"

    def add(self, queue: str, reason: str | None) -> None:
        """Pause a queue. If it is paused, only the reason changes. Raises BackendUnavailable."""

        def value(found: Document | None) -> Mapping[str, Any]:
            since = self._store.now() if found is None else self.value_of(found).since.timestamp()
            return {"reason": reason, "since": since}

        self._put(queue, value)

    def remove(self, queue: str) -> bool:
        """End the pause of a queue. Returns whether it was paused. Raises BackendUnavailable."""
        return self._remove(queue)

    def value_of(self, document: Document) -> Pause:
        """The pause in a document. A wrong value, which queueport has not written, is ignored."""
        since, reason = document.value.get("since"), document.value.get("reason")
        try:
            at = datetime.fromtimestamp(since if isinstance(since, (int, float)) else 0.0, UTC)
        except (ValueError, OverflowError, OSError):  # not a time that `datetime` can represent
            at = datetime.fromtimestamp(0.0, UTC)
        return Pause(at, reason if isinstance(reason, str) else None)

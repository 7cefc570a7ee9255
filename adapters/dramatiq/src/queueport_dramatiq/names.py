"""What Dramatiq calls queueport's queues. For the links, and for whoever looks at them with Dramatiq's own tools.

The queue `emails` of the namespace `queueport` is `queueport.emails` in Dramatiq. A namespace has no dot, so that two
of them share no queue. Dramatiq derives further names by an ending, which a queue of its own must not have: such a
name, and one that ends as the names so made do, gets `._` at its end.
"""

from __future__ import annotations

__all__ = ["Names"]

DERIVED = (".DQ", ".XQ", ".msgs")
"""Delayed messages, dead letters, and what Redis keeps of either: see dramatiq/brokers/redis/dispatch.lua."""
MARK = "._"


class Names:
    """The queues of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespace}."

    def native(self, queue: str) -> str:
        """What Dramatiq calls it."""
        return self._prefix + queue + (MARK if queue.endswith((*DERIVED, MARK)) else "")

    def queue(self, native: str) -> str | None:
        """The queue that Dramatiq calls so; None where it is none of this namespace."""
        if not native.startswith(self._prefix):
            return None
        return native[len(self._prefix) :].removesuffix(MARK)

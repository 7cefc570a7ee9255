"""The optional features of backends, and size limits. For applications and for authors of adapters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Capability", "Limits"]


class Capability(StrEnum):
    """An optional feature of a backend. Every feature that is not in this list works on every backend."""

    PRIORITY = "priority"
    """`using(priority=)`: workers take jobs with a higher number sooner than jobs with a lower number."""
    GROUPS = "groups"
    """`using(group=)`: jobs of one group run in the order in which they were enqueued. While a job waits for its time
    or for a retry, other jobs of its group may run."""
    NATIVE_DEAD_LETTERS = "native_dead_letters"
    """The backend's own dead letters contain a copy of each dead job, unless the backend refuses the copy. The
    backend's own tools can show the copy and redrive it."""
    DEPTH = "depth"
    """The backend reports how many messages wait in a queue."""
    PERSISTENT = "persistent"
    """Jobs outlive the process that enqueued them, so that other processes can run them."""
    THREADS = "threads"
    """A worker can run in a thread of the caller's process, and run several jobs at once in one process."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The maximum sizes that a backend and its store accept, in bytes. None: no limit is known."""

    payload: int | None = None
    """Maximum size of a job's encoded arguments."""
    result: int | None = None
    """Maximum size of a job's encoded result."""
    message: int | None = None
    """Maximum size of the whole message that a broker carries for a job, including headers."""

    def smaller(self, other: Limits) -> Limits:
        """For each field, the smaller limit of the two objects. None counts as no limit."""
        return Limits(
            _smaller(self.payload, other.payload),
            _smaller(self.result, other.result),
            _smaller(self.message, other.message),
        )


def _smaller(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else min(one, other)

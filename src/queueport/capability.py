"""What a backend can do beyond the contract, and how much it takes. The list is closed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Capability", "Limits"]


class Capability(StrEnum):
    """A feature that a backend may have. Everything else in the contract holds on every backend."""

    PRIORITY = "priority"
    """`using(priority=)`: higher numbers are taken sooner."""
    GROUPS = "groups"
    """`using(group=)`: jobs of one group run in order."""
    NATIVE_DEAD_LETTERS = "native_dead_letters"
    """A dead job is also seen in the backend's own dead-letter place, and can be redriven from there."""
    DEPTH = "depth"
    """The backend can say how many messages wait in a queue."""
    PERSISTENT = "persistent"
    """Jobs survive the process, so that other processes can run them."""
    THREADS = "threads"
    """A worker can run beside the caller, in its process."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large things may be; None: no limit that queueport knows of.

    `payload` is the encoded arguments, `result` the encoded result and `message` the whole job as a broker carries it,
    with its headers; all in bytes.
    """

    payload: int | None = None
    result: int | None = None
    message: int | None = None

    def smaller(self, other: Limits) -> Limits:
        """The limits that hold when both apply."""
        return Limits(
            _smaller(self.payload, other.payload),
            _smaller(self.result, other.result),
            _smaller(self.message, other.message),
        )


def _smaller(one: int | None, other: int | None) -> int | None:
    known = [limit for limit in (one, other) if limit is not None]
    return min(known) if known else None

"""The actors of an application that does not use queueport. For `legacy_redis` and `legacy_rabbitmq`."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.errors import Retry

from queueport.testing.trace import Trace

__all__ = ["QUEUE", "declare"]

QUEUE = os.environ.get("LEGACY_QUEUE", "legacy")
"""The queue of the actors. Each run of the tests sets another one."""


def note(name: str, **values: Any) -> None:
    """Leave a note for the running test."""
    trace = Trace.here()
    if trace is not None:
        trace.note(name, **values)


def resize(width: int, *, height: int = 1) -> int:
    """Return a result."""
    note("resize", width=width)
    return width * height


def unreliable() -> None:
    """Always fail."""
    note("unreliable")
    raise ValueError("always")


def later() -> str:
    """Ask Dramatiq once to run the actor again."""
    note("later")
    trace = Trace.here()
    if trace is not None and len(trace.notes("later")) == 1:
        raise Retry("once more", delay=200)
    return "done"


def named(**fields: int) -> dict[str, int]:
    """Return the keyword arguments."""
    return fields


def declare(broker: dramatiq.Broker) -> None:
    """Declare these functions as actors of the broker, as the decorator does."""
    for function in (resize, unreliable, later, named):
        dramatiq.actor(broker=broker, queue_name=QUEUE, max_retries=2, min_backoff=50, max_backoff=100)(function)

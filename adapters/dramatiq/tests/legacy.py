"""The actors of an application that has never heard of queueport. For `legacy_redis` and `legacy_rabbitmq`."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.errors import Retry

from queueport.testing.trace import Trace

__all__ = ["QUEUE", "declare"]

QUEUE = os.environ.get("LEGACY_QUEUE", "legacy")
"""Of its own for each run of the tests."""


def note(name: str, **values: Any) -> None:
    """Leave a note for the test that runs."""
    trace = Trace.here()
    if trace is not None:
        trace.note(name, **values)


def resize(width: int, *, height: int = 1) -> int:
    """Give a result."""
    note("resize", width=width)
    return width * height


def unreliable() -> None:
    """Fail, always."""
    note("unreliable")
    raise ValueError("always")


def later() -> str:
    """Ask to be run again, once."""
    note("later")
    trace = Trace.here()
    if trace is not None and len(trace.notes("later")) == 1:
        raise Retry("once more", delay=200)
    return "done"


def declare(broker: dramatiq.Broker) -> None:
    """Make them actors of this broker, as the decorator does."""
    for function in (resize, unreliable, later):
        dramatiq.actor(broker=broker, queue_name=QUEUE, max_retries=2, min_backoff=50, max_backoff=100)(function)

"""What every message of queueport's names as its function: RQ calls it with the message. For RQ's workers."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

__all__ = ["ENTRY", "receiver", "run"]

ENTRY = "queueport_rq.entry.run"
"""The dotted path of `run`, and the only one that a worker of queueport's calls."""

receiver: ContextVar[Callable[[bytes], None]] = ContextVar("queueport_rq_receiver")
"""Set by the worker around a job: what takes its message."""


def run(body: str) -> None:
    """Run one message of queueport's. Raises RuntimeError in a worker that cannot."""
    receive = receiver.get(None)
    if receive is None:
        raise RuntimeError(
            "this RQ worker does not run jobs of queueport: start it with -w queueport_rq.worker.QueueportWorker"
        )
    receive(body.encode())

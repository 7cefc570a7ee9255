"""The one task that Celery runs for queueport, and the workers whose jobs it delivers. For apps and workers.

Celery calls it in a thread, or in a child process of its prefork pool; what it raises is what Celery's tools show.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject

from queueport.errors import BackendUnavailable
from queueport.executor import Delivered
from queueport.message import Message, NotAMessage
from queueport.runner import Verdict
from queueport_celery.envelope import ENTRY, NODE

__all__ = ["AttemptFailed", "Node", "nodes", "register"]

logger: logging.Logger = logging.getLogger("queueport")


class AttemptFailed(Exception):
    """A job's attempt failed with this error. Recorded already: Celery is to show it, and to do nothing about it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __repr__(self) -> str:
        return f"{self.kind}({self.message!r})"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class Node:
    """One worker of Celery's that runs queueport's jobs."""

    queues: dict[str, str]
    """Its queues, by the broker's names."""
    deliver: Callable[[bytes], Delivered]
    """Begin and run a message's job here; in whatever process and thread the pool calls it."""
    note: Callable[[bytes], object]
    """A message has arrived, in the process that consumes."""
    put_aside: Callable[[str, Any], None]
    """Keep what is none of ours: the queue, and bytes or a delivery. Raises BackendUnavailable."""
    cancel: Callable[[str], object]
    """An operator has revoked this job."""


nodes: dict[str, Node] = {}
"""The workers in this process, by their node names; in a child process, that of its parent."""


def register(app: Celery) -> None:
    """Make the task known to an app; to no other one."""
    app.task(
        name=ENTRY,
        bind=True,
        shared=False,
        typing=False,
        ignore_result=True,
        store_errors_even_if_ignored=False,
        acks_late=True,
        acks_on_failure=True,  # a failure is recorded; the core sends the job again when it is due
        acks_on_timeout=True,
        reject_on_worker_lost=False,  # its lease lapses, and the core decides
        retry_on_worker_lost=False,
        max_retries=0,
        rate_limit=None,
        throws=(AttemptFailed,),  # logged without a traceback of ours
    )(_job)


def _job(self: Any, envelope: Any) -> Any:
    body = json.dumps(envelope).encode()
    node = nodes[self.request.get(NODE)]
    delivered = node.deliver(body)
    if delivered.verdict is Verdict.PUT_ASIDE:
        _put_aside(node, body)
        return "put aside"
    if delivered.error is not None:
        raise AttemptFailed(delivered.error.type, delivered.error.message)
    if delivered.record is None:  # a duplicate, or handed on, or an `async def` that goes on: Celery is told no end
        raise Ignore
    result = delivered.record.result
    return None if result is None else json.loads(result)  # as Celery's tools show a value


def _put_aside(node: Node, body: bytes) -> None:
    try:
        queue = Message.parse(body).queue
    except NotAMessage:
        queue = next(iter(node.queues.values()))
    try:
        node.put_aside(queue, body)
    except BackendUnavailable as error:
        logger.warning("a message could not be put aside, and goes back to its queue: %s", error)
        raise Reject(error, requeue=True) from error

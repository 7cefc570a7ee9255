"""The Celery task that runs all jobs of queueport, and the workers in which it runs. For apps and workers.

Celery calls the task in a thread or a process of the worker's pool. If an attempt fails, the Celery task fails too, so
that Celery's tools show the error. But for an `async def` task, the Celery task ends when the job has begun, so
Celery's tools show neither the result nor the error of the job.
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
from queueport.spi.runner import DeliveryResult, MessageAction
from queueport_celery.messages import ENTRY, NODE
from queueport_celery.names import Names

__all__ = ["AttemptFailed", "Node", "nodes", "register"]

logger: logging.Logger = logging.getLogger("queueport")


class AttemptFailed(Exception):
    """An attempt failed, and queueport has recorded the error. Celery only logs the error and shows it in its tools."""

    def __repr__(self) -> str:
        kind, message = self.args
        return f"{kind}({message!r})"

    __str__ = __repr__


class NotStarted(Exception):
    """A worker received a message of queueport, but was not started for queueport's jobs."""


@dataclass(frozen=True, slots=True)
class Node:
    """A Celery worker that runs queueport's jobs. The consumer and the task call its functions."""

    names: Names
    """Recognises the queues of queueport by their names on the broker."""
    deliver: Callable[[bytes], DeliveryResult]
    """Begins and runs the job of a message; see `JobRunner.deliver`."""
    note: Callable[[bytes], object]
    """Records that a message of queueport has arrived. Called in the process that receives messages. See
    `NativeWorker.note`; in an `EmbeddedWorker`, this does nothing."""
    put_aside: Callable[[str, Any], None]
    """Sends a message to the `:aside` queue of a queue. Raises BackendUnavailable. See `CeleryDriver.put_aside`."""
    cancel: Callable[[str], object]
    """Cancels a job that an operator has revoked. Raises BackendUnavailable."""


nodes: dict[str, Node] = {}
"""The workers of this process, by node name. A child process of a pool inherits the worker of its parent."""


def register(app: Celery) -> None:
    """Register in this app, and in no other app of the process, the task that runs queueport's jobs."""
    app.task(
        name=ENTRY,
        bind=True,
        shared=False,
        typing=False,
        ignore_result=True,
        store_errors_even_if_ignored=False,
        acks_late=True,
        # no redelivery is needed: queueport sends a new message for a retry, and for a queued job without a message
        acks_on_failure=True,
        acks_on_timeout=True,
        reject_on_worker_lost=False,  # after a crash, a dispatcher decides about the job when its lease lapses
        retry_on_worker_lost=False,
        max_retries=0,
        throws=(AttemptFailed,),  # Celery logs these errors without a traceback
    )(_run)


def _run(self: Any, envelope: Any) -> Any:
    body = json.dumps(envelope).encode()
    node = nodes.get(self.request.get(NODE))
    if node is None:  # the job stays queued, and a dispatcher publishes it again
        raise NotStarted(
            "this worker was not started for queueport's jobs: let it import queueport_celery.worker, name its app in "
            "QUEUEPORT_URL, and name a queue of queueport in -Q"
        )
    try:
        delivered = node.deliver(body)
        if delivered.action is MessageAction.PUT_ASIDE:
            node.put_aside(node.names.queue(self.request.delivery_info["routing_key"]) or "", body)
            return "put aside"
    except BackendUnavailable as error:
        logger.warning("a message returns to its queue: %s", error)
        raise Reject(error, requeue=True) from error
    if delivered.error is not None:
        raise AttemptFailed(delivered.error.type, delivered.error.message)
    # no attempt was made (a duplicate, or a job that was handed back), its end is not recorded, or the job still runs
    if delivered.record is None:
        raise Ignore
    result = delivered.record.result
    return None if result is None else json.loads(result)  # Celery's tools show the result

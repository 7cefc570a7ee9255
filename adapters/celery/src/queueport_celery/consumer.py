"""Celery's consumer, which keeps apart what is queueport's and what is not. Named in `worker_consumer`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import signals
from celery.worker.consumer import Consumer
from kombu import Message as Delivery

from queueport.errors import BackendUnavailable
from queueport_celery.entry import nodes
from queueport_celery.envelope import ENTRY, NODE, body_of

__all__ = ["JobConsumer"]

logger: logging.Logger = logging.getLogger("queueport")


class JobConsumer(Consumer):
    """In queueport's queues only its own messages reach a task: Celery would drop what it does not know.

    Messages of other queues, those of an application's own tasks, are Celery's business alone.
    """

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Delivery], Any]:
        """What Celery calls with each message that arrives."""
        handle = super().create_task_handler(*args, **options)
        node = nodes.get(self.hostname)
        if node is None:
            return handle

        def on_message(message: Delivery) -> Any:
            queue = node.queues.get((message.delivery_info or {}).get("routing_key", ""))
            if queue is None:
                return handle(message)
            body = body_of(message)
            if body is not None:
                node.note(body)
                message.headers[NODE] = self.hostname
                return handle(message)
            logger.warning("put aside a message that is none of queueport's: %.200r", message.body)
            try:
                node.put_aside(queue, message)
            except BackendUnavailable as error:  # not acknowledged: it comes again with the next connection
                logger.warning("a message could not be put aside: %s", error)
                return None
            return message.ack()

        return on_message


@signals.task_revoked.connect(weak=False)
def _revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
    """`celery control revoke` is a cancel: else the record would have its message sent again, and again revoked."""
    node = nodes.get(request.get(NODE)) if getattr(sender, "name", None) == ENTRY and request else None
    if node is not None:
        try:
            node.cancel(request.id)
        except BackendUnavailable as error:
            logger.warning("job %s was revoked, and could not be cancelled: %s", request.id, error)

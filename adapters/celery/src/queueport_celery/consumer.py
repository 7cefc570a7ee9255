"""The consumer of Celery workers that run queueport's jobs. Celery's setting `worker_consumer` names it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import signals
from celery.worker.consumer import Consumer
from kombu import Message as Delivery

from queueport.errors import BackendUnavailable
from queueport_celery.messages import ENTRY, NODE, body_of
from queueport_celery.task import Node, nodes

__all__ = ["JobConsumer"]

logger: logging.Logger = logging.getLogger("queueport")


PAUSE = 2
"""Seconds between two attempts to connect to the broker. Celery's own pauses grow to 30 seconds."""


class JobConsumer(Consumer):
    """Puts aside the messages in queueport's queues that queueport did not send.

    Celery would drop such a message, or run the task that the message names, if the app has that task. All other
    messages go to Celery, including those of the application's own queues. In a worker that has no `Node`, because it
    does not run queueport's jobs, all messages go to Celery.
    """

    qos: Any  # celery-types does not know these two
    task_consumer: Any

    def ensure_connected(self, conn: Any) -> Any:
        """Connect to the broker. After an outage, jobs must run again soon, so the pauses between attempts do not grow,
        unless the application has limited the number of attempts.
        """
        if not self.app.conf.broker_connection_max_retries:
            conn.ensure_connection = partial(conn.ensure_connection, interval_start=PAUSE, interval_step=0)
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Reconnect after the connection was lost.

        When kombu closes a channel to Redis, it first reads from the connection over which it waits for messages. If
        that fails, the channel stays half closed, and its next use, for example to acknowledge a message, would end the
        worker with an AttributeError. So the channel is closed once more than Celery does it.
        """
        connection: Any = self.connection
        if connection.transport.driver_type == "redis" and self.task_consumer is not None:
            connection.collect = partial(_collect, connection, self.task_consumer.channel, connection.collect)
        super().on_connection_error_after_connected(exc)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Delivery], Any]:
        """Make the function that Celery calls for each message."""
        handle = super().create_task_handler(*args, **options)
        node = nodes.get(self.hostname)
        if node is None:
            return handle

        def on_message(message: Delivery) -> Any:
            queue = _queue_of(message, node)
            if queue is None:
                return handle(message)
            body = body_of(message)
            if body is not None:
                node.note(body)
                message.headers[NODE] = self.hostname
                return handle(message)
            return self._put_aside(message, queue, node)

        return on_message

    def on_decode_error(self, message: Delivery, exc: Exception) -> Any:
        """Put aside a message that kombu cannot decompress. Celery would drop it."""
        node = nodes.get(self.hostname)
        queue = None if node is None else _queue_of(message, node)
        if node is None or queue is None:
            return super().on_decode_error(message, exc)
        return self._put_aside(message, queue, node)

    def _put_aside(self, message: Delivery, queue: str, node: Node) -> None:
        logger.warning("put aside a message that queueport did not send: %.200r", message.body)
        try:
            node.put_aside(queue, message)
        except BackendUnavailable as error:
            # Not acknowledged: the broker delivers the message again, when the connection ends or after a timeout.
            # Until then, the message must not take the place of another in the prefetch.
            self.qos.increment_eventually()
            logger.warning("a message could not be put aside, and will be delivered again: %s", error)
            return
        message.ack()

    def add_task_queue(self, queue: Any, *args: Any, **options: Any) -> Any:
        """Consume one more queue, because `celery control add_consumer` has named it.

        A queue of queueport gets the driver's declaration: RabbitMQ refuses to declare an existing queue with other
        arguments.
        """
        node = nodes.get(self.hostname)
        if node is not None and isinstance(queue, str) and node.names.queue(queue) is not None:
            self.app.amqp.queues.add(node.names.declaration(queue))
        return super().add_task_queue(queue, *args, **options)


def _collect(connection: Any, channel: Any, collect: Callable[..., None], **options: Any) -> None:
    connection.maybe_close_channel(channel)
    collect(**options)


def _queue_of(message: Delivery, node: Node) -> str | None:
    """The name of the queue of queueport from which this message came; None for a queue of the application."""
    return node.names.queue((message.delivery_info or {}).get("routing_key", ""))


@signals.task_revoked.connect(weak=False)
def _revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
    """Cancel a job when Celery drops its message, or ends its task, because `celery control revoke` named the job.

    Otherwise a dispatcher would publish the job again and again. If the store does not answer, only logs a warning.
    """
    node = nodes.get(request.get(NODE)) if getattr(sender, "name", None) == ENTRY and request else None
    if node is not None:
        try:
            node.cancel(request.id)
        except BackendUnavailable as error:
            message = "job %s was revoked in Celery, but could not be cancelled; repeat it by `queueport cancel`: %s"
            logger.warning(message, request.id, error)

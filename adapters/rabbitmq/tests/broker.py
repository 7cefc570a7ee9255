"""Access to a namespace on RabbitMQ through pika, without queueport. For the tests of adapters on RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

__all__ = ["SETTLED", "Broker"]

SETTLED = 3.0
"""Seconds that a test waits between the declaration of a queue and a SIGKILL of RabbitMQ. RabbitMQ 3.10.8 does not tell
when it has written the queue to disk: 5 of 96 classic queues that were filled with confirmed messages and killed at
once were gone after the restart, and a quorum queue that was killed in its first second never got a leader."""


class Broker:
    """The queues of one namespace."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.namespace = namespace

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel. When it is closed, messages that were taken and not acknowledged return to their queues."""
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            yield connection.channel()

    def work(self, queue: str) -> str:
        """The name of the queue that carries jobs."""
        return f"{self.namespace}.{queue}"

    def dead(self, queue: str) -> str:
        """The name of the queue with copies of dead jobs."""
        return f"{self.namespace}.{queue}:dead"

    def aside(self, queue: str) -> str:
        """The name of the queue with messages that queueport did not send."""
        return f"{self.namespace}.{queue}:aside"

    def depth(self, name: str) -> int:
        """The number of messages that wait in a queue, which must exist."""
        with self.channel() as channel:
            return channel.queue_declare(name, passive=True).method.message_count or 0

    def publish(self, name: str, body: bytes, properties: pika.BasicProperties | None = None) -> None:
        """Put a message into a queue, which must exist."""
        with self.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish("", name, body, properties, mandatory=True)

    def purge(self, name: str) -> None:
        """Empty a queue."""
        with self.channel() as channel:
            channel.queue_purge(name)

    def ids(self, name: str) -> list[str]:
        """The message ids in a queue, in their order; the messages stay there."""
        return [str(properties.message_id) for properties, _ in self._messages(name)]

    def bodies(self, name: str) -> list[bytes]:
        """The bodies of the messages in a queue, in their order; the messages stay there."""
        return [body for _, body in self._messages(name)]

    def _messages(self, name: str) -> list[tuple[pika.BasicProperties, bytes]]:
        found: list[tuple[pika.BasicProperties, bytes]] = []
        with self.channel() as channel:
            while (got := _got(channel, name)) is not None:
                found.append(got[1:])
        return found

    def drain(self, name: str) -> list[str]:
        """Remove all messages from a queue, fast; returns their ids."""
        found: list[str] = []
        count = self.depth(name)
        with self.channel() as channel:
            for method, properties, _ in channel.consume(name, auto_ack=True, inactivity_timeout=5.0):
                if method is not None and properties is not None:
                    found.append(str(properties.message_id))
                if method is None or len(found) == count:
                    return found
        raise AssertionError("pika ended the consumer")

    def move(self, source: str, target: str, message_id: str) -> None:
        """Move one message as a shovel does: publish it unchanged to the other queue, then acknowledge it."""
        with self.channel() as channel:
            channel.confirm_delivery()
            while (got := _got(channel, source)) is not None:
                tag, properties, body = got
                if properties.message_id == message_id:
                    channel.basic_publish("", target, body, properties, mandatory=True)
                    channel.basic_ack(tag)
                    return
        raise AssertionError(f"{message_id} is not in {source}")

    def clean(self, *queues: str) -> None:
        """Delete everything that belongs to these queues."""
        with self.channel() as channel:
            for queue in queues:
                for name in (self.work(queue), self.dead(queue), self.aside(queue)):
                    channel.queue_delete(name)
            channel.exchange_delete(f"{self.namespace}:dead")


def _got(channel: BlockingChannel, name: str) -> tuple[int, pika.BasicProperties, bytes] | None:
    """The next message of a queue, or None. pika's type stubs are incomplete for this call."""
    got: Any = channel.basic_get(name)
    method, properties, body = got
    return None if method is None else (method.delivery_tag, properties, body)

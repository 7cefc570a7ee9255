"""A namespace on a RabbitMQ, seen by pika alone: what an operator's tools would do. For the tests here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

__all__ = ["Broker"]


class Broker:
    """The queues of one namespace, behind queueport's back."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url
        self.namespace = namespace

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel; what was taken from a queue and not acknowledged returns when it is closed."""
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            yield connection.channel()

    def work(self, queue: str) -> str:
        """The queue that carries jobs."""
        return f"{self.namespace}.{queue}"

    def dead(self, queue: str) -> str:
        """The one with copies of dead jobs."""
        return f"{self.namespace}.{queue}:dead"

    def aside(self, queue: str) -> str:
        """The one with what is none of queueport's."""
        return f"{self.namespace}.{queue}:aside"

    def depth(self, name: str) -> int:
        """How many messages wait in a queue, which must be there."""
        with self.channel() as channel:
            return channel.queue_declare(name, passive=True).method.message_count or 0

    def publish(self, name: str, body: bytes, properties: pika.BasicProperties | None = None) -> None:
        """Put a message into a queue, which must be there."""
        with self.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish("", name, body, properties, mandatory=True)

    def purge(self, name: str) -> None:
        """Empty a queue."""
        with self.channel() as channel:
            channel.queue_purge(name)

    def ids(self, name: str) -> list[str]:
        """The message ids in a queue, in their order; they stay there."""
        found: list[str] = []
        with self.channel() as channel:
            while (got := _got(channel, name)) is not None:
                found.append(str(got[1].message_id))
        return found

    def drain(self, name: str) -> list[str]:
        """Take all messages out of a queue, many a second; their ids."""
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
        """Move one message, as a shovel does: published to the other queue as it is, and then acknowledged."""
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
        """Delete what belongs to these queues."""
        with self.channel() as channel:
            for queue in queues:
                for name in (self.work(queue), self.dead(queue), self.aside(queue)):
                    channel.queue_delete(name)
            channel.exchange_delete(f"{self.namespace}:dead")


def _got(channel: BlockingChannel, name: str) -> tuple[int, pika.BasicProperties, bytes] | None:
    """The next message; None where there is none. The types that others have written for pika say less."""
    got: Any = channel.basic_get(name)
    method, properties, body = got
    return None if method is None else (method.delivery_tag, properties, body)

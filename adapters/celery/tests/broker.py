"""Reads and writes Celery's brokers with kombu and redis-py alone. For the tests of this adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import kombu
import redis
from kombu.exceptions import ChannelError

from queueport_celery.messages import OutgoingMessage
from queueport_celery.names import Names

__all__ = ["Broker"]


class Broker:
    """The broker's queues of one namespace. `url` is the URL of the broker."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url.replace("amqp://", "pyamqp://")
        self.names = Names(namespace, prioritises=url.startswith("amqp"))

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel on a new connection."""
        with kombu.Connection(self.url) as connection, connection.channel() as channel:
            yield channel

    def publish(self, message: OutgoingMessage) -> None:
        """Put a message into a queue, and declare the queue if it does not exist."""
        with self.channel() as channel:
            self.names.declaration(message.queue)(channel).declare()
            options = {"exchange": "", "routing_key": message.queue, "headers": message.headers, **message.properties}
            kombu.Producer(channel, auto_declare=False).publish(message.body, **options)

    def purge(self, name: str) -> None:
        """Empty a queue."""
        with self.channel() as channel, suppress(ChannelError):
            channel.queue_purge(name)

    def obstruct(self, name: str) -> None:
        """Take the name of a queue that does not exist yet for something else, so that the queue accepts nothing."""
        if self.url.startswith("redis"):
            with redis.Redis.from_url(self.url) as client:
                client.set(name, "not a list")
            return
        with self.channel() as channel:
            channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-max-length": 1})

    def messages(self, name: str) -> list[Any]:
        """Remove and return the messages of a queue. A queue that does not exist is empty."""
        found: list[Any] = []
        with self.channel() as channel, suppress(ChannelError):
            queue = kombu.Queue(name)(channel)
            while (message := queue.get(no_ack=True)) is not None:
                found.append(message)
        return found

    def delete(self, *names: str) -> None:
        """Delete these queues, and the exchanges that Celery declares with the same names."""
        if self.url.startswith("redis"):
            with redis.Redis.from_url(self.url) as client:
                client.delete(*names, *(f"_kombu.binding.{name}" for name in names))
            return
        with self.channel() as channel:
            for name in names:
                channel.queue_delete(name)
                channel.exchange_delete(name)

    def clean(self, *queues: str) -> None:
        """Delete everything that belongs to this namespace."""
        self.delete(*(name for queue in queues for name in (self.names.native(queue), self.names.aside(queue))))
        if self.url.startswith("redis"):
            with redis.Redis.from_url(self.url) as client:
                if keys := list(client.scan_iter(f"*{self.names.namespace}*")):
                    client.delete(*keys)
            return
        with self.channel() as channel:
            for exchange in ("{}.control.pidbox", "reply.{}.control.pidbox", "{}.events"):
                channel.exchange_delete(exchange.format(self.names.namespace))

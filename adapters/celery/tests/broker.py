"""Celery's brokers as their own tools see them, behind queueport's back. For the tests of this adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import kombu
import redis
from kombu.exceptions import ChannelError

from queueport_celery.envelope import Parcel
from queueport_celery.names import Names

__all__ = ["Broker"]


class Broker:
    """The queues of one namespace; `url` is the broker's own."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url = url.replace("amqp://", "pyamqp://")
        self.names = Names(namespace, prioritises=url.startswith("amqp"))

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of a connection of its own."""
        with kombu.Connection(self.url) as connection, connection.channel() as channel:
            yield channel

    def publish(self, parcel: Parcel) -> None:
        """Put a message into a queue, which is made if need be."""
        with self.channel() as channel:
            self.names.declaration(parcel.queue)(channel).declare()
            options = {"exchange": "", "routing_key": parcel.queue, "headers": parcel.headers, **parcel.properties}
            kombu.Producer(channel, auto_declare=False).publish(parcel.body, **options)

    def purge(self, name: str) -> None:
        """Empty a queue."""
        with self.channel() as channel, suppress(ChannelError):
            channel.queue_purge(name)

    def messages(self, name: str) -> list[Any]:
        """Take what lies in a queue; nothing where it has not been made yet."""
        found: list[Any] = []
        with self.channel() as channel, suppress(ChannelError):
            queue = kombu.Queue(name)(channel)
            while (message := queue.get(no_ack=True)) is not None:
                found.append(message)
        return found

    def delete(self, *names: str) -> None:
        """Delete these queues, and the exchanges that Celery makes of the same names."""
        if self.url.startswith("redis"):
            with redis.Redis.from_url(self.url) as client:
                client.delete(*names, *(f"_kombu.binding.{name}" for name in names))
            return
        with self.channel() as channel:
            for name in names:
                channel.queue_delete(name)
                channel.exchange_delete(name)

    def clean(self, *queues: str) -> None:
        """Delete what belongs to this namespace."""
        self.delete(*(name for queue in queues for name in (self.names.work(queue), self.names.aside(queue))))
        if self.url.startswith("redis"):
            with redis.Redis.from_url(self.url) as client:
                if keys := list(client.scan_iter(f"*{self.names.namespace}*")):
                    client.delete(*keys)
            return
        with self.channel() as channel:
            for exchange in ("{}.control.pidbox", "reply.{}.control.pidbox", "{}.events"):
                channel.exchange_delete(exchange.format(self.names.namespace))

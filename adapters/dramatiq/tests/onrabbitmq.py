"""One namespace of Dramatiq's queues on a RabbitMQ, seen by pika alone: what an operator does. For the tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker

__all__ = ["RabbitMQQueues"]


class RabbitMQQueues:
    """Behind queueport's back. Queues by queueport's names."""

    def __init__(self, url: str, namespace: str) -> None:
        self._url = url
        self._namespace = namespace

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of pika's, untyped; what was fetched and not acknowledged returns at its end."""
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            yield connection.channel()

    def name(self, queue: str, ending: str = "") -> str:
        return f"{self._namespace}.{queue}{ending}"

    def put(self, queue: str, message: bytes) -> None:
        with self.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish("", self.name(queue), message, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def waiting(self, queue: str) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self._bodies(self.name(queue))]

    def wipe(self, queue: str) -> None:
        with self.channel() as channel:
            channel.queue_purge(self.name(queue))

    def dead(self, queue: str) -> list[bytes]:
        return self._bodies(self.name(queue, ".XQ"))

    def redrive(self, queue: str, message_id: str) -> None:
        with self.channel() as channel:
            channel.confirm_delivery()
            while (got := channel.basic_get(self.name(queue, ".XQ")))[0] is not None:
                method, properties, body = got
                if json.loads(body)["message_id"] == message_id:
                    channel.basic_publish("", self.name(queue), body, properties, mandatory=True)
                    channel.basic_ack(method.delivery_tag)
                    return
        raise AssertionError(f"{message_id} is not in the dead letters")

    def clean(self, queues: Iterable[str]) -> None:
        with self.channel() as channel:
            for queue in queues:
                for ending in ("", ".DQ", ".XQ"):
                    channel.queue_delete(self.name(queue, ending))

    def _bodies(self, name: str) -> list[bytes]:
        found: list[bytes] = []
        with suppress(ChannelClosedByBroker), self.channel() as channel:  # it may not be there
            while (got := channel.basic_get(name))[0] is not None:
                found.append(got[2])
        return found

"""Reads and writes Dramatiq's queues on RabbitMQ with pika alone. For the tests of this adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from adapters.rabbitmq.tests.broker import Broker

__all__ = ["RabbitMQQueues"]


class RabbitMQQueues:
    """The queues of one namespace. The methods take the names that queueport uses."""

    def __init__(self, url: str, namespace: str) -> None:
        self._broker = Broker(url, namespace)
        self.channel = self._broker.channel

    def _dead(self, queue: str) -> str:
        return f"{self._broker.work(queue)}.XQ"

    def put(self, queue: str, message: bytes) -> None:
        self._broker.publish(self._broker.work(queue), message)

    def waiting(self, queue: str) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self._broker.bodies(self._broker.work(queue))]

    def wipe(self, queue: str) -> None:
        self._broker.purge(self._broker.work(queue))

    def dead(self, queue: str) -> list[bytes]:
        with suppress(ChannelClosedByBroker):  # the queue may not exist
            return self._broker.bodies(self._dead(queue))
        return []

    def redrive(self, queue: str, message_id: str) -> None:
        self._broker.move(self._dead(queue), self._broker.work(queue), message_id)

    def clean(self, queues: Iterable[str]) -> None:
        with self.channel() as channel:
            for queue in queues:
                for ending in ("", ".DQ", ".XQ"):
                    channel.queue_delete(self._broker.work(queue) + ending)

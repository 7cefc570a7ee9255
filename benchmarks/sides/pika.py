"""pika alone: it publishes to a durable quorum queue with confirms. It has neither workers nor results."""

from __future__ import annotations

import json
import secrets
from typing import Any, ClassVar

import pika

from benchmarks.sides.side import Side, environment

QUEUE = environment("QUEUE")


class Bench(Side):
    thread_safe: ClassVar[bool] = False

    def __init__(self) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(environment("RABBITMQ")))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()
        self._channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

    def enqueue(self, milliseconds: float = 0.0) -> Any:
        body = json.dumps({"id": secrets.token_hex(8), "args": [milliseconds]}).encode()
        self._channel.basic_publish("", QUEUE, body, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def close(self) -> None:
        self._connection.close()

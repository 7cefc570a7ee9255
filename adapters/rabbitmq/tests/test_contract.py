"""RabbitMQ keeps the contract: the whole suite of `queueport.testing`, with quorum queues and with classic ones."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest

from adapters.rabbitmq.tests.broker import Broker
from queueport.message import Message
from queueport.testing import Contract, Harness
from queueport.testing.tasks import QUEUE, echo
from tests.servers import rabbitmq_server, redis_server
from tests.servers.harness import OnRedis

SETTLED = 3.0
"""Seconds: a quorum queue whose only node is killed in the queue's first second has no leader ever after (3.10.8)."""


class RabbitMQHarness(OnRedis):
    """A RabbitMQ beside a Redis that keeps the records. `private` ones may be stopped."""

    def __init__(self, queue_type: str, *, private: bool) -> None:
        self._server = rabbitmq_server(private=private)
        url = self._server.url.replace("guest:guest@", "")  # the same, without a password that is its user's name
        super().__init__(f"{url}?queue_type={queue_type}", redis_server(private=private))
        self.title = "rabbitmq + redis" if queue_type == "quorum" else "rabbitmq (classic) + redis"
        self._broker = Broker(self._server.url, self.namespace)
        if private:
            self.open(call_timeout=10.0).driver.setup([QUEUE])  # it has just started, and is slow
        self._made_at = time.monotonic()

    def restart_backend(self) -> None:
        time.sleep(max(0.0, self._made_at + SETTLED - time.monotonic()))
        self._server.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self._server.paused()

    def wipe(self, queue: str) -> None:
        self._broker.purge(self._broker.work(queue))

    def inject(self, queue: str, body: bytes) -> None:
        self._broker.publish(self._broker.work(queue), body)

    def redeliver(self, job_id: str) -> None:
        gone = {"v": 1, "id": job_id, "task": echo.name, "queue": QUEUE, "life": 1, "sent_at": 0.0}
        record = self.open().operations.store.get([job_id])[0]
        self.inject(QUEUE, json.dumps(gone).encode() if record is None else Message.of(record, 0.0).body)

    def native_dead(self) -> Sequence[str]:
        return self._broker.ids(self._broker.dead(QUEUE))

    def redrive(self, job_id: str) -> None:
        self._broker.move(self._broker.dead(QUEUE), self._broker.work(QUEUE), job_id)

    def clean(self) -> None:
        for namespace, queues in self.used().items():
            Broker(self._server.url, namespace).clean(*queues)
        super().clean()


def harness_of(queue_type: str, request: pytest.FixtureRequest) -> Harness:
    """One for this test, with servers of its own where the test stops them."""
    return RabbitMQHarness(queue_type, private=getattr(request.function, "disrupts", False))


class TestQuorum(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return harness_of("quorum", request)


class TestClassic(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return harness_of("classic", request)

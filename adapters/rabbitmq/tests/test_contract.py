"""Runs the whole contract suite of `queueport.testing` on RabbitMQ, with quorum queues and with classic queues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest

from adapters.rabbitmq.tests.broker import SETTLED, Broker
from queueport.testing import Contract, Harness
from queueport.testing.redis_store import OnRedis
from queueport.testing.tasks import QUEUE
from tests.servers import rabbitmq_server, redis_server


class RabbitMQHarness(OnRedis):
    """A RabbitMQ, with the records in a Redis. Tests may stop `private` servers."""

    def __init__(self, queue_type: str, *, private: bool) -> None:
        self._server = rabbitmq_server(private=private)
        url = self._server.url.replace(
            "guest:guest@", ""
        )  # user and password are equal, and tests search for the password
        super().__init__(f"{url}?queue_type={queue_type}", redis_server(private=private))
        self.title = "rabbitmq + redis" if queue_type == "quorum" else "rabbitmq (classic) + redis"
        self._broker = Broker(self._server.url, self.namespace)
        if private:
            self.open(call_timeout=10.0).driver.setup([QUEUE])  # a server that has just started is slow
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

    def native_dead(self) -> Sequence[str]:
        return self._broker.ids(self._broker.dead(QUEUE))

    def redrive(self, job_id: str) -> None:
        self._broker.move(self._broker.dead(QUEUE), self._broker.work(QUEUE), job_id)

    def clean(self) -> None:
        for namespace, queues in self.used().items():
            Broker(self._server.url, namespace).clean(*queues)
        super().clean()


class TestQuorum(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return RabbitMQHarness("quorum", private=getattr(request.function, "disrupts", False))


class TestClassic(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return RabbitMQHarness("classic", private=getattr(request.function, "disrupts", False))

"""Dramatiq keeps the contract: the whole suite of `queueport.testing`, over Redis and over RabbitMQ."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from urllib.parse import quote

import pytest

from adapters.dramatiq.tests.onrabbitmq import RabbitMQQueues
from adapters.dramatiq.tests.onredis import RedisQueues
from queueport.message import Message
from queueport.testing import Contract, Harness, hard_tasks, tasks
from queueport.testing.tasks import QUEUE, echo
from tests.servers import rabbitmq_server, redis_server
from tests.servers.server import Server


class DramatiqHarness(Harness):
    """A broker beside a Redis that keeps the records."""

    def __init__(self, url: str, server: Server, store: Server, queues: type[RedisQueues | RabbitMQQueues]) -> None:
        super().__init__(url)
        self._server = server
        self._store = store
        self.queues = queues(server.url, self.namespace)
        self.title = f"dramatiq ({'redis' if server is store else 'rabbitmq'}) + redis"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "QUEUEPORT_TASKS": f"{tasks.__name__},{hard_tasks.__name__}"}

    def native_command(self, queues: Sequence[str]) -> Sequence[str] | None:
        words = [sys.executable, "-m", "dramatiq", "queueport_dramatiq.worker", "--processes=1", "--threads=4"]
        return [*words, "--queues", *queues]

    def restart_backend(self) -> None:
        self._server.restart()

    def restart_store(self) -> None:
        self._store.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self._server.paused()

    def store_down(self) -> AbstractContextManager[None]:
        return self._store.paused()

    def wipe(self, queue: str) -> None:
        self.queues.wipe(queue)

    def inject(self, queue: str, body: bytes) -> None:
        """As the option that bears a job; what is no JSON as text. Raw garbage has a test of its own."""
        try:
            job = json.loads(body)
        except ValueError:
            job = body.decode(errors="replace")
        self.open().driver.setup([queue])
        message = {"queue_name": f"{self.namespace}.{queue}", "actor_name": "any", "args": [], "kwargs": {}}
        more = {"options": {"queueport": job}, "message_id": "any", "message_timestamp": 0}
        self.queues.put(queue, json.dumps({**message, **more}).encode())

    def redeliver(self, job_id: str) -> None:
        gone = {"v": 1, "id": job_id, "task": echo.name, "queue": QUEUE, "life": 1, "sent_at": 0.0}
        record = self.open().operations.store.get([job_id])[0]
        self.inject(QUEUE, json.dumps(gone).encode() if record is None else Message.of(record, 0.0).body)

    def native_dead(self) -> Sequence[str]:
        return [json.loads(message)["message_id"] for message in self.queues.dead(QUEUE)]

    def redrive(self, job_id: str) -> None:
        self.queues.redrive(QUEUE, job_id)

    def clean(self) -> None:
        if isinstance(self.queues, RabbitMQQueues):
            for namespace, queues in self.used().items():
                RabbitMQQueues(self._server.url, namespace).clean(queues)
        RedisQueues(self._store.url, self.namespace).clean()


class TestRedis(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        server = redis_server(private=getattr(request.function, "disrupts", False))
        return DramatiqHarness(f"dramatiq+{server.url}", server, server, RedisQueues)


class TestRabbitMQ(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        private = getattr(request.function, "disrupts", False)
        server, store = rabbitmq_server(private=private), redis_server(private=private)
        url = f"dramatiq+{server.url.replace('guest:guest@', '')}?store={quote(store.url, safe='')}"
        return DramatiqHarness(url, server, store, RabbitMQQueues)

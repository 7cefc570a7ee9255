"""Runs the whole contract suite of `queueport.testing` on Dramatiq, over Redis and over RabbitMQ."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest

from adapters.dramatiq.tests.onrabbitmq import RabbitMQQueues
from adapters.dramatiq.tests.onredis import RedisQueues
from queueport.testing import Contract, Harness, hard_tasks, tasks
from queueport.testing.redis_store import OnRedis
from queueport.testing.servers import Server
from queueport.testing.tasks import QUEUE
from tests.servers import rabbitmq_server, redis_server


class DramatiqHarness(OnRedis):
    """Dramatiq on a broker, with the records in a Redis."""

    def __init__(self, server: Server, store: Server, queues: type[RedisQueues | RabbitMQQueues]) -> None:
        super().__init__(f"dramatiq+{server.url.replace('guest:guest@', '')}", store)
        self._server = server
        self.queues = queues(server.url, self.namespace)
        self.title = f"dramatiq ({'redis' if server is store else 'rabbitmq'}) + redis"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "QUEUEPORT_TASKS": f"{tasks.__name__},{hard_tasks.__name__}"}

    def native_command(self, queues: Sequence[str]) -> Sequence[str] | None:
        words = [sys.executable, "-m", "dramatiq", "queueport_dramatiq.worker", "--processes=1", "--threads=4"]
        # A job may kill its process before the command knows that the process has started; see the README.
        return [*words, "--worker-fork-timeout=2000", "--queues", *queues]

    def restart_backend(self) -> None:
        self._server.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self._server.paused()

    def wipe(self, queue: str) -> None:
        self.queues.wipe(queue)

    def inject(self, queue: str, body: bytes) -> None:
        """Send JSON as the option that carries a job, and other bytes as text."""
        try:
            job = json.loads(body)
        except (ValueError, RecursionError):  # RecursionError: it is nested too deeply
            job = body.decode(errors="replace")
        self.open().driver.setup([queue])
        message = {"queue_name": f"{self.namespace}.{queue}", "actor_name": "any", "args": [], "kwargs": {}}
        more = {"options": {"queueport": job}, "message_id": "any", "message_timestamp": 0}
        self.queues.put(queue, json.dumps({**message, **more}).encode())

    def native_dead(self) -> Sequence[str]:
        return [json.loads(message)["message_id"] for message in self.queues.dead(QUEUE)]

    def redrive(self, job_id: str) -> None:
        self.queues.redrive(QUEUE, job_id)

    def clean(self) -> None:
        if isinstance(self.queues, RabbitMQQueues):
            for namespace, queues in self.used().items():
                RabbitMQQueues(self._server.url, namespace).clean(queues)
        RedisQueues(self.store.url, self.namespace).clean()


class TestRedis(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        server = redis_server(private=getattr(request.function, "disrupts", False))
        return DramatiqHarness(server, server, RedisQueues)


class TestRabbitMQ(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        private = getattr(request.function, "disrupts", False)
        return DramatiqHarness(rabbitmq_server(private=private), redis_server(private=private), RabbitMQQueues)

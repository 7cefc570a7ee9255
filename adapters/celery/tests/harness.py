"""The harnesses for Celery: how tests reach its brokers and start its workers. For all tests of this adapter."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from urllib.parse import quote

from adapters.celery.tests.broker import Broker
from queueport.testing import hard_tasks, tasks
from queueport.testing.redis_store import OnRedis
from queueport_celery.messages import EMBED, ENTRY, JSON, OutgoingMessage
from tests.servers import rabbitmq_server, redis_server

__all__ = ["CeleryHarness", "JoinedHarness"]

QUICKLY = ("--without-mingle", "--without-gossip")
"""Options of a Celery worker that does not wait a second for other workers when it starts."""
HEADERS = {"task": ENTRY, "id": "injected", "lang": "py"}


class CeleryHarness(OnRedis):
    """Celery over one broker, with the records in a Redis. If the broker is Redis, both are the same server."""

    def __init__(self, broker: str, *, private: bool = False) -> None:
        store = redis_server(private=private)
        self.server = store if broker == "redis" else rabbitmq_server(private=private)
        url = self.server.url.replace(
            "guest:guest@", ""
        )  # user and password are equal, and tests search for the password
        super().__init__(f"celery+{url}", store)
        self.title = f"celery ({broker}) + redis"
        self.broker = Broker(self.server.url, self.namespace)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "QUEUEPORT_TASKS": f"{tasks.__name__},{hard_tasks.__name__}"}

    def native_command(self, queues: Sequence[str], *options: str) -> Sequence[str]:
        names = ",".join(self.broker.names.native(queue) for queue in queues)
        command = [sys.executable, "-m", "celery", "-A", "queueport_celery.worker", "worker", "-Q", names]
        return [*command, "-c", "2", *QUICKLY, *options]

    def restart_backend(self) -> None:
        self.server.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self.server.paused()

    def wipe(self, queue: str) -> None:
        self.broker.purge(self.broker.names.native(queue))

    def inject(self, queue: str, body: bytes) -> None:
        """Send JSON as the argument of a Celery message, and other bytes as they are."""
        try:
            json.loads(body)
        except (ValueError, RecursionError):  # RecursionError: it is nested too deeply
            message = body
        else:
            message = b"[[%b],{},%b]" % (body, EMBED)
        self.broker.publish(OutgoingMessage(self.broker.names.native(queue), message, HEADERS, JSON))

    def clean(self) -> None:
        for namespace, queues in self.used().items():
            Broker(self.server.url, namespace).clean(*queues)
        super().clean()


class JoinedHarness(CeleryHarness):
    """An existing app, whose worker takes the app's own queue and queues of queueport."""

    def __init__(self, broker: str) -> None:
        super().__init__(broker)
        self.app = f"adapters.celery.tests.legacy_app:on_{broker}"
        self.url = f"celery://{self.app}?store={quote(self.store.url, safe='')}"
        self.own = f"{self.namespace}_own"

    def native_command(self, queues: Sequence[str], *options: str) -> Sequence[str]:
        names = ",".join([self.own, *(self.broker.names.native(queue) for queue in queues)])
        node = f"{uuid.uuid4().hex}@%h"  # RabbitMQ refuses two workers with the same name
        return [sys.executable, "-m", "celery", "-A", self.app, "worker", "-n", node, "-Q", names, "-c", "2", *options]

    def clean(self) -> None:
        super().clean()
        self.broker.delete(self.own)

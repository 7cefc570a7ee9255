"""Celery over real servers, for the contract and for this adapter's own tests: `worker` commands, ours and Celery's."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from urllib.parse import quote

from adapters.celery.tests.broker import Broker
from queueport.message import Message
from queueport.testing import Harness, hard_tasks, tasks
from queueport.testing.tasks import QUEUE, echo
from queueport_celery.envelope import EMBED, ENTRY, Parcel, parcel
from tests.servers import rabbitmq_server, redis_server
from tests.servers.harness import forget

__all__ = ["JSON", "CeleryHarness", "JoinedHarness"]

QUICKLY = ("--without-mingle", "--without-gossip")
"""A worker starts without a second's wait for the answers of others."""
HEADERS = {"task": ENTRY, "id": "injected", "lang": "py"}
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}


class CeleryHarness(Harness):
    """One broker, with the records in a Redis: the same server where that is the broker."""

    def __init__(self, broker: str, *, private: bool = False) -> None:
        self.store = redis_server(private=private)
        self.server = self.store if broker == "redis" else rabbitmq_server(private=private)
        url = self.server.url.replace("guest:guest@", "")  # a name that is the password, too, cannot be searched for
        super().__init__(f"celery+{url}?store={quote(self.store.url, safe='')}")
        self.title = f"celery ({broker}) + redis"
        self.broker = Broker(self.server.url, self.namespace)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "QUEUEPORT_TASKS": f"{tasks.__name__},{hard_tasks.__name__}"}

    def native_command(self, queues: Sequence[str], *options: str) -> Sequence[str]:
        names = ",".join(self.broker.names.work(queue) for queue in queues)
        command = [sys.executable, "-m", "celery", "-A", "queueport_celery.worker", "worker", "-Q", names]
        return [*command, "-c", "2", *QUICKLY, *options]

    def restart_backend(self) -> None:
        self.server.restart()

    def restart_store(self) -> None:
        self.store.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self.server.paused()

    def store_down(self) -> AbstractContextManager[None]:
        return self.store.paused()

    def wipe(self, queue: str) -> None:
        self.broker.purge(self.broker.names.work(queue))

    def inject(self, queue: str, body: bytes) -> None:
        """As the envelope that it may be; what is no JSON at all cannot be one."""
        try:
            json.loads(body)
        except ValueError:
            message = body
        else:
            message = b"[[%b],{},%b]" % (body, EMBED)
        self.broker.publish(Parcel(self.broker.names.work(queue), message, HEADERS, JSON))

    def redeliver(self, job_id: str) -> None:
        record = self.open().operations.store.get([job_id])[0]
        gone = {"v": 1, "id": job_id, "task": echo.name, "queue": QUEUE, "life": 1, "sent_at": 0.0}
        if record is None:
            self.inject(QUEUE, json.dumps(gone).encode())
        else:
            self.broker.publish(parcel(Message.of(record, 0.0), self.broker.names))

    def clean(self) -> None:
        for namespace, queues in self.used().items():
            Broker(self.server.url, namespace).clean(*queues)
        forget(self.store, self.namespace)


class JoinedHarness(CeleryHarness):
    """An app that existed before queueport; its worker takes its own queue and one of queueport's."""

    def __init__(self, broker: str) -> None:
        super().__init__(broker)
        self.app = f"adapters.celery.tests.legacy_app:on_{broker}"
        self.url = f"celery://{self.app}?store={quote(self.store.url, safe='')}"
        self.own = f"{self.namespace}_own"

    def native_command(self, queues: Sequence[str], *options: str) -> Sequence[str]:
        names = ",".join([self.own, *(self.broker.names.work(queue) for queue in queues)])
        node = f"{uuid.uuid4().hex}@%h"  # RabbitMQ lets no second worker of one name in
        return [sys.executable, "-m", "celery", "-A", self.app, "worker", "-n", node, "-Q", names, "-c", "2", *options]

    def clean(self) -> None:
        super().clean()
        self.broker.delete(self.own)

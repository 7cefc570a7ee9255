"""What the tests of this adapter can do to RQ, and to its workers. For the contract and for the adapter's own tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from urllib.parse import quote

import pytest

from adapters.rq.tests.rq_server import RQ
from queueport.message import Message
from queueport.testing import Harness
from queueport.testing.case import Case
from queueport.testing.tasks import QUEUE, echo
from tests.servers import redis_server


class RQHarness(Harness):
    """RQ on a Redis that keeps the records too. A `private` one may be stopped."""

    title = "rq + redis"

    def __init__(self, *, private: bool, store: str | None = None) -> None:
        self.server = redis_server(private=private)
        super().__init__(f"rq+{self.server.url}" + ("" if store is None else f"?store={quote(store, safe='')}"))
        self.rq = RQ(self.server.url, self.namespace)

    def native_command(self, queues: Sequence[str]) -> Sequence[str] | None:
        names = [f"{self.namespace}.{name}" for name in queues]
        worker = ["-w", "queueport_rq.worker.QueueportWorker", "-S", "json", "-u", self.server.url]
        return [sys.executable, "-m", "rq.cli", "worker", *worker, *names]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "QUEUEPORT_TASKS": "queueport.testing.tasks,queueport.testing.hard_tasks"}

    def restart_backend(self) -> None:
        self.server.restart()

    def restart_store(self) -> None:
        self.server.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self.server.paused()

    def store_down(self) -> AbstractContextManager[None]:
        return self.server.paused()

    def wipe(self, queue: str) -> None:
        self.rq.lose(queue)

    def inject(self, queue: str, body: bytes) -> None:
        self.rq.put(queue, body.decode(errors="replace"))

    def redeliver(self, job_id: str) -> None:
        gone = {"v": 1, "id": job_id, "task": echo.name, "queue": QUEUE, "life": 1, "sent_at": 0.0}
        record = self.open().operations.store.get([job_id])[0]
        self.inject(QUEUE, json.dumps(gone).encode() if record is None else Message.of(record, 0.0).body)

    def native_dead(self) -> Sequence[str]:
        return self.rq.dead(QUEUE)

    def redrive(self, job_id: str) -> None:
        self.rq.requeue(QUEUE, job_id)

    def clean(self) -> None:
        self.rq.clean()


class RQCase(Case):
    """Tests of RQ alone, beside the contract's: they take `harness`, `queue` and `trace`."""

    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> RQHarness:
        """One for this test, with a server of its own where the test stops it."""
        return RQHarness(private=getattr(request.function, "disrupts", False))

"""The harness for RQ: how tests reach its server and start its workers. For all tests of this adapter."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from urllib.parse import quote

import pytest

from adapters.rq.tests.rq_server import RQ
from queueport.testing import Harness
from queueport.testing.contract.case import Case
from queueport.testing.tasks import QUEUE
from tests.servers import redis_server


class RQHarness(Harness):
    """RQ on a Redis, which also keeps the records if `store` is None. Tests may stop a `private` Redis."""

    title = "rq + redis"

    def __init__(self, *, private: bool, store: str | None = None) -> None:
        self.server = redis_server(private=private)
        super().__init__(f"rq+{self.server.url}" + ("" if store is None else f"?store={quote(store, safe='')}"))
        self.rq = RQ(self.server.url, self.namespace)

    def native_command(self, queues: Sequence[str]) -> Sequence[str]:
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

    def native_dead(self) -> Sequence[str]:
        return self.rq.dead(QUEUE)

    def redrive(self, job_id: str) -> None:
        self.rq.requeue(QUEUE, job_id)

    def clean(self) -> None:
        self.rq.clean()


class RQCase(Case):
    """The base of test classes that are not in the contract. It gives them `harness`, `queue` and `trace`."""

    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> RQHarness:
        """A harness for this test, with a private server if the test stops the server."""
        return RQHarness(private=getattr(request.function, "disrupts", False))

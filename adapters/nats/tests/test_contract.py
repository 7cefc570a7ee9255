"""Runs the whole contract suite of `queueport.testing` on NATS JetStream."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest
from nats.js.errors import NotFoundError

from adapters.nats.tests.jetstream import JetStream
from queueport.testing import Contract, Harness
from queueport.testing.redis_store import OnRedis
from queueport.testing.tasks import QUEUE
from tests.servers import nats_server, redis_server


class NatsHarness(OnRedis):
    """A NATS, with the records in a Redis. Tests may stop `private` servers."""

    title = "nats + redis"

    def __init__(self, *, private: bool) -> None:
        self._server = nats_server(private=private)
        super().__init__(self._server.url, redis_server(private=private))
        self._jetstream = JetStream(self._server.url, self.namespace)

    def restart_backend(self) -> None:
        self._server.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self._server.paused()

    def wipe(self, queue: str) -> None:
        self._jetstream.purge(self._jetstream.work(queue))

    def inject(self, queue: str, body: bytes) -> None:
        self._jetstream.publish(f"jobs.{queue}", body)

    def native_dead(self) -> Sequence[str]:
        return [subject.split(".")[2] for subject in self._dead_subjects() if subject.startswith("dead.")]

    def redrive(self, job_id: str) -> None:
        (subject,) = [subject for subject in self._dead_subjects() if f".{job_id}." in subject]
        self._jetstream.move(subject, f"jobs.{QUEUE}")

    def clean(self) -> None:
        self._jetstream.clean()
        super().clean()

    def _dead_subjects(self) -> Sequence[str]:
        try:
            return list(self._jetstream.subjects(self._jetstream.dead))
        except NotFoundError:  # the stream does not exist before a job is dead
            return []


class TestNats(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return NatsHarness(private=getattr(request.function, "disrupts", False))

"""Runs the contract suite of `queueport.testing` against a real Name server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import pytest

from queueport.testing import Contract, Harness
from queueport.testing.redis_store import OnRedis, redis_server
from queueport.testing.servers import PrivateServer, free_port, private_folder, running, started


class NameServer(PrivateServer):
    """A server that only this test process uses, so that tests may stop it."""

    def __init__(self) -> None:
        port, folder = free_port(), private_folder("NAME")
        super().__init__(f"SCHEME://127.0.0.1:{port}", port, folder)

    def command(self) -> Sequence[str]:
        return THE COMMAND THAT STARTS NAME ON self.port, WITH ITS DATA IN self.folder


class NameHarness(OnRedis):
    """How the tests reach and disturb Name; `queueport.testing.harness` says what each method must do.

    The records are in a Redis. For a driver, add `native_command`: the command of the framework's own worker. Without
    NATIVE_DEAD_LETTERS, delete `native_dead` and `redrive`.
    """

    def __init__(self, *, private: bool) -> None:
        shared = None if private else running("QUEUEPORT_TEST_NAME_URL", "SCHEME://127.0.0.1:STANDARD-PORT")
        self.server = shared or started(NameServer)
        super().__init__(self.server.url, redis_server(private=private))

    def restart_backend(self) -> None:
        self.server.restart()

    def sends_down(self) -> AbstractContextManager[None]:
        return self.server.paused()

    def wipe(self, queue: str) -> None:
        DELETE THE MESSAGES OF THE QUEUE WITH NAME'S OWN CLIENT

    def inject(self, queue: str, body: bytes) -> None:
        SEND THESE BYTES AS A MESSAGE WITH NAME'S OWN CLIENT

    def native_dead(self) -> Sequence[str]:
        return THE JOB IDS IN NAME'S OWN DEAD LETTERS

    def redrive(self, job_id: str) -> None:
        MOVE THE DEAD-LETTER COPY BACK TO ITS QUEUE WITH NAME'S OWN CLIENT

    def clean(self) -> None:
        DELETE THE QUEUES OF self.used() WITH NAME'S OWN CLIENT
        super().clean()


class TestName(Contract):
    """All contract lines that the capabilities of Name require."""

    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return NameHarness(private=getattr(request.function, "disrupts", False))

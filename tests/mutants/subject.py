"""The contract suite on the mutant that the environment names: BROKEN=sqlite:a_delay_is_ignored. For `test_mutants`."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from queueport.testing import Contract, Harness
from tests.contract.test_memory import MemoryHarness
from tests.contract.test_spool import SpoolHarness
from tests.contract.test_sqlite import SqliteHarness
from tests.mutants.wire import Broker, broker

BACKEND, MUTANT = os.environ["BROKEN"].split(":")


class WireHarness(MemoryHarness):
    """Changes the broker directly, because the broker is in this process."""

    def wipe(self, queue: str) -> None:
        with self._broker.changed:
            self._broker.waiting[queue].clear()

    def inject(self, queue: str, body: bytes) -> None:
        self._broker.put(queue, body)

    def redeliver(self, job_id: str) -> None:
        message = self._broker.sent.get(job_id)
        self.inject("default", b"{}" if message is None else message)

    def native_dead(self) -> Sequence[str]:
        return list(self._broker.dead)

    def redrive(self, job_id: str) -> None:
        message = self._broker.dead.pop(job_id)
        self.inject(message.queue, message.body)

    @contextmanager
    def sends_down(self) -> Iterator[None]:
        self._broker.down = True
        try:
            yield
        finally:
            self._broker.down = False

    @property
    def _broker(self) -> Broker:
        return broker(self.url, self.namespace)


HARNESSES: dict[str, Callable[[Path], Harness]] = {
    "memory": lambda folder: MemoryHarness(f"memory://{uuid.uuid4().hex}"),
    "sqlite": lambda folder: SqliteHarness(folder / "jobs.db"),
    "wire": lambda folder: WireHarness(f"wire://{uuid.uuid4().hex}"),
    "spool": SpoolHarness,
}


class TestMutant(Contract):
    @pytest.fixture
    def harness(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
        harness = HARNESSES[BACKEND](tmp_path)
        harness.url = f"broken-{harness.url}{'&' if '?' in harness.url else '?'}mutant={MUTANT}"
        environment = {**harness.environment(), "PYTHONPATH": os.environ["PYTHONPATH"]}
        monkeypatch.setattr(harness, "environment", lambda: environment)
        return harness

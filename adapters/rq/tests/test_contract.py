"""RQ keeps the contract: the whole suite of `queueport.testing` in one Redis, and what is lost beside another store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from adapters.rq.tests.rq_harness import RQHarness
from queueport.testing import Contract, Harness
from queueport.testing.losses import Losses
from queueport.testing.refusing import Refusing
from queueport.testing.report import REPORT


class TestRQ(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return RQHarness(private=getattr(request.function, "disrupts", False))


class BesideItsStore(RQHarness):
    """The records are elsewhere: RQ's Redis may hang while the store answers."""

    def __init__(self, folder: Path, *, private: bool) -> None:
        super().__init__(private=private, store=f"sqlite:///{folder}/jobs.db")
        self._file = folder / "jobs.db"

    def restart_store(self) -> None:
        """An SQLite file has no process that could be restarted."""

    def sends_down(self) -> AbstractContextManager[None]:
        return self.server.paused()

    @contextmanager
    def store_down(self) -> Iterator[None]:
        """Somebody keeps the file to himself."""
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()


class TestBesideItsStore(Refusing, Losses):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
        monkeypatch.delenv(REPORT, raising=False)  # this is not the whole contract
        return BesideItsStore(tmp_path, private=getattr(request.function, "disrupts", False))

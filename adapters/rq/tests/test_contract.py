"""Runs the whole contract suite of `queueport.testing` on RQ, and some of its tests with a separate store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from adapters.rq.tests.rq_harness import RQHarness
from queueport.testing import Contract, Harness
from queueport.testing.contract.crash import LossTests
from queueport.testing.contract.enqueue import RefusalTests
from queueport.testing.contract.report import REPORT


class TestRQ(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return RQHarness(private=getattr(request.function, "disrupts", False))


class SeparateStoreHarness(RQHarness):
    """Keeps the records in SQLite, so that RQ's Redis can hang while the store answers."""

    def __init__(self, folder: Path, *, private: bool) -> None:
        super().__init__(private=private, store=f"sqlite:///{folder}/jobs.db")
        self._file = folder / "jobs.db"

    def restart_store(self) -> None:
        """Do nothing, because SQLite has no process that could be restarted."""

    def sends_down(self) -> AbstractContextManager[None]:
        return self.server.paused()

    @contextmanager
    def store_down(self) -> Iterator[None]:
        """Lock the SQLite file over another connection."""
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()


class TestWithSeparateStore(RefusalTests, LossTests):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
        monkeypatch.delenv(REPORT, raising=False)  # only a run of the whole contract may write a report
        return SeparateStoreHarness(tmp_path, private=getattr(request.function, "disrupts", False))

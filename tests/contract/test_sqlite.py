"""The SQLite backend passes the contract suite, with worker processes that share a file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from queueport.testing import Contract, tasks
from tests.contract.stored import StoredHarness


class SqliteHarness(StoredHarness):
    """Simulates an outage of the backend: another connection holds an exclusive lock on the file."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self.path = path

    def restart_backend(self) -> None:
        """Lock the file for a second, because SQLite has no server."""
        with self.sends_down():
            time.sleep(1.0)

    restart_store = restart_backend

    def inject(self, queue: str, body: bytes) -> None:
        """Pass the body to a runner. Also enqueue a job and write the body into its row, which damages the row."""
        super().inject(queue, body)
        damaged = self.open().enqueue(tasks.echo.using(queue=queue), "in a damaged row")
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(f'UPDATE "{self.namespace}_jobs" SET errors = ? WHERE id = ?', (body, damaged.id))

    @contextmanager
    def sends_down(self) -> Iterator[None]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()

    store_down = sends_down


class TestSqlite(Contract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SqliteHarness:
        return SqliteHarness(tmp_path / "jobs.db")

"""The SQLite store under the suite of all stores."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from queueport.stores.sqlite import SqliteStore
from queueport.stores.sqlite_schema import named
from queueport.testing.stores import ClaimingSuite, SharedSuite, StoreHarness


@dataclass
class Harness(StoreHarness):
    path: Path

    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> SqliteStore:
        store = partial(SqliteStore, self.path, namespace=namespace, call_timeout=30.0)
        return store() if clock is None else store(clock=clock)

    def damage(self, namespace: str, job_id: str, field: str, value: Any) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            db.execute(named(f'UPDATE @jobs SET "{field}" = ? WHERE id = ?', namespace), (value, job_id))


class TestSqliteStore(SharedSuite, ClaimingSuite):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return Harness(tmp_path / "jobs.db")

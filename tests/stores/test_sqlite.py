"""The SQLite store passes the store suite."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from queueport.stores.sqlite.schema import named
from queueport.stores.sqlite.store import SqliteStore
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

    def damage_document(self, namespace: str, kind: str, name: str, text: str) -> None:
        with closing(sqlite3.connect(self.path)) as db, db:
            update = named("UPDATE @documents SET value = ? WHERE kind = ? AND name = ?", namespace)
            db.execute(update, (text, kind, name))


@pytest.mark.timeout(600)  # the random calls take seconds on an idle machine and minutes on a busy one
class TestSqliteStore(SharedSuite, ClaimingSuite):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> StoreHarness:
        return Harness(tmp_path / "jobs.db")

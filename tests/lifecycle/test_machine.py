"""The promises of DESIGN under fire, on the built-in stores: behind a broker that carries messages, and as queues."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from queueport.store import JobStore
from queueport.stores.memory import MemoryStore
from queueport.stores.sqlite import SqliteStore
from queueport.testing.machine import LifecycleMachine


def examples(number: int) -> settings:
    """So many examples of 30 steps, none kept from one run to the next."""
    return settings(
        max_examples=number,
        stateful_step_count=30,
        deadline=None,  # what counts is the number of examples, not how fast a busy machine runs one
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


class Memory(LifecycleMachine):
    def make_store(self, clock: Callable[[], float]) -> JobStore:
        return MemoryStore(clock=clock)


class MemoryWithoutDeadLetters(Memory):
    buries = False


class MemoryAsQueue(Memory):
    carries = False


class Sqlite(LifecycleMachine):
    def make_store(self, clock: Callable[[], float]) -> JobStore:
        self.folder = tempfile.TemporaryDirectory()
        return SqliteStore(Path(self.folder.name, "jobs.db"), clock=clock)

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


class SqliteAsQueue(Sqlite):
    carries = False


TestMemory = Memory.TestCase
TestMemoryWithoutDeadLetters = MemoryWithoutDeadLetters.TestCase
TestMemoryAsQueue = MemoryAsQueue.TestCase
TestSqlite = Sqlite.TestCase
TestSqliteAsQueue = SqliteAsQueue.TestCase
TestMemory.settings = examples(1000)
TestMemoryWithoutDeadLetters.settings = examples(300)
TestMemoryAsQueue.settings = examples(1000)
TestSqlite.settings = examples(150)
TestSqliteAsQueue.settings = examples(150)
pytestmark = pytest.mark.timeout(600)

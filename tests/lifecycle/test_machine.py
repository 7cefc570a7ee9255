"""The fault search on the built-in stores, with a broker that carries messages and with the store as the queue."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from queueport.spi.store import JobStore
from queueport.stores.memory.store import MemoryStore
from queueport.stores.sqlite.store import SqliteStore
from queueport.testing.machine import FollowUpMachine, LifecycleMachine, LimitMachine, ScheduleMachine


def examples(number: int) -> settings:
    """Settings for this number of examples of 30 steps each. No example is kept for the next run."""
    return settings(
        max_examples=number,
        stateful_step_count=30,
        deadline=None,  # one example may take long on a busy machine
        database=None,
        phases=set(Phase) - {Phase.explain},  # it traces, which hangs on Python 3.11 while a thread is interrupted
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
        try:
            super().teardown()
        finally:  # also if a promise is broken, or the folder's ResourceWarning would make a later test fail
            self.folder.cleanup()


class SqliteAsQueue(Sqlite):
    carries = False


class MemoryWithLimits(LimitMachine, Memory):
    pass


class MemoryAsQueueWithLimits(LimitMachine, MemoryAsQueue):
    pass


class SqliteAsQueueWithLimits(LimitMachine, SqliteAsQueue):
    pass


class MemoryWithFollowUps(FollowUpMachine, Memory):
    pass


class MemoryAsQueueWithFollowUps(FollowUpMachine, MemoryAsQueue):
    pass


class SqliteWithFollowUps(FollowUpMachine, Sqlite):
    pass


class MemoryWithSchedules(ScheduleMachine, Memory):
    pass


class SqliteAsQueueWithSchedules(ScheduleMachine, SqliteAsQueue):
    pass


TestMemory = Memory.TestCase
TestMemoryWithoutDeadLetters = MemoryWithoutDeadLetters.TestCase
TestMemoryAsQueue = MemoryAsQueue.TestCase
TestSqlite = Sqlite.TestCase
TestSqliteAsQueue = SqliteAsQueue.TestCase
TestMemoryWithLimits = MemoryWithLimits.TestCase
TestMemoryAsQueueWithLimits = MemoryAsQueueWithLimits.TestCase
TestSqliteAsQueueWithLimits = SqliteAsQueueWithLimits.TestCase
TestMemoryWithFollowUps = MemoryWithFollowUps.TestCase
TestMemoryAsQueueWithFollowUps = MemoryAsQueueWithFollowUps.TestCase
TestSqliteWithFollowUps = SqliteWithFollowUps.TestCase
TestMemoryWithSchedules = MemoryWithSchedules.TestCase
TestSqliteAsQueueWithSchedules = SqliteAsQueueWithSchedules.TestCase
TestMemory.settings = examples(1000)
TestMemoryWithoutDeadLetters.settings = examples(300)
TestMemoryAsQueue.settings = examples(1000)
TestSqlite.settings = examples(150)
TestSqliteAsQueue.settings = examples(150)
TestMemoryWithLimits.settings = examples(300)
TestMemoryAsQueueWithLimits.settings = examples(200)
TestSqliteAsQueueWithLimits.settings = examples(40)
TestMemoryWithFollowUps.settings = examples(300)
TestMemoryAsQueueWithFollowUps.settings = examples(200)
TestSqliteWithFollowUps.settings = examples(40)
TestMemoryWithSchedules.settings = examples(200)
TestSqliteAsQueueWithSchedules.settings = examples(40)
pytestmark = pytest.mark.timeout(600)

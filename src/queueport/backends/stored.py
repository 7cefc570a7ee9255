"""A backend out of any store that can claim: the record is the message, so nothing is published and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from queueport import pool
from queueport.attempt import Attempt
from queueport.capability import Capability
from queueport.driver import Depth, Driver, Sent, Work
from queueport.errors import ConfigurationError
from queueport.message import Message
from queueport.runner import Runner
from queueport.status import JobState
from queueport.store import ClaimingStore, JobStore
from queueport.url import BackendURL

if TYPE_CHECKING:
    from queueport.settings import Settings

__all__ = ["StoreDriver"]

UNKNOWN_EVERY = 1.0
"""Seconds between two looks of an idle worker for jobs whose task nobody knows."""


class StoreDriver(Driver):
    """Takes jobs straight from its store. Subclasses name themselves and say what survives."""

    carries: ClassVar[bool] = False
    capabilities: frozenset[Capability] = frozenset({Capability.PRIORITY, Capability.DEPTH, Capability.THREADS})

    def __init__(self, store: ClaimingStore) -> None:
        self._store = store

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        """A driver over the store of the same URL."""
        if not isinstance(store, ClaimingStore):
            raise ConfigurationError(f"{cls.name} keeps its own records: leave out store=")
        return cls(store)

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """The URL itself: the store is the queue."""
        return url.full

    def publish(self, messages: Sequence[Message]) -> Sequence[Sent]:
        """Never called: there is nothing to publish."""
        raise AssertionError("a record is the message here")

    def work(self, runner: Runner, work: Work) -> None:
        """Take for free slots, run."""
        pool.run(_Claims(self._store, runner), runner, work)

    def depth(self, queue: str) -> Depth | None:
        """The store's own count."""
        counts = self._store.stats().queues.get(queue)
        return Depth(0, 0) if counts is None else Depth(counts.states.get(JobState.QUEUED, 0), 0)

    def check(self) -> Sequence[str]:
        """The store is checked as the store."""
        return ()

    @property
    def native(self) -> Any:
        """The store."""
        return self._store


class _Claims(pool.Intake):
    """What a pool runs, taken from the store."""

    filters = True

    def __init__(self, store: ClaimingStore, runner: Runner) -> None:
        self._store = store
        self._runner = runner
        self._looked_at = time.monotonic()

    def next(self, tasks: Sequence[str], limit: int, wait: float) -> Sequence[Attempt]:
        attempts = self._runner.take(tasks, limit)
        if not attempts:
            if time.monotonic() - self._looked_at > UNKNOWN_EVERY:
                self._looked_at = time.monotonic()
                self._runner.notice_unknown()
            if wait > 0:
                self._store.wait_for_work(self._runner.queues, wait)
        return attempts

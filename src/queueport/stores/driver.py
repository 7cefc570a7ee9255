"""The memory and SQLite backends, whose store is the queue. For `get_queue`, and for authors of claiming stores.

There are no messages: workers take records from the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from queueport.capability import Capability
from queueport.errors import ConfigurationError
from queueport.spi.driver import Driver
from queueport.spi.message import Depth, Message, SendResult
from queueport.spi.runner import JobRunner
from queueport.spi.store import ClaimingStore, JobStore
from queueport.spi.url import BackendURL
from queueport.status import JobState

if TYPE_CHECKING:
    from queueport.spi.settings import Settings

__all__ = ["MemoryDriver", "SqliteDriver", "StoreDriver"]


class StoreDriver(Driver):
    """The driver of any `ClaimingStore`. A subclass sets `name`, and adds PERSISTENT if jobs outlive their process."""

    carries: ClassVar[bool] = False
    capabilities: frozenset[Capability] = frozenset({Capability.PRIORITY, Capability.DEPTH, Capability.THREADS})

    def __init__(self, store: ClaimingStore) -> None:
        self._store = store

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        if not isinstance(store, ClaimingStore):
            raise ConfigurationError(f"{cls.name} keeps its own records: leave out the job store")
        return cls(store)

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """The URL itself, because the store is the queue."""
        return url.full

    def publish(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        """Never called, because there are no messages."""
        raise AssertionError("a store that is the queue publishes no messages")

    def work(self, runner: JobRunner) -> None:
        runner.pull(self._store)

    def depth(self, queue: str) -> Depth | None:
        """The number of queued jobs as `ready`, and 0 as `in_flight`, because there are no messages."""
        counts = self._store.stats().queues.get(queue)
        return Depth(0, 0) if counts is None else Depth(counts.states.get(JobState.QUEUED, 0), 0)

    def check(self) -> Sequence[str]:
        """No warnings: `JobQueue.check` checks the store itself."""
        return ()

    @property
    def native(self) -> Any:
        """The store."""
        return self._store


class MemoryDriver(StoreDriver):
    """`memory://`, for tests and first steps: workers run in threads of one process, and its end loses all jobs."""

    name = "memory"


class SqliteDriver(StoreDriver):
    """`sqlite:///FILE`: jobs outlive the process, and any process on the machine can run them."""

    name = "sqlite"
    capabilities: frozenset[Capability] = StoreDriver.capabilities | {Capability.PERSISTENT}

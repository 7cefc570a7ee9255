"""The suites: all parts that every store passes in one class, and one more for stores that processes share."""

from __future__ import annotations

from typing import ClassVar

from queueport.store import ClaimingStore, JobStore
from queueport.testing.stores.counting import Counts, Workers
from queueport.testing.stores.dispatching import Dispatches
from queueport.testing.stores.machine import Machine
from queueport.testing.stores.reading import Finds, Waits
from queueport.testing.stores.sharing import Damage, Processes, Threads
from queueport.testing.stores.writing import Keys, Writes

__all__ = ["SharedSuite", "StoreSuite"]


class StoreSuite(Machine, Threads, Workers, Counts, Dispatches, Waits, Finds, Keys, Writes):
    """What every store must do. A subclass has a fixture `harness`. pytest runs the last of the parts first."""

    shared: ClassVar[bool] = False
    claims: ClassVar[bool] = False

    def test_the_suites_are_those_that_the_store_needs(self, store: JobStore) -> None:
        assert self.shared == store.shared, "a store that processes share is tested by SharedSuite"
        assert self.claims == isinstance(store, ClaimingStore), "a ClaimingStore is tested by ClaimingSuite"


class SharedSuite(Damage, Processes, StoreSuite):
    """What a store must do whose records other processes see, and which therefore writes them down."""

    shared = True

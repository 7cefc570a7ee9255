"""`StoreSuite`, the tests for every store, and `SharedSuite`, the tests for stores that several processes use."""

from __future__ import annotations

from typing import ClassVar

from queueport.spi.store import ClaimingStore, JobStore
from queueport.testing.stores.counting import StatsTests, WorkerTests
from queueport.testing.stores.dispatching import DispatcherTests
from queueport.testing.stores.documents import DocumentTests
from queueport.testing.stores.history import HistoryTests
from queueport.testing.stores.limiting import LimitTests
from queueport.testing.stores.machine import RandomTests
from queueport.testing.stores.reading import FindTests, WaitTests
from queueport.testing.stores.sharing import DamageTests, ProcessTests, ThreadTests
from queueport.testing.stores.writing import KeptKeyTests, KeyTests, ReleaseTests, ReplaceTests, WriteTests

__all__ = ["SharedSuite", "StoreSuite"]


class StoreSuite(
    RandomTests,
    ThreadTests,
    DocumentTests,
    LimitTests,
    WorkerTests,
    HistoryTests,
    StatsTests,
    DispatcherTests,
    WaitTests,
    FindTests,
    KeptKeyTests,
    ReleaseTests,
    ReplaceTests,
    KeyTests,
    WriteTests,
):
    """The tests for every store. To test a store, write a subclass that overrides the fixture `harness`.

    pytest runs the tests of the last base class first, so the tests of basic calls come first.
    """

    shared: ClassVar[bool] = False
    claims: ClassVar[bool] = False

    def test_the_test_class_inherits_the_suites_for_this_store(self, store: JobStore) -> None:
        assert self.shared == store.shared, "use SharedSuite if and only if the store declares `shared`"
        assert self.claims == isinstance(store, ClaimingStore), (
            "use ClaimingSuite if and only if the store is a ClaimingStore"
        )


class SharedSuite(DamageTests, ProcessTests, StoreSuite):
    """The tests of `StoreSuite`, and additional tests for a store whose records several processes read and write."""

    shared = True

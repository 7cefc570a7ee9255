"""The memory store: the store suite, and tests of its URLs and of forks."""

import os
import threading
from collections.abc import Callable
from uuid import uuid4

import pytest

from queueport.errors import ConfigurationError
from queueport.spi.store import JobStore, Query
from queueport.spi.url import BackendURL
from queueport.stores.memory.store import MemoryStore
from queueport.testing.stores import ClaimingSuite, StoreHarness
from queueport.testing.stores.harness import put


class Harness(StoreHarness):
    def __init__(self) -> None:
        self.name = uuid4().hex

    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> MemoryStore:
        named = opened(f"memory://{self.name}", namespace)
        return named if clock is None else MemoryStore(named.records, clock=clock)


class TestMemoryStore(ClaimingSuite):
    @pytest.fixture
    def harness(self) -> StoreHarness:
        return Harness()


def opened(url: str, namespace: str = "queueport") -> MemoryStore:
    return MemoryStore.open(BackendURL.parse(url), namespace=namespace, call_timeout=5.0)


def test_stores_with_the_same_name_share_their_records() -> None:
    name = uuid4().hex
    put(opened(f"memory://{name}"), "a")
    assert [record.id for record in opened(f"memory://{name}").find(Query())] == ["a"]
    assert list(opened(f"memory://{name}", "another").find(Query())) == []


def test_stores_without_a_name_share_nothing() -> None:
    put(opened("memory://"), "a")
    assert list(opened("memory://").find(Query())) == []


@pytest.mark.parametrize("url", ["memory:///path", "memory://a/b", "memory://user@host"])
def test_a_url_with_more_than_a_name_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write 'memory://', or 'memory://NAME' with"):
        opened(url)


def test_an_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no option 'synchronous'"):
        opened("memory://?synchronous=full")


def test_a_forked_child_has_a_copy_that_works_even_if_a_thread_wrote_during_the_fork() -> None:
    store = MemoryStore()
    put(store, "before")
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            put(store)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                try:
                    put(store, "child")
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()
    assert store.get(["before", "child"])[1] is None


def test_a_store_without_a_faster_way_counts_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.spi.store.COUNTED", 4)
    store = Harness().open()
    for number in range(10):
        put(store, f"j{number}", payload=b'{"order":%d}' % (number % 2))
    for query, number, first in (
        (Query(), 10, 4),
        (Query(text='"order":1'), 5, 2),
        (Query(after="j2", limit=1), 10, 4),
    ):
        assert JobStore.count_within(store, query, 60.0) == (number, True)
        assert JobStore.count_within(store, query, 0.0) == (first, False)

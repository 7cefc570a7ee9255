"""`Batcher` makes one call for the items that several threads have at the same time, and answers each of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from queueport.testing.waiting import eventually
from queueport.workers.batcher import Batcher

THREADS = 4


class Handler:
    """Handles numbers. The first call with several threads takes until `go_on` is set."""

    def __init__(self) -> None:
        self.batches: list[Sequence[int]] = []
        self.threads: list[int] = []
        self.go_on = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(items)
        self.threads.append(threading.get_ident())
        if len(self.batches) == 1:
            assert self.go_on.wait(30)
        if 13 in items:
            raise ValueError("13")
        return [-item for item in items]


def test_items_that_come_during_a_call_are_handled_in_the_next_one_by_one_of_their_threads() -> None:
    handler = Handler()
    batcher = Batcher(handler)
    with ThreadPoolExecutor(THREADS) as pool:
        first = pool.submit(batcher.call, 1)
        eventually(lambda: handler.batches == [[1]])
        others = [pool.submit(batcher.call, number) for number in range(2, THREADS + 1)]
        eventually(lambda: len(batcher._waiting) == THREADS - 1)
        handler.go_on.set()
        assert first.result(30) == -1
        assert [each.result(30) for each in others] == [-number for number in range(2, THREADS + 1)]
        assert pool.submit(batcher.call, 9).result(30) == -9
    assert [len(batch) for batch in handler.batches] == [1, THREADS - 1, 1]
    assert handler.threads[0] != handler.threads[1], "the first thread must not wait for the items of others"


def test_an_error_reaches_each_thread_of_the_batch_and_no_other() -> None:
    handler = Handler()
    batcher = Batcher(handler)
    with ThreadPoolExecutor(THREADS) as pool:
        first = pool.submit(batcher.call, 1)
        eventually(lambda: handler.batches == [[1]])
        others = [pool.submit(batcher.call, number) for number in (13, 14)]
        eventually(lambda: len(batcher._waiting) == len(others))
        handler.go_on.set()
        assert first.result(30) == -1
        for each in others:
            with pytest.raises(ValueError, match="13"):
                each.result(30)
        assert pool.submit(batcher.call, 5).result(30) == -5

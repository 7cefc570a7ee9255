"""Count what a job costs: calls of Python functions, calls to the store, round trips to Redis, statements of SQLite.

Counts are the same on every machine, so a test can fail when a job becomes more expensive. Seconds are not.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from redis import Redis

from queueport import JobQueue, Task, get_queue, task
from queueport.spi.runner import Work
from queueport.spi.store import ClaimingStore, JobStore
from queueport.spi.transport import Transport
from queueport.workers.pool import StoreIntake, TransportIntake
from queueport.workers.runner import Runner

__all__ = [
    "Worker",
    "check_one_round_trip",
    "check_round_trips_to_run",
    "count_calls",
    "count_round_trips",
    "count_statements",
    "count_store_calls",
    "noop",
]


@task(name="costs.noop")
def noop(number: int) -> int:
    """Return the number."""
    return number


class Worker:
    """The steps of a worker with eight threads, all in the thread of the test."""

    def __init__(self, queue: JobQueue, tasks: list[Task[..., Any, Any]]) -> None:
        self._runner = Runner(queue.operations, tasks, Work(("default",), threads=8, grace=0.0), queue.shared)
        self._names = list(self._runner.tasks)
        store, driver = queue.operations.store, queue.driver
        self._intake: StoreIntake | TransportIntake
        if isinstance(driver, Transport):
            self._intake = TransportIntake(driver, self._runner)
        else:
            assert isinstance(store, ClaimingStore)
            self._intake = StoreIntake(store, self._runner)

    def run(self, count: int) -> None:
        """Run this number of jobs. The worker takes and records eight at a time."""
        while count > 0:
            ends = [self._runner.execute(attempt) for attempt in self._intake.next(self._names, 8, 5.0)]
            self._runner.finish_all(ends)
            count -= len(ends)


def count_calls(act: Callable[[], object]) -> int:
    """The number of calls of Python functions that `act` makes in this thread, without built-in functions."""
    calls = 0

    def called(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(called)
    try:
        act()
    finally:
        sys.setprofile(None)
    return calls


@contextmanager
def count_store_calls(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """The calls to each method of a store inside the block."""
    found: Counter[str] = Counter()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return method(*args, **kwargs)

        return call

    interface = ClaimingStore if isinstance(store, ClaimingStore) else JobStore
    with monkeypatch.context() as patch:
        for name in interface.__abstractmethods__ - {"open"}:
            patch.setattr(store, name, counted(name, getattr(store, name)))
        yield found


@contextmanager
def count_statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts the statements, by their first word, on the SQLite connections that are opened inside the block."""
    found: Counter[str] = Counter()
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_trace_callback(lambda statement: found.update([statement.split()[0].upper()]))
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        yield found


@contextmanager
def count_round_trips(url: str) -> Iterator[Callable[[], int]]:
    """Yields a function that returns how often a private Redis server has replied since the last call."""
    with Redis.from_url(url) as client:

        def replies() -> int:
            return int(client.info("stats")["total_writes_processed"])

        last = replies()

        def count() -> int:
            nonlocal last
            now = replies()
            found, last = now - last - 1, now  # without the reply to INFO itself
            return found

        yield count


def check_round_trips_to_run(url: str, most: float, *, threads: int = 8) -> None:
    """Check that a worker with that many threads needs at most `most` round trips for a job. `url` is as below.

    The count includes the calls of the dispatcher and of heartbeats, which depend on the time: about ten a second.
    """
    jobs = 300
    with get_queue(url, namespace="runs") as queue, count_round_trips(url.partition("+")[2]) as count:
        handles = queue.enqueue_many(noop.job(number) for number in range(jobs + 1))
        started = time.monotonic()
        with queue.worker(tasks=[noop], threads=threads):
            handles[0].result(30)
            count()
            for handle in handles[-2 * threads :]:
                handle.result(60)
        assert count() <= most * jobs + 12 * (time.monotonic() - started)


def check_one_round_trip(url: str) -> None:
    """Check that one job takes one round trip to enqueue, and so do a hundred jobs. `url` names a private Redis.

    Also checks the number of calls of Python functions: at most 150 for one job, and 60 for a job of a hundred.
    """
    address = url.partition("+")[2]
    with get_queue(url, namespace="costs") as queue, count_round_trips(address) as count:
        queue.enqueue(noop, 1)  # this call connects and loads the scripts
        queue.enqueue_many(noop.job(number) for number in range(2))
        count()
        queue.enqueue(noop, 2)
        assert count() == 1
        queue.enqueue_many(noop.job(number) for number in range(100))
        assert count() == 1
        jobs = [noop.job(number) for number in range(100)]
        assert count_calls(lambda: [queue.enqueue(noop, number) for number in range(100)]) <= 150 * 100
        assert count_calls(lambda: queue.enqueue_many(jobs)) <= 60 * 100

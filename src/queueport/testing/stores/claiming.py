"""`ClaimingSuite`: tests of take, unknown and wait_for_work, for stores that are also queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from queueport.engine.lifecycle import Lifecycle
from queueport.spi.record import RECORD_VERSION, Change
from queueport.spi.store import ClaimingStore
from queueport.status import JobState
from queueport.testing.stores.harness import LONG, RULES, TOKEN, Clock, StoreHarness, put, retrying, run, swap
from queueport.testing.stores.suite import StoreSuite

__all__ = ["ClaimingSuite"]


def begin(token: str = TOKEN) -> Change:
    """The change that a worker makes when it begins a job."""
    return Lifecycle(RULES).begin(token=token, worker="worker", defaults={"token": token})


def taken(store: ClaimingStore, *queues: str, tasks: tuple[str, ...] = ("app.send",), limit: int = 10) -> list[str]:
    """Take jobs of these queues and return their ids."""
    return [job.id for job in store.take(queues, dict.fromkeys(tasks, begin()), limit, "r")]


class ClaimingSuite(StoreSuite):
    """Additional tests for a ClaimingStore."""

    claims = True

    @pytest.fixture
    def store(self, harness: StoreHarness, clock: Clock) -> Iterator[ClaimingStore]:
        """The store under test, without records."""
        store = harness.open(clock=clock)
        assert isinstance(store, ClaimingStore)
        yield store
        store.close()

    def test_take_begins_the_jobs_that_it_returns(self, store: ClaimingStore, clock: Clock) -> None:
        put(store, "a")
        clock.advance(1)
        (job,) = store.take(["default"], {"app.send": begin()}, 10, "r1")
        assert (job.id, job.state, job.attempts, job.token, job.rev) == ("a", JobState.RUNNING, 1, TOKEN, "r1")
        assert (job.started_at, job.wake_at) == (clock.now, clock.now + RULES.lease)
        assert store.get(["a"]) == [job]
        assert taken(store, "default") == []

    def test_take_orders_jobs_by_priority_and_then_by_queued_at(self, store: ClaimingStore, clock: Clock) -> None:
        put(store, "a", queue="q1", priority=-1)
        for name, queue, priority in (("b", "q2", 0), ("c", "q1", 0), ("d", "q2", 5), ("e", "q1", 5)):
            put(store, name, queue=queue, priority=priority)
        clock.advance(-10)
        put(store, "f", queue="q2", priority=0, task="app.other")
        assert taken(store, "q1", "q2", tasks=("app.send", "app.other"), limit=4) == list("defb")
        assert taken(store, "q2", "q1", tasks=("app.send", "app.other")) == ["c", "a"]

    def test_a_job_that_is_queued_again_is_taken_last(self, store: ClaimingStore, clock: Clock) -> None:
        first = run(store, put(store, "a"))
        clock.advance(1)
        put(store, "b")
        clock.advance(1)
        swap(store, first, state=JobState.QUEUED, queued_at=clock.now)
        assert taken(store, "default") == ["b", "a"]

    def test_take_applies_the_change_of_each_task(self, store: ClaimingStore) -> None:
        put(store, task="one")
        put(store, task="two")
        put(store, task="three")
        jobs = store.take(["default"], {"one": begin("t1"), "two": begin("t2")}, 10, "r")
        assert [(job.task, job.token, job.defaults) for job in jobs] == [
            ("one", "t1", {"token": "t1"}),
            ("two", "t2", {"token": "t2"}),
        ]

    def test_take_returns_only_queued_jobs_of_the_given_queues_and_tasks(self, store: ClaimingStore) -> None:
        put(store, queue="another")
        put(store, task="another")
        put(store, delay=5.0)
        put(store, v=RECORD_VERSION + 1)
        run(store, put(store))
        retrying(store)
        swap(store, put(store), state=JobState.CANCELLED)
        swap(store, put(store, "unsent"), sent=False)
        swap(store, put(store, "unknown"), unknown_since=1.0)
        assert taken(store, "default", "default") == ["unsent", "unknown"]
        assert taken(store) == []
        assert taken(store, "default", "another", tasks=()) == []

    def test_take_leaves_expired_jobs_to_the_dispatcher(self, store: ClaimingStore, clock: Clock) -> None:
        late = put(store, expires=1.0)
        put(store, "later", expires=2.0)
        clock.advance(1)
        assert taken(store, "default", limit=1) == ["later"]
        assert [job.id for job in store.claim_due(10, 5.0, "r")] == [late.id]

    def test_unknown_returns_queued_jobs_of_other_tasks_without_unknown_since(self, store: ClaimingStore) -> None:
        put(store, "a", task="one")
        put(store, "b", task="two")
        put(store, "c", task="three", queue="q2")
        put(store, task="two", queue="q3")
        put(store, task="two", v=RECORD_VERSION + 1)
        run(store, put(store, task="two"))
        swap(store, put(store, task="two"), unknown_since=1.0)
        assert {job.id for job in store.unknown(["default", "q2"], ["one"], 10)} == {"b", "c"}
        assert len(store.unknown(["default", "q2"], [], 2)) == 2
        assert store.get(["b"]) == list(store.unknown(["default"], ["one"], 10))

    def test_wait_for_work_returns_when_a_job_was_queued_since_the_last_take(self, store: ClaimingStore) -> None:
        """The job may have been queued before the call of wait_for_work, or may be queued while it waits."""
        started = time.monotonic()
        assert taken(store, "default") == []
        put(store, "a")
        store.wait_for_work(["default"], LONG)
        assert taken(store, "default") == ["a"]
        scheduled = put(store, "b", delay=5.0)
        assert taken(store, "default") == []
        queueing = threading.Timer(0.05, swap, (store, scheduled), {"state": JobState.QUEUED, "wake_at": None})
        queueing.start()
        while not taken(store, "default") and time.monotonic() - started < LONG:
            store.wait_for_work(["default"], LONG)
        queueing.join()
        (job,) = store.get(["b"])
        assert job is not None
        assert job.state is JobState.RUNNING
        assert time.monotonic() - started < LONG / 2

    def test_wait_for_work_returns_when_its_time_is_over(self, store: ClaimingStore) -> None:
        started = time.monotonic()
        for _ in range(3):
            assert taken(store, "default") == []
            store.wait_for_work(["default"], 0.02)
        assert time.monotonic() - started < LONG

"""The part of the store suite about stores that are queues by themselves: take, unknown, wait_for_work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from queueport import lifecycle
from queueport.record import RECORD_VERSION, Change
from queueport.status import JobState
from queueport.store import ClaimingStore
from queueport.testing.stores.harness import RULES, TOKEN, Clock, StoreHarness, put, retrying, run, swap
from queueport.testing.stores.suite import StoreSuite

__all__ = ["ClaimingSuite"]

LONG = 20.0
"""Seconds that nobody is meant to wait."""


def begin(token: str = TOKEN) -> Change:
    """What a worker begins with."""
    return lifecycle.begin(RULES, token=token, worker="worker", defaults={"token": token})


def taken(store: ClaimingStore, *queues: str, tasks: tuple[str, ...] = ("app.send",), limit: int = 10) -> list[str]:
    """Ids of what is taken."""
    return [job.id for job in store.take(queues, dict.fromkeys(tasks, begin()), limit, "r")]


class ClaimingSuite(StoreSuite):
    """What a store must do that is a queue by itself."""

    claims = True

    @pytest.fixture
    def store(self, harness: StoreHarness, clock: Clock) -> Iterator[ClaimingStore]:
        """The store under test."""
        store = harness.open(clock=clock)
        assert isinstance(store, ClaimingStore)
        yield store
        store.close()

    def test_a_taken_job_is_begun(self, store: ClaimingStore, clock: Clock) -> None:
        put(store, "a")
        clock.advance(1)
        (job,) = store.take(["default"], {"app.send": begin()}, 10, "r1")
        assert (job.id, job.state, job.attempts, job.token, job.rev) == ("a", JobState.RUNNING, 1, TOKEN, "r1")
        assert (job.started_at, job.wake_at) == (clock.now, clock.now + RULES.lease)
        assert store.get(["a"]) == [job]
        assert taken(store, "default") == []

    def test_higher_priority_goes_first_then_whoever_was_queued_longer(
        self, store: ClaimingStore, clock: Clock
    ) -> None:
        put(store, "a", queue="q1", priority=-1)
        for name, queue, priority in (("b", "q2", 0), ("c", "q1", 0), ("d", "q2", 5), ("e", "q1", 5)):
            put(store, name, queue=queue, priority=priority)
        clock.advance(-10)
        put(store, "f", queue="q2", priority=0, task="app.other")
        assert taken(store, "q1", "q2", tasks=("app.send", "app.other"), limit=4) == list("defb")
        assert taken(store, "q2", "q1", tasks=("app.send", "app.other")) == ["c", "a"]

    def test_a_job_that_returns_to_its_queue_goes_to_the_end(self, store: ClaimingStore, clock: Clock) -> None:
        first = run(store, put(store, "a"))
        clock.advance(1)
        put(store, "b")
        clock.advance(1)
        swap(store, first, state=JobState.QUEUED, queued_at=clock.now)
        assert taken(store, "default") == ["b", "a"]

    def test_each_job_begins_with_the_change_of_its_task(self, store: ClaimingStore) -> None:
        put(store, task="one")
        put(store, task="two")
        put(store, task="three")
        jobs = store.take(["default"], {"one": begin("t1"), "two": begin("t2")}, 10, "r")
        assert [(job.task, job.token, job.defaults) for job in jobs] == [
            ("one", "t1", {"token": "t1"}),
            ("two", "t2", {"token": "t2"}),
        ]

    def test_only_queued_jobs_of_these_queues_and_tasks_are_taken(self, store: ClaimingStore) -> None:
        put(store, queue="another")
        put(store, task="another")
        put(store, delay=5.0)
        put(store, v=RECORD_VERSION + 1)
        run(store, put(store))
        retrying(store)
        swap(store, put(store), state=JobState.CANCELLED)
        swap(store, put(store, "unsent"), sent=False)
        swap(store, put(store, "noticed"), unknown_since=1.0)
        assert taken(store, "default", "default") == ["unsent", "noticed"]
        assert taken(store) == []
        assert taken(store, "default", "another", tasks=()) == []

    def test_expired_jobs_are_left_for_the_dispatcher(self, store: ClaimingStore, clock: Clock) -> None:
        late = put(store, expires=1.0)
        put(store, "later", expires=2.0)
        clock.advance(1)
        assert taken(store, "default", limit=1) == ["later"]
        assert [job.id for job in store.claim_due(10, 5.0, "r")] == [late.id]

    def test_unknown_are_queued_jobs_of_other_tasks_that_nobody_has_noticed(self, store: ClaimingStore) -> None:
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

    def test_waiting_for_work_ends_when_a_job_is_queued_since_the_last_look(self, store: ClaimingStore) -> None:
        """Also when it was queued before the wait began: nothing between take and wait_for_work is lost."""
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

    def test_waiting_for_work_ends_with_its_time(self, store: ClaimingStore) -> None:
        started = time.monotonic()
        for _ in range(3):
            assert taken(store, "default") == []
            store.wait_for_work(["default"], 0.02)
        assert time.monotonic() - started < LONG

"""The part of the store suite about stats, workers, the clock and the namespaces."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from queueport.record import Change
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import Insert, JobStore, Query, Swap
from queueport.testing.stores.harness import (
    START,
    Clock,
    StoreHarness,
    Tests,
    bare,
    dead,
    put,
    retrying,
    run,
    succeeded,
    swap,
)

__all__ = ["Counts", "Workers"]


def worker(name: str, *queues: str) -> WorkerStats:
    """A worker as it announces itself; the store puts in its own time."""
    heard = datetime.fromtimestamp(0.0, UTC)
    return WorkerStats(name, queues, ("app.send", "app.ü"), heard)


class Counts(Tests):
    def test_each_count_is_what_was_done(self, store: JobStore) -> None:
        assert store.stats().queues == {}
        for queue, times in (("q1", 1), ("q2", 2)):
            for _ in range(times):
                put(store, queue=queue)
                put(store, queue=queue, delay=5.0)
                run(store, put(store, queue=queue))
                retrying(store, queue=queue)
                succeeded(store, queue=queue)
                dead(store, queue=queue)
                swap(store, put(store, queue=queue), state=JobState.CANCELLED)
        queues = store.stats().queues
        assert {queue: dict(counts.states) for queue, counts in queues.items()} == {
            "q1": dict.fromkeys(JobState, 1),
            "q2": dict.fromkeys(JobState, 2),
        }

    def test_a_queue_once_used_stays_listed_with_zeros(self, store: JobStore) -> None:
        record = put(store, queue="once")
        store.swap([Swap(record.id, record.rev, Change(delete=True), "r")])
        counts = store.stats().queues["once"]
        assert dict(counts.states) == dict.fromkeys(JobState, 0)
        assert dict(counts.queued_by_priority) == {}
        assert counts.oldest_queued_at is None

    def test_queued_jobs_are_counted_by_priority(self, store: JobStore) -> None:
        for priority in (0, 5, 5, -10):
            put(store, queue="q", priority=priority, task=f"t{priority}")
        run(store, put(store, queue="q", priority=9))
        assert dict(store.stats().queues["q"].queued_by_priority) == {0: 1, 5: 2, -10: 1}

    def test_the_oldest_queued_job_is_told_by_queue(self, store: JobStore, clock: Clock) -> None:
        first = put(store, queue="q")
        clock.advance(5)
        put(store, queue="q", priority=9, task="another")
        put(store, queue="q", delay=1.0)
        assert store.stats().queues["q"].oldest_queued_at == START
        assert store.stats().now == clock.now
        run(store, first)
        assert store.stats().queues["q"].oldest_queued_at == START + 5

    def test_a_record_that_moves_to_another_queue_or_priority_is_counted_there(self, store: JobStore) -> None:
        record = swap(store, put(store, queue="q1"), queue="q2")
        swap(store, record, priority=3)
        queues = store.stats().queues
        assert [queues[name].states[JobState.QUEUED] for name in ("q1", "q2")] == [0, 1]
        assert dict(queues["q2"].queued_by_priority) == {3: 1}
        assert store.count(Query(queue="q1")) == 0

    def test_counters_grow_with_the_writes_that_were_applied_and_outlive_the_records(self, store: JobStore) -> None:
        change = Change({"state": JobState.DEAD}, processed=1, failed=2)
        (born_dead,) = store.insert([Insert(bare("a"), change, "r")])
        store.insert([Insert(bare("a"), change, "r")])
        record = put(store)
        swaps = [
            Swap(record.id, "stale", change, "r"),
            Swap(record.id, record.rev, change, "r2"),
            Swap("x", "r", change, "r"),
        ]
        store.swap(swaps)
        assert born_dead.record is not None
        store.swap([Swap(name, rev, Change(delete=True), "r") for name, rev in (("a", "r"), (record.id, "r2"))])
        stats = store.stats()
        assert (stats.processed, stats.failed) == (2, 4)
        assert store.count(Query()) == 0

    def test_the_clock_is_the_stores(self, store: JobStore, clock: Clock) -> None:
        assert store.now() == clock.now
        clock.advance(1.5)
        assert store.now() == START + 1.5

    def test_a_store_has_its_own_clock_which_is_about_right(self, harness: StoreHarness) -> None:
        import time  # not for waiting

        store = harness.open()
        assert abs(store.now() - time.time()) < 60
        store.close()

    def test_namespaces_never_see_each_other(self, store: JobStore, harness: StoreHarness, clock: Clock) -> None:
        others = [harness.open(name, clock) for name in ("Suite", "suite_", "s", "suite_jobs")]
        record = put(store, "a", key="k")
        store.announce(worker("w"), 10.0)
        for number, other in enumerate(others):
            assert other.get(["a"]) == [None]
            assert other.stats().queues == {}
            assert list(other.workers()) == []
            put(other, "a", key="k", life=number)
        assert store.get(["a"]) == [record]
        assert [job.life for other in others for job in other.find(Query())] == [0, 1, 2, 3]
        for other in others:
            other.close()

    def test_setup_and_close_may_be_repeated_and_check_finds_nothing_amiss(self, store: JobStore) -> None:
        store.setup()
        store.setup()
        record = put(store)
        assert list(store.check()) == []
        store.close()
        store.close()
        if store.shared:
            assert store.get([record.id]) == [record]


class Workers(Tests):
    def test_workers_are_listed_by_name_with_the_stores_time(self, store: JobStore, clock: Clock) -> None:
        store.announce(worker("b", "q1", "q2"), 10.0)
        clock.advance(1)
        store.announce(worker("a"), 10.0)
        heard = datetime.fromtimestamp(START, UTC)
        later = heard + timedelta(seconds=1)
        assert list(store.workers()) == [
            replace(worker("a"), heartbeat_at=later),
            replace(worker("b", "q1", "q2"), heartbeat_at=heard),
        ]

    def test_a_worker_that_is_silent_is_forgotten(self, store: JobStore, clock: Clock) -> None:
        store.announce(worker("a"), 10.0)
        clock.advance(9)
        store.announce(worker("b"), 10.0)
        clock.advance(1)
        assert [known.name for known in store.workers()] == ["b"]

    def test_a_worker_that_speaks_again_is_listed_once_as_it_is_now(self, store: JobStore, clock: Clock) -> None:
        store.announce(worker("a", "q1"), 10.0)
        clock.advance(9)
        store.announce(worker("a", "q2"), 10.0)
        clock.advance(9)
        assert [(known.name, known.queues) for known in store.workers()] == [("a", ("q2",))]

    def test_a_worker_that_leaves_is_gone_at_once(self, store: JobStore) -> None:
        store.announce(worker("a"), 10.0)
        store.announce(worker("a"), 0.0)
        store.announce(worker("never seen"), 0.0)
        assert list(store.workers()) == []

"""The part of the store suite about stats, workers, the clock, namespaces, setup, close and check."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from queueport.spi.record import Change
from queueport.spi.store import LOST_KEPT, Insert, JobStore, Query, Swap
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.testing.stores.harness import (
    START,
    Case,
    Clock,
    StoreHarness,
    bare,
    dead,
    put,
    retrying,
    run,
    succeeded,
    swap,
)

__all__ = ["StatsTests", "WorkerTests"]


def worker(name: str, *queues: str) -> WorkerStats:
    """The announcement of a worker. A store replaces the `heartbeat_at` of an announcement by its own time."""
    never = datetime.fromtimestamp(0.0, UTC)
    return WorkerStats(name, queues, ("app.send", "app.ü"), never)


class StatsTests(Case):
    """Tests of stats, now, setup, close and check, and of namespaces."""

    def test_stats_counts_the_jobs_of_each_queue_and_state(self, store: JobStore) -> None:
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

    def test_stats_lists_an_emptied_queue_with_zeros(self, store: JobStore) -> None:
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

    def test_stats_tells_when_the_oldest_queued_job_of_a_queue_was_queued(self, store: JobStore, clock: Clock) -> None:
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

    def test_counters_grow_with_applied_writes_only_and_stay_when_records_are_deleted(self, store: JobStore) -> None:
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

    def test_now_reads_the_clock_of_the_store(self, store: JobStore, clock: Clock) -> None:
        assert store.now() == clock.now
        clock.advance(1.5)
        assert store.now() == START + 1.5

    def test_the_default_clock_is_right_to_within_a_minute(self, harness: StoreHarness) -> None:
        import time  # not at the top of the file, because no other test here may use real time or sleep

        store = harness.open()
        assert abs(store.now() - time.time()) < 60
        store.close()

    def test_namespaces_share_nothing(self, store: JobStore, harness: StoreHarness, clock: Clock) -> None:
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

    def test_setup_and_close_may_be_repeated_and_check_finds_no_problem(self, store: JobStore) -> None:
        store.setup()
        store.setup()
        record = put(store)
        assert list(store.check()) == []
        store.close()
        store.close()
        if store.shared:
            assert store.get([record.id]) == [record]


class WorkerTests(Case):
    """Tests of announce and workers."""

    def test_workers_are_sorted_by_name_and_have_the_time_of_the_store(self, store: JobStore, clock: Clock) -> None:
        store.announce(worker("b", "q1", "q2"), 10.0)
        clock.advance(1)
        store.announce(worker("a"), 10.0)
        first = datetime.fromtimestamp(START, UTC)
        second = first + timedelta(seconds=1)
        assert list(store.workers()) == [
            replace(worker("a"), heartbeat_at=second),
            replace(worker("b", "q1", "q2"), heartbeat_at=first),
        ]

    def test_a_worker_is_removed_when_its_ttl_is_over(self, store: JobStore, clock: Clock) -> None:
        store.announce(worker("a"), 10.0)
        clock.advance(9)
        store.announce(worker("b"), 10.0)
        clock.advance(1)
        assert [known.name for known in store.workers()] == ["b"]

    def test_a_new_announcement_replaces_the_earlier_one(self, store: JobStore, clock: Clock) -> None:
        store.announce(worker("a", "q1"), 10.0)
        clock.advance(9)
        store.announce(worker("a", "q2"), 10.0)
        clock.advance(9)
        assert [(known.name, known.queues) for known in store.workers()] == [("a", ("q2",))]

    def test_a_ttl_of_zero_removes_a_worker_at_once(self, store: JobStore) -> None:
        store.announce(worker("a"), 10.0)
        store.announce(worker("a"), 0.0)
        store.announce(worker("unknown"), 0.0)
        assert list(store.workers()) == []
        assert list(store.workers(lost=True)) == []

    def test_a_worker_that_is_not_announced_again_is_lost_until_it_is_announced_or_removed(
        self, store: JobStore, clock: Clock
    ) -> None:
        store.announce(worker("a", "q1"), 10.0)
        store.announce(worker("b"), 20.0)
        assert list(store.workers(lost=True)) == []
        clock.advance(10)
        store.announce(worker("c"), 20.0)
        first = datetime.fromtimestamp(START, UTC)
        assert list(store.workers(lost=True)) == [replace(worker("a", "q1"), heartbeat_at=first)]
        clock.advance(LOST_KEPT - 1)
        store.announce(worker("d"), 10.0)
        assert [known.name for known in store.workers(lost=True)] == ["a", "b", "c"]
        store.announce(worker("a"), 10.0)
        store.announce(worker("b"), 0.0)
        assert [known.name for known in store.workers(lost=True)] == ["c"]
        assert [known.name for known in store.workers()] == ["a", "d"]

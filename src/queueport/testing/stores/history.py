"""The part of the store suite about the history: what each change counts, and how minutes are folded into hours."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import pytest

from queueport.engine.lifecycle import Lifecycle
from queueport.spi.history import FOLDED, HOUR, KEEP_HOURS, KEEP_MINUTES, MINUTE, PAIRS, HistoryQuery, start_of
from queueport.spi.record import Change, Record
from queueport.spi.store import Begin, Insert, JobStore, Swap
from queueport.stats import BUCKETS
from queueport.status import JobState
from queueport.stores.memory.store import MemoryStore
from queueport.testing.stores.harness import (
    RULES,
    START,
    Case,
    Clock,
    StoreHarness,
    bare,
    dead,
    put,
    rev,
    run,
    succeeded,
    swap,
)

__all__ = ["HistoryTests"]

DAYS = KEEP_HOURS + 10 * 24 * HOUR


def counted(store: JobStore, queue: str | None = None, task: str | None = None) -> dict[str, int]:
    """The numbers of the events in the whole history, without the histograms."""
    return {name: n for name, n in everything(store, queue, task).items() if not name[-1].isdigit()}


def everything(store: JobStore, queue: str | None = None, task: str | None = None) -> Counter[str]:
    """All numbers of the whole history, by name."""
    start, end = start_of(HOUR, START) - DAYS, start_of(HOUR, START) + DAYS
    sums: Counter[str] = Counter()
    for found in store.history(HistoryQuery(start, end, end - start, queue, task)):
        sums.update(found.counts)
    return sums


class HistoryTests(Case):
    """Tests of history and fold_history."""

    @pytest.fixture
    def model(self, clock: Clock) -> MemoryStore:
        """The model with which the store is compared. It has the same clock."""
        return MemoryStore(clock=clock)

    def test_a_store_without_changes_has_no_history(self, store: JobStore) -> None:
        assert everything(store) == {}
        store.fold_history()
        assert everything(store) == {}

    def test_each_end_of_a_job_is_counted_once(self, store: JobStore) -> None:
        lifecycle = Lifecycle(RULES)
        for _ in range(3):
            succeeded(store)
        lost = dead(store)
        self.apply(store, put(store), lifecycle.cancel)
        self.apply(store, dead(store), lifecycle.discard)
        assert counted(store) == {"enqueued": 6, "succeeded": 3, "failed": 2, "dead": 2, "cancelled": 1}
        self.apply(store, lost, lifecycle.retry)
        assert counted(store)["retried"] == 1

    def test_a_job_that_is_inserted_dead_counts_as_enqueued_and_as_dead(self, store: JobStore) -> None:
        store.insert([Insert(bare(), Change({"state": JobState.DEAD}, processed=1), rev())])
        assert counted(store) == {"enqueued": 1, "dead": 1}

    def test_a_job_that_is_withdrawn_counts_as_cancelled_and_a_deleted_record_does_not_count(
        self, store: JobStore
    ) -> None:
        withdrawn, ended = put(store), succeeded(store)
        store.swap([Swap(one.id, one.rev, Change(delete=True), rev()) for one in (withdrawn, ended)])
        assert counted(store) == {"enqueued": 2, "succeeded": 1, "cancelled": 1}

    def test_refused_and_repeated_writes_are_not_counted(self, store: JobStore) -> None:
        new = Insert(bare("a", key="k"), Lifecycle(RULES).new(delay=None, expires=None), "r1")
        store.insert([new, new, Insert(bare("b", key="k"), new.change, "r2")])
        start = Begin("a", new.record.task, Change({"state": JobState.RUNNING}, {"started_at": 0.0}), "r3")
        store.begin([start])
        store.begin([start])
        end = Swap("a", "r3", Change({"state": JobState.DEAD}, failed=1), "r4")
        store.swap([end, end])
        store.swap([end, Swap("x", "r3", Change({"state": JobState.DEAD}, failed=1), "r5")])
        assert counted(store) == {"enqueued": 1, "failed": 1, "dead": 1}
        assert sum(n for name, n in everything(store).items() if name.startswith(("wait", "run"))) == 2

    @pytest.mark.parametrize("known", [True, False], ids=["the record is given", "the record is not given"])
    def test_a_batch_is_counted_job_by_job(self, store: JobStore, *, known: bool) -> None:
        new = Lifecycle(RULES).new(delay=None, expires=None)
        inserts = [Insert(bare(task=f"app.{n % 2}"), new, rev()) for n in range(10)]
        records = [made.record for made in store.insert(inserts)]
        change = Change({"state": JobState.RUNNING}, {"started_at": 0.0})
        begins = [Begin(one.id, one.task, change, rev()) for one in records if one is not None]
        records = [begun.record for begun in store.begin(begins)]
        ends = itertools.cycle([Change({"state": JobState.SUCCEEDED}, processed=1), Change(delete=True)])
        running = [one for one in records if one is not None]
        store.swap(
            [Swap(one.id, one.rev, end, rev(), one if known else None) for one, end in zip(running, ends, strict=False)]
        )
        assert everything(store, task="app.0") == {"enqueued": 5, "wait0": 5, "run0": 5, "succeeded": 5}
        assert everything(store, task="app.1") == {"enqueued": 5, "wait0": 5, "run0": 5, "cancelled": 5}

    def test_two_changes_of_one_job_in_one_call_are_both_counted(self, store: JobStore) -> None:
        record = put(store)
        start, back = Change({"state": JobState.RUNNING}, {"started_at": 0.0}), Change({"state": JobState.QUEUED})
        done = store.swap([Swap(record.id, record.rev, start, "r1"), Swap(record.id, "r1", back, "r2")])
        assert [written.applied for written in done] == [True, True]
        assert everything(store) == {"enqueued": 1, "wait0": 1, "run0": 1}

    def test_waits_and_run_times_are_in_the_buckets_of_the_model(
        self, store: JobStore, model: MemoryStore, clock: Clock
    ) -> None:
        for number, bound in enumerate([*BUCKETS, 2 * BUCKETS[-1]]):
            records = [put(one, f"a{number}") for one in (store, model)]
            clock.advance(bound)
            records = [run(one, record) for one, record in zip((store, model), records, strict=True)]
            clock.advance(bound)
            for one, record in zip((store, model), records, strict=True):
                swap(one, record, state=JobState.RETRYING)
        assert everything(store) == everything(model)
        assert len(everything(store)) > len(BUCKETS)

    def test_a_state_that_stays_and_a_heartbeat_count_nothing(self, store: JobStore) -> None:
        record = run(store, put(store))
        before = everything(store)
        swap(store, record, reason="none")
        store.claim_due(10, 1.0, rev())
        assert everything(store) == before

    def test_changes_are_counted_in_the_minute_of_the_store_and_by_queue_and_task(
        self, store: JobStore, clock: Clock
    ) -> None:
        first = start_of(MINUTE, START)
        clock.now = first + 59.9
        record = put(store, queue="q1", task="app.a")
        clock.now = first + 60.0
        put(store, queue="q2", task="app.b")
        put(store, queue="q1", task="app.b")
        self.apply(store, record, Lifecycle(RULES).cancel)

        def found(
            step: int, queue: str | None = None, task: str | None = None
        ) -> list[tuple[int, str, dict[str, int]]]:
            query = HistoryQuery(first, first + 120, step, queue, task)
            return [(one.at - first, one.queue, dict(one.counts)) for one in store.history(query)]

        one = {"enqueued": 1}
        assert found(60) == [(0, "q1", one), (60, "q1", {"enqueued": 1, "cancelled": 1}), (60, "q2", one)]
        assert found(120) == [(0, "q1", {"enqueued": 2, "cancelled": 1}), (0, "q2", one)]
        assert found(60, queue="q2") == [(60, "q2", one)]
        assert found(60, task="app.b") == [(60, "q1", one), (60, "q2", one)]
        assert found(120, "q1", "app.a") == [(0, "q1", {"enqueued": 1, "cancelled": 1})]
        assert store.history(HistoryQuery(first, first + 60, 60))[0].counts == one
        separate = store.history(HistoryQuery(first, first + 120, 120, by_task=True))
        assert [(each.queue, each.task, dict(each.counts)) for each in separate] == [
            ("q1", "app.a", {"enqueued": 1, "cancelled": 1}),
            ("q1", "app.b", one),
            ("q2", "app.b", one),
        ]
        assert {each.task for each in store.history(HistoryQuery(first, first + 120, 120))} == {""}

    def test_old_minutes_are_folded_into_hours_and_counted_once(
        self, store: JobStore, harness: StoreHarness, clock: Clock
    ) -> None:
        hour = clock.now = start_of(HOUR, START)
        for _ in range(2 * FOLDED):
            succeeded(store)
            clock.advance(MINUTE)
        before = everything(store)
        minutes, hours = (HistoryQuery(hour, hour + HOUR, step) for step in (MINUTE, HOUR))
        assert len(store.history(minutes)) == 2 * FOLDED
        clock.now = hour + MINUTE + KEEP_MINUTES - 1
        store.fold_history()
        assert len(store.history(minutes)) == 2 * FOLDED, "a minute was folded too early"
        clock.advance(HOUR)
        other = harness.open(clock=clock) if store.shared else store
        other.fold_history()
        assert len(store.history(minutes)) == FOLDED + 1, "the other minutes are not in the hour"
        assert everything(store) == before
        for each in (store, other, store):
            each.fold_history()
        assert [one.counts["succeeded"] for one in store.history(minutes)] == [2 * FOLDED]
        assert [one.at for one in store.history(hours)] == [hour]
        assert everything(store) == before
        if other is not store:
            other.close()

    def test_old_hours_are_deleted(self, store: JobStore, clock: Clock) -> None:
        hour = clock.now = start_of(HOUR, START)
        put(store)
        clock.now = hour + 2 * 24 * HOUR
        store.fold_history()
        clock.now = hour + HOUR + KEEP_HOURS - 1
        put(store)
        store.fold_history()
        assert counted(store) == {"enqueued": 2}
        clock.advance(1)
        store.fold_history()
        assert counted(store) == {"enqueued": 1}

    def test_only_a_limited_number_of_queues_and_tasks_are_counted_separately(
        self, store: JobStore, clock: Clock
    ) -> None:
        clock.now = start_of(HOUR, START)
        new = Lifecycle(RULES).new(delay=None, expires=None)
        for _ in range(2):
            store.insert([Insert(bare(task=f"app.{n}"), new, rev()) for n in range(PAIRS)])
        store.insert([Insert(bare(task=f"more.{n}"), new, rev()) for n in range(20)])
        put(store, task="app.0")
        assert counted(store) == {"enqueued": 2 * PAIRS + 21}
        assert counted(store, task="app.0") == {"enqueued": 3}
        assert counted(store, "default") == {"enqueued": 2 * PAIRS + 1}
        assert counted(store, task="more.0") == {}
        clock.advance(MINUTE)
        put(store, task="more.0")
        assert counted(store, task="more.0") == {"enqueued": 1}, "a new minute has places for other tasks"
        clock.advance(2 * KEEP_MINUTES)
        store.fold_history()
        assert counted(store) == {"enqueued": 2 * PAIRS + 22}

    def apply(self, store: JobStore, record: Record, decide: Callable[[Record], object]) -> None:
        """Make the change that the lifecycle decides."""
        change = decide(record)
        assert isinstance(change, Change)
        (written,) = store.swap([Swap(record.id, record.rev, change, rev())])
        assert written.applied

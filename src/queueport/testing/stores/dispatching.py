"""The part of the store suite about the verbs for the work of dispatchers: claim_due, unreceived and overflow."""

from __future__ import annotations

from dataclasses import replace

from queueport.spi.record import RECORD_VERSION
from queueport.spi.store import JobStore, Query
from queueport.status import JobState
from queueport.testing.stores.harness import (
    CARRIED,
    RULES,
    START,
    Case,
    Clock,
    put,
    retrying,
    run,
    succeeded,
    swap,
)

__all__ = ["DispatcherTests"]


class DispatcherTests(Case):
    """Tests of claim_due, unreceived and overflow."""

    def test_claim_due_returns_due_records_the_most_overdue_first(self, store: JobStore, clock: Clock) -> None:
        late, later, never = put(store, delay=20.0), put(store, delay=10.0), put(store)
        assert list(store.claim_due(10, 5.0, "r1")) == []
        clock.advance(20)
        assert store.claim_due(10, 5.0, "r1") == [
            replace(later, rev="r1", wake_at=clock.now + 5.0),
            replace(late, rev="r1", wake_at=clock.now + 5.0),
        ]
        assert store.get([never.id]) == [never]

    def test_a_record_can_be_claimed_again_when_its_claim_ends(self, store: JobStore, clock: Clock) -> None:
        record = put(store, delay=1.0)
        clock.advance(1)
        assert len(store.claim_due(10, 5.0, "r1")) == 1
        clock.advance(4.75)
        assert list(store.claim_due(10, 5.0, "r2")) == []
        clock.advance(0.25)
        assert [job.rev for job in store.claim_due(10, 5.0, "r2")] == ["r2"]
        assert store.get([record.id]) == [replace(record, rev="r2", wake_at=clock.now + 5.0)]

    def test_claim_due_claims_at_most_limit_records(self, store: JobStore, clock: Clock) -> None:
        names = [put(store, delay=float(i + 1)).id for i in range(5)]
        clock.advance(10)
        claimed = [[job.id for job in store.claim_due(2, 5.0, f"r{i}")] for i in range(4)]
        assert claimed == [names[:2], names[2:4], names[4:], []]

    def test_claim_due_claims_due_records_in_any_state(self, store: JobStore, clock: Clock) -> None:
        records = [
            put(store, delay=1.0),
            put(store, expires=2.0),
            put(store, rules=CARRIED),
            retrying(store),
            run(store, put(store)),
            succeeded(store),
        ]
        clock.advance(RULES.keep_succeeded or 0)
        assert {job.id for job in store.claim_due(10, 5.0, "r")} == {record.id for record in records}

    def test_claim_due_without_leases_leaves_out_running_records(self, store: JobStore, clock: Clock) -> None:
        running, scheduled = run(store, put(store)), put(store, delay=RULES.lease + 1)
        clock.advance(RULES.lease + 1)
        assert [job.id for job in store.claim_due(1, 5.0, "r1", leases=False)] == [scheduled.id]
        assert [job.id for job in store.claim_due(1, 5.0, "r2")] == [running.id]

    def test_claim_due_skips_records_of_a_newer_version(self, store: JobStore, clock: Clock) -> None:
        newer = [put(store, delay=1.0, v=RECORD_VERSION + 1) for _ in range(3)]
        mine = put(store, delay=2.0)
        clock.advance(5)
        assert [job.id for job in store.claim_due(1, 5.0, "r1")] == [mine.id]
        assert list(store.claim_due(1, 5.0, "r2")) == []
        assert store.get([record.id for record in newer]) == newer

    def test_unreceived_returns_sent_jobs_of_a_queue_and_priority_the_longest_waiting_first(
        self, store: JobStore, clock: Clock
    ) -> None:
        names = []
        for queue, priority in (("q", 0), ("q", 1), ("other", 0), ("q", 0), ("q", 0)):
            names.append(put(store, queue=queue, priority=priority).id)
            clock.advance(1)
        a, b, c = (names[i] for i in (0, 3, 4))
        (last,) = store.get([a])
        assert last is not None
        swap(store, last, sent_at=clock.now)
        swap(store, put(store, queue="q"), sent=False)
        run(store, put(store, queue="q"))
        put(store, queue="q", v=RECORD_VERSION + 1)
        assert [job.id for job in store.unreceived("q", 0, clock.now + 1, 10)] == [b, c, a]
        assert [job.id for job in store.unreceived("q", 0, clock.now + 1, 2)] == [b, c]
        assert [job.id for job in store.unreceived("q", 0, START + 4, 10)] == [b]
        assert [job.id for job in store.unreceived("q", 1, clock.now, 10)] == [names[1]]
        assert list(store.unreceived("absent", 0, clock.now, 10)) == []

    def test_overflow_returns_records_beyond_the_newest_n_the_oldest_first(self, store: JobStore) -> None:
        names = [succeeded(store, queue=f"q{i % 2}", task=f"t{i % 3}").id for i in range(6)]
        put(store)
        assert [job.id for job in store.overflow(Query(JobState.SUCCEEDED), 2, 10)] == names[:4]
        assert [job.id for job in store.overflow(Query(JobState.SUCCEEDED), 2, 3)] == names[:3]
        assert [job.id for job in store.overflow(Query(JobState.SUCCEEDED), 0, 10)] == names
        assert list(store.overflow(Query(JobState.SUCCEEDED), 6, 10)) == []
        assert list(store.overflow(Query(JobState.DEAD), 0, 10)) == []
        of_queue, of_task = Query(JobState.SUCCEEDED, "q1"), Query(JobState.SUCCEEDED, task="t2")
        assert [job.id for job in store.overflow(of_queue, 1, 10)] == [names[1], names[3]]
        assert [job.id for job in store.overflow(of_task, 1, 10)] == [names[2]]

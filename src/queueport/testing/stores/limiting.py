"""`LimitTests`: the part of the store suite about limits at begin, and about the jobs that wait for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from queueport.engine.lifecycle import Lifecycle
from queueport.spi.record import Change, Record
from queueport.spi.store import (
    MOST_LIMITS,
    Begin,
    ClaimingStore,
    JobStore,
    LimitState,
    StartLimit,
    TakeLimits,
    WriteOutcome,
    WriteResult,
)
from queueport.status import JobState
from queueport.testing.stores.harness import RULES, TOKEN, Case, Clock, put, rev, run, swap

__all__ = ["LimitTests"]

ONE = StartLimit("task:app.send", concurrency=1)
HOLD = Lifecycle(RULES).hold()


def begin(store: JobStore, record: Record, *limits: StartLimit) -> WriteResult:
    """Begin a job with limits, or hold it."""
    change = Lifecycle(RULES).begin(token=TOKEN, worker="worker", defaults={})
    (answer,) = store.begin([Begin(record.id, record.task, change, rev(), record.queue, limits, HOLD)])
    return answer


def let_on(store: JobStore, record: Record) -> Record:
    """Let a held job on."""
    change = Lifecycle(RULES).let_on(record, store.now(), paused=False)
    assert isinstance(change, Change)
    return swap(store, record, **change.set)


def state_of(store: JobStore, limit: StartLimit, key: str | None = None) -> LimitState:
    """The state of a limit for which a job is held."""
    (found,) = store.held([limit.name_for(key)], 1)
    return found.state


class LimitTests(Case):
    """Tests of limits. Each holds a job to read the state of the limit, which `held` returns only then."""

    def test_a_job_begins_while_a_slot_is_free_and_is_held_otherwise(self, store: JobStore, clock: Clock) -> None:
        first, second = put(store, "a"), put(store, "b")
        begun, held = begin(store, first, ONE), begin(store, second, ONE)
        assert begun.outcome is WriteOutcome.APPLIED
        assert begun.record is not None
        assert (begun.record.state, begun.record.slots, begun.record.attempts) == (JobState.RUNNING, (ONE.name,), 1)
        assert held.outcome is WriteOutcome.LIMITED
        assert held.record is not None
        assert (held.record.state, held.record.reason, held.record.attempts) == (JobState.QUEUED, "limited", 0)
        assert (held.record.held_by, held.record.sent) == (ONE.name, False)
        assert held.record.wake_at == clock.now + HOLD.stamp["wake_at"]
        assert store.get(["a", "b"]) == [begun.record, held.record]
        (found,) = store.held(None, 10)
        assert (found.name, found.state) == (ONE.name, LimitState(running=1, held=1))
        assert (found.jobs, found.now) == ([held.record], clock.now)

    @pytest.mark.parametrize(
        "values",
        [
            {"state": JobState.SUCCEEDED, "result": b"1"},
            {"state": JobState.DEAD},
            {"state": JobState.CANCELLED},
            {"state": JobState.RETRYING, "wake_at": 9.0},
            {"state": JobState.QUEUED, "queued_at": 9.0},
        ],
        ids=lambda values: values["state"].value,
    )
    def test_every_change_that_ends_an_attempt_frees_its_slot(self, store: JobStore, values: dict[str, object]) -> None:
        running, waiting = begin(store, put(store), ONE).record, put(store, "waits")
        begin(store, waiting, ONE)
        assert running is not None
        swap(store, running, **values)
        assert state_of(store, ONE) == LimitState(running=0, held=1)
        (found,) = store.held([ONE.name], 1)
        passed = let_on(store, found.jobs[0])
        assert begin(store, passed, ONE).outcome is WriteOutcome.APPLIED

    def test_a_deleted_job_uses_no_slot_and_is_not_held(self, store: JobStore) -> None:
        from queueport.spi.store import Swap

        running = begin(store, put(store), ONE).record
        held = [begin(store, put(store), ONE).record for _ in range(2)]
        gone = [record for record in (running, held[0]) if record is not None]
        store.swap([Swap(record.id, record.rev, Change(delete=True), rev()) for record in gone])
        assert state_of(store, ONE) == LimitState(running=0, held=1)

    def test_a_heartbeat_keeps_the_slot(self, store: JobStore) -> None:
        from queueport.spi.store import LeaseRenewal

        running = begin(store, put(store), ONE).record
        begin(store, put(store), ONE)
        assert running is not None
        store.heartbeat([LeaseRenewal(running.id, TOKEN, 5.0, rev())])
        assert state_of(store, ONE) == LimitState(running=1, held=1)

    def test_a_job_waits_while_others_are_held_and_leaves_room_for_those_that_were_let_on(
        self, store: JobStore
    ) -> None:
        two = replace(ONE, concurrency=2)
        for _ in range(2):
            begin(store, put(store), two)
        held = begin(store, put(store, "first"), two).record
        assert held is not None
        three = replace(ONE, concurrency=3)
        assert begin(store, put(store, "late"), three).outcome is WriteOutcome.LIMITED
        (found,) = store.held([ONE.name], 10)
        first, late = (let_on(store, record) for record in found.jobs)
        assert begin(store, put(store, "newcomer"), replace(ONE, concurrency=4)).outcome is WriteOutcome.LIMITED
        assert state_of(store, ONE) == LimitState(running=2, held=1, passed=2)
        assert begin(store, late, three).outcome is WriteOutcome.APPLIED
        assert begin(store, first, three).outcome is WriteOutcome.LIMITED
        assert state_of(store, ONE) == LimitState(running=3, held=2)

    def test_held_jobs_are_in_the_order_of_priority_and_then_of_queued_at(self, store: JobStore, clock: Clock) -> None:
        begin(store, put(store), ONE)
        low = put(store, "low", priority=-1)
        later = put(store, "later")
        clock.advance(-1)
        sooner = put(store, "sooner")
        clock.advance(5)
        high = put(store, "high", priority=1)
        for record in (low, later, high, sooner):
            begin(store, record, ONE)
        (found,) = store.held(None, 3)
        assert [record.id for record in found.jobs] == ["high", "sooner", "later"]
        assert found.state.held == 4

    def test_each_key_has_a_limit_of_its_own(self, store: JobStore) -> None:
        keyed = replace(ONE, keyed=True)
        outcomes = [begin(store, put(store, limit_key=key), keyed).outcome for key in ("x", "y", "x", None, None)]
        applied, limited = WriteOutcome.APPLIED, WriteOutcome.LIMITED
        assert outcomes == [applied, applied, limited, applied, limited]
        assert [found.name for found in store.held(None, 1)] == [ONE.name, f"{ONE.name} x"]
        assert state_of(store, keyed, "x") == LimitState(running=1, held=1)

    def test_a_job_needs_room_in_all_its_limits(self, store: JobStore) -> None:
        other = StartLimit("queue:default", concurrency=2)
        first, second, third = put(store), put(store), put(store, task="app.other")
        assert begin(store, first, ONE, other).outcome is WriteOutcome.APPLIED
        assert begin(store, second, ONE, other).outcome is WriteOutcome.LIMITED
        assert begin(store, third, other).outcome is WriteOutcome.APPLIED
        fourth = begin(store, put(store, task="app.other"), other)
        assert fourth.record is not None
        assert fourth.record.held_by == other.name
        assert [(found.name, found.state) for found in store.held(None, 1)] == [
            (other.name, LimitState(running=2, held=1)),
            (ONE.name, LimitState(running=1, held=1)),
        ]
        assert [found.name for found in store.held([ONE.name, "none"], 1)] == [ONE.name]
        assert list(store.held([], 1)) == []

    def test_a_job_that_was_let_on_for_one_of_its_limits_passes_the_held_jobs_of_the_others(
        self, store: JobStore
    ) -> None:
        other = StartLimit("queue:default", concurrency=1)
        running = begin(store, put(store), ONE, other).record
        held = begin(store, put(store), ONE, other).record
        assert begin(store, put(store, task="app.other"), other).outcome is WriteOutcome.LIMITED
        assert running is not None
        assert held is not None
        assert held.held_by == ONE.name
        swap(store, running, state=JobState.SUCCEEDED)
        assert begin(store, let_on(store, held), ONE, other).outcome is WriteOutcome.APPLIED

    def test_the_starts_of_a_rate_do_not_count_when_it_was_raised(self, store: JobStore, clock: Clock) -> None:
        slow, fast = StartLimit("task:app.send", rate=1 / 3600), StartLimit("task:app.send", rate=10.0)
        assert begin(store, put(store), slow).outcome is WriteOutcome.APPLIED
        assert begin(store, put(store), fast).outcome is WriteOutcome.APPLIED
        assert begin(store, put(store), fast).outcome is WriteOutcome.LIMITED
        assert state_of(store, fast).full_at == pytest.approx(clock.now + 0.1)

    def test_a_page_of_held_jobs_begins_after_the_name_of_a_limit(self, store: JobStore) -> None:
        keyed = replace(ONE, keyed=True)
        keys = [f"{number:03d}" for number in range(MOST_LIMITS + 5)]
        for key in keys * 2:
            begin(store, put(store, limit_key=key), keyed)
        names = [f"{ONE.name} {key}" for key in keys]
        assert [found.name for found in store.held(None, 1)] == names[:MOST_LIMITS]
        assert [found.name for found in store.held(None, 1, names[MOST_LIMITS - 1])] == names[MOST_LIMITS:]
        assert [found.name for found in store.held(names, 1, names[3])] == names[4 : MOST_LIMITS + 4]

    def test_a_rate_lets_a_burst_begin_and_then_one_job_at_a_time(self, store: JobStore, clock: Clock) -> None:
        limit = StartLimit("task:app.send", rate=0.5, burst=2)
        jobs = [put(store) for _ in range(4)]
        outcomes = [begin(store, record, limit).applied for record in jobs[:3]]
        assert outcomes == [True, True, False]
        (found,) = store.held(None, 1)
        assert found.state == LimitState(running=2, held=1, full_at=clock.now + 4)
        passed = let_on(store, found.jobs[0])
        clock.advance(1)
        held = begin(store, passed, limit)
        assert held.outcome is WriteOutcome.LIMITED
        assert held.record is not None
        passed = let_on(store, held.record)
        clock.advance(1)
        assert begin(store, passed, limit).outcome is WriteOutcome.APPLIED
        assert begin(store, jobs[3], limit).outcome is WriteOutcome.LIMITED
        assert state_of(store, limit).full_at == clock.now + 4

    def test_a_job_that_its_concurrency_holds_does_not_count_against_its_rate(
        self, store: JobStore, clock: Clock
    ) -> None:
        limit = StartLimit("task:app.send", concurrency=1, rate=1.0)
        begin(store, put(store), limit)
        begin(store, put(store), limit)
        assert state_of(store, limit) == LimitState(running=1, held=1, full_at=clock.now + 1)

    def test_a_held_job_wakes_when_it_expires(self, store: JobStore, clock: Clock) -> None:
        begin(store, put(store), ONE)
        held = begin(store, put(store, expires=7.0), ONE).record
        assert held is not None
        assert held.wake_at == clock.now + 7
        clock.advance(7)
        assert begin(store, held, ONE).outcome is WriteOutcome.REFUSED
        assert [record.id for record in store.claim_due(10, 5.0, rev())] == [held.id]

    def test_a_job_of_another_queue_or_task_is_refused(self, store: JobStore) -> None:
        moved = swap(store, put(store), queue="another")
        assert begin(store, replace(moved, queue="default"), ONE).outcome is WriteOutcome.REFUSED
        assert begin(store, replace(moved, task="another"), ONE).outcome is WriteOutcome.REFUSED
        assert begin(store, moved, ONE).outcome is WriteOutcome.APPLIED

    def test_a_begin_without_limits_uses_no_slot(self, store: JobStore) -> None:
        run(store, put(store))
        assert begin(store, put(store), ONE).outcome is WriteOutcome.APPLIED

    def test_take_holds_jobs_and_goes_on_with_others(self, store: JobStore) -> None:
        if not isinstance(store, ClaimingStore):
            return
        for number in range(3):
            put(store, f"a{number}")
        put(store, "b", task="app.other")
        put(store, "c", queue="another")
        change = Lifecycle(RULES).begin(token=TOKEN, worker="worker", defaults={})
        changes: dict[str, Change] = {"app.send": change, "app.other": change}
        limits = TakeLimits({("default", "app.send"): (ONE,)}, HOLD)

        def take(limit: int) -> list[str]:
            found = store.take(["default", "another"], changes, limit, rev(), limits)
            return [record.id for record in found]

        assert take(3) == ["a0", "b", "c"]
        assert state_of(store, ONE) == LimitState(running=1, held=2)
        assert take(3) == []
        (found,) = store.held(None, 1)
        let_on(store, found.jobs[0])
        running = store.get(["a0"])[0]
        assert running is not None
        swap(store, running, state=JobState.SUCCEEDED)
        assert take(3) == ["a1"]

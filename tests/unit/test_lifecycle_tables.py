"""The outcome of each event for a job in each state, and the invariants of every change that the lifecycle makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueport import get_queue
from queueport.engine.lifecycle import Lifecycle
from queueport.engine.rules import Failed, Refusal, Succeeded
from queueport.spi.record import Change, FollowUp, Record
from queueport.status import FINAL, JobState
from tests.unit.records import (
    BURYING,
    CANCELLED,
    CLAIMING,
    DEAD,
    ERROR,
    GONE,
    NOT_ALLOWED,
    NOT_MINE,
    NOTHING,
    NOW,
    QUEUED,
    RAISED,
    RETRYING,
    RULES,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    Decided,
    after,
    dispatch,
    finish,
    job,
)

# -- each event in each state -----------------------------------------------------------------------------------------

STATES = (SCHEDULED, QUEUED, RUNNING, RETRYING, SUCCEEDED, DEAD, CANCELLED)
MINE: dict[str, Any] = {"token": "mine"}

EVENTS: dict[str, tuple[Callable[[Record], Decided], dict[str, Any], tuple[JobState | Refusal | None, ...]]] = {
    "due": (
        dispatch,
        {},
        (QUEUED, QUEUED, QUEUED, QUEUED, None, None, None),
    ),
    "due and expired": (
        dispatch,
        {"expires_at": NOW},
        (CANCELLED, CANCELLED, QUEUED, CANCELLED, None, None, None),
    ),
    "begun by another": (
        lambda record: Lifecycle(RULES).begin_refused(record, token="mine", now=NOW),
        {"token": "other", "expires_at": NOW},
        (NOT_MINE, CANCELLED, NOT_MINE, NOT_MINE, Refusal.FINAL, Refusal.FINAL, Refusal.FINAL),
    ),
    "succeeded": (
        lambda record: finish(record, Succeeded(b"1")),
        MINE,
        (NOTHING, NOTHING, SUCCEEDED, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "succeeded, with another token": (
        lambda record: finish(record, Succeeded(b"1")),
        {"token": "other"},
        (NOT_MINE,) * 7,
    ),
    "failed": (
        lambda record: finish(record, RAISED),
        MINE,
        (NOTHING, NOTHING, RETRYING, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "interrupted": (
        lambda record: Lifecycle(RULES).interrupt(record, token="mine", stopped=True),
        MINE,
        (NOTHING, NOTHING, QUEUED, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "stuck, with another token": (
        lambda record: Lifecycle(RULES).interrupt(record, token="mine", stopped=False),
        {},
        (NOT_MINE,) * 7,
    ),
    "task unknown": (
        lambda record: Lifecycle(RULES).task_unknown(record),
        {},
        (NOT_ALLOWED, QUEUED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED),
    ),
    "message lost": (
        lambda record: Lifecycle(RULES).resend(record, frontier=NOW),
        {"sent": True, "sent_at": 0.0},
        (NOT_ALLOWED, QUEUED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED),
    ),
    "cancel": (
        lambda record: Lifecycle(RULES).cancel(record),
        {},
        (CANCELLED, CANCELLED, RUNNING, CANCELLED, Refusal.FINAL, Refusal.FINAL, Refusal.FINAL),
    ),
    "purge": (
        lambda record: Lifecycle(RULES).purge(record),
        {},
        (CANCELLED, CANCELLED, NOT_ALLOWED, CANCELLED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED),
    ),
    "retry": (
        lambda record: Lifecycle(RULES).retry(record),
        {},
        (QUEUED, NOT_ALLOWED, NOT_ALLOWED, QUEUED, NOT_ALLOWED, QUEUED, QUEUED),
    ),
    "redrive": (
        lambda record: Lifecycle(BURYING).redrive(record, life=1),
        {},
        (NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, QUEUED, NOT_ALLOWED),
    ),
    "redrive, but the key is taken": (
        lambda record: Lifecycle(BURYING).bury_again(record, life=1),
        {},
        (NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, DEAD, NOT_ALLOWED),
    ),
    "discard": (
        lambda record: Lifecycle(RULES).discard(record),
        {},
        (NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, CANCELLED, NOT_ALLOWED),
    ),
}
"""For each event: the decision, the fields of the record, and the outcome for each of STATES in their order.

An outcome is the state after the change, a refusal, or None if the record is deleted.
"""


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("event", EVENTS)
def test_each_event_has_the_expected_outcome_in_each_state(event: str, state: JobState) -> None:
    decide, values, outcomes = EVENTS[event]
    record = job(state, **values)
    expected = dict(zip(STATES, outcomes, strict=True))[state]
    decided = decide(record)
    if isinstance(expected, Refusal) or isinstance(decided, Refusal):
        assert decided is expected
    elif expected is None:
        assert decided.delete
    else:
        assert after(decided, record).state is expected


@pytest.mark.parametrize("event", EVENTS)
def test_without_a_record_every_event_is_refused(event: str) -> None:
    with get_queue("memory://") as queue:
        assert queue.operations.settle("j", EVENTS[event][0]).refusal is GONE


# -- invariants of every change ---------------------------------------------------------------------------------------


def has_its_time(record: Record) -> bool:
    """Whether a record has a `wake_at`, without which no dispatcher moves it. Queued and final jobs need none."""
    return record.state.final or record.wake_at is not None or record.state is QUEUED


times = st.none() | st.floats(NOW - 200, NOW + 200)
small = st.integers(0, 3)
records = st.builds(
    Record,
    id=st.just("j"),
    task=st.just("t"),
    queue=st.just("q"),
    payload=st.just(b"{}"),
    state=st.sampled_from(JobState),
    rev=st.just("before"),
    life=st.integers(1, 3),
    attempts=small,
    failures=small,
    crashes=small,
    token=st.sampled_from([None, "mine", "other"]),
    wake_at=times,
    sent=st.booleans(),
    sent_at=times,
    sends=small,
    cancel_requested=st.booleans(),
    interrupted=st.booleans(),
    buried=st.booleans(),
    expires_at=times,
    unknown_since=times,
    finished_at=times,
    options=st.sampled_from([{}, {"crash_limit": 1}, {"keep_result": 5.0}]),
).filter(has_its_time)
outcomes = st.just(Succeeded(b"1")) | st.builds(
    Failed, st.just(ERROR), st.just(("ValueError",)), st.none() | st.just(3.0), burns=st.booleans(), fatal=st.booleans()
)
decisions = st.one_of(
    *(st.just(event[0]) for event in EVENTS.values()),
    outcomes.map(lambda outcome: lambda record: finish(record, outcome)),
    st.booleans().map(lambda stopped: lambda record: Lifecycle(RULES).interrupt(record, token="mine", stopped=stopped)),
    st.tuples(st.sampled_from([RULES, CLAIMING, BURYING]), st.booleans()).map(
        lambda how: lambda record: dispatch(record, how[0], known=how[1])
    ),
    st.sampled_from([RULES, CLAIMING, BURYING]).map(lambda rules: lambda record: Lifecycle(rules).retry(record)),
)


@given(records, decisions)
def test_every_change_leaves_a_consistent_record(before: Record, decide: Callable[[Record], Decided]) -> None:
    change = decide(before)
    if isinstance(change, Refusal) or not change.writes:
        return
    if change.delete:
        assert before.state.final
        assert change == Change(delete=True, then=change.then)
        return
    assert not change.set.keys() & change.stamp.keys()
    assert {*change.set, *change.stamp} <= {field.name for field in fields(Record)}
    assert not {*change.set, *change.stamp} & {"id", "task", "queue", "payload", "key", "attempts", "v", "rev"}
    record = after(change, before)
    ends = record.state.final and not before.state.final
    assert change.processed == int(ends)
    assert has_its_time(record)
    if before.state is RUNNING and before.cancel_requested and record.state is not RUNNING:
        assert record.state is CANCELLED
    if FollowUp.PUBLISH in change.then:
        assert (record.state, record.sent, record.wake_at) == (QUEUED, False, NOW + 10)
    if FollowUp.CALL_ON_DEAD in change.then:
        assert record.state is DEAD
        assert ends
    if record.state is not before.state and record.state is QUEUED:
        assert (record.token, record.interrupted, record.sends) == (None, False, 0)
    assert record.life == before.life + (before.state in FINAL and record.state is QUEUED)

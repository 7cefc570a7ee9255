"""What becomes of a job in each state on each event, and what holds of every change that the lifecycle makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueport import lifecycle
from queueport.lifecycle import Failed, Refusal, Succeeded
from queueport.record import Change, Record, Then
from queueport.status import FINAL, JobState
from tests.unit.lives import (
    BURYING,
    CANCELLED,
    DEAD,
    EMBEDDED,
    ERROR,
    GONE,
    NOT_ALLOWED,
    NOT_MINE,
    NOTHING,
    NOW,
    OK,
    RAISED,
    RULES,
    A,
    Decided,
    Q,
    R,
    S,
    after,
    dispatched,
    finished,
    job,
)

# -- every event in every state ---------------------------------------------------------------------------------------

STATES = (S, Q, R, A, OK, DEAD, CANCELLED)
MINE: dict[str, Any] = {"token": "mine"}

EVENTS: dict[str, tuple[Callable[[Record | None], Decided], dict[str, Any], tuple[JobState | Refusal | None, ...]]] = {
    "due": (
        lambda record: dispatched(record or job(Q)),
        {},
        (Q, Q, Q, Q, None, None, None),
    ),
    "due and expired": (
        lambda record: dispatched(record or job(Q)),
        {"expires_at": NOW},
        (CANCELLED, CANCELLED, Q, CANCELLED, None, None, None),
    ),
    "begun by another": (
        lambda record: lifecycle.begun(RULES, record, token="mine", now=NOW),
        {"token": "other", "expires_at": NOW},
        (NOT_MINE, CANCELLED, NOT_MINE, NOT_MINE, Refusal.FINAL, Refusal.FINAL, Refusal.FINAL),
    ),
    "succeeded": (
        lambda record: finished(record, Succeeded(b"1")),
        MINE,
        (NOTHING, NOTHING, OK, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "succeeded, said by another": (
        lambda record: finished(record, Succeeded(b"1")),
        {"token": "other"},
        (NOT_MINE,) * 7,
    ),
    "failed": (
        lambda record: finished(record, RAISED),
        MINE,
        (NOTHING, NOTHING, A, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "interrupted": (
        lambda record: lifecycle.interrupt(RULES, record, token="mine", stopped=True),
        MINE,
        (NOTHING, NOTHING, Q, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "not interruptible, said by another": (
        lambda record: lifecycle.interrupt(RULES, record, token="mine", stopped=False),
        {},
        (NOT_MINE,) * 7,
    ),
    "unknown": (
        lambda record: lifecycle.unknown(RULES, record),
        {},
        (NOT_ALLOWED, Q, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED),
    ),
    "lost": (
        lambda record: lifecycle.lost(RULES, record or job(S), frontier=NOW),
        {"sent": True, "sent_at": 0.0},
        (NOT_ALLOWED, Q, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED),
    ),
    "cancel": (
        lambda record: lifecycle.cancel(RULES, record),
        {},
        (CANCELLED, CANCELLED, R, CANCELLED, Refusal.FINAL, Refusal.FINAL, Refusal.FINAL),
    ),
    "purge": (
        lambda record: lifecycle.purge(RULES, record),
        {},
        (CANCELLED, CANCELLED, NOT_ALLOWED, CANCELLED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED),
    ),
    "retry": (
        lambda record: lifecycle.retry(RULES, record),
        {},
        (Q, NOT_ALLOWED, NOT_ALLOWED, Q, NOT_ALLOWED, Q, Q),
    ),
    "redrive": (
        lambda record: lifecycle.redrive(BURYING, record, life=1),
        {},
        (NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, Q, NOT_ALLOWED),
    ),
    "redrive in vain": (
        lambda record: lifecycle.bury_again(BURYING, record, life=1),
        {},
        (NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, DEAD, NOT_ALLOWED),
    ),
    "discard": (
        lambda record: lifecycle.discard(RULES, record),
        {},
        (NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, NOT_ALLOWED, CANCELLED, NOT_ALLOWED),
    ),
}
"""For each event: the decision, what the record has, and by STATES the state after it, a refusal, or None: removed."""


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_its_outcome_in_every_state(event: str, state: JobState) -> None:
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


@pytest.mark.parametrize("event", sorted(EVENTS.keys() - {"due", "due and expired", "lost"}))
def test_without_a_record_every_event_is_refused(event: str) -> None:
    assert EVENTS[event][0](None) is GONE


# -- what holds of every change ---------------------------------------------------------------------------------------

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
)
outcomes = st.just(Succeeded(b"1")) | st.builds(
    Failed, st.just(ERROR), st.just(("ValueError",)), st.none() | st.just(3.0), burns=st.booleans(), fatal=st.booleans()
)
decisions = st.one_of(
    *(st.just(event[0]) for event in EVENTS.values()),
    outcomes.map(lambda outcome: lambda record: finished(record, outcome)),
    st.booleans().map(lambda stopped: lambda record: lifecycle.interrupt(RULES, record, token="mine", stopped=stopped)),
    st.tuples(st.sampled_from([RULES, EMBEDDED, BURYING]), st.booleans()).map(
        lambda how: lambda record: dispatched(record, how[0], known=how[1])
    ),
    st.sampled_from([RULES, EMBEDDED, BURYING]).map(lambda rules: lambda record: lifecycle.retry(rules, record)),
)


@given(records, decisions)
def test_every_change_is_whole(before: Record, decide: Callable[[Record], Decided]) -> None:
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
    assert record.state.final or record.wake_at is not None or record.state is Q
    if before.state is R and before.cancel_requested and record.state is not R:
        assert record.state is CANCELLED
    if Then.PUBLISH in change.then:
        assert (record.state, record.sent, record.wake_at) == (Q, False, NOW + 10)
    if Then.TELL_DEATH in change.then:
        assert record.state is DEAD
        assert ends
    if record.state is not before.state and record.state is Q:
        assert (record.token, record.interrupted, record.sends) == (None, False, 0)
    assert record.life == before.life + (before.state in FINAL and record.state is Q)

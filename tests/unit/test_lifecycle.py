"""The rules of PROTOCOL, one by one, over single records; what holds of all of them at once is in tests/lifecycle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueport import lifecycle
from queueport.lifecycle import Failed, Refusal, Rules, Succeeded
from queueport.record import Change, Record, Then
from queueport.retry import Retry
from queueport.status import FINAL, JobError, JobState

S, Q, R, A = JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING, JobState.RETRYING
OK, DEAD, CANCELLED = JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED
GONE, NOT_ALLOWED, NOT_MINE, NOTHING = Refusal.GONE, Refusal.NOT_ALLOWED, Refusal.NOT_MINE, Refusal.NOTHING

NOW = 1_000_000.0
RETRY = Retry(max_attempts=3, initial=1.0, factor=2.0, jitter=0.5)
RULES = Rules(lease=30.0, claim=10.0, lost_after=60.0, keep_succeeded=500.0, keep_dead=900.0, retry=RETRY)
EMBEDDED = replace(RULES, carries=False)
BURYING = replace(RULES, buries=True)
ERROR = JobError("builtins.ValueError", "no", "", datetime.fromtimestamp(NOW, UTC), 1)
RAISED = Failed(ERROR, ("builtins.ValueError", "ValueError"))

Decided = Change | Refusal


def job(state: JobState, **values: Any) -> Record:
    return Record(id="j", task="t", queue="q", payload=b"{}", state=state, rev="before", **values)


def running(**values: Any) -> Record:
    return job(R, **{"token": "mine", "attempts": 1, "worker": "w", "wake_at": NOW + 30, **values})


def after(decided: Decided, record: Record) -> Record:
    assert isinstance(decided, Change)
    assert not decided.delete
    return decided.applied(record, "after", NOW)


def finished(record: Record | None, outcome: lifecycle.Outcome, rules: Rules = RULES, random: float = 0.0) -> Decided:
    return lifecycle.finish(rules, record, token="mine", outcome=outcome, random=random)


def dispatched(record: Record, rules: Rules = RULES, *, known: bool = True, now: float = NOW) -> Change:
    return lifecycle.dispatch(rules, record, now=now, known=lambda _: known)


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


@pytest.mark.parametrize("event", EVENTS.keys() - {"due", "due and expired", "lost"})
def test_without_a_record_every_event_is_refused(event: str) -> None:
    assert EVENTS[event][0](None) is GONE


# -- enqueue, mark ----------------------------------------------------------------------------------------------------


def test_a_new_job_is_queued_and_claimed_by_the_one_who_will_publish() -> None:
    change = lifecycle.new(RULES, delay=None, expires=None)
    record = after(change, job(Q))
    assert (record.state, record.sent, record.sends, record.token, record.wake_at) == (Q, False, 0, None, NOW + 10)
    assert change.then == {Then.PUBLISH}


def test_a_delayed_job_is_scheduled_and_woken_when_it_is_due() -> None:
    change = lifecycle.new(RULES, delay=60.0, expires=90.0)
    record = after(change, job(Q))
    assert (record.state, record.run_at, record.wake_at, record.expires_at) == (S, NOW + 60, NOW + 60, NOW + 90)
    assert not change.then


@pytest.mark.parametrize("delay", [0.0, -5.0])
def test_a_time_that_has_passed_is_now(delay: float) -> None:
    record = after(lifecycle.new(RULES, delay=delay, expires=None), job(Q))
    assert (record.state, record.run_at) == (Q, NOW + delay)


def test_where_the_store_is_the_queue_nothing_is_published_and_expiry_wakes_the_dispatcher() -> None:
    change = lifecycle.new(EMBEDDED, delay=None, expires=5.0)
    record = after(change, job(Q))
    assert (record.sent, record.wake_at) == (True, NOW + 5)
    assert not change.then
    assert after(lifecycle.new(EMBEDDED, delay=None, expires=None), job(Q)).wake_at is None


def test_mark_clears_the_claim_and_counts_the_publishing() -> None:
    record = after(lifecycle.mark(job(Q, sends=1, wake_at=NOW + 10)), job(Q, sends=1))
    assert (record.sent, record.sent_at, record.sends, record.wake_at) == (True, NOW, 2, None)


def test_after_an_unknown_publish_outcome_the_claim_doubles_up_to_lost_after() -> None:
    waits, record = [], job(Q)
    for _ in range(4):
        record = after(lifecycle.send_unknown(RULES, record), record)
        waits.append((record.wake_at or 0.0) - NOW)
    assert waits == [20.0, 40.0, 60.0, 60.0]
    assert not record.sent


def test_a_publish_that_failed_for_certain_removes_the_job_and_an_unknown_one_cancels_it() -> None:
    assert lifecycle.withdraw(RULES, certain=True) == Change(delete=True)
    record = after(lifecycle.withdraw(RULES, certain=False), job(Q))
    assert (record.state, record.reason) == (CANCELLED, "not_sent")


# -- begin ------------------------------------------------------------------------------------------------------------


def test_begin_takes_the_token_and_a_lease() -> None:
    begin = lifecycle.begin(RULES, token="mine", worker="w", defaults={"timeout": 5})
    record = after(begin, job(Q, unknown_since=NOW))
    assert (record.state, record.token, record.worker, record.wake_at) == (R, "mine", "w", NOW + 30)
    assert (record.started_at, record.unknown_since, record.defaults) == (NOW, None, {"timeout": 5})


def test_running_with_my_token_is_mine_begun() -> None:
    assert lifecycle.begun(RULES, running(), token="mine", now=NOW) is NOTHING


def test_an_expired_job_that_could_not_be_begun_is_cancelled() -> None:
    record = after(lifecycle.begun(RULES, job(Q, expires_at=NOW), token="mine", now=NOW), job(Q))
    assert (record.state, record.reason) == (CANCELLED, "expired")


def test_a_native_redrive_is_a_retry_only_in_the_life_of_the_copy() -> None:
    dead = job(DEAD, life=2, buried=True)
    assert lifecycle.redrive(BURYING, dead, life=2) == lifecycle.retry(BURYING, dead)
    assert lifecycle.redrive(BURYING, dead, life=1) is NOT_ALLOWED


def test_a_redriven_job_that_cannot_be_revived_is_buried_again() -> None:
    change = lifecycle.bury_again(BURYING, job(DEAD, life=2, buried=True), life=2)
    assert isinstance(change, Change)
    assert (change.set, change.then) == ({"buried": False}, {Then.BURY})
    assert lifecycle.bury_again(BURYING, job(DEAD, life=2), life=1) is NOT_ALLOWED


# -- finish, interrupt ------------------------------------------------------------------------------------------------


def test_finish_keeps_the_token_so_that_a_lost_answer_is_known_again() -> None:
    record = after(finished(running(), Succeeded(b"1")), running())
    assert (record.result, record.token, record.finished_at, record.wake_at) == (b"1", "mine", NOW, NOW + 500)
    assert finished(record, Succeeded(b"1")) is NOTHING


def test_finish_is_heard_after_the_lease_has_lapsed_while_nobody_else_has_begun() -> None:
    assert after(finished(running(wake_at=NOW - 100), Succeeded(b"1")), running()).state is OK


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), RAISED])
def test_a_requested_cancellation_comes_before_any_outcome(outcome: lifecycle.Outcome) -> None:
    change = finished(running(cancel_requested=True), outcome)
    assert isinstance(change, Change)
    assert (change.set["state"], change.processed, change.failed) == (CANCELLED, 1, 0)


def test_a_failure_with_tries_left_is_retried_as_the_policy_says() -> None:
    change = finished(running(failures=1), RAISED, random=0.5)
    record = after(change, running())
    assert isinstance(change, Change)
    assert (record.state, record.failures, record.errors) == (A, 2, (ERROR,))
    assert record.wake_at == NOW + 2.0 * 1.25
    assert (change.processed, change.failed) == (0, 1)


def test_the_last_failure_is_the_death() -> None:
    change = finished(running(failures=2), RAISED)
    record = after(change, running())
    assert isinstance(change, Change)
    assert (record.state, record.failures, record.finished_at, record.wake_at) == (DEAD, 3, NOW, NOW + 900)
    assert (change.processed, change.failed, change.then) == (1, 1, {Then.TELL_DEATH})


def test_where_the_backend_has_dead_letters_a_death_is_claimed_for_burying() -> None:
    change = finished(running(failures=2), RAISED, BURYING)
    assert isinstance(change, Change)
    assert (change.then, change.stamp["wake_at"]) == ({Then.TELL_DEATH, Then.BURY}, 10.0)


@pytest.mark.parametrize(
    ("outcome", "state", "failures"),
    [
        (replace(RAISED, fatal=True), DEAD, 1),
        (replace(RAISED, delay=7.0), A, 1),
        (replace(RAISED, delay=7.0, burns=False), A, 0),
    ],
)
def test_a_task_may_end_it_at_once_or_set_its_own_delay_burning_or_not(
    outcome: Failed, state: JobState, failures: int
) -> None:
    change = finished(running(), outcome)
    record = after(change, running())
    assert isinstance(change, Change)
    assert (record.state, record.failures) == (state, failures)
    assert change.failed == failures
    assert state is DEAD or record.wake_at == NOW + 7


def test_retry_later_without_burning_is_granted_however_often_the_task_has_failed() -> None:
    later = replace(RAISED, delay=7.0, burns=False)
    assert after(finished(running(failures=2), later), running()).state is A


def test_the_policy_says_which_errors_are_retried() -> None:
    record = running(options={"retry": Retry(retry_on=("OSError",)).as_dict()})
    assert after(finished(record, RAISED), record).state is DEAD


@pytest.mark.parametrize(("given", "kept"), [(None, 500.0), (7.0, 7.0)])
def test_a_result_is_kept_as_long_as_the_task_says(given: float | None, kept: float) -> None:
    record = running(options={"keep_result": given})
    assert after(finished(record, Succeeded(b"1")), record).wake_at == NOW + kept


def test_results_kept_by_count_wait_for_no_time() -> None:
    assert after(finished(running(), Succeeded(b"1"), replace(RULES, keep_succeeded=None)), running()).wake_at is None


def test_only_the_newest_errors_are_kept() -> None:
    record = running(errors=tuple(replace(ERROR, attempt=n) for n in range(lifecycle.ERROR_HISTORY)))
    errors = after(finished(record, RAISED), record).errors
    assert len(errors) == lifecycle.ERROR_HISTORY
    assert errors[-1] is ERROR


def test_a_graceful_stop_burns_no_budget() -> None:
    change = lifecycle.interrupt(RULES, running(failures=1, crashes=1), token="mine", stopped=True)
    record = after(change, running(failures=1, crashes=1))
    assert isinstance(change, Change)
    assert (record.state, record.failures, record.crashes, record.token) == (Q, 1, 1, None)
    assert (change.failed, change.then) == (0, {Then.PUBLISH})


def test_a_task_that_does_not_stop_keeps_its_lease() -> None:
    change = lifecycle.interrupt(RULES, running(), token="mine", stopped=False)
    assert change == Change({"interrupted": True})


def test_a_stopped_task_whose_cancellation_was_requested_is_cancelled() -> None:
    record = running(cancel_requested=True)
    assert after(lifecycle.interrupt(RULES, record, token="mine", stopped=True), record).state is CANCELLED


# -- dispatch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [S, A])
def test_what_is_due_enters_its_queue(state: JobState) -> None:
    before = job(state, token="old", sends=3, sent=True, interrupted=True)
    change = dispatched(before)
    record = after(change, before)
    assert (record.state, record.sent, record.sends, record.token, record.interrupted) == (Q, False, 0, None, False)
    assert (record.wake_at, change.then) == (NOW + 10, {Then.PUBLISH})


def test_an_unsent_job_is_published_under_the_claim_itself() -> None:
    assert dispatched(job(Q)) == Change(then=frozenset({Then.PUBLISH}))


def test_where_the_store_is_the_queue_an_expiry_that_is_still_to_come_wakes_again() -> None:
    record = job(Q, sent=True, expires_at=NOW + 1)
    assert after(dispatched(record, EMBEDDED), record).wake_at == NOW + 1


def test_a_lapsed_lease_counts_as_a_crash() -> None:
    change = dispatched(running(crashes=1))
    record = after(change, running(crashes=1))
    assert (record.state, record.crashes, record.token, record.failures) == (Q, 2, None, 0)
    assert record.errors[-1].type == "queueport.errors.WorkerLost"
    assert (change.processed, change.failed, change.then) == (0, 1, {Then.PUBLISH})


@pytest.mark.parametrize(("crashes", "options"), [(2, {}), (0, {"crash_limit": 1})])
def test_the_last_crash_is_the_death(crashes: int, options: dict[str, int]) -> None:
    before = running(crashes=crashes, options=options)
    change = dispatched(before)
    record = after(change, before)
    assert (record.state, record.crashes, change.processed, change.failed) == (DEAD, crashes + 1, 1, 1)
    assert finished(record, Succeeded(b"1")) is NOT_MINE


def test_a_lapsed_lease_of_an_interrupted_attempt_burns_nothing() -> None:
    change = dispatched(running(interrupted=True))
    record = after(change, running(interrupted=True))
    assert (record.state, record.crashes, record.interrupted, change.failed) == (Q, 0, False, 0)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_lapsed_lease_of_a_cancelled_attempt_ends_cancelled(interrupted: bool) -> None:
    before = running(cancel_requested=True, interrupted=interrupted)
    change = dispatched(before)
    assert after(change, before).state is CANCELLED
    assert (change.processed, change.failed) == (1, 0)
    assert finished(after(change, before), Succeeded(b"1")) is NOT_MINE


def test_a_lease_that_is_spared_is_looked_at_again_when_its_holder_has_beaten() -> None:
    assert lifecycle.spare(RULES) == Change(stamp={"wake_at": 10.0})


def test_a_dead_job_is_buried_and_then_kept_from_its_death_on() -> None:
    dead = job(DEAD, finished_at=NOW - 5)
    assert dispatched(dead, BURYING) == Change(then=frozenset({Then.BURY}))
    buried = after(lifecycle.buried(BURYING, dead), dead)
    assert (buried.buried, buried.wake_at) == (True, NOW - 5 + 900)
    assert dispatched(buried, BURYING) == Change(delete=True, then=frozenset({Then.UNBURY}))


def test_a_message_is_lost_when_later_ones_have_arrived_and_each_time_one_is_more_patient() -> None:
    record = job(Q, sent=True, sent_at=NOW, sends=1)
    assert lifecycle.lost(RULES, record, frontier=NOW + 120) is NOTHING
    change = lifecycle.lost(RULES, record, frontier=NOW + 121)
    assert change == Change({"sent": False}, {"wake_at": 10.0}, then=frozenset({Then.PUBLISH}))
    assert lifecycle.lost(RULES, replace(record, sends=2), frontier=NOW + 121) is NOTHING
    assert lifecycle.lost(RULES, replace(record, sent=False), frontier=NOW + 121) is NOT_ALLOWED


# -- a task that no worker knows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [RULES, EMBEDDED])
def test_an_unknown_task_waits_and_is_queued_again_when_a_worker_knows_it(rules: Rules) -> None:
    record = after(lifecycle.unknown(rules, job(Q, sent=True, sends=2)), job(Q, sent=True, sends=2))
    assert (record.state, record.sent, record.sends, record.unknown_since, record.wake_at) == (
        Q,
        False,
        0,
        NOW,
        NOW + 15,
    )
    waits = after(dispatched(record, rules, known=False, now=NOW + 59), record)
    assert (waits.unknown_since, waits.sent, waits.wake_at) == (NOW, False, NOW + 15)
    change = dispatched(record, rules, known=True)
    known = after(change, record)
    assert known.unknown_since is None
    assert known.sent is not rules.carries
    assert change.then == ({Then.PUBLISH} if rules.carries else set())


@pytest.mark.parametrize("rules", [RULES, EMBEDDED])
def test_a_task_that_nobody_knew_for_too_long_is_the_death(rules: Rules) -> None:
    record = job(Q, unknown_since=NOW)
    change = dispatched(record, rules, known=False, now=NOW + 60)
    dead = after(change, record)
    assert (dead.state, dead.errors[-1].type, dead.failures, dead.crashes) == (
        DEAD,
        "queueport.errors.UnknownTask",
        0,
        0,
    )
    assert (change.processed, change.failed) == (1, 0)


def test_meeting_an_unknown_task_again_does_not_start_its_time_anew() -> None:
    record = job(Q, sent=True, unknown_since=NOW - 40)
    assert after(lifecycle.unknown(RULES, record), record).unknown_since == NOW - 40


# -- cancel, retry, discard -------------------------------------------------------------------------------------------


def test_cancelling_a_running_job_is_a_request_and_a_stronger_one_replaces_it() -> None:
    asked = after(lifecycle.cancel(RULES, running(), interrupts=False), running())
    assert (asked.state, asked.cancel_requested, asked.cancel_interrupts) == (R, True, False)
    assert lifecycle.cancel(RULES, asked, interrupts=False) is NOTHING
    stronger = after(lifecycle.cancel(RULES, asked), asked)
    assert stronger.cancel_interrupts
    assert lifecycle.cancel(RULES, stronger, interrupts=False) is NOTHING


@pytest.mark.parametrize("state", [DEAD, CANCELLED])
@pytest.mark.parametrize("rules", [RULES, EMBEDDED, BURYING])
def test_retry_is_a_new_life_with_fresh_budgets(state: JobState, rules: Rules) -> None:
    old = job(
        state,
        life=2,
        attempts=5,
        failures=3,
        crashes=2,
        token="old",
        cancel_requested=True,
        expires_at=NOW - 1,
        reason="expired",
        buried=True,
        errors=(ERROR,),
        finished_at=NOW - 1,
    )
    change = lifecycle.retry(rules, old)
    record = after(change, old)
    assert isinstance(change, Change)
    assert (record.state, record.life, record.attempts, record.failures, record.crashes) == (Q, 3, 5, 0, 0)
    assert (record.cancel_requested, record.expires_at, record.reason, record.buried) == (False, None, None, False)
    assert (record.token, record.finished_at, record.errors, change.processed) == (None, None, (ERROR,), 0)
    assert (Then.UNBURY in change.then) is (rules.buries and state is DEAD)
    assert (Then.PUBLISH in change.then) is rules.carries


@pytest.mark.parametrize("state", [S, A])
def test_retry_of_a_waiting_job_is_now_in_the_same_life(state: JobState) -> None:
    record = after(lifecycle.retry(RULES, job(state, failures=1, token="old")), job(state, failures=1, token="old"))
    assert (record.state, record.life, record.failures, record.token, record.wake_at) == (Q, 1, 1, None, NOW + 10)


def test_discard_takes_the_copy_out_and_does_not_count_the_end_again() -> None:
    change = lifecycle.discard(BURYING, job(DEAD, buried=True))
    record = after(change, job(DEAD, buried=True))
    assert isinstance(change, Change)
    assert (record.state, record.reason, record.buried, change.then) == (CANCELLED, "discarded", False, {Then.UNBURY})
    assert change.processed == 0


def test_a_job_put_into_the_dead_letters_by_hand_is_buried_and_told_to_nobody() -> None:
    change = lifecycle.new_dead(BURYING, ERROR)
    record = after(change, job(Q))
    assert (record.state, record.errors, record.enqueued_at, record.finished_at) == (DEAD, (ERROR,), NOW, NOW)
    assert (change.processed, change.failed, change.then) == (1, 0, {Then.BURY})


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

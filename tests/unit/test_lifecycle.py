"""The rules of PROTOCOL, one by one, each over a single record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from queueport import lifecycle
from queueport.lifecycle import Failed, Rules, Succeeded
from queueport.record import Change, Then
from queueport.retry import Retry
from queueport.status import JobState
from tests.unit.lives import (
    BURY,
    BURYING,
    CANCELLED,
    DEAD,
    EMBEDDED,
    ERROR,
    NOT_ALLOWED,
    NOTHING,
    NOW,
    OK,
    PUBLISH,
    RAISED,
    RULES,
    TELL_DEATH,
    UNBURY,
    A,
    Q,
    R,
    S,
    after,
    finished,
    job,
    running,
)

# -- enqueue, mark ----------------------------------------------------------------------------------------------------


def test_a_new_job_is_queued_and_claimed_by_the_one_who_will_publish() -> None:
    change = lifecycle.new(RULES, delay=None, expires=None)
    record = after(change, job(Q))
    assert (record.state, record.sent, record.sends, record.token, record.wake_at) == (Q, False, 0, None, NOW + 10)
    assert change.then == PUBLISH


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
    assert (change.set, change.then) == ({"buried": False}, BURY)
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
    assert (change.processed, change.failed, change.then) == (1, 1, TELL_DEATH)


def test_where_the_backend_has_dead_letters_a_death_is_claimed_for_burying() -> None:
    change = finished(running(failures=2), RAISED, BURYING)
    assert isinstance(change, Change)
    assert (change.then, change.stamp["wake_at"]) == (TELL_DEATH | BURY, 10.0)


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
    assert (change.failed, change.then) == (0, PUBLISH)


def test_a_task_that_does_not_stop_keeps_its_lease() -> None:
    change = lifecycle.interrupt(RULES, running(), token="mine", stopped=False)
    assert change == Change({"interrupted": True})


def test_a_stopped_task_whose_cancellation_was_requested_is_cancelled() -> None:
    record = running(cancel_requested=True)
    assert after(lifecycle.interrupt(RULES, record, token="mine", stopped=True), record).state is CANCELLED


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
    assert (record.state, record.reason, record.buried, change.then) == (CANCELLED, "discarded", False, UNBURY)
    assert change.processed == 0


def test_a_job_put_into_the_dead_letters_by_hand_is_buried_and_told_to_nobody() -> None:
    change = lifecycle.new_dead(BURYING, ERROR)
    record = after(change, job(Q))
    assert (record.state, record.errors, record.enqueued_at, record.finished_at) == (DEAD, (ERROR,), NOW, NOW)
    assert (change.processed, change.failed, change.then) == (1, 0, BURY)

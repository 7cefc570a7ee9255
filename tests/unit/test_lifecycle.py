"""Decisions of the lifecycle that producers, workers and operators ask for, one rule a test. See docs/protocol.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from queueport.engine.lifecycle import ERROR_HISTORY, Lifecycle
from queueport.engine.rules import AttemptOutcome, Failed, Rules, Succeeded
from queueport.retry import Retry
from queueport.spi.record import Change, FollowUp
from queueport.status import JobState
from tests.unit.records import (
    BURY,
    BURYING,
    CALL_ON_DEAD,
    CANCELLED,
    CLAIMING,
    DEAD,
    ERROR,
    NOT_ALLOWED,
    NOTHING,
    NOW,
    PUBLISH,
    QUEUED,
    RAISED,
    RETRYING,
    RULES,
    RUNNING,
    SCHEDULED,
    SUCCEEDED,
    UNBURY,
    after,
    finish,
    job,
    running,
)

# -- enqueue, mark ----------------------------------------------------------------------------------------------------


def test_a_new_job_is_queued_and_claimed_by_the_process_that_publishes_it() -> None:
    change = Lifecycle(RULES).new(delay=None, expires=None)
    record = after(change, job(QUEUED))
    assert (record.state, record.sent, record.sends, record.token, record.wake_at) == (QUEUED, False, 0, None, NOW + 10)
    assert change.then == PUBLISH


def test_a_delayed_job_is_scheduled_until_its_delay_is_over() -> None:
    change = Lifecycle(RULES).new(delay=60.0, expires=90.0)
    record = after(change, job(QUEUED))
    assert (record.state, record.run_at, record.wake_at, record.expires_at) == (SCHEDULED, NOW + 60, NOW + 60, NOW + 90)
    assert not change.then


@pytest.mark.parametrize("delay", [0.0, -5.0])
def test_a_job_whose_time_has_passed_is_queued_at_once(delay: float) -> None:
    record = after(Lifecycle(RULES).new(delay=delay, expires=None), job(QUEUED))
    assert (record.state, record.run_at) == (QUEUED, NOW + delay)


def test_in_a_claiming_store_a_new_job_is_not_published_and_wakes_the_dispatcher_at_its_expiry() -> None:
    change = Lifecycle(CLAIMING).new(delay=None, expires=5.0)
    record = after(change, job(QUEUED))
    assert (record.sent, record.sent_at, record.wake_at) == (True, None, NOW + 5)
    assert not change.then
    assert after(Lifecycle(CLAIMING).new(delay=None, expires=None), job(QUEUED)).wake_at is None


def test_mark_ends_the_claim_and_counts_the_publish() -> None:
    record = after(Lifecycle(RULES).mark(job(QUEUED, sends=1, wake_at=NOW + 10)), job(QUEUED, sends=1))
    assert (record.sent, record.sent_at, record.sends, record.wake_at) == (True, NOW, 2, None)


def test_the_claim_doubles_with_each_unknown_publish_outcome_up_to_lost_after() -> None:
    waits, record = [], job(QUEUED)
    for _ in range(4):
        record = after(Lifecycle(RULES).send_unknown(record, why="no answer", now=NOW), record)
        waits.append((record.wake_at or 0.0) - NOW)
    assert waits == [20.0, 40.0, 60.0, 60.0]
    assert not record.sent


def test_a_failed_publish_waits_as_long_as_the_job_is_queued_already_up_to_lost_after() -> None:
    waits, at, record = [], NOW, job(QUEUED, queued_at=NOW)
    for _ in range(5):
        record = after(Lifecycle(RULES).send_failed(record, why="no permission", now=at), record)
        waits.append((record.wake_at or 0.0) - NOW)
        at += waits[-1]
    assert waits == [10.0, 10.0, 20.0, 40.0, 60.0]
    assert (record.state, record.sent, record.sends) == (QUEUED, False, 0)


def test_a_failed_publish_is_the_newest_error_until_the_message_is_confirmed_or_another_error_occurs() -> None:
    record = job(QUEUED, errors=(ERROR,))
    for why in ("first", "second"):
        record = after(Lifecycle(RULES).send_failed(record, why=why, now=NOW), record)
    assert [error.message for error in record.errors] == ["no", "second"]
    assert record.errors[-1].type == "queueport.errors.PublishFailed"
    assert after(Lifecycle(RULES).mark(record), record).errors == (ERROR,)
    began = replace(record, state=RUNNING, token="mine", attempts=1)
    assert after(finish(began, RAISED), began).errors == (ERROR, ERROR)


def test_a_job_whose_message_is_refused_is_dead_and_buried() -> None:
    change = Lifecycle(BURYING).send_refused(job(QUEUED, errors=(ERROR,)), why="too large", now=NOW)
    record = after(change, job(QUEUED))
    assert (record.state, record.finished_at, record.failures) == (DEAD, NOW, 0)
    assert [error.message for error in record.errors] == ["no", "too large"]
    assert (change.then, change.processed, change.failed) == (BURY | CALL_ON_DEAD, 1, 0)


def test_withdraw_deletes_the_job_if_the_publish_failed_and_cancels_it_if_the_outcome_is_unknown() -> None:
    assert Lifecycle(RULES).withdraw(certain=True) == Change(delete=True)
    record = after(Lifecycle(RULES).withdraw(certain=False), job(QUEUED))
    assert (record.state, record.reason) == (CANCELLED, "not_sent")


# -- begin ------------------------------------------------------------------------------------------------------------


def test_begin_records_the_token_the_worker_and_a_lease() -> None:
    begin = Lifecycle(RULES).begin(token="mine", worker="w", defaults={"timeout": 5})
    record = after(begin, job(QUEUED, unknown_since=NOW))
    assert (record.state, record.token, record.worker, record.wake_at) == (RUNNING, "mine", "w", NOW + 30)
    assert (record.started_at, record.unknown_since, record.defaults) == (NOW, None, {"timeout": 5})


def test_a_begin_whose_answer_was_lost_is_recognised_by_its_token() -> None:
    assert Lifecycle(RULES).begin_refused(running(), token="mine", now=NOW) is NOTHING


def test_a_queued_job_that_has_expired_is_cancelled_instead_of_begun() -> None:
    record = after(Lifecycle(RULES).begin_refused(job(QUEUED, expires_at=NOW), token="mine", now=NOW), job(QUEUED))
    assert (record.state, record.reason) == (CANCELLED, "expired")


def test_a_redrive_retries_the_job_only_in_the_life_of_the_copy() -> None:
    dead = job(DEAD, life=2, buried=True)
    assert Lifecycle(BURYING).redrive(dead, life=2) == Lifecycle(BURYING).retry(dead)
    assert Lifecycle(BURYING).redrive(dead, life=1) is NOT_ALLOWED


def test_a_redriven_job_that_cannot_be_retried_is_buried_again() -> None:
    change = Lifecycle(BURYING).bury_again(job(DEAD, life=2, buried=True), life=2)
    assert isinstance(change, Change)
    assert (change.set, change.then) == ({"buried": False}, BURY)
    assert Lifecycle(BURYING).bury_again(job(DEAD, life=2), life=1) is NOT_ALLOWED


# -- finish, interrupt ------------------------------------------------------------------------------------------------


def test_finish_keeps_the_token_so_that_a_repeated_call_is_recognised() -> None:
    record = after(finish(running(), Succeeded(b"1")), running())
    assert (record.result, record.token, record.finished_at, record.wake_at) == (b"1", "mine", NOW, NOW + 500)
    assert finish(record, Succeeded(b"1")) is NOTHING


def test_finish_is_accepted_after_the_lease_lapsed_if_no_other_attempt_has_begun() -> None:
    assert after(finish(running(wake_at=NOW - 100), Succeeded(b"1")), running()).state is SUCCEEDED


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), RAISED])
def test_a_job_with_a_cancel_request_ends_cancelled_whatever_the_outcome(outcome: AttemptOutcome) -> None:
    change = finish(running(cancel_requested=True), outcome)
    assert isinstance(change, Change)
    assert (change.set["state"], change.processed, change.failed) == (CANCELLED, 1, 0)


def test_a_failure_within_the_budget_is_retried_after_the_delay_of_the_policy() -> None:
    change = finish(running(failures=1), RAISED, random=0.5)
    record = after(change, running())
    assert isinstance(change, Change)
    assert (record.state, record.failures, record.errors) == (RETRYING, 2, (ERROR,))
    assert record.wake_at == NOW + 2.0 * 1.25
    assert (change.processed, change.failed) == (0, 1)


def test_a_job_is_dead_when_its_failure_budget_is_used_up() -> None:
    change = finish(running(failures=2), RAISED)
    record = after(change, running())
    assert isinstance(change, Change)
    assert (record.state, record.failures, record.finished_at, record.wake_at) == (DEAD, 3, NOW, NOW + 900)
    assert (change.processed, change.failed, change.then) == (1, 1, CALL_ON_DEAD)


def test_a_dead_job_is_claimed_for_burying_if_the_backend_has_dead_letters() -> None:
    change = finish(running(failures=2), RAISED, BURYING)
    assert isinstance(change, Change)
    assert (change.then, change.stamp["wake_at"]) == (CALL_ON_DEAD | BURY, 10.0)


@pytest.mark.parametrize(
    ("outcome", "state", "failures"),
    [
        (replace(RAISED, fatal=True), DEAD, 1),
        (replace(RAISED, delay=7.0), RETRYING, 1),
        (replace(RAISED, delay=7.0, burns=False), RETRYING, 0),
    ],
)
def test_a_task_can_abort_or_choose_its_delay_with_or_without_burning_the_budget(
    outcome: Failed, state: JobState, failures: int
) -> None:
    change = finish(running(), outcome)
    record = after(change, running())
    assert isinstance(change, Change)
    assert (record.state, record.failures) == (state, failures)
    assert change.failed == failures
    assert state is DEAD or record.wake_at == NOW + 7


def test_a_retry_that_burns_no_budget_is_allowed_after_any_number_of_failures() -> None:
    later = replace(RAISED, delay=7.0, burns=False)
    assert after(finish(running(failures=2), later), running()).state is RETRYING


def test_an_error_that_the_policy_does_not_retry_makes_the_job_dead() -> None:
    record = running(options={"retry": Retry(retry_on=("OSError",)).as_dict()})
    assert after(finish(record, RAISED), record).state is DEAD


@pytest.mark.parametrize(("given", "kept"), [(None, 500.0), (7.0, 7.0)])
def test_a_result_is_kept_for_the_time_that_the_task_sets(given: float | None, kept: float) -> None:
    record = running(options={"keep_result": given})
    assert after(finish(record, Succeeded(b"1")), record).wake_at == NOW + kept


def test_a_result_that_is_kept_by_count_has_no_wake_time() -> None:
    assert after(finish(running(), Succeeded(b"1"), replace(RULES, keep_succeeded=None)), running()).wake_at is None


def test_only_the_newest_errors_are_kept() -> None:
    record = running(errors=tuple(replace(ERROR, attempt=n) for n in range(ERROR_HISTORY)))
    errors = after(finish(record, RAISED), record).errors
    assert len(errors) == ERROR_HISTORY
    assert [error.attempt for error in errors[:-1]] == list(range(1, ERROR_HISTORY))
    assert errors[-1] is ERROR


def test_a_graceful_stop_burns_no_budget() -> None:
    change = Lifecycle(RULES).interrupt(running(failures=1, crashes=1), token="mine", stopped=True)
    record = after(change, running(failures=1, crashes=1))
    assert isinstance(change, Change)
    assert (record.state, record.failures, record.crashes, record.token) == (QUEUED, 1, 1, None)
    assert (change.failed, change.then) == (0, PUBLISH)


def test_a_task_that_does_not_stop_keeps_its_lease() -> None:
    change = Lifecycle(RULES).interrupt(running(), token="mine", stopped=False)
    assert change == Change({"interrupted": True})


def test_an_interrupted_job_with_a_cancel_request_is_cancelled() -> None:
    record = running(cancel_requested=True)
    assert after(Lifecycle(RULES).interrupt(record, token="mine", stopped=True), record).state is CANCELLED


# -- cancel, retry, discard -------------------------------------------------------------------------------------------


def test_cancel_of_a_running_job_is_a_request_that_a_later_one_can_turn_into_an_interrupt() -> None:
    asked = after(Lifecycle(RULES).cancel(running(), interrupts=False), running())
    assert (asked.state, asked.cancel_requested, asked.cancel_interrupts) == (RUNNING, True, False)
    assert Lifecycle(RULES).cancel(asked, interrupts=False) is NOTHING
    stronger = after(Lifecycle(RULES).cancel(asked), asked)
    assert stronger.cancel_interrupts
    assert Lifecycle(RULES).cancel(stronger, interrupts=False) is NOTHING


@pytest.mark.parametrize("state", [DEAD, CANCELLED])
@pytest.mark.parametrize("rules", [RULES, CLAIMING, BURYING])
def test_retry_gives_a_dead_or_cancelled_job_a_new_life_with_fresh_budgets(state: JobState, rules: Rules) -> None:
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
    change = Lifecycle(rules).retry(old)
    record = after(change, old)
    assert isinstance(change, Change)
    assert (record.state, record.life, record.attempts, record.failures, record.crashes) == (QUEUED, 3, 5, 0, 0)
    assert (record.cancel_requested, record.expires_at, record.reason, record.buried) == (False, None, None, False)
    assert (record.token, record.finished_at, record.errors, change.processed) == (None, None, (ERROR,), 0)
    assert (FollowUp.UNBURY in change.then) is (rules.buries and state is DEAD)
    assert (FollowUp.PUBLISH in change.then) is rules.carries


@pytest.mark.parametrize("state", [SCHEDULED, RETRYING])
def test_retry_queues_a_scheduled_or_retrying_job_at_once_in_the_same_life(state: JobState) -> None:
    record = after(Lifecycle(RULES).retry(job(state, failures=1, token="old")), job(state, failures=1, token="old"))
    assert (record.state, record.life, record.failures, record.token, record.wake_at) == (QUEUED, 1, 1, None, NOW + 10)


def test_discard_removes_the_copy_and_does_not_count_the_job_as_processed_again() -> None:
    change = Lifecycle(BURYING).discard(job(DEAD, buried=True))
    record = after(change, job(DEAD, buried=True))
    assert isinstance(change, Change)
    assert (record.state, record.reason, record.buried, change.then) == (CANCELLED, "discarded", False, UNBURY)
    assert change.processed == 0


def test_a_job_that_an_operator_adds_to_the_dead_letters_is_buried_without_on_dead_hooks() -> None:
    change = Lifecycle(BURYING).new_dead(ERROR)
    record = after(change, job(QUEUED))
    assert (record.state, record.errors, record.enqueued_at, record.finished_at) == (DEAD, (ERROR,), NOW, NOW)
    assert (change.processed, change.failed, change.then) == (1, 0, BURY)

"""Decisions of the lifecycle that a dispatcher asks for, one rule a test. See docs/protocol.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from queueport.engine.lifecycle import Lifecycle
from queueport.engine.rules import Rules, Succeeded
from queueport.spi.record import Change
from queueport.status import JobState
from tests.unit.records import (
    BURY,
    BURYING,
    CANCELLED,
    CLAIMING,
    DEAD,
    NOT_ALLOWED,
    NOT_MINE,
    NOTHING,
    NOW,
    PUBLISH,
    QUEUED,
    RETRYING,
    RULES,
    SCHEDULED,
    UNBURY,
    after,
    dispatch,
    finish,
    job,
    running,
)


@pytest.mark.parametrize("state", [SCHEDULED, RETRYING])
def test_a_scheduled_or_retrying_job_is_queued_when_it_is_due(state: JobState) -> None:
    before = job(state, token="old", sends=3, sent=True, interrupted=True)
    change = dispatch(before)
    record = after(change, before)
    assert (record.state, record.sent, record.sends, record.token, record.interrupted) == (
        QUEUED,
        False,
        0,
        None,
        False,
    )
    assert (record.wake_at, change.then) == (NOW + 10, PUBLISH)


def test_an_unsent_job_is_published_under_the_dispatchers_claim() -> None:
    assert dispatch(job(QUEUED)) == Change(then=PUBLISH)


def test_in_a_claiming_store_a_job_that_has_not_expired_yet_wakes_the_dispatcher_again() -> None:
    record = job(QUEUED, sent=True, expires_at=NOW + 1)
    assert after(dispatch(record, CLAIMING), record).wake_at == NOW + 1


def test_a_lapsed_lease_counts_as_a_crash() -> None:
    change = dispatch(running(crashes=1))
    record = after(change, running(crashes=1))
    assert (record.state, record.crashes, record.token, record.failures) == (QUEUED, 2, None, 0)
    assert record.errors[-1].type == "queueport.errors.WorkerLost"
    assert (change.processed, change.failed, change.then) == (0, 1, PUBLISH)


@pytest.mark.parametrize(("crashes", "options"), [(2, {}), (0, {"crash_limit": 1})])
def test_a_job_is_dead_when_its_crash_budget_is_used_up(crashes: int, options: dict[str, int]) -> None:
    before = running(crashes=crashes, options=options)
    change = dispatch(before)
    record = after(change, before)
    assert (record.state, record.crashes, change.processed, change.failed) == (DEAD, crashes + 1, 1, 1)
    assert finish(record, Succeeded(b"1")) is NOT_MINE


def test_a_lapsed_lease_of_an_interrupted_attempt_burns_no_budget() -> None:
    change = dispatch(running(interrupted=True))
    record = after(change, running(interrupted=True))
    assert (record.state, record.crashes, record.interrupted, change.failed) == (QUEUED, 0, False, 0)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_job_with_a_cancel_request_is_cancelled_when_its_lease_lapses(interrupted: bool) -> None:
    before = running(cancel_requested=True, interrupted=interrupted)
    change = dispatch(before)
    assert after(change, before).state is CANCELLED
    assert (change.processed, change.failed) == (1, 0)
    assert finish(after(change, before), Succeeded(b"1")) is NOT_MINE


def test_a_postponed_decision_extends_the_lease_by_the_time_between_two_heartbeats() -> None:
    assert dispatch(running(), seconds=10.1) == Change(stamp={"wake_at": 10.0})
    assert after(dispatch(running(), seconds=10.0), running()).state is QUEUED


def test_a_dead_job_is_buried_and_kept_until_keep_dead_after_its_death() -> None:
    dead = job(DEAD, finished_at=NOW - 5)
    assert dispatch(dead, BURYING) == Change(then=BURY)
    buried = after(Lifecycle(BURYING).mark_buried(dead), dead)
    assert (buried.buried, buried.wake_at) == (True, NOW - 5 + 900)
    assert dispatch(buried, BURYING) == Change(delete=True, then=UNBURY)


def test_a_message_sent_long_before_the_frontier_is_lost_and_each_send_doubles_the_wait() -> None:
    record = job(QUEUED, sent=True, sent_at=NOW, sends=1)
    assert Lifecycle(RULES).resend(record, frontier=NOW + 120) is NOTHING
    change = Lifecycle(RULES).resend(record, frontier=NOW + 121)
    assert change == Change({"sent": False}, {"wake_at": 10.0}, then=PUBLISH)
    assert Lifecycle(RULES).resend(replace(record, sends=2), frontier=NOW + 121) is NOTHING
    assert Lifecycle(RULES).resend(replace(record, sent=False), frontier=NOW + 121) is NOT_ALLOWED


# -- a task that no worker knows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [RULES, CLAIMING])
def test_a_job_whose_task_is_unknown_waits_until_a_worker_knows_the_task(rules: Rules) -> None:
    record = after(Lifecycle(rules).task_unknown(job(QUEUED, sent=True, sends=2)), job(QUEUED, sent=True, sends=2))
    assert (record.state, record.sent, record.sends) == (QUEUED, False, 0)
    assert (record.unknown_since, record.wake_at) == (NOW, NOW + 1)
    waits = after(dispatch(record, rules, known=False, now=NOW + 59), record)
    assert (waits.unknown_since, waits.sent, waits.wake_at) == (NOW, False, NOW + 15)
    change = dispatch(record, rules, known=True)
    known = after(change, record)
    assert known.unknown_since is None
    assert known.sent is not rules.carries
    assert change.then == (PUBLISH if rules.carries else frozenset())


@pytest.mark.parametrize("rules", [RULES, CLAIMING])
def test_a_job_whose_task_stays_unknown_for_too_long_is_dead(rules: Rules) -> None:
    record = job(QUEUED, unknown_since=NOW)
    change = dispatch(record, rules, known=False, now=NOW + 60)
    dead = after(change, record)
    assert (dead.state, dead.errors[-1].type, dead.failures, dead.crashes) == (
        DEAD,
        "queueport.errors.UnknownTask",
        0,
        0,
    )
    assert (change.processed, change.failed) == (1, 0)


def test_a_second_worker_that_does_not_know_the_task_does_not_restart_the_wait() -> None:
    record = job(QUEUED, sent=True, unknown_since=NOW - 40)
    assert after(Lifecycle(RULES).task_unknown(record), record).unknown_since == NOW - 40


def test_a_failed_burial_waits_as_long_as_the_job_is_dead_already_and_ends_with_the_retention() -> None:
    dead = job(DEAD, finished_at=NOW - 100, wake_at=NOW)
    assert after(Lifecycle(BURYING).bury_failed(dead, now=NOW), dead).wake_at == NOW + 100
    assert after(Lifecycle(BURYING).bury_failed(dead, now=NOW - 99), dead).wake_at == NOW + 10
    assert dispatch(dead, BURYING).then == BURY
    over = replace(dead, finished_at=NOW - 900)
    assert dispatch(over, BURYING) == Change(delete=True)


def test_a_refused_copy_is_not_buried_again_but_kept_as_a_dead_letter() -> None:
    dead = job(DEAD, finished_at=NOW - 100, wake_at=NOW)
    record = after(Lifecycle(BURYING).bury_refused(dead), dead)
    assert (record.buried, record.wake_at) == (False, NOW + 800)

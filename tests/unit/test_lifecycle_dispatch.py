"""The rules of PROTOCOL that a dispatcher follows, one by one, each over a single record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from queueport import lifecycle
from queueport.lifecycle import Rules, Succeeded
from queueport.record import Change
from queueport.status import JobState
from tests.unit.lives import (
    BURY,
    BURYING,
    CANCELLED,
    DEAD,
    EMBEDDED,
    NOT_ALLOWED,
    NOT_MINE,
    NOTHING,
    NOW,
    PUBLISH,
    RULES,
    UNBURY,
    A,
    Q,
    S,
    after,
    dispatched,
    finished,
    job,
    running,
)


@pytest.mark.parametrize("state", [S, A])
def test_what_is_due_enters_its_queue(state: JobState) -> None:
    before = job(state, token="old", sends=3, sent=True, interrupted=True)
    change = dispatched(before)
    record = after(change, before)
    assert (record.state, record.sent, record.sends, record.token, record.interrupted) == (Q, False, 0, None, False)
    assert (record.wake_at, change.then) == (NOW + 10, PUBLISH)


def test_an_unsent_job_is_published_under_the_claim_itself() -> None:
    assert dispatched(job(Q)) == Change(then=PUBLISH)


def test_where_the_store_is_the_queue_an_expiry_that_is_still_to_come_wakes_again() -> None:
    record = job(Q, sent=True, expires_at=NOW + 1)
    assert after(dispatched(record, EMBEDDED), record).wake_at == NOW + 1


def test_a_lapsed_lease_counts_as_a_crash() -> None:
    change = dispatched(running(crashes=1))
    record = after(change, running(crashes=1))
    assert (record.state, record.crashes, record.token, record.failures) == (Q, 2, None, 0)
    assert record.errors[-1].type == "queueport.errors.WorkerLost"
    assert (change.processed, change.failed, change.then) == (0, 1, PUBLISH)


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
    assert dispatched(dead, BURYING) == Change(then=BURY)
    buried = after(lifecycle.buried(BURYING, dead), dead)
    assert (buried.buried, buried.wake_at) == (True, NOW - 5 + 900)
    assert dispatched(buried, BURYING) == Change(delete=True, then=UNBURY)


def test_a_message_is_lost_when_later_ones_have_arrived_and_each_time_one_is_more_patient() -> None:
    record = job(Q, sent=True, sent_at=NOW, sends=1)
    assert lifecycle.lost(RULES, record, frontier=NOW + 120) is NOTHING
    change = lifecycle.lost(RULES, record, frontier=NOW + 121)
    assert change == Change({"sent": False}, {"wake_at": 10.0}, then=PUBLISH)
    assert lifecycle.lost(RULES, replace(record, sends=2), frontier=NOW + 121) is NOTHING
    assert lifecycle.lost(RULES, replace(record, sent=False), frontier=NOW + 121) is NOT_ALLOWED


# -- a task that no worker knows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [RULES, EMBEDDED])
def test_an_unknown_task_waits_and_is_queued_again_when_a_worker_knows_it(rules: Rules) -> None:
    record = after(lifecycle.unknown(rules, job(Q, sent=True, sends=2)), job(Q, sent=True, sends=2))
    assert (record.state, record.sent, record.sends) == (Q, False, 0)
    assert (record.unknown_since, record.wake_at) == (NOW, NOW + 1)
    waits = after(dispatched(record, rules, known=False, now=NOW + 59), record)
    assert (waits.unknown_since, waits.sent, waits.wake_at) == (NOW, False, NOW + 15)
    change = dispatched(record, rules, known=True)
    known = after(change, record)
    assert known.unknown_since is None
    assert known.sent is not rules.carries
    assert change.then == (PUBLISH if rules.carries else frozenset())


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

"""The part of the store suite about insert, get, swap, begin and heartbeat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from queueport import lifecycle
from queueport.record import RECORD_VERSION, Change
from queueport.status import JobState, Progress
from queueport.store import Beat, Begin, Insert, JobStore, Outcome, Swap
from queueport.testing.stores.harness import (
    CARRIED,
    RULES,
    TOKEN,
    Clock,
    Tests,
    applied,
    bare,
    dead,
    error,
    put,
    retrying,
    rev,
    run,
    succeeded,
    swap,
)

__all__ = ["Keys", "Writes"]

WHOLE = {
    "payload": b"\0\xff" * 1000,
    "priority": -10,
    "group": "gr\0up",
    "key": "ключ 🔑 \0",
    "headers": {"trace": "\udcff\0é", "": ""},
    "options": {"retry": {"max_attempts": 5, "retry_on": ["a.B"]}, "timeout": 1.5, "deep": [[[None, 2**60]]]},
    "defaults": {"timeout": None},
    "life": 3,
    "attempts": 2**40,
    "failures": 4,
    "crashes": 5,
    "token": "t",
    "wake_at": 1_700_000_123.456789,
    "sent": True,
    "sent_at": 0.1 + 0.2,
    "sends": 6,
    "cancel_requested": True,
    "cancel_interrupts": False,
    "interrupted": True,
    "buried": True,
    "enqueued_at": 1.0,
    "queued_at": 2.0,
    "run_at": 3.0,
    "expires_at": 4.0,
    "started_at": 5.0,
    "finished_at": 6.0,
    "unknown_since": 7.0,
    "worker": "host:1",
    "result": b"",
    "errors": (error("a.B"), replace(error(), message="\udc80 \0 é", traceback="")),
    "progress": Progress(0.5, None, "ü\udc80"),
    "reason": "cancelled",
}
"""A value other than the default for every field that has one."""


class Writes(Tests):
    def test_an_inserted_record_is_answered_and_read_back_as_it_is_now(self, store: JobStore, clock: Clock) -> None:
        change = lifecycle.new(CARRIED, delay=None, expires=60.0)
        written = applied(store.insert([Insert(bare("a"), change, "r1")]))
        assert written.rev == "r1"
        assert written.state is JobState.QUEUED
        assert (written.enqueued_at, written.queued_at) == (clock.now, clock.now)
        assert written.wake_at == clock.now + CARRIED.claim
        assert written.expires_at == clock.now + 60.0
        assert store.get(["a"]) == [written]

    @pytest.mark.parametrize("state", list(JobState))
    def test_every_field_comes_back_equal(self, store: JobStore, state: JobState) -> None:
        plain, whole = bare("a").values(), bare("a", **WHOLE)
        same = {name for name, value in whole.values().items() if value == plain[name]}
        assert same == {"id", "task", "queue", "state", "rev", "v"}, "WHOLE is to have every field that has a default"
        written = applied(store.insert([Insert(whole, Change({"state": state}), "r")]))
        assert written == replace(whole, state=state, rev="r")
        assert store.get(["a"]) == [written]

    def test_a_large_payload_comes_back(self, store: JobStore) -> None:
        limit = store.limits.payload
        payload = bytes(range(256)) * ((2**20 if limit is None else min(limit, 2**20)) // 256)
        put(store, "a", payload=payload)
        (found,) = store.get(["a"])
        assert found is not None
        assert found.payload == payload

    def test_get_answers_in_the_order_asked_and_none_for_what_is_absent(self, store: JobStore) -> None:
        a, b = put(store, "a"), put(store, "b")
        assert store.get(["b", "x", "a", "b"]) == [b, None, a, b]
        assert store.get([]) == []

    def test_an_id_that_exists_is_refused_with_the_record_so_that_a_lost_answer_is_known_by_its_rev(
        self, store: JobStore
    ) -> None:
        first = put(store, "a", task="one")
        (again,) = store.insert([Insert(bare("a", task="two"), Change({}), "r2")])
        assert (again.outcome, again.record) == (Outcome.REFUSED, first)
        assert store.get(["a"]) == [first]

    def test_a_batch_is_answered_in_order_and_each_item_sees_those_before_it(self, store: JobStore) -> None:
        new = lifecycle.new(RULES, delay=None, expires=None)
        answers = store.insert([Insert(bare(name, task=name), new, f"r{i}") for i, name in enumerate("abac")])
        assert [answer.outcome.name for answer in answers] == ["APPLIED", "APPLIED", "REFUSED", "APPLIED"]
        assert [answer.record and answer.record.rev for answer in answers] == ["r0", "r1", "r0", "r3"]

    def test_a_swap_is_applied_once_and_its_repetition_finds_its_own_rev(self, store: JobStore, clock: Clock) -> None:
        record = put(store, "a")
        clock.advance(5)
        change = Swap("a", record.rev, Change({"priority": 3}, {"wake_at": 2.0, "queued_at": 0.0}), "mine")
        written = applied(store.swap([change]))
        assert written == replace(record, rev="mine", priority=3, wake_at=clock.now + 2.0, queued_at=clock.now)
        (again,) = store.swap([change])
        assert (again.outcome, again.record) == (Outcome.REFUSED, written)
        assert store.get(["a"]) == [written]

    def test_a_swap_on_another_rev_or_on_no_record_changes_nothing(self, store: JobStore) -> None:
        record = put(store, "a")
        stale, absent = store.swap(
            [Swap("a", "another", Change({"sends": 9}), "r"), Swap("x", "another", Change({"sends": 9}), "r")]
        )
        assert (stale.outcome, stale.record) == (Outcome.REFUSED, record)
        assert (absent.outcome, absent.record) == (Outcome.REFUSED, None)
        assert store.get(["a", "x"]) == [record, None]

    def test_swaps_of_one_batch_follow_each_other(self, store: JobStore) -> None:
        record = put(store, "a")
        swaps = [Swap("a", record.rev, Change({"sends": 1}), "r1"), Swap("a", "r1", Change({"sends": 2}), "r2")]
        assert [answer.applied for answer in store.swap(swaps)] == [True, True]
        assert store.get(["a"]) == [replace(record, rev="r2", sends=2)]

    def test_a_deleted_record_is_gone_and_its_id_free(self, store: JobStore) -> None:
        record = put(store, "a", key="k")
        stale, gone = store.swap(
            [Swap("a", "no", Change(delete=True), "r"), Swap("a", record.rev, Change(delete=True), "r")]
        )
        assert (stale.outcome, stale.record) == (Outcome.REFUSED, record)
        assert (gone.outcome, gone.record) == (Outcome.APPLIED, None)
        assert store.get(["a"]) == [None]
        assert put(store, "a", key="k").attempts == 0

    @pytest.mark.parametrize("sent", [True, False])
    def test_begin_starts_what_is_queued_whether_sent_or_not(
        self, store: JobStore, clock: Clock, *, sent: bool
    ) -> None:
        record = swap(store, put(store, "a"), sent=sent)
        clock.advance(1)
        begun = run(store, record)
        assert (begun.state, begun.token, begun.attempts) == (JobState.RUNNING, TOKEN, 1)
        assert (begun.started_at, begun.wake_at) == (clock.now, clock.now + RULES.lease)
        (again,) = store.begin([Begin("a", Change({"state": JobState.RUNNING}), "r")])
        assert (again.outcome, again.record) == (Outcome.REFUSED, begun)
        assert run(store, swap(store, begun, state=JobState.QUEUED)).attempts == 2

    def test_begin_refuses_what_is_not_queued(self, store: JobStore) -> None:
        others = [put(store, delay=9.0), run(store, put(store)), retrying(store), succeeded(store), dead(store)]
        others.append(swap(store, put(store), state=JobState.CANCELLED))
        answers = store.begin([Begin(record.id, Change({"attempts": 99}), rev()) for record in others])
        assert [(answer.outcome, answer.record) for answer in answers] == [
            (Outcome.REFUSED, record) for record in others
        ]
        (absent,) = store.begin([Begin("absent", Change({}), rev())])
        assert (absent.outcome, absent.record) == (Outcome.REFUSED, None)

    def test_begin_refuses_a_job_from_the_moment_it_expires(self, store: JobStore, clock: Clock) -> None:
        a, b = put(store, expires=10.0), put(store, expires=10.0)
        clock.advance(9.75)
        run(store, a)
        clock.advance(0.25)
        (late,) = store.begin([Begin(b.id, Change({}), rev())])
        assert (late.outcome, late.record) == (Outcome.REFUSED, b)

    def test_begin_leaves_the_record_of_a_newer_queueport_alone(self, store: JobStore) -> None:
        newer = put(store, v=RECORD_VERSION + 1)
        (answer,) = store.begin([Begin(newer.id, Change({}), rev())])
        assert (answer.outcome, answer.record) == (Outcome.REFUSED, newer)

    def test_a_heartbeat_prolongs_the_lease_of_its_own_attempt_lapsed_or_not(
        self, store: JobStore, clock: Clock
    ) -> None:
        record = run(store, put(store))
        clock.advance(RULES.lease + 100)
        beat = Beat(record.id, TOKEN, 30.0, "r2", {"progress": Progress(1, 2, "half")})
        assert applied(store.heartbeat([beat])) == replace(
            record, rev="r2", wake_at=clock.now + 30.0, progress=Progress(1, 2, "half")
        )

    def test_a_heartbeat_of_another_attempt_or_of_no_running_job_is_refused(self, store: JobStore) -> None:
        running, queued, ended = run(store, put(store)), put(store, token=TOKEN), succeeded(store)
        beats = [
            Beat(running.id, "stale", 9.0, "r"),
            Beat(queued.id, TOKEN, 9.0, "r"),
            Beat(ended.id, TOKEN, 9.0, "r"),
        ]
        answers = store.heartbeat([*beats, Beat("absent", TOKEN, 9.0, "r")])
        assert [answer.record for answer in answers] == [running, queued, ended, None]
        assert {answer.outcome for answer in answers} == {Outcome.REFUSED}
        assert store.get([running.id, queued.id, ended.id]) == [running, queued, ended]


class Keys(Tests):
    def test_a_key_is_held_by_the_living_job_of_that_task(self, store: JobStore) -> None:
        holder = put(store, key="k")
        (answer,) = store.insert([Insert(bare("b", key="k"), lifecycle.new(RULES, delay=None, expires=None), "r")])
        assert (answer.outcome, answer.record) == (Outcome.KEY_HELD, holder)
        assert store.get(["b"]) == [None]
        put(store, "c", key="k", task="another")
        put(store, "d", key="another")

    def test_the_holder_keeps_its_key_through_every_living_state(self, store: JobStore) -> None:
        record = put(store, key="k", delay=5.0)
        for state in (JobState.QUEUED, JobState.RUNNING, JobState.RETRYING, JobState.SCHEDULED):
            record = swap(store, record, state=state)
            (answer,) = store.insert([Insert(bare(key="k"), Change({}), rev())])
            assert (answer.outcome, answer.record) == (Outcome.KEY_HELD, record)

    @pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED])
    def test_a_final_state_releases_the_key_and_its_next_holder_keeps_it(
        self, store: JobStore, state: JobState
    ) -> None:
        first = swap(store, put(store, key="k"), state=state)
        second = put(store, key="k")
        assert swap(store, first, reason="later").state is state
        (answer,) = store.insert([Insert(bare(key="k"), Change({}), rev())])
        assert (answer.outcome, answer.record) == (Outcome.KEY_HELD, second)

    def test_a_job_that_comes_back_to_life_meets_the_held_key(self, store: JobStore) -> None:
        record = dead(store, key="k")
        holder = put(store, key="k")
        change = lifecycle.retry(RULES, record)
        assert isinstance(change, Change)
        (answer,) = store.swap([Swap(record.id, record.rev, change, "r")])
        assert (answer.outcome, answer.record) == (Outcome.KEY_HELD, holder)
        assert store.get([record.id]) == [record]
        succeeded(store, holder)
        assert applied(store.swap([Swap(record.id, record.rev, change, "r")])).life == 2

    def test_a_job_that_is_dead_from_the_start_holds_no_key(self, store: JobStore) -> None:
        applied(store.insert([Insert(bare(key="k"), lifecycle.new_dead(RULES, error()), rev())]))
        put(store, key="k")

    def test_of_one_batch_the_first_gets_the_key(self, store: JobStore) -> None:
        new = lifecycle.new(RULES, delay=None, expires=None)
        answers = store.insert([Insert(bare(name, key="k"), new, name) for name in "abc"])
        assert [answer.outcome.name for answer in answers] == ["APPLIED", "KEY_HELD", "KEY_HELD"]
        assert {answer.record.id for answer in answers if answer.record} == {"a"}

"""The part of the store suite about insert, get, swap, begin and heartbeat."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import pytest

from queueport.engine.lifecycle import Lifecycle
from queueport.job import Links
from queueport.spi.record import RECORD_VERSION, Change, Record, Release
from queueport.spi.storage import unreadable_holder
from queueport.spi.store import Begin, Insert, JobStore, LeaseRenewal, Replacement, Swap, WriteOutcome, WriteResult
from queueport.status import JobState, Progress
from queueport.testing.stores.harness import (
    CARRIED,
    RULES,
    TOKEN,
    Case,
    Clock,
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

__all__ = ["KeptKeyTests", "KeyTests", "ReleaseTests", "ReplaceTests", "WriteTests"]

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
    "key_until": 1.5,
    "reason": "cancelled",
    "tags": ("ключ 🔑", 'a "b": [c]'),
    "limit_key": "k",
    "slots": ("limit",),
    "held_by": "limit",
    "links": Links(then="j2", batch="b", waits_for=3, pass_result=True),
    "waits_for": 2**31,
    "released": True,
}
"""For every field of a record that has a default, except `rev` and `v`: another value, to test that the store keeps
the field."""


class WriteTests(Case):
    """Tests of insert, get, swap, begin and heartbeat."""

    def test_insert_returns_the_record_that_get_then_reads(self, store: JobStore, clock: Clock) -> None:
        change = Lifecycle(CARRIED).new(delay=None, expires=60.0)
        written = applied(store.insert([Insert(bare("a"), change, "r1")]))
        assert written.rev == "r1"
        assert written.state is JobState.QUEUED
        assert (written.enqueued_at, written.queued_at) == (clock.now, clock.now)
        assert written.wake_at == clock.now + CARRIED.claim
        assert written.expires_at == clock.now + 60.0
        assert store.get(["a"]) == [written]

    @pytest.mark.parametrize("state", list(JobState))
    def test_every_field_is_read_back_unchanged(self, store: JobStore, state: JobState) -> None:
        plain, whole = bare("a").values(), bare("a", **WHOLE)
        same = {name for name, value in whole.values().items() if value == plain[name]}
        assert same == {"id", "task", "queue", "state", "rev", "v"}, (
            "WHOLE must set every field that has a default to another value"
        )
        written = applied(store.insert([Insert(whole, Change({"state": state}), "r")]))
        assert written == replace(whole, state=state, rev="r")
        assert store.get(["a"]) == [written]

    def test_a_large_payload_is_read_back_unchanged(self, store: JobStore) -> None:
        limit = store.limits.payload
        payload = bytes(range(256)) * ((2**20 if limit is None else min(limit, 2**20)) // 256)
        put(store, "a", payload=payload)
        (found,) = store.get(["a"])
        assert found is not None
        assert found.payload == payload

    def test_get_keeps_the_order_of_the_ids_and_returns_none_for_unknown_ids(self, store: JobStore) -> None:
        a, b = put(store, "a"), put(store, "b")
        assert store.get(["b", "x", "a", "b"]) == [b, None, a, b]
        assert store.get([]) == []

    def test_insert_of_an_existing_id_is_refused_with_its_record(self, store: JobStore) -> None:
        first = put(store, "a", task="one")
        (again,) = store.insert([Insert(bare("a", task="two"), Change({}), "r2")])
        assert (again.outcome, again.record) == (WriteOutcome.REFUSED, first)
        assert store.get(["a"]) == [first]

    def test_each_insert_of_a_batch_sees_the_earlier_ones(self, store: JobStore) -> None:
        new = Lifecycle(RULES).new(delay=None, expires=None)
        answers = store.insert([Insert(bare(name, task=name), new, f"r{i}") for i, name in enumerate("abac")])
        assert [answer.outcome.name for answer in answers] == ["APPLIED", "APPLIED", "REFUSED", "APPLIED"]
        assert [answer.record and answer.record.rev for answer in answers] == ["r0", "r1", "r0", "r3"]

    def test_a_repeated_swap_is_refused_with_the_record_that_has_its_rev(self, store: JobStore, clock: Clock) -> None:
        record = put(store, "a")
        clock.advance(5)
        change = Swap("a", record.rev, Change({"priority": 3}, {"wake_at": 2.0, "queued_at": 0.0}), "mine")
        written = applied(store.swap([change]))
        assert written == replace(record, rev="mine", priority=3, wake_at=clock.now + 2.0, queued_at=clock.now)
        (again,) = store.swap([change])
        assert (again.outcome, again.record) == (WriteOutcome.REFUSED, written)
        assert store.get(["a"]) == [written]

    def test_a_swap_of_a_record_that_the_caller_knows_has_the_same_answers(self, store: JobStore, clock: Clock) -> None:
        record = put(store, "a")
        clock.advance(5)
        change = Change({"priority": 3}, {"wake_at": 2.0})
        written = applied(store.swap([Swap("a", record.rev, change, "mine", record)]))
        assert written == replace(record, rev="mine", priority=3, wake_at=clock.now + 2.0)
        assert store.get(["a"]) == [written]
        (stale,) = store.swap([Swap("a", record.rev, change, "r", record)])
        assert (stale.outcome, stale.record) == (WriteOutcome.REFUSED, written)
        (deleted,) = store.swap([Swap("a", "mine", Change(delete=True), "r", written)])
        assert (deleted.outcome, deleted.record) == (WriteOutcome.APPLIED, None)

    def test_a_swap_with_another_rev_or_without_a_record_is_refused(self, store: JobStore) -> None:
        record = put(store, "a")
        stale, absent = store.swap(
            [Swap("a", "another", Change({"sends": 9}), "r"), Swap("x", "another", Change({"sends": 9}), "r")]
        )
        assert (stale.outcome, stale.record) == (WriteOutcome.REFUSED, record)
        assert (absent.outcome, absent.record) == (WriteOutcome.REFUSED, None)
        assert store.get(["a", "x"]) == [record, None]

    def test_each_swap_of_a_batch_sees_the_earlier_ones(self, store: JobStore) -> None:
        record = put(store, "a")
        swaps = [Swap("a", record.rev, Change({"sends": 1}), "r1"), Swap("a", "r1", Change({"sends": 2}), "r2")]
        assert [answer.applied for answer in store.swap(swaps)] == [True, True]
        assert store.get(["a"]) == [replace(record, rev="r2", sends=2)]

    def test_a_repeated_swap_in_a_batch_is_refused_and_the_others_are_applied(self, store: JobStore) -> None:
        records = [put(store, name) for name in "abc"]
        change = Change({"state": JobState.SUCCEEDED}, processed=1)
        swaps = [Swap(record.id, record.rev, change, f"r{record.id}", record) for record in records]
        store.swap(swaps[:1])
        answers = store.swap(swaps)
        assert [answer.outcome.name for answer in answers] == ["REFUSED", "APPLIED", "APPLIED"]
        assert [answer.record and answer.record.rev for answer in answers] == ["ra", "rb", "rc"]
        assert store.stats().processed == 3

    def test_a_batch_that_deletes_and_changes_answers_each_swap(self, store: JobStore) -> None:
        a, b = [put(store, name) for name in "ab"]
        deleted, changed = store.swap(
            [Swap("a", a.rev, Change(delete=True), "r", a), Swap("b", b.rev, Change({"sends": 1}), "r", b)]
        )
        assert (deleted.outcome, deleted.record) == (WriteOutcome.APPLIED, None)
        assert (changed.outcome, changed.record) == (WriteOutcome.APPLIED, replace(b, rev="r", sends=1))
        assert store.get(["a", "b"]) == [None, changed.record]

    def test_a_deleted_record_frees_its_id_and_key(self, store: JobStore) -> None:
        record = put(store, "a", key="k")
        stale, deleted = store.swap(
            [Swap("a", "no", Change(delete=True), "r"), Swap("a", record.rev, Change(delete=True), "r")]
        )
        assert (stale.outcome, stale.record) == (WriteOutcome.REFUSED, record)
        assert (deleted.outcome, deleted.record) == (WriteOutcome.APPLIED, None)
        assert store.get(["a"]) == [None]
        assert put(store, "a", key="k").attempts == 0

    @pytest.mark.parametrize("sent", [True, False])
    def test_begin_accepts_queued_jobs_whether_sent_or_not(self, store: JobStore, clock: Clock, *, sent: bool) -> None:
        record = swap(store, put(store, "a"), sent=sent)
        clock.advance(1)
        begun = run(store, record)
        assert (begun.state, begun.token, begun.attempts) == (JobState.RUNNING, TOKEN, 1)
        assert (begun.started_at, begun.wake_at) == (clock.now, clock.now + RULES.lease)
        (again,) = store.begin([Begin("a", "app.send", Change({"state": JobState.RUNNING}), "r")])
        assert (again.outcome, again.record) == (WriteOutcome.REFUSED, begun)
        assert run(store, swap(store, begun, state=JobState.QUEUED)).attempts == 2

    def test_begin_refuses_jobs_that_are_not_queued(self, store: JobStore) -> None:
        others = [put(store, delay=9.0), run(store, put(store)), retrying(store), succeeded(store), dead(store)]
        others.append(swap(store, put(store), state=JobState.CANCELLED))
        answers = store.begin([Begin(record.id, record.task, Change({"attempts": 99}), rev()) for record in others])
        assert [(answer.outcome, answer.record) for answer in answers] == [
            (WriteOutcome.REFUSED, record) for record in others
        ]
        (absent,) = store.begin([Begin("absent", "app.send", Change({}), rev())])
        assert (absent.outcome, absent.record) == (WriteOutcome.REFUSED, None)

    def test_begin_refuses_a_job_from_the_moment_it_expires(self, store: JobStore, clock: Clock) -> None:
        a, b = put(store, expires=10.0), put(store, expires=10.0)
        clock.advance(9.75)
        run(store, a)
        clock.advance(0.25)
        (late,) = store.begin([Begin(b.id, b.task, Change({}), rev())])
        assert (late.outcome, late.record) == (WriteOutcome.REFUSED, b)

    def test_begin_refuses_a_job_of_another_task(self, store: JobStore) -> None:
        record = put(store, task="app.send")
        (answer,) = store.begin([Begin(record.id, "app.sendmail", Change({}), rev())])
        assert (answer.outcome, answer.record) == (WriteOutcome.REFUSED, record)

    def test_begin_refuses_a_record_of_a_newer_version(self, store: JobStore) -> None:
        newer = put(store, v=RECORD_VERSION + 1)
        (answer,) = store.begin([Begin(newer.id, newer.task, Change({}), rev())])
        assert (answer.outcome, answer.record) == (WriteOutcome.REFUSED, newer)

    def test_a_heartbeat_extends_the_lease_of_its_attempt_even_after_it_lapsed(
        self, store: JobStore, clock: Clock
    ) -> None:
        record = run(store, put(store))
        clock.advance(RULES.lease + 100)
        renewal = LeaseRenewal(record.id, TOKEN, 30.0, "r2", {"progress": Progress(1, 2, "half")})
        assert applied(store.heartbeat([renewal])) == replace(
            record, rev="r2", wake_at=clock.now + 30.0, progress=Progress(1, 2, "half")
        )

    def test_a_heartbeat_is_refused_for_another_attempt_or_a_job_that_does_not_run(self, store: JobStore) -> None:
        running, queued, ended = run(store, put(store)), put(store, token=TOKEN), succeeded(store)
        renewals = [
            LeaseRenewal(running.id, "stale", 9.0, "r"),
            LeaseRenewal(queued.id, TOKEN, 9.0, "r"),
            LeaseRenewal(ended.id, TOKEN, 9.0, "r"),
        ]
        answers = store.heartbeat([*renewals, LeaseRenewal("absent", TOKEN, 9.0, "r")])
        assert [answer.record for answer in answers] == [running, queued, ended, None]
        assert {answer.outcome for answer in answers} == {WriteOutcome.REFUSED}
        assert store.get([running.id, queued.id, ended.id]) == [running, queued, ended]


def replacing(job_id: str, key: str, *, sent: bool = True, **fields: Any) -> Insert:
    """An insert that replaces the job that holds the key. The changes set `payload` to their names."""
    waiting, stays = Change({"payload": b"waiting", "queue": "q2"}, {"wake_at": 9.0}), Change({"payload": b"sent"})
    running = Change({"key": None, "payload": b"running"})
    new = Lifecycle(RULES).new(delay=None, expires=None)
    changes = Replacement(waiting, stays if sent else None, running)
    return Insert(bare(job_id, key=key, **fields), new, f"rev-{job_id}", replace=changes)


class ReplaceTests(Case):
    """Tests of `Insert.replace`: what an insert does to the job that holds its key."""

    def test_a_waiting_holder_is_changed_and_nothing_is_inserted(self, store: JobStore, clock: Clock) -> None:
        record = put(store, "a", key="k", delay=5.0)
        clock.advance(1)
        for number, state in enumerate((JobState.SCHEDULED, JobState.RETRYING, JobState.QUEUED)):
            record = swap(store, record, state=state, sent=False, payload=b"old")
            (answer,) = store.insert([replacing(f"b{number}", "k")])
            assert answer.outcome is WriteOutcome.REPLACED
            wake_at = clock.now + 9.0
            changed = replace(record, payload=b"waiting", queue="q2", wake_at=wake_at, rev=f"rev-b{number}")
            assert answer.record == changed
            assert store.get(["a", f"b{number}"]) == [changed, None]
            record = changed
        assert {queue: counts.states[JobState.QUEUED] for queue, counts in store.stats().queues.items()}["q2"] == 1

    def test_a_sent_holder_keeps_its_place_unless_the_new_job_has_another(self, store: JobStore) -> None:
        holder = swap(store, put(store, "a", key="k"), sent=True)
        (answer,) = store.insert([replacing("b", "k")])
        assert (answer.outcome, answer.record) == (WriteOutcome.REPLACED, replace(holder, payload=b"sent", rev="rev-b"))
        holder = swap(store, cast("Record", answer.record), payload=b"old")
        others: list[dict[str, Any]] = [{"queue": "other"}, {"priority": 1}, {"group": "g"}, {"sent": False}]
        for number, other in enumerate(others):
            (answer,) = store.insert([replacing(f"c{number}", "k", **other)])
            assert answer.record is not None
            assert answer.record.payload == b"waiting", other
            holder = swap(store, answer.record, payload=b"old", queue=holder.queue)

    def test_a_repeated_insert_does_not_change_the_holder_again(self, store: JobStore, clock: Clock) -> None:
        put(store, "a", key="k", delay=5.0)
        insert = replacing("b", "k")
        (first,) = store.insert([insert])
        clock.advance(1)
        (again,) = store.insert([insert])
        assert (again.outcome, again.record) == (WriteOutcome.KEY_HELD, first.record)
        assert store.get(["a", "b"]) == [first.record, None]

    def test_a_running_holder_gives_up_its_key_to_the_new_job(self, store: JobStore) -> None:
        holder = run(store, put(store, "a", key="k"))
        (answer,) = store.insert([replacing("b", "k")])
        assert answer.outcome is WriteOutcome.APPLIED
        running = replace(holder, key=None, payload=b"running", rev="rev-b")
        assert store.get(["a", "b"]) == [running, answer.record]
        assert swap(store, running, state=JobState.RETRYING).key is None
        (held,) = store.insert([Insert(bare("c", key="k"), Change({}), "r")])
        assert (held.outcome, held.record) == (WriteOutcome.KEY_HELD, answer.record)
        swap(store, cast("Record", answer.record), state=JobState.SUCCEEDED)
        put(store, "d", key="k")

    def test_an_ended_holder_or_a_free_key_leads_to_an_insert(self, store: JobStore) -> None:
        assert applied(store.insert([replacing("a", "k")])).id == "a"
        swap(store, cast("Record", store.get(["a"])[0]), state=JobState.DEAD)
        assert applied(store.insert([replacing("b", "k")])).id == "b"
        (again,) = store.insert([replacing("b", "k")])
        assert (again.outcome, again.record) == (WriteOutcome.REFUSED, store.get(["b"])[0])

    def test_a_holder_of_a_newer_release_is_left_alone(self, store: JobStore) -> None:
        holder = put(store, "a", key="k", v=RECORD_VERSION + 1)
        (answer,) = store.insert([replacing("b", "k")])
        assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, holder)
        assert store.get(["a", "b"]) == [holder, None]

    def test_each_insert_of_a_batch_sees_the_earlier_ones_that_replace(self, store: JobStore) -> None:
        put(store, "other", key="l")
        plain = Lifecycle(RULES).new(delay=None, expires=None)
        inserts = [
            *(replacing("a", "k"), replacing("b", "k"), replacing("c", "l"), replacing("other", "m")),
            *(Insert(bare("d", key="k"), plain, "r"), replacing("b", "n")),
        ]
        answers = store.insert(inserts)
        found = [(answer.outcome.name, answer.record and answer.record.id) for answer in answers]
        assert found == [
            *(("APPLIED", "a"), ("REPLACED", "a"), ("REPLACED", "other"), ("REFUSED", "other")),
            *(("KEY_HELD", "a"), ("APPLIED", "b")),
        ]
        assert [answer.record and answer.record.rev for answer in answers[1:5]] == [
            *("rev-b", "rev-c", "rev-c", "rev-b"),
        ]
        assert [record and record.key for record in store.get(["a", "b", "c", "d", "other"])] == [
            *("k", "n", None, None, "l"),
        ]


class KeptKeyTests(Case):
    """Tests of `key_until`: an ended job keeps its key, so that no job with this key can be inserted."""

    @staticmethod
    def ended(store: JobStore, job_id: str, key: str = "k", seconds: float = 10.0) -> Record:
        record = put(store, job_id, key=key)
        change = Change({"state": JobState.SUCCEEDED}, {"key_until": seconds})
        return applied(store.swap([Swap(record.id, record.rev, change, rev())]))

    @staticmethod
    def inserted(store: JobStore, job_id: str, key: str = "k") -> WriteResult:
        new = Lifecycle(RULES).new(delay=None, expires=None)
        return store.insert([Insert(bare(job_id, key=key), new, rev())])[0]

    def test_an_ended_job_keeps_its_key_until_its_time(self, store: JobStore, clock: Clock) -> None:
        ended = self.ended(store, "a")
        assert ended.key_until == clock.now + 10.0
        clock.advance(9.75)
        answer = self.inserted(store, "b")
        assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, ended)
        (replacement,) = store.insert([replacing("c", "k")])
        assert (replacement.outcome, replacement.record) == (WriteOutcome.KEY_HELD, ended)
        assert self.inserted(store, "d", key="another").applied
        clock.advance(0.25)
        assert self.inserted(store, "b").applied
        assert store.get(["c"]) == [None]

    def test_the_key_stays_taken_after_the_record_was_deleted(self, store: JobStore, clock: Clock) -> None:
        ended = self.ended(store, "a")
        applied_or_none = store.swap([Swap("a", ended.rev, Change(delete=True), rev())])[0]
        assert applied_or_none.applied
        for job_id in ("a", "b"):
            answer = self.inserted(store, job_id)
            assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, unreadable_holder("a"))
        clock.advance(10)
        assert self.inserted(store, "a").applied

    def test_a_job_without_key_until_or_that_is_deleted_alive_frees_its_key(self, store: JobStore) -> None:
        swap(store, put(store, "a", key="k"), state=JobState.CANCELLED)
        record = put(store, "b", key="k")
        store.swap([Swap("b", record.rev, Change(delete=True), rev())])
        assert self.inserted(store, "c").applied

    def test_an_id_that_exists_is_refused_although_its_key_is_taken(self, store: JobStore) -> None:
        ended = self.ended(store, "a")
        answers = store.insert([Insert(bare(name, key="k"), Change({}), rev()) for name in ("a", "b")])
        assert [(answer.outcome.name, answer.record) for answer in answers] == [("REFUSED", ended), ("KEY_HELD", ended)]

    def test_a_retry_is_not_affected_and_ends_it(self, store: JobStore, clock: Clock) -> None:
        failed = dead(store, key="k")
        self.ended(store, "a")
        change = Lifecycle(RULES).retry(failed)
        assert isinstance(change, Change)
        again = applied(store.swap([Swap(failed.id, failed.rev, change, rev())]))
        (held,) = store.insert([Insert(bare("b", key="k"), Change({}), rev())])
        assert (held.outcome, held.record) == (WriteOutcome.KEY_HELD, again)
        swap(store, again, state=JobState.CANCELLED)
        assert self.inserted(store, "c").applied

    def test_the_latest_of_several_jobs_keeps_the_key(self, store: JobStore, clock: Clock) -> None:
        self.ended(store, "a", seconds=3.0)
        for number in range(15):
            self.ended(store, f"other{number}", key=f"other{number}", seconds=2.0)
        clock.advance(4)
        latest = self.ended(store, "b", seconds=20.0)
        clock.advance(10)
        assert self.inserted(store, "c").record == latest
        assert all(self.inserted(store, f"new{number}", key=f"other{number}").applied for number in range(15))
        clock.advance(10)
        assert self.inserted(store, "c").applied

    def test_a_batch_is_answered_job_by_job(self, store: JobStore) -> None:
        ended = self.ended(store, "a")
        new = Lifecycle(RULES).new(delay=None, expires=None)
        answers = store.insert([Insert(bare(name, key=key), new, rev()) for name, key in (("b", "l"), ("c", "k"))])
        assert [(answer.outcome.name, answer.record and answer.record.id) for answer in answers] == [
            *(("APPLIED", "b"), ("KEY_HELD", ended.id)),
        ]


class ReleaseTests(Case):
    """The end of a job, and the jobs that wait for it (`Change.releases`)."""

    def test_a_release_counts_down_and_the_last_one_makes_the_job_due(self, store: JobStore, clock: Clock) -> None:
        waiting, first, second = wait_for(store, 2), put(store, "first"), put(store, "second")
        clock.advance(3)
        assert self._ends(store, first, waiting).waits_for == 1
        assert store.claim_due(10, 1.0, rev()) == []
        after = self._ends(store, second, waiting)
        assert (after.waits_for, after.wake_at, after.state) == (0, clock(), JobState.SCHEDULED)
        assert [record.id for record in store.claim_due(10, 1.0, rev())] == [waiting.id]

    def test_a_release_of_all_makes_the_job_due_and_sets_fields(self, store: JobStore, clock: Clock) -> None:
        waiting = wait_for(store, 3, reason="why")
        after = self._ends(store, put(store), waiting, all=True, set={"reason": None})
        assert (after.waits_for, after.wake_at, after.reason) == (0, clock(), None)

    def test_a_release_changes_only_a_job_that_waits(self, store: JobStore) -> None:
        waiting, first = wait_for(store, 1), put(store)
        cancelled = swap(store, waiting, state=JobState.CANCELLED)
        assert self._ends(store, first, waiting) == cancelled
        queued = put(store)
        assert self._ends(store, put(store), queued, all=True, set={"reason": "no"}) == queued
        gone = applied(store.swap([Swap("last", put(store, "last").rev, _ends_with("no-such-job"), rev())]))
        assert gone.state is JobState.SUCCEEDED

    @pytest.mark.parametrize("links", [Links(after="job", waits_for=1), Links(after_batch="batch", waits_for=1), None])
    def test_a_release_changes_only_a_job_that_follows_this_one(self, store: JobStore, links: Links | None) -> None:
        waiting = wait_for(store, 1, links=links)
        assert self._ends(store, put(store), waiting, after="other", all=True, set={"reason": "no"}) == waiting
        if links is not None:
            assert self._ends(store, put(store), waiting, after=links.after or links.after_batch).waits_for == 0

    def test_a_refused_write_releases_nothing(self, store: JobStore) -> None:
        waiting, first = wait_for(store, 1), put(store)
        (refused,) = store.swap([Swap(first.id, "stale", _ends_with(waiting.id), rev())])
        assert refused.outcome is WriteOutcome.REFUSED
        assert store.get([waiting.id]) == [waiting]

    def test_the_deletion_of_a_record_can_release(self, store: JobStore) -> None:
        waiting, first = wait_for(store, 1), put(store)
        store.swap([Swap(first.id, first.rev, Change(delete=True, releases=(Release(waiting.id),)), rev())])
        (after,) = store.get([waiting.id])
        assert after is not None
        assert after.waits_for == 0

    def test_a_write_that_was_decided_before_a_release_is_refused(self, store: JobStore) -> None:
        waiting, first = wait_for(store, 2), put(store)
        self._ends(store, first, waiting)
        (answer,) = store.swap([Swap(waiting.id, waiting.rev, Change({"wake_at": None}), rev())])
        assert answer.outcome is WriteOutcome.REFUSED

    @pytest.mark.parametrize("known", [True, False])
    def test_all_jobs_of_one_call_release_the_same_job(self, store: JobStore, known: bool) -> None:
        waiting, jobs = wait_for(store, 5), [put(store) for _ in range(5)]
        swaps = [Swap(job.id, job.rev, _ends_with(waiting.id), rev(), job if known else None) for job in jobs]
        assert all(answer.applied for answer in store.swap(swaps))
        (after,) = store.get([waiting.id])
        assert after is not None
        assert after.waits_for == 0

    def test_threads_that_end_the_jobs_of_a_batch_release_exactly_once(self, store: JobStore) -> None:
        waiting, jobs = wait_for(store, 8), [put(store) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job: self._ends(store, job, waiting), jobs))
        (after,) = store.get([waiting.id])
        assert after is not None
        assert after.waits_for == 0

    @staticmethod
    def _ends(store: JobStore, job: Record, waiting: Record, **release: Any) -> Record:
        """End the job, which releases another one. Returns the record of that other one."""
        applied(store.swap([Swap(job.id, job.rev, _ends_with(waiting.id, **release), rev())]))
        (after,) = store.get([waiting.id])
        assert after is not None
        return after


def wait_for(store: JobStore, number: int, **fields: Any) -> Record:
    """Insert a job that waits for the end of this number of jobs."""
    record = bare(waits_for=number, **fields)
    return applied(store.insert([Insert(record, Change({"state": JobState.SCHEDULED, "wake_at": None}), rev())]))


def _ends_with(waiting: str, **release: Any) -> Change:
    """A change that ends a job, and releases the job `waiting`."""
    values = {"state": JobState.SUCCEEDED, "released": True, "wake_at": None}
    return Change(values, {"finished_at": 0.0}, 1, releases=(Release(waiting, **release),))


class KeyTests(Case):
    """Tests of keys: which job holds a key, and when the job releases the key."""

    def test_a_second_job_with_the_same_task_and_key_is_refused(self, store: JobStore) -> None:
        holder = put(store, key="k")
        (answer,) = store.insert([Insert(bare("b", key="k"), Lifecycle(RULES).new(delay=None, expires=None), "r")])
        assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, holder)
        assert store.get(["b"]) == [None]
        put(store, "c", key="k", task="another")
        put(store, "d", key="another")

    def test_a_job_holds_its_key_in_every_state_that_is_not_final(self, store: JobStore) -> None:
        record = put(store, key="k", delay=5.0)
        for state in (JobState.QUEUED, JobState.RUNNING, JobState.RETRYING, JobState.SCHEDULED):
            record = swap(store, record, state=state)
            (answer,) = store.insert([Insert(bare(key="k"), Change({}), rev())])
            assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, record)

    @pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED])
    def test_a_final_state_releases_the_key_and_later_writes_leave_it_to_the_next_holder(
        self, store: JobStore, state: JobState
    ) -> None:
        first = swap(store, put(store, key="k"), state=state)
        second = put(store, key="k")
        assert swap(store, first, reason="later").state is state
        (answer,) = store.insert([Insert(bare(key="k"), Change({}), rev())])
        assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, second)

    def test_a_dead_job_cannot_be_retried_while_another_job_holds_its_key(self, store: JobStore) -> None:
        record = dead(store, key="k")
        holder = put(store, key="k")
        change = Lifecycle(RULES).retry(record)
        assert isinstance(change, Change)
        (answer,) = store.swap([Swap(record.id, record.rev, change, "r")])
        assert (answer.outcome, answer.record) == (WriteOutcome.KEY_HELD, holder)
        assert store.get([record.id]) == [record]
        succeeded(store, holder)
        assert applied(store.swap([Swap(record.id, record.rev, change, "r")])).life == 2

    def test_a_job_that_is_inserted_dead_holds_no_key(self, store: JobStore) -> None:
        applied(store.insert([Insert(bare(key="k"), Lifecycle(RULES).new_dead(error()), rev())]))
        put(store, key="k")

    def test_the_first_job_of_a_batch_gets_the_key(self, store: JobStore) -> None:
        new = Lifecycle(RULES).new(delay=None, expires=None)
        answers = store.insert([Insert(bare(name, key="k"), new, name) for name in "abc"])
        assert [answer.outcome.name for answer in answers] == ["APPLIED", "KEY_HELD", "KEY_HELD"]
        assert {answer.record.id for answer in answers if answer.record} == {"a"}

    def test_the_holder_of_a_key_keeps_it_although_the_batch_inserts_its_id_again(self, store: JobStore) -> None:
        new = Lifecycle(RULES).new(delay=None, expires=None)
        holder = put(store, "a", key="k")
        b, a = store.insert([Insert(bare("b", key="k"), new, "r1"), Insert(bare("a", key="k"), new, "r2")])
        assert (b.outcome, b.record) == (WriteOutcome.KEY_HELD, holder)
        assert (a.outcome, a.record) == (WriteOutcome.REFUSED, holder)
        assert store.get(["a", "b"]) == [holder, None]

    @pytest.mark.parametrize("held", [True, False], ids=["held before the batch", "taken by the batch"])
    def test_each_insert_of_a_batch_sees_the_keys_that_earlier_ones_have_taken(
        self, store: JobStore, *, held: bool
    ) -> None:
        new = Lifecycle(RULES).new(delay=None, expires=None)
        first = [] if held else [Insert(bare("a", key="k"), new, "r0")]
        if held:
            put(store, "a", key="k")
        wanted = [("b", "k"), ("b", "l"), ("c", "l")]
        inserts = [*first, *(Insert(bare(name, key=key), new, f"{name}-{key}") for name, key in wanted)]
        answers = store.insert(inserts)[len(first) :]
        found = [(answer.outcome.name, answer.record and answer.record.id) for answer in answers]
        assert found == [("KEY_HELD", "a"), ("APPLIED", "b"), ("KEY_HELD", "b")]
        assert [record and record.key for record in store.get(["a", "b", "c"])] == ["k", "l", None]

    def test_a_swap_is_answered_with_the_holder_as_the_earlier_swaps_of_the_batch_have_left_it(
        self, store: JobStore
    ) -> None:
        record = dead(store, key="k")
        holder = put(store, key="k")
        change = Lifecycle(RULES).retry(record)
        assert isinstance(change, Change)
        retry = Swap(record.id, record.rev, change, "r")
        before, sent, after = store.swap([retry, Swap(holder.id, holder.rev, Change({"sends": 1}), "mine"), retry])
        assert (before.outcome, before.record) == (WriteOutcome.KEY_HELD, holder)
        assert (sent.outcome, sent.record) == (WriteOutcome.APPLIED, replace(holder, sends=1, rev="mine"))
        assert (after.outcome, after.record) == (WriteOutcome.KEY_HELD, sent.record)

"""Mutants of stores that write or find wrong records. For the groups E, S, T, R, D and P of the contract."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from queueport.spi.record import Change, Release
from queueport.spi.store import Document, Insert, LeaseRenewal, Query, Swap, WriteOutcome, WriteResult
from queueport.status import JobError, JobState
from tests.mutants.mutant import CARRYING, MEMORY, SQLITE, STORED, Verb, breaks, without


def changed(insert: Insert, **values: Any) -> Insert:
    """The insert with other values in its record."""
    return replace(insert, record=replace(insert.record, **values))


# -- enqueue -------------------------------------------------------------------------------------------


@breaks("store.insert", "E2_plain", on=MEMORY)
def a_nul_is_lost(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return insert([changed(i, payload=i.record.payload.replace(b"\\u0000", b"")) for i in inserts])


@breaks("store.insert", "E3_many_mixed", on=SQLITE)
def the_last_job_of_a_batch_is_dropped(insert: Verb, inserts: Sequence[Insert]) -> Any:
    if len(inserts) == 1:
        return insert(inserts)
    return [*insert(inserts[:-1]), WriteResult(WriteOutcome.APPLIED, inserts[-1].record)]


@breaks("store.insert", "E7_many_threads", on=STORED)
def keys_are_not_stored(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return insert([changed(i, key=None) for i in inserts])


@breaks("store.insert", "E13_a_taken", on=MEMORY)
def a_taken_key_is_reported_as_inserted(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return [
        WriteResult(WriteOutcome.APPLIED, i.record) if i.reject else written
        for i, written in zip(inserts, insert(inserts), strict=True)
    ]


def replacing(insert: Insert, **changes: Change) -> Insert:
    """The insert with other changes to the job that holds its key."""
    return insert if insert.replace is None else replace(insert, replace=replace(insert.replace, **changes))


@breaks("store.insert", "E14_a_waiting", on=STORED)
def a_waiting_job_keeps_its_arguments(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return insert([replace(i, replace=None) for i in inserts])


@breaks("store.insert", "E14_a_queued_job", on=STORED + CARRYING)
def a_replaced_job_keeps_its_run_time(insert: Verb, inserts: Sequence[Insert]) -> Any:
    kept = ("state", "wake_at", "sent", "sent_at", "sends", "run_at")
    return insert([replacing(i, waiting=without(i.replace.waiting, *kept)) if i.replace else i for i in inserts])


@breaks("store.insert", "E14_a_running", on=MEMORY)
def a_running_job_is_replaced(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return insert([replacing(i, running=i.replace.waiting) if i.replace else i for i in inserts])


@breaks("store.insert", "E14_a_running", on=SQLITE)
def a_running_job_keeps_its_key(insert: Verb, inserts: Sequence[Insert]) -> Any:
    runs = insert.__self__.find(Query(state=JobState.RUNNING))
    return insert([replace(i, replace=None) if runs else i for i in inserts])


@breaks("store.insert", "E14_many", on=MEMORY)
def a_replaced_job_is_reported_as_existing(insert: Verb, inserts: Sequence[Insert]) -> Any:
    def seen(written: WriteResult) -> WriteResult:
        if written.outcome is not WriteOutcome.REPLACED or written.record is None:
            return written
        return WriteResult(WriteOutcome.KEY_HELD, replace(written.record, rev="of another change"))

    return [seen(written) for written in insert(inserts)]


@breaks("store.swap", "E15_a_key", on=STORED)
def a_key_is_free_from_the_end(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(one, change=without(one.change, "key_until")) for one in swaps])


@breaks("store.insert", "E15_a_key_stays_taken_although", on=MEMORY)
def a_key_is_free_without_its_record(insert: Verb, inserts: Sequence[Insert]) -> Any:
    records = insert.__self__.records
    records.kept = {key: kept for key, kept in records.kept.items() if kept[0] in records.numbers}
    return insert(inserts)


@breaks("store.insert", "E8_a_given_id", on=MEMORY)
def a_duplicate_id_is_accepted(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return [WriteResult(WriteOutcome.APPLIED, written.record) for written in insert(inserts)]


@breaks("store.insert", "E12_higher", on=SQLITE)
def low_priority_goes_first(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return insert([changed(i, priority=-i.record.priority) for i in inserts])


# -- time ----------------------------------------------------------------------------------------------


@breaks("store.insert", "S1_a_delayed", on=STORED)
def a_delay_is_ignored(insert: Verb, inserts: Sequence[Insert]) -> Any:
    def now(change: Change) -> Change:
        if change.set["state"] is not JobState.SCHEDULED:
            return change
        queued = {"state": JobState.QUEUED, "sent": True}
        return replace(without(change, "wake_at"), set=queued, stamp={**change.stamp, "wake_at": 0.0, "queued_at": 0.0})

    return insert([replace(i, change=now(i.change)) for i in inserts])


@breaks("store.insert", "S4_an_expired", on=MEMORY)
def an_expired_job_is_started(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return insert([replace(i, change=without(i.change, "expires_at", "wake_at")) for i in inserts])


# -- status and result ---------------------------------------------------------------------------------


@breaks("store.heartbeat", "T4", on=SQLITE)
def progress_is_dropped(heartbeat: Verb, renewals: Sequence[LeaseRenewal]) -> Any:
    return heartbeat([replace(renewal, values={}) for renewal in renewals])


@breaks("store.find", "T5_jobs", on=MEMORY)
def a_filter_is_ignored(find: Verb, query: Query) -> Any:
    return find(replace(query, queue=None))


@breaks("store.insert", "T9", on=STORED)
def tags_are_not_stored(insert: Verb, inserts: Sequence[Insert]) -> Any:
    return insert([changed(i, tags=()) for i in inserts])


@breaks("store.find", "T9", on=MEMORY)
def the_time_of_the_enqueue_is_ignored(find: Verb, query: Query) -> Any:
    return find(replace(query, since=None))


@breaks("store.find", "T10", on=SQLITE)
def a_tag_is_ignored(find: Verb, query: Query) -> Any:
    return find(replace(query, tag=None))


@breaks("store.swap", "T7_ended", on=STORED)
def retention_is_over_at_once(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def short(change: Change) -> Change:
        final = change.set.get("state") in (JobState.SUCCEEDED, JobState.DEAD)
        return replace(change, stamp={**change.stamp, "wake_at": 0.0}) if final else change

    return swap([replace(s, change=short(s.change)) for s in swaps])


@breaks("store.overflow", "T7_retention", on=SQLITE)
def retention_deletes_jobs_that_are_alive(overflow: Verb, query: Query, keep: int, limit: int) -> Any:
    return [*overflow(Query(JobState.QUEUED), 0, limit), *overflow(Query(JobState.SCHEDULED), 0, limit)][:limit]


# -- retry ---------------------------------------------------------------------------------------------


@breaks("store.swap", "R1", on=MEMORY)
def failures_are_forgotten(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=without(s.change, "failures")) for s in swaps])


@breaks("store.swap", "R2_gaps", on=MEMORY)
def a_backoff_is_ignored(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def soon(change: Change) -> Change:
        waits = change.set.get("state") is JobState.RETRYING
        return replace(change, stamp={**change.stamp, "wake_at": 0.0}) if waits else change

    return swap([replace(s, change=soon(s.change)) for s in swaps])


@breaks("store.swap", "R5_a_dead", on=SQLITE)
def a_retry_keeps_the_old_budgets(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def kept(change: Change) -> Change:
        return without(change, "failures", "crashes") if "life" in change.set else change

    return swap([replace(s, change=kept(s.change)) for s in swaps])


# -- dead letters --------------------------------------------------------------------------------------


@breaks("store.swap", "D1", on=STORED)
def a_dead_letter_is_dropped(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def deleted(change: Change) -> Change:
        return Change(delete=True) if change.set.get("state") is JobState.DEAD else change

    return swap([replace(s, change=deleted(s.change)) for s in swaps])


@breaks("store.swap", "D1", on=MEMORY)
def an_error_loses_its_type(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def blank(error: JobError) -> JobError:
        return replace(error, type="Exception")

    def shortened(change: Change) -> Change:
        errors = change.set.get("errors")
        return change if errors is None else replace(change, set={**change.set, "errors": tuple(map(blank, errors))})

    return swap([replace(s, change=shortened(s.change)) for s in swaps])


@breaks("store.find", "D3_purge", on=SQLITE)
def a_purge_ignores_the_age(find: Verb, query: Query) -> Any:
    return find(replace(query, finished_before=None))


@breaks("store.count", "D2", on=MEMORY)
def a_count_ignores_the_task(count: Verb, query: Query) -> Any:
    return count(replace(query, task=None))


# -- schedules -----------------------------------------------------------------------------------------


@breaks("store.put_document", "P1 and several", on=SQLITE)
def any_dispatcher_may_write(put: Verb, document: Document, expected: str | None, insert: Insert | None = None) -> Any:
    if insert is not None:  # each process makes a job of its own
        insert = changed(insert, id=uuid.uuid4().hex)
        time.sleep(0.3)  # longer than a dispatcher's poll, so that the other one has read the schedule meanwhile
        expected = next((one.rev for one in put.__self__.documents(document.kind)), None)
    return put(document, expected, insert)


@breaks("store.put_document", "P2 and paused", on=MEMORY)
def a_pause_is_forgotten(put: Verb, document: Document, expected: str | None, insert: Insert | None = None) -> Any:
    return put(replace(document, value={**document.value, "paused": False}), expected, insert)


@breaks("store.put_document", "P3", on=STORED)
def schedules_hold_no_key(put: Verb, document: Document, expected: str | None, insert: Insert | None = None) -> Any:
    bare = None if insert is None else changed(insert, key=None)
    return put(document, expected, bare)


@breaks("store.put_document", "P4", on=SQLITE)
def the_job_of_a_tick_is_lost(put: Verb, document: Document, expected: str | None, insert: Insert | None = None) -> Any:
    lost = insert is not None and int(document.value["last"] - document.value["origin"]) % 3 == 1
    return put(document, expected, None if lost else insert)


# -- follow-up jobs ------------------------------------------------------------------------------------


def released(change: Change, **values: Any) -> Change:
    """The change with other releases."""
    return replace(change, releases=tuple(replace(release, **values) for release in change.releases))


@breaks("store.swap", "F1", on=STORED)
def the_next_job_of_a_chain_is_lost(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=replace(s.change, releases=())) for s in swaps])


@breaks("store.swap", "F2", on=MEMORY)
def the_next_job_runs_after_a_cancelled_one(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=released(s.change, set={})) for s in swaps])


@breaks("store.swap", "F3", on=STORED)
def the_first_end_starts_the_follow_up_job(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=released(s.change, all=True)) for s in swaps])


@breaks("store.swap", "F4", on=MEMORY)
def a_dead_job_counts_as_ended(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def ended(swap: Swap) -> Swap:
        (found,) = swap_store.get([swap.id])
        links = None if found is None else found.links
        if swap.change.set.get("state") is not JobState.DEAD or links is None or links.then is None:
            return swap
        return replace(swap, change=replace(swap.change, releases=(*swap.change.releases, Release(links.then))))

    swap_store = swap.__self__
    return swap([ended(each) for each in swaps])


@breaks("store.find", "F5", on=MEMORY)
def the_jobs_after_a_batch_are_not_found(find: Verb, query: Query) -> Any:
    return [] if (query.tag or "").startswith("queueport:after:") else find(query)


@breaks("store.swap", "F6", on=SQLITE)
def some_releases_are_lost(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=replace(s.change, releases=())) if s.rev[-1] in "01" else s for s in swaps])

"""Mutants of stores that run, end or count jobs wrongly. For the groups C, M, W, X, L and H of the contract."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from queueport.spi.history import MINUTE, HistoryQuery
from queueport.spi.record import Change, Record
from queueport.spi.store import (
    Begin,
    Document,
    Insert,
    LeaseRenewal,
    Query,
    StoreStats,
    Swap,
    TakeLimits,
    WriteOutcome,
    WriteResult,
)
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.testing.stores.harness import bare
from tests.mutants.mutant import MEMORY, SQLITE, STORED, WIRE, Verb, breaks, without

# -- cancel --------------------------------------------------------------------------------------------


@breaks("store.swap", "C1_cancelled", on=STORED)
def a_cancel_is_not_applied(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def answered(one: Swap) -> Any:
        if one.change.set.get("reason") != "cancelled":
            return next(iter(swap([one])))
        (record,) = swap.__self__.get([one.id])
        return WriteResult(WriteOutcome.APPLIED, one.change.applied(record, one.rev, 0.0))

    return [answered(one) for one in swaps]


@breaks("store.swap", "C2_a_running", on=SQLITE)
def a_cancel_request_is_forgotten(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=without(s.change, "cancel_requested")) for s in swaps])


# -- stats ---------------------------------------------------------------------------------------------


@breaks("store.stats", "M1_counts", on=STORED)
def a_count_is_off_by_one(stats: Verb) -> Any:
    read: StoreStats = stats()
    more = {JobState.SUCCEEDED: 1}
    queues = {
        name: replace(counts, states={state: n + more.get(state, 0) for state, n in counts.states.items()})
        for name, counts in read.queues.items()
    }
    return replace(read, queues=queues)


@breaks("store.stats", "M2", on=MEMORY)
def the_oldest_queued_job_is_unknown(stats: Verb) -> Any:
    read: StoreStats = stats()
    return replace(read, queues={n: replace(counts, oldest_queued_at=None) for n, counts in read.queues.items()})


@breaks("store.announce", "M3_live", on=SQLITE)
def a_stopped_worker_stays_listed(announce: Verb, worker: WorkerStats, ttl: float) -> Any:
    return announce(worker, 3600.0)


@breaks("store.check", "M5", on=STORED)
def a_check_leaves_a_job(check: Verb) -> Any:
    check.__self__.insert([Insert(bare(), Change(), "r")])
    return check()


@breaks("store.workers", "M5", on=SQLITE)
def a_live_worker_is_not_seen(workers: Verb) -> Any:
    return []


@breaks("store.swap", "M4_counters_only", on=MEMORY)
def an_end_is_counted_twice(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=replace(s.change, processed=2 * s.change.processed)) for s in swaps])


@breaks("store.history", "M6_the_history_adds", on=STORED)
def the_last_hour_is_empty(history: Verb, query: HistoryQuery) -> Any:
    return history(query) if query.step == MINUTE else []


@breaks("store.begin", "M6_the_history_adds", on=WIRE)
def the_wait_is_not_counted(begin: Verb, begins: Sequence[Begin]) -> Any:
    return begin([replace(b, change=b.change.with_next(Change({"queued_at": None}))) for b in begins])


@breaks("store.insert", "M6_the_history_adds", on=MEMORY)
def a_refused_insert_is_counted(insert: Verb, inserts: Sequence[Insert]) -> Any:
    results = insert(inserts)
    store = insert.__self__
    for given, made in zip(inserts, results, strict=True):
        if not made.applied:
            store.records.history.count((given.record.queue, given.record.task), "enqueued", store.now())
    return results


# -- worker --------------------------------------------------------------------------------------------


@breaks("store.take", "W1", on=STORED)
def a_worker_takes_jobs_of_all_queues(
    take: Verb, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str, *limits: Any
) -> Any:
    everything = list(take.__self__.stats().queues)
    return take(everything, changes, limit, rev, *limits)


@breaks("store.take", "W3", on=SQLITE)
def a_running_job_can_be_taken(
    take: Verb, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str, *limits: Any
) -> Any:
    """A worker that finds no queued job gets a job that is running."""
    store = take.__self__
    taken: Sequence[Record] = take(queues, changes, limit, rev, *limits)
    running = store.find(Query(state=JobState.RUNNING, limit=limit))
    others = [record for record in running if record.queue in queues and record.task in changes]
    swaps = [Swap(record.id, record.rev, changes[record.task], rev) for record in others]
    return taken or [written.record for written in store.swap(swaps) if written.applied]


@breaks("store.take", "W12_a_paused", on=STORED)
def jobs_of_a_paused_queue_are_taken(
    take: Verb, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str, *limits: Any
) -> Any:
    return take([*queues, "default"], changes, limit, rev, *limits)


@breaks("store.put_document", "W12_a_pause_is", on=STORED)
def a_pause_is_not_stored(put: Verb, document: Document, expected: str | None, insert: Insert | None = None) -> Any:
    return True


@breaks("store.put_document", "W12_a_pause_is", on=SQLITE)
def a_second_pause_changes_nothing(
    put: Verb, document: Document, expected: str | None, insert: Insert | None = None
) -> Any:
    return put(document, expected, insert) if expected is None else True


@breaks("store.delete_document", "W12_a_pause_is", on=MEMORY)
def an_end_of_a_pause_is_not_told(delete: Verb, kind: str, name: str, expected: str) -> Any:
    delete(kind, name, expected)
    return False


# -- crash ---------------------------------------------------------------------------------------------


@breaks("store.claim_due", "X1_another", on=SQLITE)
def a_lease_never_lapses(claim_due: Verb, limit: int, claim: float, rev: str, *, leases: bool = True) -> Any:
    return claim_due(limit, claim, rev, leases=False)


@breaks("store.swap", "X2 and first", on=SQLITE)
def crashes_are_not_counted(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=without(s.change, "crashes")) for s in swaps])


@breaks("store.take", "X10", on=SQLITE)
def crashes_are_not_told_to_the_worker(
    take: Verb, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str, *limits: Any
) -> Any:
    return [replace(record, crashes=0) for record in take(queues, changes, limit, rev, *limits)]


@breaks("store.swap", "C2_without_interruption", on=STORED)
def a_swap_ignores_the_rev(swap: Verb, swaps: Sequence[Swap]) -> Any:
    records = swap.__self__.get([one.id for one in swaps])
    found = {record.id: record.rev for record in records if record is not None}
    return swap([replace(one, expected=found.get(one.id, one.expected)) for one in swaps])


@breaks("store.heartbeat", "X1_a_job_longer", on=SQLITE)
def a_heartbeat_extends_no_lease(heartbeat: Verb, renewals: Sequence[LeaseRenewal]) -> Any:
    return [WriteResult(WriteOutcome.APPLIED, record) for record in heartbeat.__self__.get([r.id for r in renewals])]


# -- hygiene -------------------------------------------------------------------------------------------


@breaks("settings.namespace", "H2", on=STORED)
def all_namespaces_are_one(namespace: str) -> str:
    return "shared"


@breaks("store.unknown", "D5_a_task_unknown", on=MEMORY)
def unknown_tasks_are_not_found(unknown: Verb, queues: Sequence[str], tasks: Collection[str], limit: int) -> Any:
    return []


# -- limits --------------------------------------------------------------------------------------------


def each_with(limits: TakeLimits, **values: Any) -> TakeLimits:
    """The limits, with these values of each limit."""
    found = {pair: tuple(replace(one, **values) for one in own) for pair, own in limits.limits.items()}
    return replace(limits, limits=found)


@breaks("store.take", "L1", on=SQLITE)
def the_limit_is_not_counted(take: Verb, *given: Any) -> Any:
    return take(*given[:-1], each_with(given[-1], concurrency=None))


@breaks("store.take", "L2", on=MEMORY)
def all_keys_share_a_limit(take: Verb, *given: Any) -> Any:
    return take(*given[:-1], each_with(given[-1], keyed=False))


@breaks("store.begin", "L2", on=WIRE)
def keys_have_no_limits(begin: Verb, begins: Sequence[Begin]) -> Any:
    return begin([replace(b, limits=tuple(limit for limit in b.limits if not limit.keyed)) for b in begins])


@breaks("store.take", "L3", on=MEMORY)
def rates_are_not_counted(take: Verb, *given: Any) -> Any:
    return take(*given[:-1], each_with(given[-1], rate=None))


@breaks("store.put_document", "L4", on=MEMORY)
def a_limit_is_never_lifted(put: Verb, document: Document, expected: str | None, insert: Insert | None = None) -> Any:
    return put(document, expected, insert) if document.kind != "limit" or expected is None else True


@breaks("store.claim_due", "L5", on=SQLITE)
def a_slot_stays_with_its_killed_worker(
    claim_due: Verb, limit: int, claim: float, rev: str, *, leases: bool = True
) -> Any:
    return claim_due(limit, claim, rev, leases=False)


@breaks("store.take", "L6", on=STORED)
def a_held_job_burns_an_attempt(take: Verb, *given: Any) -> Any:
    return take(*given[:-1], replace(given[-1], hold=given[-1].hold.with_next(Change({"attempts": 1}))))

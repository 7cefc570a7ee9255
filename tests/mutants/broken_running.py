"""Mutants of stores that let jobs run, end or count the wrong way, and the line that must notice. C to H."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from queueport.record import Change, Record
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.store import Beat, Outcome, Query, StoreStats, Swap, Written
from tests.mutants.mutant import MEMORY, SQLITE, STORED, Verb, breaks, without

# -- cancel --------------------------------------------------------------------------------------------


@breaks("store.swap", "C1_waiting", on=STORED)
def a_cancel_is_only_said(swap: Verb, swaps: Sequence[Swap]) -> Any:
    def said(one: Swap) -> Any:
        if one.change.set.get("reason") != "cancelled":
            return next(iter(swap([one])))
        (record,) = swap.__self__.get([one.id])
        return Written(Outcome.APPLIED, one.change.applied(record, one.rev, 0.0))

    return [said(one) for one in swaps]


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
def the_oldest_is_not_known(stats: Verb) -> Any:
    read: StoreStats = stats()
    return replace(read, queues={n: replace(counts, oldest_queued_at=None) for n, counts in read.queues.items()})


@breaks("store.announce", "M3_live", on=SQLITE)
def a_worker_is_never_forgotten(announce: Verb, worker: WorkerStats, ttl: float) -> Any:
    return announce(worker, 3600.0)


@breaks("store.swap", "M4_counters_only", on=MEMORY)
def an_end_is_counted_twice(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=replace(s.change, processed=2 * s.change.processed)) for s in swaps])


# -- worker --------------------------------------------------------------------------------------------


@breaks("store.take", "W1", on=STORED)
def queues_are_not_kept_apart(
    take: Verb, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str
) -> Any:
    everything = list(take.__self__.stats().queues)
    return take(everything, changes, limit, rev)


@breaks("store.take", "W3", on=SQLITE)
def a_claim_is_not_exclusive(
    take: Verb, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str
) -> Any:
    """Who finds nothing gets what others run."""
    store = take.__self__
    taken: Sequence[Record] = take(queues, changes, limit, rev)
    running = store.find(Query(state=JobState.RUNNING, limit=limit))
    theirs = [record for record in running if record.queue in queues and record.task in changes]
    swaps = [Swap(record.id, record.rev, changes[record.task], rev) for record in theirs]
    return taken or [written.record for written in store.swap(swaps) if written.applied]


# -- crash ---------------------------------------------------------------------------------------------


@breaks("store.claim_due", "X1_another", on=SQLITE)
def a_lease_never_lapses(claim_due: Verb, limit: int, claim: float, rev: str, *, leases: bool = True) -> Any:
    return claim_due(limit, claim, rev, leases=False)


@breaks("store.swap", "X2 and first", on=SQLITE)
def crashes_are_not_counted(swap: Verb, swaps: Sequence[Swap]) -> Any:
    return swap([replace(s, change=without(s.change, "crashes")) for s in swaps])


@breaks("store.swap", "C2_without_interruption", on=STORED)
def a_swap_ignores_the_fence(swap: Verb, swaps: Sequence[Swap]) -> Any:
    records = swap.__self__.get([one.id for one in swaps])
    found = {record.id: record.rev for record in records if record is not None}
    return swap([replace(one, expected=found.get(one.id, one.expected)) for one in swaps])


@breaks("store.heartbeat", "X1_a_job_longer", on=SQLITE)
def a_heartbeat_prolongs_nothing(heartbeat: Verb, beats: Sequence[Beat]) -> Any:
    return [Written(Outcome.APPLIED, record) for record in heartbeat.__self__.get([b.id for b in beats])]


# -- hygiene -------------------------------------------------------------------------------------------


@breaks("settings.namespace", "H2", on=STORED)
def namespaces_are_one(namespace: str) -> str:
    return "shared"


@breaks("store.unknown", "D5_what", on=MEMORY)
def what_nobody_knows_is_not_noticed(unknown: Verb, queues: Sequence[str], tasks: Collection[str], limit: int) -> Any:
    return []

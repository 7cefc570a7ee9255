"""Broken decisions, stores and production code. Each breaks a rule of the protocol. For `test_machine_catches`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from queueport.engine.dispatcher import Dispatcher
from queueport.engine.enqueue import Enqueue, Verdict, _Fate
from queueport.engine.lifecycle import Lifecycle
from queueport.engine.operations import Decide, Operations
from queueport.engine.rules import AttemptOutcome, Failed, Refusal
from queueport.engine.schedules import Entry, ScheduleDispatcher
from queueport.errors import BackendUnavailable
from queueport.spi import storage
from queueport.spi.message import Message, SendResult
from queueport.spi.record import Change, FollowUp, Record, Release
from queueport.spi.runner import MessageAction
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
from queueport.status import JobError, JobState
from queueport.stores.memory.records import Records
from queueport.stores.memory.store import MemoryStore
from queueport.workers.receiver import Receiver

Decision = Callable[..., Change | Refusal]
"""A method of `Lifecycle`. Each function below takes the original method and returns a broken one."""

# -- the lifecycle ----------------------------------------------------------------------------------------------------


def as_if(**values: Any) -> Callable[[Decision], Decision]:
    """Call the method with a record that has these values instead of its own."""

    def broken(original: Decision) -> Decision:
        return lambda self, record, **more: original(self, record and replace(record, **values), **more)

    return broken


def changed(change: Callable[[Change], Change]) -> Callable[[Decision], Decision]:
    """Call `change` with each `Change` that the method returns, and return its result. A `Refusal` is not changed."""

    def broken(original: Decision) -> Decision:
        def decide(*args: Any, **more: Any) -> Change | Refusal:
            decided = original(*args, **more)
            return decided if isinstance(decided, Refusal) else change(decided)

        return decide

    return broken


def without(*names: str) -> Callable[[Decision], Decision]:
    """Remove these fields from each `Change` that the method returns."""

    def kept(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in names}

    return changed(lambda change: replace(change, set=kept(change.set), stamp=kept(change.stamp)))


def not_followed_by(then: FollowUp) -> Callable[[Decision], Decision]:
    """Remove this follow-up from each `Change` that the method returns."""
    return changed(lambda change: replace(change, then=change.then - {then}))


def token_ignored(original: Decision) -> Decision:
    return lambda self, record, **more: original(self, record, **{**more, "token": record and record.token})


def life_ignored(original: Decision) -> Decision:
    return lambda self, record, life: original(self, record, life=record and record.life)


def refused(_: Decision) -> Decision:
    return lambda *args, **more: Refusal.NOT_ALLOWED


def own_begin_ignored(original: Decision) -> Decision:
    def decide(*args: Any, **more: Any) -> Change | Refusal:
        decided = original(*args, **more)
        return Refusal.NOT_MINE if decided is Refusal.NOTHING else decided

    return decide


def always_stopped(original: Decision) -> Decision:
    return lambda self, record, token, stopped: original(self, record, token=token, stopped=True)


def cancelled_at_once(original: Decision) -> Decision:
    def decide(self: Lifecycle, record: Record | None, **more: Any) -> Change | Refusal:
        if record is not None and not record.state.final:
            record = replace(record, state=JobState.QUEUED)
        return original(self, record, **more)

    return decide


def waits_if_refused(_: Decision) -> Decision:
    return lambda self, record, **more: self.send_failed(record, **more)


def never_withdrawn(original: Decision) -> Decision:
    return lambda self, certain: original(self, certain=True) if certain else Change({"sends": 1})


# -- the store --------------------------------------------------------------------------------------------------------


class ReplacesRunning(MemoryStore):
    """Gives a running job the new arguments, too."""

    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        return super().insert([_changed(one, running=one.replace.waiting) if one.replace else one for one in inserts])


class ReplacesWithTheRev(MemoryStore):
    """Leaves the rev of a job that it replaces, so that its producer can still withdraw it."""

    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        return [self._kept(one) for one in inserts]

    def _kept(self, insert: Insert) -> WriteResult:
        holders = [each for each in self.find(Query()) if each.key is not None and each.key == insert.record.key]
        revs = {each.id: each.rev for each in holders}
        (written,) = super().insert([insert])
        if written.outcome is not WriteOutcome.REPLACED or written.record is None:
            return written
        swap = Swap(written.record.id, written.record.rev, Change({"sends": 0}), revs[written.record.id])
        return WriteResult(WriteOutcome.REPLACED, self.swap([swap])[0].record)


def _changed(insert: Insert, **changes: Change) -> Insert:
    return insert if insert.replace is None else replace(insert, replace=replace(insert.replace, **changes))


def replaces_without(*names: str) -> Callable[[Decision], Any]:
    """Remove these fields from the changes to the job that is replaced."""

    def kept(change: Change) -> Change:
        values = {name: value for name, value in change.set.items() if name not in names}
        stamp = {name: value for name, value in change.stamp.items() if name not in names}
        return replace(change, set=values, stamp=stamp)

    def broken(original: Any) -> Any:
        def decide(self: Lifecycle, record: Record, new: Change) -> Any:
            decided = original(self, record, new)
            return replace(
                decided, waiting=kept(decided.waiting), sent=None if decided.sent is None else kept(decided.sent)
            )

        return decide

    return broken


class BeginsAnything(MemoryStore):
    def begin(self, begins: Sequence[Begin]) -> Sequence[WriteResult]:
        return [self._forced(begin) for begin in begins]

    def _forced(self, begin: Begin) -> WriteResult:
        found = self.get([begin.id])[0]
        if found is None or found.state not in self.begun_from:
            return super().begin([begin])[0]
        change = replace(begin.change, set={**begin.change.set, "attempts": found.attempts + 1})
        return self.swap([Swap(begin.id, found.rev, change, begin.rev)])[0]

    begun_from: ClassVar[set[JobState]] = {JobState.QUEUED, JobState.RUNNING, JobState.RETRYING}


class BeginsExpired(BeginsAnything):
    begun_from: ClassVar[set[JobState]] = {JobState.QUEUED}


class SwapsWithAnyRev(MemoryStore):
    """Applies some swaps without comparing the rev."""

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        return super().swap([self._current(swap) if self.ignores_rev(swap.change) else swap for swap in swaps])

    def _current(self, swap: Swap) -> Swap:
        found = self.get([swap.id])[0]
        return swap if found is None else replace(swap, expected=found.rev)

    def ignores_rev(self, change: Change) -> bool:
        raise NotImplementedError


class MarksWithAnyRev(SwapsWithAnyRev):
    def ignores_rev(self, change: Change) -> bool:
        return change.set.get("sent") is True


class WithdrawsWithAnyRev(SwapsWithAnyRev):
    def ignores_rev(self, change: Change) -> bool:
        return change.set.get("reason") == "not_sent" or change == Change(delete=True)


class LapsesWithAnyRev(SwapsWithAnyRev):
    def ignores_rev(self, change: Change) -> bool:
        return "crashes" in change.set


class ClaimsForZeroSeconds(MemoryStore):
    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        return super().claim_due(limit, 0.0, rev, leases=leases)


class HandlesAllLeases(MemoryStore):
    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        return super().claim_due(limit, claim, rev)


class ChangesHeartbeats(MemoryStore):
    """Applies another change than the heartbeat that was requested. Subclasses define this change in `changed`."""

    def heartbeat(self, beats: Sequence[LeaseRenewal]) -> Sequence[WriteResult]:
        results = []
        for renewal in beats:
            found = self.get([renewal.id])[0]
            results.append(super().heartbeat([renewal if found is None else self.changed(renewal, found)])[0])
        return results

    def changed(self, renewal: LeaseRenewal, found: Record) -> LeaseRenewal:
        raise NotImplementedError


class ExtendsAnyLease(ChangesHeartbeats):
    def changed(self, renewal: LeaseRenewal, found: Record) -> LeaseRenewal:
        return replace(renewal, token=found.token or "", values={"token": renewal.token})


class ExtendsNoLapsedLease(ChangesHeartbeats):
    def changed(self, renewal: LeaseRenewal, found: Record) -> LeaseRenewal:
        return replace(renewal, token="late") if (found.wake_at or 0.0) < self.now() else renewal


class KeepsRevOfHeartbeat(ChangesHeartbeats):
    def changed(self, renewal: LeaseRenewal, found: Record) -> LeaseRenewal:
        return replace(renewal, rev=found.rev)


class TakesExpired(MemoryStore):
    def take(
        self,
        queues: Sequence[str],
        changes: Mapping[str, Change],
        limit: int,
        rev: str,
        limits: TakeLimits | None = None,
    ) -> Sequence[Record]:
        for record in self.find(Query(state=JobState.QUEUED)):
            if record.task in changes:
                change = replace(
                    changes[record.task], set={**changes[record.task].set, "attempts": record.attempts + 1}
                )
                return [r for w in self.swap([Swap(record.id, record.rev, change, rev)]) if (r := w.record)]
        return []


class LeavesReleasesOut(MemoryStore):
    """Applies a change without the releases of the jobs that wait for it."""

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        return super().swap([replace(swap, change=replace(swap.change, releases=())) for swap in swaps])


class ReleasesAgain(MemoryStore):
    """Releases jobs also if the change itself was refused, because it was applied before."""

    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        written = super().swap(swaps)
        for swap, answer in zip(swaps, written, strict=True):
            for release in swap.change.releases if not answer.applied else ():
                waiting = self.get([release.id])[0]
                change = storage.releasing(release, waiting)
                if waiting is not None and change is not None:
                    super().swap([Swap(waiting.id, waiting.rev, change, swap.rev)])
        return written


class LetsOnWithAnyRev(SwapsWithAnyRev):
    def ignores_rev(self, change: Change) -> bool:
        return change.set == {"reason": None}


class PutsWithAnyRev(MemoryStore):
    """Writes a document without comparing its rev."""

    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        return super().put_document(document, self._rev_of(document.kind, document.name), insert)


class ForgetsFailures(MemoryStore):
    def stats(self) -> StoreStats:
        return replace(super().stats(), failed=0)


# -- limits, follow-up jobs and schedules ------------------------------------------------------------------------------


def admits_all(original: Method) -> Method:
    """Let each job begin."""
    return lambda limits, record, now, state_of: (None, {})


def admits_as_if(**values: Any) -> Callable[[Method], Method]:
    """Decide with a state of each limit that has these values instead of its own."""

    def broken(original: Method) -> Method:
        return lambda limits, record, now, state_of: original(
            limits, record, now, lambda name: replace(state_of(name), **values)
        )

    return broken


def keeps_slots(original: Method) -> Method:
    """Count the slot of a job also after its attempt has ended."""

    def count(self: Records, record: Record, more: int) -> None:
        if record.state is not JobState.RUNNING or more > 0:
            original(self, record, more)

    return count


def lets_on_if_named(original: Method) -> Method:
    """Let jobs on at the end of an attempt only, and never in the round of a dispatcher."""
    return lambda self, names=None: {} if names is None else original(self, names)


def _released(release: Release, record: Record) -> Change | Refusal:
    return storage.releasing(release, record) or Refusal.NOT_ALLOWED


def releases_in_a_second_step(original: Method) -> Method:
    """Release the jobs that follow an ended one by a write of its own. For use with `LeavesReleasesOut`."""

    def follow(self: Operations, done: Sequence[tuple[Record, Change]], **more: Any) -> Any:
        for release in [release for _, change in done for release in change.releases]:
            self.settle(release.id, partial(_released, release))
        return original(self, done, **more)

    return follow


def released_ignored(original: Decision) -> Decision:
    return lambda self, record, change: original(self, replace(record, released=False), change)


def releases_if(kept: Callable[[Release], bool]) -> Callable[[Decision], Decision]:
    """Remove the releases that are not wanted from each change of a job."""
    return changed(lambda change: replace(change, releases=tuple(filter(kept, change.releases))))


def runs_whatever_the_reason(original: Decision) -> Decision:
    return lambda self, record: original(self, replace(record, reason=None))


def makes_the_job_later(original: Method) -> Method:
    """Move the schedule on first, and then insert the job."""

    def make(self: ScheduleDispatcher, *args: Any) -> Any:
        store, inserts = self._store, list[Insert]()

        def put(document: Document, expected: str | None, insert: Insert | None = None) -> bool:
            inserts.extend([] if insert is None else [insert])
            return store.put_document(document, expected)

        self._store = copy(store)
        self._store.put_document = put  # type: ignore[method-assign]
        try:
            made = original(self, *args)
        finally:
            self._store = store
        if made is not None:
            store.insert(inserts)
        return made

    return make


def makes_the_latest_tick(original: Method) -> Method:
    """Leave out the ticks before the latest one, whatever the schedule says."""

    def make(self: ScheduleDispatcher, entry: Entry, *more: Any) -> Any:
        made = original(self, replace(entry, recurrence=replace(entry.recurrence, catch_up="one")), *more)
        return None if made is None else replace(made, recurrence=entry.recurrence)

    return make


# -- the production code ----------------------------------------------------------------------------------------------

Method = Callable[..., Any]
"""A method or function of production code. Each function below takes the original and returns a broken one."""


def always(answer: Any) -> Callable[[Method], Method]:
    """Return this answer and do nothing."""
    return lambda original: lambda self, *args, **more: answer


def marks_by_the_current_revs(original: Method) -> Method:
    """Mark sent jobs with their current revs instead of the revs of the claim."""

    def publish(self: Operations, records: Sequence[Record], *, new: bool = False) -> Sequence[SendResult]:
        outcomes = self.driver.publish([Message.of(record, self.runtime.wall()) for record in records])
        found = [record for record in self.store.get([record.id for record in records]) if record is not None]
        self.store.swap([Swap(r.id, r.rev, self.lifecycle.mark(r), self.runtime.new_id()) for r in found])
        return outcomes

    return publish


def leaves_the_rev(original: Method) -> Method:
    """Return the handle of the job that holds the key, but do not give the holder a new rev."""

    def settle_insert(self: Enqueue, insert: Insert, written: WriteResult, silent: list[BackendUnavailable]) -> Any:
        if written.outcome is WriteOutcome.KEY_HELD and written.record is not None:
            return Verdict(written.record.id, _Fate.ACCEPTED)
        return original(self, insert, written, silent)

    return settle_insert


def replaces_as_new(original: Method) -> Method:
    """Withdraw a replaced job, as if it was new, if its message could not be published."""

    def settle_insert(self: Enqueue, insert: Insert, written: WriteResult, *more: Any) -> Any:
        verdict = original(self, insert, written, *more)
        return verdict._replace(replaced=False)

    return settle_insert


def recognises_nothing(original: Method) -> Method:
    """Do not recognise the job of an earlier call if another process has changed it meanwhile."""
    return lambda insert, written, since: written


def asks_the_lifecycle_once(original: Method) -> Method:
    """If the swap is refused, write the same change with the new rev. Do not ask the lifecycle again."""

    def settle(self: Operations, job_id: str, decide: Decide, record: Record | None = None) -> Any:
        record = self.store.get([job_id])[0] if record is None else record
        change = Refusal.GONE if record is None else decide(record)
        return original(self, job_id, lambda _: change, record)

    return settle


def leaves_the_copy(original: Method) -> Method:
    """Leave the copy in the dead letters if the job was retried meanwhile."""

    def bury(self: Operations, ids: Sequence[str]) -> None:
        dead = [r for r in self.store.get(ids) if r is not None and r.state is JobState.DEAD and not r.buried]
        if dead:
            self.driver.bury(dead[0].queue, [Message.of(record, 0.0, buried=True) for record in dead])
            self.store.swap([Swap(r.id, r.rev, self.lifecycle.mark_buried(r), self.runtime.new_id()) for r in dead])

    return bury


def withdraws_nothing(original: Method) -> Method:
    """Tell the producer that its jobs will not run, but do not withdraw them."""
    return lambda self, changes: [_Fate.REJECTED for _ in changes]


def rejects_all_if(fate: _Fate) -> Callable[[Method], Method]:
    """Tell the producer that its jobs will not run, even if the withdrawal had this outcome."""

    def broken(original: Method) -> Method:
        return lambda self, changes: [_Fate.REJECTED if each is fate else each for each in original(self, changes)]

    return broken


def acknowledges_without_an_answer(original: Method) -> Method:
    """Acknowledge the message although the store has not answered begin."""

    def begin(self: Receiver, bodies: Sequence[bytes], stop: threading.Event) -> Any:
        stop = threading.Event()
        stop.set()
        try:
            return original(self, bodies, stop)
        except BackendUnavailable:
            return [MessageAction.ACKNOWLEDGE for _ in bodies]

    return begin


def ends_any_attempt(original: Method) -> Method:
    """Record the end of the job although the record has the token of another attempt."""

    def end(operations: Operations, token: str, *what: Any) -> Method:
        return lambda record: original(operations, token if record is None else record.token, *what)(record)

    return end


def fails_when_interrupted(original: Method) -> Method:
    """Record a graceful stop as a failure."""

    def end(operations: Operations, token: str, outcome: AttemptOutcome | None, *more: Any) -> Method:
        stopped = JobError("builtins.SystemExit", "stopped", "", datetime.fromtimestamp(0, UTC), 1)
        end: Method = original(operations, token, Failed(stopped) if outcome is None else outcome, *more)
        return end

    return end


def redrives_any_life(original: Method) -> Method:
    """Retry a job when any dead-letter copy of it is redriven, even a copy from an earlier life."""

    def redriven(self: Receiver, message: Message) -> Any:
        found = self._operations.store.get([message.id])[0]
        return original(self, message if found is None else replace(message, life=found.life))

    return redriven


def extends_no_lapsed_lease(original: Method) -> Method:
    """Handle lapsed leases at once, even after a call so slow that the workers' heartbeats may be late too."""

    def dispatch(self: Operations, limit: int, *, leases: bool = True) -> Any:
        runtime, self.runtime = self.runtime, copy(self.runtime)
        now = runtime.monotonic()
        self.runtime.monotonic = lambda: now  # type: ignore[method-assign]
        try:
            return original(self, limit, leases=leases)
        finally:
            self.runtime = runtime

    return dispatch


def counts_a_call_as_an_answer(original: Method) -> Method:
    """Treat a call to the store as an answer, although the call may fail."""

    def handles(self: Dispatcher) -> bool:
        answer = original(self)
        self._answered_at = self._runtime.read()
        return bool(answer)

    return handles

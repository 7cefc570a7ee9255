"""Decisions, stores and procedures that break a rule of PROTOCOL, for the check that the machine notices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from queueport.lifecycle import Refusal, Rules
from queueport.record import Change, Record, Then
from queueport.status import JobState
from queueport.store import Beat, Begin, Insert, Query, StoreStats, Swap, Written
from queueport.stores.memory import MemoryStore
from queueport.testing.machine.workers import Procedures
from queueport.testing.machine.world import Actor, Attempt, Process, Steps

T = TypeVar("T")
Decision = Callable[..., Change | Refusal]
"""A function of the lifecycle."""

# -- the lifecycle ----------------------------------------------------------------------------------------------------


def blind_to(**values: Any) -> Callable[[Decision], Decision]:
    """The decision is made as if the record had these values."""

    def broken(right: Decision) -> Decision:
        return lambda rules, record, **more: right(rules, record and replace(record, **values), **more)

    return broken


def turned(change: Callable[[Change], Change]) -> Callable[[Decision], Decision]:
    """The change is another one."""

    def broken(right: Decision) -> Decision:
        def decide(*args: Any, **more: Any) -> Change | Refusal:
            decided = right(*args, **more)
            return decided if isinstance(decided, Refusal) else change(decided)

        return decide

    return broken


def without(*names: str) -> Callable[[Decision], Decision]:
    """The change leaves these fields as they were."""

    def kept(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name not in names}

    return turned(lambda change: replace(change, set=kept(change.set), stamp=kept(change.stamp)))


def not_followed_by(then: Then) -> Callable[[Decision], Decision]:
    """What is to be done next is forgotten."""
    return turned(lambda change: replace(change, then=change.then - {then}))


def fence_ignored(right: Decision) -> Decision:
    return lambda rules, record, **more: right(rules, record, **{**more, "token": record and record.token})


def life_ignored(right: Decision) -> Decision:
    return lambda rules, record, life: right(rules, record, life=record and record.life)


def refused(_: Decision) -> Decision:
    return lambda *args, **more: Refusal.NOT_ALLOWED


def token_forgotten(right: Decision) -> Decision:
    def decide(*args: Any, **more: Any) -> Change | Refusal:
        decided = right(*args, **more)
        return Refusal.NOT_MINE if decided is Refusal.NOTHING else decided

    return decide


def always_stopped(right: Decision) -> Decision:
    return lambda rules, record, token, stopped: right(rules, record, token=token, stopped=True)


def cancelled_at_once(right: Decision) -> Decision:
    def decide(rules: Rules, record: Record | None, **more: Any) -> Change | Refusal:
        if record is not None and not record.state.final:
            record = replace(record, state=JobState.QUEUED)
        return right(rules, record, **more)

    return decide


def never_withdrawn(right: Decision) -> Decision:
    return lambda rules, certain: right(rules, certain=True) if certain else Change({"sends": 1})


# -- the store --------------------------------------------------------------------------------------------------------


class BeginsAnything(MemoryStore):
    def begin(self, begins: Sequence[Begin]) -> Sequence[Written]:
        return [self._forced(begin) for begin in begins]

    def _forced(self, begin: Begin) -> Written:
        found = self.get([begin.id])[0]
        if found is None or found.state not in self.begun_from:
            return super().begin([begin])[0]
        change = replace(begin.change, set={**begin.change.set, "attempts": found.attempts + 1})
        return self.swap([Swap(begin.id, found.rev, change, begin.rev)])[0]

    begun_from: ClassVar[set[JobState]] = {JobState.QUEUED, JobState.RUNNING, JobState.RETRYING}


class BeginsExpired(BeginsAnything):
    begun_from: ClassVar[set[JobState]] = {JobState.QUEUED}


class SwapsBlindly(MemoryStore):
    """Some swaps do not compare the rev."""

    def swap(self, swaps: Sequence[Swap]) -> Sequence[Written]:
        return super().swap([self._blind(swap) if self.blind_to(swap.change) else swap for swap in swaps])

    def _blind(self, swap: Swap) -> Swap:
        found = self.get([swap.id])[0]
        return swap if found is None else replace(swap, expected=found.rev)

    def blind_to(self, change: Change) -> bool:
        raise NotImplementedError


class MarksBlindly(SwapsBlindly):
    def blind_to(self, change: Change) -> bool:
        return change.set.get("sent") is True


class WithdrawsBlindly(SwapsBlindly):
    def blind_to(self, change: Change) -> bool:
        return change.set.get("reason") == "not_sent" or change == Change(delete=True)


class LapsesBlindly(SwapsBlindly):
    def blind_to(self, change: Change) -> bool:
        return "crashes" in change.set


class ClaimsForNoTime(MemoryStore):
    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        return super().claim_due(limit, 0.0, rev, leases=leases)


class JudgesAllLeases(MemoryStore):
    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        return super().claim_due(limit, claim, rev)


class Beats(MemoryStore):
    """Hearts are heard in another way."""

    def heartbeat(self, beats: Sequence[Beat]) -> Sequence[Written]:
        heard = []
        for beat in beats:
            found = self.get([beat.id])[0]
            heard.append(super().heartbeat([beat if found is None else self.heard(beat, found)])[0])
        return heard

    def heard(self, beat: Beat, found: Record) -> Beat:
        raise NotImplementedError


class BeatsForAnyone(Beats):
    def heard(self, beat: Beat, found: Record) -> Beat:
        return replace(beat, token=found.token or "", values={"token": beat.token})


class BeatsInTimeOnly(Beats):
    def heard(self, beat: Beat, found: Record) -> Beat:
        return replace(beat, token="late") if (found.wake_at or 0.0) < self.now() else beat


class BeatsUnseen(Beats):
    def heard(self, beat: Beat, found: Record) -> Beat:
        return replace(beat, rev=found.rev)


class TakesExpired(MemoryStore):
    def take(self, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str) -> Sequence[Record]:
        for record in self.find(Query(state=JobState.QUEUED)):
            if record.task in changes:
                change = replace(
                    changes[record.task], set={**changes[record.task].set, "attempts": record.attempts + 1}
                )
                return [r for w in self.swap([Swap(record.id, record.rev, change, rev)]) if (r := w.record)]
        return []


class ForgetsFailures(MemoryStore):
    def stats(self) -> StoreStats:
        return replace(super().stats(), failed=0)


# -- what everybody does ----------------------------------------------------------------------------------------------


class StartsLate(Procedures):
    """A task starts although its lease may have lapsed."""

    def ready(self, process: Process, attempt: Attempt) -> Steps[bool]:
        yield from ()
        return True


class LeavesHolderAlone(Procedures):
    """The handle of a job is returned that its producer may still withdraw."""

    def insert(self, actor: Actor, record: Record, change: Change) -> Steps[Record | None]:
        insert = Insert(record, change, self.new("rev"))
        written = yield from self.insist(actor, lambda: self.store.insert([insert])[0])
        found = written.record
        if written.applied or found is None or found.rev == insert.rev:
            return found
        self.ledger.accepted.add(found.id)
        return None


class AcknowledgesUnanswered(Procedures):
    """No answer is taken for a refusal."""

    def insist(self, actor: Actor, do: Callable[[], T]) -> Steps[T]:
        return (yield from self.ask(actor, do))

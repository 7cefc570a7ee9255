"""Each rule of PROTOCOL broken on purpose: the machine must find an example in which that breaks a promise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from queueport import lifecycle
from queueport.lifecycle import Refusal
from queueport.record import Change, Record, Then
from queueport.status import JobState
from queueport.store import Beat, Begin, Insert, JobStore, Query, StoreStats, Swap, Written
from queueport.stores.memory import MemoryStore
from queueport.testing.machine import LifecycleMachine
from queueport.testing.machine.workers import Procedures
from queueport.testing.machine.world import Actor, Attempt, Process, Steps

HUNT = settings(
    max_examples=2000,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

T = TypeVar("T")
Decision = Callable[..., Any]


@dataclass(frozen=True)
class Mutant:
    """What is broken: decisions of the lifecycle (each wraps the right one), the store, or the procedures.

    `events`: the rules of the machine that it takes to find a rare one soon; empty: all of them.
    """

    decisions: Mapping[str, Callable[[Decision], Decision]] = field(default_factory=dict)
    store: type[MemoryStore] = MemoryStore
    procedures: type[Procedures] = Procedures
    carries: bool = True
    events: frozenset[str] = frozenset()


# -- the lifecycle ----------------------------------------------------------------------------------------------------


def blind_to(**values: Any) -> Callable[[Decision], Decision]:
    """The decision is made as if the record had these values."""

    def broken(right: Decision) -> Decision:
        return lambda rules, record, **more: right(rules, record and replace(record, **values), **more)

    return broken


def without(*names: str) -> Callable[[Decision], Decision]:
    """The change leaves these fields as they were."""

    def broken(right: Decision) -> Decision:
        def decide(*args: Any, **more: Any) -> Change | Refusal:
            change = right(*args, **more)
            if isinstance(change, Refusal):
                return change
            values = {name: value for name, value in change.set.items() if name not in names}
            stamp = {name: value for name, value in change.stamp.items() if name not in names}
            return replace(change, set=values, stamp=stamp)

        return decide

    return broken


def turned(change: Callable[[Change], Change]) -> Callable[[Decision], Decision]:
    """The change is another one."""

    def broken(right: Decision) -> Decision:
        def decide(*args: Any, **more: Any) -> Change | Refusal:
            decided = right(*args, **more)
            return decided if isinstance(decided, Refusal) else change(decided)

        return decide

    return broken


def fence_ignored(right: Decision) -> Decision:
    return lambda rules, record, **more: right(rules, record, **{**more, "token": record and record.token})


def life_ignored(right: Decision) -> Decision:
    return lambda rules, record, life: right(rules, record, life=record and record.life)


def refused(_: Decision) -> Decision:
    return lambda *args, **more: Refusal.NOT_ALLOWED


def token_forgotten(right: Decision) -> Decision:
    def decide(*args: Any, **more: Any) -> Change | Refusal:
        decided: Change | Refusal = right(*args, **more)
        return Refusal.NOT_MINE if decided is Refusal.NOTHING else decided

    return decide


def always_stopped(right: Decision) -> Decision:
    return lambda rules, record, token, stopped: right(rules, record, token=token, stopped=True)


def cancelled_at_once(right: Decision) -> Decision:
    def decide(rules: lifecycle.Rules, record: Record | None, **more: Any) -> Change | Refusal:
        waiting = record and replace(record, state=JobState.QUEUED) if record and not record.state.final else record
        decided: Change | Refusal = right(rules, waiting, **more)
        return decided

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


WORKERS = frozenset({"enqueue", "work", "start_task", "dispatch", "wait", "go_on"})
PRODUCERS = frozenset({"enqueue", "produce", "work", "wait"})
PAUSES = frozenset({"overtake", "freeze", "thaw", "interrupt", "work", "dispatch", "wait"})
DEAD_LETTERS = frozenset({"enqueue", "ask", "redrive", "redeliver", "mistreat", "work", "go_on"})

MUTANTS = {
    "finish: running and token mine": Mutant({"finish": fence_ignored}, events=PAUSES),
    "finish: cancel_requested comes first": Mutant(
        {"finish": blind_to(cancel_requested=False)}, events=frozenset({"ask", *WORKERS})
    ),
    "finish: failures+1 < max": Mutant({"finish": blind_to(failures=-1)}),
    "interrupt: running and token mine": Mutant({"interrupt": fence_ignored}, events=PAUSES),
    "interrupt: it will not stop, keep the lease": Mutant({"interrupt": always_stopped}),
    "running, cancel_requested: cancelled": Mutant(
        {"dispatch": blind_to(cancel_requested=False)}, events=frozenset({"ask", *PAUSES})
    ),
    "running, interrupted: no budget": Mutant({"dispatch": blind_to(interrupted=False)}, events=PAUSES),
    "running: crashes+1": Mutant({"dispatch": without("crashes")}),
    "running: crashes+1 < crash_limit": Mutant({"dispatch": blind_to(crashes=-1)}, events=PAUSES),
    "expired: cancelled": Mutant({"dispatch": blind_to(expires_at=None), "begun": blind_to(expires_at=None)}),
    "expired, embedded: cancelled": Mutant({"dispatch": blind_to(expires_at=None)}, carries=False),
    "enter queued: token=None": Mutant({"enter_queued": without("token")}),
    "enter queued: wake_at=+claim": Mutant({"enter_queued": without("wake_at")}),
    "begun: running with my token is mine": Mutant({"begun": token_forgotten}, events=WORKERS),
    "begin: a native redrive in the same life": Mutant({"redrive": life_ignored}, events=DEAD_LETTERS),
    "begin: a task that this worker does not know": Mutant({"unknown": refused}),
    "cancel: running is only requested": Mutant({"cancel": cancelled_at_once}),
    "retry: failures=crashes=0": Mutant({"retry": without("failures", "crashes")}),
    "retry: clears expires_at": Mutant({"retry": without("expires_at")}),
    "retry: clears cancel_requested": Mutant({"retry": without("cancel_requested")}),
    "retry: life+1": Mutant({"retry": without("life")}),
    "retry: unbury": Mutant(
        {"retry": turned(lambda change: replace(change, then=change.then - {Then.UNBURY}))}, events=DEAD_LETTERS
    ),
    "discard: it had ended already": Mutant({"discard": turned(lambda change: replace(change, processed=1))}),
    "dead, not buried: bury": Mutant({"buried": without("buried")}),
    "enqueue: outcome unknown, cancel": Mutant({"withdraw": never_withdrawn}),
    "lost messages": Mutant({"lost": refused}),
    "mark: wake_at=None": Mutant({"mark": without("wake_at")}),
    "mark: swap on my own rev": Mutant(store=MarksBlindly, events=WORKERS),
    "enqueue: swap my inserted rev to nothing": Mutant(store=WithdrawsBlindly, events=PRODUCERS),
    "general: every swap compares the rev": Mutant(store=LapsesBlindly, events=PAUSES),
    "begin: only from queued": Mutant(store=BeginsAnything),
    "begin: expired": Mutant(store=BeginsExpired, events=WORKERS),
    "take: expired": Mutant(store=TakesExpired, carries=False, events=WORKERS),
    "claim_due: nobody else within the claim": Mutant(store=ClaimsForNoTime),
    "dispatch: after a reconnect wait lease/3": Mutant(store=JudgesAllLeases, events=frozenset({"outage", *WORKERS})),
    "heartbeat: token mine": Mutant(store=BeatsForAnyone, events=PAUSES),
    "heartbeat: lapsed or not": Mutant(store=BeatsInTimeOnly),
    "record: rev new on every write": Mutant(store=BeatsUnseen),
    "general: counters change in the same step": Mutant(store=ForgetsFailures),
    "begin: my deadline has passed, beat first": Mutant(procedures=StartsLate, events=PAUSES),
    "enqueue: the holder gets a new rev": Mutant(procedures=LeavesHolderAlone, events=PRODUCERS),
    "general: no answer is not a refusal": Mutant(procedures=AcknowledgesUnanswered, events=WORKERS),
}


@pytest.mark.parametrize("rule", MUTANTS)
def test_breaking_the_rule_breaks_a_promise(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[rule]
    for name, broken in mutant.decisions.items():
        monkeypatch.setattr(lifecycle, name, broken(getattr(lifecycle, name)))

    class Machine(LifecycleMachine):
        carries = mutant.carries
        procedures = mutant.procedures

        def make_store(self, clock: Callable[[], float]) -> JobStore:
            return mutant.store(clock=clock)

    for name, event in vars(LifecycleMachine).items():
        if mutant.events and name not in mutant.events and hasattr(event, RULE_MARKER):
            setattr(Machine, name, functools.partialmethod(event))  # the same, but no rule any more
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Machine, settings=HUNT)  # type: ignore[no-untyped-call]

"""Each rule of PROTOCOL broken on purpose: the machine must find an example in which that breaks a promise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from queueport import lifecycle
from queueport.record import Then
from queueport.store import JobStore
from queueport.stores.memory import MemoryStore
from queueport.testing.machine import LifecycleMachine
from queueport.testing.machine.workers import Procedures
from tests.lifecycle.broken import (
    AcknowledgesUnanswered,
    BeatsForAnyone,
    BeatsInTimeOnly,
    BeatsUnseen,
    BeginsAnything,
    BeginsExpired,
    ClaimsForNoTime,
    Decision,
    ForgetsFailures,
    JudgesAllLeases,
    LapsesBlindly,
    LeavesHolderAlone,
    MarksBlindly,
    StartsLate,
    TakesExpired,
    WithdrawsBlindly,
    always_stopped,
    blind_to,
    cancelled_at_once,
    fence_ignored,
    life_ignored,
    never_withdrawn,
    not_followed_by,
    refused,
    token_forgotten,
    turned,
    without,
)

HUNT = settings(
    max_examples=2000,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


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
    "retry: unbury": Mutant({"retry": not_followed_by(Then.UNBURY)}, events=DEAD_LETTERS),
    "discard: it had ended already": Mutant({"discard": turned(lambda change: replace(change, processed=1))}),
    "dead, not buried: bury": Mutant({"buried": without("buried")}),
    "enqueue: outcome unknown, cancel": Mutant({"withdraw": never_withdrawn}, events=PRODUCERS),
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


@pytest.mark.timeout(600)  # it takes a second or two where the machine is not busy
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
        run_state_machine_as_test(Machine, settings=HUNT)

"""Breaks each rule of the protocol in turn. The fault search must then find an example that breaks a promise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from queueport.engine import enqueue, schedules
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.enqueue import Enqueue, _Fate
from queueport.engine.lifecycle import Lifecycle
from queueport.engine.operations import Operations
from queueport.engine.schedules import ScheduleDispatcher
from queueport.job import new_id
from queueport.spi import storage
from queueport.spi.record import FollowUp
from queueport.spi.store import JobStore
from queueport.stores.memory.records import Records
from queueport.stores.memory.store import MemoryStore
from queueport.testing.machine import FollowUpMachine, LifecycleMachine, LimitMachine, ScheduleMachine
from queueport.workers import runner
from queueport.workers.heartbeat import Heartbeat
from queueport.workers.receiver import Receiver
from queueport.workers.runner import Runner
from tests.lifecycle.broken import (
    BeginsAnything,
    BeginsExpired,
    ClaimsForZeroSeconds,
    Decision,
    ExtendsAnyLease,
    ExtendsNoLapsedLease,
    ForgetsFailures,
    HandlesAllLeases,
    KeepsRevOfHeartbeat,
    LapsesWithAnyRev,
    LeavesReleasesOut,
    LetsOnWithAnyRev,
    MarksWithAnyRev,
    Method,
    PutsWithAnyRev,
    ReleasesAgain,
    ReplacesRunning,
    ReplacesWithTheRev,
    TakesExpired,
    WithdrawsWithAnyRev,
    acknowledges_without_an_answer,
    admits_all,
    admits_as_if,
    always,
    always_stopped,
    as_if,
    asks_the_lifecycle_once,
    cancelled_at_once,
    changed,
    counts_a_call_as_an_answer,
    ends_any_attempt,
    extends_no_lapsed_lease,
    fails_when_interrupted,
    keeps_slots,
    leaves_the_copy,
    leaves_the_rev,
    lets_on_if_named,
    life_ignored,
    makes_the_job_later,
    makes_the_latest_tick,
    marks_by_the_current_revs,
    never_withdrawn,
    not_followed_by,
    own_begin_ignored,
    recognises_nothing,
    redrives_any_life,
    refused,
    rejects_all_if,
    released_ignored,
    releases_if,
    releases_in_a_second_step,
    replaces_as_new,
    replaces_without,
    runs_whatever_the_reason,
    token_ignored,
    waits_if_refused,
    withdraws_nothing,
    without,
)

SEARCH = settings(
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
    """Broken decisions of the lifecycle, a broken store, or broken methods of production code.

    `steps`: the only steps that the search uses, so that it finds a rare example soon. If empty, it uses all steps.
    """

    decisions: Mapping[str, Callable[[Decision], Decision]] = field(default_factory=dict)
    store: type[MemoryStore] = MemoryStore
    code: Mapping[tuple[type[Any] | ModuleType, str], Callable[[Method], Method]] = field(default_factory=dict)
    carries: bool = True
    faults: bool = True
    steps: frozenset[str] = frozenset()
    machine: type[LifecycleMachine] = LifecycleMachine


def broken(
    owner: type[Any] | ModuleType, name: str, how: Callable[[Method], Method], steps: frozenset[str] = frozenset()
) -> Mutant:
    """Production code with one broken method or function."""
    return Mutant(code={(owner, name): how}, steps=steps)


WORKERS = frozenset({"enqueue", "work", "start_task", "dispatch", "wait", "round"})
PRODUCERS = frozenset({"enqueue", "produce", "work", "wait"})
BEGINS = frozenset({"enqueue", "work", "dispatch"})
PAUSES = frozenset({"overtake", "freeze", "thaw", "interrupt", "work", "dispatch", "wait"})
DEAD_LETTERS = frozenset({"enqueue", "operate", "redrive", "redeliver", "disturb", "work", "round"})

MUTANTS = {
    "finish: requires the token of the attempt": Mutant({"finish": token_ignored}, steps=PAUSES),
    "finish: a cancel request takes precedence": Mutant(
        {"finish": as_if(cancel_requested=False)}, steps=frozenset({"operate", *WORKERS})
    ),
    "finish: at most max_attempts failures": Mutant({"finish": as_if(failures=-1)}),
    "interrupt: requires the token of the attempt": Mutant({"interrupt": token_ignored}, steps=PAUSES),
    "interrupt: a task that does not stop keeps its lease": Mutant({"interrupt": always_stopped}),
    "dispatch: a lapsed lease with a cancel request cancels the job": Mutant(
        {"dispatch": as_if(cancel_requested=False)}, steps=frozenset({"operate", *PAUSES})
    ),
    "dispatch: a lapsed lease of an interrupted attempt burns no budget": Mutant(
        {"dispatch": as_if(interrupted=False)}, steps=PAUSES
    ),
    "dispatch: a lapsed lease counts as a crash": Mutant({"dispatch": without("crashes")}),
    "dispatch: at most crash_limit crashes": Mutant({"dispatch": as_if(crashes=-1)}, steps=PAUSES),
    "dispatch: an expired job is cancelled": Mutant(
        {"dispatch": as_if(expires_at=None), "begin_refused": as_if(expires_at=None)}
    ),
    "dispatch: an expired job is cancelled where the store is the queue": Mutant(
        {"dispatch": as_if(expires_at=None)}, carries=False
    ),
    "enter queued: clears the token": Mutant({"enter_queued": without("token")}),
    "enter queued: sets the end of the claim": Mutant({"enter_queued": without("wake_at")}),
    "begin: the token shows that an earlier call was applied": Mutant(
        {"begin_refused": own_begin_ignored}, steps=BEGINS
    ),
    "redrive: requires the life of the copy": Mutant(
        {"redrive": life_ignored}, steps=DEAD_LETTERS - {"enqueue", "disturb"}
    ),
    "begin: a job with an unknown task waits for another worker": Mutant({"task_unknown": refused}),
    "cancel: of a running job is a request": Mutant({"cancel": cancelled_at_once}),
    "retry: resets both budgets": Mutant({"retry": without("failures", "crashes")}),
    "retry: clears expires_at": Mutant({"retry": without("expires_at")}),
    "retry: clears cancel_requested": Mutant({"retry": without("cancel_requested")}),
    "retry: starts a new life": Mutant({"retry": without("life")}),
    "retry: unburies the copy": Mutant({"retry": not_followed_by(FollowUp.UNBURY)}, steps=DEAD_LETTERS),
    "discard: does not count the job as processed again": Mutant(
        {"discard": changed(lambda change: replace(change, processed=1))}
    ),
    "bury: marks the record as buried": Mutant({"mark_buried": without("buried")}),
    "enqueue: an unknown outcome of the publish cancels the job": Mutant(
        {"withdraw": never_withdrawn}, steps=PRODUCERS
    ),
    "publish: a job whose message is refused for good is dead": Mutant({"send_refused": waits_if_refused}),
    "lost messages: are published again": Mutant({"resend": refused}, steps=frozenset({"enqueue", "disturb", "wait"})),
    "mark: empties wake_at": Mutant({"mark": without("wake_at")}),
    "mark: compares the rev": Mutant(store=MarksWithAnyRev, steps=WORKERS),
    "enqueue: a withdrawal compares the rev of the insert": Mutant(store=WithdrawsWithAnyRev, steps=PRODUCERS),
    "dispatch: a lapsed lease compares the rev": Mutant(
        store=LapsesWithAnyRev, steps=PAUSES - {"interrupt", "overtake"}
    ),
    "begin: requires that the job is queued": Mutant(store=BeginsAnything),
    "begin: refuses an expired job": Mutant(store=BeginsExpired, steps=WORKERS),
    "take: leaves out expired jobs": Mutant(
        store=TakesExpired, carries=False, steps=frozenset({"enqueue", "work", "wait"})
    ),
    "claim_due: no other dispatcher gets the record within the claim": Mutant(store=ClaimsForZeroSeconds),
    "claim_due: leaves out running records if asked": Mutant(
        store=HandlesAllLeases, steps=frozenset({"outage", *WORKERS})
    ),
    "heartbeat: requires the token of the attempt": Mutant(store=ExtendsAnyLease, steps=PAUSES),
    "heartbeat: extends a lapsed lease": Mutant(store=ExtendsNoLapsedLease),
    "heartbeat: gives the record a new rev": Mutant(store=KeepsRevOfHeartbeat),
    "general: the counters change in the same step": Mutant(store=ForgetsFailures),
    "keys: stay taken after the end, if the producer wants it": Mutant(
        {"finish": without("key_until")}, steps=frozenset({"enqueue", "work", "wait"})
    ),
    "keys: a replaced job waits for its new time": Mutant(
        {"replace": replaces_without("wake_at")}, steps=frozenset({"enqueue", "wait"})
    ),
    "keys: a replaced job has new budgets": Mutant(
        {"replace": replaces_without("failures")}, steps=frozenset({"enqueue", "work", "wait"})
    ),
    "keys: a running job is not replaced": Mutant(
        store=ReplacesRunning, steps=frozenset({"enqueue", "start_task", "wait"})
    ),
    "keys: a replaced job has a new rev": Mutant(store=ReplacesWithTheRev, steps=PRODUCERS),
}

CODE = {
    "general: the lifecycle is asked again after a refused swap": broken(Operations, "settle", asks_the_lifecycle_once),
    "general: follow-ups are done": broken(Operations, "follow", always(None)),
    "mark: names the rev of its own claim": broken(Operations, "publish", marks_by_the_current_revs, WORKERS),
    "bury: unburies the copy if the swap is refused": replace(
        broken(Operations, "bury", leaves_the_copy, frozenset({"enqueue", "operate"})), faults=False
    ),
    "enqueue: a replaced job is not withdrawn": broken(
        Enqueue, "_settle_insert", replaces_as_new, frozenset({"enqueue", "wait"})
    ),
    "enqueue: the holder gets a new rev": broken(Enqueue, "_settle_insert", leaves_the_rev, PRODUCERS - {"work"}),
    "enqueue: withdraws the job before it raises an error": broken(Enqueue, "_withdraw", withdraws_nothing, PRODUCERS),
    "enqueue: a job whose withdrawal is refused is accepted": broken(
        Enqueue, "_withdraw", rejects_all_if(_Fate.ACCEPTED), BEGINS | {"produce"}
    ),
    "enqueue: a job whose withdrawal is not answered is unknown": broken(
        Enqueue, "_withdraw", rejects_all_if(_Fate.UNKNOWN), PRODUCERS
    ),
    "enqueue: a job whose insert was not answered is recognised": broken(
        enqueue, "_recognise", recognises_nothing, PRODUCERS | {"dispatch"}
    ),
    "dispatch: leaves out running records after a reconnect": broken(
        Dispatcher, "_handles_leases", always(True), WORKERS | {"outage"}
    ),
    "dispatch: a call that fails is not an answer": broken(
        Dispatcher, "_handles_leases", counts_a_call_as_an_answer, frozenset({"start_task", "dispatch", "outage"})
    ),
    "dispatch: a slow claim extends lapsed leases": broken(
        Operations, "dispatch", extends_no_lapsed_lease, frozenset({"start_task", "dispatch", "outage"})
    ),
    "begin: no answer is not a refusal": broken(Receiver, "begin", acknowledges_without_an_answer, WORKERS),
    "begin: a task whose lease may have lapsed starts after a heartbeat": broken(
        Runner, "may_start", always(True), PAUSES
    ),
    "redrive: names the life of the copy": broken(
        Receiver, "_redrive", redrives_any_life, DEAD_LETTERS - {"enqueue", "disturb"}
    ),
    "heartbeat: a lost attempt is interrupted": broken(Heartbeat, "_update", always(True), PAUSES),
    "finish: names the token of its own attempt": broken(runner, "_end", ends_any_attempt, PAUSES),
    "interrupt: a stopped attempt burns no budget": broken(runner, "_end", fails_when_interrupted, PAUSES),
}
"""Rules that are broken in production code."""

LIMITED = frozenset({"enqueue", "work", "start_task", "dispatch", "wait"})
TICKING = frozenset({"dispatch", "wait"})
LINKED = frozenset({"operate", "work", "start_task", "dispatch", "round"})

LIMITS = {
    "limits: the store counts at begin": broken(storage, "admit", admits_all),
    "limits: the running jobs count": broken(storage, "admit", admits_as_if(running=0)),
    "limits: the starts of a rate count": broken(storage, "admit", admits_as_if(full_at=0.0)),
    "limits: jobs begin in their order": broken(storage, "admit", admits_as_if(held=0), LIMITED),
    "limits: the end of an attempt frees its slot": broken(Records, "_count_slots", keeps_slots, LIMITED),
    "limits: held jobs are let on": broken(Operations, "let_on", always({}), LIMITED),
    "limits: dispatchers let held jobs on": broken(Operations, "let_on", lets_on_if_named, LIMITED),
    "limits: letting on compares the rev": Mutant(
        store=LetsOnWithAnyRev, steps=frozenset({"operate", "work", "dispatch"})
    ),
}
FOLLOW_UPS = {
    "follow-up jobs: the end of a job releases them": Mutant(store=LeavesReleasesOut, steps=LINKED),
    "follow-up jobs: are released in the step that ends the job": Mutant(
        store=LeavesReleasesOut, code={(Operations, "follow"): releases_in_a_second_step}, steps=LINKED
    ),
    "follow-up jobs: a refused change releases nothing": Mutant(
        store=ReleasesAgain, steps=frozenset({"work", "start_task", "wait"})
    ),
    "follow-up jobs: a job counts once": Mutant(
        {"_releasing": released_ignored}, steps=frozenset({"operate", "work", "start_task"})
    ),
    "follow-up jobs: a death starts on_dead": Mutant({"_dead": releases_if(lambda one: not one.all)}, steps=LINKED),
    "follow-up jobs: on_dead runs only after a death": Mutant({"_due": runs_whatever_the_reason}, steps=LINKED),
    "follow-up jobs: a deleted dead job releases them": Mutant(
        {"dispatch": changed(lambda change: replace(change, releases=()) if change.delete else change)}, steps=LINKED
    ),
    "follow-up jobs: wait without a limit when all jobs are inserted": Mutant({"complete": refused}, steps=LINKED),
    "follow-up jobs: the result is kept until it was read": broken(Operations, "needed", always(frozenset())),
}
SCHEDULES = {
    "schedules: the write of the document compares the rev": Mutant(store=PutsWithAnyRev, steps=TICKING),
    "schedules: the id of a job follows from the tick": Mutant(
        store=PutsWithAnyRev, code={(schedules, "_tick_id"): lambda _: lambda name, tick: new_id()}, steps=TICKING
    ),
    "schedules: the job is made in the step that moves the schedule on": broken(
        ScheduleDispatcher, "_make", makes_the_job_later
    ),
    "schedules: each tick has a job if all are wanted": broken(
        ScheduleDispatcher, "_make", makes_the_latest_tick, TICKING
    ),
}
FEATURES = {
    rule: replace(mutant, machine=machine)
    for machine, rules in {LimitMachine: LIMITS, FollowUpMachine: FOLLOW_UPS, ScheduleMachine: SCHEDULES}.items()
    for rule, mutant in rules.items()
}
"""Rules about limits, jobs that follow others, and schedules."""
ALL = MUTANTS | CODE | FEATURES


@pytest.mark.timeout(600)  # the search for one rule takes a second or two on an idle machine
@pytest.mark.parametrize("rule", ALL)
def test_the_fault_search_finds_the_broken_rule(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = ALL[rule]
    for name, decision in mutant.decisions.items():
        monkeypatch.setattr(Lifecycle, name, decision(getattr(Lifecycle, name)))
    for (owner, name), method in mutant.code.items():
        monkeypatch.setattr(owner, name, method(getattr(owner, name)))

    class Machine(LifecycleMachine):
        carries = mutant.carries
        faults = mutant.faults

        def make_store(self, clock: Callable[[], float]) -> JobStore:
            return mutant.store(clock=clock)

    searched: type[Any] = Machine
    if mutant.machine is not LifecycleMachine:
        bases: Any = (mutant.machine, Machine)
        searched = type("Searched", bases, {})
    for name, step in (vars(LifecycleMachine) | vars(mutant.machine)).items():
        if mutant.steps and name not in mutant.steps and hasattr(step, RULE_MARKER):
            # A partialmethod lacks the attribute by which Hypothesis finds its steps. Other steps can still call it.
            setattr(searched, name, functools.partialmethod(step))
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(searched, settings=SEARCH)
    assert caught.value.__cause__ is None, "the broken code raised an error before the checker found a broken promise"

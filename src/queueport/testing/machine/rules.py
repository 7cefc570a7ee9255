"""The machine: what may happen to producers, workers, dispatchers and broker, in any order, as Hypothesis chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from queueport import lifecycle
from queueport.store import JobStore
from queueport.testing.machine.stage import MANY, RULES, Stage
from queueport.testing.machine.workers import Procedures
from queueport.testing.machine.world import Fault

JOBS = 4
"""Jobs an example has at most: more would only blur what is going on."""

either = st.integers(0, 1)
which = st.integers(0, 7)
calls = st.integers(1, 8)
seconds = st.sampled_from([0.5, 1.0, 2.0, 3.5, 5.0, 20.0])
plans = st.sampled_from(["succeeds", "succeeds", "runs once", "fails", "fails", "aborts", "comes later", "is dead"])
tasks = st.sampled_from([("task", "other"), ("task", "other"), ("task",)])


class LifecycleMachine(RuleBasedStateMachine):
    """Two worker processes, each with a dispatcher, any number of producers, and a broker that cannot be trusted.

    Subclass it with a `make_store` and run its `TestCase`. `carries` False: the store is the queue itself, and must be
    a ClaimingStore. `procedures` is what everybody does; a test may break it on purpose.
    """

    carries: ClassVar[bool] = True
    buries: ClassVar[bool] = True
    procedures: ClassVar[type[Procedures]] = Procedures

    stage: Stage | None = None

    def make_store(self, clock: Callable[[], float]) -> JobStore:
        """An empty store on that clock; closed at the end of the example."""
        raise NotImplementedError

    @initialize(early=st.booleans(), first=tasks, second=tasks, plan=plans, begun=st.booleans())
    def start(self, early: bool, first: tuple[str, ...], *, second: tuple[str, ...], plan: str, begun: bool) -> None:
        """Two worker processes that may not know every task, and a job that may run already.

        `early`: workers acknowledge once begin has answered.
        """
        rules = replace(RULES, carries=self.carries, buries=self.carries and self.buries)
        self.stage = Stage(self.make_store, rules, self.procedures, early=early, tasks=(first, second))
        self.enqueue(plan, "task", None, when=(None, None), calls=MANY)
        if begun:
            self.start_task(0)

    def teardown(self) -> None:
        """The faults stop; every promise must be kept in the end."""
        if self.stage is not None:
            try:
                if not self.stage.broken:
                    self.stage.drain()
            finally:
                self.stage.store.close()

    @property
    def on(self) -> Stage:
        """The stage, once it is set."""
        assert self.stage is not None, "rules run after start"
        return self.stage

    # -- producers ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.on.plans) < JOBS)
    @rule(
        plan=plans,
        task=st.sampled_from(["task", "task", "task", "other"]),
        key=st.sampled_from([None, None, "k"]),
        when=st.sampled_from([(None, None), (None, None), (None, None), (5.0, None), (None, 4.0), (5.0, 6.0)]),
        calls=st.sampled_from([MANY, MANY, 0, 1, 2, 3]),
    )
    def enqueue(
        self, plan: str, task: str, key: str | None, *, when: tuple[float | None, float | None], calls: int
    ) -> None:
        """A producer enqueues a job, or puts it into the dead letters, and comes so far.

        `when`: its delay, and after how long it expires.
        """
        record, error = self.on.job(plan, task, key), self.on.error("by hand", 0)
        change = lifecycle.new(self.on.rules, delay=when[0], expires=when[1])
        do = self.on.do
        if plan == "is dead":
            self.on.produce(lambda actor: do.add_dead(actor, record, error), calls)
        else:
            self.on.produce(lambda actor: do.enqueue(actor, record, change), calls)

    @precondition(lambda self: self.on.plans)
    @rule(verb=st.sampled_from(["cancel", "cancel", "retry", "retry", "discard", "purge"]), job=which, calls=calls)
    def ask(self, verb: str, job: int, calls: int) -> None:
        """Somebody wants something of a job, or of them all, and comes so far."""
        job_id = list(self.on.plans)[job % len(self.on.plans)]
        do = self.on.do
        verbs = {
            "cancel": do.cancel,
            "retry": do.retry,
            "discard": do.discard,
            "purge": lambda actor, _: do.purge(actor),
        }
        if job_id not in self.on.ledger.rejected:
            self.on.produce(lambda actor: verbs[verb](actor, job_id), calls)

    @precondition(lambda self: self.on.busy(self.on.producers))
    @rule(producer=which, calls=calls)
    def produce(self, producer: int, calls: int) -> None:
        """A producer comes further."""
        busy = self.on.busy(self.on.producers)
        self.on.run(busy[producer % len(busy)], calls)

    # -- workers and dispatchers --------------------------------------------------------------------------------------

    @precondition(lambda self: self.on.has_work())
    @rule(process=either, calls=calls)
    def work(self, process: int, calls: int) -> None:
        """A worker comes further."""
        self.on.work(self.on.processes[process], calls)

    @precondition(lambda self: self.on.has_work())
    @rule(process=either)
    def start_task(self, process: int) -> None:
        """A worker comes so far that a task's code runs, if it finds one."""
        self.on.work_until_running(self.on.processes[process])

    @rule(process=either, calls=calls)
    def dispatch(self, process: int, calls: int) -> None:
        """A dispatcher comes further."""
        self.on.dispatch(self.on.processes[process], calls)

    @rule(seconds=seconds)
    def go_on(self, seconds: float) -> None:
        """Time passes, and then everybody does what there is to do."""
        self.on.wait(seconds)
        self.on.round()

    # -- faults -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.on.busy())
    @rule(actor=which, fault=st.sampled_from(Fault))
    def lose(self, actor: int, fault: Fault) -> None:
        """A call, or its answer, is lost."""
        busy = self.on.busy()
        self.on.faultless = False
        self.on.step(busy[actor % len(busy)], fault)

    @precondition(lambda self: self.on.busy())
    @rule(actor=which, applied=st.booleans())
    def crash(self, actor: int, applied: bool) -> None:
        """Somebody is killed. The call may still arrive."""
        busy = self.on.busy()
        self.on.faultless = False
        self.on.crash(busy[actor % len(busy)], applied=applied)

    @precondition(lambda self: any(process.attempts for process in self.on.processes))
    @rule(process=either)
    def freeze(self, process: int) -> None:
        """SIGSTOP."""
        self.on.faultless = False
        self.on.processes[process].frozen = True
        self.on.ledger.excuse(self.on.processes[process].name)

    @precondition(lambda self: any(process.frozen for process in self.on.processes))
    @rule(process=either)
    def thaw(self, process: int) -> None:
        """SIGCONT."""
        self.on.processes[process].frozen = False

    @precondition(lambda self: any(process.attempts for process in self.on.processes))
    @rule(process=either, how=st.sampled_from(["stops", "hangs"]))
    def interrupt(self, process: int, how: str) -> None:
        """SIGTERM, and the grace period is over: the task stops, or it does not."""
        if self.on.processes[process].attempts:
            self.on.processes[process].stopping = how

    # -- time and broker ----------------------------------------------------------------------------------------------

    @rule(seconds=seconds, deaf=st.sampled_from([None, None, None, 0, 1]))
    def wait(self, seconds: float, deaf: int | None) -> None:
        """Time passes. A process may be cut off from the store meanwhile."""
        cut_off = None if deaf is None else self.on.processes[deaf]
        if cut_off is not None:
            self.on.faultless = False
            self.on.ledger.excuse(cut_off.name)
        self.on.wait(seconds, cut_off)

    @rule(seconds=st.sampled_from([4.0, 10.0]))
    def outage(self, seconds: float) -> None:
        """The store is away for longer than a lease."""
        self.on.faultless = False
        self.on.outage(seconds)

    @precondition(lambda self: self.on.broker.queue)
    @rule(how=st.sampled_from(["lose", "repeat", "defer"]), message=which)
    def mistreat(self, how: str, message: int) -> None:
        """The broker loses a message, delivers it twice, or out of order."""
        self.on.faultless = self.on.faultless and how != "lose"
        self.on.broker.mistreat(how, message)

    @precondition(lambda self: any(self.on.broker.held.values()))
    @rule(message=which)
    def redeliver(self, message: int) -> None:
        """What somebody is working on is delivered once more."""
        self.on.broker.redeliver(message)

    @precondition(lambda self: self.on.broker.dead_letters)
    @rule(message=which)
    def redrive(self, message: int) -> None:
        """An operator redrives a dead letter with the broker's own tools."""
        self.on.broker.redrive(message)

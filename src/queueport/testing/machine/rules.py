"""The machine: what may happen to producers, workers, dispatchers and broker, in any order, as Hypothesis chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from queueport import lifecycle
from queueport.store import JobStore
from queueport.testing.machine.stage import ALL, MANY, RULES, Reach, Stage
from queueport.testing.machine.workers import Procedures
from queueport.testing.machine.world import Fault, Process

JOBS = 4
"""Jobs an example has at most: more would only blur what is going on."""

When = tuple[float | None, float | None]
"""A job's delay, and after how long it expires."""

either = st.integers(0, 1)
which = st.integers(0, 7)
seconds = st.sampled_from([0.5, 1.0, 2.0, 3.5, 5.0, 20.0])
plans = st.sampled_from(["succeeds", "succeeds", "runs once", "fails", "fails", "aborts", "comes later", "is dead"])
tasks = st.sampled_from([("task", "other"), ("task", "other"), ("task",)])
keys = st.sampled_from([None, "k", "k"])
whens = st.sampled_from([(None, None), (None, None), (None, None), (5.0, None), (None, 4.0), (5.0, 6.0)])
reaches = st.tuples(st.sampled_from([MANY, MANY, 0, 1, 2, 3]), st.sampled_from([None, None, None, *Fault]))
half_way = st.tuples(st.sampled_from([MANY, MANY, 0, 1, 1, 2]), st.sampled_from([None, None, *Fault]))


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

    @initialize(
        early=st.booleans(),
        calm=st.sampled_from([False, False, False, True]),
        tasks=st.tuples(tasks, tasks),
        plan=plans,
        begun=st.booleans(),
    )
    def start(self, *, early: bool, calm: bool, tasks: Sequence[Sequence[str]], plan: str, begun: bool) -> None:
        """Two worker processes that may not know every task, and a job that may run already.

        `early`: workers acknowledge once begin has answered. `calm`: there will be no faults.
        """
        rules = replace(RULES, carries=self.carries, buries=self.carries and self.buries)
        self.stage = Stage(self.make_store, rules, self.procedures, early=early, calm=calm, tasks=tasks)
        self.enqueue(plan=plan, task="task", key=None, when=(None, None), reach=ALL)
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
    @rule(plan=plans, task=st.sampled_from(["task", "task", "other"]), key=keys, when=whens, reach=half_way)
    def enqueue(self, *, plan: str, task: str, key: str | None, when: When, reach: Reach) -> None:
        """A producer enqueues a job, or puts it into the dead letters, and comes so far."""
        do, record, error = self.on.do, self.on.job(plan, task, key), self.on.error("by hand", 0)
        change = lifecycle.new(self.on.rules, delay=when[0], expires=when[1])
        if plan == "is dead":
            self.on.produce(lambda actor: do.add_dead(actor, record, error), reach)
        else:
            self.on.produce(lambda actor: do.enqueue(actor, record, change), reach)

    @precondition(lambda self: self.on.plans)
    @rule(verb=st.sampled_from(["cancel", "cancel", "retry", "retry", "discard", "purge"]), job=which, reach=reaches)
    def ask(self, verb: str, job: int, reach: Reach) -> None:
        """Somebody wants something of a job, or of all that wait, and comes so far."""
        do, job_id = self.on.do, list(self.on.plans)[job % len(self.on.plans)]
        verbs = {"cancel": do.cancel, "retry": do.retry, "discard": do.discard}
        if verb == "purge":
            self.on.produce(do.purge, reach)
        elif job_id not in self.on.ledger.rejected:
            self.on.produce(lambda actor: verbs[verb](actor, job_id), reach)

    @precondition(lambda self: self.on.busy(self.on.producers))
    @rule(producer=which, reach=reaches)
    def produce(self, producer: int, reach: Reach) -> None:
        """A producer comes further."""
        busy = self.on.busy(self.on.producers)
        self.on.go(busy[producer % len(busy)], reach)

    # -- workers and dispatchers --------------------------------------------------------------------------------------

    @precondition(lambda self: self.on.has_work())
    @rule(process=either, reach=reaches)
    def work(self, process: int, reach: Reach) -> None:
        """A worker comes further."""
        self.on.work(self.on.processes[process], reach)

    @precondition(lambda self: self.on.has_work())
    @rule(process=either)
    def start_task(self, process: int) -> None:
        """A worker comes so far that a task's code runs, if it finds one."""
        self.on.work_until_running(self.on.processes[process])

    @rule(process=either, reach=reaches)
    def dispatch(self, process: int, reach: Reach) -> None:
        """A dispatcher comes further."""
        self.on.dispatch(self.on.processes[process], reach)

    @rule(seconds=seconds)
    def go_on(self, seconds: float) -> None:
        """Time passes, and then everybody does what there is to do."""
        self.on.wait(seconds)
        self.on.round()

    @precondition(lambda self: self.on.holders())
    @rule(process=either, how=st.sampled_from(["stops", "hangs"]), reach=reaches)
    def interrupt(self, process: int, how: str, reach: Reach) -> None:
        """SIGTERM, and the grace period is over: the task stops, or it does not; and the worker comes so far."""
        holder = self._holder(process)
        holder.stopping = how
        self.on.go(holder.worker, reach)

    # -- faults -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.on.calm and self.on.busy())
    @rule(actor=which, applied=st.booleans())
    def crash(self, actor: int, applied: bool) -> None:
        """Somebody is killed. The call may still arrive."""
        busy = self.on.busy()
        self.on.crash(busy[actor % len(busy)], applied=applied)

    @precondition(lambda self: not self.on.calm and self.on.holders())
    @rule(process=either)
    def freeze(self, process: int) -> None:
        """SIGSTOP."""
        self.on.freeze(self._holder(process))

    @precondition(lambda self: not self.on.calm and self.on.holders())
    @rule(process=either, reach=reaches, thawed=st.booleans())
    def overtake(self, process: int, reach: Reach, thawed: bool) -> None:
        """A process is frozen for longer than a lease, and the other one comes so far to take its job over."""
        holder = self._holder(process)
        other = next(process for process in self.on.processes if process is not holder)
        self.on.freeze(holder)
        self.on.wait(self.on.rules.lease + 0.5)
        self.on.dispatch(other, reach)
        self.on.work_until_running(other)
        holder.frozen = not thawed

    @precondition(lambda self: any(process.frozen for process in self.on.processes))
    @rule()
    def thaw(self) -> None:
        """SIGCONT."""
        for process in self.on.processes:
            process.frozen = False

    @precondition(lambda self: not self.on.calm)
    @rule(seconds=st.sampled_from([4.0, 10.0]))
    def outage(self, seconds: float) -> None:
        """The store is away for longer than a lease."""
        self.on.outage(seconds)

    def _holder(self, number: int) -> Process:
        holders = self.on.holders()
        return holders[number % len(holders)]

    # -- time and broker ----------------------------------------------------------------------------------------------

    @rule(seconds=seconds, deaf=st.sampled_from([None, None, None, 0, 1]))
    def wait(self, seconds: float, deaf: int | None) -> None:
        """Time passes. A process may be cut off from the store meanwhile."""
        self.on.wait(seconds, None if deaf is None else self.on.processes[deaf])

    @precondition(lambda self: self.on.broker.queue)
    @rule(how=st.sampled_from(["lose", "repeat", "defer"]), message=which)
    def mistreat(self, how: str, message: int) -> None:
        """The broker loses a message, delivers it twice, or out of order."""
        self.on.mistreat(how, message)

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

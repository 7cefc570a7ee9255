"""The steps from which Hypothesis chooses: what producers, workers, dispatchers, broker and time do next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from queueport.spi.store import JobStore
from queueport.testing.machine.example import ALL, MANY, Example, Reach
from queueport.testing.machine.processes import PLANS, Process
from queueport.testing.machine.promises import UNLIMITED, Limited
from queueport.testing.machine.scheduler import Fault

JOBS = 4
"""The maximum number of jobs in an example, so that examples stay short."""

When = tuple[float | None, float | None]
"""The delay of a job, and the time from its enqueue to its expiry, both in seconds. None: no delay, or no expiry."""

either = st.integers(0, 1)
which = st.integers(0, 7)
verbs = st.sampled_from(["cancel", "cancel", "retry", "retry", "retry_all", "discard", "purge"])
seconds = st.sampled_from([0.5, 1.0, 2.0, 3.5, 5.0, 20.0])
plans = st.sampled_from(["succeeds", "fails", *PLANS])
tasks = st.sampled_from([("task", "other"), ("task", "other"), ("task",)])
keys = st.sampled_from([None, "k", "k"])
modes = st.sampled_from(["return", "return", "replace", "unique"])
UNIQUE_FOR = 8.0
"""The `unique_for` of a job with a key and the mode "unique"."""
whens = st.sampled_from([(None, None), (None, None), (None, None), (5.0, None), (None, 4.0), (5.0, 6.0)])
reaches = st.tuples(st.sampled_from([*[MANY] * 4, *range(8)]), st.sampled_from([None, None, None, None, *Fault]))
half_way = st.tuples(st.sampled_from([*[MANY] * 3, *range(6)]), st.sampled_from([None, None, None, *Fault]))


class LifecycleMachine(RuleBasedStateMachine):
    """Two worker processes, each with a dispatcher; any number of producers; and an unreliable broker.

    Define `make_store` in a subclass, and run its `TestCase`. `carries = False`: the store is the queue, and must be a
    ClaimingStore. `buries = False`: the broker has no dead letters. `faults = False`: no fault happens, but the
    broker may still repeat, defer and redeliver messages.
    """

    carries: ClassVar[bool] = True
    buries: ClassVar[bool] = True
    faults: ClassVar[bool] = True

    points: ClassVar[frozenset[str]] = frozenset()
    """Verbs of the store that are points, beyond those that are points in each machine."""
    limited: Limited = UNLIMITED
    """The limits of the task "task" and of the queue."""
    started: Example | None = None

    def make_store(self, clock: Callable[[], float]) -> JobStore:
        """Make an empty store that uses this clock. The store is closed at the end of the example."""
        raise NotImplementedError

    @initialize(
        early=st.booleans(),
        calm=st.sampled_from([False, False, False, True]),
        tasks=st.tuples(tasks, tasks),
        plan=plans,
        begun=st.booleans(),
    )
    def start(self, *, early: bool, calm: bool, tasks: Sequence[Sequence[str]], plan: str, begun: bool) -> None:
        """Start two worker processes, which may not know every task, and enqueue a job or add it to the dead letters.

        With `begun`, a worker also begins the job, if the job is queued. With `calm`, no fault happens. `early` is
        passed to `Broker`.
        """
        options = {"carries": self.carries, "buries": self.buries, "points": self.points, "limited": self.limited}
        calm = calm or not self.faults
        self.started = Example(self.make_store, calm=calm, tasks=tasks, early=early, **options)
        self.enqueue_first(plan)
        if begun:
            self.start_task(0)

    def enqueue_first(self, plan: str) -> None:
        """Enqueue the first job of an example, or add it to the dead letters."""
        self.enqueue(plan=plan, task="task", key=None, when=(None, None), reach=ALL)

    def teardown(self) -> None:
        """End the faults, and check that every promise is kept in the end, unless a step has failed before."""
        if self.started is not None:
            try:
                if not self.started.broken:
                    self.started.drain()
            finally:
                self.started.close()

    @property
    def on(self) -> Example:
        """The present example. It exists after `start`, which Hypothesis calls first."""
        assert self.started is not None, "a step was called before start"
        return self.started

    # -- producers and operators ----------------------------------------------------------------------

    @precondition(lambda self: len(self.on.plans) < JOBS)
    @rule(plan=plans, task=st.sampled_from(["task", "task", "other"]), key=keys, when=whens, reach=half_way, mode=modes)
    def enqueue(self, *, plan: str, task: str, key: str | None, when: When, reach: Reach, mode: str = "return") -> None:
        """A producer enqueues a job, or adds it to the dead letters.

        `mode` is the `key_mode`, or "unique" if the key stays taken for UNIQUE_FOR seconds after the end.
        """
        app = self.on.application
        options = {"unique_for": UNIQUE_FOR} if mode == "unique" else {"key_mode": mode}
        job = self.on.job(plan, task, key=key, delay=when[0], expires=when[1], **(options if key else {}))
        self.on.produce(partial(app.add_dead if plan == "is dead" else app.enqueue, job), reach)

    @precondition(lambda self: self.on.plans)
    @rule(verb=verbs, job=which, reach=reaches)
    def operate(self, verb: str, job: int, reach: Reach) -> None:
        """An operator cancels, retries or discards a job, retries all dead jobs, or purges the queue."""
        app, job_ids = self.on.application, list(self.on.plans)
        job_id = job_ids[job % len(job_ids)]
        self.on.produce(partial(app.cancel, job_id) if verb == "cancel" else partial(app.operate, verb, job_id), reach)

    @precondition(lambda self: self.on.busy(self.on.producers))
    @rule(producer=which, reach=half_way)
    def produce(self, producer: int, reach: Reach) -> None:
        """A producer or operator continues its call, as far as `reach` allows."""
        busy = self.on.busy(self.on.producers)
        self.on.go(busy[producer % len(busy)], reach)

    # -- worker processes -----------------------------------------------------------------------------

    @precondition(lambda self: self.on.has_work())
    @rule(process=either, reach=reaches)
    def work(self, process: int, reach: Reach) -> None:
        """A worker continues its job, or takes a job, and runs as far as `reach` allows."""
        self.on.work(self.on.processes[process], reach)

    @precondition(lambda self: self.on.has_work())
    @rule(process=either)
    def start_task(self, process: int) -> None:
        """A worker continues until a task's code runs, if the worker finds a job, but passes at most 20 points."""
        self.on.work_until_running(self.on.processes[process])

    @rule(process=either, twice=st.booleans(), reach=reaches)
    def dispatch(self, process: int, twice: bool, reach: Reach) -> None:
        """A dispatcher continues its round, or starts one, and runs as far as `reach` allows.

        With `twice`, the dispatcher first does a whole round, a third of a lease earlier, because a first round may not
        handle lapsed leases.
        """
        go = self.on.dispatch_twice if twice else self.on.dispatch
        go(self.on.processes[process], reach)

    @precondition(lambda self: self.on.holders())
    @rule(process=either, reach=reaches)
    def heartbeat(self, process: int, reach: Reach) -> None:
        """A heartbeat thread continues its round, or starts one, and runs as far as `reach` allows.

        If the thread does not finish the round, a later step, such as `wait`, may continue the round.
        """
        self.on.send_heartbeats(self._holder(process), reach)

    @rule(seconds=seconds)
    def round(self, seconds: float) -> None:
        """Time passes. Then producers finish their calls, and processes that are not frozen dispatch and run all jobs
        that they can get.
        """
        self.on.wait(seconds)
        self.on.round()

    @precondition(lambda self: self.on.holders())
    @rule(process=either, hangs=st.booleans(), seconds=st.sampled_from([0.5, 0.5, 4.0, 4.0, 0.0, 1.0]), reach=reaches)
    def interrupt(self, process: int, hangs: bool, seconds: float, reach: Reach) -> None:
        """A process gets SIGTERM, or continues its shutdown. With `hangs`, its task cannot be interrupted."""
        holder = self._holder(process)
        if holder.stopping:
            self.on.stop(holder, reach)
        elif not holder.frozen:
            self.on.terminate(holder, hangs=hangs, seconds=seconds, reach=reach)

    # -- faults of processes and of the store ---------------------------------------------------------

    @precondition(lambda self: not self.on.calm and self.on.busy())
    @rule(actor=which)
    def crash(self, actor: int) -> None:
        """A producer, or a worker process with all its actors, is killed at the point that each has reached."""
        busy = self.on.busy()
        self.on.crash(busy[actor % len(busy)])

    @precondition(lambda self: not self.on.calm and self.on.holders())
    @rule(process=either)
    def freeze(self, process: int) -> None:
        """A process gets SIGSTOP."""
        self.on.freeze(self._holder(process))

    @precondition(lambda self: any(process.frozen for process in self.on.processes))
    @rule()
    def thaw(self) -> None:
        """All frozen processes get SIGCONT."""
        for process in self.on.processes:
            process.frozen = False

    @precondition(lambda self: not self.on.calm and self.on.holders())
    @rule(process=either, reach=st.one_of(st.just(ALL), reaches), thawed=st.booleans())
    def overtake(self, process: int, reach: Reach, thawed: bool) -> None:
        """A process is frozen for longer than a lease, so that the other process can take over its job.

        With `thawed`, the frozen process then continues.
        """
        holder = self._holder(process)
        other = next(process for process in self.on.processes if process is not holder)
        self.on.freeze(holder)
        self.on.wait(self.on.lease + 0.5)
        self.on.dispatch_twice(other, reach)
        self.on.work_until_running(other)
        holder.frozen = not thawed

    @precondition(lambda self: not self.on.calm)
    @rule(seconds=st.sampled_from([4.0, 10.0]))
    def outage(self, seconds: float) -> None:
        """The store is unreachable for longer than a lease."""
        self.on.outage(seconds)

    def _holder(self, number: int) -> Process:
        holders = self.on.holders()
        return holders[number % len(holders)]

    # -- time and broker ------------------------------------------------------------------------------

    @rule(seconds=seconds, cut_off=st.sampled_from([None, None, None, 0, 1]))
    def wait(self, seconds: float, cut_off: int | None) -> None:
        """Time passes. With `cut_off`, the heartbeats of that process do not reach the store meanwhile.

        In a calm example, `cut_off` has no effect.
        """
        self.on.wait(seconds, None if cut_off is None else self.on.processes[cut_off])

    @precondition(lambda self: self.on.broker.queue)
    @rule(how=st.sampled_from(["lose", "repeat", "defer"]), message=which)
    def disturb(self, how: str, message: int) -> None:
        """The broker loses a message, delivers it twice, or moves it to the end of the queue.

        In a calm example, no message is lost.
        """
        self.on.disturb(how, message)

    @precondition(lambda self: any(self.on.broker.unacknowledged.values()))
    @rule(message=which)
    def redeliver(self, message: int) -> None:
        """The broker delivers an unacknowledged message a second time."""
        self.on.broker.redeliver(message)

    @precondition(lambda self: self.on.broker.dead_letters)
    @rule(message=which)
    def redrive(self, message: int) -> None:
        """An operator redrives a dead-letter copy with the broker's own tools."""
        self.on.broker.redrive(message)

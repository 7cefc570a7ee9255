"""Creates the objects of production code that the fault search runs, and the actors that call them.

Producers and operators call a `JobQueue`. A worker process consists of the objects that `Worker` and its pool create: a
runner, a dispatcher, and an intake, which takes jobs from a broker or from a store that is the queue. Actors replace
the threads. They run the loops of the heartbeat thread and the dispatcher one round at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

from queueport.context import Abort, RetryLater, current_job
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.rules import Refusal
from queueport.errors import BackendUnavailable, DuplicateJob, InvalidState, JobNotFound
from queueport.job import Job, JobHandle, Options
from queueport.job.limits import TaskLimit
from queueport.queue import JobQueue
from queueport.retry import Retry
from queueport.spi.driver import Driver
from queueport.spi.runner import Work
from queueport.spi.settings import Settings
from queueport.spi.store import ClaimingStore, JobStore
from queueport.spi.url import BackendURL
from queueport.stores.driver import MemoryDriver
from queueport.tasks import Task
from queueport.testing.machine.checker import DISPATCHER, HEARTBEAT, WORKER, Checker
from queueport.testing.machine.promises import UNLIMITED, Limited, Parents
from queueport.testing.machine.scheduler import Actor, Scheduler
from queueport.testing.machine.simulation import Broker, SimulatedRuntime
from queueport.workers.attempt import Interrupted, InterruptReason
from queueport.workers.pool import StoreIntake, TransportIntake
from queueport.workers.runner import Runner

MakeStore = Callable[[Callable[[], float]], JobStore]
"""Makes a store that reads the time from the given clock."""

QUEUE = "default"
SECONDS = {"lease": 3.0, "lost_after": 4.0, "unknown_after": 6.0, "keep_succeeded": 60.0, "keep_dead": 90.0}
SETTINGS = Settings.model_validate({**SECONDS, "call_timeout": 1.0, "crash_limit": 2})
RETRY = Retry(max_attempts=2, initial=1.0, factor=1.0, jitter=0.0)

PLANS: dict[str, dict[str, Any]] = {
    **{plan: {} for plan in ("succeeds", "fails", "aborts", "retries later", "is dead")},
    "runs once": {"crash_limit": 1},
    "overruns": {"timeout": 2.0},
}
"""The plans, which say what the task of a job does. The values are the options that a job with this plan needs."""

TOKENS: dict[str, Callable[..., list[str]]] = {
    "begin": lambda begins: [begin.change.set["token"] for begin in begins],
    "take": lambda _queues, changes, *_: list({change.set["token"] for change in changes.values()}),
    "heartbeat": lambda renewals: [renewal.token for renewal in renewals],
}
"""For each verb of a store that takes tokens, a function that returns the tokens in the arguments of a call."""
WRITES = {"insert", "swap", "claim_due", "put_document", *TOKENS}

OPERATIONS: dict[str, Callable[[JobQueue, str], object]] = {
    "retry": lambda queue, job_id: queue.retry(job_id),
    "retry_all": lambda queue, _: queue.dead_letters.retry_all(),
    "discard": lambda queue, job_id: queue.dead_letters.discard(job_id),
    "purge": lambda queue, _: queue.purge(QUEUE),
}
"""The calls of operators other than `cancel`. The checker does not record their answers as promises."""


NO_POINTS = frozenset({"documents", "put_document", "delete_document", "history", "fold_history", "held"})
"""The verbs that are no points of the search, except in a machine that names them: in examples without schedules,
pauses and limits, these calls change nothing, and points that change nothing make the search find less."""
SCHEDULE = "nightly"


class System:
    """Store, broker and clock of one example. Each process opens a queue of its own on them."""

    def __init__(
        self,
        make_store: MakeStore,
        *,
        carries: bool,
        buries: bool,
        early: bool,
        points: Collection[str] = (),
        limited: Limited = UNLIMITED,
    ) -> None:
        self.scheduler = Scheduler()
        self.runtime = SimulatedRuntime(self.scheduler)
        self.broker = Broker(self.scheduler, early=early, buries=buries)
        self.store = make_store(self.runtime.wall)
        self.carries = carries
        self.limited = limited
        self.rules = self.open().operations.rules
        self.checker = Checker(self.store, self.rules, self.runtime, RETRY.max_attempts, limited)
        self.plans: dict[str, str] = {}
        self.tasks = tasks_of(limited)
        if limited.queue is not None:
            self.open().limit(QUEUE, **dataclasses.asdict(limited.queue))
        for verb in ClaimingStore.__abstractmethods__ - {"open"} - (NO_POINTS - {*points}):
            if hasattr(self.store, verb):
                setattr(self.store, verb, self._checked(verb, getattr(self.store, verb)))

    def open(self) -> JobQueue:
        """Open a queue on the store and the broker, as each process does."""
        driver: Driver = self.broker if self.carries else MemoryDriver(self.claiming)
        queue = JobQueue(BackendURL("search://"), SETTINGS, driver, self.store, self.runtime)
        if self.limited.queue is not None:
            queue.operations.limits_at_begin.follow()
        return queue

    @property
    def claiming(self) -> ClaimingStore:
        """The store as a ClaimingStore, for examples in which the store is the queue."""
        assert isinstance(self.store, ClaimingStore), "this store is not a ClaimingStore, so it cannot be the queue"
        return self.store

    def job(self, plan: str, task: str, **options: Any) -> Job[str]:
        """A new job with this plan, which is not enqueued yet. Options that are None are left out.

        The plan is a header, so that a job which is replaced also gets the plan of the new job.
        """
        job_id = f"job{len(self.plans)}"
        self._add(job_id, plan)
        given = {name: value for name, value in options.items() if value is not None}
        headers = {"plan": plan, "of": job_id}
        return self.tasks[task].using(job_id=job_id, headers=headers, **PLANS[plan], **given).job()

    def _add(self, job_id: str, plan: str) -> None:
        self.plans[job_id] = plan
        self.checker.records.setdefault(job_id, None)

    def chain(self, plans: Sequence[str], task: str) -> Job[str]:
        """The first of jobs of which each gets the result of the one before it."""
        following, waiting = None, list[str]()
        for position, plan in reversed([*enumerate(plans)]):
            following = self.job(plan, task, then=following, pass_result=position > 0 or None)
            if waiting:
                self.checker.follow_ups.parents[waiting[-1]] = Parents((following.id,), batch=False)
            waiting.append(following.id)
        assert following is not None
        return following

    def batch(self, plans: Sequence[str], task: str) -> tuple[list[Job[str]], Job[str], Job[str]]:
        """The jobs of a batch, all but the last two of these, and the jobs that are its `then` and `on_dead`."""
        *jobs, then, on_dead = [self.job(plan, task) for plan in plans]
        ids = tuple(job.id for job in jobs)
        self.checker.follow_ups.parents |= {then.id: Parents(ids), on_dead.id: Parents(ids, if_dead=True)}
        return jobs, then, on_dead

    def schedule(self, plan: str, **when: Any) -> None:
        """Add a schedule whose jobs have this plan."""
        job = self.tasks["task"].using(headers={"plan": plan, "of": SCHEDULE}, **PLANS[plan]).job()
        self.open().schedules.add(SCHEDULE, job, **when)
        self.checker.ticks.catch_up = when["catch_up"]
        self.checker.ticks.next = self.store.documents("schedule")[0].value["next"]

    def _checked(self, verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a verb of the store: add points before and after its effect, and let the checker check its writes."""
        checker, scheduler = self.checker, self.scheduler

        def call(*args: Any, **kwargs: Any) -> Any:
            actor, do = scheduler.current, partial(method, *args, **kwargs)
            if actor is None or actor.calling or verb not in WRITES:
                return scheduler.call(do)
            if verb == "put_document" and args[2:] and args[2] is not None:
                self._add(args[2].record.id, args[2].record.headers["plan"])
            tokens, called_at = TOKENS[verb](*args) if verb in TOKENS else [], self.runtime.now
            checker.before_call(actor, verb, tokens)
            answer = scheduler.call(partial(checker.watch, actor, do, verb, kwargs.get("leases", True)))
            checker.after_call(actor, verb, tokens, answer, called_at)
            return answer

        return call


class Application:
    """The calls of producers and operators. Each call is the procedure of an actor."""

    def __init__(self, system: System) -> None:
        self._checker, self._scheduler = system.checker, system.scheduler
        self._queue = system.open()

    def enqueue(self, job: Job[Any]) -> None:
        """Enqueue a job, and tell the checker whether the caller got a handle or an exception."""
        try:
            handle = self._queue.enqueue(job)
        except (BackendUnavailable, DuplicateJob) as error:
            self._scheduler.check(self._checker.told, error, self._scheduler.actor().answered)
        else:
            self._checker.accepted.add(handle.id)

    def enqueue_linked(self, job: Job[Any]) -> None:
        """Enqueue the jobs of a chain, and tell the checker which of them the caller was told are enqueued."""
        self._linked(lambda: [handle.id for handle in self._handles(job)])

    def _handles(self, job: Job[Any]) -> list[JobHandle[Any]]:
        handle = self._queue.enqueue(job)
        return [handle, *handle.follow_ups]

    def enqueue_batch(self, jobs: Sequence[Job[Any]], then: Job[Any], on_dead: Job[Any]) -> None:
        """The same for the jobs of a batch."""
        ids = [job.id for job in (*jobs, then, on_dead)]

        def call() -> Sequence[str]:
            self._queue.batch(jobs, then=then, on_dead=on_dead, batch_id=f"batch-{ids[0]}")
            return ids

        self._linked(call)

    def _linked(self, call: Callable[[], Sequence[str]]) -> None:
        try:
            accepted = call()
        except BackendUnavailable as error:
            accepted = error.accepted
            self._scheduler.check(self._checker.told, error, False)  # only the last call is known to be answered
        self._checker.accepted.update(accepted)

    def add_dead(self, job: Job[Any]) -> None:
        """Add a job to the dead letters."""
        with suppress(BackendUnavailable):
            self._queue.dead_letters.add(job, "by hand")

    def cancel(self, job_id: str) -> None:
        """Cancel a job, and tell the checker what the answer promised, if the job had not ended before."""
        with suppress(BackendUnavailable):
            settled = self._queue.operations.cancel(job_id)
            if settled.record is not None and settled.refusal is not Refusal.FINAL:
                self._checker.promise_cancelled(settled.record)

    def operate(self, verb: str, job_id: str) -> None:
        """Make the call of OPERATIONS that `verb` names. Expected errors of the call are ignored."""
        with suppress(BackendUnavailable, DuplicateJob, InvalidState, JobNotFound):
            OPERATIONS[verb](self._queue, job_id)


class Process:
    """A worker process that runs one job at a time. After its end, `start` makes this object a new process."""

    def __init__(self, system: System, name: str, tasks: Sequence[str]) -> None:
        self.name = name
        self._tasks = list(tasks)
        self._system = system
        roles = (WORKER, DISPATCHER, HEARTBEAT, WORKER)
        self.actors = [Actor(system.scheduler, role, name) for role in roles]
        self.worker, self.dispatcher, self.heartbeat, self.stopper = self.actors
        self.start()

    def start(self) -> None:
        """Create a runner, a dispatcher and an intake, as a worker process does at its start. Announce the worker."""
        operations = self._system.open().operations
        self.frozen = self.hangs = False
        self._work = Work((QUEUE,), threads=1, grace=0.0)
        self._runner = runner = Runner(operations, [self._system.tasks[name] for name in self._tasks], self._work)
        self._dispatcher = Dispatcher(operations, refresh=runner.heartbeat.refresh, received=runner.received)
        self._intake = (
            TransportIntake(self._system.broker, runner)
            if self._system.carries
            else StoreIntake(self._system.claiming, runner)
        )
        runner.announce()
        self.plan_heartbeat()

    def plan_heartbeat(self) -> None:
        """Plan the next heartbeat for a third of a lease from now."""
        self.heartbeat_at = self._system.runtime.now + self._runner.heartbeat.interval

    @property
    def busy(self) -> bool:
        """True if the process has an attempt that has not ended."""
        return bool(self._runner.heartbeat.running())

    @property
    def stopping(self) -> bool:
        """True once the process was told to stop."""
        return self._work.stop.is_set() or not self.stopper.idle

    # -- the procedures of its actors -----------------------------------------------------------------

    def work(self) -> None:
        """Take at most one job and run it. Then check that the end of the attempt was recorded."""
        self.worker.begun = True
        _process.set(self)
        try:
            for attempt in self._intake.next(self._tasks, 1, 0.0):
                self._runner.run(attempt)
        except BackendUnavailable:
            return  # as in the pool, a later call of `work` tries again
        if not self.stopping:
            self._system.scheduler.check(self._system.checker.finished, self.worker.token)

    def dispatch(self) -> None:
        """Run one round of the dispatcher. The round ends early if a call raises BackendUnavailable."""
        with suppress(BackendUnavailable):  # the next round tries again
            self._dispatcher.tick()

    def send_heartbeats(self) -> None:
        """Run one round of the heartbeat thread. The round ends early if a call raises BackendUnavailable."""
        with suppress(BackendUnavailable):  # the next round tries again
            self._runner.heartbeat.tick()

    def stop(self) -> None:
        """Shut down as the pool and the worker do after SIGTERM."""
        self._work.stop.set()
        self._runner.drain()
        self._dispatcher.stop()
        self._system.checker.cut_off(self.name)  # `Runner.stop` gives up unanswered calls, so leases may lapse
        self._runner.stop()

    # -- the code of its tasks ------------------------------------------------------------------------

    def run_task(self) -> str:
        """Run the code of a task: do what the plan of the current job says."""
        job, token = current_job(), self.worker.token
        checker, check = self._system.checker, self._system.scheduler.check
        plan = job.headers["plan"]
        check(checker.task_starts, token, job.id)
        try:
            self.worker.point()
            while plan == "overruns" and not self.hangs:
                self.worker.pause()
            check(checker.task_goes_on, token)
        except Interrupted:
            if not self.hangs:
                attempts = self._runner.heartbeat.running()
                if any(each.token == token and each.reason is InterruptReason.STOP for each in attempts):
                    checker.stopped.add(token)
                raise
        finally:
            while self.hangs:  # this code cannot be interrupted: it runs until the process ends
                with suppress(Interrupted):
                    self.worker.pause()
            checker.running.pop(token, None)
        if plan == "fails":
            raise ValueError(token)
        if plan == "aborts":
            raise Abort(token)
        if plan == "retries later" and job.attempt < 2:
            raise RetryLater(token, delay=5.0, burns=False)
        return token


def _task(result: str = "") -> str:  # noqa: ARG001  # the result of the job before it in a chain
    return _process.get().run_task()


_process: ContextVar[Process] = ContextVar("queueport_search_process")


@functools.cache
def tasks_of(limited: Limited) -> dict[str, Task[..., str, str]]:
    """The tasks of an example, by name. The first one has the limit."""
    limit = None if limited.task is None else TaskLimit(**dataclasses.asdict(limited.task))
    options = Options(retry=RETRY)
    return {"task": Task("task", _task, options=options, limit=limit), "other": Task("other", _task, options=options)}

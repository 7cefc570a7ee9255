"""The stage of one example: two worker processes, producers, a broker and a store, and how they are set in motion."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from queueport.lifecycle import Failed, Outcome, Rules, Succeeded
from queueport.record import Record
from queueport.retry import Retry
from queueport.status import JobError, JobState
from queueport.store import JobStore
from queueport.testing.machine.ledger import Ledger
from queueport.testing.machine.operations import QUEUE
from queueport.testing.machine.workers import Procedures
from queueport.testing.machine.world import Actor, Broker, Clock, Fault, Names, Process, Steps

RULES = Rules(
    lease=3.0,
    claim=2.0,
    crash_limit=2,
    lost_after=4.0,
    unknown_after=6.0,
    keep_succeeded=60.0,
    keep_dead=90.0,
    retry=Retry(max_attempts=2, initial=1.0, factor=1.0, jitter=0.0),
)
ROUNDS = 100
"""Rounds in which everything must have ended once the faults have stopped."""
MANY = 1000
"""More calls than any procedure makes."""

Reach = tuple[int, Fault | None]
"""How far an actor comes: so many calls, and what then happens to the next one."""
ALL: Reach = (MANY, None)


class Stage:
    """All of one example. `calm`: there are no faults; `faultless`: there have been none so far."""

    def __init__(
        self,
        make_store: Callable[[Clock], JobStore],
        rules: Rules,
        procedures: type[Procedures],
        *,
        early: bool,
        calm: bool,
        tasks: Sequence[Sequence[str]],
    ) -> None:
        self.rules = rules
        self.clock = Clock()
        self.broker = Broker()
        self.store = make_store(self.clock)
        self.ledger = Ledger(self.store, rules, self.clock)
        names = Names()
        self.do = procedures(self.store, self.broker, rules, self.clock, names, self.ledger, early, self._end_of_task)
        self.processes = [Process(f"w{i}", known, self.clock.now) for i, known in enumerate(tasks)]
        self.producers: list[Actor] = []
        self.plans: dict[str, str] = {}
        """What the task of each job does."""
        self.calm = calm
        self.faultless = True
        self.broken = False
        """A promise was broken: there is no point in going on."""

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def job(self, plan: str, task: str, key: str | None) -> Record:
        """A new job, before anybody has heard of it."""
        job_id = f"job{len(self.plans)}"
        self.plans[job_id] = plan
        self.ledger.records[job_id] = None
        options = {"crash_limit": 1} if plan == "runs once" else {}
        return Record(job_id, task, QUEUE, b'{"args":[],"kwargs":{}}', JobState.QUEUED, key=key, options=options)

    def error(self, message: str, attempt: int) -> JobError:
        """What went wrong, now."""
        return JobError("builtins.ValueError", message, "", datetime.fromtimestamp(self.clock.now, UTC), attempt)

    def _end_of_task(self, record: Record, token: str) -> Outcome:
        plan, error = self.plans[record.id], self.error(token, record.attempts)
        if plan == "fails":
            return Failed(error, ("builtins.ValueError", "ValueError"))
        if plan == "aborts":
            return Failed(error, fatal=True)
        if plan == "comes later" and record.attempts < 2:
            return Failed(error, delay=5.0, burns=False)
        return Succeeded(json.dumps(token).encode())

    # -- motion -------------------------------------------------------------------------------------------------------

    def step(self, actor: Actor, fault: Fault | None = None) -> None:
        """One call of that actor."""
        self.broken = True  # unless it returns
        actor.step(fault)
        self.broken = False

    def go(self, actor: Actor, reach: Reach) -> None:
        """That actor goes on, so far."""
        calls, fault = reach
        for _ in range(calls):
            if actor.idle:
                return
            self.step(actor)
        if fault is not None and not self.calm:
            self.faultless = False
            self.step(actor, fault)

    def produce(self, make: Callable[[Actor], Steps[None]], reach: Reach) -> None:
        """A new producer goes, so far."""
        actor = Actor("producer")
        actor.begin(make(actor))
        self.producers = [*self.busy(self.producers), actor]
        self.go(actor, reach)

    def work(self, process: Process, reach: Reach) -> None:
        """Its worker goes on, so far, at most to the end of a job; an idle one looks for a job."""
        if not process.frozen:
            if process.worker.idle:
                process.worker.begin(
                    self.do.work(process) if self.rules.carries else self.do.take(process, self._known())
                )
            self.go(process.worker, reach)

    def work_until_running(self, process: Process) -> None:
        """Its worker goes on until a task's code runs, or until it has looked in vain."""
        for _ in range(10):
            if not any(attempt.running for attempt in process.attempts):
                self.work(process, (1, None))

    def work_off(self, process: Process) -> None:
        """Its worker does all that it can get."""
        begun = None
        while not process.frozen and (self.broker.queue or begun != self.ledger.begins.total()):
            begun = self.ledger.begins.total()
            self.work(process, ALL)

    def dispatch(self, process: Process, reach: Reach) -> None:
        """Its dispatcher goes on, so far, at most to the end of a round."""
        if not process.frozen:
            if process.dispatcher.idle:
                known = self._known()
                process.dispatcher.begin(self.do.dispatch(process, lambda record: record.task in known))
            self.go(process.dispatcher, reach)

    def round(self) -> None:
        """Everybody who can does what there is to do now."""
        for producer in self.producers:
            self.go(producer, ALL)
        for process in self.processes:
            self.dispatch(process, ALL)
        for process in self.processes:
            self.work_off(process)

    def _known(self) -> set[str]:
        return {task for process in self.processes for task in process.tasks}

    # -- what there is ------------------------------------------------------------------------------------------------

    def holders(self) -> list[Process]:
        """The processes that hold an attempt."""
        return [process for process in self.processes if process.attempts]

    def has_work(self) -> bool:
        """There is something that a worker may do."""
        queued = (r is not None and r.state is JobState.QUEUED for r in self.ledger.records.values())
        workers = [process.worker for process in self.processes]
        return bool(self.busy(workers) or self.broker.queue) or (not self.rules.carries and any(queued))

    def busy(self, actors: Sequence[Actor] | None = None) -> list[Actor]:
        """Those of these, or of all, who are in the middle of something and not frozen."""
        awake = [actor for process in self.processes if not process.frozen for actor in process.actors]
        return [actor for actor in [*awake, *self.producers] if not actor.idle and (actors is None or actor in actors)]

    # -- faults and time ----------------------------------------------------------------------------------------------

    def crash(self, actor: Actor, *, applied: bool) -> None:
        """A producer or a dispatcher is gone, or with a worker its whole process."""
        self.faultless = False
        self.broken = True
        actor.crash(applied=applied)
        self.broken = False
        for process in self.processes:
            if actor is process.worker:
                process.dispatcher.crash(applied=False)
                self.ledger.excuse(process.name)
                self.do.leave(process)

    def freeze(self, process: Process) -> None:
        """Nothing of it moves, its heart included."""
        self.faultless = False
        process.frozen = True
        self.ledger.excuse(process.name)

    def mistreat(self, how: str, index: int) -> None:
        """The broker does so to a message."""
        if how == "lose" and self.calm:
            return
        self.faultless = self.faultless and how != "lose"
        self.broker.mistreat(how, index)

    def outage(self, seconds: float) -> None:
        """Nobody reaches the store; calls that were on their way arrive late."""
        self.faultless = False
        self.clock.now += seconds
        for process in self.processes:
            process.beats_at = process.leases_from = self.clock.now + self.rules.lease / 3

    def wait(self, seconds: float, deaf: Process | None = None) -> None:
        """Time passes, and hearts beat, but for those that are frozen or cannot reach the store."""
        if deaf is not None and not self.calm:
            self.faultless = False
            self.ledger.excuse(deaf.name)
        end = self.clock.now + seconds
        beating = [process for process in self.processes if not process.frozen and (self.calm or process is not deaf)]
        while beating and (at := min(process.beats_at for process in beating)) <= end:
            self.clock.now = max(self.clock.now, at)
            for process in beating:
                if process.beats_at <= self.clock.now:
                    self._beat(process)
        self.clock.now = end

    def _beat(self, process: Process) -> None:
        process.beats_at = self.clock.now + self.rules.lease / 3
        if process.attempts:
            process.heart.begin(self.do.beat(process, process.heart))
            self.step(process.heart)

    # -- the end ------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """No more faults: every job must end, and when its retention is over nothing of it may be left."""
        for process in self.processes:
            process.frozen, process.stopping = False, None
        self._rounds(lambda record: record is None or self._at_rest(record))
        copies = [(copy.id, copy.life) for copy in self.broker.dead_letters]
        self.ledger.at_rest(copies, faultless=self.faultless)
        self.clock.now += self.rules.keep_dead
        self._rounds(lambda record: record is None)
        assert not self.faultless or not self.broker.dead_letters, "a copy is left of a job that is gone"

    def _rounds(self, done: Callable[[Record | None], bool]) -> None:
        seconds = 1.0
        for _ in range(ROUNDS):
            self.round()
            for process in self.processes:
                self.broker.release(process.name)
            if all(map(done, self.ledger.records.values())) and not self.broker.queue:
                return
            self.processes.reverse()  # else the same one would be first at every message
            self.wait(seconds)
            seconds = min(seconds * 1.2, 60.0)
        raise AssertionError(f"never at rest: {self.ledger.records}")

    def _at_rest(self, record: Record) -> bool:
        buried = record.buried or not self.rules.buries
        return record.state.final and (buried or record.state is not JobState.DEAD)

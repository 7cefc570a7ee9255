"""`Example`: two worker processes, producers, a broker and a store, and the methods that let them run. For `steps`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from queueport.engine.lifecycle import COMPLETE_WITHIN
from queueport.engine.rules import CLAIM
from queueport.engine.schedules import READ_EVERY
from queueport.spi.record import Record
from queueport.status import JobState
from queueport.tasks import registry
from queueport.testing.machine.checker import PRODUCER
from queueport.testing.machine.processes import SCHEDULE, Application, MakeStore, Process, System
from queueport.testing.machine.scheduler import Actor, Crashed, Fault, Scheduler

ROUNDS = 60
"""After the faults have ended, every job must end within this number of rounds. After the retention, every record must
be deleted within the same number of rounds."""
MANY = 1000
"""A number that is greater than the number of points in any procedure."""

Reach = tuple[int, Fault | None]
"""How far an actor runs: the number of points that it passes, and the fault at the next point, if any."""
ALL: Reach = (MANY, None)


class Example(System):
    """The system of one example. `tasks` has, for each process, the names of the tasks that the process knows.

    With `calm`, no fault happens, but the broker may still repeat, defer and redeliver messages.
    """

    def __init__(self, make_store: MakeStore, *, calm: bool, tasks: Sequence[Sequence[str]], **options: Any) -> None:
        super().__init__(make_store, **options)
        self.lease = self.rules.lease
        self.application = Application(self)
        self.processes = [Process(self, f"w{i}", known) for i, known in enumerate(tasks)]
        self.producers: list[Actor] = []
        self.calm = calm
        self.faultless = True
        """True as long as no fault has happened, and no delay that counts as one."""
        self.delays: dict[Actor, float] = {}
        """The seconds by which `wait` has delayed the call of a producer."""
        self.broken = False
        """True if a promise was broken or a step has raised an error, so that the example must not continue."""
        self._closing = ExitStack()
        self._closing.callback(self.store.close)
        self._closing.enter_context(registry.isolated())
        for task in self.tasks.values():
            registry.add(task)
            task.on_dead(lambda status: self.scheduler.check(self.checker.on_dead, status))
            self._closing.callback(task.dead_hooks.clear)
        errors, logger = _Errors(self.scheduler), logging.getLogger("queueport")
        self._closing.callback(logger.setLevel, logger.level)
        self._closing.callback(logger.removeHandler, errors)
        logger.addHandler(errors)
        logger.setLevel(logging.ERROR)  # logging warnings costs much time, and nothing checks them

    def close(self) -> None:
        """End the procedures of all actors, close the store, and undo the changes to the registry and the logger."""
        for actor in [*self.producers, *(actor for process in self.processes for actor in process.actors)]:
            actor.failure = None
            actor.crash()
        self._closing.close()

    # -- actors ---------------------------------------------------------------------------------------

    def go(self, actor: Actor, reach: Reach) -> None:
        """Let an actor continue its procedure, as far as `reach` allows. An idle actor does nothing.

        With the fault CRASH, the producer or the process is then killed. In a calm example, no fault happens.
        """
        passes, fault = reach[0], None if self.calm else reach[1]
        if actor.idle:
            return
        self.broken = True  # stays True if the next line raises an error
        actor.go(passes, None if fault is Fault.CRASH else fault)
        self.broken = False
        self.faultless = self.faultless and fault is None
        if fault is Fault.CRASH:
            self.crash(actor)

    def produce(self, procedure: Callable[[], None], reach: Reach) -> None:
        """Start a producer or operator, and let it run as far as `reach` allows."""
        actor = Actor(self.scheduler, PRODUCER)
        actor.begin(procedure)
        self.producers = [*self.busy(self.producers), actor]
        self.go(actor, reach)

    def _run(self, process: Process, actor: Actor, procedure: Callable[[], None], reach: Reach) -> None:
        if not process.frozen:
            if actor.idle:
                actor.begin(procedure)
            self.go(actor, reach)

    def work(self, process: Process, reach: Reach) -> None:
        """Let the worker of a process run, at most to the end of its job. An idle worker first takes a job.

        Does nothing if the process is frozen, or if the worker is idle and the process stops.
        """
        if not process.stopping or not process.worker.idle:
            self._run(process, process.worker, process.work, reach)

    def work_until_running(self, process: Process) -> None:
        """Let the worker of a process run until a task's code runs, but pass at most 20 points."""
        for _ in range(20):
            if process.worker.token not in self.checker.running:
                self.work(process, (1, None))

    def work_off(self, process: Process) -> None:
        """Let the worker of a process run every job that it can get, unless the process is frozen.

        Returns early if a job waits, for example for its timeout, or if the process stops.
        """
        begun = None
        while not process.frozen and (self.broker.queue or begun != self.checker.begins.total()):
            begun = self.checker.begins.total()
            self.work(process, ALL)
            if not process.worker.idle or process.stopping:
                return

    def dispatch(self, process: Process, reach: Reach) -> None:
        """Let the dispatcher of a process run, at most to the end of a round."""
        whole = process.dispatcher.idle and reach == ALL and not process.frozen
        self._run(process, process.dispatcher, process.dispatch, reach)
        if whole and process.dispatcher.idle and not self.broker.refused:
            self.checker.limits.polled(self.checker.records, self.runtime.now)

    def dispatch_twice(self, process: Process, reach: Reach) -> None:
        """Let the dispatcher of a process do a whole round and, a third of a lease later, start another one.

        If the dispatcher has done no round for more than a third of a lease, the first of these two rounds does not
        handle lapsed leases, but the second one does.
        """
        self.dispatch(process, ALL)
        self.wait(self.lease / 3)
        self.dispatch(process, reach)

    def send_heartbeats(self, process: Process, reach: Reach) -> None:
        """Let the heartbeat thread of a process run, at most to the end of a round.

        If the thread does not finish the round, or with a fault, the leases of the process may lapse.
        """
        self._run(process, process.heartbeat, process.send_heartbeats, reach)
        if not process.heartbeat.idle or reach[1] is not None:
            self.checker.cut_off(process.name)

    def stop(self, process: Process, reach: Reach) -> None:
        """Let a process that was told to stop continue its shutdown. When the shutdown is complete, a new process
        replaces the stopped one. Does nothing if the process is frozen.
        """
        if process.frozen or not process.stopping:
            return
        self.go(process.stopper, reach)
        if process.stopper.idle and process.stopping:  # the shutdown has ended, and not by a crash
            self.go(process.dispatcher, ALL)  # before its end, the process waits for its dispatcher
            working = not process.worker.idle and process.worker.token not in self.checker.running
            if working or not process.dispatcher.idle:  # the process ends during a call, so this counts as a fault
                self.faultless = False
            self._end(process)

    def terminate(self, process: Process, *, hangs: bool, seconds: float, reach: Reach) -> None:
        """Send SIGTERM to a process and let it shut down for `seconds`.

        With `hangs`, the code of its task cannot be interrupted.
        """
        process.hangs = hangs
        process.stopper.begin(process.stop)
        self.stop(process, ALL)
        while seconds > 0:
            self.wait(0.5)
            seconds -= 0.5
            self.stop(process, reach if seconds <= 0 else ALL)
        if not hangs:
            self.go(process.worker, reach)

    def round(self) -> None:
        """Let producers finish their calls. Let each process that is not frozen dispatch twice, continue its shutdown
        if it was told to stop, and run the jobs that it can get.
        """
        for producer in self.producers:
            self.go(producer, ALL)
        for process in self.processes:
            self.dispatch(process, ALL)
        self.wait(self.lease / 3)
        for process in self.processes:
            self.dispatch(process, ALL)
        for process in self.processes:
            self.stop(process, ALL)
            self.work_off(process)

    # -- what there is to do --------------------------------------------------------------------------

    def holders(self) -> list[Process]:
        """The processes with an attempt that has not ended."""
        return [process for process in self.processes if process.busy]

    def has_work(self) -> bool:
        """True if a worker may have something to do."""
        queued = (r is not None and r.state is JobState.QUEUED for r in self.checker.records.values())
        workers = [process.worker for process in self.processes]
        return bool(self.busy(workers) or self.broker.queue) or (not self.rules.carries and any(queued))

    def busy(self, actors: Sequence[Actor] | None = None) -> list[Actor]:
        """The actors that run a procedure and are not frozen. With `actors`, only those in this list."""
        awake = [actor for process in self.processes if not process.frozen for actor in process.actors]
        return [actor for actor in [*awake, *self.producers] if not actor.idle and (actors is None or actor in actors)]

    # -- faults and time ------------------------------------------------------------------------------

    def crash(self, actor: Actor) -> None:
        """Kill a producer, or the process that the actor belongs to. A new process then replaces the killed one."""
        self.faultless = False
        for process in self.processes:
            if actor in process.actors:
                self._end(process)
        actor.crash()

    def _end(self, process: Process) -> None:
        for actor in process.actors:
            actor.crash()
        self.checker.ended(process.name)
        self.broker.deliver_again(process.name)
        process.start()

    def freeze(self, process: Process) -> None:
        """Pause all actors of a process, as SIGSTOP does, until its `frozen` is set to False."""
        self.faultless = False
        process.frozen = True
        self.checker.cut_off(process.name)

    def disturb(self, how: str, index: int) -> None:
        """Let the broker lose, repeat or defer a message. In a calm example, no message is lost."""
        if how == "lose" and self.calm:
            return
        self.faultless = self.faultless and how != "lose"
        self.broker.disturb(how, index)

    def outage(self, seconds: float) -> None:
        """Let time pass while the store is unreachable.

        Actors in the middle of a call continue after the outage. Dispatchers that are idle at the start of the outage
        make a call every 0.5 s, which fails.
        """
        self.faultless = False
        retrying = [process for process in self.processes if process.dispatcher.idle]
        for _ in range(int(seconds / 0.5)):
            for process in retrying:
                self.dispatch(process, (0, Fault.NO_ANSWER))
            self.runtime.now += 0.5
        for process in self.processes:
            process.plan_heartbeat()

    def wait(self, seconds: float, cut_off: Process | None = None) -> None:
        """Let time pass. Processes that are not frozen send heartbeats.

        The heartbeats of the process `cut_off` do not reach the store, except in a calm example.
        """
        cut_off = None if self.calm else cut_off
        for actor in self.busy(self.producers):
            self.delays[actor] = self.delays.get(actor, 0.0) + seconds
        if any(delay > self.rules.claim / CLAIM for delay in self.delays.values()):
            self.faultless = False  # a call longer than `call_timeout` may leave out follow-ups, in `Operations.follow`
        end = self.runtime.now + seconds
        while due := [p for p in self.processes if not p.frozen and p.heartbeat_at <= end]:
            for process in due:
                # If no attempt runs in the process, only the last of its heartbeats that are due until `end` is sent.
                if not process.busy and process.heartbeat.idle:
                    missed = (end - process.heartbeat_at) // (self.lease / 3)
                    process.heartbeat_at += missed * self.lease / 3
            process = min(due, key=lambda process: process.heartbeat_at)
            self.runtime.now = max(self.runtime.now, process.heartbeat_at)
            process.plan_heartbeat()
            self.send_heartbeats(process, (0, Fault.NO_ANSWER) if process is cut_off else ALL)
        self.runtime.now = end

    # -- the end --------------------------------------------------------------------------------------

    def drain(self) -> None:
        """End the faults. Check that every job ends, and that every record is deleted after its retention."""
        for process in self.processes:
            process.frozen = False
        if self.checker.follow_ups.parents or self.checker.ticks.next is not None:
            self.round()
        if self.checker.follow_ups.incomplete(self.checker.records):
            self.wait(COMPLETE_WITHIN)
        if self.checker.ticks.next is not None:
            self.wait(READ_EVERY)
            self.round()
            assert self.checker.ticks.next > self.runtime.now - READ_EVERY, "a tick is not handled"
            self.open().schedules.remove(SCHEDULE)
        self._rounds(lambda record: record is None or self._at_rest(record))
        self.checker.at_rest(self.broker.kept_copies(), faultless=self.faultless)
        self.runtime.now += self.rules.keep_dead
        self._rounds(lambda record: record is None)
        assert not self.faultless or not self.broker.dead_letters, "a dead-letter copy of a deleted job is left"

    def _rounds(self, done: Callable[[Record | None], bool]) -> None:
        seconds = 1.0
        for _ in range(ROUNDS):
            self.round()
            for process in self.processes:
                self.broker.deliver_again(process.name)
            if all(map(done, self.checker.records.values())) and not self.broker.queue:
                return
            self.processes.reverse()  # otherwise the same process would receive every message first
            self.wait(seconds)
            seconds = min(seconds * 2, 64.0)
        raise AssertionError(f"some jobs have not reached the expected state: {self.checker.records}")

    def _at_rest(self, record: Record) -> bool:
        buried = not self.rules.buries or record.buried or (record.id, record.life) in self.broker.kept_copies()
        return self.checker.rests(record) and (buried or record.state is not JobState.DEAD)


class _Errors(logging.Handler):
    """Makes the example fail if production code logs at the level ERROR, which it does only for unexpected errors."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(logging.ERROR)
        self._scheduler = scheduler

    def emit(self, record: logging.LogRecord) -> None:
        """Make the error the failure of the running actor, so that `Actor.go` raises it. Crashed is ignored."""
        actor, cause = self._scheduler.actor(), record.exc_info[1] if record.exc_info else None
        if actor.failure is None and not isinstance(cause, Crashed):  # ignore Crashed: a killed process could not log
            actor.failure = AssertionError(record.getMessage())
            actor.failure.__cause__ = cause

"""One process's jobs: begin them in the store, run them, say how they ended. For drivers and queueport's own worker.

A driver hands each delivery's bytes to `deliver` (or `begin`, then `run`) and does with the message what the verdict
says. Everything else, retries and timeouts and dead letters, happens here and in the lifecycle, alike on every backend.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

from queueport import hooks, lifecycle, outcomes
from queueport.attempt import Attempt, Why
from queueport.context import running
from queueport.errors import BackendUnavailable, DuplicateJob, JobCancelled, JobTimeout
from queueport.heartbeat import Heartbeat
from queueport.lifecycle import Failed, Outcome, Refusal
from queueport.message import Message, NotAMessage
from queueport.operations import Decide, Operations, Settled, frozen_options, new_id
from queueport.record import Change, Record
from queueport.retry import ancestry
from queueport.stats import WorkerStats
from queueport.status import JobError, JobState, Progress, utc
from queueport.store import Begin, ClaimingStore, Written
from queueport.tasks import Task

__all__ = ["Runner", "Verdict"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")


class Verdict(Enum):
    """What to do with a message."""

    ACKNOWLEDGE = "acknowledge"
    """It has done its work."""
    PUT_ASIDE = "put aside"
    """It is none of ours, or has no record: never run it, and keep it where an operator can see it."""


class Runner:
    """Runs the jobs of one process. Thread-safe; `start` before the first job, `stop` after the last.

    `tasks` are those this worker knows, by name and alias; `queues` those it takes from.
    """

    def __init__(
        self,
        operations: Operations,
        tasks: Mapping[str, Task[..., Any, Any]],
        queues: Sequence[str],
        enter: Callable[[], object] = lambda: None,
    ) -> None:
        """`enter` is called in the context of each job, before its hooks: to set context variables."""
        self.operations = operations
        self._enter = enter
        self.tasks = tasks
        self.queues: tuple[str, ...] = tuple(queues)
        self.name: str = f"{socket.gethostname()}-{os.getpid()}-{new_id()[:4]}"
        self.heartbeat: Heartbeat = Heartbeat(operations, self._announce)
        self.received: dict[tuple[str, int], float] = {}
        """Per queue and priority, the newest `sent_at` among the messages received here."""
        self._defaults = {name: frozen_options(task.options) for name, task in tasks.items()}
        self._give_up = threading.Event()

    def start(self) -> None:
        """Announce this worker and begin to beat. Raises BackendUnavailable."""
        self.heartbeat.start()

    def stop(self) -> None:
        """Stop to beat and say goodbye; what still runs keeps its lease until that lapses."""
        self._give_up.set()
        self.heartbeat.stop()
        try:
            self._announce(ttl=0.0)
        except BackendUnavailable as error:
            logger.debug("worker %s left without goodbye: %s", self.name, error)

    def _announce(self, ttl: float | None = None) -> None:
        worker = WorkerStats(self.name, self.queues, tuple(sorted(self.tasks)), datetime.fromtimestamp(0, UTC))
        self.operations.store.announce(worker, self.operations.rules.lease if ttl is None else ttl)

    # -- begin -------------------------------------------------------------------------------------

    def deliver(self, body: bytes) -> Verdict:
        """Begin and run one delivered job, in this thread; blocks until its end is recorded."""
        found = self.begin([body])[0]
        if isinstance(found, Attempt):
            self.run(found)
            return Verdict.ACKNOWLEDGE
        return found

    def begin(self, bodies: Sequence[bytes], stop: threading.Event | None = None) -> list[Attempt | Verdict]:
        """Begin what was delivered, in one call to the store: an attempt to run, or what to do with the message.

        No answer is not a refusal: the call is repeated until the store answers. Once `stop` is set it raises
        BackendUnavailable instead: acknowledge nothing, the messages come again.
        """
        screened = [self._screen(body) for body in bodies]
        tokens, called_at = [new_id() for _ in bodies], time.monotonic()  # one each: two may be of the same job
        begins = {
            i: Begin(message.id, self._begin(message.task, tokens[i]), new_id())
            for i, message in enumerate(screened)
            if isinstance(message, Message) and not message.buried and message.task in self.tasks
        }

        def ask() -> list[Attempt | Verdict]:  # as often as need be: by my own token I know what is mine already
            answered = self.operations.store.begin(list(begins.values())) if begins else []
            answers = dict(zip(begins, answered, strict=True))
            return [self._found(found, answers.get(i), tokens[i], called_at) for i, found in enumerate(screened)]

        return self._insist(ask, f"{len(bodies)} messages", self._give_up if stop is None else stop)

    def hand_on(self, body: bytes) -> Verdict:
        """This worker takes no more jobs: the job of this message goes to another one."""
        message = self._screen(body)
        if isinstance(message, Verdict):
            return message
        if message.buried:
            return self._redriven(message)
        return self._verdict(message.id, self.operations.settle(message.id, lifecycle.hand_on))

    def take(self, tasks: Sequence[str], limit: int) -> list[Attempt]:
        """Begin the next queued jobs of these tasks, straight from a store that is the queue itself."""
        store = self.operations.store
        if not isinstance(store, ClaimingStore):
            raise TypeError("this store is not a queue")
        token, called_at = new_id(), time.monotonic()
        changes = {name: self._begin(name, token) for name in tasks}
        records = store.take(self.queues, changes, limit, new_id())
        return [self._attempt(record, token, called_at) for record in records]

    def notice_unknown(self) -> None:
        """Where the store is the queue and nothing is left that this worker knows: note what no worker knows."""
        store = self.operations.store
        if isinstance(store, ClaimingStore):
            workers = store.workers()
            known = {task for w in workers for task in w.tasks if set(w.queues) & set(self.queues)} | set(self.tasks)
            for record in store.unknown(self.queues, known, 100):
                logger.warning("job %s waits: no worker here knows its task %s", record.id, record.task)
                self.operations.settle(record.id, lambda r: lifecycle.unknown(self.operations.rules, r), record)

    def _begin(self, task: str, token: str) -> Change:
        return lifecycle.begin(self.operations.rules, token=token, worker=self.name, defaults=self._defaults[task])

    def _screen(self, body: bytes) -> Message | Verdict:
        try:
            message = Message.parse(body)
        except NotAMessage as error:
            logger.warning("put aside a message that is %s: %.200r", error, body)
            return Verdict.PUT_ASIDE
        place = (message.queue, message.priority)
        self.received[place] = max(self.received.get(place, 0.0), message.sent_at)
        return message

    def _found(
        self, message: Message | Verdict, answer: Written | None, token: str, called_at: float
    ) -> Attempt | Verdict:
        if isinstance(message, Verdict):
            return message
        if answer is not None:
            return self._begun(message, answer, token, called_at)
        return self._redriven(message) if message.buried else self._unknown(message.id)

    def _redriven(self, message: Message) -> Verdict:
        rules, settle = self.operations.rules, self.operations.settle
        try:
            settled = settle(message.id, lambda record: lifecycle.redrive(rules, record, life=message.life))
        except DuplicateJob as error:
            logger.warning("job %s stays in the dead letters: %s", message.id, error)
            settled = settle(message.id, lambda record: lifecycle.bury_again(rules, record, life=message.life))
        return self._verdict(message.id, settled)

    def _unknown(self, job_id: str) -> Verdict:
        settled = self.operations.settle(job_id, lambda record: lifecycle.unknown(self.operations.rules, record))
        if settled.change is not None and settled.record is not None:
            logger.warning("job %s waits: this worker does not know its task %s", job_id, settled.record.task)
        return self._verdict(job_id, settled)

    def _verdict(self, job_id: str, settled: Settled) -> Verdict:
        if settled.refusal is Refusal.GONE:
            logger.warning("put aside a message whose job %s has no record", job_id)
            return Verdict.PUT_ASIDE
        return Verdict.ACKNOWLEDGE

    def _begun(self, message: Message, answer: Written, token: str, called_at: float) -> Attempt | Verdict:
        record = answer.record
        if not answer.applied:
            now = self.operations.store.now()
            found = lifecycle.begun(self.operations.rules, record, token=token, now=now)
            if isinstance(found, Change):
                decide = lambda r: lifecycle.begun(self.operations.rules, r, token=token, now=now)  # noqa: E731
                return self._verdict(message.id, self.operations.settle(message.id, decide, record))
            if found is not Refusal.NOTHING:
                return self._verdict(message.id, Settled(record, refusal=found))
        if record is None:
            return Verdict.PUT_ASIDE
        if record.task != message.task:  # only the record decides: back to the queue, to be sent as what it is
            decide = lambda r: lifecycle.interrupt(self.operations.rules, r, token=token, stopped=True)  # noqa: E731
            return self._verdict(message.id, self.operations.settle(message.id, decide, record))
        return self._attempt(record, token, called_at)

    def _attempt(self, record: Record, token: str, called_at: float) -> Attempt:
        rules = self.operations.rules
        attempt = Attempt(
            record,
            self.tasks[record.task],
            token,
            called_at=called_at,
            lease=rules.lease,
            timeout=record.option("timeout", None),
            status=lambda: self._status(record.id),
        )
        self.heartbeat.add(attempt)
        return attempt

    def _status(self, job_id: str) -> Any:
        record = self.operations.store.get([job_id])[0]
        if record is None:
            raise JobCancelled(f"job {job_id} has no record any more")
        return self.operations.status(record)

    # -- run ---------------------------------------------------------------------------------------

    def run(self, attempt: Attempt) -> Record | None:
        """Run the task in this thread and record its end; returns when that is done, with the job as it is then."""
        if not self.ready(attempt):
            return None
        outcome = contextvars.copy_context().run(self._execute, attempt)
        return self.finish(attempt, outcome)

    async def run_async(self, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> Outcome | None:
        """Run an `async def` task; make it an asyncio task of its own. The caller is `ready`, and calls `finish`."""
        mine = asyncio.current_task()
        self._enter()
        running.set(attempt.job)
        try:
            with hooks.surround(attempt.job):
                args, kwargs = attempt.task.signature.decode(attempt.record.payload)
                attempt.enter(None if mine is None else (loop, mine))
                try:
                    value = await _function(attempt)(*args, **kwargs)
                finally:
                    attempt.leave()
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its attempt's outcome
            return outcomes.raised(attempt, error)
        return outcomes.returned(attempt, value, self.operations.limits.result)

    def ready(self, attempt: Attempt) -> bool:
        """Whether the task may start: after a long way here its lease may have lapsed, and the store is asked first."""
        if time.monotonic() > attempt.until:
            self._persist(lambda: self.heartbeat.beat([attempt]), attempt)
        if attempt.why is Why.LOST or time.monotonic() > attempt.until:
            self.heartbeat.remove(attempt)
            attempt.acknowledge()
            return False
        return True

    def _execute(self, attempt: Attempt) -> Outcome | None:
        self._enter()
        running.set(attempt.job)
        try:
            with hooks.surround(attempt.job):
                args, kwargs = attempt.task.signature.decode(attempt.record.payload)
                attempt.enter()
                try:
                    value = _function(attempt)(*args, **kwargs)
                finally:
                    attempt.leave()
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its attempt's outcome
            return outcomes.raised(attempt, error)
        return outcomes.returned(attempt, value, self.operations.limits.result)

    # -- finish ------------------------------------------------------------------------------------

    def finish(self, attempt: Attempt, outcome: Outcome | None) -> Record | None:
        """Record how an attempt ended whose code has stopped; where the store is away, again and again.

        The job as it is then; None where this attempt's end was not heard.
        """
        settled = None
        if attempt.why is not Why.LOST or outcome is not None:
            decide = self._end(attempt.token, outcome, attempt.job.latest_progress())
            settled = self._persist(lambda: self.operations.settle(attempt.record.id, decide, attempt.record), attempt)
            self._log(attempt, settled, outcome)
        self.heartbeat.remove(attempt)
        attempt.acknowledge()
        return settled.record if settled is not None and _heard(settled) else None

    def finish_stuck(self, stuck: Mapping[str, Any]) -> None:
        """Record the end of an attempt whose code stopped with its process, as `describe_stuck` described it."""
        error = stuck["error"]
        outcome = None if error is None else Failed(JobError.from_dict(error), ancestry(JobTimeout))
        self.operations.settle(stuck["id"], self._end(stuck["token"], outcome, None))

    def _end(self, token: str, outcome: Outcome | None, progress: Progress | None) -> Decide:
        """The end of an attempt: its outcome, or None to give the job back."""
        rules, chance = self.operations.rules, random.random()

        def decide(record: Record | None) -> Change | Refusal:
            if outcome is None:
                return lifecycle.interrupt(rules, record, token=token, stopped=True)
            change = lifecycle.finish(rules, record, token=token, outcome=outcome, random=chance)
            if isinstance(change, Refusal) or progress is None:
                return change
            return replace(change, set={**change.set, "progress": progress})

        return decide

    def describe_stuck(self, attempt: Attempt) -> dict[str, Any]:
        """An attempt whose code cannot be stopped, for the process that comes after this one; plain JSON."""
        error = outcomes.timed_out(attempt, None).error.as_dict() if attempt.why is Why.TIMEOUT else None
        return {"id": attempt.record.id, "token": attempt.token, "error": error}

    def leave_running(self, attempt: Attempt) -> None:
        """A graceful stop could not end it: its lease lapses with this process, and no crash is counted."""
        decide = lambda r: lifecycle.interrupt(self.operations.rules, r, token=attempt.token, stopped=False)  # noqa: E731
        self.operations.settle(attempt.record.id, decide, attempt.record)

    def _persist(self, call: Callable[[], T], attempt: Attempt) -> T | None:
        try:
            return self._insist(call, f"job {attempt.record.id}", self._give_up)
        except BackendUnavailable:
            return None

    def _insist(self, call: Callable[[], T], what: str, stop: threading.Event) -> T:
        """Call until the store answers. Raises BackendUnavailable once `stop` is set."""
        pause = 0.05
        while True:
            try:
                return call()
            except BackendUnavailable as error:
                logger.warning("%s: the worker keeps trying to reach the store: %s", what, error)
                if stop.wait(pause):
                    raise
                pause = min(pause * 2, 2.0)

    def _log(self, attempt: Attempt, settled: Settled | None, outcome: Outcome | None) -> None:
        names = {"job_id": attempt.record.id, "task": attempt.record.task, "attempt": attempt.record.attempts}
        about = f"job {attempt.record.id} {attempt.record.task} attempt {attempt.record.attempts}"
        record = None if settled is None else settled.record
        if record is None or settled is None or not _heard(settled):
            logger.warning(
                "%s: its end was not heard; another attempt holds the job, or it is gone", about, extra=names
            )
        elif record.state is JobState.SUCCEEDED:
            logger.info("%s succeeded in %.3f s", about, attempt.seconds(), extra=names)
        elif isinstance(outcome, Failed) and record.state is not JobState.CANCELLED:
            due = f", next attempt at {utc(record.wake_at)}" if record.state is JobState.RETRYING else ""
            error = outcome.error
            logger.warning("%s is %s: %s: %s%s", about, record.state, error.type, error.message, due, extra=names)
        else:
            logger.info("%s is %s", about, record.state, extra=names)


def _heard(settled: Settled) -> bool:
    """Whether the store has taken my word, now or by an earlier call whose answer was lost."""
    return settled.change is not None or settled.refusal is Refusal.NOTHING


def _function(attempt: Attempt) -> Callable[..., Any]:
    if attempt.task.function is None:
        raise AssertionError("a registered task has code")
    return attempt.task.function

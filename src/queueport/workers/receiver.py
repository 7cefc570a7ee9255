"""Begins jobs in the store, and handles messages whose jobs cannot be begun. For the runner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from queueport import hooks
from queueport.engine.batches import call_batch, call_each
from queueport.engine.operations import Decide, Operations, SettleResult
from queueport.engine.rules import Refusal
from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable, DuplicateJob, JobCancelled, log_error, type_of
from queueport.job import HIGHEST_PRIORITY
from queueport.spi.failures import FailureLog
from queueport.spi.message import Message, NotAMessage
from queueport.spi.record import Change, Record
from queueport.spi.runner import MessageAction
from queueport.spi.store import Begin, ClaimingStore, WriteOutcome, WriteResult
from queueport.status import JobState, JobStatus
from queueport.tasks import Task
from queueport.workers.attempt import Attempt

__all__ = ["Receiver", "keep_trying", "note_received"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")


class Receiver:
    """Begins jobs for the worker with the name `worker`. Thread-safe.

    `tasks` are the tasks that the worker knows, by name and alias. `queues` are the worker's queues. The receiver keeps
    in `received` the latest `sent_at` of the received messages, by queue and priority. It calls `began` with each
    new attempt.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        worker: str,
        tasks: Mapping[str, Task[..., Any, Any]],
        queues: Sequence[str],
        received: dict[tuple[str, int], float],
        began: Callable[[Attempt], object],
        failures: FailureLog,
    ) -> None:
        self._operations = operations
        self._lifecycle = operations.lifecycle
        self._runtime = operations.runtime
        self._store = operations.store
        self._claiming = operations.store if isinstance(operations.store, ClaimingStore) else None
        """The store, if it is the queue; else None."""
        self._worker = worker
        self._tasks = tasks
        self._queues = queues
        self._received = received
        self._began = began
        self._failures = failures
        self._limits = operations.limits_at_begin
        self._limits.declare(tasks.values())
        self._hold = operations.lifecycle.hold()
        self._has_coroutines = any(task.is_async for task in tasks.values())
        self._defaults = {name: task.options.for_record() for name, task in tasks.items()}

    def begin(self, bodies: Sequence[bytes], stop: threading.Event) -> list[Attempt | MessageAction]:
        """Begin the jobs of messages, if possible in one call to the store. Returns an attempt or an action for each
        message.

        Repeats this until the store answers. If `stop` is set before the store answers, raises BackendUnavailable. The
        caller must then acknowledge nothing, so that the messages are delivered again. A job of a paused queue is
        handed back.
        """
        parsed = [self._parse(body) for body in bodies]
        waits = f"the jobs of {len(bodies)} messages wait"
        paused = keep_trying(self._operations.pauses.current, waits, stop, self._runtime, self._failures)
        keep_trying(self._limits.current, waits, stop, self._runtime, self._failures)
        called_at = self._runtime.monotonic()
        tokens = [self._runtime.new_id() for _ in bodies]  # one token a message, even if two messages name one job
        begins = {
            i: self._begin(message.id, message.task, message.queue, tokens[i])
            for i, message in enumerate(parsed)
            if isinstance(message, Message)
            and not message.buried
            and message.task in self._tasks
            and message.queue not in paused
        }

        def resolve(i: int, answer: WriteResult | Exception | None) -> Attempt | MessageAction:
            message = parsed[i]
            if isinstance(message, Message) and message.queue in paused:
                return self._release(message)
            return self._resolve(message, answer, tokens[i], called_at)

        def call() -> list[Attempt | MessageAction]:  # repeatable: the tokens show which jobs an earlier call began
            begun: list[WriteResult | Exception] = call_batch(self._store.begin, [*begins.values()], lambda _, e: e)
            answers = dict(zip(begins, begun, strict=True))
            return call_each(
                lambda i: resolve(i, answers.get(i)),
                range(len(parsed)),
                lambda i, error: self.unusable(bodies[i], error),
            )

        return keep_trying(call, waits, stop, self._runtime, self._failures)

    def names_coroutine(self, body: bytes) -> bool:
        """True if this worker knows the task of this message, and the task is an `async def` function."""
        if not self._has_coroutines:
            return False
        try:
            task = self._tasks.get(Message.parse(body, self._operations.signer).task)
        except NotAMessage:
            return False
        return task is not None and task.is_async

    def take(self, tasks: Sequence[str], limit: int) -> list[Attempt]:
        """Begin at most `limit` of the next queued jobs of these tasks, unless their queue is paused. For a store that
        is the queue.

        Raises BackendUnavailable. A job that was begun but cannot be run is logged and left out.
        """
        if self._claiming is None:
            raise TypeError("this store is not a queue")
        queues, paused = self._queues, self._operations.pauses.current()
        if paused:
            queues = [queue for queue in queues if queue not in paused]
            if not queues:
                return []
        token, called_at = self._runtime.new_id(), self._runtime.monotonic()
        changes = {name: self._change(name, token) for name in tasks}
        limits = self._limits.for_take(queues, tasks, self._hold)
        rev = self._runtime.new_id()
        records = self._claiming.take(queues, changes, limit, rev, limits)

        def failed(record: Record, error: Exception) -> None:
            log_error(logger, error, "job %s was begun but cannot be run; its lease will lapse", record.id)

        attempts = call_each(lambda record: self._attempt(record, token, called_at), records, failed)
        return [attempt for attempt in attempts if attempt is not None]

    def release(self, body: bytes) -> MessageAction:
        """Hand back the job of this message for another worker, because this worker takes no more jobs.

        If the message is a dead-letter copy, retry its job instead, or bury the job again if another job holds its key.
        Returns the action for the message. Raises BackendUnavailable; the message must then not be acknowledged.
        """
        message = self._parse(body)
        return message if isinstance(message, MessageAction) else self._release(message)

    def _release(self, message: Message) -> MessageAction:
        if message.buried:
            return self._redrive(message)
        return self._action(message.id, self._operations.settle(message.id, self._lifecycle.release))

    def mark_unknown(self) -> None:
        """Set `unknown_since` of queued jobs whose task no live worker of their queue knows, in those queues of this
        worker that are not paused.

        Changes at most 100 jobs for each set of queues whose workers know the same tasks. The jobs are logged.

        For a store that is the queue. Raises BackendUnavailable.
        """
        if self._claiming is None:
            raise TypeError("this store is not a queue")
        paused = self._operations.pauses.known()
        workers, alike = self._store.workers(), dict[frozenset[str], list[str]]()
        for queue in (queue for queue in self._queues if queue not in paused):
            known = frozenset(task for worker in workers if queue in worker.queues for task in worker.tasks)
            alike.setdefault(known.union(self._tasks), []).append(queue)
        unknown = self._claiming.unknown
        for record in [each for known, queues in alike.items() for each in unknown(queues, known, 100)]:
            logger.warning(
                "job %s waits: no live worker of its queue knows its task %s; start a worker that imports it",
                record.id,
                record.task,
            )
            self._operations.settle(record.id, self._lifecycle.task_unknown, record)

    def _begin(self, job_id: str, task: str, queue: str, token: str) -> Begin:
        limits = self._limits.of(queue, task)
        return Begin(job_id, task, self._change(task, token), self._runtime.new_id(), queue, limits, self._hold)

    def _change(self, task: str, token: str) -> Change:
        return self._lifecycle.begin(token=token, worker=self._worker, defaults=self._defaults[task])

    def _parse(self, body: bytes) -> Message | MessageAction:
        try:
            message = Message.parse(body, self._operations.signer)
        except NotAMessage as error:
            logger.warning("put aside a message that is %s: %.200r", error, body)
            return self._put_aside(f"the message is {error}")
        note_received(self._received, self._queues, message)
        return message

    def unusable(self, body: bytes, error: Exception) -> MessageAction:
        """Log an unexpected error, because of which a job could not be begun or handed back. Returns the action for the
        job's message: put aside.
        """
        log_error(logger, error, "put aside a message whose job cannot be begun or handed back: %.200r", body)
        return self._put_aside(f"its job cannot be begun or handed back ({type_of(error)})")

    def _put_aside(self, reason: str) -> MessageAction:
        """Call the `on_event` hooks for a message that is put aside, and return this action."""
        if hooks.event_hooks:
            self._operations.events.put_aside(self._worker, reason)
        return MessageAction.PUT_ASIDE

    def _resolve(
        self, message: Message | MessageAction, answer: WriteResult | Exception | None, token: str, called_at: float
    ) -> Attempt | MessageAction:
        """The attempt or the action for a message. `answer` is the store's answer to `begin`; None if `begin` was not
        called for this message.

        Raises `answer` if it is an unexpected error, and BackendUnavailable.
        """
        if isinstance(message, MessageAction):
            return message
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return self._begun(message, answer, token, called_at)
        return self._redrive(message) if message.buried else self._begin_recorded(message, token, called_at)

    def _begun(self, message: Message, answer: WriteResult, token: str, called_at: float) -> Attempt | MessageAction:
        record = answer.record
        if record is None:
            return self._action(message.id, SettleResult(None, refusal=Refusal.GONE))
        if answer.outcome is WriteOutcome.LIMITED:
            return MessageAction.ACKNOWLEDGE
        if not answer.applied and record.state is JobState.QUEUED and self._names_another(message, record):
            return self._begin_recorded(message, token, called_at, record)
        if not answer.applied:
            # Only a queued job may have expired. For a running job, which an earlier call with this token may have
            # begun, another call to the store would delay the first heartbeat.
            now = self._store.now() if record.state is JobState.QUEUED else 0.0
            decide: Decide = lambda r: self._lifecycle.begin_refused(r, token=token, now=now)  # noqa: E731
            found = decide(record)
            if isinstance(found, Change):
                return self._action(message.id, self._operations.settle(message.id, decide, record))
            if found is not Refusal.NOTHING:
                return self._action(message.id, SettleResult(record, refusal=found))
        return self._attempt(record, token, called_at)

    def _begin_recorded(
        self, message: Message, token: str, called_at: float, record: Record | None = None
    ) -> Attempt | MessageAction:
        """Begin a job with the task in its record, because the message names another task, or one that this worker does
        not know. If this worker does not know the record's task either, the job waits for another worker. If the job
        has no record, the message is put aside.
        """
        record = self._store.get([message.id])[0] if record is None else record
        if record is None or record.task not in self._tasks:
            return self._unknown(message.id, record)
        begin = self._begin(record.id, record.task, record.queue, token)
        known = replace(message, task=record.task, queue=record.queue)
        return self._begun(known, self._store.begin([begin])[0], token, called_at)

    def _names_another(self, message: Message, record: Record) -> bool:
        """True if the message names another task than the record; or another queue, if that has other limits."""
        moved = record.queue != message.queue and bool(self._limits.of(message.queue, message.task))
        return record.task != message.task or moved

    def _attempt(self, record: Record, token: str, called_at: float) -> Attempt:
        attempt = Attempt(
            record,
            self._tasks[record.task],
            token,
            called_at=called_at,
            lease=self._operations.rules.lease,
            monotonic=self._runtime.monotonic,
            status=lambda: self._status(record.id),
            read=lambda job_id: self._store.get([job_id])[0],
        )
        self._began(attempt)
        return attempt

    def _status(self, job_id: str) -> JobStatus:
        record = self._store.get([job_id])[0]
        if record is None:
            raise JobCancelled(f"the record of job {job_id} has been deleted")
        return self._operations.status(record)

    def _redrive(self, message: Message) -> MessageAction:
        settle, lifecycle = self._operations.settle, self._lifecycle
        try:
            settled = settle(message.id, lambda record: lifecycle.redrive(record, life=message.life))
        except DuplicateJob as error:
            logger.warning("job %s stays in the dead letters: %s", message.id, error)
            settled = settle(message.id, lambda record: lifecycle.bury_again(record, life=message.life))
        return self._action(message.id, settled)

    def _unknown(self, job_id: str, record: Record | None) -> MessageAction:
        settled = self._operations.settle(job_id, self._lifecycle.task_unknown, record)
        if settled.change is not None and settled.record is not None:
            message = (
                "job %s waits: this worker does not know its task %s; if no other worker of the queue knows it, "
                "start a worker that imports it"
            )
            logger.warning(message, job_id, settled.record.task)
        return self._action(job_id, settled)

    def _action(self, job_id: str, settled: SettleResult) -> MessageAction:
        if settled.refusal is Refusal.GONE:
            message = (
                "put aside a message whose job %s has no record: it was removed, or the producer has another job store"
            )
            logger.warning(message, job_id)
            return self._put_aside(f"job {job_id} has no record")
        return MessageAction.ACKNOWLEDGE


def note_received(received: dict[tuple[str, int], float], queues: Sequence[str], message: Message) -> None:
    """Record the arrival of a message, so that the dispatcher can find lost messages that were sent before it.

    Ignores a message that does not belong to these queues, which are the worker's, or has no valid priority: forged
    messages must not fill `received`.
    """
    if message.queue in queues and -HIGHEST_PRIORITY <= message.priority <= HIGHEST_PRIORITY:
        key = (message.queue, message.priority)
        received[key] = max(received.get(key, 0.0), message.sent_at)


def keep_trying(call: Callable[[], T], what: str, stop: threading.Event, runtime: Runtime, failures: FailureLog) -> T:
    """Repeat a call until the store answers. If `stop` is set before that, raises BackendUnavailable.

    `what` says in the log what waits for the call, such as "job X waits".
    """
    pause = 0.05
    while True:
        try:
            return call()
        except BackendUnavailable as error:
            failures.warning("%s until the store answers: %s", what, error)
            if runtime.wait(stop, pause):
                raise
            pause = min(pause * 2, 2.0)

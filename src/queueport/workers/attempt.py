"""`Attempt`, which runs the code of a task once and can interrupt it. For the runner."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Any

from queueport import hooks
from queueport.context import Abort, CurrentJob, EnqueuesJobs, RetryLater, retry_delay, running_job, worker_queue
from queueport.engine.rules import AttemptOutcome, Failed, Succeeded
from queueport.errors import (
    JobCancelled,
    JobTimeout,
    PayloadTooLarge,
    bases_of,
    message_of,
    trace_of,
    traceback_of,
    type_of,
)
from queueport.retry import ancestry
from queueport.spi.record import Record
from queueport.spi.runner import Delivery
from queueport.status import JobError, JobState, JobStatus
from queueport.tasks import Task
from queueport.workers import children

__all__ = ["Attempt", "InterruptReason", "Interrupted", "acknowledge_all"]

EVALUATED = 8
"""An exception that another thread has requested for the running thread is raised within this number of iterations of
a loop."""


class Interrupted(BaseException):
    """Raised in the thread of a plain task to interrupt the task. `except Exception` in the task does not catch it.

    The coroutine of an `async def` task is cancelled instead. If an attempt, of a plain or an `async def` task, was
    interrupted before the task's code begins, `Attempt` raises Interrupted itself and does not run this code.
    """


class InterruptReason(Enum):
    """Why an attempt was interrupted."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    LOST = "lost"
    """Another attempt has the job, the job is no longer running, or its record was deleted."""
    STOP = "stop"
    """The worker stops and its grace period is over. Or the worker takes no more jobs and one of its coroutines is
    stuck, which may block its other coroutines."""


class Attempt:
    """One attempt of a job that this worker has begun. `until` is the end of the attempt's lease and `deadline` is the
    end of the attempt's timeout (None: no timeout), both on the monotonic clock of this process. The timeout of a
    suspect starts in `start_timeout`; before that, `deadline` is None.

    Call either `run` or `run_async`, and only once. Any thread may call `interrupt`; only the first call has an effect.
    """

    def __init__(
        self,
        record: Record,
        task: Task[..., Any, Any],
        token: str,
        *,
        called_at: float,
        lease: float,
        status: Callable[[], JobStatus],
        read: Callable[[str], Record | None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` reads the record of another job, whose result the task takes.

        `called_at` is the monotonic time before the first call that may have begun the job. The lease, of `lease`
        seconds, is counted from then, so that it does not end later in this process than in the store.
        """
        self._monotonic = monotonic
        self._read = read
        timeout: float | None = record.option("timeout", None)
        begun_at = record.started_at or 0.0
        self.record: Record = record
        self.task: Task[..., Any, Any] = task
        self.token: str = token
        self.until: float = called_at + lease
        self.suspect: bool = record.crashes > 0
        """True if the job has a counted crash. The process then runs the job alone if possible."""
        self.started: float = monotonic()
        self.deadline: float | None = None if timeout is None or self.suspect else self.started + timeout
        self.store_offset: float = begun_at - self.started
        self.reason: InterruptReason | None = None
        """Why the attempt was interrupted; None if it was not."""
        self.interrupted_at: float | None = None
        self.written_progress: object = None
        self.delivery: Delivery | None = None
        """The message. None if there is no message to acknowledge."""
        self.on_acknowledge: Callable[[Sequence[Delivery]], object] = lambda _: None
        """Acknowledges messages of attempts."""
        self.on_error: Callable[[BaseException], object] = lambda _: None
        """Called with the exception that ended the code of the task and the hooks. For `queueport.testing`."""
        self.on_heartbeat: Callable[[], None] | None = None
        """Called at each heartbeat if the message is acknowledged only at the end (`Transport.holds`); else None."""
        self.job: CurrentJob = CurrentJob(
            id=record.id,
            task=record.task,
            queue=record.queue,
            attempt=record.attempts,
            headers=record.headers,
            key=record.key,
            deadline=None if timeout is None else datetime.fromtimestamp(begun_at + timeout, UTC),
            _status=status,
            batch=None if record.links is None else record.links.batch,
            after_batch=None if record.links is None else record.links.after_batch,
        )
        self._lock = threading.Lock()
        self._ended = False
        self._thrown = False
        self._thread: int | None = None
        self._native_thread: int | None = None
        self._coroutine: asyncio.Task[Any] | None = None

    def start_timeout(self) -> None:
        """Start the timeout of a suspect. Call this just before its task starts, which may be long after the begin."""
        timeout: float | None = self.record.option("timeout", None)
        self.started = self._monotonic()
        if timeout is not None:
            self.deadline = self.started + timeout
            self.job = replace(self.job, deadline=datetime.fromtimestamp(self.deadline + self.store_offset, UTC))

    # -- the message -------------------------------------------------------------------------------

    def extend(self) -> None:
        """Acknowledge the job's message, because the store has accepted a heartbeat. If the message must not be
        acknowledged before the end of the attempt (`Transport.holds`), delay its redelivery instead.
        """
        if self.on_heartbeat is None:
            self.acknowledge()
        else:
            self.on_heartbeat()

    def acknowledge(self) -> None:
        """Acknowledge the message. Does nothing if there is no message, or if it was acknowledged before."""
        acknowledge_all([self])

    def take_delivery(self) -> Delivery | None:
        """Return the message, which the caller must acknowledge. None if there is none, or if it was taken before."""
        with self._lock:
            delivery, self.delivery = self.delivery, None
        return delivery

    # -- the task's code ---------------------------------------------------------------------------

    def run(self, limit: int | None, queue: EnqueuesJobs | None) -> AttemptOutcome | None:
        """Run a plain task, inside the `around_job` hooks, in this thread. Returns the outcome of the attempt.

        Returns None if the attempt was interrupted for the reason LOST or STOP, unless the task returned nevertheless.

        `limit` is the maximum size of an encoded result in bytes (None: no limit). `queue` is the default queue inside
        the task.
        """
        try:
            with self._context(queue):
                signature, payload = self.task.signature, self.record.payload
                args, kwargs = signature.decode(payload) if self.record.links is None else self._arguments()
                try:
                    self._enter()
                    with children.WorkerOnly():
                        value = self._function(*args, **kwargs)
                finally:
                    self._leave()
            return self._returned(value, limit)
        except BaseException as error:  # noqa: BLE001  # any error of a task is the outcome of its attempt
            self._leave()  # again, because an interruption may have ended the first call
            return self._raised(error)
        finally:
            if self.reason is not None:
                children.end(self._processes())
            self._ended = True

    async def run_async(self, limit: int | None, queue: EnqueuesJobs | None) -> AttemptOutcome | None:
        """Run an `async def` task, with the arguments and the result of `run`. An interruption cancels the asyncio task
        in which `run_async` is called.
        """
        try:
            with self._context(queue):
                if self.record.links is None:
                    args, kwargs = self.task.signature.decode(self.record.payload)
                else:
                    args, kwargs = await asyncio.to_thread(self._arguments)
                try:
                    self._enter(asyncio.current_task())
                    with children.WorkerOnly():
                        value = await self._function(*args, **kwargs)
                finally:
                    self._leave()
            return self._returned(value, limit)
        except BaseException as error:  # noqa: BLE001  # any error of a task is the outcome of its attempt
            self._leave()
            return self._raised(error)
        finally:
            self._ended = True

    def _context(self, queue: EnqueuesJobs | None) -> AbstractContextManager[object]:
        worker_queue.set(queue)
        running_job.set(self.job)
        return hooks.enter_around_job(self.job)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments. Raises Abort if the first one is the result of a job that has none."""
        links = self.record.links
        if links is None or not links.pass_result or links.after is None:
            return self.task.signature.decode(self.record.payload)
        parent = self._read(links.after)
        if parent is None or parent.state is not JobState.SUCCEEDED:
            state = "was deleted" if parent is None else f"is {parent.state}"
            raise Abort(
                f"the first argument is the result of job {links.after}, which {state}: enqueue both jobs again"
            )
        return self.task.signature.decode(self.record.payload, b"null" if parent.result is None else parent.result)

    @property
    def _function(self) -> Callable[..., Any]:
        if self.task.function is None:
            raise AssertionError("a registered task has a function")
        return self.task.function

    # -- interruption ------------------------------------------------------------------------------

    def interrupt(self, reason: InterruptReason) -> None:
        """Raise Interrupted in the task's thread, or cancel the task's coroutine. Only the first call has an effect.

        Running C code, such as `time.sleep`, is not interrupted: Interrupted is raised when the C code returns. A
        coroutine is interrupted only while it awaits. If the task's code has not begun, this code does not begin. If
        the task's code has ended, only the reason is recorded.
        """
        with self._lock:
            if self.reason is not None:
                return
            self.reason = reason
            self.interrupted_at = self._monotonic()
            if self._thread is not None:
                self._thrown = True
                exception = ctypes.py_object(Interrupted)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), exception)
            if self._coroutine is not None:
                self._coroutine.get_loop().call_soon_threadsafe(self._coroutine.cancel)

    def stuck(self, seconds: float) -> bool:
        """True if the attempt was interrupted more than `seconds` ago and has not ended."""
        return self.interrupted_at is not None and not self._ended and self._monotonic() - self.interrupted_at > seconds

    def end_processes(self) -> None:
        """If the code of an interrupted attempt still runs, end the processes that its thread has started.

        The code may be waiting for these processes. Call this repeatedly: from one second after the interruption it
        sends SIGTERM, and from two seconds on SIGKILL. The processes of `async def` tasks are not known, and on systems
        without /proc those of plain tasks are not known either, so they are not ended.
        """
        if self.interrupted_at is not None and not self._ended:
            seconds = self._monotonic() - self.interrupted_at
            if seconds > children.PATIENCE:
                late = seconds > 2 * children.PATIENCE
                children.send(self._processes(), signal.SIGKILL if late else signal.SIGTERM)

    def _processes(self) -> set[int]:
        return set() if self._native_thread is None else children.started_by(self._native_thread, self.seconds())

    def _enter(self, coroutine: asyncio.Task[Any] | None = None) -> None:
        """Let `interrupt` interrupt this thread, or the given `coroutine`. Call this before the task's code.

        Raises Interrupted if `interrupt` was called before.
        """
        with self._lock:
            if self.reason is not None:
                raise Interrupted
            self._coroutine = coroutine
            if coroutine is None:
                self._thread, self._native_thread = threading.get_ident(), threading.get_native_id()

    def _leave(self) -> None:
        """Allow no more interruptions. Call this after the task's code. When this method has returned, `interrupt`
        raises nothing in this thread.

        Idempotent. If Interrupted is raised at the very start of the method, before its `try`, the method does not
        catch Interrupted: call the method again.
        """
        while True:
            try:
                with self._lock:
                    self._thread, self._coroutine = None, None
                    thrown = self._thrown
                # Let the interpreter raise a pending Interrupted here. Do not remove the pending exception with
                # PyThreadState_SetAsyncExc(None): in Python 3.11 the thread's eval breaker then stays set, and a tracer
                # hangs.
                for _ in range(EVALUATED if thrown else 0):
                    pass
                return
            except Interrupted:
                continue

    # -- the outcome -------------------------------------------------------------------------------

    def seconds(self) -> float:
        """Seconds since the attempt began; for a suspect, since `start_timeout` if that was called."""
        return self._monotonic() - self.started

    def describe_stuck(self) -> dict[str, Any]:
        """Describe a stuck attempt as plain JSON values, for the program that later calls `finish_stuck`."""
        error = self._timed_out(None).error.as_dict() if self.reason is InterruptReason.TIMEOUT else None
        return {"id": self.record.id, "token": self.token, "error": error}

    def _returned(self, value: Any, limit: int | None) -> AttemptOutcome:
        """The outcome of a task that has returned `value`. A result that cannot be stored is a fatal failure."""
        try:
            result = self.task.signature.encode_result(value)
            if limit is not None and len(result) > limit:
                raise PayloadTooLarge(
                    f"the result has {len(result)} bytes, and the store keeps at most {limit}: "
                    "keep large data elsewhere and return a reference to it"
                )
        except BaseException as error:  # noqa: BLE001  # the application's serialisers may raise anything
            return self.failed(error, fatal=True)
        return Succeeded(result)

    def failed(self, error: BaseException, *, fatal: bool) -> Failed:
        """The outcome for an error that the task did not raise, such as for a result that is too large.

        With `fatal`, the job is not retried.
        """
        return Failed(self._job_error(error), fatal=fatal)

    def _raised(self, error: BaseException) -> AttemptOutcome | None:
        """The outcome if this error ended the code of the task or a hook. None if the attempt was interrupted for the
        reason LOST or STOP.
        """
        self.on_error(error)
        if self.reason in (InterruptReason.LOST, InterruptReason.STOP):
            return None
        if self.reason is InterruptReason.TIMEOUT:
            return self._timed_out(error)
        kind = type(error)  # isinstance would also read `error.__class__`, which application code may define
        recorded, names = self._job_error(error), _names(kind)
        cancelled = issubclass(kind, JobCancelled) and self.job.cancel_requested
        if cancelled or self.reason is InterruptReason.CANCEL:
            # If the record has a cancel request, a fatal failure makes the job cancelled, not dead.
            return Failed(recorded, names, fatal=True)
        if issubclass(kind, RetryLater) and (asked := _asked(error)) is not None:
            return Failed(recorded, names, *asked)
        return Failed(recorded, names, fatal=issubclass(kind, Abort))

    def _timed_out(self, error: BaseException | None) -> Failed:
        """The outcome of an attempt that timed out. `error` has ended the code; None if the code still runs."""
        timeout = self.record.option("timeout", None)
        late = JobTimeout(f"the attempt took longer than its timeout of {timeout:g} s")
        late.__traceback__ = None if error is None else trace_of(error)
        return Failed(self._job_error(late), ancestry(JobTimeout))

    def _job_error(self, error: BaseException) -> JobError:
        """The error as the record keeps it, with texts of limited length that every store accepts."""
        trace = traceback_of(error, _task_frames(trace_of(error)))
        now = datetime.fromtimestamp(self._monotonic() + self.store_offset, UTC)  # the store's time, estimated
        return JobError(type_of(error), message_of(error), trace, now, self.record.attempts, bases_of(error))


def acknowledge_all(attempts: Sequence[Attempt]) -> None:
    """Acknowledge the messages of these attempts, which are of one worker, in one call. Skips attempts without a
    message, and messages that were acknowledged before.
    """
    waiting = [attempt for attempt in attempts if attempt.delivery is not None]
    deliveries = [delivery for attempt in waiting if (delivery := attempt.take_delivery()) is not None]
    if deliveries:
        waiting[0].on_acknowledge(deliveries)


def _names(kind: type[BaseException]) -> tuple[str, ...]:
    """The names of this class and its ancestors, which retry policies compare. Empty if the application's metaclass
    raises an error.
    """
    try:
        return ancestry(kind)
    except BaseException:  # noqa: BLE001  # a metaclass may raise anything
        return ()


def _asked(later: Any) -> tuple[float, bool] | None:
    """The `delay` and `burns` of a RetryLater. None if `delay` is not valid, or if one of them cannot be read."""
    try:
        return retry_delay(later.delay), bool(later.burns)
    except BaseException:  # noqa: BLE001  # attributes of a subclass may raise anything
        return None


def _task_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the leading frames of this file; all of it if it has no other frames."""
    task_trace = trace
    while task_trace is not None and task_trace.tb_frame.f_code.co_filename == __file__:
        task_trace = task_trace.tb_next
    return task_trace or trace

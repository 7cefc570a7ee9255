"""Runs attempts in one process, and records how each attempt ended. For `WorkerProcess` and the pool.

A plain task runs in the thread that calls `run` or `execute`, and `async def` tasks run in one event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from queueport import hooks
from queueport.context import EnqueuesJobs
from queueport.engine.operations import Decide, Operations, SettleResult
from queueport.engine.rules import AttemptOutcome, Failed, Refusal, Succeeded
from queueport.errors import BackendUnavailable, JobTimeout, encodable, log_error
from queueport.retry import ancestry
from queueport.spi.failures import FailureLog
from queueport.spi.record import Change, Record
from queueport.spi.runner import Work
from queueport.spi.storage import readable
from queueport.spi.store import Query
from queueport.stats import WorkerStats
from queueport.status import JobError, JobState, Progress, utc
from queueport.tasks import Task
from queueport.workers import children
from queueport.workers.attempt import Attempt, InterruptReason, acknowledge_all
from queueport.workers.heartbeat import STUCK_AFTER, Heartbeat
from queueport.workers.receiver import Receiver, keep_trying
from queueport.workers.suspects import Suspects

__all__ = ["POLL", "Ended", "Runner", "finish_stuck"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")

NOT_RECORDED = (
    "job %s: the end of its attempt may not have been recorded; its lease then lapses, which may count as a crash"
)
NOT_PREPARED = (
    "job %s is stuck, and this could not be written to the store; when its lease lapses, a crash may be counted"
)
POLL = 0.1
"""Maximum seconds between two checks of a condition that may change without a notification."""


class Ended(NamedTuple):
    """An attempt whose code has ended or was not started, for `Runner.finish_all`."""

    attempt: Attempt
    outcome: AttemptOutcome | None
    """None if the attempt was interrupted because of a stop or the loss of the job, or if the task was not started."""
    started: bool = True
    """False if no end is to be recorded, because the task could not start. True for attempts to hand back, although
    their tasks were not started either."""


class Runner:
    """Runs attempts. Thread-safe. Call `start` before the first attempt; call `stop` and `close` at the end.

    `tasks` are the tasks that this worker knows, and `queue` is the default queue inside these tasks.
    """

    def __init__(
        self,
        operations: Operations,
        tasks: Iterable[Task[..., Any, Any]],
        work: Work,
        queue: EnqueuesJobs | None = None,
    ) -> None:
        self.operations = operations
        self._runtime = operations.runtime
        self.tasks: dict[str, Task[..., Any, Any]] = {n: task for task in tasks for n in (task.name, *task.aliases)}
        self.work = work
        self.name: str = f"{encodable(socket.gethostname())}-{os.getpid()}-{self._runtime.new_id()[:4]}"
        self.received: dict[tuple[str, int], float] = {}
        """The latest `sent_at` of the received messages, by queue and priority."""
        self.failures: FailureLog = FailureLog(logger, self._runtime.monotonic)
        """Logs the failures that the threads of this process repeat."""
        self.heartbeat: Heartbeat = Heartbeat(operations, self.announce, work.alive_file)
        self.receiver: Receiver = Receiver(
            operations,
            worker=self.name,
            tasks=self.tasks,
            queues=work.queues,
            received=self.received,
            began=self.heartbeat.add,
            failures=self.failures,
        )
        self.suspects: Suspects = Suspects(operations, self.heartbeat, self._hand_back)
        self._queue = queue
        self.given_up: threading.Event = threading.Event()
        """Set by `stop`. Calls to a store that does not answer are then not repeated."""
        self.replace: Callable[[], object] = lambda: None
        """Called when this process takes no more jobs because an attempt is stuck. Other jobs may still run in the
        process.
        """
        self.retired: bool = False
        """True after `replace` was called. This process must then exit, even if the stuck code has ended since."""
        self._started = False
        """True from the end of `start` until `stop`."""
        self._ended = threading.Condition()
        self._draining = False
        """Whether `drain` waits for `_ended`."""
        self._beginning = 0
        """The number of calls that begin a job which this process will run; see `begins`."""
        self._counting = threading.Lock()
        self._result_limit = operations.limits.result
        self._finishers = ThreadPoolExecutor(work.threads, "queueport-finish")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting_loop = threading.Lock()
        self._closed = threading.Event()
        self._coroutines: set[Future[None]] = set()
        self.coroutine_slots: threading.Semaphore = threading.Semaphore(work.coroutines)
        """Limits how many of the `async def` jobs that a framework delivers run at once."""

    def start(self, *, waits: bool = False) -> None:
        """Announce this worker and start its heartbeats. Raises BackendUnavailable if the store does not answer; with
        `waits`, the worker is announced later instead.
        """
        self.operations.pauses.follow()
        self.operations.limits_at_begin.follow()
        self.heartbeat.start(waits=waits)
        self._started = True
        if hooks.event_hooks:
            self.operations.events.worker("worker_started", self.name)

    def stop(self) -> None:
        """Stop the heartbeats and remove this worker from the store. Calls to a store that does not answer are no
        longer repeated. The lease of a stuck attempt will lapse, unless another program records the attempt's end
        before.
        """
        self.given_up.set()
        self.heartbeat.stop()
        try:
            self.announce(ttl=0.0)
        except BackendUnavailable as error:
            logger.debug("worker %s could not be removed from the store: %s", self.name, error)
        if hooks.event_hooks and self._started:
            self._started = False
            self.operations.events.worker("worker_stopped", self.name)

    def close(self) -> None:
        """Stop the event loop. Code that still runs in it ends with the process. Idempotent."""
        self._closed.set()
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, because this is a second call
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._finishers.shutdown(wait=False)

    def announce(self, ttl: float | None = None) -> None:
        """Record in the store that this worker is alive for `ttl` seconds (default: a lease). 0 removes the worker.

        Does nothing if another process fetches the messages of this process. Raises BackendUnavailable.
        """
        if not self.work.fetches:
            return
        epoch = datetime.fromtimestamp(0, UTC)  # without effect: the store sets the time of the heartbeat
        worker = WorkerStats(self.name, self.work.queues, tuple(sorted(self.tasks)), epoch)
        self.operations.store.announce(worker, self.operations.rules.lease if ttl is None else ttl)

    # -- running -----------------------------------------------------------------------------------

    def run(self, attempt: Attempt) -> Record | None:
        """Run a plain task in this thread and record the end of the attempt. Returns the job's record after that.

        Returns None if the end was not recorded, for example because this attempt has lost the job. Never raises.
        """
        return self.finish_all([self.execute(attempt)])[0]

    def execute(self, attempt: Attempt) -> Ended:
        """Run a plain task in this thread. The caller must pass the result to `finish_all`. Never raises."""
        try:
            while self.suspects.must_wait(attempt):
                with self._ended:
                    self._runtime.wait(self._ended, POLL)
            if self.may_start(attempt):
                run = contextvars.copy_context().run
                return Ended(attempt, run(attempt.run, self._result_limit, self._queue))
        except BaseException as error:  # noqa: BLE001  # an error must not end this thread
            log_error(logger, error, NOT_RECORDED, attempt.record.id)
        return Ended(attempt, None, started=False)

    def spawn(self, attempt: Attempt, ended: Callable[[Attempt], object]) -> None:
        """Start an `async def` task in the event loop and return at once. The loop calls `ended` when the attempt is
        over, and its end was recorded or could not be recorded.
        """
        with self._starting_loop:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                arguments = [self._loop, self._closed]
                threading.Thread(target=_run_loop, args=arguments, name="queueport-async", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(self._run_coroutine(attempt, ended), self._loop)
        self._coroutines.add(future)  # keeps its asyncio task alive: the event loop has only a weak reference to it
        future.add_done_callback(self._coroutines.discard)

    async def _run_coroutine(self, attempt: Attempt, ended: Callable[[Attempt], object]) -> None:
        loop = asyncio.get_running_loop()
        try:
            # Do not wait in a thread of `_finishers`: other attempts need these threads to record their ends.
            while self.suspects.must_wait(attempt):  # noqa: ASYNC110  # ends of plain attempts set no asyncio.Event
                await asyncio.sleep(POLL)
            if await loop.run_in_executor(self._finishers, self.may_start, attempt):
                outcome = await loop.create_task(attempt.run_async(self._result_limit, self._queue))
                await loop.run_in_executor(self._finishers, self.finish, attempt, outcome)
        except BaseException as error:  # noqa: BLE001  # an error must not stop the event loop
            log_error(logger, error, NOT_RECORDED, attempt.record.id)
        finally:
            self.heartbeat.remove(attempt)
            ended(attempt)
            self._notify()

    def may_start(self, attempt: Attempt) -> bool:
        """True if the task may start. If the attempt's lease may have lapsed, the store must accept a heartbeat first.

        Prepares the start of a suspect's task. If the task may not start, ends the heartbeats of the attempt and
        acknowledges the job's message.
        """
        if attempt.suspect:
            self._keep_trying(lambda: self.suspects.start(attempt), [Ended(attempt, None)])
        now = self._runtime.monotonic()
        if now >= attempt.until:
            self._keep_trying(lambda: self.heartbeat.beat([attempt]), [Ended(attempt, None)])
            now = self._runtime.monotonic()
        if attempt.reason is InterruptReason.LOST or now >= attempt.until:
            self.heartbeat.remove(attempt)
            attempt.acknowledge()
            return False
        if hooks.event_hooks:
            self.operations.events.started(attempt.record)
        return True

    def _hand_back(self, attempts: Sequence[Attempt]) -> None:
        """Queue the jobs of these attempts again. If the store does not answer, another thread repeats the call."""
        ends = [Ended(attempt, None) for attempt in attempts]
        try:
            self.finish_all(ends, once=True)
        except BackendUnavailable:
            threading.Thread(target=self.finish_all, args=[ends], name="queueport-record", daemon=True).start()

    @contextmanager
    def begins(self) -> Iterator[None]:
        """A context manager for a call that begins a job in this process. `drain` waits until the call has ended."""
        with self._counting:
            self._beginning += 1
        try:
            yield
        finally:
            with self._counting:
                self._beginning -= 1
            self._notify()

    def _notify(self) -> None:
        if self._draining:
            with self._ended:
                self._ended.notify_all()

    # -- the end of an attempt ---------------------------------------------------------------------

    def finish(self, attempt: Attempt, outcome: AttemptOutcome | None) -> Record | None:
        """Record the end of one attempt, as `finish_all` does. Returns the job's record after that, or None if the end
        was not recorded.
        """
        return self.finish_all([Ended(attempt, outcome)])[0]

    def finish_all(self, ends: Sequence[Ended], *, once: bool = False) -> list[Record | None]:
        """Record the ends of attempts and acknowledge their messages, if possible in one call each.

        Returns each job's record after that; None if the end was not recorded. Without `once`, repeats the call until
        the store answers or `stop` is called, and never raises. With `once`, raises BackendUnavailable if the store
        does not answer; the caller must then pass the ends again.
        """
        lost = InterruptReason.LOST
        told = [end for end in ends if end.started and (end.outcome is not None or end.attempt.reason is not lost)]
        settled: list[SettleResult | BaseException | None]
        try:
            settled = [*self._settle(told, once)]
        except BackendUnavailable:  # only with `once`: the caller passes the ends again
            raise
        except BaseException as error:  # noqa: BLE001  # an error must not end this thread
            settled = [error] * len(told)
        attempts = [end.attempt for end in ends]
        self.heartbeat.remove(*attempts)
        try:
            acknowledge_all(attempts)
        except BaseException as error:  # noqa: BLE001  # see above
            log_error(
                logger, error, "%d messages could not be acknowledged, so they may be delivered again", len(attempts)
            )
        self._notify()
        self._let_on(attempts)
        records: dict[Attempt, Record] = {}
        for end, answer in zip(told, settled, strict=True):
            if isinstance(answer, SettleResult) and answer.applied and answer.record is not None:
                records[end.attempt] = answer.record
        self._log_all(zip(told, settled, strict=True), records)
        return [records.get(attempt) for attempt in attempts]

    def _let_on(self, attempts: Sequence[Attempt]) -> None:
        """Let jobs on that waited for the slots of these attempts. If this fails, a dispatcher does it."""
        names = set[str]()
        for attempt in attempts:
            if attempt.record.slots is not None:
                names.update(attempt.record.slots)
        if names:
            try:
                self.operations.let_on(sorted(names))
            except BackendUnavailable as error:
                self.failures.warning("jobs that wait for a limit are let on later, by a dispatcher: %s", error)
            except Exception as error:  # noqa: BLE001  # an error must not end this thread
                self.failures.error(error, "the jobs that wait for a limit could not be let on; a dispatcher does it")

    def _settle(self, ends: Sequence[Ended], once: bool) -> list[SettleResult | Exception | None]:
        """Record how attempts ended. The answer for an attempt is None if the store did not answer before `stop` was
        called, and an error if the end of this attempt could not be recorded. Raises BackendUnavailable only with
        `once`.
        """
        asked = [
            (attempt.record, _end(self.operations, attempt.token, outcome, attempt.job.latest_progress))
            for attempt, outcome, _ in ends
        ]
        found = self._keep_trying(lambda: self.operations.settle_all(asked), ends, once)
        if found is None:
            return [None] * len(ends)
        return [
            self._settle_failed(end, settled, once) if isinstance(settled, Exception) else settled
            for end, settled in zip(ends, found, strict=True)
        ]

    def _settle_failed(self, end: Ended, error: Exception, once: bool) -> SettleResult | Exception | None:
        """Record that an attempt has failed, because `error` has prevented the recording of its outcome.

        Records `error` as the error of the attempt, but not the task's result, error or progress, which may have caused
        `error`. Returns the new error if this write fails too, `error` if there is no outcome, and None if the store
        does not answer before `stop` is called. With `once`, raises BackendUnavailable if the store does not answer.
        """
        attempt, outcome, _ = end
        if outcome is None:
            return error
        log_error(logger, error, "job %s: its outcome cannot be recorded; the attempt fails", attempt.record.id)
        decide = _end(self.operations, attempt.token, attempt.failed(error, fatal=isinstance(outcome, Succeeded)), None)
        job = attempt.record
        try:
            return self._keep_trying(lambda: self.operations.settle(job.id, decide, job), [end], once)
        except BackendUnavailable:
            raise
        except Exception as again:  # noqa: BLE001  # the ends of other attempts may have been recorded
            return again

    def _keep_trying(self, call: Callable[[], T], ends: Sequence[Ended], once: bool = False) -> T | None:
        if once:
            return call()
        what = f"job {ends[0].attempt.record.id} waits" if len(ends) == 1 else f"{len(ends)} jobs wait"
        try:
            return keep_trying(call, what, self.given_up, self._runtime, self.failures)
        except BackendUnavailable:
            return None

    def _log_all(
        self, ends: Iterable[tuple[Ended, SettleResult | BaseException | None]], records: Mapping[Attempt, Record]
    ) -> None:
        """Log how attempts ended. Call this last, because a full pipe can block the log."""
        try:
            for end, answer in ends:
                if isinstance(answer, BaseException):
                    log_error(logger, answer, NOT_RECORDED, end.attempt.record.id)
                else:
                    self._log(end, records.get(end.attempt))
        except BaseException as error:  # noqa: BLE001  # an error must not end this thread
            log_error(logger, error, "the ends of some attempts could not be logged")

    def _log(self, end: Ended, record: Record | None) -> None:
        attempt, outcome, _ = end
        if record is not None and record.state is JobState.SUCCEEDED and not logger.isEnabledFor(logging.INFO):
            return
        job = attempt.record
        fields = {
            "job_id": job.id,
            "task": job.task,
            "queue": job.queue,
            "attempt": job.attempts,
            "duration": round(attempt.seconds(), 6),
            "state": None if record is None else record.state.value,
            **attempt.job.log_fields,
        }
        about = f"job {job.id} {job.task} attempt {job.attempts}"
        if record is None:
            reason = "the attempt has lost the job, the record was deleted, or the store did not answer"
            logger.warning("%s: its end was not recorded, because %s", about, reason, extra=fields)
        elif record.state is JobState.SUCCEEDED:
            logger.info("%s succeeded in %.3f s", about, attempt.seconds(), extra=fields)
        elif isinstance(outcome, Failed) and record.state is not JobState.CANCELLED:
            due = f", next attempt at {utc(record.wake_at)}" if record.state is JobState.RETRYING else ""
            error = outcome.error
            logger.warning("%s is %s: %s: %s%s", about, record.state, error.type, error.message, due, extra=fields)
        else:
            logger.info("%s is %s", about, record.state, extra=fields)

    # -- the end of the worker ---------------------------------------------------------------------

    @property
    def must_exit(self) -> bool:
        """True if an attempt is stuck and the process has no other purpose than to run jobs.

        The worker must then take no more jobs, and the process must exit or start another program by exec.
        """
        return self.work.owns_process and bool(self.heartbeat.stuck())

    def nothing_due(self) -> bool:
        """Dispatch at most 100 jobs that are due, not counting running jobs whose lease has lapsed.

        Returns True if no such job was due and no job runs in this process. Raises BackendUnavailable.
        """
        return not self.operations.dispatch(100, leases=False) and not self.heartbeat.running()

    def jobs_wait(self) -> bool:
        """True if a job of a task that this worker knows is queued in one of its queues that are not paused.

        Held jobs count, and so do jobs whose messages a framework, or another worker, may have fetched already. Raises
        BackendUnavailable.
        """
        store = self.operations.store
        queues, paused = store.stats().queues, self.operations.pauses.current()
        found = (
            store.find(Query(JobState.QUEUED, queue=name, task=task))
            for name in self.work.queues
            if name in queues and name not in paused and queues[name].states.get(JobState.QUEUED, 0)
            for task in self.tasks
        )
        return any(readable(record) for records in found for record in records)

    def drain(self) -> None:
        """Wait until the running jobs have ended or are stuck; if `work.stop` is set, only until the grace period is
        over. Then interrupt jobs that still run, and wait again, at most STUCK_AFTER seconds.

        If attempts still run after that, prepare the records of these stuck attempts for the end of the worker. If the
        process only runs this worker, first end the processes that tasks have started.

        If this process must exit although it was not stopped, `replace` is called before all this.
        """
        if self.must_exit and not self.work.stop.is_set():
            self.retired = True
            self.replace()
        self._wait_until_idle()
        for attempt in self.heartbeat.running():
            attempt.interrupt(InterruptReason.STOP)
        self._wait_until_idle(STUCK_AFTER)
        stuck = self.heartbeat.running()
        # End the processes of tasks: this process will end without Python's exit handlers, which would do this for
        # daemonic processes of `multiprocessing`.
        if stuck and self.work.owns_process:
            children.end(children.left_behind())
        for attempt in stuck:
            try:
                self._record_stuck(attempt)
            except BackendUnavailable as error:
                logger.warning("%s: %s", NOT_PREPARED % attempt.record.id, error)
            except Exception as error:  # noqa: BLE001  # an error must not prevent the exit
                log_error(logger, error, NOT_PREPARED, attempt.record.id)

    def _wait_until_idle(self, seconds: float | None = None) -> None:
        """Wait until no job is being begun, and each attempt has ended or is stuck.

        Waits at most `seconds`. If `seconds` is None, waits without a limit; but when `work.stop` is set, only for the
        grace period from then on.

        If an `async def` attempt is stuck during the wait, interrupts all `async def` attempts.
        """
        self._draining = True
        began = None if seconds is None else self._runtime.monotonic()
        while len(self.heartbeat.running()) > len(stuck := self.heartbeat.stuck()) or self._beginning:
            if began is None and self.work.stop.is_set():
                began = self._runtime.monotonic()
            limit = self.work.grace if seconds is None else seconds  # another call of `Worker.stop` may change `grace`
            if began is not None and self._runtime.monotonic() > began + limit:
                return
            if any(attempt.task.is_async for attempt in stuck):  # a stuck coroutine may block all other coroutines
                for attempt in self.heartbeat.running():
                    if attempt.task.is_async:
                        attempt.interrupt(InterruptReason.STOP)
            with self._ended:
                self._runtime.wait(self._ended, POLL)

    def _record_stuck(self, attempt: Attempt) -> None:
        """Prepare the record of a stuck attempt for the end of this worker.

        If the attempt was interrupted for the reason STOP, or if the process does not exit because of stuck attempts,
        the lease will lapse, and the record says that this lapse is no crash. Otherwise the process exits or starts
        another program by exec, and after that another program records the end of the attempt. A last heartbeat extends
        the lease, so that the lease does not lapse before the end is recorded. Raises BackendUnavailable.
        """
        if attempt.reason is InterruptReason.STOP or not self.work.owns_process:
            message = (
                "job %s cannot be interrupted; its lease lapses after this worker ends, without counting as a crash"
            )
            logger.warning(message, attempt.record.id)
            interrupt = self.operations.lifecycle.interrupt
            decide: Decide = lambda r: interrupt(r, token=attempt.token, stopped=False)  # noqa: E731
            self.operations.settle(attempt.record.id, decide, attempt.record)
        else:
            self.work.stuck.append(attempt.describe_stuck())
            self.heartbeat.beat([attempt])


def finish_stuck(operations: Operations, stuck: Mapping[str, Any]) -> None:
    """Record the end of a stuck attempt whose process has exited, or has started another program by exec.

    `stuck` was made by `Attempt.describe_stuck`. Raises BackendUnavailable.
    """
    error = stuck["error"]
    outcome = None if error is None else Failed(JobError.from_dict(error), ancestry(JobTimeout))
    operations.settle(stuck["id"], _end(operations, stuck["token"], outcome, None))


def _end(operations: Operations, token: str, outcome: AttemptOutcome | None, progress: Progress | None) -> Decide:
    """Return the function that decides how a record changes when its attempt has ended with this outcome.

    If the outcome is None, the job is queued again, or cancelled if a cancel was requested.
    """
    lifecycle, jitter = operations.lifecycle, operations.runtime.random()

    def decide(record: Record) -> Change | Refusal:
        if outcome is None:
            return lifecycle.interrupt(record, token=token, stopped=True)
        change = lifecycle.finish(record, token=token, outcome=outcome, random=jitter)
        if isinstance(change, Refusal) or progress is None:
            return change
        return replace(change, set={**change.set, "progress": progress})

    return decide


def _run_loop(loop: asyncio.AbstractEventLoop, closed: threading.Event) -> None:
    """Run the event loop in this thread until `closed` is set and the loop is stopped, then close the loop.

    The application's code may stop the loop, or raise SystemExit in an asyncio task. The loop is then run again,
    because other jobs run in it.
    """
    try:
        while not closed.is_set():
            try:
                loop.run_forever()
            except BaseException as error:  # noqa: BLE001  # asyncio lets SystemExit and KeyboardInterrupt pass
                message = "an asyncio task of the application stopped the event loop; the worker runs the loop again"
                log_error(logger, error, message)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()

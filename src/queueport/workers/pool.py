"""The pool that runs the jobs of a broker or a store, in threads and an event loop. For `WorkerProcess.pull`."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from queueport.engine.batches import call_batch
from queueport.engine.copies import READ_EVERY
from queueport.errors import BackendUnavailable, log_error
from queueport.spi.runner import Delivery, MessageAction, MessageSource
from queueport.spi.store import ClaimingStore
from queueport.workers.attempt import Attempt
from queueport.workers.runner import POLL, Ended, Runner

__all__ = ["Pool"]

logger: logging.Logger = logging.getLogger("queueport")

UNKNOWN_EVERY = 1.0
"""Minimum seconds between two searches of an idle worker for queued jobs whose task no live worker knows."""


class Pool:
    """Takes jobs from `source` while slots are free and this process has no suspect, and runs the jobs.

    A plain task occupies one of the slots for threads, and an `async def` task one of the slots for coroutines.
    """

    def __init__(self, runner: Runner, source: MessageSource | ClaimingStore) -> None:
        self._runner = runner
        self._work = runner.work
        self._failures = runner.failures
        self._intake = (
            StoreIntake(source, runner) if isinstance(source, ClaimingStore) else TransportIntake(source, runner)
        )
        self._plain = [name for name, task in runner.tasks.items() if not task.is_async]
        self._async = [name for name, task in runner.tasks.items() if task.is_async]
        self._slots = {
            False: self._work.threads if self._plain else 0,
            True: self._work.coroutines if self._async else 0,
        }
        """The number of free slots, by `Task.is_async`."""
        self._jobs: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._ends: list[Ended] = []
        """The attempts that have ended, except those that a thread has begun to record."""
        self._records = False
        """Whether a thread is recording ends. It then also records the ends that other threads add meanwhile."""
        self._mine = False
        """Whether the thread that records ends is the thread of `run`."""
        self._waits = False
        """Whether the thread of `run` waits for `_changed`."""
        self._awaits = False
        """Whether, in a burst, jobs are queued that this worker cannot take yet."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def run(self) -> None:
        """Take and run jobs until `work.stop` is set, until this process must exit because of a stuck attempt, or, in a
        burst, until no job is due, none that this worker could run is queued, and none is running.

        Then wait until running jobs have ended or are stuck, or until the grace period is over, as `Runner.drain` does.
        """
        for number in range(self._slots[False]):
            threading.Thread(target=self._run_thread, name=f"queueport-{number}", daemon=True).start()
        try:
            self._take_jobs()
            self._runner.drain()
        finally:
            self._work.stop.set()
            for _ in range(self._work.threads):
                self._jobs.put(None)
            self._runner.close()

    # -- taking jobs -------------------------------------------------------------------------------

    def _take_jobs(self) -> None:
        pause, idle = 0.0, 0  # a burst ends after two idle rounds, because a thread may queue a job during the first
        while not (self._work.stop.wait(pause) if pause else self._work.stop.is_set()):
            if self._runner.must_exit or idle == 2:
                return
            try:
                busy, self._awaits = self._take_turn(), False
                idle = idle + 1 if self._work.burst and not busy and self._is_over() else 0
                pause = 0.0
                continue
            except BackendUnavailable as error:
                self._failures.warning("the worker waits for the store or the backend, and tries again: %s", error)
            except Exception as error:  # noqa: BLE001  # an error must not stop the worker
                self._failures.error(error, "an unexpected error occurred in the worker; it continues")
            pause = min(max(pause * 2, 0.05), 2.0)

    def _is_over(self) -> bool:
        """True if the burst is over. If jobs are queued that this worker cannot take yet, such as held ones, the next
        turn waits for them. Raises BackendUnavailable.
        """
        if not self._runner.nothing_due():
            return False
        self._awaits = self._runner.jobs_wait()
        return not self._awaits

    def _take_turn(self) -> bool:
        """Take jobs for the free slots, and record the ends of attempts. Returns the result of `_take_once`.

        While this thread takes jobs or waits for free slots, the threads that run jobs leave the ends of their attempts
        to this thread, so that one call to the store records many ends. This thread records these ends before it waits
        for new jobs. During the wait for new jobs, the threads that run jobs record ends themselves. If another thread
        is already recording ends when this method is called, that thread continues, and this thread records none.
        """
        with self._lock:
            self._mine, self._records = not self._records, True
        try:
            return self._take_once()
        finally:
            self._leave()

    def _leave(self) -> None:
        """If other threads leave ends to this thread, record these ends. Until the next turn of this thread, the other
        threads then record ends themselves.
        """
        if self._mine:
            self._mine = False
            self._record(once=True)

    def _take_once(self) -> bool:
        """Take jobs for the free slots. If none were taken, wait a short time: for new jobs, for a free slot, for the
        end of a suspect or, in a burst, for the end of the running jobs.

        Returns False if jobs could be taken, but there were none and, in a burst, no job is running.
        """
        tasks, limit = self._wanted()
        full = len(tasks) < len(self._plain) + len(self._async)  # for some tasks, or for all, no job may be taken
        looks_once = self._work.burst and self._intake.filters and not self._awaits
        wait = 0.0 if full or looks_once else self._intake.wait
        attempts = self._intake.next(tasks, limit, wait, self._leave) if limit else []
        for attempt in self._runner.suspects.admit(attempts):
            self._start(attempt)
        if full and not attempts:
            self._wait(lambda: self._wanted()[0] != tasks or (self._must_record() and self._jobs.empty()))
            return True
        if not attempts and self._work.burst and self._runner.heartbeat.running():
            self._wait(lambda: self._must_record() or not self._runner.heartbeat.running())
            return True
        return bool(attempts)

    def _must_record(self) -> bool:
        return self._mine and bool(self._ends)

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, but at most POLL seconds. The condition is checked at once, and whenever
        `_changed` is notified.
        """
        with self._lock:
            self._waits = True
            self._changed.wait_for(condition, POLL)
            self._waits = False

    def _wanted(self) -> tuple[list[str], int]:
        """The tasks whose jobs may be taken, because a slot is free, and the maximum number of jobs to take.

        The maximum is the number of free slots, the smaller number if slots are free both for threads and for
        coroutines. If the jobs that were begun last included a suspect, the maximum is 1. While this process has a
        suspect, no job may be taken. If the intake cannot select jobs by task, and the worker has both plain and
        `async def` tasks, jobs may be taken only while slots of both kinds are free.
        """
        kinds = {kind: names for kind, names in ((False, self._plain), (True, self._async)) if names}
        free = [kind for kind in kinds if self._slots[kind] > 0]
        suspects = self._runner.suspects
        if not free or (len(free) < len(kinds) and not self._intake.filters) or suspects.present:
            return [], 0
        limit = 1 if suspects.expected else min(self._slots[kind] for kind in free)
        return [name for kind in free for name in kinds[kind]], limit

    # -- running jobs ------------------------------------------------------------------------------

    def _start(self, attempt: Attempt) -> None:
        with self._lock:
            self._slots[attempt.task.is_async] -= 1
        if attempt.task.is_async:
            self._runner.spawn(attempt, lambda ended: self._free([ended]))
        else:
            self._jobs.put(attempt)

    def _run_thread(self) -> None:
        while (attempt := self._jobs.get()) is not None:
            if self._ends and self._waits:
                with self._lock:
                    self._changed.notify()  # `run` may wait until all jobs in `_jobs` have been started
            self._finish(self._runner.execute(attempt))  # neither raises

    def _finish(self, end: Ended) -> None:
        """Record the end of an attempt. If another thread is recording ends, leave this end to that thread.

        One call to the store thus records the ends of all attempts that have ended during the previous call, or while
        the thread of `run` was taking jobs. No end has to wait until another attempt ends.
        """
        with self._lock:
            self._ends.append(end)
            if self._records:
                if self._waits:
                    self._changed.notify()
                return
            self._records = True
        self._record()

    def _record(self, *, once: bool = False) -> None:
        """Record the ends in `_ends`, until there are none left.

        With `once`, if the store does not answer, return at once and let a new thread record the ends. The thread of
        `run` sets `once`, because it must not wait for the store: it must notice that the worker is told to stop.
        """
        while True:
            with self._lock:
                ends, self._ends = self._ends, []
                self._records = bool(ends)
            if not ends:
                return
            try:
                self._runner.finish_all(ends, once=once)
            except BackendUnavailable as error:
                self._failures.warning(
                    "the ends of %d attempts are recorded when the store answers: %s", len(ends), error
                )
                with self._lock:
                    self._ends = ends + self._ends
                threading.Thread(target=self._record, name="queueport-record", daemon=True).start()
                return
            self._free([end.attempt for end in ends])

    def _free(self, attempts: Sequence[Attempt]) -> None:
        with self._lock:
            for attempt in attempts:
                self._slots[attempt.task.is_async] += 1
            if self._waits:
                self._changed.notify()


class StoreIntake:
    """Takes jobs for a pool from a store that is the queue."""

    filters = True
    """True: `next` begins only jobs of the given tasks."""
    wait: float = 0.5
    """Seconds that an idle worker waits for jobs before it checks whether it must stop."""

    def __init__(self, store: ClaimingStore, runner: Runner) -> None:
        self._store = store
        self._runner = runner
        self._runtime = runner.operations.runtime
        self._checked_at = self._runtime.monotonic()

    def next(
        self, tasks: Sequence[str], limit: int, wait: float, waiting: Callable[[], object] = lambda: None
    ) -> Sequence[Attempt]:
        """Begin at most `limit` queued jobs of these tasks. Raises BackendUnavailable.

        If no such job is queued, calls `waiting`, waits at most `wait` seconds until a job is queued, and returns an
        empty list: the next call may begin that job. If `wait` is 0, returns the empty list without calling `waiting`.
        At most once a second, a call that finds no job also marks queued jobs whose task no live worker knows.
        """
        attempts = self._runner.receiver.take(tasks, limit)
        if not attempts:
            if self._runtime.monotonic() - self._checked_at > UNKNOWN_EVERY:
                self._checked_at = self._runtime.monotonic()
                self._runner.receiver.mark_unknown()
            if wait > 0:
                waiting()
                self._store.wait_for_work(self._runner.work.queues, wait)
        return attempts


class TransportIntake:
    """Receives messages from a broker for a pool, begins their jobs, and acknowledges the messages.

    A message is acknowledged when its job has begun. If `Transport.pushes` is set, the message is instead acknowledged
    at the first heartbeat or at the end of the attempt, whichever is first; if `holds` is set too, only at the end of
    the attempt. A message without a new attempt is acknowledged at once, or put aside if queueport cannot use it.
    """

    filters = False
    """False: `next` begins jobs of any task, because a broker cannot select messages by task."""

    def __init__(self, transport: MessageSource, runner: Runner) -> None:
        self.wait: float = transport.idle_wait
        self._transport = transport
        self._runner = runner
        self._lock = threading.Lock()
        self._held: list[Delivery] = []
        self._holder = ThreadPoolExecutor(1, "queueport-hold")  # the executor starts its thread on first use

    def next(
        self, tasks: Sequence[str], limit: int, wait: float, waiting: Callable[[], object] = lambda: None
    ) -> Sequence[Attempt]:
        """Call `waiting`, wait at most `wait` seconds for messages, and begin the jobs of at most `limit` messages.

        Ignores `tasks`. Raises BackendUnavailable if the broker does not answer, or if the worker is stopped before the
        store answers.
        """
        waiting()
        queues, paused = self._runner.work.queues, self._runner.operations.pauses.known()
        if paused:  # ask the broker only for other queues, and come back soon, because a queue may be resumed
            queues, wait = tuple(queue for queue in queues if queue not in paused), min(wait, READ_EVERY)
            if not queues:
                self._runner.operations.runtime.wait(self._runner.work.stop, wait)
                return []
        deliveries = self._transport.receive(queues, limit, wait)
        if not deliveries:
            return []
        found = self._runner.receiver.begin([delivery.body for delivery in deliveries], self._runner.work.stop)
        done: list[Delivery] = []
        attempts: list[Attempt] = []
        for delivery, answer in zip(deliveries, found, strict=True):
            if isinstance(answer, Attempt):
                attempts.append(answer)
            if answer is MessageAction.PUT_ASIDE:
                self._try(
                    lambda some: self._transport.put_aside(some[0]), [delivery], "%d messages could not be put aside"
                )
            elif isinstance(answer, Attempt) and self._transport.pushes:
                answer.delivery, answer.on_acknowledge = delivery, self._acknowledge
                if self._transport.holds:
                    answer.on_heartbeat = partial(self._hold, delivery)
            else:
                done.append(delivery)
        if done:
            self._acknowledge(done)
        return attempts

    def _hold(self, delivery: Delivery) -> None:
        """Delay the redelivery of a message. Another thread calls the broker, because a heartbeat must not wait."""
        with self._lock:
            self._held.append(delivery)
            if len(self._held) == 1:
                self._holder.submit(self._prolong)

    def _prolong(self) -> None:
        with self._lock:
            held, self._held = self._held, []
        self._try(self._transport.prolong, held, "the redelivery of %d messages could not be delayed")

    def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self._try(
            self._transport.ack, deliveries, "%d messages could not be acknowledged, so they may be delivered again"
        )

    def _try(self, call: Callable[[Sequence[Delivery]], None], deliveries: Sequence[Delivery], problem: str) -> None:
        """Call the broker. Log an error instead of raising it, because the jobs that were begun must run in any case.

        After an error, the broker may deliver the messages again. The store then refuses to begin a job that is running
        or has ended.
        """

        def call_all(batch: Sequence[Delivery]) -> Sequence[None]:
            call(batch)
            return [None] * len(batch)

        def failed(_: Delivery, error: Exception) -> None:
            log_error(logger, error, problem, 1)

        try:
            call_batch(call_all, deliveries, failed)
        except BackendUnavailable as error:
            logger.warning(f"{problem}: %s", len(deliveries), error)  # noqa: G004  # `problem` is a constant

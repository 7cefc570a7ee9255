"""The heartbeat thread: it extends leases, writes progress, and interrupts attempts. For the runner."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from queueport.engine.batches import call_batch, call_each
from queueport.engine.operations import Operations
from queueport.errors import BackendUnavailable, log_error
from queueport.spi.failures import FailureLog
from queueport.spi.record import Record
from queueport.spi.store import LeaseRenewal, WriteResult
from queueport.status import JobState
from queueport.workers.attempt import Attempt, InterruptReason

__all__ = ["Heartbeat"]

logger: logging.Logger = logging.getLogger("queueport")

TICK = 0.25
"""Maximum seconds that the thread sleeps between two rounds. Each round checks for timeouts and new progress."""
CHECK_EVERY = 1.0
"""Minimum seconds between two reads of the records of running jobs, to find cancel requests between two heartbeats.
Jobs that have run for a shorter time are not read."""
TOUCH_EVERY = 1.0
"""Minimum seconds between two touches of the file for liveness probes."""
STUCK_AFTER = 3.0
"""An attempt is stuck if its code still runs this many seconds after its interruption."""


class Heartbeat:
    """Sends the heartbeats of all attempts of this process in one call, every third of a lease. Thread-safe.

    It also writes progress, and interrupts each attempt that exceeds its timeout, must end because of a cancel request,
    or no longer has its job. After the heartbeats it calls `announce`, which keeps the worker in the store's list. It
    touches `alive_file` about every second, but not during a call to the store, which may take longer than that.
    """

    def __init__(self, operations: Operations, announce: Callable[[], None], alive_file: Path | None = None) -> None:
        self._operations = operations
        self._runtime = operations.runtime
        self._announce = announce
        self._alive_file = alive_file
        self._touched_at = -math.inf
        self._attempts: dict[str, Attempt] = {}
        self.suspects: int = 0
        """The number of suspects among the running attempts."""
        self._lock = threading.Lock()
        self._sending = self._runtime.lock()
        self._failures = FailureLog(logger, self._runtime.monotonic)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent_at = self._checked_at = self._runtime.read()
        self.interval: float = operations.rules.lease / 3

    def start(self, *, waits: bool = False) -> None:
        """Announce the worker and start the thread. Raises BackendUnavailable; the caller may then call `start` again.

        With `waits`, `start` does not raise if the store does not answer: the thread then announces the worker when the
        next heartbeats are due.
        """
        try:
            self._announce()
        except BackendUnavailable as error:
            if not waits:
                raise
            logger.warning("this worker is not listed until the store answers: %s", error)
        self._thread = threading.Thread(target=self._run, name="queueport-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. The lease of an attempt that still runs will lapse, unless its end is recorded before."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(TICK * 4)

    def add(self, attempt: Attempt) -> None:
        """Send heartbeats for this attempt until `remove` is called for it.

        If the call that has begun a job is repeated, the new Attempt replaces the earlier object of the same attempt.
        """
        key = attempt.token + attempt.record.id
        with self._lock:
            if key not in self._attempts:
                self.suspects += attempt.suspect
            self._attempts[key] = attempt

    def remove(self, *attempts: Attempt) -> None:
        """Send no more heartbeats for these attempts."""
        with self._lock:
            for attempt in attempts:
                if self._attempts.pop(attempt.token + attempt.record.id, None) is not None:
                    self.suspects -= attempt.suspect

    def running(self) -> list[Attempt]:
        """The attempts that were added and not yet removed."""
        with self._lock:
            return list(self._attempts.values())

    def stuck(self) -> list[Attempt]:
        """The stuck attempts: those whose code still runs STUCK_AFTER seconds after their interruption."""
        return [attempt for attempt in self.running() if attempt.stuck(STUCK_AFTER)]

    def refresh(self) -> None:
        """Send heartbeats now if they are overdue, for example because the process was paused.

        The dispatcher of this process calls this before it looks for lapsed leases. Raises BackendUnavailable.
        """
        if self._runtime.since(self._sent_at) > self.interval * 1.5:
            now = self._runtime.read()
            self.beat(self.running())
            self._sent_at = now

    def beat(self, attempts: Sequence[Attempt]) -> None:
        """Send heartbeats for these attempts, with new progress, and handle the answers. Raises BackendUnavailable."""
        if not attempts:
            return
        lease = self._operations.rules.lease
        with self._sending:
            called_at = self._runtime.monotonic()
            latest = [a.job.latest_progress for a in attempts]
            new_id = self._runtime.new_id
            renewals = [
                LeaseRenewal(a.record.id, a.token, lease, new_id(), {} if p is a.written_progress else {"progress": p})
                for a, p in zip(attempts, latest, strict=True)
            ]
            answers = call_batch(self._operations.store.heartbeat, renewals, self._without_values)

        def answered(attempt: Attempt, progress: object, answer: WriteResult | None) -> None:
            attempt.written_progress = progress
            if answer is not None and self._update(attempt, answer.record):
                attempt.until = called_at + lease
                attempt.extend()

        def failed(item: tuple[Attempt, object, object], error: Exception) -> None:
            log_error(logger, error, "job %s: the answer to a heartbeat could not be handled", item[0].record.id)

        call_each(lambda item: answered(*item), zip(attempts, latest, answers, strict=True), failed)

    def _without_values(self, renewal: LeaseRenewal, error: Exception) -> WriteResult | None:
        """Send a failed heartbeat again without progress. Returns the answer, or None if the second call fails too.

        Raises BackendUnavailable.
        """
        log_error(logger, error, "job %s: a heartbeat failed; it is sent again without progress", renewal.id)
        try:
            return self._operations.store.heartbeat([replace(renewal, values={})])[0]
        except BackendUnavailable:
            raise
        except Exception as again:  # noqa: BLE001  # an error must not stop the heartbeats of other jobs
            log_error(
                logger,
                again,
                "job %s: a heartbeat failed without progress too; if the next heartbeats fail, its lease lapses",
                renewal.id,
            )
            return None

    def _check(self, attempts: Sequence[Attempt]) -> None:
        """Read the records of these attempts, to find cancel requests and attempts that have lost their job.

        Raises BackendUnavailable.
        """
        if attempts:
            records = call_batch(self._read, attempts, lambda attempt, _: attempt.record)
            for attempt, record in zip(attempts, records, strict=True):
                self._update(attempt, record)

    def _read(self, attempts: Sequence[Attempt]) -> Sequence[Record | None]:
        return self._operations.store.get([attempt.record.id for attempt in attempts])

    def _update(self, attempt: Attempt, record: Record | None) -> bool:
        """Update an attempt from the job's record, and interrupt the attempt if it has lost the job or a cancel
        request demands it. Returns True if the attempt still has the job.
        """
        if record is None or record.state is not JobState.RUNNING or record.token != attempt.token:
            if attempt in self.running():  # otherwise, the attempt has ended during the call to the store
                attempt.interrupt(InterruptReason.LOST)
                logger.warning(
                    "job %s: its lease lapsed or its record was deleted, so this worker interrupts its attempt",
                    attempt.record.id,
                )
            return False
        attempt.record = record
        if record.cancel_requested:
            attempt.job.cancel_requested = True
            if record.cancel_interrupts:
                attempt.interrupt(InterruptReason.CANCEL)
        return True

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            try:
                self.touch()
                self.tick()
            except BackendUnavailable as error:
                self._failures.warning("the store did not answer the heartbeat thread, which will try again: %s", error)
            except BaseException as error:  # noqa: BLE001  # an error must not end this thread
                self._failures.error(error, "an unexpected error occurred in the heartbeat thread; it continues")

    def touch(self) -> None:
        """Touch the file for liveness probes, if there is one, at most once in TOUCH_EVERY seconds."""
        now = self._runtime.monotonic()
        if self._alive_file is not None and now - self._touched_at >= TOUCH_EVERY:
            self._touched_at = now
            try:
                self._alive_file.touch()
            except OSError as error:
                self._failures.warning("the file %s for liveness probes cannot be touched: %s", self._alive_file, error)

    def _pause(self) -> float:
        now = self._runtime.monotonic()
        deadlines = [a.deadline - now for a in self.running() if a.deadline is not None and a.reason is None]
        return max(0.01, min([TICK, *deadlines]))

    def tick(self) -> None:
        """Do one round: interrupt attempts that time out, end the processes of interrupted attempts that still run, and
        write new progress.

        If heartbeats are due, also send them and announce the worker. Otherwise, if CHECK_EVERY seconds have passed
        since the last check, read the records to find cancel requests. Raises BackendUnavailable.
        """
        now = self._runtime.read()
        attempts = self.running()
        for attempt in attempts:
            if attempt.deadline is not None and attempt.deadline <= now.monotonic:
                attempt.interrupt(InterruptReason.TIMEOUT)
            attempt.end_processes()
        if self._runtime.since(self._sent_at) >= self.interval:
            self.beat(attempts)
            self._announce()
            self._sent_at = self._checked_at = now
            return
        self.beat([a for a in attempts if a.job.latest_progress is not a.written_progress])
        if self._runtime.since(self._checked_at) >= CHECK_EVERY:
            self._checked_at = now
            self._check([a for a in attempts if a.seconds() > CHECK_EVERY])

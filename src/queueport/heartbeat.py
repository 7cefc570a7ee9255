"""The thread that keeps a process's running jobs alive: leases, progress, timeouts, cancel requests. For the runner."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from queueport.attempt import Attempt, Why
from queueport.clock import Moment
from queueport.errors import BackendUnavailable
from queueport.operations import Operations, new_id
from queueport.record import Record
from queueport.status import JobState
from queueport.store import Beat

__all__ = ["Heartbeat"]

logger: logging.Logger = logging.getLogger("queueport")

TICK = 0.25
"""Seconds between two looks at timeouts and progress: progress is written at most so often."""
ASK = 1.0
"""Seconds between two looks whether a running job was asked to stop; a beat looks too, but is rarer."""
STUCK_AFTER = 3.0
"""Seconds after which code that was interrupted and still runs counts as not interruptible."""


class Heartbeat:
    """Beats for every attempt of this process in one call, every third of a lease. Start it once; thread-safe."""

    def __init__(self, operations: Operations, announce: Callable[[], None]) -> None:
        self._operations = operations
        self._announce = announce
        self._attempts: dict[str, Attempt] = {}
        self._lock = threading.Lock()
        self._beating = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._beat_at = self._asked_at = Moment.now()
        self.interval: float = operations.rules.lease / 3

    def start(self) -> None:
        """Begin to beat."""
        self._announce()
        self._thread = threading.Thread(target=self._run, name="queueport-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop to beat; leases that are still held lapse."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(TICK * 4)

    def add(self, attempt: Attempt) -> None:
        """Keep this attempt's lease from now on."""
        with self._lock:
            self._attempts[attempt.token + attempt.record.id] = attempt

    def remove(self, attempt: Attempt) -> None:
        """Its end is recorded, or it is no longer ours."""
        with self._lock:
            self._attempts.pop(attempt.token + attempt.record.id, None)

    def running(self) -> list[Attempt]:
        """The attempts that hold a lease here."""
        with self._lock:
            return list(self._attempts.values())

    def stuck(self) -> list[Attempt]:
        """Those that were interrupted and go on regardless."""
        return [attempt for attempt in self.running() if attempt.stuck(STUCK_AFTER)]

    def refresh(self) -> None:
        """Beat now if the last beat is overdue, as after a pause of the whole process: before leases are judged."""
        if self._beat_at.ago() > self.interval * 1.5:
            now = Moment.now()
            self.beat(self.running())
            self._beat_at = now

    def beat(self, attempts: Sequence[Attempt]) -> None:
        """Prolong these leases and hear what became of the jobs. Raises BackendUnavailable."""
        if not attempts:
            return
        lease = self._operations.rules.lease
        with self._beating:
            called_at = time.monotonic()
            latest = [a.job.latest_progress() for a in attempts]
            beats = [
                Beat(a.record.id, a.token, lease, new_id(), {} if p is a.written_progress else {"progress": p})
                for a, p in zip(attempts, latest, strict=True)
            ]
            answers = self._operations.store.heartbeat(beats)
        for attempt, progress, answer in zip(attempts, latest, answers, strict=True):
            attempt.written_progress = progress
            if self._heard(attempt, answer.record):
                attempt.until = called_at + lease
                attempt.prolong()

    def ask(self, attempts: Sequence[Attempt]) -> None:
        """Hear what became of these jobs without prolonging anything. Raises BackendUnavailable."""
        if attempts:
            records = self._operations.store.get([a.record.id for a in attempts])
            for attempt, record in zip(attempts, records, strict=True):
                self._heard(attempt, record)

    def _heard(self, attempt: Attempt, record: Record | None) -> bool:
        """What the record says of the attempt; False when it is not this attempt's any more."""
        if record is None or record.state is not JobState.RUNNING or record.token != attempt.token:
            self._lost(attempt)
            return False
        attempt.record = record
        if record.cancel_requested:
            attempt.job.cancel_requested = True
            if record.cancel_interrupts:
                attempt.interrupt(Why.CANCEL)
        return True

    def _lost(self, attempt: Attempt) -> None:
        if attempt in self.running():  # else it ended while we asked
            logger.warning("job %s: another attempt holds it; this one is interrupted", attempt.record.id)
            attempt.interrupt(Why.LOST)

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            try:
                self._tick()
            except BackendUnavailable as error:
                logger.warning("heartbeats wait for the store: %s", error)
            except Exception:
                logger.exception("a heartbeat met an error it does not know; the next one follows")

    def _pause(self) -> float:
        now = time.monotonic()
        deadlines = [a.deadline - now for a in self.running() if a.deadline is not None and a.why is None]
        return max(0.01, min([TICK, *deadlines]))

    def _tick(self) -> None:
        now = Moment.now()
        attempts = self.running()
        for attempt in attempts:
            if attempt.deadline is not None and attempt.deadline <= now.monotonic:
                attempt.interrupt(Why.TIMEOUT)
        if self._beat_at.ago() >= self.interval:
            self.beat(attempts)
            self._announce()
            self._beat_at = self._asked_at = now
            return
        self.beat([a for a in attempts if a.job.latest_progress() is not a.written_progress])
        if self._asked_at.ago() >= ASK:
            self._asked_at = now
            self.ask([a for a in attempts if a.seconds() > ASK])

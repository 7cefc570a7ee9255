"""`Suspects`: runs each suspect alone in its process if possible, to find the job that causes crashes. For the runner.

A suspect is a job that has a counted crash. `docs/protocol.md#suspects` explains the rule.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from queueport.engine.operations import Operations
from queueport.errors import BackendUnavailable, log_error
from queueport.workers.attempt import Attempt, InterruptReason
from queueport.workers.heartbeat import Heartbeat

__all__ = ["Suspects"]

logger: logging.Logger = logging.getLogger("queueport")


class Suspects:
    """Decides which suspects this process runs, and when their tasks start. Thread-safe.

    While `present` is True, the process must begin no job. `heartbeat` has the attempts of this process. `hand_back`
    takes attempts whose tasks were not started, and queues their jobs again.
    """

    def __init__(
        self, operations: Operations, heartbeat: Heartbeat, hand_back: Callable[[Sequence[Attempt]], object]
    ) -> None:
        self._operations = operations
        self._heartbeat = heartbeat
        self._hand_back = hand_back
        self.expected: bool = False
        """True if a suspect was among the jobs that were begun last. The worker then begins one job at a time."""

    @property
    def present(self) -> bool:
        """True if an attempt of a suspect in this process has not ended."""
        return self._heartbeat.suspects > 0

    def admit(self, begun: Sequence[Attempt]) -> list[Attempt]:
        """Return the attempts to run, of those that were begun together. Call this before any of them starts.

        All these attempts are returned, except suspects after the first suspect, which are handed back. If the first
        suspect must wait for other attempts, this method writes to the suspect's record that a crash of the process
        during the wait does not count. An error of this write is only logged.
        """
        suspects = [attempt for attempt in begun if attempt.suspect]
        if begun:
            self.expected = bool(suspects)
        if suspects and len(self._heartbeat.running()) > len(suspects):
            self._exempt(suspects[0])
        if suspects[1:]:
            self._hand_back(suspects[1:])
        return [attempt for attempt in begun if attempt not in suspects[1:]]

    def must_wait(self, attempt: Attempt) -> bool:
        """True while the task of this attempt must not start, because the job is a suspect and other attempts of this
        process have not ended. The task waits for at most the length of a lease, so that another attempt that runs for
        a long time does not block the worker. But while other suspects are being handed back, the task waits longer:
        if it killed the process, a crash would count for them, too.
        """
        if not attempt.suspect or attempt.reason is not None:
            return False
        if attempt.seconds() >= self._operations.rules.lease:
            return self._heartbeat.suspects > 1
        return len(self._heartbeat.running()) > 1

    def start(self, attempt: Attempt) -> None:
        """Prepare the start of a suspect's task: record that a crash counts from now on, and start the timeout. If
        the attempt has lost its job, interrupt the attempt.

        Raises BackendUnavailable; the caller must then call this again.
        """
        decide, token = self._operations.lifecycle.start_suspect, attempt.token
        settled = self._operations.settle(attempt.record.id, lambda record: decide(record, token=token), attempt.record)
        if not settled.applied:
            attempt.interrupt(InterruptReason.LOST)
        elif settled.record is not None:
            attempt.record = settled.record
        attempt.start_timeout()

    def _exempt(self, attempt: Attempt) -> None:
        """Record that no crash counts for this suspect until its task starts. An error of the write is only logged."""
        interrupt, token = self._operations.lifecycle.interrupt, attempt.token
        try:
            settled = self._operations.settle(
                attempt.record.id, lambda record: interrupt(record, token=token, stopped=False), attempt.record
            )
        except BackendUnavailable as error:
            logger.debug("job %s: a crash perhaps counts while it waits for other jobs: %s", attempt.record.id, error)
            attempt.record = replace(attempt.record, interrupted=True)  # perhaps written: `start` must clear it
            return
        except Exception as error:  # noqa: BLE001  # the other jobs that were begun with this one must run
            log_error(logger, error, "job %s: a crash counts while it waits for other jobs", attempt.record.id)
            return
        if settled.record is not None and settled.applied:
            attempt.record = settled.record

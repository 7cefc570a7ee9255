"""The loop in every worker that moves what is due: delays, lapsed leases, lost messages, burials, retention.

`queueport dispatcher URL` runs one alone. Any number may run at once: each record is claimed by one of them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping

from queueport.clock import Moment
from queueport.errors import BackendUnavailable
from queueport.operations import Operations
from queueport.record import Change
from queueport.runner import Runner
from queueport.status import JobState
from queueport.url import KeepCount

__all__ = ["Dispatcher"]

logger: logging.Logger = logging.getLogger("queueport")

BATCH = 100
"""Records moved in one step."""
SWEEP = 5.0
"""Seconds, at most, between two looks for lost messages and for more records than are to be kept."""


class Dispatcher:
    """Moves due jobs until stopped. `runner`: the one in this process, whose own heartbeats go first.

    `received`: per queue and priority the newest `sent_at` that this process received; by default, the runner's.
    """

    def __init__(
        self,
        operations: Operations,
        runner: Runner | None = None,
        *,
        keep: KeepCount | None = None,
        received: Mapping[tuple[str, int], float] | None = None,
    ) -> None:
        self._operations = operations
        self._runner = runner
        self._received = received if received is not None else {} if runner is None else runner.received
        self._keep = keep
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._answered_at: Moment | None = None
        self._leases_from = 0.0
        self._sweep_every = min(SWEEP, operations.rules.lost_after / 2)
        self._swept_at = time.monotonic()

    def start(self) -> None:
        """Run beside the caller."""
        self._thread = threading.Thread(target=self.run, name="queueport-dispatcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present step; idempotent."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._operations.rules.claim)

    def run(self) -> None:
        """Run until stopped; a store or backend that does not answer is waited for."""
        poll = self._operations.store.poll
        pause = poll
        while not self._stop.wait(pause * random.uniform(0.8, 1.0)):
            try:
                self.tick()
                pause = poll
            except BackendUnavailable as error:
                self._answered_at = None
                pause = min(pause * 2, 2.0)
                logger.warning("the dispatcher waits: %s", error)
            except Exception:
                pause = min(pause * 2, 2.0)
                logger.exception("the dispatcher met an error it does not know, and goes on")

    def tick(self) -> int:
        """One round: everything that is due now; how many records were moved. Raises BackendUnavailable."""
        if self._runner is not None:
            self._runner.heartbeat.refresh()
        moved = 0
        while not self._stop.is_set():
            count = self._operations.dispatch(BATCH, leases=self._may_judge_leases())
            moved += count
            if count < BATCH:
                break
        if time.monotonic() - self._swept_at >= self._sweep_every:
            self._swept_at = time.monotonic()
            self._find_lost()
            self._trim()
        return moved

    def _may_judge_leases(self) -> bool:
        """Not before a third of a lease after the store came (back) within reach: its workers beat first."""
        wait = self._operations.rules.lease / 3
        if self._answered_at is None or self._answered_at.ago() > wait:
            self._operations.store.now()
            self._leases_from = time.monotonic() + wait
        self._answered_at = Moment.now()
        return time.monotonic() >= self._leases_from

    def _find_lost(self) -> None:
        """Messages that should have arrived by now, queue by queue; the frontier says by when."""
        if not self._operations.driver.carries:
            return
        stats = self._operations.store.stats()
        for queue, counts in stats.queues.items():
            for priority in [p for p, jobs in counts.queued_by_priority.items() if jobs]:
                found = BATCH
                while found == BATCH and not self._stop.is_set():
                    depth = self._operations.driver.depth(queue)
                    empty = depth is not None and depth.ready == 0
                    frontier = stats.now if empty else self._received.get((queue, priority))
                    if frontier is None:
                        break
                    found = self._operations.find_lost(queue, priority, frontier, BATCH)
                    if found:
                        logger.warning("sent %d jobs of queue %s again: their messages did not arrive", found, queue)

    def _trim(self) -> None:
        """Where succeeded jobs are kept by count: drop the oldest."""
        if self._keep is None:
            return
        while not self._stop.is_set():
            excess = self._operations.store.overflow(JobState.SUCCEEDED, self._keep.jobs, BATCH)
            self._operations.apply([(record, Change(delete=True)) for record in excess])
            if len(excess) < BATCH:
                return

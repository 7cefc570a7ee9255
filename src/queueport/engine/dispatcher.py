"""The dispatcher: a loop that moves due jobs, publishes lost messages again and deletes records after their retention.

It also makes the jobs of schedules, publishes again the messages that lost workers may have fetched, and folds the
history. For workers and the command line.

`queueport dispatcher URL` runs only a dispatcher. Several dispatchers may run at once, because only one of them at a
time has the claim on a record.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from queueport import hooks
from queueport.engine.operations import Operations
from queueport.engine.runtime import ClockReading
from queueport.engine.schedules import ScheduleDispatcher
from queueport.errors import BackendUnavailable
from queueport.spi.failures import FailureLog
from queueport.spi.record import Change, Record
from queueport.spi.store import Query
from queueport.spi.url import KeepCount
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.tasks import Task, registry

__all__ = ["Dispatcher"]

logger: logging.Logger = logging.getLogger("queueport")

BATCH = 100
"""The maximum number of records to claim, resend or delete in one step."""
MOST_NEEDED = 400
"""A search for jobs beyond the number to keep looks at this number of the oldest. If jobs that follow them still need
all of these, the search deletes nothing."""
LOST_EVERY = 1.0
"""The minimum number of seconds between two searches for lost workers."""
SWEEP = 5.0
"""A search for lost messages, and for succeeded jobs beyond the number to keep, is due this number of seconds after the
previous search; or half of `lost_after`, if that is shorter."""
SHARED = 2
"""Up to this number of dispatchers, each polls as often as the store recommends. If there are more dispatchers, each of
them polls less often than that, so that a hundred idle workers do not load the server."""
SLOWEST = 2.0
"""The maximum number of seconds that a dispatcher waits between two polls, unless the store recommends more."""
FASTEST = 0.01
"""The minimum number of seconds between two steps that let jobs of one limit on."""
FOLD_EVERY = 60.0
"""The minimum number of seconds between two calls of `JobStore.fold_history`. The first call is SWEEP seconds after the
start, so that workers that each run for less than a minute also fold the history."""
COUNT_EVERY = 30.0
"""The minimum number of seconds between two counts of the live workers."""


class Dispatcher:
    """Claims due records and changes each as the lifecycle decides, until it is stopped.

    The dispatcher calls `refresh` at the start of each round, to send the overdue heartbeats of this process.
    `received` maps a queue and a priority to the latest `sent_at` of the messages that this process has received.
    `serves` is the number of worker processes in the store's list for each dispatcher: more than 1 if one process
    dispatches for others that do not. The dispatcher writes the schedules that `tasks` declare.
    """

    def __init__(
        self,
        operations: Operations,
        *,
        refresh: Callable[[], object] = lambda: None,
        received: Mapping[tuple[str, int], float] = MappingProxyType({}),
        serves: int = 1,
        tasks: Iterable[Task[..., Any, Any]] = (),
    ) -> None:
        self._operations = operations
        self._schedules = ScheduleDispatcher(operations, tasks)
        self._runtime = operations.runtime
        self._refresh = refresh
        self._received = received
        self._serves = serves
        self._failures = FailureLog(logger, self._runtime.monotonic)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._answered_at: ClockReading | None = None
        self._ignore_leases_until = 0.0
        self._sweep_every = min(SWEEP, operations.rules.lost_after / 2)
        self._swept_at = self._counted_at = self._searched_at = self._runtime.monotonic()
        self._folded_at = self._swept_at - max(0.0, FOLD_EVERY - SWEEP)
        self._poll = operations.store.poll
        self._starts: dict[str, float] = {}
        """When to let the next jobs of a limit on, by the monotonic clock. Has the limits with a rate of which this
        dispatcher, and not another one, has let on the latest jobs."""

    def start(self) -> None:
        """Run the dispatcher in a new thread."""
        self._thread = threading.Thread(target=self.run, name="queueport-dispatcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present step. Waits for the thread to end, at most for the length of a claim. Idempotent."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(self._operations.rules.claim)

    def run(self) -> None:
        """Run until stopped. After an error, for example if the store does not answer, try again."""
        self._operations.pauses.follow()
        self._operations.limits_at_begin.follow()
        pause = self._poll
        while not self._stop.is_set():
            try:
                if self._wait(pause * random.uniform(0.8, 1.0)):
                    return
                self.tick()
                self._count_workers()
                pause = self._poll
                continue
            except BackendUnavailable as error:
                self._failures.warning("the dispatcher waits for the store or the backend, and tries again: %s", error)
            except Exception as error:  # noqa: BLE001  # an error must not end the dispatcher
                self._failures.error(error, "an unexpected error occurred in the dispatcher; it continues")
            pause = min(pause * 2, 2.0)

    def _wait(self, seconds: float) -> bool:
        """Wait for the next round. Meanwhile, let held jobs on when the rates of their limits have starts for them.

        Returns True if the dispatcher is stopped. Raises BackendUnavailable.
        """
        end = self._runtime.monotonic() + seconds
        while self._starts and (at := min(self._starts.values())) < end:
            if self._stop.wait(max(0.0, at - self._runtime.monotonic())):
                return True
            now = self._runtime.monotonic()
            names = [name for name, start in self._starts.items() if start <= now]
            for name in names:
                del self._starts[name]
            if names:
                self._plan(self._operations.let_on(names))
        return self._stop.wait(max(0.0, end - self._runtime.monotonic()))

    def _plan(self, waits: Mapping[str, float]) -> None:
        """Plan when to let the next jobs of these limits on."""
        now = self._runtime.monotonic()
        self._starts.update({name: now + max(wait, FASTEST) for name, wait in waits.items()})

    def tick(self) -> int:
        """Run one round: claim and change the records that are due, until none is left or `stop` is called.

        Ignores lapsed leases for some time after the start and after an outage of the store. Also searches for lost
        workers about every LOST_EVERY seconds, and about every SWEEP seconds for lost messages and for succeeded jobs
        beyond the number to keep, and folds the history about every FOLD_EVERY seconds. Returns the number of claimed
        records. Raises BackendUnavailable.
        """
        self._refresh()
        moved = 0
        while not self._stop.is_set():
            called_at = self._runtime.read()
            count = self._operations.dispatch(BATCH, leases=self._handles_leases())
            self._answered_at = called_at
            moved += count
            if count < BATCH:
                break
        self._operations.wake_resting()
        if self._operations.limits_at_begin.exist:
            self._plan(self._operations.let_on())
        self._schedules.tick()
        if self._runtime.monotonic() - self._searched_at >= LOST_EVERY:
            self._searched_at = self._runtime.monotonic()
            self._handle_lost_workers()
        if self._runtime.monotonic() - self._swept_at >= self._sweep_every:
            self._swept_at = self._runtime.monotonic()
            self._find_lost()
            self._delete_overflow()
            self._operations.let_on()  # jobs that are held for a limit which was removed from the code
        if self._runtime.monotonic() - self._folded_at >= FOLD_EVERY:
            self._folded_at = self._runtime.monotonic()
            self._operations.store.fold_history()
        return moved

    def _count_workers(self) -> None:
        """About every COUNT_EVERY seconds, set the time between two polls, which grows with the number of dispatchers.

        The number of dispatchers is estimated from the live workers.
        """
        if self._runtime.monotonic() - self._counted_at >= COUNT_EVERY:
            self._counted_at = self._runtime.monotonic()
            store = self._operations.store
            # Wait much less than lease / 3 seconds: `_handles_leases` takes such a pause for an outage of the store.
            slowest = min(SLOWEST, self._operations.rules.lease / 6)
            dispatchers = len(store.workers()) / self._serves
            self._poll = max(store.poll, min(slowest, store.poll * dispatchers / SHARED))

    def _handles_leases(self) -> bool:
        """True if this dispatcher may handle lapsed leases now.

        After the start of the dispatcher, and after an outage of the store, workers first get a third of a lease to
        send heartbeats. Raises BackendUnavailable.
        """
        wait = self._operations.rules.lease / 3
        if self._answered_at is None or self._runtime.since(self._answered_at) > wait:
            self._operations.store.now()
            self._ignore_leases_until = self._runtime.monotonic() + wait
        return self._runtime.monotonic() >= self._ignore_leases_until

    def _find_lost(self) -> None:
        """Publish the jobs of lost messages again, queue by queue; see `docs/protocol.md#lost-messages`."""
        if not self._operations.driver.carries:
            return
        stats = self._operations.store.stats()
        for queue, counts in stats.queues.items():
            for priority in counts.queued_by_priority:
                found = BATCH
                while found == BATCH and not self._stop.is_set():
                    depth = self._operations.driver.depth(queue)
                    empty = depth is not None and depth.ready == 0
                    frontier = stats.now if empty else self._received.get((queue, priority))
                    if frontier is None:
                        break
                    frontier = min(frontier, stats.now)  # a forged message may claim to be sent in the future
                    found = self._operations.find_lost(queue, priority, frontier, BATCH)
                    if found:
                        logger.warning(
                            "%d jobs of queue %s are published again: their messages did not arrive in time",
                            found,
                            queue,
                        )

    def _handle_lost_workers(self) -> None:
        """Publish again the messages that lost workers may have fetched, remove these workers from the store, and call
        the on_event hooks.

        Publishes nothing if the backend soon delivers such messages to other workers (`Driver.returns_fetched`). If
        there are no hooks either, does nothing. `docs/protocol.md#lost-workers` specifies this step.
        """
        driver, store = self._operations.driver, self._operations.store
        resends = driver.carries and not driver.returns_fetched
        if not (resends or hooks.event_hooks) or self._runtime.monotonic() < self._ignore_leases_until:
            return
        lost = store.workers(lost=True)
        if lost and resends:
            self._resend_fetched(lost)
        for worker in lost:
            if self._stop.is_set():  # leave the rest of the search to another dispatcher
                return
            store.announce(worker, 0.0)
            if hooks.event_hooks:
                self._operations.events.worker("worker_lost", worker.name)

    def _resend_fetched(self, lost: Sequence[WorkerStats]) -> None:
        """Publish again the messages that these lost workers may have fetched."""
        operations = self._operations
        driver = operations.driver
        stats = operations.store.stats()
        for queue in sorted({queue for worker in lost for queue in worker.queues} & stats.queues.keys()):
            seen = max(worker.heartbeat_at.timestamp() for worker in lost if queue in worker.queues)
            counts, depth = stats.queues[queue], driver.depth(queue)
            hidden = 0 if depth is None else max(0, counts.states.get(JobState.QUEUED, 0) - depth.ready)
            before = min(seen + operations.rules.lease, stats.now)
            for priority in counts.queued_by_priority:
                left, found = hidden + BATCH, BATCH
                while left > 0 and found == BATCH and not self._stop.is_set():
                    found, published = operations.resend_fetched(queue, priority, before, min(left, BATCH))
                    left -= found
                    if published:
                        logger.warning(
                            "%d jobs of queue %s are published again: a lost worker may have fetched their messages",
                            published,
                            queue,
                        )

    def _delete_overflow(self) -> None:
        """Delete the oldest succeeded jobs of each queue or task, or of all, beyond the number that is to be kept."""
        for query, keep in self._counted():
            full = True
            while full and not self._stop.is_set():
                limit = BATCH
                excess = self._operations.store.overflow(query, keep, limit)
                while not (free := self._unneeded(excess)):
                    if len(excess) < limit or limit >= MOST_NEEDED:
                        break
                    limit *= 2  # the oldest jobs belong to open batches: look at the jobs after them, too
                    excess = self._operations.store.overflow(query, keep, limit)
                self._operations.apply([(record, Change(delete=True)) for record in free])
                full = len(free) >= BATCH

    def _unneeded(self, records: Sequence[Record]) -> list[Record]:
        needed = self._operations.needed(records)
        return [record for record in records if record.id not in needed]

    def _counted(self) -> list[tuple[Query, int]]:
        """One query for each set of succeeded jobs that is kept by count, and the number of jobs to keep."""
        rules = self._operations.rules
        by, named, others = rules.keep_by, rules.keep_named, rules.keep_count
        kept = [(_succeeded(by, name), keep.jobs) for name, keep in named.items() if isinstance(keep, KeepCount)]
        if others is None:
            return kept
        if others.per is None:
            return [(Query(JobState.SUCCEEDED), others.jobs)]
        names = sorted(self._names(others.per) - named.keys())
        return [*kept, *((_succeeded(others.per, name), others.jobs) for name in names)]

    def _names(self, per: str) -> set[str]:
        """The names of all queues; or of the tasks that are registered in this process or that a live worker knows.

        Only these tasks have new succeeded jobs, because a job runs only on a worker that knows its task.
        """
        store = self._operations.store
        if per == "queue":
            return set(store.stats().queues)
        return {*registry.names(), *(task for worker in store.workers() for task in worker.tasks)}


def _succeeded(by: str, name: str) -> Query:
    """The query for the succeeded jobs of one queue or one task."""
    return Query(JobState.SUCCEEDED, queue=name) if by == "queue" else Query(JobState.SUCCEEDED, task=name)

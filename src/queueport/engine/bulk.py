"""`BulkChange`: change all jobs that match a filter, page by page. For the core, the command line and the dashboard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from queueport.engine.arguments import ALIVE, PAGE
from queueport.engine.operations import Changed, Decide, Operations
from queueport.job import AFTER_TAG, BATCH_TAG
from queueport.spi.store import Query
from queueport.status import WAITING, JobState, JobStatus

__all__ = ["BulkChange", "cancelling", "cancelling_batch", "discarding", "purging", "retrying", "retrying_batch"]


@dataclass(frozen=True, slots=True)
class BulkChange:
    """A change of all jobs that match one of these queries, in their order. `decide` decides about each job."""

    operations: Operations
    queries: Sequence[Query]
    decide: Decide
    begin: Callable[[], object] | None = None
    """What to do before the first job is changed."""

    def run(self) -> int:
        """Change the jobs. Returns the number of changed jobs. Raises BackendUnavailable."""
        done = Changed()
        for done in self.pages():  # noqa: B007  # only the last numbers count
            pass
        return done.changed

    def pages(self, rate: float | None = None, stop: threading.Event | None = None) -> Iterator[Changed]:
        """Change the jobs page by page, and yield the numbers so far after each page. Raises BackendUnavailable.

        `rate` is the maximum number of jobs to change in a second, on average; None: no limit. Ends after the present
        page when `stop` is set.
        """
        runtime, stop = self.operations.runtime, stop or threading.Event()
        if self.begin is not None:
            self.begin()
        done, due = Changed(), runtime.monotonic()
        size = PAGE if rate is None else max(1, min(PAGE, int(rate)))
        for query in self.queries:
            for page in self.operations.change_pages(query, self.decide, size):
                done = Changed(done.changed + page.changed, done.skipped + page.skipped)
                yield done
                if rate is not None:  # a page that took longer does not make the later ones faster
                    due = max(due + page.changed / rate, runtime.monotonic())
                    runtime.wait(stop, due - runtime.monotonic())
                if stop.is_set():
                    return

    def count(self) -> int:
        """The number of jobs that match now."""
        return sum(map(self.operations.store.count, self.queries))

    def first(self, limit: int) -> Sequence[JobStatus]:
        """At most `limit` of the jobs that match now."""
        found = [job for query in self.queries for job in self.operations.find(replace(query, limit=limit))]
        return found[:limit]


def retrying(operations: Operations, query: Query) -> BulkChange:
    """Retry the jobs that match the query, as `JobQueue.retry` does. Skips jobs that wait for others, and others that
    `Lifecycle.retry_found` names.
    """
    return BulkChange(operations, [query], operations.lifecycle.retry_found)


def discarding(operations: Operations, query: Query) -> BulkChange:
    """Discard the dead jobs that match the query."""
    return BulkChange(operations, [query], operations.lifecycle.discard)


def cancelling(
    operations: Operations, query: Query, states: Sequence[JobState] = ALIVE, *, interrupt: bool = True
) -> BulkChange:
    """Cancel the jobs in these states that match the query, as `JobQueue.cancel` does."""
    queries = [replace(query, state=state) for state in states]
    return BulkChange(operations, queries, lambda record: operations.lifecycle.cancel(record, interrupts=interrupt))


def purging(operations: Operations, queue: str) -> BulkChange:
    """Cancel the waiting jobs of a queue. First delete their messages, if the driver can do that."""
    queries = [Query(state=state, queue=queue) for state in ALIVE if state in WAITING]
    return BulkChange(operations, queries, operations.lifecycle.purge, lambda: operations.driver.purge(queue))


def retrying_batch(operations: Operations, batch: str) -> BulkChange:
    """Retry the dead jobs of a batch."""
    return retrying(operations, Query(state=JobState.DEAD, tag=f"{BATCH_TAG}{batch}"))


def cancelling_batch(operations: Operations, batch: str, *, interrupt: bool) -> BulkChange:
    """Cancel the jobs of a batch that have not ended. First cancel the jobs that follow it and wait."""
    following = BulkChange(operations, [Query(tag=f"{AFTER_TAG}{batch}")], operations.lifecycle.cancel_waiting)
    jobs = cancelling(operations, Query(tag=f"{BATCH_TAG}{batch}"), interrupt=interrupt)
    return replace(jobs, begin=following.run)

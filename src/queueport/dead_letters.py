"""`queue.dead_letters`: the jobs that were given up, to be looked at, run again or thrown away. For operators."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from queueport import lifecycle
from queueport.accepting import Accepting
from queueport.enqueueing import bare_record
from queueport.errors import JobNotFound
from queueport.job import Job
from queueport.lifecycle import Refusal
from queueport.record import Change, Record
from queueport.status import JobError, JobState, JobStatus
from queueport.store import Query

if TYPE_CHECKING:
    from queueport.queue import JobHandle, JobQueue

__all__ = ["DeadLetters"]

BATCH = 500
"""Jobs moved in one step."""


class DeadLetters:
    """The dead jobs of a queue system. Filters: `queue`, `task` (name) and `error` (class name, dotted or bare)."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def list(
        self,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[JobStatus]:
        """Dead jobs, newest first; `after` is the id of the last one already seen."""
        operations = self._queue.operations
        query = self._query(queue, task, error, limit=limit, after=after)
        return [operations.status(record) for record in operations.store.find(query)]

    def get(self, job_id: str) -> JobStatus:
        """One dead job. Raises JobNotFound where there is none of this id."""
        return self._queue.operations.status(self._dead(job_id))

    def count(self, queue: str | None = None, task: str | None = None, error: str | None = None) -> int:
        """How many there are."""
        return self._queue.operations.store.count(self._query(queue, task, error))

    def retry(self, job_id: str) -> JobHandle[Any]:
        """Run one again, with fresh budgets. Raises JobNotFound, DuplicateJob where another job holds its key."""
        self._dead(job_id)
        return self._queue.retry(job_id)

    def retry_all(self, queue: str | None = None, task: str | None = None, error: str | None = None) -> int:
        """Run all that match again; how many. One whose key another job holds stays dead."""
        rules = self._queue.operations.rules
        return self._each(self._query(queue, task, error), lambda record: lifecycle.retry(rules, record))

    def discard(self, job_id: str) -> None:
        """Out of the dead letters for good; the job ends cancelled, reason "discarded". Raises JobNotFound."""
        operations = self._queue.operations
        self._dead(job_id)
        settled = operations.settle(job_id, lambda record: lifecycle.discard(operations.rules, record))
        if settled.change is None:
            raise self._missing(job_id)

    def purge(self, queue: str | None = None, older_than: float | timedelta | None = None) -> int:
        """Discard all of that queue, or all, that died more than `older_than` seconds ago; how many."""
        operations = self._queue.operations
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        before = None if seconds is None else operations.store.now() - seconds
        query = Query(state=JobState.DEAD, queue=queue, finished_before=before, limit=BATCH)
        return self._each(query, lambda record: lifecycle.discard(operations.rules, record))

    def add(self, job: Job[Any], error: str) -> JobHandle[Any]:
        """Put a job straight into the dead letters, with a reason for those who find it there."""
        operations = self._queue.operations
        record = bare_record(job)
        made = JobError("queueport.DeadLetters", error, "", datetime.fromtimestamp(time.time(), UTC), 0)
        change = lifecycle.new_dead(operations.rules, made)
        Accepting(operations).enqueue([(record, change)])
        operations.follow([(record, change)])
        return self._queue.handle(job.id, job.task_ref) if job.task_ref is not None else self._queue.handle(job.id)

    def _each(self, query: Query, decide: Callable[[Record], Change | Refusal]) -> int:
        """Change all that match, batch by batch, newest first."""
        operations = self._queue.operations
        count, after = 0, None
        while True:
            page = Query(query.state, query.queue, query.task, query.error, query.finished_before, after, BATCH)
            records = operations.store.find(page)
            changes = [(record, decide(record)) for record in records]
            count += operations.apply([(record, change) for record, change in changes if isinstance(change, Change)])
            if len(records) < BATCH:
                return count
            after = records[-1].id

    def _query(self, queue: str | None, task: str | None, error: str | None, **more: Any) -> Query:
        return Query(state=JobState.DEAD, queue=queue, task=task, error=error, **more)

    def _dead(self, job_id: str) -> Record:
        with suppress(JobNotFound):
            record = self._queue.read(job_id)
            if record.state is JobState.DEAD:
                return record
        raise self._missing(job_id)

    def _missing(self, job_id: str) -> JobNotFound:
        return JobNotFound(f"there is no dead job {job_id!r}")

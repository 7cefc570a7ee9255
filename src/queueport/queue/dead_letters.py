"""`queue.dead_letters`: list, retry and discard dead jobs. For operators."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Unpack

from queueport.engine.arguments import filters
from queueport.engine.bulk import discarding, retrying
from queueport.engine.enqueue import Enqueue
from queueport.engine.operations import Operations
from queueport.errors import MESSAGE_LIMIT, InvalidJob, JobNotFound, encodable
from queueport.job import HandleQueue, Job, JobFilters, JobHandle
from queueport.spi.record import Record
from queueport.spi.store import Query
from queueport.status import JobError, JobState, JobStatus
from queueport.tasks import Task

__all__ = ["DeadLetters"]


class DeadLetterQueue(HandleQueue, Protocol):
    """The methods of `JobQueue` that `DeadLetters` calls."""

    @property
    def operations(self) -> Operations: ...


class DeadLetters:
    """The dead jobs of a backend's queues. `JobQueue.dead_letters` returns it.

        for status in queue.dead_letters.list(queue="emails"):
            print(status.id, status.error)
        queue.dead_letters.retry_all(error="TimeoutError")

    The filters are `queue`, `task` (a task's name), `error`, and those of `JobFilters`; a job must match all filters
    that are given. `error` is the name of the class of the latest error or of an ancestor of this class, with or
    without the module: "OSError" also finds a ConnectionError. If a job died under an older release that did not record
    `JobError.bases`, only the class itself matches. Every method may raise BackendUnavailable and QueueClosed, and a
    method that reads a damaged record `queueport.spi.record.CorruptRecord`. A wrong filter, `limit` or `older_than`
    raises ConfigurationError.
    """

    def __init__(self, queue: DeadLetterQueue) -> None:
        self._queue = queue

    def list(
        self,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        limit: int = 100,
        after: str | None = None,
        *,
        older_than: float | timedelta | None = None,
        **more: Unpack[JobFilters],
    ) -> list[JobStatus]:
        """Find at most `limit` dead jobs, the latest enqueued first. `older_than` is that of `purge`.

        `after` is the id of the last job of the previous page. Raises JobNotFound if that job has been deleted.
        """
        query = self._query(queue, task, error, more, older_than=older_than, limit=limit, after=after)
        return self._queue.operations.find(query)

    def get(self, job_id: str) -> JobStatus:
        """One dead job. Raises JobNotFound if no dead job has this id."""
        return self._queue.operations.status(self._dead(job_id))

    def count(
        self,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        *,
        older_than: float | timedelta | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """The number of dead jobs that match the filters. `older_than` is that of `purge`."""
        query = self._query(queue, task, error, more, older_than=older_than)
        return self._queue.operations.store.count(query)

    def retry(self, job_id: str) -> JobHandle[Any]:
        """Run one dead job again, with fresh budgets and no expiry.

        Raises JobNotFound if no dead job has this id, DuplicateJob if another job holds the key of this job, and
        InvalidState if somebody else retries the job at the same time.
        """
        self._dead(job_id)
        return self._queue.retry(job_id)

    def retry_all(
        self,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """Run every matching dead job again, as `retry` does; returns the number of jobs that were queued.

        A job stays dead if another job holds its key, or if its record cannot be written.
        """
        return retrying(self._queue.operations, self._query(queue, task, error, more)).run()

    def discard(self, job_id: str) -> None:
        """Remove one job from the dead letters: it becomes cancelled, with the reason "discarded".

        If the job has a key and `unique_for`, the key stays taken for this time after the death. Raises JobNotFound if
        no dead job has this id.
        """
        operations = self._queue.operations
        if operations.settle(job_id, operations.lifecycle.discard, self._dead(job_id)).change is None:
            raise self._missing(job_id)

    def purge(
        self,
        queue: str | None = None,
        older_than: float | timedelta | None = None,
        *,
        task: str | None = None,
        error: str | None = None,
        **more: Unpack[JobFilters],
    ) -> int:
        """Discard every dead job that matches the filters; returns the number of discarded jobs.

        With `older_than`, in seconds or as a timedelta, discards only jobs that died longer ago than this time.
        """
        query = self._query(queue, task, error, more, older_than=older_than)
        return discarding(self._queue.operations, query).run()

    def add(self, job: Job[Any], error: str) -> JobHandle[Any]:
        """Insert a job directly as a dead letter, with `error` as the message of its error.

        A message of more than 2,000 characters is cut. The hooks of `before_enqueue` and `on_dead` are not called. The
        job's key is not checked, because a dead job holds no key. Raises DuplicateJob if a job with the same id exists,
        PayloadTooLarge if the store refuses the record for its size, InvalidJob if `job` is not a job, and TypeError if
        `error` is not text.
        """
        given: object = job
        if not isinstance(given, Job):
            what = "a task" if isinstance(given, Task) else type(given).__name__
            raise InvalidJob(f"dead letters are jobs, not {what}: pass for example task.job(1, 2)")
        if not isinstance(error, str):
            raise TypeError(f"error must be text, not {type(error).__name__}")
        operations = self._queue.operations
        now = datetime.fromtimestamp(operations.runtime.wall(), UTC)
        text = encodable(error)[:MESSAGE_LIMIT]
        Enqueue(operations).add_dead(job, JobError("queueport.DeadLetters", text, "", now, 0))
        return JobHandle(job.id, self._queue, job.task_ref, created=True)

    def _query(self, queue: str | None, task: str | None, error: str | None, more: JobFilters, **others: Any) -> Query:
        now = self._queue.operations.store.now
        return filters(state=JobState.DEAD, queue=queue, task=task, error=error, more=more, now=now, **others)

    def _dead(self, job_id: str) -> Record:
        with suppress(JobNotFound):
            record = self._queue.operations.read(job_id)
            if record.state is JobState.DEAD:
                return record
        raise self._missing(job_id)

    def _missing(self, job_id: str) -> JobNotFound:
        return JobNotFound(f"job {job_id!r} is not in the dead letters: it is not dead, or it does not exist")

"""The base class of RQ workers that pass RQ jobs to queueport. For the modules `threads` and `worker`.

queueport decides what happens to a job. RQ only records how an attempt ended, and retries nothing. RQ's registry of
failed jobs contains the dead-letter copies and the messages that were put aside.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any

from rq.exceptions import InvalidJobOperation
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.utils import now, utcformat
from rq.worker.base import BaseWorker

from queueport.spi.runner import DeliveryResult, MessageAction
from queueport_rq.job import QueueportJob
from queueport_rq.names import is_copy

__all__ = ["DeliveringWorker", "Taken"]

Taken = tuple[Job, Queue] | None

HELD = re.compile(rb"[A-Za-z0-9_-]+(:.*)?")
"""Matches a valid entry of RQ's intermediate queue: a job id of RQ, or a job id, a colon and the id of an execution."""
INTERVALS = 2
"""Redis deletes a started message, except a dead-letter copy, after this number of RQ's monitoring intervals without an
RQ heartbeat. Otherwise RQ would mark the message as failed after one more interval, when queueport may already have
published the job again."""


class DeliveringWorker(BaseWorker):
    """An RQ worker that passes each message to queueport. Subclasses decide where the job runs."""

    job_class = QueueportJob

    @abstractmethod
    def deliver(self, body: bytes) -> DeliveryResult:
        """Begin and run the job of this message."""

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Taken:
        while True:
            try:
                taken = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
                if taken is not None:
                    job, queue = taken
                    job.origin = queue.name  # RQ finds its registries by `origin`; the stored `origin` may be wrong
                return taken
            except ValueError as error:  # an entry of the queue is not a valid id: drop it, so that the worker goes on
                entry: Any = error.object if isinstance(error, UnicodeDecodeError) else getattr(error, "job_id", None)
                if entry is None:
                    raise
                self._drop(entry)

    def clean_registries(self) -> None:
        """Let RQ clean up after crashed workers.

        If one of RQ's intermediate queues has an entry that is not a valid job id, drop the entry, because it would end
        this worker.
        """
        try:
            super().clean_registries()  # type: ignore[no-untyped-call]  # RQ has no types here
        except ValueError:
            for queue in self.queues:
                held: list[Any] = self.connection.lrange(queue.intermediate_queue_key, 0, -1)
                for entry in [entry for entry in held if not HELD.fullmatch(entry)]:
                    self._drop(entry)
                queue.release_maintenance_lock()  # type: ignore[no-untyped-call]  # clean up again soon

    def _drop(self, entry: Any) -> None:
        self.log.warning("a queue contained an entry that is not a valid RQ job id, so it was dropped: %.200r", entry)
        for queue in self.queues:
            self.connection.lrem(queue.intermediate_queue_key, 1, entry)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run the job of a message, or put the RQ job aside. Returns whether RQ has recorded a success.

        RQ records a success also if no attempt was made, for example because another worker has begun the job.
        """
        if not isinstance(job, QueueportJob) or job.body is None:
            queue.intermediate_queue.remove(job.id)
            self._put_aside(job, queue, execution, "queueport did not send it: enqueue it in another queue")
            return False
        self.prepare_job_execution(job, remove_from_intermediate_queue=len(self.queues) == 1)
        received: list[DeliveryResult] = []
        job.receive = lambda body: received.append(self.deliver(body))
        job.perform()
        (delivered,) = received
        job.ended_at = now()
        if delivered.action is MessageAction.PUT_ASIDE:
            self._put_aside(
                job, queue, execution, "it cannot be read, or its job cannot be found or begun: read the worker's log"
            )
        elif is_copy(job.id):
            self._redriven(job, execution)
        elif delivered.error is not None:
            self.handle_job_failure(job, queue, exc_string=delivered.error.traceback, execution=execution)
        else:
            self.handle_job_success(job, queue, queue.started_job_registry, execution)
            return True
        return False

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: Any = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """Record for RQ's tools that an attempt failed or its work horse died. This does not change queueport's job."""
        if is_copy(job.id):  # RQ must keep a dead-letter copy in the registry of failed jobs
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)
            return
        with self.connection.pipeline() as pipeline:
            self.increment_failed_job_count(pipeline)
            keep = self._record_end(job, execution, JobStatus.FAILED, pipeline)
            Result.create_failure(job, keep, exc_string, worker_name=self.name, pipeline=pipeline)
            self.execute(pipeline)

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: Any, execution: Execution | None
    ) -> None:
        """Record for RQ's tools that an attempt did not fail, or that queueport no longer needs the message.

        RQ's own method also writes all fields again, and takes three more calls to look for RQ jobs that depend on this
        RQ job. No RQ job can depend on a message, because the RQ id of a message is random.
        """
        with self.connection.pipeline() as pipeline:
            self.increment_successful_job_count(pipeline)
            keep = self._record_end(job, execution, JobStatus.FINISHED, pipeline)
            Result.create(job, Result.Type.SUCCESSFUL, keep, worker_name=self.name, pipeline=pipeline)
            job.finished_job_registry.add(job, keep, pipeline)
            self.execute(pipeline)

    def execute(self, pipeline: Any) -> None:
        """Run the commands of a pipeline in one transaction. Raises RedisError."""
        pipeline.execute()

    def _record_end(self, job: Job, execution: Execution | None, status: JobStatus, pipeline: Any) -> int:
        """Add the commands to `pipeline` that record the end of an attempt, whether it succeeded or failed.

        Returns the seconds for which RQ keeps the RQ job.
        """
        keep = job.get_result_ttl(self.default_result_ttl) or self.default_result_ttl
        job.set_status(status, pipeline=pipeline)
        if job.started_at is not None and job.ended_at is not None:
            pipeline.hset(job.key, "ended_at", utcformat(job.ended_at))
            self.increment_total_working_time(job.ended_at - job.started_at, pipeline)
        self.cleanup_execution(job, pipeline=pipeline, execution=execution)
        job.cleanup(keep, pipeline=pipeline, remove_from_queue=False)
        return keep

    def _put_aside(self, job: Job, queue: Queue, execution: Execution, reason: str) -> None:
        """Move the RQ job to the registry of failed jobs, where an operator can inspect the RQ job."""
        self.log.warning("put aside the RQ job %s: %s", job.id, reason)
        super().handle_job_failure(job, queue, exc_string=f"Not run: {reason}\n", execution=execution)

    def _redriven(self, job: Job, execution: Execution) -> None:
        """Delete a dead-letter copy that was redriven, unless queueport has removed it or replaced it by a new copy."""
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline=pipeline, execution=execution)
            pipeline.execute()
        try:
            stale = job.get_status() is JobStatus.STARTED
        except InvalidJobOperation:
            return
        if stale:
            job.delete(remove_from_queue=False)

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        super().prepare_job_execution(job, remove_from_intermediate_queue)
        self.expire(job, self.connection)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        super().maintain_heartbeats(job, execution)
        self.expire(job, self.connection)

    def expire(self, job: Job, connection: Any) -> None:
        """Make Redis delete a started message if no RQ heartbeat comes for `INTERVALS` monitoring intervals.

        A dead-letter copy does not expire.
        """
        if is_copy(job.id):
            connection.persist(job.key)
        else:
            connection.expire(job.key, INTERVALS * self.job_monitoring_interval)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return (INTERVALS + 1) * int(self.job_monitoring_interval)

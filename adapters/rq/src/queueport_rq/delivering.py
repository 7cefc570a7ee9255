"""What queueport's workers do with one RQ job, alike in threads and in work horses. For `threads` and `worker`.

The core decides about the job, and RQ is only told how the attempt ended: it retries nothing, and only copies that the
core has buried lie in its registry of failed jobs, beside what is none of queueport's.
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
from rq.timeouts import BaseDeathPenalty
from rq.utils import now
from rq.worker.base import BaseWorker

from queueport.executor import Delivered
from queueport.runner import Verdict
from queueport_rq import entry
from queueport_rq.job import QueueportJob
from queueport_rq.names import is_copy

__all__ = ["DeliveringWorker", "NoDeathPenalty"]

HELD = re.compile(rb"[A-Za-z0-9_-]+(:.*)?")
"""An id of RQ's, or one and that of its execution."""
BEATS = 2
"""A started message is dropped by the Redis after so many monitoring intervals without a heartbeat, before RQ would
call it abandoned and fail it: the core has sent the job again by then."""


class NoDeathPenalty(BaseDeathPenalty):
    """RQ's time limits are off: queueport ends what runs too long, without signals."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


class DeliveringWorker(BaseWorker):
    """An RQ worker that hands each message to queueport."""

    job_class = QueueportJob

    @abstractmethod
    def deliver(self, body: bytes) -> Delivered:
        """Run the message's job."""

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        while True:
            try:
                taken = super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
                if taken is not None:
                    job, queue = taken
                    job.origin = queue.name  # whatever its hash says: it names the registries
                return taken
            except ValueError as error:  # RQ would end the worker
                rubbish: Any = error.object if isinstance(error, UnicodeDecodeError) else getattr(error, "job_id", None)
                if rubbish is None:
                    raise
                self._drop(rubbish)

    def clean_registries(self) -> None:
        """RQ's maintenance, which looks at what workers have in hand, and would end this one over what is no id."""
        try:
            super().clean_registries()  # type: ignore[no-untyped-call]  # RQ has no types here
        except ValueError:
            for queue in self.queues:
                held: list[Any] = self.connection.lrange(queue.intermediate_queue_key, 0, -1)
                for rubbish in [entry for entry in held if not HELD.fullmatch(entry)]:
                    self._drop(rubbish)
                queue.release_maintenance_lock()  # type: ignore[no-untyped-call]  # and it is done again

    def _drop(self, rubbish: Any) -> None:
        self.log.warning("dropped from a queue what is no id of a job: %.200r", rubbish)
        for queue in self.queues:
            self.connection.lrem(queue.intermediate_queue_key, 1, rubbish)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Run one message; whether its attempt succeeded."""
        if not isinstance(job, QueueportJob) or job.body is None:
            queue.intermediate_queue.remove(job.id)
            self._put_aside(job, queue, execution, "it is none of queueport's: put it into a queue of another worker")
            return False
        self.prepare_job_execution(job, remove_from_intermediate_queue=len(self.queues) == 1)
        delivered = self._perform(job)
        job.ended_at = now()
        if delivered.verdict is Verdict.PUT_ASIDE:
            self._put_aside(job, queue, execution, "queueport has no such job, or cannot read it: see the worker's log")
        elif is_copy(job.id):
            self._redriven(job, execution)
        elif delivered.error is not None:
            self.handle_job_failure(job, queue, exc_string=delivered.error.traceback, execution=execution)
        else:
            self.handle_job_success(job, queue, queue.started_job_registry, execution)
            return True
        return False

    def _perform(self, job: Job) -> Delivered:
        received: list[Delivered] = []
        before = entry.receiver.set(lambda body: received.append(self.deliver(body)))
        try:
            job.perform()
        finally:
            entry.receiver.reset(before)
        return received[0]

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: Any = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """An attempt failed, or its work horse died: RQ shows that for a while, and leaves the rest to the core."""
        if is_copy(job.id):  # back to where it was
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)
            return
        keep = job.get_result_ttl(self.default_result_ttl)
        with self.connection.pipeline() as pipeline:
            job.set_status(JobStatus.FAILED, pipeline=pipeline)
            self.cleanup_execution(job, pipeline=pipeline, execution=execution)
            self.increment_failed_job_count(pipeline)
            if job.started_at is not None and job.ended_at is not None:
                self.increment_total_working_time(job.ended_at - job.started_at, pipeline)
            Result.create_failure(job, keep, exc_string, worker_name=self.name, pipeline=pipeline)
            job.cleanup(keep, pipeline=pipeline, remove_from_queue=False)
            pipeline.execute()

    def _put_aside(self, job: Job, queue: Queue, execution: Execution, reason: str) -> None:
        """Into the registry of failed jobs, where an operator sees it."""
        self.log.warning("put aside RQ's job %s: %s", job.id, reason)
        super().handle_job_failure(job, queue, exc_string=f"Not run: {reason}\n", execution=execution)

    def _redriven(self, job: Job, execution: Execution) -> None:
        """A dead letter came back. It is gone by now, or buried again; if neither, nobody needs it any more."""
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
        self._expire(job)

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        super().maintain_heartbeats(job, execution)
        self._expire(job)

    def _expire(self, job: Job) -> None:
        if not is_copy(job.id):
            self.connection.expire(job.key, BEATS * self.job_monitoring_interval)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return (BEATS + 1) * int(self.job_monitoring_interval)

"""RQ's side of a namespace: queues, jobs, the registries of failed ones. For the driver, and as `queue.native`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import redis
from rq import Queue
from rq.job import JobStatus
from rq.results import Result

from queueport.driver import Depth
from queueport.message import Message
from queueport_rq.entry import ENTRY
from queueport_rq.job import QueueportJob
from queueport_rq.names import Names

__all__ = ["SERIALIZER", "Broker"]

SERIALIZER = "json"
"""RQ's default is pickle, which runs code of whoever can write to the Redis."""
NO_TIMEOUT = -1
"""RQ's word for none: queueport ends what runs too long. https://python-rq.org/docs/jobs/#job-timeout"""
FAILURE_TTL = 31_536_000
"""Seconds that RQ keeps a failed job by default. queueport takes its copies out itself, as `keep_dead` says."""
WAITING_TTL = 7 * 86_400
"""Seconds after which a message that was never taken is dropped; the dispatcher sends the job again."""


class Broker:
    """Calls of RQ, one pipeline each. Thread-safe, for the client is; they raise the client's own exceptions."""

    def __init__(self, connection: redis.Redis, names: Names, keep: int) -> None:
        self.connection = connection
        self.names = names
        self.keep = keep
        self._queues: dict[str, Queue] = {}

    def queue(self, name: str) -> Queue:
        """RQ's queue for a queue of queueport's."""
        found = self._queues.get(name)
        if found is None:
            found = Queue(
                self.names.queue(name), connection=self.connection, job_class=QueueportJob, serializer=SERIALIZER
            )
            self._queues[name] = found
        return found

    def send(self, messages: Sequence[Message]) -> None:
        """Enqueue these, all or none."""
        by_queue: dict[str, list[Message]] = {}
        for message in messages:
            by_queue.setdefault(message.queue, []).append(message)
        with self.connection.pipeline() as pipeline:
            for name, those in by_queue.items():
                self.queue(name).enqueue_many([self._data(message) for message in those], pipeline=pipeline)
            pipeline.execute()

    def commands(self, message: Message) -> list[list[bytes]]:
        """What enqueueing this one would have the Redis do; nothing is sent."""
        encode: Any = self.connection.get_encoder().encode
        with self.connection.pipeline() as pipeline:
            self.queue(message.queue).enqueue_many([self._data(message)], pipeline=pipeline)
            return [[encode(word) for word in words] for words, _ in pipeline.command_stack]

    def _data(self, message: Message) -> Any:
        return Queue.prepare_data(
            ENTRY,
            args=[message.body.decode()],
            timeout=NO_TIMEOUT,
            result_ttl=self.keep,
            failure_ttl=FAILURE_TTL,
            ttl=WAITING_TTL,
            description=f"{message.task} {message.id}",
            job_id=self.names.message(message.id),
        )

    def bury(self, messages: Sequence[Message]) -> None:
        """Put copies into the registries of failed jobs, as jobs that failed."""
        with self.connection.pipeline() as pipeline:
            for message in messages:
                queue = self.queue(message.queue)
                job = QueueportJob.create(
                    ENTRY,
                    args=[message.body.decode()],
                    connection=self.connection,
                    id=self.names.copy(message.id, message.life),
                    origin=queue.name,
                    status=JobStatus.FAILED,
                    description=f"{message.task} {message.id}",
                    timeout=NO_TIMEOUT,
                    result_ttl=self.keep,
                    failure_ttl=FAILURE_TTL,
                    serializer=SERIALIZER,
                )
                text = _error(message)
                queue.failed_job_registry.add(job, ttl=FAILURE_TTL, exc_string=text, pipeline=pipeline)
                Result.create_failure(job, FAILURE_TTL, exc_string=text, pipeline=pipeline)
            pipeline.execute()

    def unbury(self, messages: Sequence[Message]) -> None:
        """Take those copies out again."""
        with self.connection.pipeline() as pipeline:
            for message in messages:
                copy = self.names.copy(message.id, message.life)
                self.queue(message.queue).failed_job_registry.remove(copy, pipeline=pipeline)
                pipeline.delete(QueueportJob.key_for(copy), _results(copy))
            pipeline.execute()

    def depth(self, name: str) -> Depth:
        """What waits, and what RQ believes to run."""
        queue = self.queue(name)
        with self.connection.pipeline() as pipeline:
            pipeline.llen(queue.key)
            pipeline.zcard(queue.started_job_registry.key)  # RQ's own count would fail abandoned jobs on the way
            ready, running = pipeline.execute()
        return Depth(ready, running)

    def empty(self, name: str) -> None:
        """Drop what waits."""
        self.queue(name).empty()  # type: ignore[no-untyped-call]  # RQ has no types here

    def __repr__(self) -> str:
        return f"<RQ in namespace {self.names.namespace!r}>"


def _results(rq_id: str) -> str:
    """The key of what RQ keeps about a job's ends."""
    return str(Result.get_key(rq_id))  # type: ignore[no-untyped-call]  # RQ has no types here


def _error(message: Message) -> str:
    """The traceback in a copy, or what there is of the error."""
    error = json.loads(message.body).get("error")
    return "" if error is None else error["traceback"] or f"{error['type']}: {error['message']}"

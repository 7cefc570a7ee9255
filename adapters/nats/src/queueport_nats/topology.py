"""The streams of a namespace: their names, subjects and configurations. For the session and the transport.

    stream                  subjects                       holds
    NAMESPACE-jobs-QUEUE    NAMESPACE.jobs.QUEUE           jobs that wait to run; a work queue with one consumer
    NAMESPACE-dead          NAMESPACE.dead.QUEUE.ID.LIFE   copies of dead jobs
                            NAMESPACE.aside.QUEUE          messages that were put aside

The option `prefix` is written before NAMESPACE. A dot in the name of a queue becomes `=`, because a dot separates the
parts of a subject and is not allowed in the name of a stream. A queue's own name contains no `=` and a namespace no
`-`, so no two of these names are the same if their prefix is the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from nats.errors import Error
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)

__all__ = ["ACK_WAIT", "CONSUMER", "Stream", "Topology", "WrongStream", "full"]

ACK_WAIT = 30.0
"""Seconds from the delivery of a message until JetStream delivers it again, if the worker does not acknowledge it, for
example because of a crash. A worker acknowledges a message as soon as the job has begun, so this time is enough for a
slow store."""
CONSUMER = ConsumerConfig(
    durable_name="workers",
    ack_policy=AckPolicy.EXPLICIT,
    ack_wait=ACK_WAIT,
    max_deliver=-1,
    max_ack_pending=-1,
)
"""The consumer from which all workers of a queue pull."""


class WrongStream(Error):
    """A stream lacks subjects that queueport needs, or another stream has them. The text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream, with the values for creating it. If `work` is True, it carries jobs and has the consumer CONSUMER."""

    name: str
    subjects: tuple[str, ...]
    replicas: int
    work: bool

    @property
    def retention(self) -> RetentionPolicy:
        """The retention policy: messages that carry jobs are deleted when they are acknowledged. Other messages
        are kept.
        """
        return RetentionPolicy.WORK_QUEUE if self.work else RetentionPolicy.LIMITS

    @property
    def config(self) -> StreamConfig:
        """The configuration of a new stream. If an operator limits the size, a full stream refuses new messages."""
        return StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            retention=self.retention,
            discard=DiscardPolicy.NEW,
            storage=StorageType.FILE,
            num_replicas=self.replicas,
        )

    def without_subjects(self, found: StreamConfig) -> str | None:
        """What an operator should do if the existing stream, `found`, lacks subjects; None if it lists them all."""
        if set(self.subjects) <= set(found.subjects or ()):
            return None
        return f"the stream {self.name} does not take {', '.join(self.subjects)}: add the missing subjects"

    def warnings(self, found: StreamConfig) -> Iterator[str]:
        """Warnings about the configuration that an existing stream has, one sentence each."""
        stream = f"the stream {self.name}"
        if (without := self.without_subjects(found)) is not None:
            yield without
        if found.retention != self.retention:
            yield f"{stream} has another retention than {self.retention.value!r}: delete it when it is empty"
        if found.storage != StorageType.FILE:
            yield f"{stream} loses its messages when its server stops: delete it when it is empty"
        if (found.num_replicas or 1) < self.replicas:
            yield f"{stream} has fewer replicas than {self.replicas}: edit it by `nats stream edit`"
        if found.max_age:
            yield f"{stream} deletes messages after {found.max_age:g} s: remove its maximum age by `nats stream edit`"
        if found.discard != DiscardPolicy.NEW and (found.max_msgs or -1, found.max_bytes or -1) != (-1, -1):
            yield f"{stream} deletes messages when it is full: set its discard policy to 'new' by `nats stream edit`"


@dataclass(frozen=True, slots=True)
class Topology:
    """The streams and subjects of one namespace. `root` is the option `prefix` followed by the namespace."""

    root: str
    replicas: int

    def jobs(self, queue: str) -> Stream:
        """The stream in which the jobs of a queue wait."""
        return Stream(f"{self.root}-jobs-{_token(queue)}", (self.jobs_subject(queue),), self.replicas, work=True)

    def dead(self) -> Stream:
        """The stream with the copies of dead jobs of all queues, and with the messages that were put aside."""
        subjects = (f"{self.root}.dead.>", f"{self.root}.aside.>")
        return Stream(f"{self.root}-dead", subjects, self.replicas, work=False)

    def known(self, config: StreamConfig) -> Stream | None:
        """The stream of this namespace that has the name in `config`, or None."""
        name = config.name or ""
        queue = name.removeprefix(f"{self.root}-jobs-")
        if name == self.dead().name:
            return self.dead()
        return None if queue == name else self.jobs(queue.replace("=", "."))

    def jobs_subject(self, queue: str) -> str:
        """The subject to which the messages of a queue are published."""
        return f"{self.root}.jobs.{_token(queue)}"

    def dead_subject(self, queue: str, job_id: str, life: int) -> str:
        """The subject to which the copy of a dead job is published. A job's id is always a valid part of a subject."""
        return f"{self.root}.dead.{_token(queue)}.{job_id}.{life}"

    def check_subject(self) -> str:
        """A new subject to which `check` publishes a test message, which it then deletes. No queue has this subject."""
        return f"{self.root}.aside.check.{secrets.token_hex(8)}"

    def aside_subject(self, queue: str) -> str:
        """The subject to which the messages of a queue that were put aside are published."""
        return f"{self.root}.aside.{_token(queue)}"


def full(info: StreamInfo) -> bool:
    """Whether a stream is full, so that it refuses messages until one is removed."""
    config, state = info.config, info.state
    limits = ((config.max_msgs, state.messages), (config.max_bytes, state.bytes))
    return config.discard == DiscardPolicy.NEW and any(0 < (limit or 0) <= used for limit, used in limits)


def _token(queue: str) -> str:
    return queue.replace(".", "=")

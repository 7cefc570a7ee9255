"""Makes the Redis commands that enqueue messages, as RQ would send them. For the driver.

RQ takes longer to make these commands than Redis takes to run them. So this module lets RQ make only one sample job for
each queue. Each message gets a copy of the sample's fields, with its own values in the fields `VARYING`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import redis
from rq import Queue
from rq.job import JobStatus
from rq.utils import now, utcformat

from queueport.spi.message import Message
from queueport_rq.job import ENTRY, SERIALIZER, QueueportJob
from queueport_rq.names import Names

__all__ = ["FAILURE_TTL", "WAITING_TTL", "Commands", "described"]

NO_TIMEOUT = -1
"""RQ's value for no timeout. RQ needs none, because queueport itself interrupts jobs that run too long:
https://python-rq.org/docs/jobs/#job-timeout"""
FAILURE_TTL = 31_536_000
"""Seconds for which RQ's registry of failed jobs keeps a message that was put aside or a dead-letter copy. This is RQ's
default for failed jobs. queueport itself removes dead-letter copies after `keep_dead`."""
WAITING_TTL = 7 * 86_400
"""Seconds after which Redis deletes a message that no worker has taken. A dispatcher later publishes the job again."""
VARYING = ("created_at", "enqueued_at", "data", "description")
"""The fields of an RQ job that differ between the messages of a queue."""
UNCOMPRESSED = 1_000
"""Maximum bytes of a job's data that is not compressed. RQ reads both forms, and compressing takes long."""


def described(message: Message) -> dict[str, Any]:
    """The arguments and the description of the RQ job for a message."""
    return {"args": [message.body.decode()], "description": f"{message.task} {message.id}"}


class Commands:
    """Makes the commands for the queues of one namespace. `common` are the options of every RQ job."""

    def __init__(self, connection: redis.Redis, names: Names, keep: int) -> None:
        self.common: dict[str, Any] = {"timeout": NO_TIMEOUT, "result_ttl": keep, "failure_ttl": FAILURE_TTL}
        self._connection = connection
        self._names = names
        self._fields: dict[str, list[bytes]] = {}

    def enqueue(self, queue: Queue, messages: Sequence[Message]) -> list[list[list[bytes]]]:
        """For each of these messages, which all belong to `queue`: the commands that enqueue it."""
        fields, key, at = self._fixed_fields(queue), queue.key.encode(), utcformat(now()).encode()
        register = [b"SADD", queue.redis_queues_keys.encode(), key]
        found = []
        for message in messages:
            rq_id = self._names.message(message.id)
            job = str(QueueportJob.key_for(rq_id)).encode()
            varying = [at, at, _data(message), f"{message.task} {message.id}".encode(errors="backslashreplace")]
            words = [word for pair in zip(_VARYING, varying, strict=True) for word in pair]
            found.append(
                [
                    register,
                    [b"HSET", job, *fields, *words],
                    [b"EXPIRE", job, b"%d" % WAITING_TTL],
                    [b"RPUSH", key, rq_id.encode()],
                ]
            )
        return found

    def _fixed_fields(self, queue: Queue) -> list[bytes]:
        """The names and the values of the fields that all RQ jobs of a queue share.

        Empty fields are left out, because RQ reads a missing field as an empty one.
        """
        found = self._fields.get(queue.name)
        if found is None:
            job = QueueportJob.create(
                ENTRY,
                args=[""],
                connection=self._connection,
                id="sample",
                origin=queue.name,
                status=JobStatus.QUEUED,
                serializer=SERIALIZER,
                ttl=WAITING_TTL,
                **self.common,
            )
            fixed = {name: value for name, value in job.to_dict().items() if name not in VARYING and value != ""}
            encode: Any = self._connection.get_encoder().encode
            found = self._fields[queue.name] = [encode(word) for pair in fixed.items() for word in pair]
        return found


_VARYING = [name.encode() for name in VARYING]


def _data(message: Message) -> bytes:
    data = json.dumps([ENTRY, None, [message.body.decode()], {}]).encode()
    return data if len(data) <= UNCOMPRESSED else zlib.compress(data)

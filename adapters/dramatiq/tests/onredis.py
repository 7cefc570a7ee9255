"""Reads and writes Dramatiq's queues in Redis, by the keys of Dramatiq's own script. For the tests of this adapter."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from typing import Any

import redis

__all__ = ["RedisQueues"]


class RedisQueues:
    """The queues of one namespace. The methods take the names that queueport uses, without endings such as `.DQ`."""

    def __init__(self, url: str, namespace: str) -> None:
        self.client: Any = redis.Redis.from_url(url)  # redis-py's own types are incomplete
        self._namespace = namespace

    def key(self, queue: str, ending: str = "") -> str:
        return f"dramatiq:{self._namespace}.{queue}{ending}"

    def put(self, queue: str, message: bytes) -> None:
        """Enqueue bytes. A valid message gets an id of its own, as in Dramatiq's script."""
        name = str(uuid.uuid4())
        with suppress(ValueError, LookupError, TypeError):  # invalid bytes are enqueued unchanged
            data = json.loads(message)
            data["options"]["redis_message_id"] = name
            message = json.dumps(data).encode()
        self.client.hset(self.key(queue, ".msgs"), name, message)
        self.client.rpush(self.key(queue), name)

    def waiting(self, queue: str) -> list[dict[str, Any]]:
        """The messages that wait in a queue."""
        names = self.client.lrange(self.key(queue), 0, -1)
        return [json.loads(self.client.hget(self.key(queue, ".msgs"), name) or b"null") for name in names]

    def wipe(self, queue: str) -> None:
        self.client.delete(self.key(queue), self.key(queue, ".msgs"))

    def dead(self, queue: str) -> list[bytes]:
        """The dead letters, oldest first."""
        names = self.client.zrange(self.key(queue, ".XQ"), 0, -1)
        return [self.client.hget(self.key(queue, ".XQ.msgs"), name) or b"" for name in names]

    def redrive(self, queue: str, message_id: str) -> None:
        """Enqueue a dead-letter copy again."""
        for name in self.client.zrange(self.key(queue, ".XQ"), 0, -1):
            data = self.client.hget(self.key(queue, ".XQ.msgs"), name)
            if data is not None and json.loads(data)["message_id"] == message_id:
                with self.client.pipeline() as pipeline:
                    pipeline.zrem(self.key(queue, ".XQ"), name)
                    pipeline.hdel(self.key(queue, ".XQ.msgs"), name)
                    pipeline.hset(self.key(queue, ".msgs"), name, data)
                    pipeline.rpush(self.key(queue), name)
                    pipeline.execute()
                return
        raise AssertionError(f"{message_id} is not among the dead letters")

    def clean(self) -> None:
        """Delete the keys of this namespace, including those of the store."""
        for pattern in (
            f"dramatiq:{self._namespace}*",
            f"dramatiq:__acks__.*.{self._namespace}*",
            f"*{{{self._namespace}*",
        ):
            for name in self.client.scan_iter(match=pattern, count=1000):
                self.client.delete(name)
        self.client.close()

"""One namespace of queues in a Redis, as Dramatiq's own script keeps them: what an operator does. For the tests."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from typing import Any

import redis

__all__ = ["RedisQueues"]


class RedisQueues:
    """Behind queueport's back. Queues by queueport's names; none of them ends as derived names do."""

    def __init__(self, url: str, namespace: str) -> None:
        self.client: Any = redis.Redis.from_url(url)  # its own types say little
        self._namespace = namespace

    def key(self, queue: str, ending: str = "") -> str:
        return f"dramatiq:{self._namespace}.{queue}{ending}"

    def put(self, queue: str, message: bytes) -> None:
        """Enqueue these bytes; a message of Dramatiq's under an id of its own, as its script does."""
        name = str(uuid.uuid4())
        with suppress(ValueError, LookupError, TypeError):  # it is none
            data = json.loads(message)
            data["options"]["redis_message_id"] = name
            message = json.dumps(data).encode()
        self.client.hset(self.key(queue, ".msgs"), name, message)
        self.client.rpush(self.key(queue), name)

    def waiting(self, queue: str) -> list[dict[str, Any]]:
        """The messages that wait."""
        names = self.client.lrange(self.key(queue), 0, -1)
        return [json.loads(self.client.hget(self.key(queue, ".msgs"), name) or b"null") for name in names]

    def wipe(self, queue: str) -> None:
        self.client.delete(self.key(queue), self.key(queue, ".msgs"))

    def dead(self, queue: str) -> list[bytes]:
        """The dead letters, oldest first."""
        names = self.client.zrange(self.key(queue, ".XQ"), 0, -1)
        return [self.client.hget(self.key(queue, ".XQ.msgs"), name) or b"" for name in names]

    def redrive(self, queue: str, message_id: str) -> None:
        """Enqueue a dead letter again."""
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
        """Remove this namespace's keys, the store's included."""
        for pattern in (
            f"dramatiq:{self._namespace}*",
            f"dramatiq:__acks__.*.{self._namespace}*",
            f"*{{{self._namespace}*",
        ):
            for name in self.client.scan_iter(match=pattern, count=1000):
                self.client.delete(name)
        self.client.close()

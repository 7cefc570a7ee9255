"""Dramatiq's Redis broker without delays, and firm about what is no message. For the driver and its workers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed, DecodeError

__all__ = ["QueueportRedisBroker"]

logger: logging.Logger = logging.getLogger("queueport")


class QueueportRedisBroker(RedisBroker):
    """Nothing is ever delayed in Dramatiq, so that no consumer looks for it."""

    def declare_queue(self, queue_name: str) -> None:
        """Without the queue of delayed messages."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    @property
    def consumer_class(self) -> Any:
        """The consumer below."""
        return _Consumer

    def taken(self, queue_name: str) -> str:
        """The set of the ids that this broker has fetched and not acknowledged, as in Dramatiq's dispatch.lua."""
        return f"{self.namespace}:__acks__.{self.broker_id}.{queue_name}"


_Untyped: Any = _RedisConsumer  # as Dramatiq leaves it, and its error
_closed: Any = ConnectionClosed


class _Consumer(_Untyped):  # type: ignore[misc]  # a subclass of what is untyped
    """Takes a server that does not answer for one that is away, and puts aside what cannot be read."""

    def __next__(self) -> dramatiq.MessageProxy | None:
        try:
            found: dramatiq.MessageProxy | None = super().__next__()
        except DecodeError as error:
            self._put_aside(error)
            return None
        except redis.RedisError as error:
            raise _closed(error) from error
        return found

    def ack(self, message: dramatiq.MessageProxy) -> None:
        try:
            super().ack(message)
        except redis.RedisError as error:
            raise _closed(error) from error

    def nack(self, message: dramatiq.MessageProxy) -> None:
        try:
            super().nack(message)
        except redis.RedisError as error:
            raise _closed(error) from error

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        try:
            super().requeue(messages)
        except redis.RedisError as error:
            raise _closed(error) from error

    def _put_aside(self, error: DecodeError) -> None:
        """Into the dead letters, as it is. Of what was fetched only the text is known, not under which id."""
        logger.warning("put aside a message that Dramatiq cannot read: %.200r", error.data)
        client, queue = self.broker.client, self.queue_name
        for message_id in client.smembers(self.broker.taken(queue)):
            data = client.hget(f"{self.broker.namespace}:{queue}.msgs", message_id)
            if data is not None and data in (error.data, str(error.data).encode()):
                self.broker.do_nack(queue, message_id)

"""Dramatiq's Redis broker without queues of delayed messages, and with a consumer of its own. For the driver."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import current_millis
from dramatiq.errors import ConnectionClosed, DecodeError

from queueport.errors import BackendUnavailable
from queueport.stores.redis import Redis, Script, encoded

__all__ = ["QueueportRedisBroker"]

logger: logging.Logger = logging.getLogger("queueport")

GATHER = 0.002
"""Maximum seconds to wait until half of the prefetch is free, so that one call to Redis fetches several messages."""

FETCH_EVERY = 5.0
"""Seconds after which a consumer fetches even if its queue is empty, because a fetch is also Dramatiq's heartbeat of a
worker. If a worker sends no heartbeat for 60 s, its fetched messages return to their queues."""


class QueueportRedisBroker(RedisBroker):
    """Dramatiq's Redis broker without delayed messages, which queueport never sends.

    Its consumers run Dramatiq's script over `server`, because redis-py's client takes three times as long as `server`,
    and because `server` sends several acknowledgements in one round trip. Calls over `server` raise BackendUnavailable.
    """

    def __init__(self, server: Redis, client: redis.Redis, dead_message_ttl: int) -> None:
        super().__init__(  # type: ignore[no-untyped-call]  # Dramatiq has no types here
            client=client, middleware=[], dead_message_ttl=dead_message_ttl
        )
        self._server = server
        dispatch: Any = self.scripts["dispatch"].script
        self._script = Script.of(dispatch)

    def do_fetch(self, queue_name: str, count: int) -> list[bytes]:
        # Not sent twice: the first fetch may have taken messages that the answer to a second fetch would not contain.
        found: list[bytes] = self._run("fetch", queue_name, [[count]], once=True)[0]
        return found

    def wait(self, queue_name: str, seconds: float) -> bool:
        """Wait up to `seconds` for a message in the queue. Returns whether the queue has one.

        This BLMOVE moves the first message to the place where it was, so the list does not change. Redis has no
        blocking command that only reads a list. Raises BackendUnavailable, or RedisError if Redis refuses the command.
        """
        key = f"{self.namespace}:{queue_name}".encode()
        (first,) = self._server.ask([[b"BLMOVE", key, key, b"LEFT", b"LEFT", b"%.3f" % seconds]])
        if isinstance(first, redis.RedisError):
            raise first
        return first is not None

    def do_ack(self, queue_name: str, *message_ids: str) -> None:
        self._run("ack", queue_name, [[message_id] for message_id in message_ids])

    def do_nack(self, queue_name: str, message_id: str) -> None:
        self._run("nack", queue_name, [[message_id]])

    def do_requeue(self, queue_name: str, *message_ids: str) -> None:
        self._run("requeue", queue_name, [message_ids])

    def _run(self, command: str, queue: str, batches: Sequence[Sequence[Any]], *, once: bool = False) -> list[Any]:
        """Run Dramatiq's script for each batch of arguments. Returns the answers. Raises BackendUnavailable.

        With `once`, the calls are not sent again if Redis may have run them.
        """
        limits = self.heartbeat_timeout, self.dead_message_ttl, self._should_do_maintenance(command)
        common = [command, current_millis(), queue, self.broker_id, *limits, self._max_unpack_size()]  # type: ignore[no-untyped-call]  # Dramatiq has no types here
        start = [encoded(word) for word in (self.namespace, *common)]
        return self._server.run(self._script, [[*start, *map(encoded, batch)] for batch in batches], once=once)

    def declare_queue(self, queue_name: str) -> None:
        """Declare the queue without a queue of delayed messages, which would need a consumer of its own."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    @property
    def consumer_class(self) -> Any:
        return _Consumer


_Untyped: Any = _RedisConsumer  # Dramatiq has no types here


@contextmanager
def _reconnecting() -> Iterator[None]:
    """Turn RedisError and BackendUnavailable into ConnectionClosed, the error after which Dramatiq tries again."""
    try:
        yield
    except (redis.RedisError, BackendUnavailable) as error:
        raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]  # Dramatiq has no types here


class _Consumer(_Untyped):  # type: ignore[misc]  # Dramatiq has no types here
    """A consumer that Dramatiq replaces after an outage of Redis, and that puts aside messages that cannot be decoded.

    If all messages that the consumer may prefetch are being processed, it fetches more as soon as some have ended. If
    the queue is empty, it waits for a message by a blocking call to Redis. In both cases, Dramatiq's own consumer would
    sleep for 5 to 100 ms.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._ended = threading.Condition()
        self._acknowledging = threading.Lock()
        self._acknowledged: list[str] = []
        """The ids of messages to acknowledge. The ids in the call that runs now, if any, come first."""
        self._empty = False
        """Whether the last fetch found no message."""
        self._fetched_at = time.monotonic()

    requeue = _reconnecting()(_Untyped.requeue)

    @_reconnecting()
    def ack(self, message: dramatiq.MessageProxy) -> None:
        """Acknowledge a message. Messages that other threads acknowledge meanwhile share the next call."""
        self._acknowledged.append(message.options["redis_message_id"])
        try:
            with self._acknowledging:
                together = list(self._acknowledged)
                if together:  # otherwise, another thread's call has acknowledged the message
                    self.broker.do_ack(self.queue_name, *together)
                    # Never bind the attribute to a new list: another thread may be about to append to this one.
                    del self._acknowledged[: len(together)]
        finally:
            self._end(message)

    @_reconnecting()
    def nack(self, message: dramatiq.MessageProxy) -> None:
        try:
            self.broker.do_nack(self.queue_name, message.options["redis_message_id"])
        finally:
            self._end(message)

    def _end(self, message: dramatiq.MessageProxy) -> None:
        self.queued_message_ids.discard(message.message_id)
        with self._ended:
            self._ended.notify()

    def _free(self) -> int:
        """How many messages may be fetched now: the prefetch minus the number of messages that have not ended."""
        return int(self.prefetch - self.outstanding_message_count)

    def _wait_until_free(self) -> bool:
        """Wait until a message may be fetched, then up to GATHER seconds until half of the prefetch may be fetched.

        Returns False if no message may be fetched before `timeout` is over.
        """
        with self._ended:
            if not self._ended.wait_for(lambda: self._free() > 0, self.timeout / 1000):
                return False
            self._ended.wait_for(lambda: self._free() >= self.prefetch / 2, GATHER)
            return True

    def _wait_for_message(self) -> bool:
        """Wait until the queue has a message or a fetch is due. Returns False if neither happens within `timeout`."""
        if self.broker.wait(self.queue_name, self.timeout / 1000):
            return True
        self.misses = 0  # so that `__next__` sleeps only briefly if other workers fetch the next message
        if time.monotonic() < self._fetched_at + FETCH_EVERY:
            return False
        self._fetched_at = time.monotonic()
        return True

    @_reconnecting()
    def __next__(self) -> dramatiq.MessageProxy | None:
        if not self.message_cache and self._free() <= 0 and not self._wait_until_free():
            return None
        if self._empty and not self._wait_for_message():
            return None
        try:
            found: dramatiq.MessageProxy | None = super().__next__()
            self._empty = found is None
        except DecodeError as error:
            self._put_aside(error)
            return None
        return found

    def _put_aside(self, error: DecodeError) -> None:
        """Move the message that caused `error` to the dead letters. The error does not contain the message's id, so
        this method compares the contents of all fetched messages.
        """
        logger.warning("put aside a message that Dramatiq cannot decode: %.200r", error.data)
        client, queue = self.broker.client, self.queue_name
        fetched = f"{self.broker.namespace}:__acks__.{self.broker.broker_id}.{queue}"  # as in Dramatiq's dispatch.lua
        for message_id in client.smembers(fetched):
            data = client.hget(f"{self.broker.namespace}:{queue}.msgs", message_id)
            if data is not None and data in (error.data, str(error.data).encode()):
                self.broker.do_nack(queue, message_id)

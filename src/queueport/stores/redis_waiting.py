"""Waiting for jobs to end, by the messages that the scripts publish. For readers of the Redis store.

Nobody polls and there is no thread: whoever waits reads from a connection of its own that is subscribed to its jobs.
The connection is kept for the next call with what it is subscribed to, so that a thread that waits for a thousand jobs
again and again reads each record once, and then only those of which it was told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from redis import exceptions
from redis.exceptions import RedisError

from queueport.errors import BackendUnavailable
from queueport.record import Record
from queueport.stores.redis_connection import Idle, Redis, Wire, allow, packed
from queueport.stores.redis_errors import unavailable

__all__ = ["Waiting"]

KEPT = 4
"""Subscribed connections kept for later."""
PAUSE = 0.05
"""Seconds between two attempts to connect while somebody waits."""

Read = Callable[[Collection[str]], Sequence[Record]]
"""Those of these jobs that are final."""


class Listener:
    """A connection, the jobs that it is subscribed to, and those of which it was told since they were read."""

    def __init__(self, connection: Wire, prefix: bytes) -> None:
        self._connection = connection
        self._prefix = prefix + b"ended:"
        self._heard: set[str] = set()
        self._told: set[str] = set()
        self.unfinished: set[str] = set()
        """Those whose records were read since, and were not final."""

    def watch(self, ids: set[str], deadline: float) -> set[str]:
        """Be told of these jobs from now on, and of no others; those whose records have to be read."""
        new, gone = ids - self._heard, self._heard - ids
        commands = [(verb, *map(self._channel, some)) for verb, some in ((b"SUBSCRIBE", new), (b"UNSUBSCRIBE", gone))]
        commands = [command for command in commands if len(command) > 1]
        allow(self._connection, deadline)
        self._connection.send_packed_command([packed([*commands, (b"PING",)])], check_health=False)
        while not self._read(deadline):
            pass
        self._heard = ids
        return (ids - self.unfinished) | self._news()

    def listen(self, until: float, deadline: float) -> set[str]:
        """The jobs to look at; empty when there was no news until then."""
        left = until - time.monotonic()
        while left > 0 and not self._told and self._connection.can_read(left):
            self._read(deadline)
            left = until - time.monotonic()
        while self._told and self._connection.can_read(0):  # what came together is read together
            self._read(deadline)
        return self._news()

    def _news(self) -> set[str]:
        told, self._told = self._told & self._heard, set()
        return told

    def _read(self, deadline: float) -> bool:
        """Read one message; whether it is the answer to PING."""
        allow(self._connection, deadline)
        message = self._connection.read_response(disable_decoding=True)
        if isinstance(message, list) and message[0] == b"message":
            self._told.add(message[1].removeprefix(self._prefix).decode())
        return message in (b"PONG", [b"pong", b""])  # the latter while subscribed

    def _channel(self, job_id: str) -> bytes:
        return self._prefix + job_id.encode()

    def disconnect(self) -> None:
        """Close the connection."""
        self._connection.disconnect()


class Waiting:
    """The listeners of a store."""

    def __init__(self, redis: Redis, prefix: bytes, read: Read) -> None:
        self._redis = redis
        self._prefix = prefix
        self._read = read
        self._idle: Idle[Listener] = Idle(KEPT)

    def wait(self, ids: set[str], timeout: float) -> Sequence[Record]:
        """The final ones of these jobs, as soon as there is one, or one went. It may return early.

        A connection that breaks is made anew, and the records are read again. A server that hangs is noticed by the
        next call, for none is longer than `call_timeout`.
        """
        until = time.monotonic() + min(timeout, self._redis.call_timeout)
        used = self._idle.take()
        while True:
            try:
                return self._wait(used or self._connected(), ids, until)
            except (RedisError, OSError, BackendUnavailable) as error:
                broken = isinstance(error, exceptions.ConnectionError | BackendUnavailable)
                if broken and (used is not None or time.monotonic() < until):
                    used = None
                    time.sleep(PAUSE)
                elif isinstance(error, BackendUnavailable):
                    raise
                else:
                    raise unavailable(self._redis.target.shown, error, self._redis.call_timeout) from error

    def _wait(self, listener: Listener, ids: set[str], until: float) -> Sequence[Record]:
        """The listener is kept for later only when all went well."""
        try:
            look = listener.watch(ids, self._deadline())
            found = self._finals(listener, ids, look)
            if not found and (look := listener.listen(until, until + self._redis.call_timeout)):
                found = self._finals(listener, ids, look)
        except BaseException:
            listener.disconnect()
            raise
        self._idle.put(listener)
        return found

    def _finals(self, listener: Listener, ids: set[str], look: set[str]) -> Sequence[Record]:
        found = self._read(look) if look else []
        listener.unfinished = ids - {record.id for record in found}
        return found

    def _connected(self) -> Listener:
        return Listener(self._redis.connect(self._deadline()), self._prefix)

    def _deadline(self) -> float:
        return time.monotonic() + self._redis.call_timeout

    def close(self) -> None:
        """Close what is idle; used again, it connects again."""
        self._idle.clear()

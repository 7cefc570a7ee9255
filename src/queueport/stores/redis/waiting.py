"""Waits for jobs to end, without polling: the scripts publish a message when a job ends. For the Redis store.

There is no background thread: the thread that waits for jobs reads from a connection, which is subscribed to the ends
of these jobs. After the call, the connection stays subscribed, and a later call may use the connection. If only one
thread waits, and waits in many calls for the same thousand jobs, this thread therefore reads each record once, and
after that only the records of jobs for which a message has arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from redis import exceptions

from queueport.errors import BackendUnavailable
from queueport.spi.record import Record
from queueport.stores.redis.connection import Idle, Redis, limit
from queueport.stores.redis.health import FAILURES, unavailable
from queueport.stores.redis.protocol import Wire, packed

__all__ = ["Waiting"]

KEPT = 4
"""The maximum number of unused connections that stay subscribed."""
PAUSE = 0.05
"""Seconds between the failure of a connection and the opening of a new one."""

Read = Callable[[Collection[str]], Sequence[Record]]
"""Takes the ids of jobs, and returns the records of the jobs that are in a final state."""


class Listener:
    """A connection that is subscribed to the channels on which the ends of certain jobs are published."""

    def __init__(self, connection: Wire, prefix: bytes) -> None:
        self._connection = connection
        self._prefix = prefix + b"ended:"
        self._subscribed: set[str] = set()
        self._ended: set[str] = set()
        """The ids of jobs for which a message has arrived, and whose records have not been read since."""
        self.unfinished: set[str] = set()
        """The ids of jobs that were read after the subscription began, and that had no record in a final state."""

    def watch(self, ids: set[str], deadline: float) -> set[str]:
        """Subscribe to the ends of these jobs and of no others. Returns the ids of the jobs that may have ended: the
        caller must read the records of these jobs.
        """
        changes = ((b"SUBSCRIBE", ids - self._subscribed), (b"UNSUBSCRIBE", self._subscribed - ids))
        commands = [(verb, *(self._prefix + job_id.encode() for job_id in some)) for verb, some in changes if some]
        limit(self._connection, deadline)
        self._connection.send_packed_command([packed([*commands, (b"PING",)])], check_health=False)
        while not self._read(deadline):
            pass
        self._subscribed = ids
        return (ids - self.unfinished) | self._news()

    def listen(self, until: float, deadline: float) -> set[str]:
        """Wait for a message until the monotonic time `until`, and read all messages that have arrived.

        Returns the ids of the jobs that the messages name. Raises redis-py's TimeoutError if a message is not complete
        at the monotonic time `deadline`.
        """
        while self._connection.can_read(0 if self._ended else max(0, until - time.monotonic())):
            self._read(deadline)
        return self._news()

    def _news(self) -> set[str]:
        ended, self._ended = self._ended & self._subscribed, set()
        return ended

    def _read(self, deadline: float) -> bool:
        """Read the server's next answer or message. If the message tells that a job has ended, note the job's id.

        Returns True for the answer to PING, whose form depends on whether the connection is subscribed.
        """
        limit(self._connection, deadline)
        message = self._connection.read_response(disable_decoding=True)
        if isinstance(message, list) and message[0] == b"message":
            self._ended.add(message[1].removeprefix(self._prefix).decode())
        return message in (b"PONG", [b"pong", b""])

    def disconnect(self) -> None:
        self._connection.disconnect()


class Waiting:
    """Waits for the end of jobs, with a pool of listeners. Thread-safe."""

    def __init__(self, redis: Redis, prefix: bytes, read: Read) -> None:
        self._redis = redis
        self._prefix = prefix
        self._read = read
        self._idle: Idle[Listener] = Idle(KEPT)

    def wait(self, ids: set[str], timeout: float) -> Sequence[Record]:
        """Wait until one of these jobs is final or removed, at most `timeout` seconds. Returns the final records.

        May return earlier, without a record: a call waits for messages no longer than `call_timeout`, so that the next
        call notices a server that hangs. If the connection fails, a new one is opened, and the records are read again.
        Raises BackendUnavailable if the server does not answer, or cannot be reached until the time is over.
        """
        until = time.monotonic() + min(timeout, self._redis.call_timeout)
        used = self._idle.take()
        while True:
            try:
                listener = used or Listener(self._redis.connect(self._deadline()), self._prefix)
                return self._wait(listener, ids, until)
            except (*FAILURES, BackendUnavailable) as error:
                broken = isinstance(error, exceptions.ConnectionError | BackendUnavailable)
                if broken and (used is not None or time.monotonic() < until):
                    used = None
                    time.sleep(PAUSE)
                elif isinstance(error, BackendUnavailable):
                    raise
                else:
                    raise unavailable(self._redis.target.shown, error, self._redis.call_timeout) from error

    def _wait(self, listener: Listener, ids: set[str], until: float) -> Sequence[Record]:
        """Wait with this listener, and put it back into the pool. After any error, close its connection instead."""
        try:
            look = listener.watch(ids, self._deadline())
            found = self._final(listener, ids, look)
            if not found and (look := listener.listen(until, until + self._redis.call_timeout)):
                found = self._final(listener, ids, look)
        except BaseException:
            listener.disconnect()
            raise
        self._idle.put(listener)
        return found

    def _final(self, listener: Listener, ids: set[str], look: set[str]) -> Sequence[Record]:
        found = self._read(look) if look else []
        listener.unfinished = ids - {record.id for record in found}
        return found

    def _deadline(self) -> float:
        return time.monotonic() + self._redis.call_timeout

    def close(self) -> None:
        self._idle.close()

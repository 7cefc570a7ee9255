"""Connects to Redis, and sends commands within a timeout, if necessary over a second connection. For the Redis store,
and for adapters on Redis.

The store uses redis-py's connections, but not redis-py's pool and client. That pool and client use locks. If a thread
is interrupted during a call, redis-py also reuses the connection of this thread, although the answers were not read. In
`Redis`, a thread removes a connection from the pool, and puts it back only after it has read every answer. An
interruption therefore loses at most one connection. `connect` makes a client of redis-py, for frameworks that need one.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import MovedError, NoScriptError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from queueport.errors import BackendUnavailable
from queueport.spi.local_errors import causes
from queueport.stores.redis.health import FAILURES, NOT_SENT, not_connected, read_only, unavailable
from queueport.stores.redis.lua import Script
from queueport.stores.redis.protocol import Command, Wire, exchange, packed, seconds_left
from queueport.stores.redis.url import Target

__all__ = ["Idle", "Redis", "close_unused", "connect", "limit", "opened"]

IDLE = 32
"""The maximum number of unused connections that `Redis` keeps. Connections of calls in progress do not count."""
MAX_CONNECTIONS = 10_000
"""The maximum number of connections of a client that `connect` makes. Each thread uses one during a call, so redis-py's
default of 100 is too low for an application with many threads."""


class Closable(Protocol):
    """A connection, or an object that contains one."""

    def disconnect(self) -> None:
        """Close the connection."""


C = TypeVar("C", bound=Closable)


class Idle(Generic[C]):
    """A pool of at most `keep` unused connections (None: no limit). After a fork, the pool of the child process is
    empty.

    Thread-safe without a lock, because a deque is thread-safe.

    Connections in use are not in the pool, so `clear` and `close` never close the connection of a call in progress.
    """

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self._pid, self._free = os.getpid(), deque[C](maxlen=keep)
        self._closed = False

    def take(self) -> C | None:
        """Remove and return the connection that was put into the pool last; None if the pool is empty."""
        if self._pid != os.getpid():  # in a forked child, the connections belong to the parent process
            self._pid, self._free = os.getpid(), deque[C](maxlen=self._keep)
        try:
            return self._free.pop()
        except IndexError:
            return None

    def put(self, one: C) -> None:
        """Put a connection into the pool. If the pool is full, drop the connection that has been in the pool longest.

        If `close` was called before, closes the connection instead.
        """
        if self._pid == os.getpid():
            self._free.append(one)
        if self._closed:
            self.clear()

    def clear(self) -> None:
        """Close the connections in the pool."""
        while (one := self.take()) is not None:
            one.disconnect()

    def close(self) -> None:
        """Close the connections in the pool, and each connection that is put back later. Idempotent."""
        self._closed = True
        self.clear()


class Redis:
    """Sends commands to the current primary of a `Target`. Thread-safe; works in a child process after a fork."""

    def __init__(self, target: Target, *, call_timeout: float) -> None:
        self.target = target
        self.call_timeout = call_timeout
        self._idle: Idle[Wire] = Idle(IDLE)
        self._moved: tuple[str, int] | None = None
        """Host and port of the cluster node that the latest MOVED answer has named; None to connect as the URL says."""

    def run(
        self, script: Script, batches: Sequence[Sequence[bytes]], *, once: bool = False, deadline: float | None = None
    ) -> list[Any]:
        """Run a script once for each batch, which is a key and arguments. Returns the answers in order.

        This takes one call of `ask`, or two if the server does not have the script. `once` and `deadline` are passed to
        `ask`. Raises BackendUnavailable, also if a run of the script failed; other runs may then have written.
        """
        deadline = time.monotonic() + self.call_timeout if deadline is None else deadline
        calls: list[Command] = [(b"EVALSHA", script.sha, b"1", *arguments) for arguments in batches]
        answers = self.ask(calls, once=once, deadline=deadline)
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # the server does not have the script, for example after a restart
            load = (b"SCRIPT", b"LOAD", script.text)
            try:
                again = self.ask([load, *(calls[number] for number in unknown)], once=once, deadline=deadline)
            except BackendUnavailable as error:
                if len(unknown) < len(calls):  # other calls were applied, so the error must not say "not sent"
                    for cause in causes(error):
                        cause.__notes__ = [note for note in getattr(cause, "__notes__", ()) if note != NOT_SENT]
                raise
            for number, answer in zip(unknown, again[1:], strict=True):
                answers[number] = answer
        for answer in answers:
            if isinstance(answer, RedisError):
                raise unavailable(self.target.shown, answer, self.call_timeout) from answer
        return answers

    def ask(self, commands: Sequence[Command], *, once: bool = False, deadline: float | None = None) -> list[Any]:
        """Send these commands together. Returns their answers; the answer to a failed command is a RedisError.

        This takes one round trip, and more if a connection must be opened, or breaks or is redirected during the call.
        The commands may then be sent twice; with `once`, only if the server has certainly not run them. `deadline` is
        on the monotonic clock; None: after `call_timeout` seconds. Raises BackendUnavailable if the answers could not
        be read by then.
        """
        deadline = time.monotonic() + self.call_timeout if deadline is None else deadline
        try:
            return self._ask(packed(commands), len(commands), deadline, once=once)
        except FAILURES as error:
            raise unavailable(self.target.shown, error, self.call_timeout) from error

    def _ask(self, commands: bytes, count: int, deadline: float, *, once: bool) -> list[Any]:
        """Send the commands over a connection of the pool; if the pool is empty, over a new one.

        In these cases, send them a second time, over a new connection:

        - The connection breaks, and it was from the pool or to the node that an earlier MOVED answer has named. The
          server may have run the commands, so with `once` the error is raised instead, unless no connection was opened.
          A timeout is always raised.
        - The server answers MOVED, or that it is a read-only replica.
          With `once`, only if it answers so to every command.

        Without `once`, the server may thus run the commands twice. Every verb of a store except `insert` allows this.
        With `once`, a connection of the pool that the server has closed is replaced before the commands are sent.
        """
        connection = self._idle.take()
        if once and connection is not None and _closed(connection):
            connection.disconnect()
            self._redirect(None)
            connection = None
        try:
            answers = self._exchange(connection or self._first(deadline), commands, count, deadline)
        except exceptions.ConnectionError as error:
            if connection is None and self._moved is None:
                raise
            self._redirect(None)
            if once and not not_connected(error):
                raise
            unsent = not_connected(error)
        else:
            moved = next((answer for answer in answers if isinstance(answer, MovedError)), None)
            elsewhere = [isinstance(answer, MovedError) or read_only(answer) for answer in answers]
            if not any(elsewhere) or (once and not all(elsewhere)):
                return answers
            self._redirect(moved)
            unsent = all(elsewhere)
        connection = self._first(deadline) if unsent else self.connect(deadline)
        return self._exchange(connection, commands, count, deadline)

    def _first(self, deadline: float) -> Wire:
        """Connect for a call whose commands the server has not run. An error gets the note NOT_SENT."""
        try:
            return self.connect(deadline)
        except FAILURES as error:
            error.add_note(NOT_SENT)
            raise

    def _redirect(self, moved: MovedError | None) -> None:
        """Close all unused connections. Later calls connect to the node that `moved` names. If `moved` is None, they
        find the server through the URL again.
        """
        host = self.target.hosts[0][0] if self.target.hosts else ""
        self._moved = None if moved is None else (moved.host or host, moved.port)
        self._idle.clear()

    def connect(self, deadline: float) -> Wire:
        target, left = self.target, seconds_left(deadline)
        options = {"protocol": 2, **target.login, "socket_timeout": left, "socket_connect_timeout": left}
        kind: Any = Connection if target.tls is None else SSLConnection
        if target.path is not None:
            kind, options["path"] = UnixDomainSocketConnection, target.path
        else:
            options["host"], options["port"] = self._moved or self._address(deadline)
        return opened(kind(**options, **(target.tls or {})))

    def _address(self, deadline: float) -> tuple[str, int]:
        """The host and port of the primary, from the URL or from a sentinel.

        To connect to a sentinel, and to wait for its answer, may each take an equal share of the remaining time, so
        that other sentinels can be asked, too.
        """
        if self.target.service is None:
            return self.target.hosts[0]
        share = seconds_left(deadline) / (len(self.target.hosts) + 1)
        options = {"socket_timeout": share, "socket_connect_timeout": share, "retry": Retry(NoBackoff(), 0)}
        options |= {**self.target.sentinel_login, "ssl": self.target.tls is not None, **(self.target.tls or {})}
        kind: Any = Sentinel  # Any, because redis-py does not declare the types of Sentinel
        sentinel = kind(list(self.target.hosts), sentinel_kwargs=options)
        try:
            host, port = sentinel.discover_master(self.target.service)
        finally:
            for one in sentinel.sentinels:
                one.close()
        return str(host), int(port)

    def _exchange(self, connection: Wire, commands: bytes, count: int, deadline: float) -> list[Any]:
        """Send the commands and read every answer; then put the connection into the pool. Returns the answers.

        The answer to a failed command is a ResponseError. Any other error closes the connection and is raised.
        """
        try:
            answers = exchange(connection, commands, count, deadline)
        except BaseException:
            connection.disconnect()
            raise
        self._idle.put(connection)
        return answers

    def close(self) -> None:
        self._idle.close()


def opened(connection: Wire) -> Wire:
    """Connect this connection and return it. After an error, also after an interruption, it is closed."""
    try:
        connection.connect()
    except BaseException:
        connection.disconnect()
        raise
    return connection


def limit(connection: Wire, deadline: float) -> None:
    """Set the socket's timeout, so that its next operation fails if that operation does not end by the deadline.

    Raises redis-py's TimeoutError if the deadline has passed. redis-py has no timeout for a whole call.
    """
    connection._sock.settimeout(seconds_left(deadline))


def _closed(connection: Wire) -> bool:
    """True if the server has closed this unused connection, or has sent data that nobody has requested."""
    try:
        return bool(connection.can_read(timeout=0))
    except (RedisError, OSError):
        return True


def connect(target: Target, timeout: float) -> redis.Redis:
    """Make a client of redis-py for one server. The client connects on first use, waits at most `timeout` seconds for a
    connection and for each answer, and never repeats a command. `target` must not name sentinels.
    """
    options: dict[str, Any] = {
        **target.login,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MAX_CONNECTIONS,
    }
    if target.path is not None:
        return redis.Redis(unix_socket_path=target.path, **options)
    ((host, port),) = target.hosts
    return redis.Redis(host, port, ssl=target.tls is not None, **(target.tls or {}), **options)


def close_unused(client: redis.Redis) -> None:
    """Close those connections of a client that no call is using.

    `client.close()` would also close connections in use, and calls in other threads would then raise errors such as
    AttributeError.
    """
    client.connection_pool.disconnect(inuse_connections=False)

"""Connections to Redis: who has one, how long a call may take, and what is tried again. For readers of the Redis store.

redis-py's connections are used without its pool and its client: those hold locks and keep connections that a thread
interrupted in mid-call may leave half read. Here a thread has a connection to itself and puts it back only when every
answer has been read, so that an interruption anywhere leaves a connection to the garbage collector, and no more.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from queueport.stores.redis_errors import read_only, unavailable
from queueport.stores.redis_scripts import Script
from queueport.stores.redis_url import Target

__all__ = ["Idle", "Redis", "Wire", "allow", "packed"]

IDLE = 32
"""Connections kept for later; more are used while more threads call at once."""

Command = Sequence[bytes]


class Wire(Protocol):
    """What is used of redis-py's connections, which have hardly any types."""

    _sock: socket.socket

    def connect(self) -> None:
        """Connect, log in and choose the database."""

    def disconnect(self) -> None:
        """Close it."""

    def can_read(self, timeout: float) -> bool:
        """Whether there is something to read; raises where the connection is broken."""
        ...

    def send_packed_command(self, command: Sequence[bytes], check_health: bool) -> None:
        """Send these bytes."""

    def read_response(self, disable_decoding: bool) -> Any:
        """Read one answer; raises ResponseError for a refusal."""


class Closable(Protocol):
    """A connection, or what has one."""

    def disconnect(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closable)


class Idle(Generic[C]):
    """What waits to be used again, in this process; no lock, for a deque needs none. After a fork it is empty."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._pid, self._free = os.getpid(), deque[C](maxlen=keep)

    def take(self) -> C | None:
        """The one used last, or None."""
        if self._pid != os.getpid():  # the parent's are left to it
            self._pid, self._free = os.getpid(), deque[C](maxlen=self._keep)
        try:
            return self._free.pop()
        except IndexError:
            return None

    def put(self, one: C) -> None:
        """It can be used again."""
        if self._pid == os.getpid():
            self._free.append(one)

    def clear(self) -> None:
        """Let go of all."""
        while (one := self.take()) is not None:
            one.disconnect()


class Redis:
    """One Redis, wherever it is at present."""

    def __init__(self, target: Target, *, call_timeout: float) -> None:
        self.target = target
        self.call_timeout = call_timeout
        self._idle: Idle[Wire] = Idle(IDLE)
        self._moved: tuple[str, int] | None = None
        """The node of a cluster that has our keys, where it is not the one that the URL names."""

    def run(self, script: Script, batches: Sequence[Sequence[bytes]], *, once: bool = False) -> list[Any]:
        """Run a script once for each batch of arguments, the key first, all in one round trip; the answers."""
        calls: list[Command] = [(b"EVALSHA", script.sha, b"1", *arguments) for arguments in batches]
        answers = self.ask(calls, once=once)
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # the server is new, or was restarted
            again = self.ask([(b"SCRIPT", b"LOAD", script.text), *(calls[number] for number in unknown)], once=once)
            for number, answer in zip(unknown, again[1:], strict=True):
                answers[number] = answer
        for answer in answers:
            if isinstance(answer, RedisError):
                raise unavailable(self.target.shown, answer, self.call_timeout) from answer
        return answers

    def ask(self, commands: Sequence[Command], *, once: bool = False) -> list[Any]:
        """The answers to these commands, sent together; a refusal by the server is an answer.

        `once`: what may have been applied is not sent again. Raises BackendUnavailable.
        """
        try:
            return self._ask(packed(commands), len(commands), time.monotonic() + self.call_timeout, once=once)
        except (RedisError, OSError) as error:
            raise unavailable(self.target.shown, error, self.call_timeout) from error

    def _ask(self, commands: bytes, count: int, deadline: float, *, once: bool) -> list[Any]:
        """Once more where the connection had been closed meanwhile, or where the server is no longer the right one.

        What may have been applied the first time is applied once: every verb compares a rev or a token.
        """
        connection = self._idle.take()
        try:
            answers = self._exchange(connection or self.connect(deadline), commands, count, deadline)
        except exceptions.ConnectionError:
            if connection is None and self._moved is None:
                raise
            self._elsewhere(None)
            if once:
                raise
        else:
            moved = next((answer for answer in answers if isinstance(answer, MovedError)), None)
            if moved is None and not any(read_only(answer) for answer in answers):
                return answers
            self._elsewhere(moved)
        return self._exchange(self.connect(deadline), commands, count, deadline)

    def _elsewhere(self, moved: MovedError | None) -> None:
        """Forget the connections there are, and go where the server pointed, or else where the URL points."""
        host = self.target.hosts[0][0] if self.target.hosts else ""
        self._moved = None if moved is None else (moved.host or host, moved.port)
        self._idle.clear()

    def connect(self, deadline: float) -> Wire:
        """A new connection."""
        left = _left(deadline)
        target, options = self.target, {"protocol": 2, **self.target.login}
        options |= {"socket_timeout": left, "socket_connect_timeout": left}
        kind: Any = Connection if target.tls is None else SSLConnection
        where: dict[str, Any]
        if target.path is not None:
            kind, where = UnixDomainSocketConnection, {"path": target.path}
        else:
            host, port = self._moved or self._address(deadline)
            where = {"host": host, "port": port}
        connection: Wire = kind(**where, **options, **(target.tls or {}))
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _address(self, deadline: float) -> tuple[str, int]:
        """Where the primary is. The time left is shared out among the sentinels."""
        if self.target.service is None:
            return self.target.hosts[0]
        patience = _left(deadline) / (len(self.target.hosts) + 1)
        options = {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": Retry(NoBackoff(), 0)}
        options |= {**self.target.sentinel_login, "ssl": self.target.tls is not None, **(self.target.tls or {})}
        kind: Any = Sentinel  # redis-py has no types here
        sentinel = kind(list(self.target.hosts), sentinel_kwargs=options)
        try:
            host, port = sentinel.discover_master(self.target.service)
        finally:
            for one in sentinel.sentinels:
                one.close()
        return str(host), int(port)

    def _exchange(self, connection: Wire, commands: bytes, count: int, deadline: float) -> list[Any]:
        """Send and read; the connection is kept for later only when all went well."""
        answers: list[Any] = []
        try:
            allow(connection, deadline)
            connection.send_packed_command([commands], check_health=False)
            while len(answers) < count:
                allow(connection, deadline)
                try:
                    answers.append(connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    answers.append(error)
        except BaseException:
            connection.disconnect()
            raise
        self._idle.put(connection)
        return answers

    def close(self) -> None:
        """Close what is idle; used again, it connects again."""
        self._idle.clear()


def allow(connection: Wire, deadline: float) -> None:
    """Let the next step take until then."""
    connection._sock.settimeout(_left(deadline))  # redis-py has no other way to set it for one call


def packed(commands: Sequence[Command]) -> bytes:
    """Commands as the server reads them: https://redis.io/docs/latest/develop/reference/protocol-spec/."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        pieces.extend([b"$%d\r\n%b\r\n" % (len(word), word) for word in command])
    return b"".join(pieces)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise exceptions.TimeoutError("the time for this call is over")
    return left

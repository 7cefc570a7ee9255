"""Encodes commands and reads answers in version 2 of the Redis protocol, over redis-py's connections. For the store.

redis-py's own reader and its checks would take a third of the processor time of an enqueue. The protocol:
https://redis.io/docs/latest/develop/reference/protocol-spec/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions

__all__ = ["Command", "Wire", "exchange", "packed", "seconds_left"]

Command = Sequence[bytes]
Wire = Any
"""A connection of redis-py. Any, because the types of redis-py are incomplete."""
READ, LARGEST_READ = 2**16, 2**20
"""The maximum number of bytes to receive at once. If a value needs more bytes than READ, LARGEST_READ applies."""


def packed(commands: Sequence[Command]) -> bytes:
    """Encode commands."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        pieces.extend([b"$%d\r\n%b\r\n" % (len(word), word) for word in command])
    return b"".join(pieces)


def exchange(connection: Wire, commands: bytes, count: int, deadline: float) -> list[Any]:
    """Send encoded commands and read `count` answers, which may be ResponseErrors.

    Raises redis-py's other errors, such as ConnectionError and TimeoutError. After any exception from this
    function, even one that interrupts the thread, the caller must close the connection.
    """
    socket = connection._sock
    try:
        socket.settimeout(seconds_left(deadline))
        socket.sendall(commands)
        read = _Reader(socket, deadline, connection._parser.parse_error).read
        return [read() for _ in range(count)]
    except TimeoutError as error:
        raise exceptions.TimeoutError("the server did not answer in time") from error
    except OSError as error:
        raise exceptions.ConnectionError(f"the connection was lost: {error}") from error


def seconds_left(deadline: float) -> float:
    """The seconds until the deadline on the monotonic clock. Raises redis-py's TimeoutError if none is left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise exceptions.TimeoutError("the time for this call is over")
    return left


class _Reader:
    """Reads the answers of one `exchange` from a socket. After the last answer, the server sends nothing more."""

    def __init__(self, socket: Any, deadline: float, parse_error: Callable[[str], Exception]) -> None:
        self._socket = socket
        self._deadline = deadline
        self._parse_error = parse_error
        self._data = b""
        self._at = 0

    def read(self) -> Any:
        """Read one answer."""
        end = self._data.find(b"\r\n", self._at)
        while end < 0:
            self._receive()
            end = self._data.find(b"\r\n", self._at)
        kind, line = self._data[self._at], self._data[self._at + 1 : end]
        self._at = end + 2
        if kind == 36:  # $: a string
            return None if line == b"-1" else self._string(int(line))
        if kind == 58:  # :: a number
            return int(line)
        if kind == 42:  # *: a list
            return None if line == b"-1" else [self.read() for _ in range(int(line))]
        if kind == 43:  # +: a status
            return line
        if kind == 45:  # -: an error
            error = self._parse_error(line.decode("utf-8", "replace"))
            if isinstance(error, exceptions.ConnectionError):
                raise error
            return error
        raise exceptions.InvalidResponse(f"Protocol Error: {bytes([kind]) + line!r}")

    def _string(self, size: int) -> bytes:
        missing = self._at + size + 2 - len(self._data)
        if missing > 0:
            self._receive(missing)
        start, self._at = self._at, self._at + size + 2
        return self._data[start : start + size]

    def _receive(self, size: int = 1) -> None:
        """Add at least `size` received bytes to the buffer, and drop the bytes that `read` has already used."""
        pieces = [self._data[self._at :]]
        while size > 0:
            self._socket.settimeout(seconds_left(self._deadline))
            received: bytes = self._socket.recv(max(READ, min(size, LARGEST_READ)))
            if not received:
                raise exceptions.ConnectionError("the server closed the connection")
            pieces.append(received)
            size -= len(received)
        self._data, self._at = b"".join(pieces), 0

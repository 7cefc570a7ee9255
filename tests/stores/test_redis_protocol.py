"""Commands are encoded, and answers are read, as the Redis protocol says."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions
from redis._parsers import BaseParser

from queueport.stores.redis.protocol import exchange, packed

ANSWERS = (
    b"$5\r\na\r\nbc\r\n:-7\r\n*3\r\n$-1\r\n*-1\r\n*1\r\n+OK\r\n-ERR wrong\r\n-NOSCRIPT No matching script\r\n$0\r\n\r\n"
)
"""Six answers of all kinds."""


def exchanged(answers: bytes, count: int, *, seconds: float = 10.0, then_close: bool = False) -> list[Any]:
    """The answers that `exchange` reads from a server that sends these bytes."""
    ours, server = socket.socketpair()
    with ours, server:
        server.sendall(answers)
        if then_close:
            server.shutdown(socket.SHUT_WR)
        try:
            return exchange(connection(ours), packed([[b"PING"]]), count, time.monotonic() + seconds)
        finally:
            assert server.recv(100) == b"*1\r\n$4\r\nPING\r\n"


def connection(sock: Any) -> Any:
    """A connection of redis-py, as far as `exchange` uses it."""
    return SimpleNamespace(_sock=sock, _parser=SimpleNamespace(parse_error=BaseParser.parse_error))


class Pieces:
    """A socket that receives the answers in pieces of a given size."""

    def __init__(self, answers: bytes, size: int) -> None:
        self._pieces = [answers[at : at + size] for at in range(0, len(answers), size)]

    def settimeout(self, _seconds: float) -> None:
        """Nothing to do."""

    def sendall(self, _commands: bytes) -> None:
        """Nothing to do."""

    def recv(self, _size: int) -> bytes:
        return self._pieces.pop(0)


@pytest.mark.parametrize("pieces", [1, 2, 3, 1000])
def test_answers_of_all_kinds_are_read_from_pieces_of_any_size(pieces: int) -> None:
    received = exchange(connection(Pieces(ANSWERS, pieces)), b"", 6, time.monotonic() + 10)
    text, number, some, error, script, empty = received
    assert (text, number, some, empty) == (b"a\r\nbc", -7, [None, None, [b"OK"]], b"")
    assert isinstance(error, exceptions.ResponseError)
    assert str(error) == "wrong"
    assert isinstance(script, exceptions.NoScriptError)


def test_an_answer_that_does_not_arrive_is_a_timeout() -> None:
    with pytest.raises(exceptions.TimeoutError):
        exchanged(b"$5\r\nab", 1, seconds=0.05)


def test_a_connection_that_the_server_closes_is_an_error() -> None:
    with pytest.raises(exceptions.ConnectionError):
        exchanged(b"$5\r\nab", 1, then_close=True)


def test_an_error_that_concerns_the_connection_is_raised() -> None:
    with pytest.raises(exceptions.BusyLoadingError):
        exchanged(b"-LOADING Redis is loading the dataset in memory\r\n", 1)


def test_another_protocol_is_an_error() -> None:
    with pytest.raises(exceptions.InvalidResponse, match="HTTP"):
        exchanged(b"HTTP/1.1 400 Bad Request\r\n", 1)

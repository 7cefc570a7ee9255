"""Servers for tests: one that runs here already, or a private one that a test may stop. For tests that need a broker.

    server = redis_server()                # shared with others: prefix your names, and clean up
    server = redis_server(private=True)    # this test process's own

What cannot be had skips the test with the reason; where `CI` is set, that is a failure.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from tests.servers.aws import Moto
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.redis import Redis
from tests.servers.server import Missing, Server

__all__ = ["aws_server", "rabbitmq_server", "redis_server"]

PRIVATE: dict[str, Callable[[], Server]] = {"redis": Redis, "rabbitmq": RabbitMQ, "sqs": Moto, "dynamodb": Moto}


def redis_server(*, private: bool = False) -> Server:
    """A Redis: that of QUEUEPORT_TEST_REDIS_URL, or that on the standard port, or a private one."""
    shared = None if private else _running("QUEUEPORT_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
    return shared or _private("redis")


def rabbitmq_server(*, private: bool = False) -> Server:
    """A RabbitMQ: that of QUEUEPORT_TEST_AMQP_URL, or that on the standard port, or a private one."""
    shared = None if private else _running("QUEUEPORT_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    return shared or _private("rabbitmq")


def aws_server(service: str) -> Server:
    """An emulator of "sqs" or "dynamodb", each always private; its URL is what adapters take as `endpoint`."""
    return _private(service)


def _running(variable: str, standard: str) -> Server | None:
    """The server that the environment names, which must be there; else the standard one, if it answers."""
    named = os.environ.get(variable)
    if named:
        return Server(named)
    where = urlsplit(standard)
    try:
        socket.create_connection((where.hostname, where.port), 1.0).close()
    except OSError:
        return None
    return Server(standard)


def _private(kind: str) -> Server:
    try:
        return _started(kind)
    except Missing as missing:
        _unavailable(str(missing))


@functools.cache
def _started(kind: str) -> Server:
    return PRIVATE[kind]()


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)

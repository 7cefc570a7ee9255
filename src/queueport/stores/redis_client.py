"""A client of redis-py's, for frameworks that want one. The store itself has `redis_connection`."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from queueport.stores.redis_url import Target

__all__ = ["connect"]

MAX_CONNECTIONS = 10_000
"""One for each thread that calls; redis-py would refuse the hundred-and-first."""


def connect(target: Target, timeout: float) -> redis.Redis:
    """A client that connects when it is first used, waits no longer than `timeout` seconds for an answer, and repeats
    nothing by itself. The target is one server, by host or by socket.
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

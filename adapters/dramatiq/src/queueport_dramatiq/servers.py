"""Clients of the servers that URLs and applications name: each of their calls takes `call_timeout`. For the driver."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import unquote

import pika
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from queueport.errors import ConfigurationError
from queueport.url import BackendURL
from queueport_dramatiq.options import RabbitMQOptions

__all__ = ["bounded", "rabbitmq_parameters", "server_url"]


def server_url(url: BackendURL) -> BackendURL:
    """The broker's own URL, without the framework's name."""
    return BackendURL(url.text.removeprefix("dramatiq+"), url.options)


def bounded(client: redis.Redis, timeout: float) -> redis.Redis:
    """A client as an application's own, with connections that do not wait for ever. Raises ConfigurationError."""
    pool = client.connection_pool
    if type(pool) not in (redis.ConnectionPool, redis.BlockingConnectionPool):
        kind = type(pool).__name__
        raise ConfigurationError(f"the broker's Redis client has a {kind}: queueport needs one by host, port or socket")
    given = {**pool.connection_kwargs, "socket_timeout": timeout, "socket_connect_timeout": timeout}
    given["retry"] = Retry(NoBackoff(), 0)  # each of its tries would take so long
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **given))


def rabbitmq_parameters(url: BackendURL, timeout: float) -> dict[str, Any]:
    """What pika connects with. Raises ConfigurationError."""
    options = url.settings(RabbitMQOptions)
    secure = url.scheme == "amqps"
    if options.cacertfile is not None and not secure:
        raise ConfigurationError(f"{url}: option 'cacertfile' is for TLS: write dramatiq+amqps://, or leave it out")
    try:
        port = url.parts.port
    except ValueError:
        raise ConfigurationError(
            f"{url} has no port number: write one such as 'dramatiq+amqp://localhost:5672/'"
        ) from None
    host, user, password = url.parts.hostname or "localhost", url.parts.username, url.parts.password
    given: dict[str, Any] = {
        "host": host,
        "port": port or (5671 if secure else 5672),
        "virtual_host": url.path or "/",
        "credentials": pika.PlainCredentials(unquote(user or "guest"), unquote(password or "guest")),
        "socket_timeout": timeout,
        "stack_timeout": timeout,
        "blocked_connection_timeout": timeout,
    }
    if options.heartbeat is not None:
        given["heartbeat"] = options.heartbeat
    if secure:
        given["ssl_options"] = pika.SSLOptions(ssl.create_default_context(cafile=options.cacertfile), host)
    return given

"""Which RabbitMQ, as whom, and how: what a URL says. For the links to it, and for `queue.native`."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote

import pika

from queueport.errors import ConfigurationError
from queueport.url import BackendURL
from queueport_rabbitmq.options import TLS_OPTIONS, RabbitMQOptions

__all__ = ["Server"]

PORT, TLS_PORT = 5672, 5671
LOGIN = 0.9
"""The part of a call's time that connecting may take, so that its caller hears what went wrong with it."""
GUEST = "guest"
"""User and password where the URL names none, as every client of RabbitMQ has it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A RabbitMQ. `timeout` is what a call may take, in seconds."""

    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    tls: bool
    options: RabbitMQOptions
    timeout: float

    @classmethod
    def of(cls, url: BackendURL, options: RabbitMQOptions, timeout: float) -> Self:
        """Read the URL. Raises ConfigurationError."""
        tls = url.scheme == "amqps"
        try:
            port = url.parts.port
        except ValueError:
            raise ConfigurationError(f"{url} has no port number: write one such as 'amqp://localhost:5672/'") from None
        given = [name for name in TLS_OPTIONS if name in options.model_fields_set]
        if given and not tls:
            raise ConfigurationError(f"{url}: option {given[0]!r} is for TLS: write amqps://, or leave it out")
        if options.keyfile is not None and options.certfile is None:
            raise ConfigurationError(f"{url} names a keyfile and no certfile: name both")
        user, password = url.parts.username, url.parts.password
        return cls(
            host=url.parts.hostname or "localhost",
            port=(TLS_PORT if tls else PORT) if port is None else port,
            vhost=url.path or "/",
            user=GUEST if user is None else unquote(user),
            password=GUEST if user is None else unquote(password or ""),
            tls=tls,
            options=options,
            timeout=timeout,
        )

    def __str__(self) -> str:
        return f"RabbitMQ at {self.host}:{self.port}"

    def parameters(self, purpose: str | None = None) -> pika.ConnectionParameters:
        """What pika connects with; `purpose` is the connection's name in the management UI. Reads certificates."""
        given = {
            "socket_timeout": self.options.socket_timeout or self.timeout,
            "stack_timeout": self.options.stack_timeout or self.timeout * LOGIN,
            "heartbeat": self.options.heartbeat,
            "blocked_connection_timeout": self.options.blocked_connection_timeout,
            "frame_max": self.options.frame_max,
            "client_properties": None if purpose is None else {"connection_name": purpose},
            "ssl_options": pika.SSLOptions(self.context(), self.host) if self.tls else None,
        }
        named: Mapping[str, Any] = {name: value for name, value in given.items() if value is not None}
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
            **named,
        )

    def context(self) -> ssl.SSLContext:
        """How TLS is spoken to it, its management API included."""
        context = ssl.create_default_context(cafile=self.options.cacertfile)
        if self.options.verify == "verify_none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.options.certfile is not None:
            context.load_cert_chain(self.options.certfile, self.options.keyfile)
        return context

"""The address, the user and the connection options of a RabbitMQ server. For connections, errors, `queue.native`."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import unquote

import pika
from pika.connection import Parameters
from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import ConfigurationError
from queueport.spi.settings import Duration, Seconds
from queueport.spi.url import BackendURL

__all__ = ["RabbitMQServerOptions", "Server"]

PORT, TLS_PORT = 5672, 5671
LOGIN = 0.9
"""The share of `call_timeout` that connecting may take by default. The rest is for reporting why connecting failed."""
GUEST = "guest"
"""The user, and also the password, if the URL names no user. RabbitMQ creates this user by default."""
TLS_OPTIONS = ("cacertfile", "certfile", "keyfile", "verify")
"""The options for TLS, named as in RabbitMQ's own URIs: https://www.rabbitmq.com/docs/uri-query-parameters"""


class RabbitMQServerOptions(BaseModel):
    """The options of a URL that say how to connect to a RabbitMQ server. Unknown options raise an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    heartbeat: Annotated[int, Duration] | None = Field(
        None,
        ge=0,
        le=65_535,
        description="seconds after which a silent connection counts as lost; default: the server's own setting",
    )
    socket_timeout: Seconds | None = Field(
        None, description="maximum seconds to open a TCP connection; default: `call_timeout`"
    )
    stack_timeout: Seconds | None = Field(
        None, description="maximum seconds for TCP, TLS and login together; default: 0.9 times `call_timeout`"
    )
    blocked_connection_timeout: Seconds | None = Field(
        None, description="seconds after which a connection that the server blocks is closed"
    )
    frame_max: int | None = Field(None, ge=4_096, le=131_072, description="largest AMQP frame, in bytes")
    cacertfile: str | None = Field(None, description="PEM file of the CA that signed the server's certificate")
    certfile: str | None = Field(None, description="PEM file of the client's certificate")
    keyfile: str | None = Field(None, description="PEM file of the client's key, if it is not in `certfile`")
    verify: Literal["verify_peer", "verify_none"] = Field(
        "verify_peer", description="`verify_none` accepts any server certificate: for experiments only"
    )


@dataclass(frozen=True, slots=True)
class Server:
    """A RabbitMQ server, or all servers of an application that passes pika parameters (`given`).

    `timeout` is the maximum seconds of a call to RabbitMQ. Creating a `Server` reads no certificates.
    """

    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    tls: bool
    options: RabbitMQServerOptions
    timeout: float
    given: tuple[Parameters, ...] = field(default=(), repr=False)
    """The pika parameters of an application's servers, in the order in which they are tried; () if a URL is used."""

    @classmethod
    def of_url(cls, url: BackendURL, options: RabbitMQServerOptions, timeout: float) -> Self:
        """The server that an `amqp://`, `amqps://` or `FRAMEWORK+amqp://` URL names.

        Raises ConfigurationError if the port or an option for TLS is wrong.
        """
        tls = url.scheme.endswith("amqps")
        try:
            port = url.parts.port
        except ValueError:
            raise ConfigurationError(
                f"{url} has no valid port number: write one, as in '{url.scheme}://localhost:5672/'"
            ) from None
        given = [name for name in TLS_OPTIONS if name in options.model_fields_set]
        if given and not tls:
            raise ConfigurationError(f"{url}: option {given[0]!r} is for TLS: write {url.scheme}s://, or leave it out")
        if options.keyfile is not None and options.certfile is None:
            raise ConfigurationError(f"{url} has a keyfile but no certfile: name both")
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

    @classmethod
    def of_parameters(cls, given: Sequence[Parameters], timeout: float) -> Self:
        """The servers that an application connects to with pika. Error messages name the first one."""
        first: Any = given[0]
        return cls(
            host=first.host,
            port=first.port,
            vhost=first.virtual_host,
            user=getattr(first.credentials, "username", ""),  # a login by certificate has no user name
            password="",
            tls=first.ssl_options is not None,
            options=RabbitMQServerOptions.model_validate({}),
            timeout=timeout,
            given=tuple(given),
        )

    def __str__(self) -> str:
        return f"RabbitMQ at {self.host}:{self.port}"

    def parameters(self, purpose: str | None = None) -> tuple[Parameters, ...]:
        """The parameters for pika: `given`, or else those of the URL.

        Parameters of the URL contain `purpose`, if it is given: the management UI shows it as the connection's name.
        Raises OSError if a certificate file is unusable.
        """
        if self.given:
            return self.given
        optional = {
            "socket_timeout": self.options.socket_timeout or self.timeout,
            "stack_timeout": self.options.stack_timeout or self.timeout * LOGIN,
            "heartbeat": self.options.heartbeat,
            "blocked_connection_timeout": self.options.blocked_connection_timeout,
            "frame_max": self.options.frame_max,
            "client_properties": None if purpose is None else {"connection_name": purpose},
            "ssl_options": pika.SSLOptions(self.context(), self.host) if self.tls else None,
        }
        named: dict[str, Any] = {name: value for name, value in optional.items() if value is not None}
        return (
            pika.ConnectionParameters(
                host=self.host,
                port=self.port,
                virtual_host=self.vhost,
                credentials=pika.PlainCredentials(self.user, self.password),
                **named,
            ),
        )

    def context(self) -> ssl.SSLContext:
        """The TLS settings for this server and its management API. Raises OSError if a certificate file is unusable."""
        context = ssl.create_default_context(cafile=self.options.cacertfile)
        if self.options.verify == "verify_none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.options.certfile is not None:
            context.load_cert_chain(self.options.certfile, self.options.keyfile)
        return context

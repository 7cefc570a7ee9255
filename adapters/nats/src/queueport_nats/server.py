"""The addresses, the login and the TLS options of NATS servers. For the transport and the module `errors`."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client, RawCredentials
from nats.errors import Error, InvalidUserCredentialsError, NoServersError, SecureConnWantedError
from nkeys import NkeysError  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import ConfigurationError
from queueport.spi.url import BackendURL

__all__ = ["LIBRARY_ERRORS", "NatsClient", "NatsServerOptions", "Server"]

PORT = 4222
LIBRARY_ERRORS = (Error, NkeysError, OSError, UnicodeError)
"""The errors of nats-py, its key library and sockets. TimeoutError is an OSError. UnicodeError means that a host name
is not valid."""
CLOSING = 0.2
"""Maximum seconds to close a connection that could not be opened."""
RECENT = 1.0
"""Seconds that `recent_error` adds to the duration of a call. The server may report an error at the start of a call,
and `recent_error` is called shortly after the end of the call."""
TLS_OPTIONS = ("tls_ca", "tls_cert", "tls_key")
CREDENTIALS = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")
"""The headings in a credentials file. If one is missing, nats-py reads the file in an endless loop."""


class NatsServerOptions(BaseModel):
    """How to connect to NATS. Unknown options are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    creds: str | None = Field(None, description="credentials file with the user's JWT and seed")
    token: str | None = Field(None, repr=False, description="authentication token, where the server asks for one")
    tls_ca: str | None = Field(None, description="PEM file of the CA that signed the server's certificate")
    tls_cert: str | None = Field(None, description="PEM file of the client's certificate")
    tls_key: str | None = Field(None, description="PEM file of the client's key, if it is not in `tls_cert`")


@dataclass(frozen=True, slots=True)
class Server:
    """The servers of one NATS cluster, in the order in which they are tried. Creating this object reads no files.

    `timeout` is the maximum number of seconds that a call may take.
    """

    hosts: tuple[str, ...]
    user: str | None
    password: str | None = field(repr=False)
    tls: bool
    options: NatsServerOptions
    timeout: float

    @classmethod
    def of_url(cls, url: BackendURL, options: NatsServerOptions, timeout: float) -> Self:
        """The servers that a `nats://` or `tls://` URL names.

        Raises ConfigurationError if a part of the URL or an option is wrong, or if two of them contradict each other.
        """
        login, _, hosts = url.text.partition("://")[2].partition("/")[0].rpartition("@")
        user, colon, password = login.partition(":")
        tls = url.scheme == "tls"
        given = [name for name in TLS_OPTIONS if name in options.model_fields_set]
        if url.path:
            raise ConfigurationError(f"{url} has a path: name only servers, and options after '?'")
        if given and not tls:
            raise ConfigurationError(f"{url}: option {given[0]!r} is for TLS: write tls://, or leave it out")
        if options.tls_key is not None and options.tls_cert is None:
            raise ConfigurationError(f"{url} has a tls_key but no tls_cert: name both")
        if login and not colon:  # the text is not shown, because it may be a token
            raise ConfigurationError(
                f"a {url.scheme}:// URL has a user without a password: write USER:PASSWORD@, or a token as "
                "the option token="
            )
        if sum([bool(login), options.token is not None, options.creds is not None]) > 1:
            raise ConfigurationError(f"{url} has several logins: keep only one of user, token= and creds=")
        return cls(
            hosts=tuple(_with_port(url, host) for host in (hosts or "localhost").split(",")),
            user=unquote(user) if login else None,
            password=unquote(password) if login else None,
            tls=tls,
            options=options,
            timeout=timeout,
        )

    def __str__(self) -> str:
        return f"NATS at {','.join(self.hosts)}"

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `nats.connect`.

        Raises OSError if a file cannot be read or used, and InvalidUserCredentialsError if `creds` is not a credentials
        file.
        """
        arguments: dict[str, Any] = {"servers": [self._address(host) for host in self.hosts]}
        if self.user is not None:
            arguments.update(user=self.user, password=self.password)
        if self.options.token is not None:
            arguments["token"] = self.options.token
        if self.options.creds is not None:
            text = Path(self.options.creds).read_text(errors="replace")
            if not all(part in text for part in CREDENTIALS):
                raise InvalidUserCredentialsError
            arguments["user_credentials"] = RawCredentials(text)
        if self.tls:
            arguments["tls"] = ssl.create_default_context(cafile=self.options.tls_ca)
            if self.options.tls_cert is not None:
                arguments["tls"].load_cert_chain(self.options.tls_cert, self.options.tls_key)
        return arguments

    async def connect(self, name: str) -> NatsClient:
        """Connect to the first server that can be used. If none can, raises the error of the last server.

        Each server before the last may use an equal share of the time, so a silent server leaves time for the others.
        """
        *others, last = self.hosts
        for host in others:
            with suppress(*LIBRARY_ERRORS):
                async with asyncio.timeout(self.timeout / len(self.hosts)):
                    return await self._connect(host, name)
        return await self._connect(last, name)

    async def _connect(self, host: str, name: str) -> NatsClient:
        arguments = {**self.arguments(), "servers": [self._address(host)]}
        client = NatsClient(must_encrypt=self.tls)
        seconds: Any = self.timeout  # nats-py declares durations as int, and accepts a float
        try:
            await client.connect(
                **arguments,
                name=name,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=seconds,
                ping_interval=seconds / 2,  # a silent connection is closed when a second ping is due
                max_outstanding_pings=1,
                error_cb=client.note_error,
                closed_cb=client.note_closed,
            )
        except BaseException as error:
            with suppress(OSError, Error):
                async with asyncio.timeout(CLOSING):  # after a failure of TLS, nats-py would wait for ever
                    await client.close()
            if isinstance(error, NoServersError) and client.error is not None:
                raise client.error from error
            raise
        return client

    def _address(self, host: str) -> str:
        return f"{'tls' if self.tls else 'nats'}://{host}"


class NatsClient(Client):
    """One connection, which does not reconnect. Must be created in the event loop."""

    def __init__(self, *, must_encrypt: bool) -> None:
        super().__init__()
        self._must_encrypt = must_encrypt
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection is closed or lost."""
        self.error: Exception | None = None
        """The last error that nats-py reported otherwise than by raising it; None if there is none.

        For example, the server reports a missing permission without an answer to the request, or an attempt to connect
        has failed.
        """
        self._error_at = 0.0

    def recent_error(self, seconds: float) -> Exception | None:
        """`error`, or None if it was reported more than `seconds` + RECENT seconds ago. Called in any thread."""
        return self.error if time.monotonic() - self._error_at < seconds + RECENT else None

    async def note_error(self, error: Exception) -> None:
        self.error, self._error_at = error, time.monotonic()

    async def note_closed(self) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def _connect_command(self) -> bytes:
        """The first command to the server, which contains the login.

        Raises SecureConnWantedError if TLS is wanted and the server does not require it: nats-py would send the command
        unencrypted.
        """
        if self._must_encrypt and not self._server_info.get("tls_required"):
            raise SecureConnWantedError
        return super()._connect_command()


def _with_port(url: BackendURL, host: str) -> str:
    """`host:port` of one server of the URL. Raises ConfigurationError if the host or the port is not valid."""
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname or "", PORT if parts.port is None else parts.port
    except ValueError:
        name, port = "", 0
    if not name:
        raise ConfigurationError(f"{url} has no valid host and port: write them as '{url.scheme}://localhost:{PORT}'")
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"

"""URLs of the Redis store: a server by host or by socket, or the primary that sentinels name. For readers of the store.

    redis://[[USER:]PASSWORD@]HOST[:PORT][/DB]              rediss:// is the same over TLS
    unix://[[USER:]PASSWORD@]/PATH/TO/SOCKET[?db=DB]
    redis+sentinel://[[USER:]PASSWORD@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB]      or rediss+sentinel://

User and password are those of the Redis; sentinels that want some too have options. The host may be any node of a
cluster: all keys of a namespace lie on one node, which is found from there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import ConfigurationError
from queueport.url import BackendURL

__all__ = ["RedisOptions", "RedisServerOptions", "Target", "parse"]

PORT, SENTINEL_PORT = 6379, 26379
EXAMPLE = "write 'redis://localhost:6379/0', 'unix:///run/redis.sock?db=0' or 'redis+sentinel://host1,host2/mymaster/0'"
SHAPE = re.compile(r"(?P<scheme>[a-z+]+)://(?:(?P<login>.*)@)?(?P<hosts>[^/@]*)(?P<path>/.*)?")
HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]+)(?::(?P<port>\d{1,5}))?")


class RedisServerOptions(BaseModel):
    """The options of URLs that name one server. Timeouts are those of `call_timeout`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    db: int | None = Field(None, ge=0, description="number of the database, where the path does not say it")
    username: str | None = Field(None, description="user, where the host part does not say it")
    password: str | None = Field(None, repr=False, description="its password")
    client_name: str = Field("queueport", pattern=r"^\S+$", description="how the connections show in CLIENT LIST")
    ssl_cert_reqs: Literal["required", "optional", "none"] = Field(
        "required", description="whether the server's certificate must be good"
    )
    ssl_check_hostname: bool = Field(True, description="whether it must be for this host")
    ssl_ca_certs: str | None = Field(None, description="file with the certificates of trusted authorities")
    ssl_certfile: str | None = Field(None, description="file with our own certificate")
    ssl_keyfile: str | None = Field(None, description="file with its key")


class RedisOptions(RedisServerOptions):
    """The options of `redis://` URLs and their like, sentinels among them."""

    sentinel_username: str | None = Field(None, description="user of the sentinels")
    sentinel_password: str | None = Field(None, repr=False, description="its password")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is, and how its connections are made."""

    shown: str
    """For messages: without password and options."""
    hosts: tuple[tuple[str, int], ...]
    """One server, or the sentinels. Empty for a socket."""
    path: str | None = None
    service: str | None = None
    """The name under which the sentinels know the primary."""
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    login: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """db, client_name, username, password."""
    sentinel_login: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse(url: BackendURL) -> Target:
    """The target of a URL. Raises ConfigurationError."""
    options = url.settings(RedisOptions)
    shown = str(BackendURL(url.text))
    match = SHAPE.fullmatch(url.text)
    if match is None:
        raise ConfigurationError(f"{shown} is no Redis: {EXAMPLE}")
    scheme, path = match["scheme"], unquote((match["path"] or "")[1:])
    _refuse_idle(options, scheme, shown)
    username, password = _login(match["login"])
    login: dict[str, Any] = {"client_name": options.client_name}
    login |= {"username": options.username or username, "password": options.password or password}
    if scheme == "unix":
        if match["hosts"] or not path:
            raise ConfigurationError(f"{shown} names no socket: {EXAMPLE}")
        return Target(shown, (), f"/{path}", login={**login, "db": options.db or 0})
    tls = _tls(options) if scheme.startswith("rediss") else None
    if not scheme.endswith("+sentinel"):
        hosts = _hosts(match["hosts"] or "localhost", PORT, shown)
        if len(hosts) > 1:
            raise ConfigurationError(f"{shown} names several hosts: name one, or the sentinels; {EXAMPLE}")
        return Target(shown, hosts, tls=tls, login={**login, "db": _database(path, options, shown)})
    service, _, database = path.partition("/")
    if not service:
        raise ConfigurationError(f"{shown} names no service of the sentinels: {EXAMPLE}")
    given = {"username": options.sentinel_username, "password": options.sentinel_password}
    login["db"] = _database(database, options, shown)
    hosts = _hosts(match["hosts"] or "localhost", SENTINEL_PORT, shown)
    return Target(shown, hosts, None, service, tls, login, given)


def _refuse_idle(options: RedisOptions, scheme: str, shown: str) -> None:
    """An option without effect must not pass unseen: its author believes in TLS, or in a password."""
    idle = {"ssl_": ("rediss://", scheme.startswith("rediss")), "sentinel_": ("redis+sentinel://", "+" in scheme)}
    for name in sorted(options.model_fields_set):
        for prefix, (where, used) in idle.items():
            if name.startswith(prefix) and not used:
                raise ConfigurationError(
                    f"{shown}: option {name!r} is for {where} and has no effect here: leave it out"
                )


def _login(text: str | None) -> tuple[str | None, str | None]:
    """User and password; a lone word is a user, as in redis-py."""
    user, _, password = (text or "").partition(":")
    return unquote(user) or None, unquote(password) or None


def _hosts(text: str, port: int, shown: str) -> tuple[tuple[str, int], ...]:
    found = []
    for one in text.split(","):
        match = HOST.fullmatch(one)
        number = int(match["port"] or port) if match else 0
        if match is None or not 0 < number < 2**16:
            raise ConfigurationError(f"{shown} names no host: {EXAMPLE}")
        found.append((unquote(match["host"]).strip("[]"), number))
    return tuple(found)


def _database(path: str, options: RedisOptions, shown: str) -> int:
    if path and not re.fullmatch(r"\d+", path):
        raise ConfigurationError(f"{shown} names no database: it is a number, as in redis://localhost:6379/0")
    if path and options.db not in (None, int(path)):
        raise ConfigurationError(f"{shown} names two databases: leave out db={options.db}")
    return int(path) if path else options.db or 0


def _tls(options: RedisOptions) -> dict[str, Any]:
    given = options.model_dump(include={"ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs"})
    if options.ssl_cert_reqs == "none":
        given["ssl_check_hostname"] = False
    return {**given, "ssl_certfile": options.ssl_certfile, "ssl_keyfile": options.ssl_keyfile}

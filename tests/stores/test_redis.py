"""The Redis store passes the store suite."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import redis

from queueport.stores.redis.store import RedisStore
from queueport.testing.stores import SharedSuite, StoreHarness
from tests.servers import redis_server


@dataclass
class Harness(StoreHarness):
    url: str
    prefix: str

    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> RedisStore:
        return RedisStore(self.url, namespace=f"{self.prefix}_{namespace}", call_timeout=30.0, clock=clock)

    def damage(self, namespace: str, job_id: str, field: str, value: object) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.hset(f"{{{self.prefix}_{namespace}}}:job:{job_id}", field, str(value))

    def damage_document(self, namespace: str, kind: str, name: str, text: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            key = f"{{{self.prefix}_{namespace}}}:documents:{kind}"
            kept: Any = client.hget(key, name)
            client.hset(key, name, f"{kept.decode().split()[0]} {text}")


@pytest.mark.timeout(600)  # the random calls take seconds on an idle machine and minutes on a busy one
class TestRedisStore(SharedSuite):
    @pytest.fixture
    def harness(self) -> Iterator[StoreHarness]:
        """A harness on a private server that keeps its data on disk, because `check` warns of other servers."""
        harness = Harness(redis_server(private=True).url, f"test{uuid4().hex[:12]}")
        yield harness
        with redis.Redis.from_url(harness.url) as client:
            for key in client.scan_iter(f"{{{harness.prefix}_*", 1000):
                client.unlink(key)

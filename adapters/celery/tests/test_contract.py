"""Celery keeps the contract: the whole suite of `queueport.testing`, on Redis and on RabbitMQ."""

from __future__ import annotations

import pytest

from adapters.celery.tests.harness import CeleryHarness
from queueport.testing import Contract, Harness


def harness_of(broker: str, request: pytest.FixtureRequest) -> Harness:
    """One for this test, with servers of its own where the test stops them."""
    return CeleryHarness(broker, private=getattr(request.function, "disrupts", False))


class TestRedis(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return harness_of("redis", request)


class TestRabbitMQ(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return harness_of("rabbitmq", request)

"""Runs the whole contract suite of `queueport.testing` on Celery, over Redis and over RabbitMQ."""

from __future__ import annotations

import pytest

from adapters.celery.tests.harness import CeleryHarness
from queueport.testing import Contract, Harness


class TestRedis(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return CeleryHarness("redis", private=getattr(request.function, "disrupts", False))


class TestRabbitMQ(Contract):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        return CeleryHarness("rabbitmq", private=getattr(request.function, "disrupts", False))

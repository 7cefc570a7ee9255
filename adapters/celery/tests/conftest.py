"""Fixtures: Celery over each broker, in a new namespace for each test. For the tests that are not in the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.celery.tests.harness import CeleryHarness
from queueport.testing.trace import TRACE, Trace


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """The trace in which the tasks of a test record their runs."""
    monkeypatch.setenv(TRACE, str(tmp_path))
    return Trace(tmp_path)


@pytest.fixture(params=["redis", "rabbitmq"])
def celery(request: pytest.FixtureRequest, trace: Trace) -> Iterator[CeleryHarness]:
    """A harness for Celery. Each test that uses it runs on both brokers."""
    yield from _used(CeleryHarness(request.param))


@pytest.fixture
def private_redis(trace: Trace) -> Iterator[CeleryHarness]:
    """A harness for Celery over a Redis that only the tests of this process use."""
    yield from _used(CeleryHarness("redis", private=True))


def _used(harness: CeleryHarness) -> Iterator[CeleryHarness]:
    yield harness
    harness.end()
    print(harness.logs())  # noqa: T201  # pytest shows it where the test failed

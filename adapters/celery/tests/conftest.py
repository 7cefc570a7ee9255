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
    harness = CeleryHarness(request.param)
    yield harness
    harness.end()
    print(harness.logs())  # noqa: T201  # pytest shows it where the test failed

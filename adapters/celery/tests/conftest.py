"""Celery over one broker or the other, in a namespace of its own. For the tests of this adapter beside the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.celery.tests.harness import CeleryHarness
from queueport.testing.trace import TRACE, Trace


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """What the tasks of a test leave behind."""
    monkeypatch.setenv(TRACE, str(tmp_path))
    return Trace(tmp_path)


@pytest.fixture(params=["redis", "rabbitmq"])
def celery(request: pytest.FixtureRequest, trace: Trace) -> Iterator[CeleryHarness]:
    """A broker, a store, and worker commands."""
    harness = CeleryHarness(request.param)
    yield harness
    harness.end()
    print(harness.story())  # noqa: T201  # pytest shows it where the test failed

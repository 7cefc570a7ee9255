"""The queues of the dashboard's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport import JobQueue, get_queue
from tests.dashboard.site import released


@pytest.fixture(params=["memory", "sqlite"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    """A queue on each of the built-in backends."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    with get_queue(url) as opened:
        yield opened


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[JobQueue]:
    """A queue on SQLite, for tests of what does not depend on the backend."""
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    released.clear()
    yield
    released.set()

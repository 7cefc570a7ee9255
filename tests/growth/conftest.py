"""The backends whose workers and producers must not grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport.testing.redis_store import Redis


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests where they cannot measure a process."""
    if not Path("/proc/self/fd").exists():
        for item in items:
            item.add_marker(pytest.mark.skip("it reads /proc, which only Linux has"))


@pytest.fixture(params=["sqlite", "rq", "celery", "dramatiq"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Redis | None]]:
    """The URL of a backend, and its private Redis, if it has one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db", None
        return
    server = Redis()
    yield f"{request.param}+{server.url}", server
    server.kill()

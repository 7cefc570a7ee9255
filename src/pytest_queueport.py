"""The pytest plugin of queueport: the fixture `job_queue`, see docs/testing.md. pytest loads it by its entry point.

This module is outside the package, because pytest would otherwise import queueport in every test run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from queueport.testing.fake_queue import FakeQueue

__all__ = ["job_queue", "pytest_configure"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker with which a test chooses options of its queue."""
    config.addinivalue_line(
        "markers", "job_queue(inline=False, profile=None, **settings): the options of the fixture `job_queue`"
    )


@pytest.fixture
def job_queue(request: pytest.FixtureRequest) -> Iterator[FakeQueue]:
    """A new `queueport.testing.FakeQueue` that is the default queue during the test.

    Jobs run when the test calls `drain` or `adrain`. With `@pytest.mark.job_queue(inline=True)`, each job of a
    registered task runs when it is enqueued. The marker takes all options of `FakeQueue`.
    """
    from queueport.testing.fake_queue import FakeQueue  # imported here, so that other tests do not import it

    marker = request.node.get_closest_marker("job_queue")
    with FakeQueue(**({} if marker is None else marker.kwargs)) as queue, queue.as_default():
        yield queue

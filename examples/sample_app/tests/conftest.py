"""The fixtures of the sample app's tests: a queue in memory, or the queue of QUEUEPORT_URL."""

import os
from collections.abc import Callable, Iterator

import pytest

from queueport import JobQueue, get_queue
from queueport.testing import FakeQueue


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> Iterator[JobQueue]:
    """The default queue of a test."""
    if "QUEUEPORT_URL" not in os.environ:
        yield request.getfixturevalue("job_queue")
        return
    with get_queue(os.environ["QUEUEPORT_URL"]) as opened, opened.as_default():
        yield opened


@pytest.fixture
def work(queue: JobQueue) -> Callable[[], None]:
    """Runs jobs until none is queued or waits for a retry."""

    def run() -> None:
        while (totals := queue.stats().totals).queued + totals.retrying > 0:
            if isinstance(queue, FakeQueue):
                queue.drain()
            else:
                queue.worker(threads=2, burst=True).run()

    return run

"""The runner and the pool on the memory store, in cases that the contract suite does not cover."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from queueport import JobQueue, get_queue, task
from queueport.spi.runner import MessageAction, Work
from queueport.stats import WorkerStats
from queueport.testing import tasks
from queueport.testing.waiting import eventually
from queueport.workers.attempt import Attempt
from queueport.workers.runner import Runner
from tests.unit.records import message_body


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://") as queue:
        yield queue


def test_two_messages_of_one_job_in_one_batch_begin_it_once(queue: JobQueue) -> None:
    body = message_body(queue, queue.enqueue(tasks.echo, 1).id)
    runner = Runner(queue.operations, [tasks.echo], Work((tasks.QUEUE,)))
    first, second = runner.receiver.begin([body, body], runner.given_up)
    assert isinstance(first, Attempt)
    assert second is MessageAction.ACKNOWLEDGE


def test_a_free_thread_takes_the_next_job_at_once(queue: JobQueue) -> None:
    """This must also hold for a worker that knows `async def` tasks, which need no thread and always have room."""
    handles = queue.enqueue_many([tasks.echo.job(number) for number in range(100)])
    started = time.monotonic()
    with queue.worker(tasks.QUEUE, tasks=[tasks.echo, tasks.asleep], threads=2):
        assert [handle.result(30) for handle in handles] == list(range(100))
    assert time.monotonic() - started < 5


def test_a_task_is_unknown_unless_a_live_worker_of_the_jobs_own_queue_knows_it(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    store, epoch = queue.operations.store, datetime.fromtimestamp(0, UTC)
    here, there = (queue.enqueue(task.named("elsewhere.work", queue=name)) for name in ("here", "there"))
    store.announce(WorkerStats("w", ("there", "also"), ("elsewhere.work",), epoch), 60.0)
    runner = Runner(queue.operations, [tasks.echo], Work(("here", "there", "also")))
    runner.receiver.mark_unknown()
    assert queue.operations.read(here.id).unknown_since is not None
    assert queue.operations.read(there.id).unknown_since is None
    assert f"job {here.id} waits: no live worker of its queue knows its task elsewhere.work" in caplog.text


class Stalled(logging.Handler):
    """Its output stalls at the first job that succeeds, until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "succeeded" in record.getMessage():
            self.reached.set()
            assert self.go_on.wait(30)


def test_heartbeats_go_on_while_the_output_of_the_log_stalls(caplog: pytest.LogCaptureFixture) -> None:
    """A log may stall if it is written to a pipe. The other jobs of the process must not run elsewhere meanwhile."""
    handler, logger = Stalled(), logging.getLogger("queueport")
    caplog.set_level(logging.INFO, logger.name)
    with get_queue("memory://", lease=1.0) as queue:
        long = queue.enqueue(tasks.sleep, 4.0)
        with queue.worker(tasks.QUEUE, tasks=[tasks.sleep, tasks.echo], threads=2):
            eventually(lambda: long.status().started_at)
            logger.addHandler(handler)
            try:
                short = queue.enqueue(tasks.echo, 1)
                assert handler.reached.wait(10)
                for _ in range(6):  # the heartbeats of two leases
                    before = queue.operations.read(long.id).wake_at
                    eventually(lambda: queue.operations.read(long.id).wake_at != before, 5)  # noqa: B023
            finally:
                handler.go_on.set()
                logger.removeHandler(handler)
            assert (long.result(10), short.result(10)) == (4.0, 1)

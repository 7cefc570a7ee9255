"""The runner and the pool, over the memory store: what the contract's lines do not pin down."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from queueport import JobQueue, get_queue
from queueport.attempt import Attempt
from queueport.message import Message
from queueport.runner import Runner, Verdict
from queueport.testing import tasks


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://") as queue:
        yield queue


def test_two_messages_of_one_job_in_one_batch_begin_it_once(queue: JobQueue) -> None:
    job_id = queue.enqueue(tasks.echo, 1).id
    body = Message.of(queue.read(job_id), 0.0).body
    runner = Runner(queue.operations, {tasks.echo.name: tasks.echo}, (tasks.QUEUE,))
    first, second = runner.begin([body, body])
    assert isinstance(first, Attempt)
    assert second is Verdict.ACKNOWLEDGE


def test_a_free_thread_takes_the_next_job_at_once(queue: JobQueue) -> None:
    """Also where the worker knows `async def` tasks, for which there is room all the time."""
    handles = queue.enqueue_many([tasks.echo.job(number) for number in range(100)])
    started = time.monotonic()
    with queue.worker(tasks.QUEUE, tasks=[tasks.echo, tasks.asleep], threads=2):
        assert [handle.result(30) for handle in handles] == list(range(100))
    assert time.monotonic() - started < 5

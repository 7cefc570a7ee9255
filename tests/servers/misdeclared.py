"""A queue that exists on RabbitMQ with other arguments. For the tests of the adapters that use RabbitMQ."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pika
import pytest

from queueport.errors import BackendMisconfigured
from queueport.testing import Harness, tasks
from queueport.testing.waiting import eventually

__all__ = ["check_a_queue_with_other_arguments"]

SAYS = "inequivalent arg"


def check_a_queue_with_other_arguments(
    harness: Harness, url: str, tries: Sequence[object], caplog: pytest.LogCaptureFixture
) -> None:
    """Check that the error and `check` say what is wrong, that a worker logs it once, and that the worker then runs
    jobs.

    The worker runs jobs as soon as the queue was deleted. `tries` has an item for each attempt of the worker to use the
    queue. `url` names the RabbitMQ.
    """
    queue = harness.open()
    name = f"{harness.namespace}.{tasks.QUEUE}"
    assert queue.check().ok
    try:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            channel.queue_declare(name, durable=True, arguments={"x-max-length": 5})
            for _ in range(2):  # before and after the first call that uses the queue
                (problem,) = queue.check().problems
                assert SAYS in problem
                with pytest.raises(BackendMisconfigured, match=SAYS):
                    queue.enqueue(tasks.echo, 1)
            with caplog.at_level(logging.INFO), queue.worker(threads=2):
                caplog.clear()
                eventually(lambda: len(tries) >= 4, 30)
                told = [message for message in caplog.messages if SAYS in message]
                channel.queue_delete(name)
                eventually(lambda: queue.check().ok, 10)
                assert queue.enqueue(tasks.echo, 2).result(30) == 2
        assert len(told) == 1, told
    finally:
        harness.end()

"""queueport turns off what Dramatiq's default middleware would do with its jobs."""

from __future__ import annotations

import logging
import uuid
from queue import PriorityQueue
from typing import Any
from unittest.mock import Mock

import dramatiq
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import (
    AgeLimit,
    Callbacks,
    Middleware,
    MiddlewareError,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
    default_middleware,
)
from dramatiq.results import Results
from dramatiq.worker import ConsumerThread, Worker

from queueport import get_queue, task
from queueport.errors import BackendUnavailable
from queueport.spi.message import Message
from queueport.spi.runner import DeliveryResult
from queueport.testing.waiting import eventually
from queueport_dramatiq.messages import translate
from queueport_dramatiq.middleware import OFF, JobMiddleware
from tests.servers import redis_server

DECIDED = {
    "AgeLimit": {"max_age": "off"},
    "TimeLimit": {"time_limit": "off"},
    "ShutdownNotifications": {"notify_shutdown": "off"},
    "Callbacks": dict.fromkeys(("on_failure", "on_success"), "the application's own"),
    "Pipelines": dict.fromkeys(("pipe_ignore", "pipe_target"), "not of a single job"),
    "Retries": {
        "throws": "off",
        **dict.fromkeys(("max_retries", "min_backoff", "max_backoff", "retry_when", "on_retry_exhausted"), "by throws"),
    },
}
"""How queueport treats each option of each middleware that a broker has by default."""


def test_every_option_of_dramatiqs_default_middleware_is_known() -> None:
    assert {middleware.__name__ for middleware in default_middleware} == set(DECIDED)
    for middleware in (AgeLimit, Callbacks, Pipelines, Retries, ShutdownNotifications, TimeLimit):
        assert middleware().actor_options == set(DECIDED[middleware.__name__])


def test_every_option_that_is_turned_off_exists_in_dramatiq() -> None:
    known = {name for options in DECIDED.values() for name in options} | Results(backend=None).actor_options  # type: ignore[no-untyped-call]  # Dramatiq has no types here
    assert set(OFF) <= known
    off = {name for options in DECIDED.values() for name, how in options.items() if how == "off"}
    assert off | {"store_results"} == set(OFF)


class Refuses(Middleware):
    """A middleware of an application that refuses each message."""

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        raise MiddlewareError("not now")


@pytest.mark.parametrize("refuses", [False, True], ids=["the store does not answer", "a middleware refuses"])
def test_dramatiq_does_not_retry_a_job_that_could_not_begin(refuses: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def deliver(body: bytes) -> DeliveryResult:
        raise BackendUnavailable("the store does not answer")

    broker = StubBroker(middleware=[Retries(min_backoff=1), *([Refuses()] if refuses else [])])
    JobMiddleware(deliver).install(broker)
    broker.declare_queue("q")
    message = Message(id="1", task="t", queue="q", life=1, sent_at=0.0, body=b'{"v":1,"id":"1"}')
    broker.enqueue(translate(message, "q"))
    worker = Worker(broker, worker_threads=1)
    worker.start()
    try:
        eventually(lambda: "Failed to process message" in caplog.text)
    finally:
        worker.stop()
    assert "Retrying message" not in caplog.text
    assert "Unexpected failure in after_process_message" not in caplog.text
    assert not refuses or "refused a message of job 1: not now" in caplog.text


@pytest.mark.parametrize("own", [True, False], ids=["queueport's broker", "an application's broker"])
def test_a_stopped_worker_returns_the_fetched_messages_that_it_has_not_taken(
    own: bool,
) -> None:
    url, name = redis_server().url, f"stop_{uuid.uuid4().hex[:12]}"
    with get_queue(f"dramatiq+{url}", namespace=name) as queue, get_queue(f"dramatiq+{url}", namespace=name) as other:
        broker = other.native if own else RedisBroker(url=url)  # type: ignore[no-untyped-call]  # Dramatiq has no types
        JobMiddleware(Mock()).install(broker)
        worker = Worker(broker, queues={f"{name}.default"}, worker_threads=1)
        queue.enqueue_many(task.named("any").job(number) for number in range(3))
        broker.declare_queue(f"{name}.default")
        thread = ConsumerThread(
            broker=broker, queue_name=f"{name}.default", prefetch=3, work_queue=PriorityQueue(), worker_timeout=100
        )
        consumer: Any = broker.consume(f"{name}.default", prefetch=3, timeout=100)
        thread.consumer = consumer
        assert next(consumer) is not None  # this message is the worker's; the others are in the consumer's cache
        worker.consumers = {f"{name}.default": thread}
        broker.emit_after("worker_shutdown", worker)  # as at the end of `Worker.stop`
        depth = queue.driver.depth("default")
        assert depth is not None
        assert depth.ready == 2

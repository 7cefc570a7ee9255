"""Tests that the outcomes of `send` (sent, failed, unknown) are right, and what other tools see of a message."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from adapters.rabbitmq.tests.broker import SETTLED, Broker
from adapters.rabbitmq.tests.conftest import Opener, message, messages
from queueport.errors import BackendUnavailable
from queueport.spi.event_loop import _Running
from queueport.spi.message import SendOutcome, SendResult
from queueport.testing.private_servers import LARGEST
from queueport.testing.waiting import eventually
from queueport_rabbitmq import RabbitMQTransport
from queueport_rabbitmq.publisher import WINDOW
from tests.servers import rabbitmq_server
from tests.servers.interruptions import interrupt_sends

SENT = SendResult(SendOutcome.SENT)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_a_batch_of_several_windows_arrives_completely_and_in_order(
    broker: Broker, opener: Opener, queue_type: str
) -> None:
    transport = opener(f"{broker.url}?queue_type={queue_type}")
    assert transport.send("q", messages(5 * WINDOW)) == [SENT] * (5 * WINDOW)
    assert broker.drain(broker.work("q")) == [str(number) for number in range(5 * WINDOW)]


def test_a_message_shows_its_job_to_the_brokers_own_tools(broker: Broker, transport: RabbitMQTransport) -> None:
    transport.send("q", [message("job-1", life=3)])
    with broker.channel() as channel:
        got: Any = channel.basic_get(broker.work("q"))
    _, properties, body = got
    assert body == b'{"v":1,"id":"job-1"}'
    assert (properties.message_id, properties.type, properties.delivery_mode) == ("job-1", "tests.task", 2)
    assert (properties.app_id, properties.content_type) == ("queueport", "application/json")
    named = {name: value for name, value in properties.headers.items() if not name.startswith("x-")}
    assert named == {"queue": "q", "task": "tests.task", "life": 3, "send": 1}


def test_a_queue_that_was_deleted_is_declared_again(broker: Broker, transport: RabbitMQTransport) -> None:
    assert transport.send("q", [message("before")]) == [SENT]
    broker.clean("q")
    assert transport.send("q", messages(50)) == [SENT] * 50
    assert broker.depth(broker.work("q")) == 50


def test_a_queue_with_other_arguments_is_refused_and_affects_no_other_queue(
    broker: Broker, transport: RabbitMQTransport
) -> None:
    with broker.channel() as channel:
        channel.queue_declare(broker.work("q"), durable=True)
    (sent,) = transport.send("q", [message("a")])
    assert sent.outcome is SendOutcome.FAILED
    assert isinstance(sent.error, BackendUnavailable)
    assert broker.work("q") in str(sent.error)
    assert "queue_type=" in str(sent.error)
    assert transport.send("other", [message("b", "other")]) == [SENT]


def test_many_threads_at_once_lose_and_duplicate_no_message(broker: Broker, transport: RabbitMQTransport) -> None:
    def send(thread: int) -> list[SendResult]:
        return [
            outcome
            for number in range(20)
            for outcome in transport.send("q", [message(f"{thread}-{number}-{one}") for one in range(10)])
        ]

    with ThreadPoolExecutor(8) as pool:
        assert [outcome for each in pool.map(send, range(8)) for outcome in each] == [SENT] * 1600
    assert Counter(Counter(broker.ids(broker.work("q"))).values()) == {1: 1600}


def test_messages_written_to_a_hanging_server_are_unknown(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "queueport_rabbitmq.publisher.WINDOW", 3
    )  # so few messages are written at once even under a slow tracer
    server = rabbitmq_server(private=True)
    transport = opener(server.url, call_timeout=1.0)
    assert transport.send("q", [message("before")]) == [SENT]
    with server.paused():
        outcomes = [sent.outcome for sent in transport.send("q", messages(4))]
        assert outcomes == [SendOutcome.UNKNOWN] * 3 + [SendOutcome.FAILED]
    assert transport.send("q", [message("after")]) == [SENT]
    Broker(server.url, transport._topology.namespace).clean("q")


def test_a_message_that_a_hanging_server_does_not_confirm_is_unknown(opener: Opener) -> None:
    server = rabbitmq_server(private=True)
    transport = opener(server.url, call_timeout=1.0)
    assert transport.send("q", [message("before")]) == [SENT]
    with server.paused():
        started = time.monotonic()
        (sent,) = transport.send("q", [message("lost")])
        assert sent.outcome is SendOutcome.UNKNOWN
        assert "did not answer" in str(sent.error)
        assert time.monotonic() - started < 3
    assert transport.send("q", [message("after")]) == [SENT], "the silent connection must be replaced"
    Broker(server.url, transport._topology.namespace).clean("q")


def test_a_message_over_an_open_connection_starts_no_asyncio_task(
    broker: Broker, transport: RabbitMQTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert transport.send("q", [message("first")]) == [SENT]
    begun: list[object] = []
    monkeypatch.setattr(_Running, "begin", lambda self, work: begun.append(work))
    assert transport.send("q", [message("second")]) == [SENT]
    assert transport.send("q", messages(WINDOW)) == [SENT] * WINDOW
    assert begun == []
    monkeypatch.undo()
    assert broker.depth(broker.work("q")) == WINDOW + 2


def test_a_message_that_is_too_large_is_refused_alone(opener: Opener) -> None:
    """RabbitMQ closes the channel because of such a message, and so loses the messages after it."""
    server = rabbitmq_server(private=True)
    transport = opener(server.url, call_timeout=10.0)
    large = replace(message("large"), body=b"x" * (LARGEST + 1))
    sent = transport.send("q", [message("a"), large, message("b"), message("c")])
    assert [one.outcome for one in sent] == [SENT.outcome, SendOutcome.REFUSED, SENT.outcome, SENT.outcome]
    assert "raise its max_message_size, or keep large data elsewhere" in str(sent[1].error)
    buried = transport.bury("q", [message("a"), large])
    assert [one.outcome for one in buried] == [SENT.outcome, SendOutcome.REFUSED]
    broker = Broker(server.url, transport._topology.namespace)
    assert set(broker.ids(broker.work("q"))) == {"a", "b", "c"}
    broker.clean("q")


def test_after_a_restart_the_same_transport_sends_again(opener: Opener) -> None:
    server = rabbitmq_server(private=True)
    transport = opener(f"{server.url}?queue_type=classic")
    assert transport.send("q", messages(10)) == [SENT] * 10
    time.sleep(SETTLED)
    with server.down():
        (sent,) = transport.send("q", [message("lost")])
        assert sent.outcome is not SendOutcome.SENT
        assert "refuses connections" in str(sent.error)
    assert transport.send("q", [message("after")]) == [SENT]
    broker = Broker(server.url, transport._topology.namespace)
    assert broker.ids(broker.work("q")) == [*(str(number) for number in range(10)), "after"]
    broker.clean("q")


def test_a_thread_that_is_interrupted_while_it_sends_leaves_no_lock(
    broker: Broker, transport: RabbitMQTransport
) -> None:
    transport.send("q", [message("before")])
    interrupt_sends(lambda: transport.send("q", messages(3)))
    assert transport.send("q", [message("after")]) == [SENT]


@pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)  # the test forks a process with threads
def test_a_child_process_opens_its_own_connections(
    broker: Broker, transport: RabbitMQTransport, caplog: pytest.LogCaptureFixture
) -> None:
    transport.send("q", [message("before")])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fine = transport.send("q", [message("child")]) == [SENT]
            transport.close()
            code = 0 if fine else 2
        finally:
            os._exit(code)
    assert transport.send("q", [message("parent")]) == [SENT]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert transport.send("q", [message("after")]) == [SENT]
    eventually(lambda: sorted(broker.ids(broker.work("q"))) == ["after", "before", "child", "parent"])
    assert "lost" not in caplog.text

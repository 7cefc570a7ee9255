"""What `send` says is so: confirmed, certainly not there, or unknown; and what others see of a message."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from adapters.rabbitmq.tests.broker import Broker
from adapters.rabbitmq.tests.conftest import Opener, message, messages
from queueport.driver import SendOutcome, Sent
from queueport.errors import BackendUnavailable
from queueport.testing.waiting import eventually
from queueport_rabbitmq import RabbitMQTransport
from queueport_rabbitmq.publisher import WINDOW
from tests.servers import rabbitmq_server

SENT = Sent(SendOutcome.SENT)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_a_batch_of_several_windows_arrives_whole_and_in_order(broker: Broker, opener: Opener, queue_type: str) -> None:
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


def test_a_queue_that_was_deleted_meanwhile_is_made_again(broker: Broker, transport: RabbitMQTransport) -> None:
    assert transport.send("q", [message("before")]) == [SENT]
    broker.clean("q")
    assert transport.send("q", messages(50)) == [SENT] * 50
    assert broker.depth(broker.work("q")) == 50


def test_a_queue_made_in_another_way_is_refused_and_spoils_no_other(
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


def test_many_threads_at_once_lose_and_double_nothing(broker: Broker, transport: RabbitMQTransport) -> None:
    def send(thread: int) -> list[Sent]:
        return [
            outcome
            for number in range(20)
            for outcome in transport.send("q", [message(f"{thread}-{number}-{one}") for one in range(10)])
        ]

    with ThreadPoolExecutor(8) as pool:
        assert [outcome for each in pool.map(send, range(8)) for outcome in each] == [SENT] * 1600
    assert Counter(Counter(broker.ids(broker.work("q"))).values()) == {1: 1600}


def test_a_server_that_hangs_leaves_what_was_written_unknown(opener: Opener) -> None:
    server = rabbitmq_server(private=True)
    transport = opener(server.url, call_timeout=1.0)
    assert transport.send("q", [message("before")]) == [SENT]
    with server.paused():
        outcomes = [sent.outcome for sent in transport.send("q", messages(WINDOW + 1))]
        assert outcomes == [SendOutcome.UNKNOWN] * WINDOW + [SendOutcome.FAILED]
    assert transport.send("q", [message("after")]) == [SENT]
    Broker(server.url, transport._topology.namespace).clean("q")


def test_after_a_restart_the_same_transport_sends_again(opener: Opener) -> None:
    server = rabbitmq_server(private=True)
    transport = opener(f"{server.url}?queue_type=classic")  # a quorum queue does not survive a kill in its first second
    assert transport.send("q", messages(10)) == [SENT] * 10
    with server.down():
        (sent,) = transport.send("q", [message("lost")])
        assert sent.outcome is not SendOutcome.SENT
        assert "refuses connections" in str(sent.error)
    assert transport.send("q", [message("after")]) == [SENT]
    broker = Broker(server.url, transport._topology.namespace)
    assert broker.ids(broker.work("q")) == [*(str(number) for number in range(10)), "after"]
    broker.clean("q")


def test_a_thread_that_is_interrupted_while_it_sends_leaves_nothing_locked(
    broker: Broker, transport: RabbitMQTransport
) -> None:
    class Interrupted(BaseException):
        pass

    transport.send("q", [message("before")])
    for _ in range(100):
        ready, ended = threading.Event(), threading.Event()

        def send(ready: threading.Event = ready, ended: threading.Event = ended) -> None:
            try:
                ready.set()
                while True:
                    transport.send("q", messages(3))
            except Interrupted:
                ended.set()

        thread = threading.Thread(target=send)
        thread.start()
        ready.wait(5)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupted))
        thread.join(10)
        assert ended.is_set()
    assert transport.send("q", [message("after")]) == [SENT]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the test is about it
def test_a_child_after_a_fork_has_connections_of_its_own(
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

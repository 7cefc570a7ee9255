"""Tests dead-letter copies: added, removed from the middle of a long queue, and kept in order."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pika
import pytest

from adapters.rabbitmq.tests.broker import Broker
from adapters.rabbitmq.tests.conftest import Opener, message, received
from queueport.errors import BackendUnavailable
from queueport.spi.message import Message
from queueport.testing.waiting import eventually
from queueport_rabbitmq import RabbitMQTransport, dead_letters

DEEP = 20_000


def copy(job_id: str, life: int = 1) -> Message:
    """A dead-letter copy."""
    return replace(message(job_id, life=life), buried=True)


def test_only_the_copy_of_that_job_and_life_is_removed(broker: Broker, transport: RabbitMQTransport) -> None:
    transport.bury("q", [copy("a"), copy("b"), copy("b", life=2), copy("c"), copy("b")])
    transport.unbury("q", [copy("b"), copy("nowhere")])
    assert broker.ids(broker.dead("q")) == ["a", "b", "c"]
    transport.unbury("q", [copy("a"), copy("b", life=2), copy("c")])
    assert broker.ids(broker.dead("q")) == []


def test_removing_a_copy_that_was_never_buried_does_nothing(broker: Broker, transport: RabbitMQTransport) -> None:
    transport.unbury("q", [copy("a")])
    transport.setup(["q"])
    transport.unbury("q", [copy("a")])


def test_a_deep_queue_is_searched_in_time_and_keeps_its_order(broker: Broker, transport: RabbitMQTransport) -> None:
    for start in range(0, DEEP, 2_000):
        transport.bury("q", [copy(str(number)) for number in range(start, start + 2_000)])
    started = time.monotonic()
    transport.unbury("q", [copy("0"), copy("10000"), copy("19999")])
    assert time.monotonic() - started < 5.0
    expected = [str(number) for number in range(DEEP) if number not in (0, 10_000, 19_999)]
    assert broker.drain(broker.dead("q")) == expected


def test_many_searches_at_the_same_time_all_succeed(
    broker: Broker, transport: RabbitMQTransport, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("BUSY", "LOOK"):
        monkeypatch.setattr(dead_letters, pause, 0.0005)  # shorter pauses let the threads search at the same time
    transport.bury("q", [copy(str(number)) for number in range(260)])
    transports = [transport, *(opener(broker.url, call_timeout=30.0) for _ in range(5))]

    def take(first: int) -> None:
        for number in range(first, 240, len(transports)):
            transports[first].unbury("q", [copy(str(number))])

    with ThreadPoolExecutor() as pool:
        list(pool.map(take, range(len(transports))))
    assert broker.ids(broker.dead("q")) == [str(number) for number in range(240, 260)]


def test_a_search_held_by_another_consumer_and_fails_in_time(broker: Broker, opener: Opener) -> None:
    transport = opener(broker.url, call_timeout=1.0)
    transport.bury("q", [copy("a")])
    with broker.channel() as channel:
        channel.basic_consume(broker.dead("q"), lambda *_: None, exclusive=True)
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match="dead letters"):
            transport.unbury("q", [copy("a")])
        assert 1.0 <= time.monotonic() - started < 1.5
    eventually(lambda: broker.ids(broker.dead("q")) == ["a"])
    transport.unbury("q", [copy("a")])
    assert broker.ids(broker.dead("q")) == []


def test_a_message_put_aside_keeps_its_properties_and_is_not_delivered_again(
    broker: Broker, transport: RabbitMQTransport
) -> None:
    transport.setup(["q"])
    properties = pika.BasicProperties(content_type="text/plain", headers={"from": "elsewhere"}, expiration="600000")
    broker.publish(broker.work("q"), b"not ours", properties)
    (delivery,) = received(transport, 1)
    transport.put_aside(delivery)
    with broker.channel() as channel:
        got: Any = channel.basic_get(broker.aside("q"))
    _, kept, body = got
    assert body == b"not ours"
    assert (kept.content_type, kept.headers, kept.expiration) == ("text/plain", {"from": "elsewhere"}, None)
    transport.close()
    assert broker.depth(broker.work("q")) == 0

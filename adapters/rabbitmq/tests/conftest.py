"""Transports on a real RabbitMQ, in a new namespace for each test. For the tests of this adapter."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest

from adapters.rabbitmq.tests.broker import Broker
from queueport.errors import BackendUnavailable
from queueport.spi.message import Message
from queueport.spi.settings import read
from queueport.spi.transport import Delivery
from queueport.stores.memory.store import MemoryStore
from queueport_rabbitmq import RabbitMQTransport
from tests.servers import rabbitmq_server

QUEUES = ("q", "other")

Opener = Callable[..., RabbitMQTransport]


@pytest.fixture
def namespace() -> str:
    return f"rmqtest_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def broker(namespace: str) -> Iterator[Broker]:
    """This test's namespace on the shared RabbitMQ, without queueport."""
    made = Broker(rabbitmq_server().url, namespace)
    yield made
    made.clean(*QUEUES)


@pytest.fixture
def opener(namespace: str) -> Iterator[Opener]:
    """Opens transports in this test's namespace, and closes them after the test."""
    opened: list[RabbitMQTransport] = []

    def open_one(url: str, **given: object) -> RabbitMQTransport:
        parsed, settings = read(url, {"store": "memory://", "namespace": namespace, **given})
        opened.append(RabbitMQTransport.open(parsed, settings, MemoryStore()))
        return opened[-1]

    yield open_one
    for transport in opened:
        transport.close()


@pytest.fixture
def transport(opener: Opener, broker: Broker) -> RabbitMQTransport:
    """A transport on the shared RabbitMQ."""
    return opener(broker.url)


def message(job_id: str, queue: str = "q", life: int = 1, priority: int = 0) -> Message:
    """A message of a job."""
    body = f'{{"v":1,"id":"{job_id}"}}'.encode()
    return Message(job_id, "tests.task", queue, life, time.time(), body, priority)


def messages(count: int, queue: str = "q") -> list[Message]:
    """`count` messages, with the ids 0, 1, 2 and so on."""
    return [message(str(number), queue) for number in range(count)]


def received(
    transport: RabbitMQTransport, count: int, queues: Sequence[str] = ("q",), limit: int = 10
) -> list[Delivery]:
    """Exactly `count` deliveries, received within ten seconds."""
    found: list[Delivery] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += transport.receive(queues, min(limit, count - len(found)), 0.5)
    assert len(found) == count
    return found


def received_again(transport: RabbitMQTransport, count: int) -> list[Delivery]:
    """The deliveries that `received` returns; no deliveries if the transport is reconnecting."""
    try:
        return received(transport, count, limit=count)
    except BackendUnavailable:
        return []


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """The message ids of these deliveries."""
    return [str(delivery.receipt.properties.message_id) for delivery in deliveries]

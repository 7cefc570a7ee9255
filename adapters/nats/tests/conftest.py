"""Transports on a real NATS, in a new namespace for each test. For the tests of this adapter."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest

from adapters.nats.tests.jetstream import JetStream
from queueport.errors import BackendUnavailable
from queueport.spi.message import Message
from queueport.spi.settings import read
from queueport.spi.transport import Delivery
from queueport.stores.memory.store import MemoryStore
from queueport_nats import NatsTransport
from tests.servers import nats_server

Opener = Callable[..., NatsTransport]


@pytest.fixture
def namespace() -> str:
    return f"natstest_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def jetstream(namespace: str) -> Iterator[JetStream]:
    """The shared NATS, as its own tools see it."""
    made = JetStream(nats_server().url, namespace)
    yield made
    made.clean()


@pytest.fixture
def opener(namespace: str) -> Iterator[Opener]:
    """Opens transports in this test's namespace, and closes them after the test."""
    opened: list[NatsTransport] = []

    def open_one(url: str, **given: object) -> NatsTransport:
        parsed, settings = read(url, {"store": "memory://", "namespace": namespace, **given})
        opened.append(NatsTransport.open(parsed, settings, MemoryStore()))
        return opened[-1]

    yield open_one
    for transport in opened:
        transport.close()


@pytest.fixture
def transport(opener: Opener, jetstream: JetStream) -> NatsTransport:
    """A transport on the shared NATS."""
    return opener(jetstream.url)


def message(job_id: str, queue: str = "q", life: int = 1, size: int = 0) -> Message:
    """A message of a job, of at least `size` bytes."""
    body = f'{{"v":1,"id":"{job_id}"}}'.encode().ljust(size)
    return Message(job_id, "tests.task", queue, life, time.time(), body)


def messages(count: int, queue: str = "q") -> list[Message]:
    """`count` messages, with the ids 0, 1, 2 and so on."""
    return [message(str(number), queue) for number in range(count)]


def received(transport: NatsTransport, count: int, queues: Sequence[str] = ("q",), limit: int = 10) -> list[Delivery]:
    """Exactly `count` deliveries, received within ten seconds."""
    found: list[Delivery] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        try:
            found += transport.receive(queues, min(limit, count - len(found)), 0.5)
        except BackendUnavailable:  # the transport is reconnecting
            time.sleep(0.05)
    assert len(found) == count
    return found


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    """The job ids of these deliveries."""
    return [delivery.body.decode().split('"')[5] for delivery in deliveries]

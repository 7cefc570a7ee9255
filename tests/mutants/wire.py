"""`WireTransport`: a broker in the memory of this process, and its transport. For the mutants and for unit tests.

A message is delivered once and held until it is acknowledged. It is never delivered again, because a worker that
crashes takes the broker with it.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Self

from queueport import Capability
from queueport.spi.message import Depth, Message, SendOutcome, SendResult
from queueport.spi.settings import Settings
from queueport.spi.store import JobStore
from queueport.spi.transport import Delivery, Transport
from queueport.spi.url import BackendURL

__all__ = ["Broker", "WireTransport", "broker"]

Entry = tuple[int, int, bytes]
"""A waiting message: its negated priority, its number and its body. Messages are delivered in ascending order."""


@dataclass
class Broker:
    """The messages of one URL and namespace, which all its transports share. The lock of `changed` protects them."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: defaultdict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    held: defaultdict[str, dict[int, Entry]] = field(default_factory=lambda: defaultdict(dict))
    dead: dict[str, Message] = field(default_factory=dict)
    aside: list[Delivery] = field(default_factory=list)
    sent: dict[str, bytes] = field(default_factory=dict)
    """The latest message of each job that was sent, by the id of the job."""
    down: bool = False
    numbers: count[int] = field(default_factory=count)

    def put(self, queue: str, body: bytes, priority: int = 0) -> None:
        """Put a message into a queue."""
        with self.changed:
            insort(self.waiting[queue], (-priority, next(self.numbers), body))
            self.changed.notify_all()


class WireTransport(Transport):
    """The transport of `wire://NAME`."""

    name = "wire"
    capabilities = frozenset(
        {Capability.PRIORITY, Capability.DEPTH, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        return cls(broker(url.text, settings.namespace))

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        return url.text.replace("wire", "memory", 1)

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        if self.broker.down:
            return [SendResult(SendOutcome.FAILED, ConnectionError("the broker is down"))] * len(messages)
        for message in messages:
            self.broker.sent[message.id] = message.body
            self.broker.put(queue, message.body, message.priority)
        return [SendResult(SendOutcome.SENT)] * len(messages)

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        broker = self.broker
        with broker.changed:
            broker.changed.wait_for(lambda: any(broker.waiting[queue] for queue in queues), wait)
            ready = [queue for queue in queues for _ in broker.waiting[queue]]
            return [self._held(queue) for queue in ready[:limit]]

    def _held(self, queue: str) -> Delivery:
        entry = self.broker.waiting[queue].pop(0)
        self.broker.held[queue][entry[1]] = entry
        return Delivery(entry[2], queue, entry[1])

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        with self.broker.changed:
            for delivery in deliveries:
                self.broker.held[delivery.queue].pop(delivery.receipt, None)

    def put_aside(self, delivery: Delivery) -> None:
        self.ack([delivery])
        self.broker.aside.append(delivery)

    def depth(self, queue: str) -> Depth | None:
        with self.broker.changed:
            return Depth(len(self.broker.waiting[queue]) + len(self.broker.held[queue]))

    def bury(self, queue: str, messages: Sequence[Message]) -> None:
        self.broker.dead.update((message.id, message) for message in messages)

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        for message in messages:
            self.broker.dead.pop(message.id, None)

    def purge(self, queue: str) -> None:
        with self.broker.changed:
            self.broker.waiting[queue].clear()

    def check(self) -> Sequence[str]:
        return ()


def broker(url: str, namespace: str) -> Broker:
    """The broker of this URL and namespace. The options of the URL do not matter."""
    return _brokers[url.partition("://")[2].partition("?")[0], namespace]


_brokers: defaultdict[tuple[str, str], Broker] = defaultdict(Broker)

"""The queues and the exchange that belong to a namespace: their names, and how they are declared.

    NAMESPACE.QUEUE          what waits to run: a quorum queue, or a classic one with priorities
    NAMESPACE.QUEUE:dead     copies of dead jobs, bound to the direct exchange NAMESPACE:dead by the queue's name
    NAMESPACE.QUEUE:aside    what came in and is no message of queueport's

A namespace holds neither `.` nor `:`, and a queue's name no `:`, so that no two of these can be the same.

RabbitMQ fixes a queue's arguments when it is made, and refuses to hear of it with others. So there are as few as can
be, and none that depends on the server's version: a cluster is upgraded without a queue being made anew. From version
4.0 on a quorum queue drops what came back 20 times
(https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling): of a job that costs `lost_after` seconds, then it
is sent again. A copy that is dropped would not come back, and each look at it counts as one time, so copies are kept in
classic queues, which do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

from queueport_rabbitmq.channel import Channel

__all__ = ["PRIORITIES", "Place", "Topology"]

PRIORITIES = 20
"""queueport's -10 to 10 are 0 to 20 here. https://www.rabbitmq.com/docs/priority"""
CLASSIC: dict[str, Any] = {"x-queue-type": "classic"}
"""Said aloud, for a vhost may have another default."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where messages go: by `exchange` and `key` into `queue`, which is declared with `arguments`."""

    queue: str
    arguments: dict[str, Any]
    exchange: str
    key: str

    async def declare(self, connection: AsyncioConnection) -> None:
        """Make it if it is not there, on a channel of its own, which an error closes."""
        async with Channel.opened(connection) as channel:
            raw = channel.raw
            await channel.ask(raw.queue_declare, self.queue, durable=True, arguments=self.arguments)
            if self.exchange:
                await channel.ask(raw.exchange_declare, self.exchange, exchange_type="direct", durable=True)
                await channel.ask(raw.queue_bind, self.queue, self.exchange, routing_key=self.key)


@dataclass(frozen=True, slots=True)
class Topology:
    """The places of one namespace; `queue_type` is that of the queues that carry jobs."""

    namespace: str
    queue_type: str

    def work(self, queue: str) -> Place:
        """Where the jobs of a queue wait."""
        name = f"{self.namespace}.{queue}"
        more = {"x-max-priority": PRIORITIES} if self.queue_type == "classic" else {}
        return Place(name, {"x-queue-type": self.queue_type, **more}, "", name)

    def dead(self, queue: str) -> Place:
        """Where copies of its dead jobs lie."""
        return Place(f"{self.namespace}.{queue}:dead", CLASSIC, f"{self.namespace}:dead", queue)

    def aside(self, queue: str) -> Place:
        """Where lies what came through it and is none of queueport's."""
        name = f"{self.namespace}.{queue}:aside"
        return Place(name, CLASSIC, "", name)

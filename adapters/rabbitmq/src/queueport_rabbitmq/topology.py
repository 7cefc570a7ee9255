"""The queues and the exchange of a namespace: their names and arguments. For the client and the transport.

    NAMESPACE.QUEUE          jobs that wait to run: a quorum queue, or by option a classic queue with priorities
    NAMESPACE.QUEUE:dead     copies of dead jobs, bound to the direct exchange NAMESPACE:dead by the queue's name
    NAMESPACE.QUEUE:aside    messages that were put aside

A namespace contains no `.` and no `:`, and a queue's name contains no `:`, so two of these names are never the same.

RabbitMQ fixes a queue's arguments when the queue is declared, and refuses later declarations with other arguments.
These queues have as few arguments as possible, and none that depends on the server's version, so that the queues stay
usable when a cluster is upgraded.

From version 4.0 on, a quorum queue by default drops a message that was returned more than 20 times. If this happens to
a job's message, a dispatcher finds that the message is lost, and sends the job again. But each search of the dead
letters receives all copies, and the copies that it does not remove are returned to their queue. Nothing would send a
dropped copy again. So copies are kept in classic queues, which have no such limit:
https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pika.adapters.asyncio_connection import AsyncioConnection

from queueport.job import HIGHEST_PRIORITY
from queueport_rabbitmq.channel import NOT_FOUND, Channel, Refused

__all__ = ["PRIORITIES", "Destination", "Topology"]

PRIORITIES = 2 * HIGHEST_PRIORITY
"""The highest priority in RabbitMQ: queueport's -10 to 10 are 0 to 20. https://www.rabbitmq.com/docs/priority"""
CLASSIC: dict[str, Any] = {"x-queue-type": "classic"}
"""The arguments of a classic queue. They name the type, because a vhost may have another default type."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A queue, declared with `arguments`. Messages reach it through `exchange`; "" is RabbitMQ's default exchange."""

    queue: str
    arguments: dict[str, Any]
    exchange: str = ""
    key: str = ""
    """The routing key. "" stands for the queue's name."""
    together: tuple[Destination, ...] = ()
    """Other queues that must be declared together with this queue."""

    @property
    def routing_key(self) -> str:
        """The routing key of messages for this queue."""
        return self.key or self.queue

    async def check(self, connection: AsyncioConnection) -> None:
        """Raise Refused if this queue, or a queue in `together`, exists with other arguments.

        Creates no queue, and does not check the exchange. Raises pika's other errors.
        """
        for each in (self, *self.together):
            try:
                async with Channel.opened(connection) as channel:
                    await channel.count(each.queue)
            except Refused as refused:
                if refused.code == NOT_FOUND:
                    continue
                raise
            await Destination(each.queue, each.arguments).declare(connection)

    async def declare(self, connection: AsyncioConnection) -> None:
        """Declare this queue and the queues in `together`, and the exchange with its binding to this queue. Idempotent.

        This uses a new channel, because an error closes the channel. Raises pika's errors.
        """
        async with Channel.opened(connection) as channel:
            raw = channel.raw
            for each in (self, *self.together):
                await channel.call(raw.queue_declare, each.queue, durable=True, arguments=each.arguments)
            if self.exchange:
                await channel.call(raw.exchange_declare, self.exchange, exchange_type="direct", durable=True)
                await channel.call(raw.queue_bind, self.queue, self.exchange, routing_key=self.routing_key)


@dataclass(frozen=True, slots=True)
class Topology:
    """The destinations of one namespace; `queue_type` is the type of the queues that carry jobs."""

    namespace: str
    queue_type: str

    def all(self, queue: str) -> tuple[Destination, ...]:
        """The destinations of a queue: for jobs, for copies of dead jobs, and for messages that were put aside."""
        return self.work(queue), self.dead(queue), self.aside(queue)

    def work(self, queue: str) -> Destination:
        """The queue in which jobs wait to run."""
        more = {"x-max-priority": PRIORITIES} if self.queue_type == "classic" else {}
        return Destination(f"{self.namespace}.{queue}", {"x-queue-type": self.queue_type, **more})

    def dead(self, queue: str) -> Destination:
        """The queue with copies of dead jobs."""
        return Destination(f"{self.namespace}.{queue}:dead", CLASSIC, f"{self.namespace}:dead", queue)

    def aside(self, queue: str) -> Destination:
        """The queue with messages that were put aside."""
        return Destination(f"{self.namespace}.{queue}:aside", CLASSIC)

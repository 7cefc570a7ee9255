"""What RabbitMQ delivers to this process: a consumer for each thread that receives. For the transport.

A consumer is sent as many messages, of each queue, as its thread has taken and not acknowledged and asks for beside:
so many jobs does a worker run. One that is no longer asked gives back what it holds, so that others can have it: a
worker whose jobs all run for long has acknowledged them, and would be sent more than it can start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from pika import BasicProperties

from queueport.transport import Delivery
from queueport_rabbitmq.channel import Channel
from queueport_rabbitmq.failures import LIBRARY_ERRORS
from queueport_rabbitmq.link import Link
from queueport_rabbitmq.server import Server
from queueport_rabbitmq.topology import Place, Topology

__all__ = ["Consumer", "Consumers", "Receipt"]

logger: logging.Logger = logging.getLogger("queueport")

UNASKED = 1.0
"""Seconds without a `receive` after which a consumer gives back what it holds."""
LOOK = 0.25
"""Seconds between two looks for such consumers."""


SILENT = 30.0
"""Seconds without a delivery after which a consumer is started again, in a channel of its own: RabbitMQ does not always
tell it when its quorum queue is deleted and made again at once (seen with 3.10.8), and it would wait for ever."""


class Receipt(NamedTuple):
    """A delivery's tag, which means something to its own channel only: https://www.rabbitmq.com/docs/confirms"""

    consumer: Consumer
    tag: int
    properties: BasicProperties


class Consumer:
    """One channel that consumes some queues. Its methods are for the loop's thread, unless they say otherwise."""

    def __init__(self, channel: Channel, queues: Sequence[str], topology: Topology) -> None:
        self.channel = channel
        self.consuming = False
        self.prefetch = 0
        self._taken: set[int] = set()
        self._unacknowledged: set[int] = set()
        self._queues = queues
        self._topology = topology
        self._tags: list[str] = []
        self._buffer: SimpleQueue[Delivery | None] = SimpleQueue()
        self._asked = False
        self._asked_at = self._heard_at = time.monotonic()
        channel.on_end(self._ended)
        channel.raw.add_on_cancel_callback(self._cancelled)

    def take(self, limit: int, wait: float) -> list[Delivery] | None:
        """At most `limit` deliveries, waiting for the first; None where it has to be started (again) before.

        For the thread that receives.
        """
        self._asked = True
        taken: list[Delivery] = []
        try:
            if not self.consuming or self.deaf or self.prefetch < len(self._taken) + limit:
                return None
            with suppress(Empty):
                while len(taken) < limit:
                    delivery = self._buffer.get_nowait() if taken else self._buffer.get(timeout=wait)
                    if delivery is not None:
                        taken.append(delivery)
                    elif self._stopped:
                        return taken or None
            return taken
        finally:
            self._taken.update(delivery.receipt.tag for delivery in taken)
            self._asked_at = time.monotonic()
            self._asked = False

    def done(self, tag: int) -> bool:
        """Whether this one is still to be acknowledged, which then is the caller's part. For any thread."""
        try:
            self._taken.remove(tag)
        except KeyError:
            return False
        return True

    @property
    def unasked(self) -> bool:
        """Nobody has received for a while."""
        return not self._asked and time.monotonic() - self._asked_at > UNASKED

    @property
    def deaf(self) -> bool:
        """It has heard nothing for so long that it may not hear at all."""
        return not self._taken and time.monotonic() - self._heard_at > SILENT

    @property
    def _stopped(self) -> bool:
        return not self.consuming

    @property
    def idle(self) -> bool:
        """Nothing comes, and nothing is left to acknowledge."""
        return not (self.consuming or self._taken or self._unacknowledged)

    async def start(self, limit: int) -> None:
        """Consume, with room for `limit` more of each queue; quorum queues know no limit for several together."""
        raw = self.channel.raw
        await self._cancel()
        self.prefetch = len(self._taken) + limit
        self._asked_at = self._heard_at = time.monotonic()
        await self.channel.ask(raw.basic_qos, prefetch_count=self.prefetch)
        self.consuming = True
        for queue in self._queues:
            arrived = partial(self._arrived, queue)
            frame = await self.channel.ask(raw.basic_consume, self._topology.work(queue).queue, arrived)
            self._tags.append(frame.method.consumer_tag)

    async def stop(self) -> None:
        """Consume no more, and give back what nobody has taken, in its order."""
        self.consuming = False
        await self._cancel()
        for delivery in self._drain():
            self.channel.raw.basic_nack(delivery.receipt.tag)
            self._unacknowledged.discard(delivery.receipt.tag)

    def acknowledge(self, tag: int) -> None:
        """Acknowledge one, unless it has gone back to its queue with the channel's end."""
        self._unacknowledged.discard(tag)
        if self.channel.raw.is_open:
            self.channel.raw.basic_ack(tag)
        else:
            logger.debug("an acknowledgement came too late: the message is delivered again")

    async def _cancel(self) -> None:
        tags, self._tags = self._tags, []
        for tag in tags:
            await self.channel.ask(self.channel.raw.basic_cancel, tag)

    def _arrived(self, queue: str, _: object, method: Any, properties: BasicProperties, body: bytes) -> None:
        self._heard_at = time.monotonic()
        self._unacknowledged.add(method.delivery_tag)
        self._buffer.put(Delivery(body, queue, Receipt(self, method.delivery_tag, properties)))

    def _drain(self) -> list[Delivery]:
        """What nobody has taken; a thread that waits for more hears that there is none."""
        drained: list[Delivery] = []
        with suppress(Empty):
            while True:
                delivery = self._buffer.get_nowait()
                if delivery is not None:
                    drained.append(delivery)
        self._buffer.put(None)
        return drained

    def _cancelled(self, frame: Any) -> None:
        """By RabbitMQ: the queue was deleted, or has no leader."""
        logger.warning("RabbitMQ no longer delivers from one of %s; it is asked again", ", ".join(self._queues))
        self._tags = [tag for tag in self._tags if tag != frame.method.consumer_tag]
        self.consuming = False
        self._buffer.put(None)

    def _ended(self) -> None:
        self.consuming = False
        self._taken.clear()
        self._unacknowledged.clear()
        self._drain()


class Consumers:
    """The consumers of a process, over one connection, which is used for all else that is asked of RabbitMQ, too.

    Made and used in its event loop's thread, but for `found`.
    """

    def __init__(self, server: Server, topology: Topology, purpose: str) -> None:
        self.link = Link(server, purpose)
        self._topology = topology
        self._consumers: dict[tuple[int, tuple[str, ...]], Consumer] = {}
        self._making = asyncio.Lock()
        self._moving = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    def found(self, thread: int, queues: tuple[str, ...]) -> Consumer | None:
        """The consumer of that thread. From any thread."""
        return self._consumers.get((thread, queues))

    async def make(self, places: Iterable[Place]) -> None:
        """Declare these. Nothing else in this process does: of two who make a quorum queue at once, one is told too
        early that it is there. Raises what went wrong.
        """
        async with self._making:
            connection = await self.link.connection()
            for place in places:
                await place.declare(connection)

    async def start(self, thread: int, queues: tuple[str, ...], limit: int) -> None:
        """Have a consumer of these queues deliver to that thread. Raises what went wrong."""
        await self.make(self._topology.work(queue) for queue in queues)
        async with self._moving:
            connection = await self.link.connection()
            consumer = self._consumers.get((thread, queues))
            if consumer is not None and consumer.deaf:
                consumer.channel.close()
            if consumer is None or not consumer.channel.raw.is_open:
                consumer = Consumer(await Channel.open(connection), queues, self._topology)
                self._consumers[thread, queues] = consumer
            try:
                await consumer.start(limit)
            except BaseException:
                consumer.channel.close()  # half started; what it was sent returns
                raise
            if self._keeper is None:
                self._keeper = asyncio.get_running_loop().create_task(self._keep())

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """In the order given."""
        for delivery in deliveries:
            delivery.receipt.consumer.acknowledge(delivery.receipt.tag)

    async def close(self) -> None:
        """Let go of the connection; what is unacknowledged returns to its queue."""
        if self._keeper is not None:
            self._keeper.cancel()
        await self.link.close()

    async def _keep(self) -> None:
        """Stop the consumers that are not asked, and forget those that have nothing left to acknowledge."""
        while True:
            await asyncio.sleep(LOOK)
            async with self._moving:
                for key, consumer in list(self._consumers.items()):
                    if consumer.unasked:
                        with suppress(*LIBRARY_ERRORS):  # then its channel is closed, and gone with it is what it held
                            await self._give_up(key, consumer)

    async def _give_up(self, key: tuple[int, tuple[str, ...]], consumer: Consumer) -> None:
        if consumer.consuming:
            async with asyncio.timeout(UNASKED):
                await consumer.stop()
        if consumer.idle:
            consumer.channel.close()
            del self._consumers[key]

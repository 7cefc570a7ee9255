"""Consumes messages: one consumer for each thread that receives. For the client.

A consumer's prefetch, for each queue, is at least the number of messages that its thread has taken and not
acknowledged, plus the number that the thread asks for. So each queue can deliver what a worker can run. If a thread
stops asking, its prefetched messages return to their queues for other workers. Otherwise, messages could wait for a
busy worker: the worker acknowledges the message of a long job while the job still runs, and RabbitMQ then sends another
message, whose job the worker cannot begin yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from pika import BasicProperties

from queueport.spi.transport import Delivery
from queueport_rabbitmq.channel import Channel
from queueport_rabbitmq.connection import Connection
from queueport_rabbitmq.errors import LIBRARY_ERRORS
from queueport_rabbitmq.server import Server
from queueport_rabbitmq.topology import Destination

__all__ = ["Consumer", "Consumers", "Receipt"]

logger: logging.Logger = logging.getLogger("queueport")

GIVE_BACK_AFTER = 1.0
"""Seconds without a call of `take` after which a consumer returns its prefetched messages to their queues. Also the
maximum number of seconds that this return may take."""
LOOK = 0.25
"""Seconds between two checks of whether consumers are still used."""
SILENT_AFTER = 30.0
"""Seconds without a delivery after which a consumer is restarted on a new channel, unless its thread has messages to
acknowledge. If a quorum queue is deleted and at once declared again, RabbitMQ 3.10.8 does not always cancel the queue's
consumers. Without a restart, such a consumer would wait for ever."""


class Receipt(NamedTuple):
    """The handle of a delivery. Its tag is valid on one channel only: https://www.rabbitmq.com/docs/confirms"""

    consumer: Consumer
    tag: int
    properties: BasicProperties


class Consumer:
    """A channel that consumes queues. Used in the event loop's thread, except where noted.

    `queues` maps queueport's names of the queues to RabbitMQ's queues.
    """

    def __init__(self, channel: Channel, queues: Mapping[str, Destination]) -> None:
        self.channel = channel
        self.consuming = False
        self.prefetch = 0
        self._taken: set[int] = set()
        self._unacknowledged: set[int] = set()
        self._queues = queues
        self._tags: list[str] = []
        self._buffer: SimpleQueue[Delivery | None] = SimpleQueue()
        self._taking = False
        self._taken_at = self._received_at = time.monotonic()
        channel.raw.add_on_close_callback(self._closed)
        channel.raw.add_on_cancel_callback(self._cancelled)

    def take(self, limit: int, wait: float) -> list[Delivery] | None:
        """Return at most `limit` messages; None if the consumer must first be started or restarted.

        Waits up to `wait` seconds for the first message; returns an empty list if there is none. Called in the thread
        that receives.
        """
        self._taking = True
        taken: list[Delivery] = []
        try:
            ready = self.consuming and not self.silent and self.prefetch >= len(self._taken) + limit
            if not ready:
                return None
            with suppress(Empty):
                while len(taken) < limit:
                    delivery = self._buffer.get_nowait() if taken else self._buffer.get(timeout=wait)
                    if delivery is not None:
                        taken.append(delivery)
                    elif not self.consuming:
                        return taken or None
            return taken
        finally:
            self._taken.update(delivery.receipt.tag for delivery in taken)
            self._taken_at = time.monotonic()
            self._taking = False

    def claim_acknowledgement(self, tag: int) -> bool:
        """Return True on the first call for a delivery: that caller must acknowledge it. Called in any thread.

        Returns False on later calls, and if the channel has closed, which returned the message to its queue.
        """
        try:
            self._taken.remove(tag)
        except KeyError:
            return False
        return True

    @property
    def unused(self) -> bool:
        """Whether no call of `take` is running, and the latest one ended more than GIVE_BACK_AFTER seconds ago."""
        return not self._taking and time.monotonic() - self._taken_at > GIVE_BACK_AFTER

    @property
    def silent(self) -> bool:
        """Whether nothing has arrived for SILENT_AFTER seconds, so that the consumer may be dead.

        False as long as the thread has messages to acknowledge.
        """
        return not self._taken and time.monotonic() - self._received_at > SILENT_AFTER

    @property
    def finished(self) -> bool:
        """Whether the consumer is stopped and all of its messages are acknowledged or returned."""
        return not (self.consuming or self._taken or self._unacknowledged)

    async def start(self, limit: int) -> None:
        """Begin to consume. The prefetch of each queue is `limit` plus the number of messages that the thread has taken
        and not acknowledged, so each queue can deliver at least `limit` messages in addition to these.

        The limit is not shared by the queues, because quorum queues do not support a limit for a channel.
        """
        raw = self.channel.raw
        await self._cancel()
        self.prefetch = len(self._taken) + limit
        self._taken_at = self._received_at = time.monotonic()
        await self.channel.call(raw.basic_qos, prefetch_count=self.prefetch)
        self.consuming = True
        for name, queue in self._queues.items():
            frame = await self.channel.call(raw.basic_consume, queue.queue, partial(self._arrived, name))
            self._tags.append(frame.method.consumer_tag)

    async def stop(self) -> None:
        """Stop consuming. The messages that no thread has taken return to their queues, in their order."""
        self.consuming = False
        await self._cancel()
        for delivery in self._drain():
            self.channel.raw.basic_nack(delivery.receipt.tag)
            self._unacknowledged.discard(delivery.receipt.tag)

    def acknowledge(self, tag: int) -> None:
        """Acknowledge a delivery. If the channel is closed, do nothing: the message has returned to its queue."""
        self._unacknowledged.discard(tag)
        if self.channel.raw.is_open:
            self.channel.raw.basic_ack(tag)
        else:
            logger.debug("the channel closed before a message was acknowledged: the message is delivered again")

    async def _cancel(self) -> None:
        tags, self._tags = self._tags, []
        for tag in tags:
            await self.channel.call(self.channel.raw.basic_cancel, tag)

    def _arrived(self, queue: str, _: object, method: Any, properties: BasicProperties, body: bytes) -> None:
        self._received_at = time.monotonic()
        self._unacknowledged.add(method.delivery_tag)
        self._buffer.put(Delivery(body, queue, Receipt(self, method.delivery_tag, properties)))

    def _drain(self) -> list[Delivery]:
        """Empty the buffer, and return the messages that were in it. Wake the thread that waits for a message."""
        drained: list[Delivery] = []
        with suppress(Empty):
            while True:
                delivery = self._buffer.get_nowait()
                if delivery is not None:
                    drained.append(delivery)
        self._buffer.put(None)
        return drained

    def _cancelled(self, frame: Any) -> None:
        """Note that RabbitMQ has stopped the deliveries of a queue, because the queue was deleted or has no leader.

        The next `take` returns None, so that the consumer is started again.
        """
        logger.warning(
            "RabbitMQ stopped delivering from one of the queues %s, because it was deleted or has no leader; "
            "consuming again",
            ", ".join(self._queues),
        )
        self._tags = [tag for tag in self._tags if tag != frame.method.consumer_tag]
        self.consuming = False
        self._buffer.put(None)

    def _closed(self, *_: object) -> None:
        self.consuming = False
        self._taken.clear()
        self._unacknowledged.clear()
        self._drain()


class Consumers:
    """The consumers of one `Client` in one process, and their connection.

    The client makes all requests except publishing on this connection.

    Used in the event loop's thread. Other threads may only call `find` and read attributes of `connection`.
    """

    def __init__(self, server: Server, purpose: str) -> None:
        self.connection = Connection(server, purpose)
        self._consumers: dict[tuple[int, tuple[str, ...]], Consumer] = {}
        self._declaring = asyncio.Lock()
        self._starting = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    def find(self, thread: int, queues: Iterable[str]) -> Consumer | None:
        """The consumer from which `thread` takes messages of these queues, or None. Called in any thread."""
        return self._consumers.get((thread, tuple(queues)))

    async def declare(self, destinations: Iterable[Destination]) -> None:
        """Declare queues, one caller of this object at a time. Raises pika's errors.

        If a quorum queue is declared twice at the same time, RabbitMQ tells one caller too early that the queue exists.
        """
        async with self._declaring:
            connection = await self.connection.get()
            for destination in destinations:
                await destination.declare(connection)

    async def start(self, thread: int, queues: Mapping[str, Destination], limit: int) -> None:
        """Declare these queues, and start or restart the consumer from which `thread` takes their messages.

        Raises pika's errors.
        """
        await self.declare(queues.values())
        async with self._starting:
            connection = await self.connection.get()
            consumer = self.find(thread, queues)
            if consumer is not None and consumer.silent:
                consumer.channel.close()
            if consumer is None or not consumer.channel.raw.is_open:
                consumer = Consumer(await Channel.open(connection), queues)
                self._consumers[thread, tuple(queues)] = consumer
            try:
                await consumer.start(limit)
            except BaseException:
                # Some queues may be consumed already. Closing the channel returns their messages to them.
                consumer.channel.close()
                raise
            if self._watch is None:
                self._watch = asyncio.get_running_loop().create_task(self._watch_unused())

    async def close(self) -> None:
        """Close the connection; unacknowledged messages return to their queues."""
        if self._watch is not None:
            self._watch.cancel()
        await self.connection.close()

    async def _watch_unused(self) -> None:
        """Every LOOK seconds, stop unused consumers, and remove those whose messages are all acknowledged."""
        while True:
            await asyncio.sleep(LOOK)
            async with self._starting:
                for key, consumer in list(self._consumers.items()):
                    if consumer.unused and consumer.consuming:
                        try:
                            async with asyncio.timeout(GIVE_BACK_AFTER):
                                await consumer.stop()
                        except LIBRARY_ERRORS:  # RabbitMQ has refused, or has not answered in time
                            consumer.channel.close()  # returns the messages
                    if consumer.unused and consumer.finished:
                        consumer.channel.close()
                        del self._consumers[key]

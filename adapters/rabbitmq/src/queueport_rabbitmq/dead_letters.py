"""Removes chosen messages from a dead-letter queue by reading the whole queue. For the client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from pika import BasicProperties
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel

from queueport_rabbitmq.channel import ACCESS_REFUSED, NOT_FOUND, Channel, Refused

__all__ = ["Wanted", "remove"]

Wanted = Callable[[BasicProperties, bytes], bool]
"""A function that returns whether to remove the message with these properties and this body."""

LOOK = 0.01
"""Seconds between two checks of whether all messages have been delivered."""
BUSY = 0.05
"""Average seconds to wait before another attempt to read the queue, while another process reads it."""


async def remove(connection: AsyncioConnection, queue: str, wanted: Wanted) -> None:
    """Remove every wanted message from the queue. The other messages stay, in their order.

    A missing queue counts as empty. Waits as long as another process reads the queue. Raises pika's errors.

    AMQP cannot search a queue. So an exclusive consumer receives all messages and acknowledges the wanted ones. The
    other messages return to the queue when the consumer's channel is closed.
    """
    while True:
        try:
            await _pass(connection, queue, wanted)
            return
        except Refused as refused:
            if refused.code == NOT_FOUND:
                return
            if refused.code != ACCESS_REFUSED or "exclusive" not in refused.text:
                raise
        await asyncio.sleep(BUSY * random.uniform(0.5, 1.5))


async def _pass(connection: AsyncioConnection, queue: str, wanted: Wanted) -> None:
    def look(raw: PikaChannel, method: Any, properties: BasicProperties, body: bytes) -> None:
        if wanted(properties, body):
            raw.basic_ack(method.delivery_tag)

    async with Channel.opened(connection) as channel:
        await channel.call(channel.raw.basic_consume, queue, look, exclusive=True)
        waiting = await channel.count(queue)
        while waiting:
            await asyncio.sleep(LOOK)
            waiting = await channel.count(queue)
        await channel.count(queue)  # RabbitMQ answers this request after it has sent all messages
        await channel.close_and_wait()

"""Takes copies of jobs out of a dead-letter queue, in one pass over it. For the transport."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Set as AbstractSet
from typing import Any

from pika import BasicProperties
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as RawChannel

from queueport_rabbitmq.channel import Channel, Refused

__all__ = ["Copy", "take_out"]

logger: logging.Logger = logging.getLogger("queueport")

Copy = tuple[str, int]
"""A job's id, and its life."""

NOT_FOUND, ACCESS_REFUSED = 404, 403
LOOK = 0.01
"""Seconds between two looks whether all messages are on their way."""
BUSY = 0.05
"""Seconds, about, until it is tried again where another process is at work in the same queue."""


async def take_out(connection: AsyncioConnection, queue: str, copies: AbstractSet[Copy]) -> None:
    """Remove every copy of these from the queue; what else is in it stays, in its order.

    AMQP cannot look for a message. So all are taken in by the only consumer that there may be, those wanted are
    acknowledged, and with the channel's end the others return.
    """
    while True:
        try:
            await _Pass(copies).run(connection, queue)
            return
        except Refused as refused:
            if refused.code == NOT_FOUND:
                return
            if refused.code != ACCESS_REFUSED or "exclusive" not in refused.text:
                raise
        await asyncio.sleep(BUSY * random.uniform(0.5, 1.5))


class _Pass:
    """One pass over a queue."""

    def __init__(self, copies: AbstractSet[Copy]) -> None:
        self._copies = copies

    async def run(self, connection: AsyncioConnection, queue: str) -> None:
        async with Channel.opened(connection) as channel:
            await channel.ask(channel.raw.basic_consume, queue, self._look, exclusive=True)
            waiting = await self._waiting(channel, queue)
            while waiting:
                await asyncio.sleep(LOOK)
                waiting = await self._waiting(channel, queue)
            await self._waiting(channel, queue)  # this answer comes behind the last message
            await channel.leave()

    async def _waiting(self, channel: Channel, queue: str) -> int:
        frame = await channel.ask(channel.raw.queue_declare, queue, passive=True)
        return int(frame.method.message_count)

    def _look(self, raw: RawChannel, method: Any, properties: BasicProperties, body: bytes) -> None:
        if (properties.message_id, (properties.headers or {}).get("life")) in self._copies:
            raw.basic_ack(method.delivery_tag)

"""An AMQP channel whose methods can be awaited. For the code of this adapter that runs in the event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as PikaChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker

__all__ = ["ACCESS_REFUSED", "NOT_FOUND", "PRECONDITION_FAILED", "Channel", "Refused", "set_result"]

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406
"""Reply codes of AMQP 0-9-1: https://www.rabbitmq.com/amqp-0-9-1-reference#constants"""


class Refused(AMQPError):
    """RabbitMQ refused `method` with the reply code `code` and closed the channel."""

    def __init__(self, method: str, error: ChannelClosedByBroker) -> None:
        self.method, self.code, self.text = method, error.reply_code, error.reply_text
        super().__init__(f"{method}: {self.code} {self.text}")


class Channel:
    """An AMQP channel. `reason` is the error that closed it; None while it is open."""

    def __init__(self) -> None:
        self.connection: AsyncioConnection
        self.raw: PikaChannel
        self.reason: Exception | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending: set[asyncio.Future[Any]] = set()

    @classmethod
    async def open(cls, connection: AsyncioConnection) -> Self:
        """Open a channel on a connection."""
        channel = cls()
        channel.connection = connection

        def start(callback: Callable[[Any], None]) -> None:
            channel.raw = connection.channel(on_open_callback=callback)
            channel.raw.add_on_close_callback(channel._on_close)

        await channel.call(start)
        return channel

    @classmethod
    @asynccontextmanager
    async def opened(cls, connection: AsyncioConnection) -> AsyncIterator[Self]:
        """Open a channel for the duration of an `async with` block, and close it afterwards."""
        channel = await cls.open(connection)
        try:
            yield channel
        finally:
            channel.close()

    async def call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a pika method that takes a callback, and return RabbitMQ's answer.

        Raises Refused, or the error that closed the channel; or pika's error if the channel was closed before the call.
        """
        answer = asyncio.get_running_loop().create_future()
        self._pending.add(answer)
        try:
            method(*args, callback=partial(set_result, answer), **options)
            return await answer
        except ChannelClosedByBroker as error:
            raise Refused(method.__name__, error) from error
        finally:
            self._pending.discard(answer)

    async def count(self, queue: str) -> int:
        """The number of messages that wait in a queue. Raises Refused if the queue does not exist."""
        frame = await self.call(self.raw.queue_declare, queue, passive=True)
        return int(frame.method.message_count)

    def raise_if_closed(self, method: str) -> None:
        """If the channel is closed, raise the reason: Refused for `method` if RabbitMQ closed the channel."""
        if isinstance(self.reason, ChannelClosedByBroker):
            raise Refused(method, self.reason) from self.reason
        if self.reason is not None:
            raise self.reason

    def close(self) -> None:
        """Close the channel; unacknowledged messages return to their queues.

        RabbitMQ ends the consumers and returns the messages in one step. So the next consumer, even an exclusive one,
        gets all messages of the queue.
        """
        raw: Any = self.raw
        if raw.is_open:
            raw._cancelled.update(raw._consumers)  # otherwise, pika would first cancel the consumers in a separate step
            raw.close()

    async def close_and_wait(self) -> None:
        """Close the channel, and wait until RabbitMQ has processed everything that was sent on it."""
        self.close()
        await self._closed

    def _on_close(self, _: PikaChannel, reason: Exception) -> None:
        self.reason = reason
        for answer in self._pending:
            if not answer.done():
                answer.set_exception(reason)
        set_result(self._closed)


def set_result(future: asyncio.Future[Any], value: object = None) -> None:
    """Set the result of a future, unless it is done already."""
    if not future.done():
        future.set_result(value)

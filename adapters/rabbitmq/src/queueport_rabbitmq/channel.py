"""One AMQP channel whose methods can be awaited. For what talks to RabbitMQ here, in its event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.channel import Channel as RawChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker

__all__ = ["Channel", "Refused", "settle"]


class Refused(AMQPError):
    """RabbitMQ refused `method` and closed the channel; `code` is AMQP's: 403, 404, 406 and so on."""

    def __init__(self, method: str, code: int, text: str) -> None:
        super().__init__(f"{method}: {code} {text}")
        self.method = method
        self.code = code
        self.text = text


class Channel:
    """A channel; `reason` is why it is closed, None while it is open."""

    def __init__(self) -> None:
        self.raw: RawChannel
        self.reason: Exception | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._on_end: list[Callable[[], None]] = []

    @classmethod
    async def open(cls, connection: AsyncioConnection) -> Self:
        """A new channel on that connection."""
        channel = cls()

        def start(callback: Callable[[Any], None]) -> None:
            channel.raw = connection.channel(on_open_callback=callback)
            channel.raw.add_on_close_callback(channel._ended)

        await channel.ask(start)
        return channel

    @classmethod
    @asynccontextmanager
    async def opened(cls, connection: AsyncioConnection) -> AsyncIterator[Self]:
        """A channel for a while."""
        channel = await cls.open(connection)
        try:
            yield channel
        finally:
            channel.close()

    async def ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of pika's that takes a callback; its answer. Raises Refused, or why the channel was closed."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.add(answer)
        try:
            method(*args, callback=partial(settle, answer), **options)
            return await answer
        except ChannelClosedByBroker as error:
            raise _refused(method.__name__, error) from error
        finally:
            self._waiting.discard(answer)

    def on_end(self, call: Callable[[], None]) -> None:
        """Call this once the channel is closed, by whomever."""
        self._on_end.append(call)

    def check(self, method: str) -> None:
        """Raise what `ask` would, if the channel is closed."""
        if isinstance(self.reason, ChannelClosedByBroker):
            raise _refused(method, self.reason) from self.reason
        if self.reason is not None:
            raise self.reason

    def close(self) -> None:
        """Close it; what was delivered on it and is not acknowledged returns to its queue. `ended` says when it has.

        That is one step for RabbitMQ: whoever consumes afterwards, as the only one perhaps, finds all of it.
        """
        raw: Any = self.raw
        if raw.is_open:
            raw._cancelled.update(raw._consumers)  # else pika cancels them first, in a step of its own
            raw.close()

    async def leave(self) -> None:
        """Close it, and return when RabbitMQ has done all that was asked on it."""
        self.close()
        await self.ended

    def _ended(self, _: RawChannel, reason: Exception) -> None:
        self.reason = reason
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(reason)
        settle(self.ended)
        for call in self._on_end:
            call()


def _refused(method: str, error: ChannelClosedByBroker) -> Refused:
    return Refused(method, error.reply_code, error.reply_text)


def settle(future: asyncio.Future[Any], value: object = None) -> None:
    """Set a future's result, unless somebody was faster."""
    if not future.done():
        future.set_result(value)

"""Sends messages and learns what became of each, many of them unconfirmed at once. For the transport."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pika import BasicProperties
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic

from queueport.driver import SendOutcome, Sent
from queueport_rabbitmq.channel import Channel
from queueport_rabbitmq.failures import LIBRARY_ERRORS
from queueport_rabbitmq.link import Link, heard_from
from queueport_rabbitmq.server import Server
from queueport_rabbitmq.topology import Place

__all__ = ["Batch", "Parcel", "Publisher"]

WINDOW = 1_000
"""Messages unconfirmed at once; with 100 a quorum queue takes two thirds as many a second."""

SENT, FAILED, UNKNOWN = Sent(SendOutcome.SENT), Sent(SendOutcome.FAILED), Sent(SendOutcome.UNKNOWN)


class Parcel(NamedTuple):
    """A message as AMQP carries it."""

    body: bytes
    properties: BasicProperties


class Batch:
    """The messages of one call and what is known of each so far: read it when the call has ended, however it did."""

    def __init__(self, parcels: Sequence[Parcel]) -> None:
        self.parcels = parcels
        self.outcomes: list[Sent] = [FAILED] * len(parcels)
        """FAILED until it is written, UNKNOWN until it is confirmed."""
        self.open = 0
        """How many of the present round are not settled."""
        self.settled: asyncio.Future[None]
        self._doubtful: set[int] = set()

    @property
    def left(self) -> list[int]:
        """Those that are not sent."""
        return [number for number, outcome in enumerate(self.outcomes) if outcome is not SENT]

    def begin(self, count: int) -> None:
        """A round begins: so many are written."""
        self._doubtful.update(number for number, outcome in enumerate(self.outcomes) if outcome is UNKNOWN)
        self.open, self.settled = count, asyncio.get_running_loop().create_future()

    def settle(self, number: int, *, taken: bool) -> None:
        """RabbitMQ has answered for one. Whether it took an earlier one, whose answer was lost, stays unknown."""
        self.outcomes[number] = SENT if taken else UNKNOWN if number in self._doubtful else FAILED
        self.open -= 1
        if self.open == 0:
            self.end()

    def end(self) -> None:
        """No more answers come."""
        if not self.settled.done():
            self.settled.set_result(None)


class _Written(NamedTuple):
    batch: Batch
    number: int


class _Confirms:
    """A channel in confirm mode, and what is unconfirmed in it, by delivery tags, which ascend."""

    def __init__(self, channel: Channel, connection: AsyncioConnection) -> None:
        self.channel = channel
        self.connection = connection
        self._tag = 0
        self._unconfirmed: dict[int, _Written] = {}
        self._returned: set[_Written] = set()
        self._room = asyncio.Event()

    @classmethod
    async def open(cls, connection: AsyncioConnection) -> _Confirms:
        channel = await Channel.open(connection)
        confirms = cls(channel, connection)
        channel.raw.add_on_return_callback(confirms._came_back)
        channel.on_end(confirms._ended)
        await channel.ask(channel.raw.confirm_delivery, confirms._confirmed)
        return confirms

    async def write(self, place: Place, batch: Batch) -> None:
        """Publish what is left of a batch, and wait until each is settled. Raises why the channel was closed."""
        left = batch.left
        if not left:
            return
        batch.begin(len(left))
        for number in left:
            while len(self._unconfirmed) >= WINDOW and self.channel.reason is None:
                self._room.clear()
                await self._room.wait()
            self.channel.check("basic_publish")
            body, properties = batch.parcels[number]
            self.channel.raw.basic_publish(place.exchange, place.key, body, properties, mandatory=True)
            self._tag += 1
            self._unconfirmed[self._tag] = _Written(batch, number)
            batch.outcomes[number] = UNKNOWN
        await batch.settled
        if batch.open:
            self.channel.check("basic_publish")

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        for tag in self._tags(method.delivery_tag, method.multiple):
            written = self._unconfirmed.pop(tag, None)
            if written is not None:
                taken = isinstance(method, Basic.Ack) and written not in self._returned
                self._returned.discard(written)
                written.batch.settle(written.number, taken=taken)
        self._room.set()

    def _tags(self, tag: int, multiple: bool) -> Iterable[int]:
        if not multiple:
            return (tag,)
        first = next(iter(self._unconfirmed), tag + 1)
        return range(first, (tag or self._tag) + 1)

    def _came_back(self, raw: object, method: object, properties: BasicProperties, body: bytes) -> None:
        """A message had nowhere to go; RabbitMQ says so before it confirms it."""
        for written in self._unconfirmed.values():
            mine = written.batch.parcels[written.number].properties
            same = (mine.message_id, mine.headers) == (properties.message_id, properties.headers)
            if same and written not in self._returned:
                self._returned.add(written)
                return

    def _ended(self) -> None:
        for written in self._unconfirmed.values():
            written.batch.end()
        self._unconfirmed.clear()
        self._room.set()


class Publisher:
    """Publishes over a connection that does nothing else: RabbitMQ may block it. Used in its event loop's thread."""

    def __init__(self, server: Server, purpose: str) -> None:
        self.link = Link(server, purpose)
        self._confirms: _Confirms | None = None
        self._opening = asyncio.Lock()

    async def publish(self, place: Place, batch: Batch) -> None:
        """Send what is left of a batch to a place that is there, and learn what RabbitMQ does with each.

        A connection that is lost meanwhile is made again, once, and what was not confirmed is sent again: for a worker,
        which begins a job before it runs it, a second message is nothing new. Raises what went wrong.
        """
        for last in (False, True):
            confirms = await self._ready()
            heard = heard_from(confirms.connection)
            await self.link.unblocked()
            try:
                await confirms.write(place, batch)
                return
            except asyncio.CancelledError:  # the time is over
                if heard_from(confirms.connection) == heard and self.link.blocked is None:
                    self.link.drop(confirms.connection)
                raise
            except LIBRARY_ERRORS:
                if last:
                    raise

    async def close(self) -> None:
        """Let go of the connection."""
        await self.link.close()

    async def _ready(self) -> _Confirms:
        """The channel to publish in."""
        async with self._opening:
            connection = await self.link.connection()
            confirms = self._confirms
            if confirms is None or confirms.connection is not connection or confirms.channel.reason is not None:
                confirms = self._confirms = await _Confirms.open(connection)
            return confirms

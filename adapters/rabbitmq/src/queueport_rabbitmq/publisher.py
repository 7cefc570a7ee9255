"""Publishes many messages before it waits for confirmations, and reports each message's outcome. For the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

from pika import BasicProperties
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic

from queueport.errors import BackendUnavailable
from queueport.spi.message import SendOutcome, SendResult
from queueport_rabbitmq.channel import Channel, set_result
from queueport_rabbitmq.connection import Connection, bytes_received, send_gathered
from queueport_rabbitmq.errors import LIBRARY_ERRORS, explain, size_limit
from queueport_rabbitmq.server import Server
from queueport_rabbitmq.topology import Destination

__all__ = ["SENT", "Batch", "OutgoingMessage", "Publisher"]

WINDOW = 1_000
"""Maximum number of unconfirmed messages on a channel. With 100, a quorum queue accepts a third fewer messages a second
than with 1,000."""

SENT, FAILED, UNKNOWN = SendResult(SendOutcome.SENT), SendResult(SendOutcome.FAILED), SendResult(SendOutcome.UNKNOWN)


class OutgoingMessage(NamedTuple):
    """A message for RabbitMQ.

    No two messages of a batch may have the same message id and headers, because a returned message is recognised by
    its id and headers.
    """

    body: bytes
    properties: BasicProperties


class Batch:
    """The messages of one call, and their outcomes so far, which are valid even if the call fails or times out."""

    def __init__(self, messages: Sequence[OutgoingMessage]) -> None:
        self.messages = messages
        self.outcomes: list[SendResult] = [FAILED] * len(messages)
        """FAILED until the message is written, then UNKNOWN until RabbitMQ answers for it."""
        self.open = 0
        """Number of messages of the current round that RabbitMQ has not answered for."""
        self.settled: Callable[[], object]
        """Called when RabbitMQ has answered for the whole round, or when the channel was closed."""
        self.channel: _ConfirmChannel | None = None
        """The channel on which `Publisher.publish_now` has published the batch."""
        self.received = 0
        """The number of bytes that the connection of this channel had received then."""
        self._doubtful: set[int] = set()

    @property
    def left(self) -> list[int]:
        """The positions of the messages that RabbitMQ has neither accepted nor refused for good."""
        ended = (SendOutcome.SENT, SendOutcome.REFUSED)
        return [number for number, sent in enumerate(self.outcomes) if sent.outcome not in ended]

    def begin(self, count: int, settled: Callable[[], object]) -> None:
        """Begin a round, in which `count` messages are sent on one channel. `settled` may be called more than once."""
        self._doubtful.update(number for number, outcome in enumerate(self.outcomes) if outcome is UNKNOWN)
        self.open, self.settled = count, settled

    def refuse(self, limit: int, error: BackendUnavailable) -> None:
        """Note that RabbitMQ refuses each message whose body has more than `limit` bytes. `error` says why."""
        for number in self.left:
            if len(self.messages[number].body) > limit:
                self.outcomes[number] = SendResult(SendOutcome.REFUSED, error)

    def settle(self, number: int, *, accepted: bool) -> None:
        """Note RabbitMQ's answer for one message. The outcome of a message that RabbitMQ did not accept is FAILED.

        But if the answer to an earlier attempt to send the message was lost, the outcome is UNKNOWN, because that
        attempt may have succeeded.
        """
        self.outcomes[number] = SENT if accepted else UNKNOWN if number in self._doubtful else FAILED
        self.open -= 1
        if self.open == 0:
            self.settled()


class _Written(NamedTuple):
    batch: Batch
    number: int


class _ConfirmChannel(Channel):
    """A channel on which RabbitMQ confirms each message."""

    def __init__(self) -> None:
        super().__init__()
        self._tag = 0
        self._unconfirmed: dict[int, _Written] = {}
        """The unconfirmed messages by delivery tag, in ascending order."""
        self._returned: set[_Written] = set()
        self._room = asyncio.Event()

    @classmethod
    async def open(cls, connection: AsyncioConnection) -> Self:
        channel = await super().open(connection)
        channel.raw.add_on_return_callback(channel._message_returned)
        channel.raw.add_on_close_callback(channel._end_batches)
        await channel.call(channel.raw.confirm_delivery, channel._confirmed)
        return channel

    async def write(self, to: Destination, batch: Batch) -> None:
        """Publish the messages left in a batch, and wait for all answers.

        If the channel is closed before the last answer, raises Refused, or the error that closed the channel.
        """
        left = batch.left
        if not left:
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch.begin(len(left), partial(set_result, settled))
        for number in left:
            while len(self._unconfirmed) >= WINDOW and self.reason is None:
                self._room.clear()
                await self._room.wait()
            self.raise_if_closed("basic_publish")
            self._write(to, batch, number)
        await settled
        if batch.open:
            self.raise_if_closed("basic_publish")

    def write_now(self, to: Destination, batch: Batch, settled: Callable[[], object]) -> bool:
        """Publish the messages left in a batch in one write, and return True. `settled` is called like `Batch.settled`.

        Returns False, and writes nothing, if the channel is closed or has too many unconfirmed messages.
        """
        left = batch.left
        if not left or not self.raw.is_open or len(self._unconfirmed) + len(left) > WINDOW:
            return False
        batch.begin(len(left), settled)
        for number in left:
            self._write(to, batch, number)
        send_gathered(self.connection)
        return True

    def _write(self, to: Destination, batch: Batch, number: int) -> None:
        body, properties = batch.messages[number]
        self.raw.basic_publish(to.exchange, to.routing_key, body, properties, mandatory=True)
        self._tag += 1
        self._unconfirmed[self._tag] = _Written(batch, number)
        batch.outcomes[number] = UNKNOWN

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        last = method.delivery_tag or self._tag  # delivery tag 0 stands for all messages sent so far
        first = next(iter(self._unconfirmed), last + 1) if method.multiple else last
        for tag in range(first, last + 1):
            written = self._unconfirmed.pop(tag, None)
            if written is not None:
                accepted = isinstance(method, Basic.Ack) and written not in self._returned
                self._returned.discard(written)
                written.batch.settle(written.number, accepted=accepted)
        self._room.set()

    def _message_returned(self, raw: object, method: object, properties: BasicProperties, body: bytes) -> None:
        """Note that RabbitMQ returned a message, because no queue accepted it.

        RabbitMQ still confirms the message after this. `_confirmed` does not count that confirmation as a success.
        """
        for written in self._unconfirmed.values():
            sent = written.batch.messages[written.number].properties
            same = (sent.message_id, sent.headers) == (properties.message_id, properties.headers)
            if same and written not in self._returned:
                self._returned.add(written)
                return

    def _end_batches(self, *_: object) -> None:
        for written in self._unconfirmed.values():
            written.batch.settled()
        self._unconfirmed.clear()
        self._room.set()


class Publisher:
    """Publishes over a connection of its own.

    During an alarm, RabbitMQ blocks connections that publish. Deliveries and acknowledgements use another connection,
    so they go on. The methods must be called in the thread of the event loop.
    """

    def __init__(self, server: Server, purpose: str) -> None:
        self.connection = Connection(server, purpose)
        self._server = server
        self._confirms: _ConfirmChannel | None = None
        self._opening = asyncio.Lock()

    def publish_now(self, to: Destination, batch: Batch, deadline: float, answer: Callable[[bool], None]) -> None:
        """Publish the messages left in a batch to a declared queue in this step of the event loop, if this is possible.

        Calls `answer(True)` when RabbitMQ has answered for each of them, and `answer(False)` if the channel closes
        before that. Also calls `answer(False)` if it publishes nothing: without an open channel, on a blocked
        connection, or after the deadline. The caller can then call `publish`.
        """
        confirms = self._confirms
        ready = confirms is not None and self.connection.blocked is None and time.monotonic() < deadline
        if confirms is None or not ready or not confirms.write_now(to, batch, lambda: answer(not batch.open)):
            answer(False)
        else:
            batch.channel, batch.received = confirms, bytes_received(confirms.connection)

    async def give_up(self, batch: Batch) -> None:
        """End the wait of `publish_now`: drop the connection if RabbitMQ has sent nothing since then."""
        if batch.channel is not None:
            self._drop_if_silent(batch.channel.connection, batch.received)

    def _drop_if_silent(self, connection: AsyncioConnection, received: int) -> None:
        """Drop the connection if it is not blocked and has received nothing since it had received `received` bytes."""
        if bytes_received(connection) == received and self.connection.blocked is None:
            self.connection.drop(connection)

    async def publish(self, to: Destination, batch: Batch) -> None:
        """Publish the messages left in a batch to a declared queue, and note the outcome of each.

        Waits as long as RabbitMQ blocks the connection. If the connection is lost or the channel is closed, this opens
        a new channel and publishes the unconfirmed messages once more. A duplicate is harmless, because a worker begins
        a job in the store before it runs the job. If RabbitMQ closes the channel because a message is too large, this
        notes all messages that are too large as REFUSED, and publishes only the other unconfirmed messages again.
        Raises pika's error if the second attempt fails too.
        """
        for last in (False, True):
            confirms = await self.connection.repeated(self.ready)
            received = bytes_received(confirms.connection)
            await self.connection.unblocked.wait()
            try:
                await confirms.write(to, batch)
                return
            except asyncio.CancelledError:  # the call timed out: drop a connection on which RabbitMQ was silent
                self._drop_if_silent(confirms.connection, received)
                raise
            except LIBRARY_ERRORS as error:
                limit = size_limit(error)
                if limit is not None:
                    refused = BackendUnavailable(explain(error, self._server))
                    refused.__cause__ = error
                    batch.refuse(limit, refused)
                if last and batch.left:
                    raise

    async def close(self) -> None:
        await self.connection.close()

    async def ready(self) -> _ConfirmChannel:
        """Return the channel for publishing, and open it if necessary. Raises pika's errors."""
        async with self._opening:
            connection = await self.connection.get()
            confirms = self._confirms
            if confirms is None or confirms.connection is not connection or confirms.reason is not None:
                confirms = self._confirms = await _ConfirmChannel.open(connection)
            return confirms

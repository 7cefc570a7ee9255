"""The client of RabbitMQ, for callers in any thread. One connection publishes, another makes all other requests.

For the transport of this adapter, and for other adapters whose framework stores its messages in RabbitMQ.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from pika import BasicProperties

from queueport.errors import BackendUnavailable
from queueport.spi.event_loop import LoopThread, NoAnswer
from queueport.spi.message import SendOutcome, SendResult
from queueport.spi.transport import Delivery
from queueport_rabbitmq import dead_letters
from queueport_rabbitmq.channel import NOT_FOUND, Channel, Refused
from queueport_rabbitmq.consumer import Consumers
from queueport_rabbitmq.dead_letters import Wanted
from queueport_rabbitmq.errors import ALARM, LIBRARY_ERRORS, explain, unavailable
from queueport_rabbitmq.publisher import Batch, OutgoingMessage, Publisher
from queueport_rabbitmq.server import Server
from queueport_rabbitmq.topology import Destination

__all__ = ["MESSAGE_LIMIT", "PAYLOAD_LIMIT", "PERSISTENT", "Client"]

MESSAGE_LIMIT = 16 * 2**20
"""Maximum bytes of a message: the default max_message_size from RabbitMQ 4.0 on. https://www.rabbitmq.com/docs/configure#config-items"""
PAYLOAD_LIMIT = MESSAGE_LIMIT - 2**20
"""Maximum bytes of a job's arguments. The remaining 1 MiB of a message is mostly for the job's headers."""
PERSISTENT = 2
"""The delivery mode of a message that is kept on disk: https://www.rabbitmq.com/docs/publishers#message-properties"""
ROUNDS = (0.0, 0.05, 0.3)
"""Seconds to wait before each attempt to publish the messages left in a batch. From the second attempt on, the queue is
declared again first: RabbitMQ returns messages if their queue was deleted, or is a new quorum queue without leader."""

LOG_LEVELS = {
    "pika": logging.WARNING,  # at INFO, pika logs every channel that is opened or closed
    "pika.channel": logging.ERROR,  # at WARNING, it logs errors that `Client` raises anyway
    "pika.connection": logging.CRITICAL,  # at ERROR, it logs each failed connection in several lines, which `Client`
    "pika.adapters": logging.CRITICAL,  # raises anyway
}
"""The lowest level of each of pika's loggers, unless the application has set one."""

R = TypeVar("R", bound=Publisher | Consumers)
T = TypeVar("T")


class Client:
    """A client of one server. Thread-safe, and usable in a child process after a fork. It connects on first use.

    A method that fails raises BackendUnavailable, except that `publish` returns its errors, and that `acknowledge` and
    `close` do not fail. A method takes at most about `server.timeout` seconds, but `ping` and `try_to_publish` may take
    twice as long, `receive` also waits for messages, and `close` takes at most about four seconds. `purpose` is a part
    of the connections' names in the management UI.
    """

    def __init__(self, server: Server, purpose: str) -> None:
        for name, level in LOG_LEVELS.items():
            pika_log = logging.getLogger(name)
            if pika_log.level == logging.NOTSET:
                pika_log.setLevel(level)
        self.server = server
        self._declared: set[str] = set()
        publisher, consumer = f"{purpose} publisher", f"{purpose} consumer"
        self._publishing = LoopThread(publisher, lambda: Publisher(server, publisher))
        self._others = LoopThread(consumer, lambda: Consumers(server, consumer))

    # -- publish -----------------------------------------------------------------------------------

    def publish(self, to: Destination, messages: Sequence[OutgoingMessage]) -> list[SendResult]:
        """Publish messages to a queue, which is declared if necessary. Returns each outcome, in order. Never raises.

        No message is sent after the timeout, unless the event loop was blocked: then all outcomes that are not certain
        are UNKNOWN.
        """
        batch, deadline = Batch(messages), time.monotonic() + self.server.timeout
        error = BackendUnavailable(
            f"{self.server} did not accept messages for the queue {to.queue!r}: "
            "check whether the queue is full or has no leader"
        )
        lost = False
        try:
            for pause in ROUNDS:
                if pause:  # even `sleep(0)` would yield the processor
                    time.sleep(pause)
                if pause or to.queue not in self._declared:
                    self._call(self._others, lambda consumers: consumers.declare([to]), deadline)
                    self._declared.add(to.queue)
                if not self._publish_now(to, batch, deadline):
                    self._call(self._publishing, lambda publisher: publisher.publish(to, batch), deadline)
                if not batch.left:
                    break
        except BackendUnavailable as unavailable:
            error, lost = unavailable, isinstance(unavailable.__cause__, NoAnswer)
            # The queue or its exchange may have been deleted: the next `publish` must declare them again.
            self._declared.discard(to.queue)
        for number in batch.left:
            outcome = SendOutcome.UNKNOWN if lost else batch.outcomes[number].outcome
            batch.outcomes[number] = SendResult(outcome, error)
        return batch.outcomes

    def _publish_now(self, to: Destination, batch: Batch, deadline: float) -> bool:
        """Publish the messages left in a batch, if this takes no preparation. Raises BackendUnavailable.

        Returns True if RabbitMQ has answered for each of them.
        """

        def begin(publisher: Publisher, answer: Callable[[bool], None]) -> None:
            publisher.publish_now(to, batch, deadline, answer)

        def publish() -> bool:
            try:
                return self._publishing.ask(begin, max(0.0, deadline - time.monotonic()))
            except NoAnswer:
                self._publishing.call(lambda publisher: publisher.give_up(batch), 0.0)
                raise TimeoutError from None

        return self._explained(self._publishing, publish)

    def must_publish(self, to: Destination, messages: Sequence[OutgoingMessage]) -> None:
        """Publish messages to a queue. Raises BackendUnavailable if a message was not confirmed."""
        for sent in self.publish(to, messages):
            if sent.error is not None:
                raise sent.error

    # -- receive -----------------------------------------------------------------------------------

    def receive(self, queues: Mapping[str, Destination], limit: int, wait: float) -> Sequence[Delivery]:
        """Receive at most `limit` messages of these queues, waiting up to `wait` seconds for the first.

        The keys of `queues` are queueport's names of the queues. A delivery's `queue` is one of these keys, and its
        `receipt` is a `Receipt`. Declares the queues before it starts a consumer for the calling thread.
        """
        deadline, thread = time.monotonic() + wait, threading.get_ident()
        while True:
            consumers = self._others.resource
            consumer = None if consumers is None else consumers.find(thread, queues)
            taken = None if consumer is None else consumer.take(limit, max(0.0, deadline - time.monotonic()))
            if taken is not None:
                return taken
            self._call(self._others, lambda consumers: consumers.start(thread, queues, limit))

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries. Idempotent. Returns before the acknowledgements are sent.

        If the channel of a delivery has closed, its message is not acknowledged: RabbitMQ delivers it again.
        """
        for consumer, tag, _ in (delivery.receipt for delivery in deliveries):
            if consumer.claim_acknowledgement(tag):
                self._others.post(consumer.acknowledge, tag)

    # -- queues ------------------------------------------------------------------------------------

    def declare(self, destinations: Sequence[Destination]) -> None:
        """Declare queues. Idempotent."""
        self._call(self._others, lambda consumers: consumers.declare(destinations))

    def check_queues(self, destinations: Sequence[Destination]) -> None:
        """Raise BackendUnavailable if one of the queues exists with other arguments than given. Creates no queue."""

        async def check(consumers: Consumers) -> None:
            connection = await consumers.connection.get()
            for destination in destinations:
                await destination.check(connection)

        self._call(self._others, check)

    def count(self, queue: str) -> int | None:
        """The number of messages that wait in a queue; None if it does not exist."""
        return self._on_channel(lambda channel: channel.count(queue))

    def purge(self, queue: str) -> None:
        """Delete the messages that wait in a queue. Ignores a missing queue."""
        self._on_channel(lambda channel: channel.call(channel.raw.queue_purge, queue))

    def remove(self, queue: str, wanted: Wanted) -> None:
        """Remove from a dead-letter queue the messages for which `wanted` returns True. The other messages stay."""

        async def remove(consumers: Consumers) -> None:
            await dead_letters.remove(await consumers.connection.get(), queue, wanted)

        too_late = (
            f"{self.server} did not deliver all dead letters in {queue!r} in time: remove some, or raise call_timeout"
        )
        self._call(self._others, remove, too_late=too_late)

    def ping(self) -> Mapping[str, Any]:
        """Check that RabbitMQ answers on both connections, and return its properties, such as the version."""

        async def properties(channel: Channel) -> Mapping[str, Any]:
            return dict(channel.connection.server_properties or {})

        self._call(self._publishing, Publisher.ready)
        return self._on_channel(properties) or {}

    def try_to_publish(self, prefix: str) -> None:
        """Declare and delete a queue whose name begins with `prefix`, then publish a message to this name.

        RabbitMQ returns the message, because the queue is deleted. Raises BackendUnavailable if no publish is possible.
        """
        name = f"{prefix}:check-{secrets.token_hex(8)}"

        async def declare(consumers: Consumers) -> None:
            async with Channel.opened(await consumers.connection.get()) as channel:
                await channel.call(channel.raw.queue_declare, name, exclusive=True)
                await channel.call(channel.raw.queue_delete, name)

        batch = Batch([OutgoingMessage(b"", BasicProperties())])
        self._call(self._others, declare)
        self._call(self._publishing, lambda publisher: publisher.publish(Destination(name, {}), batch))

    def close(self) -> None:
        self._others.close()
        self._publishing.close()

    def _on_channel(self, operation: Callable[[Channel], Awaitable[T]]) -> T | None:
        """Run `operation` on a new channel and return its result, or None if the queue that it names does not exist."""

        async def ask(consumers: Consumers) -> T | None:
            async with Channel.opened(await consumers.connection.get()) as channel:
                try:
                    return await operation(channel)
                except Refused as refused:
                    if refused.code == NOT_FOUND:
                        return None
                    raise

        return self._call(self._others, ask)

    def _call(
        self,
        thread: LoopThread[R],
        operation: Callable[[R], Awaitable[T]],
        deadline: float | None = None,
        too_late: str | None = None,
    ) -> T:
        """Run an operation in the event loop of `thread`. Raises BackendUnavailable.

        The operation must be idempotent, because it is run once more if the connection is lost.

        `deadline` is by `time.monotonic`; without it, the operation may take `server.timeout` seconds. `too_late` is
        the error's text after a timeout whose cause is not known.
        """
        timeout = self.server.timeout if deadline is None else max(0.0, deadline - time.monotonic())
        return self._explained(
            thread,
            lambda: thread.call(lambda resource: resource.connection.repeated(lambda: operation(resource)), timeout),
            too_late,
        )

    def _explained(self, thread: LoopThread[R], act: Callable[[], T], too_late: str | None = None) -> T:
        """Return `act()`. Raises BackendUnavailable for pika's errors. `too_late` is its text after a timeout."""
        try:
            return act()
        except TimeoutError as error:
            connection = None if thread.resource is None else thread.resource.connection
            if connection is not None and connection.blocked is not None:
                too_late = ALARM.format(self.server)
            elif connection is not None and connection.failure is not None:
                raise unavailable(connection.failure, self.server) from error
            raise BackendUnavailable(too_late or explain(error, self.server)) from error
        except LIBRARY_ERRORS as error:
            raise unavailable(error, self.server) from error

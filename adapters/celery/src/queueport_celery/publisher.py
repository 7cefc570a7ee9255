"""Publishes messages to the broker, and counts and deletes waiting messages, over a pool of connections. For the
driver.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from amqp.exceptions import AMQPError
from celery import Celery
from kombu import Connection, Exchange, Producer
from kombu.exceptions import KombuError

from queueport.errors import BackendMisconfigured, BackendUnavailable
from queueport.spi.local_errors import local_error
from queueport.spi.message import SendOutcome, SendResult
from queueport.spi.rabbitmq import size_limit
from queueport.spi.url import hidden
from queueport.stores.redis import Idle, unavailable
from queueport_celery.messages import OutgoingMessage
from queueport_celery.names import Names

__all__ = ["Publisher"]

T = TypeVar("T")

WINDOW = 500
"""Maximum number of messages that are sent before their confirms are awaited (AMQP), or that one pipeline contains
(Redis). A higher number is not faster."""
NOT_FOUND = "404"
"""AMQP's reply code for a missing queue. Over AMQP, kombu's errors contain it as a number; over Redis, as a string."""
TIMEOUTS: dict[str, tuple[str, ...]] = {
    "amqp": ("connect_timeout", "read_timeout", "write_timeout"),
    "redis": ("socket_connect_timeout", "socket_timeout"),
}
"""The transport options that limit the duration of a call, by kombu's driver type."""


class Publisher:
    """Calls a broker over a pool of connections, one for each thread that calls at the same time.

    Thread-safe. After a fork, the child opens its own connections. A call that fails within half of `call_timeout` is
    repeated once over a new connection, because the broker may have closed an idle connection. `where` names the broker
    in errors.
    """

    def __init__(self, app: Celery, names: Names, call_timeout: float, where: str) -> None:
        self._app = app
        self._names = names
        self._timeout = call_timeout
        self._where = where
        self._idle: Idle[BrokerConnection] = Idle()

    def publish(self, messages: Sequence[OutgoingMessage]) -> list[SendResult]:
        """Publish messages; returns the result of each, in order. A failure is not raised, but is in the result."""
        batch, deadline = Batch(messages), time.monotonic() + self._timeout
        error: BackendUnavailable | None = None
        doubtful: set[int] = set()
        for fresh in (False, True):
            try:
                self._connected(lambda connection: connection.send(batch, deadline), fresh=fresh)
            except BackendUnavailable as failed:
                error = failed
                batch.refuse(failed)
            left = batch.left()
            doubtful |= {i for i in left if batch.outcomes[i] is SendOutcome.UNKNOWN}
            if not left or time.monotonic() > deadline - self._timeout / 2:
                break  # nothing is left to send, or the call was too slow to have failed because of a closed connection
        error = error or BackendUnavailable(
            f"{self._where} did not accept a message: check whether its queue is full or has no leader"
        )
        batch.set([i for i in batch.left() if i in doubtful], SendOutcome.UNKNOWN)
        errors = {SendOutcome.SENT: None, SendOutcome.REFUSED: batch.refusal}
        return [SendResult(each, errors.get(each, error)) for each in batch.outcomes]

    def close(self) -> None:
        self._idle.close()

    def call(self, call: Callable[[BrokerConnection], T]) -> T:
        """Run `call`. If it fails within half of the timeout, repeat it once over a new connection.

        Raises BackendUnavailable.
        """
        started = time.monotonic()
        try:
            return self._connected(call)
        except BackendUnavailable:
            if time.monotonic() - started > self._timeout / 2:
                raise
            return self._connected(call, fresh=True)

    def _connected(self, call: Callable[[BrokerConnection], T], *, fresh: bool = False) -> T:
        """Run `call` with an idle connection, or with a new one if none is idle or if `fresh` is True.

        Closes the connection if `call` raises; otherwise keeps it as idle. Raises BackendUnavailable, or an error of
        `call` that is not in `BrokerConnection.failures`.
        """
        idle = None if fresh else self._idle.take()
        try:
            connection = idle or BrokerConnection(self._app.connection_for_write(), self._names, self._timeout)
        except OSError as error:  # such as too few file descriptors to load a module or to open an event loop
            if self._where.startswith("redis"):
                raise unavailable(self._where, error, self._timeout) from error
            why = local_error(error) or f"cannot be used ({error}): check this machine"
            raise BackendUnavailable(f"{self._where} {why}") from error
        try:
            if idle is None:
                connection.open()
            answer = call(connection)
        except connection.failures as error:
            connection.disconnect()
            raise connection.unavailable(self._where, error) from error
        except BaseException:
            connection.disconnect()
            raise
        self._idle.put(connection)
        return answer


class Batch:
    """Messages to send, and their outcomes: FAILED until sending begins, then UNKNOWN until the broker has answered."""

    def __init__(self, messages: Sequence[OutgoingMessage]) -> None:
        self.messages = messages
        self.outcomes: list[SendOutcome] = [SendOutcome.FAILED] * len(messages)
        self.refusal: BackendUnavailable | None = None
        """Why some messages are refused for good."""

    def set(self, positions: Sequence[int], outcome: SendOutcome) -> None:
        for position in positions:
            self.outcomes[position] = outcome

    def left(self) -> list[int]:
        """The positions of the messages whose outcome is neither SENT nor REFUSED."""
        ended = (SendOutcome.SENT, SendOutcome.REFUSED)
        return [i for i, outcome in enumerate(self.outcomes) if outcome not in ended]

    def refuse(self, error: BackendUnavailable) -> None:
        """If `error` says that a message is too large for RabbitMQ, set all that are too large to REFUSED."""
        limit = size_limit(str(error.__cause__))
        if limit is not None:
            self.refusal = error
            self.set([i for i in self.left() if len(self.messages[i].body) > limit], SendOutcome.REFUSED)


class BrokerConnection:
    """A connection to the broker, for one thread at a time. After an error, the caller must call `disconnect`.

    `seconds` is the time limit of each call to the broker.
    """

    def __init__(self, connection: Connection, names: Names, seconds: float) -> None:
        kind = connection.transport.driver_type
        options = {**(connection.transport_options or {}), **dict.fromkeys(TIMEOUTS.get(kind, ()), seconds)}
        library = "pyamqp" if kind == "amqp" else connection.transport_cls  # librabbitmq cannot confirm a publish
        self._connection = connection.clone(transport=library, transport_options=options, connect_timeout=seconds)
        errors: Any = (*connection.connection_errors, *connection.channel_errors)
        self.failures: tuple[type[Exception], ...] = (OSError, UnicodeError, KombuError, *errors)
        """The exceptions that kombu and its transport may raise."""
        self._names = names
        self._seconds = seconds
        self._confirms = kind == "amqp"
        self._declared: set[str] = set()
        self._channel: Any = None
        self._producer: Any = None
        self._unconfirmed: dict[int, int] = {}
        self._sent = 0
        self._batch = Batch(())

    def open(self) -> None:
        """Connect to a broker that the app names. Try each broker once: by default, kombu would sleep and try again."""
        others = max(len(self._connection.alt) - 1, 0)
        self._connection.ensure_connection(max_retries=others)
        self._channel = self._connection.channel()
        self._producer = Producer(self._channel, auto_declare=False)
        if self._confirms:
            self._channel.confirm_select()
            self._channel.events["basic_ack"].add(partial(self._answered, SendOutcome.SENT))
            self._channel.events["basic_nack"].add(partial(self._answered, SendOutcome.FAILED))
            self._channel.events["basic_return"].add(self._returned)

    def send(self, batch: Batch, deadline: float) -> None:
        """Declare the queues of the messages left in a batch, and send these messages, WINDOW at a time.

        `deadline`, by `time.monotonic`, limits the wait for confirms (AMQP). If this method raises, the outcomes noted
        so far are valid.
        """
        left = batch.left()
        self.declare({batch.messages[i].queue for i in left})
        self._batch = batch
        for start in range(0, len(left), WINDOW):
            window = left[start : start + WINDOW]
            if self._confirms:
                self._send_confirmed(window, deadline)
            else:
                batch.set(window, SendOutcome.UNKNOWN)
                with self._producer.batch(max_size=len(window)):
                    for position in window:
                        self._publish(batch.messages[position])
                batch.set(window, SendOutcome.SENT)

    def _send_confirmed(self, window: Sequence[int], deadline: float) -> None:
        for position in window:
            self._sent += 1
            self._unconfirmed[self._sent] = position
            self._batch.outcomes[position] = SendOutcome.UNKNOWN
            self._publish(self._batch.messages[position], mandatory=True)
        while self._unconfirmed:
            if time.monotonic() > deadline:
                raise TimeoutError("the broker did not confirm all messages in time")
            self._connection.drain_events(timeout=max(0.01, deadline - time.monotonic()))

    def _publish(self, message: OutgoingMessage, **options: Any) -> None:
        self._producer.publish(
            message.body,
            exchange="",
            routing_key=message.queue,
            headers=message.headers,
            delivery_mode=Exchange.PERSISTENT_DELIVERY_MODE,
            retry=False,
            **message.properties,
            **options,
        )

    def _answered(self, outcome: SendOutcome, tag: int, multiple: bool) -> None:
        for known in [each for each in self._unconfirmed if each == tag or (multiple and each < tag)]:
            position = self._unconfirmed.pop(known)
            returned = self._batch.messages[position].queue not in self._declared  # `_returned` has removed the queue
            self._batch.outcomes[position] = SendOutcome.FAILED if returned else outcome

    def _returned(self, error: Exception, exchange: str, queue: str, message: Any) -> None:
        """Note that `queue` is missing: the next `send` declares it. RabbitMQ confirms the message after this call."""
        self._declared.discard(queue)

    def declare(self, queues: Iterable[str]) -> None:
        """Declare those of `queues` that this connection has not declared yet."""
        for queue in set(queues) - self._declared:
            with self._connection.channel() as channel:
                self._names.declaration(queue)(channel).declare()
            self._declared.add(queue)

    def depth(self, queue: str) -> int:
        """The number of messages that wait in a queue; 0 if it does not exist."""
        found = self._asked(lambda channel: channel.queue_declare(queue, passive=True))
        return 0 if found is None else int(found.message_count)

    def check_queue(self, queue: str) -> None:
        """Raise an error if the queue exists with other arguments than `declare` uses. Creates no queue."""
        if self._asked(lambda channel: channel.queue_declare(queue, passive=True)) is not None:
            with self._connection.channel() as channel:
                self._names.declaration(queue)(channel).declare()

    def try_to_send(self, queue: str) -> None:
        """Test with a temporary queue whether a queue can be declared (AMQP) and a message sent.

        Leaves nothing: the message is returned (AMQP) or deleted (Redis).

        Raises the errors in `failures`.
        """
        name = f"{queue}:check-{secrets.token_hex(8)}"
        if self._confirms:
            opened: Any = self._connection.channel()  # kombu's type stubs lack AMQP's methods
            with opened as channel:
                channel.queue_declare(name, durable=False, exclusive=True)
                channel.queue_delete(name)
            self._batch = Batch([OutgoingMessage(name, b"", {}, {})])
            self._send_confirmed([0], time.monotonic() + self._seconds)
        else:
            with self._channel.client.pipeline(transaction=True) as pipeline:
                pipeline.lpush(name, b"")
                pipeline.delete(name)
                pipeline.execute()

    def purge(self, queue: str) -> int:
        """Delete the messages that wait in a queue; returns their number."""
        return int(self._asked(lambda channel: channel.queue_purge(queue)) or 0)

    def _asked(self, call: Callable[[Any], Any]) -> Any:
        """The answer to a call about a queue; None if the queue does not exist."""
        try:
            with self._connection.channel() as channel:
                return call(channel)
        except self._connection.channel_errors as error:
            if str(getattr(error, "reply_code", None)) == NOT_FOUND:
                return None
            raise

    def disconnect(self) -> None:
        """Close the connection, in whatever state it is."""
        with suppress(Exception):  # the connection is not used again, so its errors do not matter
            if self._confirms:
                self._connection.collect()
            else:  # here, `collect` would for a moment change the default timeout of all new sockets of the process
                self._connection.close()

    def unavailable(self, where: str, error: Exception) -> BackendUnavailable:
        """Turn `error`, which is one of `failures`, into the error that callers see. `where` names the broker."""
        cause = error.__cause__ if isinstance(error, KombuError) else None
        known = cause if isinstance(cause, Exception) else error
        if not self._confirms:
            return unavailable(where, known, self._seconds)
        local = local_error(known)
        if local is not None:
            return BackendUnavailable(f"{where} {local}")
        text = hidden(f"{type(known).__name__}: {known}".partition("\n")[0])
        if isinstance(known, AMQPError) and not isinstance(known, self._connection.recoverable_connection_errors):
            advice = "check the URL, the user's permissions, and which other programs use its queues"
            if size_limit(text) is not None:
                advice = "raise its max_message_size, or keep large data elsewhere"
            return BackendMisconfigured(f"{where} refuses the call ({text}): {advice}")
        return BackendUnavailable(f"{where} does not answer ({text}): check whether it is running")

"""One connection to the broker, for sending, counting and declaring; how a batch goes out over it. For `publisher`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from amqp.exceptions import AMQPError
from kombu import Connection, Producer
from kombu.exceptions import KombuError

from queueport.driver import SendOutcome
from queueport.errors import BackendUnavailable
from queueport.stores import redis_errors
from queueport.url import hidden
from queueport_celery.envelope import Parcel
from queueport_celery.names import Names

__all__ = ["Batch", "Link"]

WINDOW = 500
"""Messages sent before their confirms are awaited, or put into one pipeline: about the fastest there is."""
PERSISTENT = 2
"""The delivery mode of a message that is kept on disk: https://www.rabbitmq.com/docs/publishers#message-properties"""
NOT_FOUND = "404"
"""AMQP's reply code for a queue that is not there; kombu has it as text where it plays AMQP itself."""
TIMEOUTS: dict[str, tuple[str, ...]] = {
    "amqp": ("connect_timeout", "read_timeout", "write_timeout"),
    "redis": ("socket_connect_timeout", "socket_timeout"),
}
"""The transport options of kombu that bound a call, by its driver types."""


class Batch:
    """Parcels on their way: what became of each."""

    def __init__(self, parcels: Sequence[Parcel]) -> None:
        self.parcels = parcels
        self.outcomes: list[SendOutcome] = [SendOutcome.FAILED] * len(parcels)

    def set(self, places: Sequence[int], outcome: SendOutcome) -> None:
        """The same for several."""
        for place in places:
            self.outcomes[place] = outcome

    def left(self) -> list[int]:
        """Those that the broker has not confirmed."""
        return [i for i, outcome in enumerate(self.outcomes) if outcome is not SendOutcome.SENT]


class Link:
    """A connection that one thread has for itself. After an error, close it."""

    def __init__(self, connection: Connection, names: Names, seconds: float) -> None:
        kind = connection.transport.driver_type
        options = {**(connection.transport_options or {}), **dict.fromkeys(TIMEOUTS.get(kind, ()), seconds)}
        library = "pyamqp" if kind == "amqp" else connection.transport_cls  # the one that confirms
        self._connection = connection.clone(transport=library, transport_options=options, connect_timeout=seconds)
        self._names = names
        self._seconds = seconds
        self._confirms = kind == "amqp"
        self._declared: set[str] = set()
        self._channel: Any = None
        self._unconfirmed: dict[int, int] = {}
        self._sent = 0
        self._batch = Batch(())

    def open(self) -> None:
        """Connect: once, or to each of an app's failover brokers; kombu itself would sleep and try again."""
        others = max(len(self._connection.alt) - 1, 0)
        self._connection.ensure_connection(max_retries=others)
        self._channel = self._connection.channel()
        if self._confirms:
            self._channel.confirm_select()
            self._channel.events["basic_ack"].add(lambda tag, multiple: self._told(tag, multiple, SendOutcome.SENT))
            self._channel.events["basic_nack"].add(lambda tag, multiple: self._told(tag, multiple, SendOutcome.FAILED))
            self._channel.events["basic_return"].add(self._returned)

    def send(self, batch: Batch, deadline: float) -> None:
        """Send what is left of a batch, window by window; its outcomes tell what is confirmed even if this raises."""
        left = batch.left()
        self.declare({batch.parcels[i].queue for i in left})
        self._batch = batch
        producer: Any = Producer(self._channel, auto_declare=False)
        for start in range(0, len(left), WINDOW):
            window = left[start : start + WINDOW]
            if self._confirms:
                self._send_confirmed(producer, window, deadline)
            else:
                batch.set(window, SendOutcome.UNKNOWN)
                with producer.batch(max_size=len(window)):
                    for place in window:
                        self._publish(producer, batch.parcels[place])
                batch.set(window, SendOutcome.SENT)

    def _send_confirmed(self, producer: Any, window: Sequence[int], deadline: float) -> None:
        for place in window:
            self._sent += 1
            self._unconfirmed[self._sent] = place
            self._batch.outcomes[place] = SendOutcome.UNKNOWN
            self._publish(producer, self._batch.parcels[place], mandatory=True)
        while self._unconfirmed:
            if time.monotonic() > deadline:
                raise TimeoutError("no confirm in time")
            self._connection.drain_events(timeout=max(0.01, deadline - time.monotonic()))

    def _publish(self, producer: Any, parcel: Parcel, **options: Any) -> None:
        producer.publish(
            parcel.body,
            exchange="",
            routing_key=parcel.queue,
            headers=parcel.headers,
            delivery_mode=PERSISTENT,
            retry=False,
            **parcel.properties,
            **options,
        )

    def _told(self, tag: int, multiple: bool, outcome: SendOutcome) -> None:
        for known in [each for each in self._unconfirmed if each == tag or (multiple and each < tag)]:
            place = self._unconfirmed.pop(known)
            if self._batch.parcels[place].queue in self._declared:
                self._batch.outcomes[place] = outcome
            else:  # it came back: the queue was deleted behind our back
                self._batch.outcomes[place] = SendOutcome.FAILED

    def _returned(self, error: Exception, exchange: str, queue: str, message: Any) -> None:
        self._declared.discard(queue)

    def declare(self, queues: Iterable[str]) -> None:
        """Make the queues that this link has not made yet."""
        for queue in set(queues) - self._declared:
            with self._connection.channel() as channel:
                self._names.declaration(queue)(channel).declare()
            self._declared.add(queue)

    def depth(self, name: str) -> int:
        """How many messages wait; none where there is no such queue."""
        return self._count(lambda channel: channel.queue_declare(name, passive=True).message_count)

    def purge(self, name: str) -> int:
        """Drop what waits in a queue."""
        return self._count(lambda channel: channel.queue_purge(name))

    def _count(self, call: Callable[[Any], Any]) -> int:
        try:
            with self._connection.channel() as channel:
                return int(call(channel) or 0)
        except self._connection.channel_errors as error:
            if str(getattr(error, "reply_code", None)) == NOT_FOUND:
                return 0
            raise

    def close(self) -> None:
        """Let go of it, whatever state it is in."""
        with suppress(Exception):  # it is given up
            self._connection.collect(socket_timeout=0.1)

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What kombu and its transport raise."""
        errors: Any = (*self._connection.connection_errors, *self._connection.channel_errors)
        return (OSError, KombuError, *errors)

    def unavailable(self, where: str, error: Exception) -> BackendUnavailable:
        """What such a failure means. `where` is the URL without its password."""
        cause = error.__cause__ if isinstance(error, KombuError) else None
        known = cause if isinstance(cause, Exception) else error
        if not self._confirms:
            return redis_errors.unavailable(where, known, self._seconds)
        told = hidden(f"{type(known).__name__}: {known}".partition("\n")[0])
        if isinstance(known, AMQPError) and not isinstance(known, self._connection.recoverable_connection_errors):
            return BackendUnavailable(
                f"{where} refuses ({told}): look at the URL, its user's rights, and what else uses its queues"
            )
        return BackendUnavailable(f"{where} does not answer ({told}): is it running?")

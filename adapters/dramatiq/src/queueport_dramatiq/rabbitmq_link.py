"""Dramatiq's queues on a RabbitMQ: confirmed messages, and dead letters in QUEUE.XQ. For the driver."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.common import q_name, xq_name
from dramatiq.errors import BrokerConnectionError
from dramatiq.message import Message
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from queueport.driver import Depth, SendOutcome, Sent
from queueport.errors import BackendUnavailable
from queueport_dramatiq.confirms import Confirmed, Parcel
from queueport_dramatiq.lane import Lane, NoAnswer, own
from queueport_dramatiq.link import Link, Wire, shared_middleware
from queueport_dramatiq.messages import OPTION

__all__ = ["RabbitMQLink"]

logger: logging.Logger = logging.getLogger("queueport")
T = TypeVar("T")

ANSWER = 0.9
"""The part of `call_timeout` that RabbitMQ has to answer in; the rest is the caller's."""
NOT_FOUND, ACCESS_REFUSED = 404, 403
"""Reply codes of AMQP 0-9-1: https://www.rabbitmq.com/amqp-0-9-1-reference#constants"""
LOOK: Any = 0.01  # pika's stubs know whole seconds only
"""Seconds between two looks whether all dead letters are on their way."""
BUSY = 0.05
"""Seconds until it is tried again where another process is at work in the same dead letters."""
PERSISTENT = 2
"""The delivery mode of a message that is kept on disk: https://www.rabbitmq.com/docs/publishers#message-properties"""


class RabbitMQLink(Link):
    """Any RabbitMQ broker of Dramatiq's. `where` names the server in errors."""

    def __init__(self, broker: RabbitmqBroker, where: str, call_timeout: float, *, joined: bool) -> None:
        self._broker = broker
        self.joined = joined
        self._where = where
        self._call_timeout = call_timeout
        self._sending = Lane(broker, "queueport-dramatiq-send")
        self._asking = Lane(broker, "queueport-dramatiq-ask")  # a long look must not keep messages waiting

    @property
    def broker(self) -> RabbitmqBroker:
        return self._broker

    def publish(self, messages: Sequence[Wire]) -> Sequence[Sent]:
        outcomes = [SendOutcome.FAILED] * len(messages)
        deadline = time.monotonic() + self._call_timeout * ANSWER

        parcels = [_parcel(message, message.queue_name) for message in messages]
        try:
            self._call(self._sending, lambda broker: self._send(broker, parcels, outcomes, deadline))
        except BackendUnavailable as error:
            return [Sent(one) if one is SendOutcome.SENT else Sent(one, error) for one in list(outcomes)]
        return [Sent(SendOutcome.SENT)] * len(messages)

    def _send(
        self, broker: RabbitmqBroker, parcels: Sequence[Parcel], outcomes: list[SendOutcome], deadline: float
    ) -> None:
        """Until all are confirmed. A queue that was deleted behind our back is made again, once."""
        for queue in {parcel.queue for parcel in parcels}:
            broker.declare_queue(q_name(queue), ensure=True)
        missed = self._channel(broker).publish(parcels, outcomes, deadline)
        if missed:
            broker.queues_pending.update(q_name(parcels[i].queue) for i in missed)
            again = [SendOutcome.FAILED] * len(missed)
            try:
                self._send(broker, [parcels[i] for i in missed], again, deadline)
            finally:
                for i, outcome in zip(missed, again, strict=True):
                    outcomes[i] = outcome
        if SendOutcome.UNKNOWN in outcomes or time.monotonic() > deadline:
            raise NoAnswer
        if SendOutcome.FAILED in outcomes:
            raise BackendUnavailable(f"{self._where} took a message and gave it back: look into its log")

    def _channel(self, broker: RabbitmqBroker) -> Confirmed:
        """This thread's channel for publishing."""
        channel: Confirmed | None = getattr(broker.state, "confirmed", None)
        if channel is None or not channel.usable:
            channel = broker.state.confirmed = Confirmed(broker.connection)
        return channel

    def depth(self, queue: str) -> Depth:
        def ask(broker: RabbitmqBroker) -> Depth:
            broker.declare_queue(queue, ensure=True)  # for pika tells loudly of one that is not there
            try:
                return Depth(_count(broker.channel, queue))
            except ChannelClosedByBroker as error:
                del broker.channel
                if error.reply_code != NOT_FOUND:
                    raise
                broker.queues_pending.add(queue)
                return Depth(0)

        return self._call(self._asking, ask)

    def bury(self, messages: Sequence[Wire]) -> None:
        parcels = [_parcel(message, xq_name(message.queue_name)) for message in messages]
        deadline = time.monotonic() + self._call_timeout * ANSWER
        outcomes = [SendOutcome.FAILED] * len(messages)
        self._call(self._sending, lambda broker: self._send(broker, parcels, outcomes, deadline))

    def unbury(self, messages: Sequence[Wire]) -> None:
        for queue in dict.fromkeys(message.queue_name for message in messages):
            copies = {_copy_of(message) for message in messages if message.queue_name == queue}
            self._call(self._asking, partial(self._take_out, queue=queue, copies=copies))

    def _take_out(self, broker: RabbitmqBroker, queue: str, copies: set[tuple[str, object]]) -> None:
        """AMQP cannot look for a message: all are fetched, these are acknowledged, and the others return."""
        deadline = time.monotonic() + self._call_timeout * ANSWER
        while True:
            try:
                self._pass(broker, xq_name(queue), copies)
                return
            except ChannelClosedByBroker as error:
                del broker.channel
                if error.reply_code == NOT_FOUND:
                    return
                if error.reply_code != ACCESS_REFUSED or time.monotonic() > deadline:
                    raise
            time.sleep(BUSY)

    def _pass(self, broker: RabbitmqBroker, queue: str, copies: set[tuple[str, object]]) -> None:
        channel = broker.connection.channel()

        def look(_: Any, method: Any, __: Any, body: bytes) -> None:
            if _copy_in(body) in copies:
                channel.basic_ack(method.delivery_tag)

        try:
            channel.basic_consume(queue, look, exclusive=True)
            while _count(channel, queue):
                broker.connection.process_data_events(LOOK)
            _count(channel, queue)  # this answer comes behind the last message
            broker.connection.process_data_events(0)
        finally:
            if channel.is_open:
                _close(channel)

    def setup(self, queues: Sequence[str]) -> None:
        def make(broker: RabbitmqBroker) -> None:
            for queue in queues:
                broker.declare_queue(queue, ensure=True)

        self._call(self._sending, make)

    def purge(self, queue: str) -> None:
        def drop(broker: RabbitmqBroker) -> None:
            try:
                broker.channel.queue_purge(queue)
            except ChannelClosedByBroker as error:
                del broker.channel
                if error.reply_code != NOT_FOUND:
                    raise

        self._call(self._asking, drop)

    def check(self) -> Sequence[str]:
        self._call(self._asking, lambda broker: broker.connection.channel().close())
        return ()

    def close(self) -> None:
        self._sending.close()
        self._asking.close()

    def worker_broker(self) -> RabbitmqBroker:
        broker = own(self._broker)
        broker.middleware = shared_middleware(self._broker)
        return broker

    def _call(self, lane: Lane, function: Callable[[RabbitmqBroker], T]) -> T:
        try:
            return lane.call(function, self._call_timeout * ANSWER)
        except (NoAnswer, AMQPError, BrokerConnectionError, OSError) as error:
            raise BackendUnavailable(f"{self._where} {_explained(error, self._call_timeout)}") from error


def _count(channel: Any, queue: str) -> int:
    """What waits in a queue that is there."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def _close(channel: Any) -> None:
    """Close it, so that what it holds returns in one step: whoever consumes afterwards, as the only one, finds it all.

    pika would cancel its consumers first, in a step of their own, and has no public way to leave that out.
    """
    channel._impl._cancelled.update(channel._impl._consumers)
    channel._consumer_infos.clear()
    channel.close()


def _parcel(message: Wire, queue: str) -> Parcel:
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        message_id=message.message_id,
        priority=message.options.get("broker_priority"),
    )
    return Parcel(queue, message.encode(), properties)


def _copy_of(message: Wire) -> tuple[str, object]:
    return message.message_id, message.options[OPTION]["life"]


def _copy_in(body: bytes) -> tuple[str, object] | None:
    """Of which job and life a dead letter is; None where it is none of queueport's."""
    with suppress(Exception):  # whatever lies there
        return _copy_of(Message.decode(body))
    return None


def _explained(error: BaseException, timeout: float) -> str:
    """What went wrong, and what to do."""
    inner: object = error
    while isinstance(inner, (AMQPConnectionError, BrokerConnectionError)) and inner.args:
        if not isinstance(inner.args[0], BaseException):
            break
        inner = inner.args[0]
    if isinstance(inner, (NoAnswer, TimeoutError)):
        return f"did not answer within {timeout:g} s: look whether it is overloaded"
    if isinstance(inner, (ProbableAuthenticationError, AuthenticationError)):
        return "refuses the user or its password: correct the URL"
    if isinstance(inner, ProbableAccessDeniedError):
        return "does not let the user into the vhost: correct the URL, or run `rabbitmqctl set_permissions`"
    if isinstance(inner, socket.gaierror):
        return "has a host name that is not known: correct the URL"
    if isinstance(inner, ssl.SSLError):
        return f"cannot be reached over TLS ({inner}): check port and cacertfile= in the URL"
    if isinstance(inner, ChannelClosedByBroker):
        return f"refuses ({inner.reply_text}): delete what was made there in another way, or give the user the right"
    return f"cannot be reached ({inner!r:.200}): start it, or correct the URL"

"""Publishes many messages at once and waits for all their confirms together. For `rabbitmq_link`.

pika's blocking channel waits for each message's confirm, a write to disk; the channel inside it does not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from queueport.driver import SendOutcome

__all__ = ["Confirmed", "Parcel"]

WINDOW = 100
"""Messages written between two looks at what RabbitMQ says."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message as it goes to a queue; its properties have a message id of its own."""

    queue: str
    body: bytes
    properties: pika.BasicProperties


class Confirmed:
    """A channel of its own, with confirms."""

    def __init__(self, connection: BlockingConnection) -> None:
        self._connection = connection
        self._channel: BlockingChannel = connection.channel()
        self._raw: Any = cast("Any", self._channel)._impl  # pika has no public way to it
        self._waiting: dict[int, int] = {}
        self._tag = 0
        self._outcomes: list[SendOutcome] = []
        self._returned: list[pika.BasicProperties] = []
        self._raw.confirm_delivery(self._confirm)
        self._raw.add_on_return_callback(lambda _c, _m, properties, _b: self._returned.append(properties))

    @property
    def usable(self) -> bool:
        """Whether it can be used again."""
        return bool(self._channel.is_open) and not self._waiting

    def publish(self, parcels: Sequence[Parcel], outcomes: list[SendOutcome], deadline: float) -> list[int]:
        """Note the outcome of each, until the deadline by the monotonic clock; which of them found no queue."""
        self._outcomes, self._returned = outcomes, []
        for i, parcel in enumerate(parcels):
            outcomes[i] = SendOutcome.UNKNOWN  # before the look at the clock: who waits looks at it after the deadline
            if time.monotonic() > deadline:
                outcomes[i] = SendOutcome.FAILED
                break
            self._tag += 1
            self._waiting[self._tag] = i
            self._raw.basic_publish("", parcel.queue, parcel.body, parcel.properties, mandatory=True)
            if self._tag % WINDOW == 0:
                self._connection.process_data_events(0)
        while self._waiting and self._channel.is_open and (left := deadline - time.monotonic()) > 0:
            self._connection.process_data_events(cast("Any", left))  # its stubs know whole seconds only
        back = {properties.message_id for properties in self._returned}
        missed = [i for i, parcel in enumerate(parcels) if parcel.properties.message_id in back]
        for i in missed:
            outcomes[i] = SendOutcome.FAILED
        return missed

    def _confirm(self, frame: Any) -> None:
        method = frame.method
        tags = (
            [tag for tag in self._waiting if tag <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        )
        for tag in tags:
            i = self._waiting.pop(tag, None)
            if i is not None:
                confirmed = isinstance(method, pika.spec.Basic.Ack)
                self._outcomes[i] = SendOutcome.SENT if confirmed else SendOutcome.FAILED
        if not self._waiting:
            self._connection.call_later(0, lambda: None)  # ends `process_data_events`

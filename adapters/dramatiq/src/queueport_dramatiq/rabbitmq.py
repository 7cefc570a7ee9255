"""The driver of Dramatiq over RabbitMQ, with publisher confirms and dead letters in QUEUE.XQ. For `get_queue`.

It needs the package queueport-rabbitmq, whose client it uses for everything except consuming.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import dramatiq
import pika
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.common import q_name, xq_name

from queueport.capability import Capability, Limits
from queueport.errors import ConfigurationError
from queueport.job import HIGHEST_PRIORITY
from queueport.spi.message import Depth, Message, SendResult
from queueport.spi.settings import Settings, options
from queueport.spi.store import JobStore
from queueport.spi.url import BackendURL
from queueport_dramatiq.driver import DramatiqDriver, DramatiqMessage, independent
from queueport_dramatiq.messages import OPTION, translate
from queueport_rabbitmq.client import MESSAGE_LIMIT, PAYLOAD_LIMIT, PERSISTENT, Client
from queueport_rabbitmq.errors import explain
from queueport_rabbitmq.publisher import OutgoingMessage
from queueport_rabbitmq.server import RabbitMQServerOptions, Server
from queueport_rabbitmq.topology import PRIORITIES, Destination

__all__ = ["DramatiqOnRabbitMQ"]

ESCAPED = 3
"""Factor by which a message may grow, because Dramatiq's encoder escapes text: a letter of 2 bytes becomes 6."""


class DramatiqOnRabbitMQ(DramatiqDriver):
    """The driver of `dramatiq+amqp://[USER:PASSWORD@]HOST[:PORT][/VHOST]`, `dramatiq+amqps://` and joined brokers."""

    name = "dramatiq on rabbitmq"
    capabilities = DramatiqDriver.capabilities | {Capability.PRIORITY}
    limits = Limits(payload=PAYLOAD_LIMIT // ESCAPED, message=MESSAGE_LIMIT // ESCAPED)
    settings: ClassVar[type[Any] | None] = RabbitMQServerOptions

    def __init__(self, broker: RabbitmqBroker, namespace: str, server: Server, *, joined: bool) -> None:
        super().__init__(broker, namespace, call_timeout=server.timeout, joined=joined)
        if joined:  # the application may declare its queues without priorities
            self.capabilities = DramatiqDriver.capabilities
        self._client = Client(server, f"queueport {namespace}")
        self._declarations: dict[str, dict[str, Destination]] = {}

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        given = options(url, RabbitMQServerOptions)
        if given.blocked_connection_timeout is None:  # otherwise, `queue.native` would wait until an alarm ends
            given = given.model_copy(update={"blocked_connection_timeout": settings.call_timeout})
        server = Server.of_url(url, given, settings.call_timeout)
        try:
            broker = QueueportRabbitmqBroker(server.parameters())
        except OSError as error:  # a certificate file cannot be read
            raise ConfigurationError(f"{url}: {explain(error, server)}") from error
        return cls(broker, settings.namespace, server, joined=False)

    @classmethod
    def of_application(cls, broker: RabbitmqBroker, settings: Settings) -> Self:
        """Make the driver for an existing application's broker, with the servers and the user of that broker."""
        parameters: Any = broker.parameters  # the parameters of one server, or a list of them
        given = parameters if isinstance(parameters, list) else [parameters]
        return cls(broker, settings.namespace, Server.of_parameters(given, settings.call_timeout), joined=True)

    def send(self, queue: str, messages: Sequence[DramatiqMessage]) -> Sequence[SendResult]:
        return self._client.publish(self._destination(queue, queue), [_outgoing(message) for message in messages])

    def depth(self, queue: str) -> Depth:
        return Depth(self._client.count(self.names.native(queue)) or 0)

    def put_dead(self, queue: str, messages: Sequence[DramatiqMessage]) -> Sequence[SendResult]:
        return self._client.publish(
            self._destination(queue, xq_name(queue)), [_outgoing(message) for message in messages]
        )

    def remove_dead(self, queue: str, messages: Sequence[DramatiqMessage]) -> None:
        copies = {_job_and_life(message) for message in messages}
        self._client.remove(xq_name(queue), lambda _, body: _job_and_life_in(body) in copies)

    def setup(self, queues: Sequence[str]) -> None:
        names = [self.names.native(queue) for queue in queues]
        self._client.declare([self._destination(name, name) for name in names])

    def purge(self, queue: str) -> None:
        self._client.purge(self.names.native(queue))

    def check(self) -> Sequence[str]:
        self._client.try_to_publish(self.names.native("default"))
        return ()

    def check_queue(self, queue: str) -> None:
        name = self.names.native(queue)
        self._client.check_queues([self._destination(name, name)])

    def close(self) -> None:
        self._client.close()

    def worker_broker(self) -> RabbitmqBroker:
        return _independent(self.broker)

    def translated(self, message: Message) -> DramatiqMessage:
        if self.joined:
            return super().translated(message)
        priority = message.priority + HIGHEST_PRIORITY
        return translate(message, self.names.native(message.queue), broker_priority=priority)

    def _destination(self, queue: str, name: str) -> Destination:
        """The RabbitMQ queue `name`, which is one of those that Dramatiq declares for its queue `queue`."""
        declared = self._declarations.get(queue)
        if declared is None:
            declared = self._declarations[queue] = _declarations(self.broker, queue)
        return replace(declared[name], together=tuple(each for each in declared.values() if each.queue != name))


def _declarations(broker: RabbitmqBroker, queue: str) -> dict[str, Destination]:
    """The RabbitMQ queues that the broker declares for one queue of Dramatiq, by name.

    The queues are not constant: an application's subclass of the broker may declare other queues. So this function
    calls the broker's own method with a channel that sends nothing and records the calls.
    """
    declared: dict[str, Destination] = {}

    def record(queue: str, *, arguments: dict[str, Any] | None = None, **_: Any) -> None:
        declared[queue] = Destination(queue, arguments or {})

    recording: Any = _independent(broker)
    recording.middleware = []
    recording.state.channel = SimpleNamespace(queue_declare=record)
    recording.declare_queue(queue, ensure=True)
    return declared


def _independent(broker: RabbitmqBroker) -> RabbitmqBroker:
    """Copy the broker as `independent` does, and give the copy its own connections."""
    copied: RabbitmqBroker = independent(broker)
    copied.state, copied.connections, copied.channels, copied.queues_pending = threading.local(), set(), set(), set()
    return copied


def _outgoing(message: DramatiqMessage) -> OutgoingMessage:
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        message_id=message.message_id,
        priority=message.options.get("broker_priority"),
    )
    return OutgoingMessage(message.encode(), properties)


def _job_and_life(message: DramatiqMessage) -> tuple[str, object]:
    return message.message_id, message.options[OPTION]["life"]


def _job_and_life_in(body: bytes) -> tuple[str, object] | None:
    """The job and the life of a message in the dead letters; None if queueport did not send it."""
    with suppress(Exception):  # an error means that queueport did not send it
        return _job_and_life(dramatiq.Message.decode(body))
    return None


class QueueportRabbitmqBroker(RabbitmqBroker):
    """Dramatiq's RabbitMQ broker, but its workers consume no delayed messages, which queueport never sends.

    Workers also keep no connections that only declared a queue.
    """

    def __init__(self, parameters: Iterable[Any]) -> None:
        super().__init__(middleware=[], confirm_delivery=True, max_priority=PRIORITIES)
        self.parameters = list(parameters)

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Add the queue, and declare it in RabbitMQ now if `ensure`, else before its first use.

        Dramatiq's own method would also let workers consume the queue of delayed messages.
        """
        name = q_name(queue_name)
        if name not in self.queues:
            self.emit_before("declare_queue", name)
            self.queues.add(name)
            self.queues_pending.add(name)
            self.emit_after("declare_queue", name)
        if ensure:
            self._ensure_queue(name)  # type: ignore[no-untyped-call]  # Dramatiq has no types here

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000):  # type: ignore[no-untyped-def]  # Dramatiq has no types here
        """Close the connection that declared the queue and start a consumer, which opens a connection of its own."""
        self.declare_queue(queue_name, ensure=True)
        del self.connection
        return super().consume(queue_name, prefetch, timeout)

"""RabbitMQ as a transport: messages out over one connection, and in over another. For `get_queue("amqp://...")`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Self, TypeVar

import pika

from queueport.capability import Capability, Limits
from queueport.driver import Depth, SendOutcome, Sent
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.message import Message
from queueport.settings import Settings
from queueport.transport import Delivery, Transport
from queueport.url import BackendURL
from queueport_rabbitmq.channel import Channel, Refused
from queueport_rabbitmq.consumer import Consumers
from queueport_rabbitmq.dead_letters import NOT_FOUND, take_out
from queueport_rabbitmq.failures import LIBRARY_ERRORS, sentence
from queueport_rabbitmq.management import Management
from queueport_rabbitmq.options import RabbitMQOptions
from queueport_rabbitmq.publisher import SENT, Batch, Parcel, Publisher
from queueport_rabbitmq.server import Server
from queueport_rabbitmq.thread import LoopThread, NoAnswer, Tenant
from queueport_rabbitmq.topology import Place, Topology

__all__ = ["RabbitMQTransport"]

logger: logging.Logger = logging.getLogger("queueport")

MESSAGE_LIMIT = 16 * 2**20
"""RabbitMQ's max_message_size from 4.0 on; 128 MiB before. https://www.rabbitmq.com/docs/configure#config-items"""
HEAD = 2**20
"""Bytes of a message left to what is not payload: a job's headers, most of all."""
PERSISTENT = 2
"""The delivery mode of a message that is kept on disk: https://www.rabbitmq.com/docs/publishers#message-properties"""
SHORT_STRING = 255
"""Bytes of an AMQP short string, such as a message's type."""
RESERVED = "amq"
"""RabbitMQ keeps names that begin with `amq.` for itself: https://www.rabbitmq.com/docs/queues#names"""
PRIORITY_ZERO = 10
"""Where queueport's priority 0 lies in RabbitMQ's 0 to 20."""
ROUNDS = (0.0, 0.05, 0.3)
"""Seconds before each round of a batch: what comes back is sent again, its queue being declared anew. It was deleted,
or another process is just making it: a quorum queue is declared already then, and takes nothing yet."""
ALARM = "{} has a memory or disk alarm and takes no messages: free some"
"""https://www.rabbitmq.com/docs/alarms"""
OLDEST = (3, 10)
"""The oldest RabbitMQ that this was tested with."""

S = TypeVar("S", bound=Tenant)
T = TypeVar("T")


class RabbitMQTransport(Transport):
    """Carries messages over RabbitMQ: publisher confirms, persistent messages, quorum queues unless told otherwise."""

    name = "rabbitmq"
    capabilities = frozenset({Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS})
    limits = Limits(payload=MESSAGE_LIMIT - HEAD, message=MESSAGE_LIMIT)
    settings: ClassVar[type[Any] | None] = RabbitMQOptions
    pushes = True

    def __init__(self, server: Server, namespace: str) -> None:
        pika_log = logging.getLogger("pika")
        if pika_log.level == logging.NOTSET:  # it tells at INFO of every channel that is opened and closed
            pika_log.setLevel(logging.WARNING)
        self._server = server
        self._topology = Topology(namespace, server.options.queue_type)
        self._management = Management(server.options.management, server) if server.options.management else None
        if self._prioritises:
            self.capabilities = type(self).capabilities | {Capability.PRIORITY}
        self._made: set[str] = set()
        publisher, consumer = f"queueport {namespace} publisher", f"queueport {namespace} consumer"
        self._sending = LoopThread(publisher, lambda: Publisher(server, publisher))
        self._asking = LoopThread(consumer, lambda: Consumers(server, self._topology, consumer))

    @classmethod
    def open(cls, url: BackendURL, settings: Settings) -> Self:
        if settings.namespace == RESERVED:
            raise ConfigurationError(
                f"{url}: RabbitMQ keeps names in {RESERVED!r} for itself: choose another namespace"
            )
        return cls(Server.of(url, url.settings(RabbitMQOptions), settings.call_timeout), settings.namespace)

    # -- out ---------------------------------------------------------------------------------------

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[Sent]:
        return self._publish(self._topology.work(queue), [self._parcel(message) for message in messages])

    def bury(self, messages: Sequence[Message]) -> None:
        for queue in dict.fromkeys(message.queue for message in messages):
            parcels = [self._parcel(message) for message in messages if message.queue == queue]
            self._must_publish(self._topology.dead(queue), parcels)

    def put_aside(self, delivery: Delivery) -> None:
        properties: pika.BasicProperties = delivery.receipt.properties
        properties.delivery_mode, properties.expiration = PERSISTENT, None
        properties.user_id = None  # RabbitMQ refuses one that is not the connection's own
        self._must_publish(self._topology.aside(delivery.queue), [Parcel(delivery.body, properties)])
        self.ack([delivery])

    def _parcel(self, message: Message) -> Parcel:
        headers = {"queue": message.queue, "task": message.task, "life": message.life, "send": message.send}
        kind = message.task if len(message.task.encode()) <= SHORT_STRING else None
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=PERSISTENT,
            message_id=message.id,
            app_id="queueport",
            type=kind,
            timestamp=int(message.sent_at),
            priority=message.priority + PRIORITY_ZERO if self._prioritises else None,
            headers={**headers, "buried": True} if message.buried else headers,
        )
        return Parcel(message.body, properties)

    def _publish(self, place: Place, parcels: Sequence[Parcel]) -> Sequence[Sent]:
        """The outcome of each. Nothing that was not written when the time was over is written later."""
        batch, deadline = Batch(parcels), time.monotonic() + self._server.timeout
        error = BackendUnavailable(f"{self._server} took messages for {place.queue!r} and gave them back: is it full?")
        lost = False
        try:
            for pause in ROUNDS:
                time.sleep(pause)
                if pause or place.queue not in self._made:
                    self._call(self._asking, lambda consumers: consumers.make([place]), deadline)
                    self._made.add(place.queue)
                self._call(self._sending, lambda publisher: publisher.publish(place, batch), deadline)
                if not batch.left:
                    break
        except BackendUnavailable as unavailable:
            error, lost = unavailable, isinstance(unavailable.__cause__, NoAnswer)
            self._made.discard(place.queue)  # its exchange may be gone
        return [o if o is SENT else Sent(SendOutcome.UNKNOWN if lost else o.outcome, error) for o in batch.outcomes]

    def _must_publish(self, place: Place, parcels: Sequence[Parcel]) -> None:
        for sent in self._publish(place, parcels):
            if sent.error is not None:
                raise sent.error

    # -- in ----------------------------------------------------------------------------------------

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        deadline, thread, names = time.monotonic() + wait, threading.get_ident(), tuple(queues)
        while True:
            consumers = self._asking.tenant
            consumer = None if consumers is None else consumers.found(thread, names)
            taken = None if consumer is None else consumer.take(limit, max(0.0, deadline - time.monotonic()))
            if taken is not None:
                return taken
            self._call(self._asking, lambda consumers: consumers.start(thread, names, limit))

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        consumers = self._asking.tenant
        done = [delivery for delivery in deliveries if delivery.receipt.consumer.done(delivery.receipt.tag)]
        if consumers is not None and done:
            self._asking.post(consumers.acknowledge, done)

    # -- beside ------------------------------------------------------------------------------------

    def depth(self, queue: str) -> Depth | None:
        name = self._topology.work(queue).queue

        async def ask(consumers: Consumers) -> int | None:
            async with Channel.opened(await consumers.link.connection()) as channel:
                try:
                    frame = await channel.ask(channel.raw.queue_declare, name, passive=True)
                except Refused as refused:
                    if refused.code == NOT_FOUND:
                        return None
                    raise
                return int(frame.method.message_count)

        ready = self._call(self._asking, ask)
        if ready is None:
            return Depth(0)
        return Depth(ready, None if self._management is None else self._management.unacknowledged(name))

    def unbury(self, messages: Sequence[Message]) -> None:
        for queue in dict.fromkeys(message.queue for message in messages):
            copies = {(message.id, message.life) for message in messages if message.queue == queue}
            name = self._topology.dead(queue).queue

            async def take(consumers: Consumers, name: str = name, copies: set[tuple[str, int]] = copies) -> None:
                await take_out(await consumers.link.connection(), name, copies)

            late = f"{self._server} did not let the dead letters in {name!r} be searched in time: are there too many?"
            self._call(self._asking, take, late=late)

    def setup(self, queues: Sequence[str]) -> None:
        kinds = (self._topology.work, self._topology.dead, self._topology.aside)
        places = [kind(queue) for queue in queues for kind in kinds]
        self._call(self._asking, lambda consumers: consumers.make(places))

    def purge(self, queue: str) -> None:
        async def empty(consumers: Consumers) -> None:
            async with Channel.opened(await consumers.link.connection()) as channel:
                try:
                    await channel.ask(channel.raw.queue_purge, self._topology.work(queue).queue)
                except Refused as refused:
                    if refused.code != NOT_FOUND:
                        raise

        self._call(self._asking, empty)

    def check(self) -> Sequence[str]:
        async def ask(consumers: Consumers) -> dict[str, Any]:
            connection = await consumers.link.connection()
            await (await Channel.open(connection)).leave()
            return dict(connection.server_properties or {})

        properties = self._call(self._asking, ask)
        warnings = [] if self._management is None else self._management.warnings()
        product, version = str(properties.get("product")), str(properties.get("version"))
        if product != "RabbitMQ":
            warnings.append(f"{self._server} is {product} {version}: this adapter is tested with RabbitMQ only")
        elif _numbers(version) < OLDEST:
            warnings.append(f"{self._server} is version {version}: upgrade it to {OLDEST[0]}.{OLDEST[1]} or later")
        if self._blocked and not any("alarm" in warning for warning in warnings):
            warnings.append(ALARM.format(self._server))
        return warnings

    def close(self) -> None:
        self._asking.close()
        self._sending.close()

    @property
    def native(self) -> pika.ConnectionParameters:
        """What pika connects with: `pika.BlockingConnection(queue.native)`."""
        try:
            return self._server.parameters()
        except OSError as error:  # a file of TLS
            raise BackendUnavailable(sentence(error, self._server)) from error

    # -- how ---------------------------------------------------------------------------------------

    @property
    def _prioritises(self) -> bool:
        return self._topology.queue_type == "classic"

    @property
    def _blocked(self) -> bool:
        publisher = self._sending.tenant
        return publisher is not None and publisher.link.blocked is not None

    def _call(
        self,
        thread: LoopThread[S],
        operation: Callable[[S], Awaitable[T]],
        deadline: float | None = None,
        late: str | None = None,
    ) -> T:
        """Await an operation in a thread. Raises BackendUnavailable; `late` is its text where the time was over."""
        timeout = self._server.timeout if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return thread.call(operation, timeout)
        except TimeoutError as error:
            raise BackendUnavailable(self._why_late(thread.tenant, late) or sentence(error, self._server)) from error
        except LIBRARY_ERRORS as error:
            raise BackendUnavailable(sentence(error, self._server)) from error

    def _why_late(self, tenant: Tenant | None, late: str | None) -> str | None:
        """What kept RabbitMQ from answering in time, as far as it is known."""
        if not isinstance(tenant, Publisher | Consumers):
            return late
        if tenant.link.blocked is not None:
            return ALARM.format(self._server)
        return late if tenant.link.failure is None else sentence(tenant.link.failure, self._server)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())

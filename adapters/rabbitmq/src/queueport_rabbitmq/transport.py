"""Carries jobs as messages in RabbitMQ. Each queue's jobs wait in one RabbitMQ queue. For `get_queue("amqp://...")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import pika
from pika.connection import Parameters
from pydantic import Field

from queueport.capability import Capability, Limits
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.job import HIGHEST_PRIORITY
from queueport.spi.message import Depth, Message, SendResult
from queueport.spi.settings import Settings, options
from queueport.spi.store import JobStore
from queueport.spi.transport import Delivery, Transport
from queueport.spi.url import BackendURL
from queueport_rabbitmq.client import MESSAGE_LIMIT, PAYLOAD_LIMIT, PERSISTENT, Client
from queueport_rabbitmq.errors import explain
from queueport_rabbitmq.management import Management
from queueport_rabbitmq.publisher import OutgoingMessage
from queueport_rabbitmq.server import RabbitMQServerOptions, Server
from queueport_rabbitmq.topology import Topology

__all__ = ["RabbitMQTransport"]

SHORT_STRING = 255
"""Maximum bytes of an AMQP short string, such as a message's type."""
RESERVED = "amq"
"""The namespace that is not allowed, because RabbitMQ reserves names that begin with `amq.`: https://www.rabbitmq.com/docs/queues#names"""
OLDEST = (3, 10)
"""The oldest version of RabbitMQ that this adapter was tested with. `check` warns about older versions."""


class RabbitMQOptions(RabbitMQServerOptions):
    """The options of `amqp://` and `amqps://` URLs."""

    queue_type: Literal["quorum", "classic"] = Field(
        "quorum",
        description="type of the queues that carry jobs: `quorum` is replicated, `classic` supports priorities",
    )
    management: str | None = Field(  # kept out of the repr, because the URL may contain a password
        None,
        repr=False,
        pattern=r"^https?://.",
        description="URL of the management API, for the number of unacknowledged messages and for alarms",
    )


class RabbitMQTransport(Transport):
    """Carries messages over RabbitMQ: confirmed by the server, persistent, in quorum queues by default."""

    name = "rabbitmq"
    capabilities = frozenset(
        {Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )
    url_options: ClassVar[Mapping[Capability, str]] = {Capability.PRIORITY: "queue_type=classic"}
    limits = Limits(payload=PAYLOAD_LIMIT, message=MESSAGE_LIMIT)
    settings: ClassVar[type[Any] | None] = RabbitMQOptions
    pushes = True

    def __init__(self, server: Server, options: RabbitMQOptions, namespace: str) -> None:
        self._client = Client(server, f"queueport {namespace}")
        self._topology = Topology(namespace, options.queue_type)
        self.call_timeout = server.timeout
        self._management = Management(options.management, server) if options.management else None
        self._prioritises = options.queue_type == "classic"
        if self._prioritises:
            self.capabilities = type(self).capabilities | {Capability.PRIORITY}

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        if settings.namespace == RESERVED:
            raise ConfigurationError(f"{url}: RabbitMQ reserves the namespace {RESERVED!r}: choose another namespace")
        given = options(url, RabbitMQOptions)
        if given.management is not None:
            BackendURL.parse(given.management)  # raises ConfigurationError if the password is not percent-encoded
        return cls(Server.of_url(url, given, settings.call_timeout), given, settings.namespace)

    # -- messages ----------------------------------------------------------------------------------

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._client.publish(self._topology.work(queue), [self._outgoing(message) for message in messages])

    def receive(self, queues: Sequence[str], limit: int, wait: float) -> Sequence[Delivery]:
        return self._client.receive({queue: self._topology.work(queue) for queue in queues}, limit, wait)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._client.acknowledge(deliveries)

    def put_aside(self, delivery: Delivery) -> None:
        properties: pika.BasicProperties = delivery.receipt.properties
        properties.delivery_mode, properties.expiration = PERSISTENT, None
        properties.user_id = None  # RabbitMQ refuses a `user_id` other than the publisher's user name
        self._client.must_publish(self._topology.aside(delivery.queue), [OutgoingMessage(delivery.body, properties)])
        self.ack([delivery])

    def bury(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self._client.publish(self._topology.dead(queue), [self._outgoing(message) for message in messages])

    def unbury(self, queue: str, messages: Sequence[Message]) -> None:
        copies = {(message.id, message.life) for message in messages}
        self._client.remove(
            self._topology.dead(queue).queue,
            lambda properties, _: (properties.message_id, (properties.headers or {}).get("life")) in copies,
        )

    def _outgoing(self, message: Message) -> OutgoingMessage:
        headers = {"queue": message.queue, "task": message.task, "life": message.life, "send": message.send}
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=PERSISTENT,
            message_id=message.id,
            app_id="queueport",
            type=message.task if len(message.task.encode()) <= SHORT_STRING else None,
            timestamp=int(message.sent_at),
            priority=message.priority + HIGHEST_PRIORITY if self._prioritises else None,
            headers={**headers, "buried": True} if message.buried else headers,
        )
        return OutgoingMessage(message.body, properties)

    # -- queues and the server ---------------------------------------------------------------------

    def depth(self, queue: str) -> Depth | None:
        name = self._topology.work(queue).queue
        ready = self._client.count(name)
        if ready is None:
            return Depth(0)
        return Depth(ready, None if self._management is None else self._management.unacknowledged(name))

    def setup(self, queues: Sequence[str]) -> None:
        self._client.declare([destination for queue in queues for destination in self._topology.all(queue)])

    def check_queue(self, queue: str) -> None:
        self._client.check_queues(self._topology.all(queue))

    def purge(self, queue: str) -> None:
        self._client.purge(self._topology.work(queue).queue)

    def check(self) -> Sequence[str]:
        properties, server = self._client.ping(), self._client.server
        warnings = [] if self._management is None else self._management.warnings()
        product, version = str(properties.get("product")), str(properties.get("version"))
        if product != "RabbitMQ":
            warnings.append(f"{server} is {product} {version}: this adapter is tested with RabbitMQ only")
        elif tuple(int(part) for part in version.split(".") if part.isdigit()) < OLDEST:
            warnings.append(f"{server} is version {version}: upgrade it to {OLDEST[0]}.{OLDEST[1]} or later")
        self._client.try_to_publish(self._topology.work("default").queue)
        return warnings

    def close(self) -> None:
        self._client.close()

    @property
    def native(self) -> Parameters:
        """The parameters for pika: `pika.BlockingConnection(queue.native)`.

        Raises BackendUnavailable if a certificate file is unusable.
        """
        server = self._client.server
        try:
            return server.parameters()[0]
        except OSError as error:  # a certificate file is unusable
            raise BackendUnavailable(explain(error, server)) from error

"""Dramatiq as a backend: translates between queueport's messages and a broker of Dramatiq's. For `get_queue`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import MiddlewareError

from queueport import supervisor
from queueport.capability import Capability, Limits
from queueport.driver import Depth, Driver, SendOutcome, Sent, Work
from queueport.errors import ConfigurationError
from queueport.message import Message
from queueport.runner import Runner
from queueport.settings import Settings
from queueport.store import Command, JobStore
from queueport.stores import redis_client
from queueport.stores.redis_connection import Redis
from queueport.stores.redis_url import RedisServerOptions, parse
from queueport.url import BackendURL
from queueport_dramatiq import embedded
from queueport_dramatiq.joining import application_broker, share_actors
from queueport_dramatiq.link import Link
from queueport_dramatiq.messages import encodes_json, translated
from queueport_dramatiq.names import Names
from queueport_dramatiq.options import AppOptions, RabbitMQOptions
from queueport_dramatiq.rabbitmq_broker import QueueportRabbitmqBroker
from queueport_dramatiq.rabbitmq_link import RabbitMQLink
from queueport_dramatiq.redis_broker import QueueportRedisBroker
from queueport_dramatiq.redis_link import RedisLink, client_ask
from queueport_dramatiq.servers import bounded, rabbitmq_parameters, server_url

__all__ = ["DramatiqApp", "DramatiqDriver", "DramatiqOnRabbitMQ", "DramatiqOnRedis"]

PRIORITIES = 20
"""queueport's -10 to 10 are 0 to 20 in RabbitMQ: https://www.rabbitmq.com/docs/priority"""
PRIORITY_ZERO = 10
MESSAGE_LIMIT = 16 * 2**20
"""RabbitMQ's max_message_size from 4.0 on; 128 MiB before. https://www.rabbitmq.com/docs/configure#config-items"""
ESCAPED = 3
"""Dramatiq's encoder writes what is not ASCII as escapes: a letter of 2 bytes as 6."""
HEAD = 2**20
"""Bytes of a message left to what is not payload: a job's headers, most of all."""
RABBITMQ_LIMITS = Limits(payload=(MESSAGE_LIMIT - HEAD) // ESCAPED, message=MESSAGE_LIMIT // ESCAPED)


class DramatiqDriver(Driver):
    """A broker of Dramatiq's, whatever it is on."""

    capabilities = frozenset(
        {Capability.DEPTH, Capability.PERSISTENT, Capability.NATIVE_DEAD_LETTERS, Capability.THREADS}
    )

    def __init__(self, link: Link, namespace: str) -> None:
        self.link = link
        self.names = Names(namespace)

    def publish(self, messages: Sequence[Message]) -> Sequence[Sent]:
        wires = [self._translated(message) for message in messages]
        outcomes = [self._announced(wire) for wire in wires]
        told = [i for i, sent in enumerate(outcomes) if sent.error is None]
        for i, sent in zip(told, self.link.publish([wires[i] for i in told]), strict=True):
            outcomes[i] = sent
            if sent.outcome is SendOutcome.SENT:
                self.link.broker.emit_after("enqueue", wires[i], None)
        return outcomes

    def _announced(self, wire: dramatiq.Message[Any]) -> Sent:
        """Tell the broker's middleware, which may refuse a message."""
        try:
            self.link.broker.emit_before("enqueue", wire, None)
        except MiddlewareError as error:
            return Sent(SendOutcome.FAILED, error)
        return Sent(SendOutcome.SENT)

    def work(self, runner: Runner, work: Work) -> None:
        if work.processes > 1:
            supervisor.run(runner, work)
        else:
            queues = [self.names.native(queue) for queue in runner.queues]
            embedded.run(self.link.worker_broker(), queues, runner, work)

    def depth(self, queue: str) -> Depth | None:
        return self.link.depth(self.names.native(queue))

    def bury(self, messages: Sequence[Message]) -> None:
        self.link.bury([self._translated(message) for message in messages])

    def unbury(self, messages: Sequence[Message]) -> None:
        self.link.unbury([self._translated(message) for message in messages])

    def setup(self, queues: Sequence[str]) -> None:
        self.link.setup([self.names.native(queue) for queue in queues])

    def purge(self, queue: str) -> None:
        self.link.purge(self.names.native(queue))

    def check(self) -> Sequence[str]:
        return self.link.check()

    def close(self) -> None:
        self.link.close()

    @property
    def native(self) -> dramatiq.Broker:
        """The broker."""
        return self.link.broker

    def _translated(self, message: Message) -> dramatiq.Message[Any]:
        return translated(message, self.names.native(message.queue))


class DramatiqOnRedis(DramatiqDriver):
    """`dramatiq+redis://[[USER:]PASSWORD@]HOST[:PORT][/DB]`, or `dramatiq+rediss://`."""

    link: RedisLink
    name = "dramatiq on redis"
    settings: ClassVar[type[Any] | None] = RedisServerOptions

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        target = parse(server_url(url))
        server = Redis(target, call_timeout=settings.call_timeout)
        client = redis_client.connect(target, settings.call_timeout)
        broker = QueueportRedisBroker(  # type: ignore[no-untyped-call]  # Dramatiq's is untyped
            client=client, middleware=[], dead_message_ttl=int(settings.keep_dead * 1000)
        )

        def close() -> None:
            server.close()
            client.close()

        link = RedisLink(broker, server.ask, f"the Redis at {target.shown}", close, joined=False)
        made = cls(link, settings.namespace)
        made.alongside = store.alongside(server_url(url))
        return made

    def along(self, messages: Sequence[Message]) -> Sequence[Sequence[Command]]:
        return [self.link.commands(self._translated(message)) for message in messages]  # no middleware is there to ask

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """The same Redis."""
        return server_url(url).full


class DramatiqOnRabbitMQ(DramatiqDriver):
    """`dramatiq+amqp://[USER:PASSWORD@]HOST[:PORT][/VHOST]`, or `dramatiq+amqps://`."""

    name = "dramatiq on rabbitmq"
    capabilities = DramatiqDriver.capabilities | {Capability.PRIORITY}
    settings: ClassVar[type[Any] | None] = RabbitMQOptions
    limits = RABBITMQ_LIMITS

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        broker = QueueportRabbitmqBroker(
            parameters=[rabbitmq_parameters(server_url(url), settings.call_timeout)],
            middleware=[],
            confirm_delivery=True,
            max_priority=PRIORITIES,
        )
        where = f"RabbitMQ at {url.parts.hostname or 'localhost'}"
        return cls(RabbitMQLink(broker, where, settings.call_timeout, joined=False), settings.namespace)

    def _translated(self, message: Message) -> dramatiq.Message[Any]:
        return super()._translated(message).copy(options={"broker_priority": message.priority + PRIORITY_ZERO})


class DramatiqApp(DramatiqDriver):
    """`dramatiq://MODULE:BROKER`: the broker of an application that exists, and its actors as tasks."""

    name = "dramatiq"
    settings: ClassVar[type[Any] | None] = AppOptions
    limits = RABBITMQ_LIMITS

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        url.settings(AppOptions)
        broker = application_broker(url)
        if not encodes_json():
            raise ConfigurationError(
                f"{url}: queueport's jobs are JSON, and dramatiq.set_encoder() names another encoder"
            )
        share_actors(broker)
        timeout = settings.call_timeout
        if isinstance(broker, RabbitmqBroker):
            return cls(RabbitMQLink(broker, f"RabbitMQ of {url}", timeout, joined=True), settings.namespace)
        if isinstance(broker, RedisBroker):
            client, where = bounded(broker.client, timeout), f"the Redis of {url}"
            link = RedisLink(broker, client_ask(client, where), where, client.close, joined=True)
            return cls(link, settings.namespace)
        raise ConfigurationError(
            f"{url} is a {type(broker).__name__}: queueport joins a RedisBroker or a RabbitmqBroker; in tests use memory://"
        )

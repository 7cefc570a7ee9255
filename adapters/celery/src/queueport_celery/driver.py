"""The driver of Celery: each message is a Celery message, and Celery's own worker runs the job. For `get_queue`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

from celery import Celery
from kombu import Message as Delivery

from queueport.capability import Capability
from queueport.errors import ConfigurationError
from queueport.spi.driver import Driver, ForeignSchedule
from queueport.spi.message import Depth, Message, SendResult
from queueport.spi.runner import JobRunner
from queueport.spi.settings import NoOptions, Settings, options
from queueport.spi.store import Command, JobStore
from queueport.spi.url import BackendURL
from queueport_celery import app as apps
from queueport_celery.beat import beat_schedule
from queueport_celery.embedded import EmbeddedWorker
from queueport_celery.messages import JSON, OutgoingMessage, aside, redis_command, translate
from queueport_celery.names import Names
from queueport_celery.publisher import Publisher

__all__ = ["CeleryDriver"]

EXISTING = "celery"
"""The scheme of URLs that name an existing app. URLs with one of the driver's other schemes name a broker."""


class CeleryDriver(Driver):
    """Carries jobs as Celery messages over Redis or RabbitMQ, with an app that it makes or with that of an existing
    application.
    """

    name = "celery"
    capabilities = frozenset({Capability.DEPTH, Capability.PERSISTENT, Capability.THREADS})
    settings: ClassVar[type[Any] | None] = NoOptions

    def __init__(self, url: BackendURL, settings: Settings) -> None:
        self.joins = url.scheme == EXISTING
        joined = apps.existing(url) if self.joins else None
        broker = _broker_kind(url, joined)
        self.names = Names(settings.namespace, prioritises=broker == "amqp")
        self.returns_fetched = broker != "redis"  # in Redis, fetched messages stay hidden for an hour by default
        if self.names.prioritises:
            self.capabilities = type(self).capabilities | {Capability.PRIORITY}
        self.app: Celery = apps.made(url, self.names) if joined is None else joined
        self.publisher = Publisher(self.app, self.names, settings.call_timeout, _where(url, self.app))

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        options(url, NoOptions)  # refuse all options: to change Celery's settings, users name an app instead
        driver = cls(url, settings)
        if not driver.joins and not driver.names.prioritises:  # the broker is Redis, and `made` has made the app
            driver.publishes_with_insert = store.shares_server(BackendURL(url.text.removeprefix("celery+")))
        return driver

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """The default URL of the job store: the broker's URL if it begins with `redis:`, else None."""
        joined = url.scheme == EXISTING
        broker = str(apps.existing(url).conf.broker_url) if joined else url.text.removeprefix("celery+")
        return broker if broker.startswith("redis:") else None

    def publish(self, messages: Sequence[Message]) -> Sequence[SendResult]:
        return self.publisher.publish([translate(message, self.names) for message in messages])

    def publish_commands(self, messages: Sequence[Message]) -> Sequence[Sequence[Command]]:
        return [[redis_command(translate(message, self.names))] for message in messages]

    def put_aside(self, queue: str, found: bytes | Delivery) -> None:
        """Send the message `found` to the `:aside` queue of `queue`. Raises BackendUnavailable."""
        if isinstance(found, bytes):
            kept = OutgoingMessage(self.names.aside(queue), found, {}, JSON)
        else:
            kept = aside(queue, self.names, found)
        (sent,) = self.publisher.publish([kept])
        if sent.error is not None:
            raise sent.error

    def work(self, runner: JobRunner) -> None:
        runner.serve(EmbeddedWorker(self.app, self.names, self.put_aside, runner))

    def depth(self, queue: str) -> Depth | None:
        return Depth(self.publisher.call(lambda connection: connection.depth(self.names.native(queue))))

    def setup(self, queues: Sequence[str]) -> None:
        names = [kind(queue) for queue in queues for kind in (self.names.native, self.names.aside)]
        self.publisher.call(lambda connection: connection.declare(names))

    def purge(self, queue: str) -> None:
        self.publisher.call(lambda connection: connection.purge(self.names.native(queue)))

    def check(self) -> Sequence[str]:
        self.publisher.call(lambda connection: connection.try_to_send(self.names.native("default")))
        return ()

    def check_queue(self, queue: str) -> None:
        self.publisher.call(lambda connection: connection.check_queue(self.names.native(queue)))

    def recurring(self) -> Sequence[ForeignSchedule]:
        return list(beat_schedule(self.app))

    def close(self) -> None:
        self.publisher.close()

    @property
    def native(self) -> Celery:
        return self.app


def _where(url: BackendURL, app: Celery) -> str:
    """The broker's name in errors: for Redis, the name that the Redis store uses for the same server; else `url`."""
    broker = str(app.conf.broker_url) if url.scheme == EXISTING else url.text.removeprefix("celery+")
    return str(BackendURL(broker.partition("?")[0])) if broker.startswith("redis") else str(url)


def _broker_kind(url: BackendURL, joined: Celery | None) -> str:
    if joined is None:
        return url.scheme.partition("+")[2]
    kind = str(joined.connection_for_write().transport.driver_type)
    if kind not in ("amqp", "redis"):
        raise ConfigurationError(
            f"{url} has the broker {kind}, but queueport supports Celery only on RabbitMQ and Redis: use one of these"
        )
    return kind

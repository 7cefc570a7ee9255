"""Celery as a driver: what is due goes out as a message of Celery's, and its own worker runs it. For `get_queue`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

from celery import Celery
from kombu import Message as Delivery

from queueport import supervisor
from queueport.capability import Capability
from queueport.driver import Depth, Driver, Sent, Work
from queueport.errors import ConfigurationError
from queueport.message import Message
from queueport.runner import Runner
from queueport.settings import Settings
from queueport.store import JobStore
from queueport.url import BackendURL
from queueport_celery import app as apps
from queueport_celery import embedded
from queueport_celery.envelope import Parcel, aside, parcel
from queueport_celery.names import Names
from queueport_celery.options import CeleryOptions
from queueport_celery.publisher import Publisher

__all__ = ["CeleryDriver"]

logger: logging.Logger = logging.getLogger("queueport")

EXISTING = "celery"
"""The scheme of an app that exists already; the others name a broker."""
JSON = {"content_type": "application/json", "content_encoding": "utf-8"}


class CeleryDriver(Driver):
    """Carries jobs over a broker of Celery's."""

    name = "celery"
    capabilities = frozenset({Capability.DEPTH, Capability.PERSISTENT, Capability.THREADS})
    settings: ClassVar[type[Any] | None] = CeleryOptions

    def __init__(self, url: BackendURL, settings: Settings) -> None:
        self.joins = url.scheme == EXISTING
        joined = apps.existing(url) if self.joins else None
        broker = _kind(url, joined)
        self.names = Names(settings.namespace, prioritises=broker == "amqp")
        if self.names.prioritises:
            self.capabilities = type(self).capabilities | {Capability.PRIORITY}
        self.app: Celery = apps.made(url, self.names) if joined is None else joined
        self._where = str(url)
        self._settings = settings

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        url.settings(CeleryOptions)
        return cls(url, settings)

    @classmethod
    def default_store(cls, url: BackendURL) -> str | None:
        """The same Redis, where that is the broker."""
        joined = url.scheme == EXISTING
        broker = str(apps.existing(url).conf.broker_url) if joined else url.text.removeprefix("celery+")
        return broker if broker.startswith("redis:") else None

    @cached_property
    def publisher(self) -> Publisher:
        """What sends."""
        return Publisher(self.app, self.names, self._settings.call_timeout, self._where)

    def publish(self, messages: Sequence[Message]) -> Sequence[Sent]:
        return self.publisher.publish([parcel(message, self.names) for message in messages])

    def put_aside(self, queue: str, found: bytes | Delivery) -> None:
        """Keep what is none of ours beside its queue. Raises BackendUnavailable."""
        if isinstance(found, bytes):
            kept = Parcel(self.names.aside(queue), found, {}, JSON)
        else:
            kept = aside(queue, self.names, found)
        (sent,) = self.publisher.publish([kept])
        if sent.error is not None:
            raise sent.error

    def work(self, runner: Runner, work: Work) -> None:
        if work.processes > 1:
            supervisor.run(runner, work)
        else:
            embedded.run(self, runner, work)

    def depth(self, queue: str) -> Depth | None:
        return Depth(self.publisher.depth(self.names.work(queue)))

    def setup(self, queues: Sequence[str]) -> None:
        self.publisher.declare([kind(queue) for queue in queues for kind in (self.names.work, self.names.aside)])

    def purge(self, queue: str) -> None:
        self.publisher.purge(self.names.work(queue))

    def check(self) -> Sequence[str]:
        self.publisher.depth(self.names.work("default"))
        return ()

    def close(self) -> None:
        self.publisher.close()

    @property
    def native(self) -> Celery:
        """The Celery app."""
        return self.app


def _kind(url: BackendURL, joined: Celery | None) -> str:
    """What carries the messages: amqp or redis."""
    if joined is None:
        return url.scheme.partition("+")[2]
    kind = str(joined.connection_for_write().transport.driver_type)
    if kind not in ("amqp", "redis"):
        raise ConfigurationError(
            f"{url}: the app's broker is {kind}, and queueport knows RabbitMQ and Redis under Celery"
        )
    return kind

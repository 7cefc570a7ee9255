"""Opens the driver for the broker of an existing application, for `get_queue("dramatiq://package.module:broker")`.

The module `worker` uses `application_broker`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, cast

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from queueport.errors import ConfigurationError
from queueport.spi.settings import NoOptions, Settings, options
from queueport.spi.store import JobStore
from queueport.spi.url import BackendURL
from queueport.workers import modules
from queueport_dramatiq.driver import DramatiqDriver
from queueport_dramatiq.joining import join
from queueport_dramatiq.messages import encodes_json
from queueport_dramatiq.redis import DramatiqOnRedis

__all__ = ["DramatiqApp", "application_broker"]


class DramatiqApp(DramatiqDriver):
    """The backend of `dramatiq://MODULE:BROKER`. `open` returns a driver for the kind of broker that the URL names.

    `open` also calls `join`, so that the actors of the broker become tasks of queueport.
    """

    name = "dramatiq"
    settings: ClassVar[type[Any] | None] = NoOptions

    @classmethod
    def open(cls, url: BackendURL, settings: Settings, store: JobStore) -> Self:
        options(url, NoOptions)  # options are not allowed, because the application configures its broker
        broker = application_broker(url)
        if not encodes_json():
            raise ConfigurationError(
                f"{url}: the encoder of dramatiq.set_encoder() cannot read JSON: set a JSON encoder"
            )
        driver = cast("Self", _driver(broker, url, settings))  # not a DramatiqApp, but one of the other drivers
        driver.name = cls.name
        join(broker)
        return driver


def application_broker(url: BackendURL) -> dramatiq.Broker:
    """Import the broker that the URL names.

    Raises ConfigurationError if the object cannot be imported or is not a Dramatiq broker.
    """
    found = modules.load_object(url, "broker")
    if not isinstance(found, dramatiq.Broker):
        raise ConfigurationError(
            f"{url} names an object of type {type(found).__name__}, not a Dramatiq broker: name a broker"
        )
    return found


def _driver(broker: Any, url: BackendURL, settings: Settings) -> DramatiqDriver:
    if isinstance(broker, RedisBroker):
        return DramatiqOnRedis.of_application(broker, settings)
    if "RabbitmqBroker" in (kind.__name__ for kind in type(broker).__mro__):  # compare names: isinstance needs pika
        try:
            from queueport_dramatiq.rabbitmq import DramatiqOnRabbitMQ
        except ImportError as error:
            raise ConfigurationError(
                f"{url} needs a package for RabbitMQ ({error}): run `pip install 'queueport-dramatiq[rabbitmq]'`"
            ) from error
        return DramatiqOnRabbitMQ.of_application(broker, settings)
    raise ConfigurationError(
        f"{url} names a {type(broker).__name__}, but queueport can join only a RedisBroker or a RabbitmqBroker; "
        "in tests, use memory://"
    )

"""The broker of an application that exists, and its actors as tasks of queueport's. For `dramatiq://MODULE:BROKER`."""

from __future__ import annotations

import logging
from typing import Any

import dramatiq
from dramatiq.errors import Retry
from dramatiq.middleware import Middleware

from queueport import RetryLater, modules, task
from queueport.errors import ConfigurationError
from queueport.job import QUEUE_NAME
from queueport.tasks import registry
from queueport.url import BackendURL

__all__ = ["application_broker", "share_actors"]

logger: logging.Logger = logging.getLogger("queueport")


def application_broker(url: BackendURL) -> dramatiq.Broker:
    """The broker that the URL names. Raises ConfigurationError."""
    found = modules.named(url, "broker")
    if not isinstance(found, dramatiq.Broker):
        raise ConfigurationError(f"{url} is no Dramatiq broker but of type {type(found).__name__}: name the broker")
    return found


def share_actors(broker: dramatiq.Broker) -> None:
    """Make a task of each actor of this broker, and of those to come. A second time is fine."""
    sharing = next((each for each in broker.middleware if isinstance(each, _Sharing)), None)
    if sharing is None:
        broker.add_middleware(_Sharing())
        return
    for actor in list(broker.actors.values()):
        sharing.after_declare_actor(broker, actor)


class _Sharing(Middleware):
    """Hears of each actor."""

    def after_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[..., Any]) -> None:
        """One whose name cannot be a task's, or is one already, stays Dramatiq's alone."""
        if registry.get(actor.actor_name) is not None:
            return

        def body(*args: Any, **kwargs: Any) -> Any:
            try:
                return actor(*args, **kwargs)
            except Retry as error:  # the actor's own wish, in milliseconds; how often is queueport's to say
                if error.delay is None:
                    raise
                raise RetryLater(delay=error.delay / 1000) from error

        options: Any = {"queue": actor.queue_name} if QUEUE_NAME.fullmatch(actor.queue_name) else {}
        try:
            task(name=actor.actor_name, **options)(body)
        except ConfigurationError as error:
            logger.warning("actor %r cannot be run through queueport: %s", actor.actor_name, error)

"""Makes the actors of an existing Dramatiq application tasks of queueport. For applications that join queueport."""

from __future__ import annotations

import logging
from typing import Any

import dramatiq
from dramatiq.errors import Retry
from dramatiq.middleware import Middleware

from queueport import RetryLater, task
from queueport.errors import ConfigurationError
from queueport.job import QUEUE_NAME
from queueport.tasks import registry

__all__ = ["join"]

logger: logging.Logger = logging.getLogger("queueport")


def join(broker: dramatiq.Broker) -> None:
    """Make each actor of the broker, present and future, a task of queueport under the actor's name. Idempotent.

        from queueport_dramatiq import join
        join(broker)

    A worker then runs jobs of `task.named("actor_name")`. `actor.send()` works as before. Opening
    `dramatiq://package.module:broker` calls this function. An actor is left out if a task with its name exists
    already. An actor whose name is not valid in queueport is also left out, with a warning in the log.
    """
    joined = next((each for each in broker.middleware if isinstance(each, _Joined)), None)
    if joined is None:
        broker.add_middleware(_Joined())
        return
    for actor in list(broker.actors.values()):
        joined.after_declare_actor(broker, actor)


class _Joined(Middleware):
    """The middleware that declares a task for each actor of a broker.

    Dramatiq calls the middleware for the actors that exist already, and for each actor that is declared afterwards.
    """

    def after_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[..., Any]) -> None:
        """Declare a task with the actor's name, unless that task exists. Log a warning if the name is not valid.

        The task has the actor's queue, or the default queue if the name of the actor's queue is not valid in queueport.
        """
        if registry.get(actor.actor_name) is not None:
            return

        overridden = type(actor).__call__ is not dramatiq.Actor.__call__  # the application may have its own actor class
        call = actor if overridden else actor.fn  # `Actor.__call__` accepts no argument named `self`

        def body(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except Retry as error:  # the actor sets only the delay, in milliseconds; queueport limits the attempts
                if error.delay is None:
                    raise
                raise RetryLater(delay=error.delay / 1000) from error

        options: Any = {"queue": actor.queue_name} if QUEUE_NAME.fullmatch(actor.queue_name) else {}
        try:
            task(name=actor.actor_name, **options)(body)
        except ConfigurationError as error:
            logger.warning("actor %r cannot be a task of queueport: %s", actor.actor_name, error)

"""The broker of an application that exists, and its actors as tasks of queueport's. For `dramatiq://MODULE:BROKER`."""

from __future__ import annotations

import importlib
import logging
import re
import sys
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.errors import Retry
from dramatiq.middleware import Middleware

from queueport import RetryLater, task
from queueport.errors import ConfigurationError
from queueport.job import QUEUE_NAME
from queueport.tasks import registry
from queueport.url import BackendURL

__all__ = ["application_broker", "share_actors"]

logger: logging.Logger = logging.getLogger("queueport")

PLACE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


def application_broker(url: BackendURL) -> dramatiq.Broker:
    """The broker that the URL names. Raises ConfigurationError."""
    match = PLACE.fullmatch(url.text.partition("://")[2])
    if match is None:
        raise ConfigurationError(f"{url} names no broker: write dramatiq://package.module:broker, or dramatiq+redis://")
    found = _imported(url, match["module"])
    for word in match["name"].split("."):
        found = getattr(found, word, None)
    if not isinstance(found, dramatiq.Broker):
        raise ConfigurationError(f"{url}: {match['name']!r} in {match['module']} is no Dramatiq broker: name one")
    return found


def _imported(url: BackendURL, module: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a module raises while it is imported is its own
        told = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{url}: the module {module!r} cannot be imported ({told})") from error


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

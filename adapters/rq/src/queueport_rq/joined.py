"""Functions of an RQ app as tasks of queueport, under their dotted paths. For those who join an app that exists.

    QUEUEPORT_RQ_ALLOW=shop.mail.send,shop.images.resize queueport worker queueport_rq.joined

Importing this module declares the functions that the variable lists, and nothing else can be named on the wire. RQ's
own jobs of these functions, by `.delay()` or `enqueue`, stay in RQ's queues and with RQ's workers.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

from queueport.errors import ConfigurationError
from queueport.tasks import Task, task

__all__ = ["VARIABLE", "join"]

VARIABLE = "QUEUEPORT_RQ_ALLOW"


def join(path: str) -> Task[..., Any, Any]:
    """Declare the function at that path as a task of that name. Raises ConfigurationError."""
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{VARIABLE} lists {path!r}, which cannot be imported ({error}): write module.function"
        ) from error
    if not inspect.isfunction(function):
        raise ConfigurationError(f"{VARIABLE} lists {path!r}, which is no function")
    return task(name=path)(_declared_here(function))


def _declared_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one of this module's, which a worker's other processes import to declare it."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def joined_async(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        joined_async.__module__ = __name__
        return joined_async

    @functools.wraps(function)
    def joined(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    joined.__module__ = __name__
    return joined


for listed in os.environ.get(VARIABLE, "").split(","):
    if listed.strip():
        join(listed.strip())

"""Makes functions of an existing RQ application tasks of queueport. For applications that join queueport."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from queueport.errors import ConfigurationError
from queueport.tasks import registry, task
from queueport.workers import modules

__all__ = ["VARIABLE", "join"]

VARIABLE = "QUEUEPORT_RQ_ALLOW"
"""The environment variable with the paths of functions to join, separated by commas. Opening an `rq+redis://` URL joins
them."""


def join(*paths: str) -> None:
    """Make the functions at these dotted paths tasks of queueport under the same names. Idempotent.

        from queueport_rq import join
        join("shop.mail.send", "shop.images.resize")

    A worker then runs jobs of `task.named("shop.mail.send")`. RQ's own `.delay()` and `enqueue` work as before.
    Opening an `rq+redis://` URL calls this function with the paths in QUEUEPORT_RQ_ALLOW. Imports the modules of the
    functions. Raises ConfigurationError if a module cannot be imported, or if a path does not name a function.
    """
    caller = sys._getframe(1).f_globals["__name__"]
    for path in paths:
        if registry.get(path) is None:
            joined = task(name=path)(_function(path))
            joined.__module__ = caller  # a worker's other processes import `caller` to declare the task


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        modules.load([module])
    except ConfigurationError as error:
        raise ConfigurationError(f"{path!r} cannot become a task: {error}") from error
    function = getattr(sys.modules[module], name, None)
    if not inspect.isfunction(function):
        raise ConfigurationError(
            f"{path!r} cannot become a task: it does not name a function; write a module and a function, "
            "such as 'shop.mail.send'"
        )
    return function

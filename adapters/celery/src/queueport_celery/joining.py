"""Makes the tasks of an existing Celery application tasks of queueport. For applications that join queueport."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from queueport import current_job, task
from queueport.tasks import registry
from queueport_celery.messages import ENTRY

__all__ = ["join"]


def join(app: Celery) -> None:
    """Make the tasks that the app has declared so far tasks of queueport under the same names. Idempotent.

    Leaves out Celery's own tasks, whose names begin with `celery.`, and names that queueport has already registered.

        from queueport_celery import join
        join(app)                            # after the import of all modules that declare tasks of the app

    queueport's workers that import this code then run jobs of `task.named("package.module.task")`. `.delay()`, canvas
    and beat work as before. A native worker, which imports `queueport_celery.worker`, calls this function itself for
    the app that QUEUEPORT_URL names.

    Raises ConfigurationError if a name is not valid for a task of queueport.
    """
    caller = sys._getframe(1).f_globals["__name__"]
    for name, declared in app.tasks.items():
        if name != ENTRY and not name.startswith("celery.") and registry.get(name) is None:
            joined = task(name=name)(_function(declared))
            joined.__module__ = caller  # a worker's other processes import `caller` to declare the task


def _function(declared: Task[Any, Any]) -> Callable[..., Any]:
    """Make a function that runs a Celery task and gives it a `self.request` that describes the job.

    The request has `called_directly=True`. So `self.retry()` sends no Celery message: it raises an error, which fails
    the attempt.
    """
    overridden = type(declared).__call__ is not Task.__call__  # the app's own task class may define `__call__`

    def run(*args: Any, **kwargs: Any) -> Any:
        job = current_job()
        declared.push_request(
            id=job.id,
            args=args,
            kwargs=kwargs,
            retries=job.attempt - 1,
            headers=dict(job.headers),
            delivery_info={"routing_key": job.queue},
            called_directly=True,
        )
        try:
            return declared(*args, **kwargs) if overridden else declared.run(*args, **kwargs)
        finally:
            declared.pop_request()

    return run

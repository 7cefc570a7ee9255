"""An existing app's own tasks, as tasks that queueport runs. For applications that join theirs."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task

from queueport import current_job, task
from queueport.tasks import registry
from queueport_celery.envelope import ENTRY

__all__ = ["join"]


def join(app: Celery) -> None:
    """Make the tasks that the app declared known to queueport, under their own names. Idempotent.

        from queueport_celery import join
        join(app)                            # after the modules with its tasks

    A worker then runs jobs of `task.named("package.module.task")`. Celery's own ways, `.delay()` and canvas and beat,
    stay as they are.
    """
    for name, declared in app.tasks.items():
        if name != ENTRY and not name.startswith("celery.") and registry.get(name) is None:
            _declare(name, declared)


def _declare(name: str, declared: Task[Any, Any]) -> None:
    def run(*args: Any, **kwargs: Any) -> Any:
        return _call(declared, args, kwargs)

    task(name=name)(run)


def _call(declared: Task[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The task's body in its request, as Celery's own tracer calls it; but whoever retries it, it is not Celery.

    In a request that is `called_directly` a `self.retry()` raises the error itself, which is a failed attempt.
    """
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
        own = type(declared).__call__ is not Task.__call__  # a base class with its own surroundings
        return declared(*args, **kwargs) if own else declared.run(*args, **kwargs)
    finally:
        declared.pop_request()

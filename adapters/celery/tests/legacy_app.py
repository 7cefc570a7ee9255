"""Existing Celery applications with tasks of their own, one for each broker. For `test_joining`."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task

from queueport.testing.trace import Trace

__all__ = ["on_rabbitmq", "on_redis"]

BROKERS = "LEGACY_REDIS", "LEGACY_RABBITMQ"
"""The environment variables with the URLs of the brokers. Both apps keep their results in the Redis."""
IMPORTS, JOINS = "LEGACY_IMPORTS", "queueport_celery.worker"
"""The environment variable with the modules that workers of the apps import, and its default."""
BEAT = "LEGACY_BEAT"
"""The environment variable with the queue to which beat sends a message twice a second; not set: it sends none."""


class Surrounded(Task[Any, Any]):
    """A base class of tasks with a `__call__` of its own."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note("surrounded", task=self.name)
        return self.run(*args, **kwargs)


def note(kind: str, **values: Any) -> None:
    """Leave a note for the running test."""
    trace = Trace.here()
    if trace is not None:
        trace.note(kind, **values)


def add(self: Task[Any, Any], a: int, b: int = 0) -> int:
    """Add two numbers."""
    note("added", id=self.request.id, retries=self.request.retries, headers=self.request.headers)
    return a + b


def total(numbers: list[int]) -> int:
    """Add the results of a chord."""
    return sum(numbers)


def flaky(self: Task[Any, Any], key: str) -> None:
    """Always fail, and ask Celery to retry."""
    note("tried", key=key)
    try:
        raise ValueError(key)
    except ValueError as error:
        raise self.retry(exc=error, countdown=0.1) from error


def named(**fields: int) -> dict[str, int]:
    """Return the keyword arguments."""
    return fields


def automatic(key: str) -> None:
    """Always fail; its declaration makes Celery retry."""
    note("tried", key=key)
    raise ValueError(key)


def _application(broker: str) -> Celery:
    app = Celery("legacy", broker=os.environ.get(broker), backend=os.environ.get(BROKERS[0]), set_as_current=False)
    app.conf.update(imports=os.environ.get(IMPORTS, JOINS).split(), broker_connection_retry_on_startup=True)
    app.conf.result_expires = 60  # results are deleted after these seconds
    if os.environ.get(BEAT):
        options = {"queue": os.environ[BEAT]}
        app.conf.beat_schedule = {"sum": {"task": "legacy.add", "schedule": 0.5, "args": [1, 2], "options": options}}
    declare: Any = app.task
    declare(name="legacy.add", bind=True, base=Surrounded, shared=False)(add)
    declare(name="legacy.total", shared=False)(total)
    declare(name="legacy.named", shared=False)(named)
    declare(name="legacy.flaky", bind=True, max_retries=2, shared=False)(flaky)
    retries = {"autoretry_for": (ValueError,), "max_retries": 2, "default_retry_delay": 0.1}
    declare(name="legacy.automatic", shared=False, **retries)(automatic)
    return app


on_redis = _application(BROKERS[0])
on_rabbitmq = _application(BROKERS[1])
not_an_app = object()

"""Applications that existed before queueport, one for each broker, with tasks of their own. For `test_joining`."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task

from queueport.testing.trace import Trace

__all__ = ["on_rabbitmq", "on_redis"]

BROKERS = "LEGACY_REDIS", "LEGACY_RABBITMQ"
"""Variables with the brokers' URLs; the results of both are kept in the Redis."""
IMPORTS, JOINS = "LEGACY_IMPORTS", "queueport_celery.worker"
"""What their workers import."""
BEAT = "LEGACY_BEAT"
"""The queue that their beat sends to, if any, twice a second."""


class Surrounded(Task[Any, Any]):
    """What applications do to have a context around each task."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note("surrounded", task=self.name)
        return self.run(*args, **kwargs)


def note(kind: str, **values: Any) -> None:
    """Leave a note for the test that runs."""
    trace = Trace.here()
    if trace is not None:
        trace.note(kind, **values)


def add(self: Task[Any, Any], a: int, b: int = 0) -> int:
    """The sum."""
    note("added", id=self.request.id, retries=self.request.retries, headers=self.request.headers)
    return a + b


def total(numbers: list[int]) -> int:
    """The body of a chord."""
    return sum(numbers)


def flaky(self: Task[Any, Any], key: str) -> None:
    """Always fails, and asks Celery for another try."""
    note("tried", key=key)
    try:
        raise ValueError(key)
    except ValueError as error:
        raise self.retry(exc=error, countdown=0.1) from error


def automatic(key: str) -> None:
    """Always fails; Celery is to try again by its declaration."""
    note("tried", key=key)
    raise ValueError(key)


def _application(broker: str) -> Celery:
    app = Celery("legacy", broker=os.environ.get(broker), backend=os.environ.get(BROKERS[0]), set_as_current=False)
    app.conf.update(imports=os.environ.get(IMPORTS, JOINS).split(), broker_connection_retry_on_startup=True)
    app.conf.result_expires = 60  # seconds: nobody else takes them away
    if os.environ.get(BEAT):
        options = {"queue": os.environ[BEAT]}
        app.conf.beat_schedule = {"sum": {"task": "legacy.add", "schedule": 0.5, "args": [1, 2], "options": options}}
    declare: Any = app.task
    declare(name="legacy.add", bind=True, base=Surrounded, shared=False)(add)
    declare(name="legacy.total", shared=False)(total)
    declare(name="legacy.flaky", bind=True, max_retries=2, shared=False)(flaky)
    retries = {"autoretry_for": (ValueError,), "max_retries": 2, "default_retry_delay": 0.1}
    declare(name="legacy.automatic", shared=False, **retries)(automatic)
    return app


on_redis = _application(BROKERS[0])
on_rabbitmq = _application(BROKERS[1])
not_an_app = object()

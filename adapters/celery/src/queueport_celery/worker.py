"""Imported by a worker of Celery's own, it runs queueport's jobs there: `celery -A queueport_celery.worker worker`.

An existing app names it in `imports`, and QUEUEPORT_URL names that app. Importing only registers hooks; the queue is
opened when a worker starts. The parent dispatches; hearts beat where jobs run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, signals
from celery.concurrency.prefork import TaskPool as Prefork
from kombu.utils.imports import symbol_by_name

from queueport import connect, modules
from queueport.errors import ConfigurationError, QueueportError
from queueport.native import NativeWorker
from queueport.tasks import registry
from queueport_celery import app as apps
from queueport_celery.consumer import JobConsumer
from queueport_celery.driver import CeleryDriver
from queueport_celery.entry import Node, nodes
from queueport_celery.legacy import join

__all__: list[str] = []

logger: logging.Logger = logging.getLogger("queueport")

DEFAULT_CONSUMER = "celery.worker.consumer:Consumer"
"""Celery's: https://docs.celeryq.dev/en/stable/userguide/configuration.html#worker-consumer"""

workers: dict[str, NativeWorker] = {}
"""The one of this process, by its node name."""


def __getattr__(name: str) -> Celery:
    """`app`, for `celery -A queueport_celery.worker`: that of the queue which QUEUEPORT_URL names."""
    if name == "app":
        return _driver().app
    raise AttributeError(name)


def _driver() -> CeleryDriver:
    driver = connect.get_queue().operations.driver
    if not isinstance(driver, CeleryDriver):
        raise ConfigurationError(
            f"QUEUEPORT_URL names {driver.name}, and this is a worker of Celery's: name a celery URL"
        )
    return driver


@contextmanager
def _required() -> Iterator[None]:
    """A hook that fails ends the worker: Celery would log its error and go on without queueport."""
    try:
        yield
    except QueueportError as error:
        raise SystemExit(f"celery worker: {error}") from error


@signals.celeryd_init.connect(weak=False)
def _prepare(sender: str, instance: Any, options: dict[str, Any], **_: Any) -> None:
    """Before the worker looks at its settings: which of its queues are queueport's, and which consumer they need."""
    with _required():
        driver, app = _driver(), instance.app
        if app is not driver.app:
            logger.warning(
                "celery worker %s runs another app than QUEUEPORT_URL names: it takes none of its jobs", sender
            )
            return
        modules.load(modules.environment())
        asked = options.get("queues") or ()
        names = asked.split(",") if isinstance(asked, str) else list(asked)
        if not names and not driver.joins:
            names = [driver.names.work(task.queue) for task in registry.tasks()]
        for name in names:
            if driver.names.within(name) is not None:
                app.amqp.queues.add(driver.names.declaration(name))
        if app.conf.worker_consumer == DEFAULT_CONSUMER:
            app.conf.worker_consumer = apps.CONSUMER
        elif not issubclass(symbol_by_name(app.conf.worker_consumer), JobConsumer):
            raise ConfigurationError(
                f"the app has a worker_consumer of its own, {app.conf.worker_consumer}: derive it from {apps.CONSUMER}"
            )


@signals.worker_init.connect(weak=False)
def _make(sender: Any, **_: Any) -> None:
    """In the parent, before it forks: the worker, its tasks imported, those of the app included."""
    if sender.hostname in nodes:  # one of `queueport worker`
        return
    with _required():
        driver = _driver()
        if sender.app is not driver.app:
            return
        names = driver.names
        taken = {name: names.within(name) for name in sender.app.amqp.queues.consume_from}
        queues = {name: queue for name, queue in taken.items() if queue is not None}
        if not queues:
            logger.warning("this worker takes no queue of queueport's: name one, -Q %s", names.work("default"))
            return
        if not issubclass(symbol_by_name(sender.app.conf.worker_consumer), JobConsumer):  # `_prepare` was not called
            raise ConfigurationError(
                f"{__name__} was imported too late to take {', '.join(queues)}: name it in the app's `imports`, "
                "which Celery reads before its option -I"
            )
        native = NativeWorker.from_environment(list(queues.values()), threads=sender.concurrency or 1)
        join(sender.app)
    workers[sender.hostname] = native
    nodes[sender.hostname] = Node(
        queues=queues,
        deliver=native.deliver,
        note=native.note,
        put_aside=driver.put_aside,
        cancel=native.queue.operations.cancel,
    )


@signals.worker_ready.connect(weak=False)
def _ready(sender: Any, **_: Any) -> None:
    """The pool has forked by now: threads may start here."""
    native = workers.get(sender.hostname)
    if native is not None:
        native.dispatch()
        if not isinstance(sender.pool, Prefork):
            native.begin()  # jobs run in this process


@signals.worker_process_init.connect(weak=False)
def _child(**_: Any) -> None:
    """In each process of the pool."""
    for native in workers.values():
        native.begin()


@signals.worker_process_shutdown.connect(weak=False)
def _child_ends(**_: Any) -> None:
    for native in workers.values():
        native.stop()


@signals.worker_shutdown.connect(weak=False)
def _ends(sender: Any, **_: Any) -> None:
    native = workers.pop(getattr(sender, "hostname", ""), None)
    if native is not None:
        native.stop()

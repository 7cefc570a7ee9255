"""Runs queueport's jobs in worker processes that Celery's own command starts. For operators:

    QUEUEPORT_URL=celery+redis://localhost:6379/0 QUEUEPORT_TASKS=app.tasks celery -A queueport_celery.worker worker
    QUEUEPORT_URL=celery://package.module:app     celery -A package.module:app worker -Q queueport.default

The second line is for an existing app, whose setting `imports` must name this module. Importing this module only
registers handlers of Celery's signals; the queue is opened when a worker starts, or when `app` of this module is read.
The parent process runs the dispatcher and is listed as the worker, and each process that runs jobs sends heartbeats.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from kombu.utils.imports import symbol_by_name

from queueport import connect
from queueport.errors import ConfigurationError
from queueport.tasks import registry
from queueport.workers import modules
from queueport.workers.native import NativeWorker, own_driver, starting
from queueport_celery import app as apps
from queueport_celery.consumer import JobConsumer
from queueport_celery.driver import CeleryDriver
from queueport_celery.joining import join
from queueport_celery.messages import ENTRY
from queueport_celery.prefork import PoolProcess
from queueport_celery.task import Node, nodes

__all__: list[str] = []

logger: logging.Logger = logging.getLogger("queueport")

DEFAULT_CONSUMER = "celery.worker.consumer:Consumer"
"""Celery's default for the setting `worker_consumer`: https://docs.celeryq.dev/en/stable/userguide/configuration.html#worker-consumer"""

workers: dict[str, NativeWorker] = {}
"""The native workers of this process, by node name."""


def __getattr__(name: str) -> Celery:
    """Return `app` for `celery -A queueport_celery.worker`: the app of the backend that QUEUEPORT_URL names.

    Ends the process if the backend cannot be opened or is not Celery.
    """
    if name == "app":
        with starting("celery"):
            return _driver().app
    raise AttributeError(name)


def _driver() -> CeleryDriver:
    return own_driver(connect.get_queue(), CeleryDriver, "celery+redis://localhost:6379/0")


@signals.celeryd_init.connect(weak=False)
def _prepare(sender: str, instance: Any, options: dict[str, Any], **_: Any) -> None:
    """Add queueport's queues to the app and set the consumer that they need, before the worker reads its settings.

    The queues are those of queueport that `-Q` names. Without `-Q`, they are the queues of all tasks, or none if the
    app is an existing application's. Also imports the task modules. Only logs a warning if QUEUEPORT_URL does not name
    the worker's app. Ends the process if QUEUEPORT_URL is wrong, or if a module or the app's own setting
    `worker_consumer` cannot be used.
    """
    with starting("celery worker"):
        driver, app = _driver(), instance.app
        if app is not driver.app:
            logger.warning(
                "celery worker %s takes no jobs of queueport, because QUEUEPORT_URL does not name its app: set it to a "
                "URL such as celery://package.module:app",
                sender,
            )
            return
        modules.load(modules.environment())
        asked = options.get("queues") or ()
        names = asked.split(",") if isinstance(asked, str) else list(asked)
        if not names and not driver.joins:
            names = [driver.names.native(task.queue) for task in registry.tasks()]
        for name in names:
            if driver.names.queue(name) is not None:
                app.amqp.queues.add(driver.names.declaration(name))
        if app.conf.worker_consumer == DEFAULT_CONSUMER:
            app.conf.worker_consumer = apps.CONSUMER
        elif not issubclass(symbol_by_name(app.conf.worker_consumer), JobConsumer):
            raise ConfigurationError(
                f"worker_consumer={app.conf.worker_consumer} cannot run queueport's jobs: make it a subclass of "
                f"{apps.CONSUMER}"
            )


@signals.worker_init.connect(weak=False)
def _make(sender: Any, **_: Any) -> None:
    """Make the native worker and join the app, in the parent process before it forks.

    Does neither if an `EmbeddedWorker` started the worker, if QUEUEPORT_URL does not name the worker's app, or if the
    worker takes no queue of queueport. Ends the process if this module was imported too late, or if a module with
    tasks, the name of a task or an environment variable is wrong.
    """
    if sender.hostname in nodes:  # an `EmbeddedWorker` started this Celery worker
        return
    with starting("celery worker"):
        driver = _driver()
        if sender.app is not driver.app:
            return
        names = driver.names
        taken = {name: names.queue(name) for name in sender.app.amqp.queues.consume_from}
        queues = {name: queue for name, queue in taken.items() if queue is not None}
        if not queues:
            logger.warning("this worker takes no queue of queueport: name one, such as -Q %s", names.native("default"))
            return
        if not issubclass(symbol_by_name(sender.app.conf.worker_consumer), JobConsumer):  # `_prepare` was not called
            raise ConfigurationError(
                f"{__name__} was imported too late for the queues {', '.join(queues)}: add this module to the app's "
                "`imports`, because Celery imports the modules of its option -I later"
            )
        native = NativeWorker.from_environment(
            connect.get_queue(), list(queues.values()), threads=sender.concurrency or 1
        )
        join(sender.app)
    workers[sender.hostname] = native
    nodes[sender.hostname] = Node(
        names=driver.names,
        deliver=native.deliver,
        note=native.note,
        put_aside=driver.put_aside,
        cancel=native.queue.operations.cancel,
    )


@signals.worker_ready.connect(weak=False)
def _ready(sender: Any, **_: Any) -> None:
    """Start the dispatcher and announce the worker in the parent process, after the pool has forked.

    The parent fetches the messages; without prefork, it also runs the jobs.
    """
    native = workers.get(sender.hostname)
    if native is not None:
        native.dispatch()
        native.begin()


@signals.worker_process_init.connect(weak=False)
def _child(**_: Any) -> None:
    """Start the heartbeats, and let a `PoolProcess` run the jobs. Called in each process of the pool."""
    for name, native in workers.items():
        native.begin()
        nodes[name] = replace(nodes[name], deliver=PoolProcess(native).deliver)


@signals.task_failure.connect(weak=False)
def _child_killed(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    """Hand back the job that a killed process of the pool had received and not begun. Called in the parent process."""
    if getattr(sender, "name", None) == ENTRY and isinstance(exception, WorkerLostError):
        for native in workers.values():
            native.hand_back(task_id)


@signals.worker_shutting_down.connect(weak=False)
def _stops(sender: Any = None, **_: Any) -> None:
    """Let Celery return a message to its queue if the pool process that held it is killed while the worker stops.

    Celery would acknowledge this message. Called in the parent process.
    """
    if sender in workers:
        _driver().app.tasks[ENTRY].reject_on_worker_lost = True


@signals.worker_process_shutdown.connect(weak=False)
def _child_ends(**_: Any) -> None:
    for native in workers.values():
        native.stop()


@signals.worker_shutdown.connect(weak=False)
def _ends(sender: Any, **_: Any) -> None:
    native = workers.pop(getattr(sender, "hostname", ""), None)
    if native is not None:
        native.stop()

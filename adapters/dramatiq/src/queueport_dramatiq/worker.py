"""queueport's jobs in workers that Dramatiq's own command starts. For operators:

    QUEUEPORT_URL=dramatiq+redis://localhost:6379/0 QUEUEPORT_TASKS=app.tasks dramatiq queueport_dramatiq.worker
    QUEUEPORT_URL=dramatiq://app.broker:broker      dramatiq app.broker:broker app.actors queueport_dramatiq.worker

Importing it opens no connection. Each worker process has a dispatcher: the process above them imports nothing.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware, MiddlewareError
from dramatiq.worker import Worker

from queueport import get_queue, modules
from queueport.errors import ConfigurationError, QueueportError
from queueport.executor import Delivered
from queueport.native import NativeWorker
from queueport.tasks import registry
from queueport_dramatiq.driver import DramatiqDriver
from queueport_dramatiq.embedded import POLL, pause
from queueport_dramatiq.jobs import Jobs

__all__ = ["broker"]

logger: logging.Logger = logging.getLogger("queueport")


class _Hooks(Middleware):
    """Brings queueport into a worker process of Dramatiq's, and out of it."""

    def __init__(self, driver: DramatiqDriver) -> None:
        self._driver = driver
        self._native: NativeWorker | None = None

    def before_worker_boot(self, broker: dramatiq.Broker, worker: Worker) -> None:
        """Start the dispatcher and the heart, before the first message comes."""
        try:
            queues = self._queues(worker)
            native = self._native = NativeWorker.from_environment(queues, threads=worker.worker_threads)
            if not registry.tasks():
                raise ConfigurationError(
                    "no task is registered: name their modules in QUEUEPORT_TASKS, or in the command"
                )
        except QueueportError as error:
            raise MiddlewareError(str(error)) from error  # else Dramatiq logs it and goes on
        if not self._driver.link.joined:
            worker.queue_prefetch = worker.worker_threads
            worker.worker_timeout = min(worker.worker_timeout, POLL)
        for queue in queues:
            broker.declare_queue(self._driver.names.native(queue))
        logger.info(
            "dramatiq: prefetch %d, acknowledged when the job has ended, its retries are off for queueport's jobs",
            worker.queue_prefetch,
        )
        native.dispatch()
        native.begin()

    def deliver(self, body: bytes) -> Delivered:
        """Run a message's job in this thread."""
        if self._native is None:
            raise AssertionError("no message comes before the worker has booted")
        self._native.note(body)
        return self._native.deliver(body)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        """Let running jobs end, and give back those that do not."""
        if self._native is None:
            return
        pause(worker)
        self._native.stop()
        if self._native.executor.retired:
            logger.warning("jobs that cannot be interrupted end with this process; others take them over")
            logging.shutdown()
            os._exit(0)

    def _queues(self, worker: Worker) -> list[str]:
        """Those that the command names, by queueport's names or Dramatiq's; else those of the tasks."""
        names = self._driver.names
        if not worker.consumer_whitelist:
            modules.load(modules.environment())
            return sorted({task.queue for task in registry.tasks()})
        asked: dict[str, str | None] = {name: names.queue(name) for name in worker.consumer_whitelist}
        if not self._driver.link.joined:  # there are no queues but queueport's
            asked = {name: queue or name for name, queue in asked.items()}
            worker.consumer_whitelist = {names.native(queue) for queue in asked.values() if queue}
        return sorted(queue for queue in asked.values() if queue)


def _opened() -> DramatiqDriver:
    driver: Any = get_queue().driver
    if not isinstance(driver, DramatiqDriver):
        raise ConfigurationError(
            "QUEUEPORT_URL names another backend: write dramatiq+redis://, or another of Dramatiq's"
        )
    return driver


_driver = _opened()
broker: dramatiq.Broker = _driver.native
"""What `dramatiq queueport_dramatiq.worker:broker` names. It is Dramatiq's global one, too."""
_hooks = _Hooks(_driver)
broker.add_middleware(_hooks)
Jobs(_hooks.deliver).install(broker)
dramatiq.set_broker(broker)

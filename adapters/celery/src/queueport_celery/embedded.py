"""Celery's worker within `queueport worker`, and beside a caller: its own consumer and thread pool. For the driver."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.exceptions import WorkerShutdown
from kombu.asynchronous import get_event_loop, set_event_loop

from queueport.driver import Work
from queueport.executor import Executor
from queueport.runner import Runner
from queueport_celery import app as apps
from queueport_celery.entry import Node, nodes

if TYPE_CHECKING:
    from queueport_celery.driver import CeleryDriver

__all__ = ["EmbeddedWorker", "run"]

logger: logging.Logger = logging.getLogger("queueport")

FAILED = 1
"""The exit code of a worker of Celery's that met an error it does not know."""
PAUSE = 1.0
"""Seconds before a new one is started."""
LAST_ACKNOWLEDGEMENTS = 1.0
"""Seconds that a worker has at its end to acknowledge what has ended."""
LEAVING = 5.0
"""Seconds that it then has to close its connections; it may be waiting for a broker that is away."""

making = threading.Lock()
"""Held while a worker takes an event loop of its own: kombu has a place for one in a process."""


def run(driver: CeleryDriver, runner: Runner, work: Work) -> None:
    """Run jobs in this process until stopped and drained."""
    executor = Executor(runner, work)
    node = Node(
        queues={driver.names.work(queue): queue for queue in work.queues},
        deliver=executor.deliver,
        note=lambda _: None,  # the runner sees what it begins
        put_aside=driver.put_aside,
        cancel=runner.operations.cancel,
    )
    name = f"{runner.name}@{socket.gethostname()}"
    worker = EmbeddedWorker(apps.of_worker(driver.app, driver.names, list(node.queues)), name, work)
    nodes[name] = node
    try:
        worker.start()
        executor.wait()
        worker.take_no_more(list(node.queues))
        executor.drain()
    finally:
        work.stop.set()
        worker.stop()
        executor.close()
        del nodes[name]


class EmbeddedWorker:
    """A worker of Celery's in a thread, made anew where it fails. It leaves signals and logging alone."""

    def __init__(self, app: Any, name: str, work: Work) -> None:
        self._app = app
        self._name = name
        self._work = work
        self._stopping = threading.Event()
        self._controller: Any = None
        self._thread = threading.Thread(target=self._run, name="queueport-celery", daemon=True)

    def start(self) -> None:
        """Begin to consume."""
        logger.info(
            "celery worker %s: %d threads, prefetch 1 each, acknowledged late, JSON only, Celery's own retries off",
            self._name,
            self._work.threads,
        )
        self._thread.start()

    def take_no_more(self, queues: Sequence[str]) -> None:
        """Consume from nothing any more."""
        consumer: Any = getattr(self._controller, "consumer", None)

        def cancel() -> None:
            for queue in queues:
                with suppress(Exception):  # without its broker it consumes nothing anyway
                    consumer.cancel_task_queue(queue)

        if consumer is not None:
            consumer.call_soon(cancel)

    def stop(self) -> None:
        """End it, whatever it does."""
        self._stopping.set()
        controller = self._controller
        if controller is None:
            return
        if controller.pool is not None:
            controller.pool.settle(LAST_ACKNOWLEDGEMENTS)
        controller.hub.call_soon(_leave)
        self._thread.join(LEAVING)
        if self._thread.is_alive():
            logger.warning("celery worker %s does not end by itself: its broker does not answer", self._name)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._controller = controller = self._made()
            controller.start()
            if self._stopping.is_set():
                return
            if controller.exitcode != FAILED:
                logger.info("celery worker %s was told to shut down", self._name)
                self._work.stop.set()
                return
            logger.warning("celery worker %s has failed; a new one starts", self._name)
            self._stopping.wait(PAUSE)

    def _made(self) -> Any:
        with making:
            others = get_event_loop()
            set_event_loop(None)
            try:
                return self._app.WorkController(
                    hostname=self._name,
                    concurrency=self._work.threads,
                    pool=apps.POOL,
                    without_gossip=True,
                    without_mingle=True,
                )
            finally:
                set_event_loop(others)


def _leave() -> None:
    """In the worker's own loop: what a signal handler of Celery's would raise."""
    raise WorkerShutdown(0)

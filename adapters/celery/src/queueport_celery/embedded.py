"""Runs a Celery worker and its thread pool inside a process that may also run other code. For the driver."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.concurrency.thread import TaskPool
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_FAILURE
from kombu.asynchronous import get_event_loop, set_event_loop

from queueport.spi.failures import FailureLog, RepeatFilter
from queueport.spi.runner import JobRunner
from queueport_celery import app as apps
from queueport_celery.names import Names
from queueport_celery.task import Node, nodes

__all__ = ["EmbeddedWorker", "ThreadPool"]

logger: logging.Logger = logging.getLogger("queueport")

POOL = "queueport_celery.embedded:ThreadPool"
PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds to wait before a failed worker is started again. The pause is PAUSE if the worker ran for at least
LONGEST_PAUSE. Otherwise it is twice the previous pause, from 2 * PAUSE up to LONGEST_PAUSE."""
LOGGERS = ("celery.worker", "celery.worker.consumer.connection", "celery.worker.consumer.consumer", "celery.bootsteps")
"""The loggers that Celery uses when a worker fails. While a worker runs, repeated identical lines are suppressed,
except lines below WARNING."""
LAST_ACKNOWLEDGEMENTS = 1.0
"""Maximum seconds for a stopping worker to acknowledge the messages of jobs that have ended."""
LEAVING = 5.0
"""Maximum seconds for a stopping worker to close its connections, in case the broker does not answer."""

making = threading.Lock()
"""Held while a worker creates its event loop, because kombu has one global event loop in a process."""


class EmbeddedWorker:
    """Runs a Celery worker in a thread, and starts the Celery worker again if it fails. Implements `FrameworkWorker`.

    If an operator shuts the Celery worker down, for example by `celery control shutdown`, queueport's worker stops too.
    Unlike Celery's command, this class sets no signal handlers and does not configure logging.
    """

    def __init__(self, app: Celery, names: Names, put_aside: Callable[[str, Any], None], runner: JobRunner) -> None:
        """`put_aside` is `CeleryDriver.put_aside`."""
        self._work = runner.work
        self._name = f"{runner.name}@{socket.gethostname()}"
        self._node = Node(
            names=names,
            deliver=runner.deliver,
            note=lambda _: None,  # not needed: `runner.deliver` also records that the message has arrived
            put_aside=put_aside,
            cancel=runner.cancel,
        )
        self._app = apps.of_worker(app, names, [names.native(queue) for queue in runner.work.queues])
        self._stopping = threading.Event()
        self._failures = FailureLog(logger)
        self._controller: Any = None
        self._thread = threading.Thread(target=self._run, name="queueport-celery", daemon=True)

    def start(self) -> None:
        nodes[self._name] = self._node
        logger.info(
            "celery worker %s: %d threads, prefetch 1 each; messages acknowledged late, JSON only, no Celery retries",
            self._name,
            self._work.threads,
        )
        self._thread.start()

    def pause(self) -> None:
        consumer: Any = getattr(self._controller, "consumer", None)

        def cancel() -> None:
            for queue in list(self._app.amqp.queues.consume_from):
                with suppress(Exception):  # if the connection is lost, no message arrives anyway
                    consumer.cancel_task_queue(queue)

        if consumer is not None:
            consumer.call_soon(cancel)

    def stop(self) -> None:
        self._stopping.set()
        controller = self._controller
        if controller is not None:
            if controller.pool is not None:
                controller.pool.settle(LAST_ACKNOWLEDGEMENTS)
            controller.hub.call_soon(_leave)
            self._thread.join(LEAVING)
            if self._thread.is_alive():
                logger.warning("celery worker %s does not stop; its broker may not answer", self._name)
        nodes.pop(self._name, None)

    def _run(self) -> None:
        repeats = RepeatFilter(LOGGERS)
        repeats.install()
        try:
            self._run_controllers()
        finally:
            repeats.remove()

    def _run_controllers(self) -> None:
        pause = PAUSE
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                self._controller = controller = self._new_controller()
            except Exception as error:  # noqa: BLE001  # such as a lack of file descriptors
                self._failures.error(error, "celery worker %s could not be created; trying again", self._name)
            else:
                if self._stopping.is_set():  # `stop` may have been called before `_controller` was set
                    return
                controller.start()
                if self._stopping.is_set():
                    return
                if controller.exitcode != EX_FAILURE:
                    logger.info("celery worker %s was told to shut down", self._name)
                    self._work.stop.set()
                    return
                self._failures.warning(
                    "celery worker %s failed and is started again; Celery has logged why", self._name
                )
            pause = min(pause * 2, LONGEST_PAUSE) if time.monotonic() - started < LONGEST_PAUSE else PAUSE
            self._stopping.wait(pause)

    def _new_controller(self) -> Any:
        with making:
            others = get_event_loop()
            set_event_loop(None)
            try:
                return self._app.WorkController(
                    hostname=self._name,
                    concurrency=self._work.threads,
                    pool=POOL,
                    without_gossip=True,
                    without_mingle=True,
                )
            finally:
                set_event_loop(others)


def _leave() -> None:
    """Stop the worker. Called in the worker's event loop; raises the exception by which Celery ends a worker."""
    raise WorkerShutdown(0)


class ThreadPool(TaskPool):
    """Celery's thread pool, with three differences.

    In its threads, the worker's app is Celery's current app. `on_stop` drops the calls that have not begun, and does
    not wait for the running calls; call `settle` first to wait for them. `AsyncResult.get` stays allowed, see
    `task_join_will_block`.
    """

    task_join_will_block = False
    """If this were True, Celery would forbid `AsyncResult.get` in the whole process, even in the application's code."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.executor = ThreadPoolExecutor(self.limit, "queueport-celery", initializer=self.app.set_current)
        self._running: set[Future[Any]] = set()

    def on_apply(self, *args: Any, **options: Any) -> Any:
        result = super().on_apply(*args, **options)
        self._running.add(result.f)
        result.f.add_done_callback(self._running.discard)
        return result

    def settle(self, seconds: float) -> None:
        """Wait at most `seconds` until the calls in the pool's threads end. A call acknowledges its message last."""
        wait(list(self._running), seconds)

    def on_stop(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)

"""Runs queueport's jobs in worker processes that Dramatiq's own command starts. For operators:

    QUEUEPORT_URL=dramatiq+redis://localhost:6379/0 QUEUEPORT_TASKS=app.tasks dramatiq queueport_dramatiq.worker
    QUEUEPORT_URL=dramatiq://app.broker:broker      dramatiq app.broker:broker app.actors queueport_dramatiq.worker

Importing this module registers hooks and, if QUEUEPORT_URL begins with `dramatiq:`, also imports the broker of the
application. The queue is opened when a worker starts. Each worker process has a dispatcher, because Dramatiq's parent
process does not import this module.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from functools import cached_property
from typing import Any

import dramatiq.broker
from dramatiq.middleware import Middleware
from dramatiq.worker import Worker

from queueport import get_queue
from queueport.errors import ConfigurationError
from queueport.spi.runner import DeliveryResult
from queueport.spi.url import BackendURL
from queueport.tasks import registry
from queueport.workers import modules
from queueport.workers.native import NativeWorker, own_driver, starting
from queueport_dramatiq.app import application_broker
from queueport_dramatiq.driver import DramatiqDriver
from queueport_dramatiq.embedded import POLL, pause
from queueport_dramatiq.middleware import JobMiddleware

__all__ = ["broker"]

logger: logging.Logger = logging.getLogger("queueport")

COMMAND = "dramatiq worker"
"""The first words of the error line if a worker cannot start."""
PARENT_CHECK = 0.5
"""Seconds between two checks of whether Dramatiq's parent process still runs."""
REPEATED = 2.0
"""Seconds after an accepted SIGTERM or SIGHUP during which both signals are ignored. Dramatiq's parent process passes
a signal on to its children, which may have received the same signal already."""


def _driver() -> DramatiqDriver:
    """The driver for QUEUEPORT_URL. Raises ConfigurationError if the URL is wrong or not for Dramatiq."""
    example = "dramatiq+redis://localhost:6379/0"
    return own_driver(get_queue(), DramatiqDriver, example)  # type: ignore[type-abstract]  # the class is not called


class _Hooks(Middleware):
    """The middleware that starts queueport in a worker process of Dramatiq, and stops it."""

    def __init__(self) -> None:
        self._native: NativeWorker | None = None

    def before_worker_boot(self, broker: dramatiq.Broker, worker: Worker) -> None:
        """Declare queueport's queues, and start the dispatcher and the heartbeats before the first message arrives.

        Ends the process if the configuration is wrong.
        """
        with starting(COMMAND):  # ends the process after an error; Dramatiq would log it and go on
            driver = _driver()
            if driver.native is not broker:
                raise ConfigurationError(
                    "QUEUEPORT_URL does not name the broker of this worker: set it to a URL such as "
                    "dramatiq://package.module:broker"
                )
            queues = _queues(driver, worker)
            native = self._native = NativeWorker.from_environment(get_queue(), queues, threads=worker.worker_threads)
            if not registry.tasks():
                raise ConfigurationError(
                    "no task is registered: name the modules with tasks in QUEUEPORT_TASKS, or in the command"
                )
        if not driver.joined:
            worker.queue_prefetch = worker.worker_threads
            worker.worker_timeout = min(worker.worker_timeout, POLL)
        for queue in queues:
            broker.declare_queue(driver.names.native(queue))
        logger.info(
            "dramatiq: prefetch %d; queueport's messages are acknowledged after the job "
            "(async def: when it has begun), and Dramatiq does not retry failed jobs",
            worker.queue_prefetch,
        )
        if threading.current_thread() is threading.main_thread():
            _set_signals()
        threading.Thread(target=_end_with_parent, daemon=True, name="queueport-parent").start()
        native.dispatch()
        native.begin()

    def deliver(self, body: bytes) -> DeliveryResult:
        if self._native is None:
            raise AssertionError("a message arrived before the worker had started")
        self._native.note(body)
        return self._native.deliver(body)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        """Give running jobs the grace period to end, and then interrupt those that still run.

        If a job cannot be interrupted, ends this process after that.
        """
        if self._native is None:
            return
        pause(worker)
        self._native.stop()
        if self._native.process.must_exit:
            logger.warning(
                "this process exits, because some jobs did not end in time and cannot be interrupted; other workers "
                "run them again when their leases have lapsed. To give jobs more time to end, set QUEUEPORT_GRACE"
            )
            logging.shutdown()
            os._exit(0)


def _end_with_parent() -> None:
    """End this process at once when its parent has ended, because of SIGKILL or a crash.

    Nobody would replace or stop this process. After 64 KiB of log lines, which the parent no longer reads, each thread
    that logs would wait for ever, and tasks would go on without heartbeats.
    """
    parent, started_by = multiprocessing.parent_process(), os.getppid()  # two processes if a fork server is used
    if parent is None:
        return
    while parent.is_alive() and os.getppid() == started_by:
        time.sleep(PARENT_CHECK)
    os._exit(1)


def _set_signals() -> None:
    """Let this process stop gracefully even if a signal is sent to the parent process and its children.

    The parent then passes the signal on, so each child gets it twice. Dramatiq would end a child at the second signal.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    accepted_at = -REPEATED

    def accept(number: int, frame: Any) -> None:
        nonlocal accepted_at
        handler = handlers[signal.Signals(number)]
        if callable(handler) and time.monotonic() - accepted_at > REPEATED:
            accepted_at = time.monotonic()
            handler(number, frame)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, accept)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which programs started by a task would inherit


def _queues(driver: DramatiqDriver, worker: Worker) -> list[str]:
    """Return queueport's names of the queues that the command names, or of the queues of all tasks if it names none.

    The command may give Dramatiq's names of the queues. If the broker is not an application's, any other name is read
    as queueport's name of a queue, and the worker then consumes that queue. If the broker is an application's, other
    names are those of the application's own queues, and are left out here.
    """
    names = driver.names
    if not worker.consumer_whitelist:
        modules.load(modules.environment())
        return sorted({task.queue for task in registry.tasks()})
    asked: dict[str, str | None] = {name: names.queue(name) for name in worker.consumer_whitelist}
    if not driver.joined:  # all queues are queueport's, so any other name is queueport's name of a queue
        asked = {name: queue or name for name, queue in asked.items()}
        worker.consumer_whitelist = {names.native(queue) for queue in asked.values() if queue}
    return sorted(queue for queue in asked.values() if queue)


class _UnopenedBroker(dramatiq.Broker):
    """Dramatiq's global broker until a worker process starts. Then the broker of QUEUEPORT_URL replaces this one."""

    def __init__(self, hooks: _Hooks) -> None:
        super().__init__(middleware=[])
        self._hooks = hooks

    @cached_property
    def opened(self) -> dramatiq.Broker:
        """The broker of QUEUEPORT_URL. Ends the process if it cannot be opened."""
        with starting(COMMAND):
            broker = _driver().native
        _install(self._hooks, broker)
        return broker

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Pass a signal to the opened broker.

        The first signal, `process_boot`, opens the broker before actors are imported.
        """
        self.opened.emit_after(signal, *args, **kwargs)

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Pass a signal to the opened broker. At `worker_boot`, first let the worker use that broker."""
        if signal == "worker_boot":
            args[0].broker = self.opened
        self.opened.emit_before(signal, *args, **kwargs)

    def close(self) -> None:
        self.opened.close()


def _install(hooks: _Hooks, broker: dramatiq.Broker) -> None:
    if hooks not in broker.middleware:
        broker.add_middleware(hooks)
    JobMiddleware(hooks.deliver).install(broker)
    dramatiq.set_broker(broker)


def _registered() -> dramatiq.Broker:
    """Install the hooks in the broker that Dramatiq's command uses: the application's, or else an `_UnopenedBroker`.

    Ends a worker process if QUEUEPORT_URL or the application's broker is wrong. Other processes ignore such an error.
    """
    hooks, found = _Hooks(), dramatiq.broker.global_broker
    try:
        url = BackendURL.parse(os.environ.get("QUEUEPORT_URL", ""))
        if url.scheme == "dramatiq":
            found = application_broker(url)
    except ConfigurationError:
        if multiprocessing.parent_process() is not None:  # a worker process must not start without its queue
            with starting(COMMAND):
                _driver()
    if found is not None:
        _install(hooks, found)
        return found
    unopened = _UnopenedBroker(hooks)
    dramatiq.set_broker(unopened)
    return unopened


broker: dramatiq.Broker = _registered()
"""The broker for `dramatiq queueport_dramatiq.worker`. It is also Dramatiq's global broker. If it is an
`_UnopenedBroker`, another broker replaces it as the global one when a worker process starts."""

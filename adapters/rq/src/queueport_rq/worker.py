"""RQ's own worker runs queueport's jobs: `rq worker -w queueport_rq.worker.QueueportWorker -S json NAMESPACE.QUEUE`.

Each job runs in a work horse, which is a fork of the worker. So a task that leaks memory, crashes or cannot be
interrupted affects no other job. The worker runs a dispatcher, and each work horse sends the heartbeats of its job.
The environment variables QUEUEPORT_URL and QUEUEPORT_TASKS name the backend and the modules with tasks, and
QUEUEPORT_GRACE the grace period in seconds. `queueport.workers.native` lists the other variables. Importing this module
does no I/O.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any

from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.executions import Execution
from rq.job import Job
from rq.logutils import setup_loghandlers
from rq.queue import Queue
from rq.utils import ensure_job_list
from rq.worker import Worker

from queueport import connect
from queueport.errors import ConfigurationError
from queueport.spi.message import Message, NotAMessage
from queueport.spi.runner import DeliveryResult
from queueport.workers.native import NativeWorker, own_driver, starting
from queueport_rq.delivery import DeliveringWorker, Taken
from queueport_rq.driver import RQDriver
from queueport_rq.job import SERIALIZER, QueueportJob
from queueport_rq.names import Names

__all__ = ["QueueportWorker"]

logger: logging.Logger = logging.getLogger("queueport")

POLL = 0.5
"""Seconds between two checks by a work horse of whether its parent is alive, and of whether an attempt is stuck."""


class QueueportWorker(DeliveringWorker, Worker):
    """RQ's forking worker for the queues of one namespace. It always uses queueport's serializer and job class.

    It also uses the Redis that QUEUEPORT_URL names, even if RQ's command names another Redis. The process ends with one
    line of error if an environment variable is wrong, if QUEUEPORT_URL does not name RQ, if a task module cannot be
    imported, or if a queue is not in the namespace.
    """

    _native: NativeWorker

    def __init__(self, queues: Any, name: str | None = None, *, prepare_for_work: bool = True, **kwargs: Any) -> None:
        kwargs |= {"serializer": SERIALIZER, "job_class": QueueportJob}
        names = [queue.name if isinstance(queue, Queue) else str(queue) for queue in ensure_job_list(queues)]
        if prepare_for_work:  # RQ passes False if it only lists its workers
            with starting("rq worker"):
                opened = connect.get_queue()
                driver = own_driver(opened, RQDriver, "rq+redis://localhost:6379/0")
                self._native = NativeWorker.from_environment(opened, [_own(driver.names, name) for name in names])
            kwargs |= {"connection": driver.client(), "default_result_ttl": driver.keep}
        super().__init__(names, name, prepare_for_work=prepare_for_work, **kwargs)

    # -- in the parent -----------------------------------------------------------------------------

    def bootstrap(
        self,
        logging_level: str | None = "INFO",
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
    ) -> None:
        setup_loghandlers(logging_level or "INFO", date_format, log_format, name="queueport")
        super().bootstrap(logging_level, date_format, log_format)
        logger.info("each job runs in a work horse; JSON only, RQ's retries and time limits are off")

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Taken:
        self._native.begin()  # here, because RQ must first have set its signal handlers
        self._native.dispatch()
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def execute_job(self, job: Job, queue: Queue) -> None:
        if isinstance(job, QueueportJob) and job.body is not None:
            self._native.note(job.body)
            self._native.read_pauses()
        super().execute_job(job, queue)

    def handle_work_horse_killed(self, job: Job, retpid: Any, ret_val: Any, rusage: Any) -> None:
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)  # type: ignore[no-untyped-call]  # as below
        if isinstance(job, QueueportJob) and job.body is not None:
            with suppress(NotAMessage):
                self._native.hand_back(Message.parse(job.body, self._native.queue.operations.signer).id)

    def teardown(self) -> None:
        if not self.is_horse:
            self._native.stop()
        super().teardown()  # type: ignore[no-untyped-call]  # RQ has no types here

    # -- in the work horse -------------------------------------------------------------------------

    def setup_work_horse_signals(self) -> None:
        """Ignore SIGINT and SIGTERM, which may be sent to all processes of the worker. Only the parent reacts to them.

        Also start the thread that ends this process if the parent dies.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # child processes of a task would inherit SIG_IGN
        threading.Thread(target=self._end_with_parent, name="queueport-parent", daemon=True).start()

    def _end_with_parent(self) -> None:
        """Exit when the parent has died. A work horse has its own process group, so nothing else would end it."""
        while os.getppid() == self.pid:
            time.sleep(POLL)
        os._exit(1)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        try:
            return super().perform_job(job, queue, execution)
        finally:
            self._native.stop()

    def deliver(self, body: bytes) -> DeliveryResult:
        delivered = self._native.deliver(body)
        process = self._native.process
        process.drain()  # an `async def` task may still run in another thread
        while process.must_exit:  # an attempt is stuck: a thread of `NativeWorker` ends this process
            time.sleep(POLL)
        return delivered


def _own(names: Names, native: str) -> str:
    queue = names.queue(native)
    if queue is None:
        raise ConfigurationError(
            f"{native!r} is not a queue of namespace {names.namespace!r}: give the name that RQ uses, such as "
            f"{names.native('default')!r}"
        )
    return queue

"""RQ's own worker runs queueport's jobs: `rq worker -w queueport_rq.worker.QueueportWorker -S json NAMESPACE.QUEUE`.

Each job runs in a work horse of its own, a fork, as RQ's users know it: a task that leaks, crashes or cannot be stopped
takes nothing else with it. The dispatcher is in the parent, and a heart beats in each horse. The environment names the
queue (QUEUEPORT_URL) and the modules with tasks (QUEUEPORT_TASKS). Importing this module connects to nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
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
from queueport.executor import Delivered
from queueport.native import NativeWorker
from queueport_rq.broker import SERIALIZER
from queueport_rq.delivering import DeliveringWorker
from queueport_rq.driver import RQDriver
from queueport_rq.job import QueueportJob

__all__ = ["QueueportWorker"]

logger: logging.Logger = logging.getLogger("queueport")

LOOK = 0.5
"""Seconds between two looks of a work horse whether its parent lives."""


class QueueportWorker(DeliveringWorker, Worker):
    """RQ's forking worker for the queues of one namespace. Serializer and job class are queueport's, whatever is asked.

    Raises ConfigurationError for a queue of another namespace, and where the environment names no queue of RQ's.
    """

    _native: NativeWorker

    def __init__(self, queues: Any, name: str | None = None, *, prepare_for_work: bool = True, **kwargs: Any) -> None:
        kwargs |= {"serializer": SERIALIZER, "job_class": QueueportJob}
        names = [queue.name if isinstance(queue, Queue) else str(queue) for queue in ensure_job_list(queues)]
        if prepare_for_work:  # not where RQ only lists its workers
            opened = connect.get_queue()
            if not isinstance(opened.driver, RQDriver):
                raise ConfigurationError(
                    f"{opened.url} is not RQ's: name a Redis in QUEUEPORT_URL, as rq+redis://HOST/DB"
                )
            self._native = NativeWorker.from_environment([opened.driver.names.own_queue(name) for name in names])
            kwargs |= {"connection": opened.driver.client(), "default_result_ttl": opened.driver.keep}
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
        logger.info("a work horse for each job: JSON only, RQ's retries and time limits off")

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        self._native.begin()  # it runs nothing, but is announced; not before RQ hears signals
        self._native.dispatch()
        return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)

    def execute_job(self, job: Job, queue: Queue) -> None:
        if isinstance(job, QueueportJob) and job.body is not None:
            self._native.note(job.body)
        super().execute_job(job, queue)

    def teardown(self) -> None:
        if not self.is_horse:
            self._native.stop()
        super().teardown()  # type: ignore[no-untyped-call]  # RQ has no types here

    # -- in the work horse -------------------------------------------------------------------------

    def setup_work_horse_signals(self) -> None:
        """The parent says when to stop: a signal for all of its processes must not end a job in the middle."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which programs that a task starts would inherit
        threading.Thread(target=self._end_with_parent, name="queueport-parent", daemon=True).start()

    def _end_with_parent(self) -> None:
        """A horse is in a process group of its own: what ends the parent would leave it behind, and unseen."""
        while os.getppid() == self.pid:
            time.sleep(LOOK)
        os._exit(1)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        try:
            return super().perform_job(job, queue, execution)
        finally:
            self._native.stop()

    def deliver(self, body: bytes) -> Delivered:
        delivered = self._native.deliver(body)
        executor = self._native.executor
        executor.drain()  # an `async def` task goes on beside this thread
        while executor.retired:  # its code cannot be interrupted, and ends with this process, any moment now
            time.sleep(LOOK)
        return delivered

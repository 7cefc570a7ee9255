"""RQ's workers in threads of one process, for `queueport worker` and for workers beside the caller. For the driver."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker.base import WorkerStatus

from queueport.driver import Work
from queueport.executor import Delivered, Executor
from queueport_rq.broker import SERIALIZER
from queueport_rq.delivering import DeliveringWorker, NoDeathPenalty
from queueport_rq.job import QueueportJob

if TYPE_CHECKING:
    from queueport.runner import Runner
    from queueport_rq.driver import RQDriver

__all__ = ["ThreadWorkers"]

logger: logging.Logger = logging.getLogger("queueport")
rq_logger: logging.Logger = logging.getLogger("queueport.rq")
"""What RQ's workers say here beside queueport's own lines; each job once more, so that INFO is too much."""
rq_logger.setLevel(logging.WARNING)

MONITORING = 30
"""Seconds between two heartbeats in RQ of a message that is being run, as by RQ's default."""
WORKER_TTL = 90
"""Seconds after which RQ no longer shows a worker that says nothing."""
BEAT = 10.0
"""Seconds between two signs of life of an idle worker."""
POLL: Any = 0.25  # RQ says whole ones, and hands it on to the Redis
"""Seconds that an idle worker waits in the Redis before it looks whether it is to stop."""
RESTART = 2.0
"""Seconds, at most, until a worker that RQ ended because of an error is started again."""
SUSPENDED = 1.0
"""Seconds between two looks whether `rq resume` was called."""
LEAVE = 2.0
"""Seconds that the threads have to tell RQ how their last jobs ended."""


class ThreadWorkers:
    """As many RQ workers as there are to be threads. `run` blocks in the thread that calls it."""

    def __init__(self, driver: RQDriver, runner: Runner, work: Work) -> None:
        self._driver = driver
        self._runner = runner
        self._work = work
        self._connection = driver.client()
        self._executor = Executor(runner, work)
        self._stopping = threading.Event()
        self._workers: dict[int, ThreadWorker] = {}

    def run(self) -> None:
        """Run jobs until told to stop, or, in a burst, until nothing is due."""
        logger.info("%d RQ workers in this process: JSON only, RQ's retries and time limits off", self._work.threads)
        threads = [
            threading.Thread(target=self._serve, args=[number], name=f"queueport-rq-{number}", daemon=True)
            for number in range(self._work.threads)
        ]
        for thread in (*threads, threading.Thread(target=self._beat, name="queueport-rq-beat", daemon=True)):
            thread.start()
        try:
            self._executor.wait()
            self._stopping.set()
            if self._work.burst:
                self._work.stop.set()
            self._executor.drain()
        finally:
            self._stopping.set()
            deadline = time.monotonic() + LEAVE  # a thread that cannot be interrupted is left behind
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            self._executor.close()
            self._connection.close()

    def _serve(self, number: int) -> None:
        """One thread's worker; RQ ends it when the Redis does not answer, and another one follows."""
        pause = 0.1
        while not self._stopping.is_set():
            try:
                self._workers[number] = worker = self._new_worker()
                worker.work()
                pause = 0.1
            except (RedisError, OSError) as error:
                logger.warning("the worker waits for RQ's Redis: %s", error)
            except Exception:
                logger.exception("RQ's worker met an error it does not know; another one follows")
            self._stopping.wait(pause)
            pause = min(pause * 2, RESTART)

    def _new_worker(self) -> ThreadWorker:
        return ThreadWorker(
            [self._driver.names.queue(name) for name in self._work.queues],
            name=f"{self._runner.name}-{secrets.token_hex(2)}",
            connection=self._connection,
            serializer=SERIALIZER,
            worker_ttl=WORKER_TTL,
            job_monitoring_interval=MONITORING,
            default_result_ttl=self._driver.keep,
            executor=self._executor,
            stopping=self._stopping,
            call_timeout=self._driver.call_timeout,
        )

    def _beat(self) -> None:
        """RQ's sign of life for what runs long; it decides nothing."""
        while not self._stopping.wait(MONITORING):
            for worker in list(self._workers.values()):
                try:
                    worker.beat()
                except (RedisError, OSError) as error:
                    logger.debug("RQ does not hear that worker %s lives: %s", worker.name, error)


class ThreadWorker(DeliveringWorker):
    """An RQ worker in a thread beside others: without signals, forks and commands by pubsub."""

    death_penalty_class = NoDeathPenalty
    job_class = QueueportJob
    max_connection_wait_time = RESTART

    def __init__(
        self, *args: Any, executor: Executor, stopping: threading.Event, call_timeout: float, **kwargs: Any
    ) -> None:
        self._call_timeout = call_timeout
        super().__init__(*args, **kwargs)
        self.log = rq_logger
        self._executor = executor
        self._stopping = stopping
        self._running: tuple[Job, Execution] | None = None

    def bootstrap(self, *logging: Any, **named: Any) -> None:
        """RQ would set up logging, and listen to commands that end whole processes: this one is not RQ's alone."""
        self.register_birth()  # type: ignore[no-untyped-call]  # RQ has no types here
        self.set_state(WorkerStatus.STARTED)

    def deliver(self, body: bytes) -> Delivered:
        return self._executor.deliver(body)

    def execute_job(self, job: Job, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        self._running = job, execution
        try:
            self.perform_job(job, queue, execution)
        finally:
            self._running = None
        self.set_state(WorkerStatus.IDLE)

    def beat(self) -> None:
        """What it runs is not abandoned."""
        running = self._running
        if running is not None:
            self.maintain_heartbeats(*running)

    def check_for_suspension(self, burst: bool) -> None:
        while is_suspended(self.connection, self) and not self._stopping.wait(SUSPENDED):
            self.set_state(WorkerStatus.SUSPENDED)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        while not self._stopping.is_set():
            taken = super().dequeue_job_and_maintain_ttl(POLL, POLL)
            if taken is not None:
                return taken
        raise StopRequested

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """RQ beats several times for each job; once in a while is enough."""
        recent = self.last_heartbeat is not None and (now() - self.last_heartbeat).total_seconds() < BEAT
        if pipeline is not None or not recent:
            super().heartbeat(timeout, pipeline)

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """RQ says again and again that it is idle."""
        if state != self.get_state():
            super().set_state(state, pipeline)

    @property
    def connection_timeout(self) -> int:
        """RQ would wait for an answer as long as for a job."""
        return math.ceil(self._call_timeout) + 1

    def _install_signal_handlers(self) -> None:
        """Signals are queueport's."""

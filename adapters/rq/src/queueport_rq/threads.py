"""RQ workers in threads of one process, for `queueport worker` and for `queue.worker()`. For the driver."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from functools import partial
from typing import Any

import redis
from redis.exceptions import RedisError
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.queue import Queue
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker.base import WorkerStatus

from queueport.errors import BackendUnavailable
from queueport.spi.failures import FailureLog
from queueport.spi.runner import DeliveryResult, JobRunner
from queueport.stores.redis import Redis, close_unused, encoded, unavailable
from queueport_rq.delivery import DeliveringWorker, Taken
from queueport_rq.job import SERIALIZER
from queueport_rq.names import Names

__all__ = ["ThreadWorkers"]

logger: logging.Logger = logging.getLogger("queueport")
rq_logger: logging.Logger = logging.getLogger("queueport.rq")
"""The logger of RQ's workers. At INFO they would log each job a second time, after queueport."""
rq_logger.setLevel(logging.WARNING)
rq_logger.addFilter(lambda record: "found an unhandled exception" not in str(record.msg))  # `_serve` logs the error

MONITORING = 30
"""Seconds between two heartbeats that tell RQ that the job of a message still runs. This is RQ's default."""
WORKER_TTL = 90
"""RQ no longer lists an idle worker after this number of seconds, and 60 more, without a heartbeat."""
IDLE_HEARTBEAT = 10.0
"""Minimum seconds between two heartbeats of an idle worker."""
POLL: Any = 0.5  # RQ declares an int, but passes the value to Redis unchanged
"""Seconds that an idle worker waits for a message before it checks whether it must stop."""
RESTART = 2.0
"""Maximum seconds before a worker that ended with an error is started again, and between two attempts to reconnect."""
SUSPENDED = 1.0
"""Seconds between two checks of whether `rq suspend` was called (by a busy worker) or `rq resume` (by a suspended one).
"""
SHUTDOWN = 2.0
"""Maximum seconds for the threads to record in RQ how their last jobs ended."""


class ThreadWorkers:
    """A `FrameworkWorker` that runs one RQ worker in each of several threads. `RQDriver.work` creates this object."""

    def __init__(self, connection: redis.Redis, server: Redis, names: Names, runner: JobRunner, *, keep: int) -> None:
        """`stop` closes `connection` and `server`, two clients of the same Redis. `keep` is the seconds that RQ keeps a
        message after its attempt.
        """
        self._connection = connection
        self._server = server
        self._unavailable = partial(unavailable, server.target.shown, call_timeout=server.call_timeout)
        self._runner = runner
        self._stopping = threading.Event()
        self._failures = FailureLog(logger)
        self._threads: list[threading.Thread] = []
        self._workers: dict[int, ThreadWorker] = {}
        self._new_worker = partial(
            ThreadWorker,
            [names.native(name) for name in runner.work.queues],
            connection=connection,
            serializer=SERIALIZER,
            worker_ttl=WORKER_TTL,
            job_monitoring_interval=MONITORING,
            default_result_ttl=keep,
            runner=runner,
            stopping=self._stopping,
            server=server,
        )

    def start(self) -> None:
        threads = self._runner.work.threads
        logger.info("%d RQ workers in this process; JSON only, RQ's retries and time limits are off", threads)
        self._threads = [
            threading.Thread(target=self._serve, args=[number], name=f"queueport-rq-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        threading.Thread(target=self._send_heartbeats, name="queueport-rq-heartbeats", daemon=True).start()

    def pause(self) -> None:
        self._stopping.set()

    def stop(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + SHUTDOWN  # a thread whose code cannot be interrupted may still run
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        close_unused(self._connection)
        self._server.close()

    def _serve(self, number: int) -> None:
        """Run RQ workers in this thread, one after another, because RQ ends a worker that has an error.

        An example of such an error is that Redis does not answer. Returns when the workers must stop.
        """
        pause = 0.1
        while not self._stopping.is_set():
            try:
                worker = self._new_worker(name=f"{self._runner.name}-{secrets.token_hex(2)}")
                self._workers[number] = worker
                worker.work()
                pause = 0.1
            except (RedisError, OSError) as error:
                self._failures.warning("an RQ worker failed and is started again: %s", self._unavailable(error))
            except Exception as error:  # noqa: BLE001  # this thread must go on
                self._failures.error(error, "an RQ worker failed with an unexpected error and is started again")
            self._stopping.wait(pause)
            pause = min(pause * 2, RESTART)

    def _send_heartbeats(self) -> None:
        """Send RQ's own heartbeats for the messages whose jobs run, so that Redis keeps these messages for RQ's tools.

        queueport's heartbeats, which keep the jobs from being counted as crashed, do not depend on RQ's.
        """
        while not self._stopping.wait(MONITORING):
            for worker in list(self._workers.values()):
                running = worker.running
                try:
                    if running is not None:
                        worker.maintain_heartbeats(*running)
                except Exception as error:  # noqa: BLE001  # the other workers need their heartbeats
                    logger.debug("the RQ heartbeat of worker %s failed: %s", worker.name, error)


class ThreadWorker(DeliveringWorker):
    """An RQ worker that runs in a thread. So it uses no signals and no forks, and obeys no pub/sub commands of RQ."""

    max_connection_wait_time = RESTART

    def __init__(self, *args: Any, runner: JobRunner, stopping: threading.Event, server: Redis, **kwargs: Any) -> None:
        self._server = server
        super().__init__(*args, **kwargs)
        self.log = rq_logger
        self._runner = runner
        self._stopping = stopping
        self.running: tuple[Job, Execution] | None = None
        self._preparing: Any = None
        """The commands that `prepare_execution` has collected, and that `prepare_job_execution` sends."""
        self._suspension_checked = -SUSPENDED

    def bootstrap(self, *logging: Any, **named: Any) -> None:
        """Register the worker. RQ's own method would also set up logging and obey commands that end the process."""
        self.register_birth()  # type: ignore[no-untyped-call]  # RQ has no types here
        self.set_state(WorkerStatus.STARTED)

    def deliver(self, body: bytes) -> DeliveryResult:
        return self._runner.deliver(body)

    def execute_job(self, job: Job, queue: Queue) -> None:
        execution = self.prepare_execution(job)
        self.running = job, execution
        try:
            self.perform_job(job, queue, execution)
        finally:
            self.running = None
        self.set_state(WorkerStatus.IDLE)

    def prepare_execution(self, job: Job) -> Execution:
        """Collect the commands that record the start, so that `prepare_job_execution` sends them in one transaction."""
        self._preparing, keep = self.connection.pipeline(), self.get_heartbeat_ttl(job)
        execution = Execution.create(job, keep, pipeline=self._preparing, worker_name=self.name)
        self.executions[execution.id] = execution
        self.set_state(WorkerStatus.BUSY, pipeline=self._preparing)
        return execution

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        with self._preparing as pipeline:
            self.heartbeat(self.get_heartbeat_ttl(job), pipeline=pipeline)
            job.prepare_for_execution(self.name, pipeline=pipeline)
            self.expire(job, pipeline)
            if remove_from_intermediate_queue:
                pipeline.lrem(self.queues[0].intermediate_queue_key, 1, job.id)
            self.execute(pipeline)

    def execute(self, pipeline: Any) -> None:
        """Run the commands in one transaction through a client of the class that the Redis store also uses.

        redis-py's own pipeline takes far longer. Raises the error of the Redis client.
        """
        commands = [[encoded(word) for word in words] for words, _ in pipeline.command_stack]
        try:
            answers = self._server.ask([[b"MULTI"], *commands, [b"EXEC"]], once=True)
        except BackendUnavailable as error:
            raise error.__cause__ or error from None
        for answer in (*answers, *(answers[-1] if isinstance(answers[-1], list) else ())):
            if isinstance(answer, RedisError):
                raise answer

    def cleanup_execution(self, job: Job, pipeline: Any, execution: Execution | None = None) -> None:
        super().cleanup_execution(job, pipeline, execution)
        self.set_state(WorkerStatus.IDLE, pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        """Wait as long as the workers are suspended and need not stop.

        A busy worker checks at most every `SUSPENDED` seconds whether the workers are suspended.
        """
        if time.monotonic() < self._suspension_checked + SUSPENDED:
            return
        self._suspension_checked = time.monotonic()
        while is_suspended(self.connection, self) and not self._stopping.wait(SUSPENDED):
            self.set_state(WorkerStatus.SUSPENDED)

    def dequeue_job_and_maintain_ttl(self, timeout: int | None, max_idle_time: int | None = None) -> Taken:
        while not self._stopping.is_set():
            taken = super().dequeue_job_and_maintain_ttl(POLL, POLL)
            if taken is not None:
                return taken
        raise StopRequested

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Send a heartbeat; without `pipeline`, at most every IDLE_HEARTBEAT seconds, because RQ calls this often."""
        recent = self.last_heartbeat is not None and (now() - self.last_heartbeat).total_seconds() < IDLE_HEARTBEAT
        if pipeline is not None or not recent:
            super().heartbeat(timeout, pipeline)

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Write the state only if it has changed, because RQ often sets the state that the worker already has."""
        if state != self.get_state():
            super().set_state(state, pipeline)

    @property
    def connection_timeout(self) -> int:
        """Maximum seconds to wait for an answer from Redis. RQ's own value would be longer."""
        return math.ceil(self._server.call_timeout) + 1

    def _install_signal_handlers(self) -> None:
        """Do nothing, because queueport handles signals."""

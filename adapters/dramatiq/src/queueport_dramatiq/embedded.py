"""Runs a Dramatiq worker inside this process. For the driver; the module `worker` uses `POLL` and `pause`."""

from __future__ import annotations

import logging

import dramatiq
from dramatiq.worker import Worker

from queueport.spi.failures import RepeatFilter
from queueport.spi.runner import JobRunner
from queueport_dramatiq.middleware import JobMiddleware

__all__ = ["POLL", "EmbeddedWorker", "pause"]

logger: logging.Logger = logging.getLogger("queueport")

POLL = 100
"""Maximum milliseconds between two checks of an empty queue. Dramatiq's default, 1000, would start jobs too late."""
SHUTDOWN = 2_000
"""Maximum milliseconds to wait for the threads that run jobs, and again for the consumers' threads, to end. A thread
whose code cannot be interrupted goes on."""


class EmbeddedWorker:
    """Runs a Dramatiq worker in threads of this process. Implements `FrameworkWorker`.

    `queues` are Dramatiq's names of the queues. No other worker may use `broker`, and `stop` closes `broker`.
    """

    def __init__(self, broker: dramatiq.Broker, queues: list[str], runner: JobRunner) -> None:
        self._broker = broker
        work = runner.work
        JobMiddleware(runner.deliver).install(broker)
        if work.owns_process:
            logging.getLogger("pika").setLevel(logging.WARNING)  # at INFO, pika logs each step of each connection
            broker.emit_after("process_boot")
        for queue in queues:
            broker.declare_queue(queue)
        self._worker = Worker(broker, queues=set(queues), worker_timeout=POLL, worker_threads=work.threads)
        self._worker.queue_prefetch = work.threads
        loggers = [f"dramatiq.worker.ConsumerThread({queue})" for queue in queues]
        self._repeats = RepeatFilter(loggers, logging.INFO)  # Dramatiq logs a consumer's restart at INFO

    def start(self) -> None:
        logger.info(
            "dramatiq %s: %d threads, prefetch %d; messages acknowledged after the job (async def: when it has begun), "
            "JSON only, Dramatiq does not retry failed jobs",
            type(self._broker).__name__,
            self._worker.worker_threads,
            self._worker.queue_prefetch,
        )
        self._repeats.install()
        self._worker.start()

    def pause(self) -> None:
        pause(self._worker)

    def stop(self) -> None:
        self._worker.stop(timeout=SHUTDOWN)
        self._broker.close()
        self._repeats.remove()


def pause(worker: Worker) -> None:
    """Pause the worker's threads, and return at once. A busy thread first ends its message.

    A thread that waits for a message may still take and process one. The worker's consumers continue, to send
    acknowledgements and heartbeats. They may also fetch messages.
    """
    for thread in worker.workers:
        thread.pause()

"""A Dramatiq worker inside this process, for `queueport worker`: Dramatiq fetches and acknowledges, queueport runs."""

from __future__ import annotations

import logging

import dramatiq
from dramatiq.worker import Worker

from queueport.driver import Work
from queueport.executor import Executor
from queueport.runner import Runner
from queueport_dramatiq.jobs import Jobs

__all__ = ["POLL", "pause", "run"]

logger: logging.Logger = logging.getLogger("queueport")

POLL = 100
"""Milliseconds, at most, between two looks at an empty queue: Dramatiq's own 1000 are as long as a job may be late."""
LAST_WORD = 2_000
"""Milliseconds that idle threads have to end; one with code that cannot be interrupted is left."""


def run(broker: dramatiq.Broker, queues: list[str], runner: Runner, work: Work) -> None:
    """Run jobs until told to stop; blocks. The broker is this worker's own, the queues are Dramatiq's names."""
    executor = Executor(runner, work)
    Jobs(executor.deliver).install(broker)
    if work.owns_process:
        logging.getLogger("pika").setLevel(logging.WARNING)  # it tells of each step of each connection
        broker.emit_after("process_boot")
    for queue in queues:
        broker.declare_queue(queue)
    worker = Worker(broker, queues=set(queues), worker_timeout=POLL, worker_threads=work.threads)
    worker.queue_prefetch = work.threads
    logger.info(
        "dramatiq %s: %d threads, prefetch %d, acknowledged when the job has ended, JSON only, its retries are off",
        type(broker).__name__,
        work.threads,
        worker.queue_prefetch,
    )
    worker.start()
    try:
        executor.wait()
        pause(worker)
        executor.drain()
    finally:
        work.stop.set()
        worker.stop(timeout=LAST_WORD)
        executor.close()
        broker.close()


def pause(worker: Worker) -> None:
    """Begin no more; its consumers go on, for acknowledgements and heartbeats pass through them."""
    for thread in worker.workers:
        thread.pause()

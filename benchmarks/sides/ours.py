"""queueport on the backend whose URL is in QUEUEPORT_URL."""

from __future__ import annotations

from typing import Any

from benchmarks.probe import probe
from benchmarks.sides.side import Side, command
from queueport import get_queue, task

job = task(name="probe")(probe)


class Bench(Side):
    processes = 1

    def __init__(self) -> None:
        self._queue = get_queue()

    def enqueue(self, milliseconds: float = 0.0) -> Any:
        return self._queue.enqueue(job, milliseconds)

    def enqueue_many(self, count: int) -> None:
        self._queue.enqueue_many(job.job(0.0) for _ in range(count))

    def result(self, handle: Any) -> Any:
        status = handle.status()
        return status.result if status.state.final else None

    def worker(self) -> list[str]:
        options = [f"--threads={self.threads}", f"--processes={self.processes}", "--log-level=warning"]
        return command("queueport", "worker", "benchmarks.sides.ours", *options)


class Single(Bench):
    """queueport with one job at a time, to compare it with a worker that cannot run more."""

    threads = 1


class Double(Bench):
    """queueport with two worker processes."""

    processes = 2

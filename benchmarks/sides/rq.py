"""RQ with its SimpleWorker, which runs one job at a time in its own process."""

from __future__ import annotations

from typing import Any, ClassVar

from redis import Redis
from rq import Queue

from benchmarks.probe import probe
from benchmarks.sides.side import Side, command, environment


class Bench(Side):
    threads: ClassVar[int] = 1

    def __init__(self) -> None:
        self._redis = Redis.from_url(environment("REDIS"))
        self._queue = Queue("bench", connection=self._redis)

    def enqueue(self, milliseconds: float = 0.0) -> Any:
        return self._queue.enqueue(probe, milliseconds)

    def enqueue_many(self, count: int) -> None:
        self._queue.enqueue_many([Queue.prepare_data(probe, (0.0,)) for _ in range(count)])

    def result(self, handle: Any) -> Any:
        return handle.return_value(refresh=True)

    def worker(self) -> list[str]:
        return command("rq", "worker", "--worker-class=rq.SimpleWorker", f"--url={environment('REDIS')}", "-q", "bench")

    def close(self) -> None:
        self._redis.close()

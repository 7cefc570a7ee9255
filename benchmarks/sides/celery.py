"""Celery on Redis or RabbitMQ with results in Redis, late acknowledgement and confirmed publishes."""

from __future__ import annotations

from typing import Any

from celery import Celery

from benchmarks.probe import probe
from benchmarks.sides.side import Side, command, environment

app = Celery("bench", broker=environment("RABBITMQ" if environment("OPTION") == "rabbitmq" else "REDIS"))
app.conf.update(
    result_backend=environment("REDIS"),
    broker_transport_options={"confirm_publish": True} if environment("OPTION") == "rabbitmq" else {},
    task_acks_late=True,
    task_default_queue=environment("QUEUE"),
    worker_prefetch_multiplier=16,  # Celery's documentation recommends more than 1 for short tasks
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
)
task = app.task(probe)


class Bench(Side):
    def enqueue(self, milliseconds: float = 0.0) -> Any:
        return task.delay(milliseconds)

    def result(self, handle: Any) -> Any:
        return app.AsyncResult(handle.id).result  # the old handle would not ask again

    def worker(self) -> list[str]:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
        pool = ["--pool=threads", f"--concurrency={self.threads}"]
        return command("celery", "--app=benchmarks.sides.celery", "worker", *pool, *quiet)

    def close(self) -> None:
        app.close()

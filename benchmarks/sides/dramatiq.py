"""Dramatiq on Redis or RabbitMQ, with results in Redis. On RabbitMQ, publishes are confirmed."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from dramatiq.results.errors import ResultMissing

from benchmarks.probe import probe
from benchmarks.sides.side import Side, command, environment


def make_broker() -> dramatiq.Broker:
    """The broker that BENCH_OPTION names, with results."""
    broker: dramatiq.Broker = RedisBroker(url=environment("REDIS"))  # type: ignore[no-untyped-call]
    if environment("OPTION") == "rabbitmq":
        broker = RabbitmqBroker(url=environment("RABBITMQ"), confirm_delivery=True)
    results = Results(backend=RedisBackend(url=environment("REDIS")), store_results=True)  # type: ignore[no-untyped-call]
    broker.add_middleware(results)
    return broker


broker = make_broker()
dramatiq.set_broker(broker)
actor: Any = dramatiq.actor(queue_name=environment("QUEUE"))(probe)


class Bench(Side):
    def enqueue(self, milliseconds: float = 0.0) -> Any:
        return actor.send(milliseconds)

    def result(self, handle: Any) -> Any:
        try:
            return handle.get_result()
        except ResultMissing:
            return None

    def worker(self) -> list[str]:
        return command("dramatiq", "benchmarks.sides.dramatiq", "--processes=1", f"--threads={self.threads}")

    def close(self) -> None:
        broker.close()

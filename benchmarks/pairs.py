"""The pairs that the benchmark compares: a library used directly, and queueport on the same servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["PAIRS", "Pair"]


@dataclass(frozen=True, slots=True)
class Pair:
    """`native` and `ours` name a module of `benchmarks.sides` and a class, as `measure` takes them."""

    title: str
    native: str
    guarantees: str
    """A sentence for the table: how far the guarantees of both sides are equal."""
    url: str
    """QUEUEPORT_URL, in which {redis}, {rabbitmq} and {folder} are replaced."""
    ours: str = "ours:Bench"
    option: str = ""
    """BENCH_OPTION for the native side."""
    jobs: int = 1000
    """How many jobs a worker runs while its speed is measured."""
    targets: tuple[float, float, float] | None = None
    """The lowest acceptable ratios of queueport's speed to the library's: for one `enqueue`, for `enqueue_many`
    compared with the library's single enqueue, and for running jobs."""


REDIS = "Both keep everything in one Redis without persistence."
RABBITMQ = "Both wait for RabbitMQ's confirm, and keep results in Redis."

PAIRS: Mapping[str, Pair] = {
    "sqlite": Pair(
        "SQLite / huey",
        "huey:Bench",
        "Both commit each job; neither waits for the disk (`synchronous=OFF` there, WAL with `NORMAL` here). A crash "
        "of a worker loses huey's running jobs.",
        "sqlite:///{folder}/jobs.db",
        jobs=4000,
        targets=(0.5, 2, 1.0),
    ),
    "sqlite-fsync": Pair(
        "SQLite / huey with `fsync`",
        "huey:Bench",
        "huey waits for the disk at each commit; queueport in WAL with `NORMAL` does not.",
        "sqlite:///{folder}/jobs.db",
        option="fsync",
        jobs=2000,
    ),
    "rq": Pair(
        "RQ",
        "rq:Bench",
        REDIS + " One job at a time.",
        "rq+{redis}",
        ours="ours:Single",
        jobs=500,
        targets=(1.3, 6, 1.5),
    ),
    "dramatiq-redis": Pair("Dramatiq, Redis", "dramatiq:Bench", REDIS, "dramatiq+{redis}", targets=(1.0, 5, 0.9)),
    "dramatiq-rabbitmq": Pair(
        "Dramatiq, RabbitMQ",
        "dramatiq:Bench",
        RABBITMQ,
        "dramatiq+{rabbitmq}?store={redis}",
        option="rabbitmq",
        targets=(0.9, 6, 0.9),
    ),
    "celery-redis": Pair(
        "Celery, Redis", "celery:Bench", REDIS + " Late acknowledgement.", "celery+{redis}", targets=(1.5, 12, 1.0)
    ),
    "celery-rabbitmq": Pair(
        "Celery, RabbitMQ",
        "celery:Bench",
        RABBITMQ + " Late acknowledgement.",
        "celery+{rabbitmq}?store={redis}",
        option="rabbitmq",
        targets=(1.3, 12, 1.0),
    ),
    "rabbitmq": Pair(
        "RabbitMQ / pika",
        "pika:Bench",
        "Both publish to a durable quorum queue with confirms; pika has no results and no workers.",
        "{rabbitmq}?store={redis}",
        targets=(0.9, 10, 5.0),
    ),
}
"""The pairs by name, as in `nox -s bench -- NAME`. The run of "rabbitmq" is compared with that of "celery-rabbitmq"."""

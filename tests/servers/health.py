"""What `check` says about servers that cannot be used, and in a process without file descriptors. For adapters."""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from queueport import get_queue
from queueport.errors import BackendUnavailable, JobNotFound
from queueport.testing import tasks
from queueport.testing.redis_store import Redis
from queueport.testing.waiting import eventually

__all__ = [
    "LONG",
    "check_never_sent",
    "check_redis_adapter",
    "check_replica",
    "fails_without_descriptors",
    "no_descriptors",
    "problems",
]

LONG = "x" * 64
"""The name of a host that is not valid, because a label has at most 63 characters."""


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no more files. It must have imported all modules before."""
    gc.collect()  # later it could close files of earlier tests
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def problems(url: str, *, store: str | None = None) -> list[str]:
    """The problems that `check` reports. `enqueue` must raise BackendUnavailable if there are any."""
    with get_queue(url, call_timeout=2.0, namespace="checked", store=store) as queue:
        health = queue.check()
        assert health.ok is (not health.problems)
        if health.problems:
            with pytest.raises(BackendUnavailable):
                queue.enqueue("t")
        return health.problems


def check_never_sent(url: str, folder: Path) -> None:
    """Assert that a job leaves no record if its message could not be sent because no connection could be opened.

    `url` contains `{}` in place of a host and port. Nobody listens on one, and the other host does not exist.
    """
    for number, place in enumerate(("127.0.0.1:1", "no-such-host.invalid:1")):
        store = f"sqlite:///{folder}/{number}.db"
        with get_queue(url.format(place), store=store, call_timeout=2.0, namespace="checked") as queue:
            with pytest.raises(BackendUnavailable, match="and will not run: enqueue") as caught:
                queue.enqueue(tasks.echo.using(job_id="lost"), 1)
            assert (caught.value.rejected, caught.value.unknown) == (("lost",), ())
            with pytest.raises(JobNotFound):
                queue.status("lost")


def fails_without_descriptors(url: str, *, store: str | None = None) -> None:
    """Assert that `enqueue` and `check` explain that no file descriptor is left."""
    problems(url, store=store)  # this call imports all modules
    with get_queue(url, call_timeout=2.0, namespace="checked", store=store) as queue, no_descriptors():
        with pytest.raises(BackendUnavailable, match="no file descriptors left"):
            queue.enqueue("t")
        health = queue.check()
    assert any("no file descriptors left: close files, or raise the limit" in problem for problem in health.problems)


def check_replica(framework: str, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that `enqueue`, `check` and a worker say in one sentence that a Redis has become a read-only replica.

    The worker logs it a few times, not for each attempt, and runs jobs again when the Redis is a primary.
    """
    says = "is a read-only replica: name the primary"
    primary, server = Redis(), Redis()
    try:
        url = f"{framework}+{server.url}"
        with (
            redis.Redis(port=server.port) as client,
            get_queue(url, namespace="checked", lease=3.0) as queue,
            caplog.at_level(logging.INFO),
            queue.worker(tasks.QUEUE, threads=2),
        ):
            assert queue.enqueue(tasks.echo, 1).result(10) == 1
            caplog.clear()
            client.replicaof("127.0.0.1", str(primary.port))
            (problem,) = queue.check().problems
            assert problem.endswith(says)
            with pytest.raises(
                BackendUnavailable, match=f"{says}; the job was not enqueued on .* and will not run: enqueue it again"
            ):
                queue.enqueue(tasks.echo, 2)
            eventually(lambda: any(f"{says} (" in text for text in caplog.messages), 60)  # repeated, with a count
            told = Counter(text.partition(" (")[0] for text in caplog.messages)
            assert sum(says in text for text in told) >= 1
            assert max(told.values()) <= 3, told
            client.replicaof("NO", "ONE")
            eventually(lambda: queue.check().ok)
            assert queue.enqueue(tasks.echo, 3).result(30) == 3
    finally:
        server.kill()
        primary.kill()


def check_redis_adapter(framework: str, folder: Path) -> None:
    """Assert that `check` says once what prevents an enqueue, for a framework on a Redis."""
    full = Redis("--maxmemory", "1")
    try:
        (problem,) = problems(f"{framework}+{full.url}")
        assert re.search(r"has no memory left \(.*\): raise its maxmemory", problem)
        (problem,) = problems(f"{framework}+{full.url}", store=f"sqlite:///{folder}/jobs.db")
        assert re.search(r"has no memory left \(.*\): raise its maxmemory", problem)
        fails_without_descriptors(f"{framework}+{full.url}")
    finally:
        full.kill()
    for place, sentence in (("127.0.0.1:1", "refuses connections"), (LONG, "has a host name that is not valid")):
        assert [sentence in problem for problem in problems(f"{framework}+redis://{place}/0")] == [True]

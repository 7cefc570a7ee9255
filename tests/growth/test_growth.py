"""Many small jobs through one worker: memory, files, threads, connections and keys are the same at the end.

`nox -s growth` runs this with 100,000 jobs; GROWTH_JOBS is another number.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import redis

from queueport import JobQueue, get_queue
from queueport.testing import tasks
from queueport.testing.process import WorkerProcess
from queueport.testing.redis_store import Redis
from queueport.testing.waiting import eventually

JOBS = int(os.environ.get("GROWTH_JOBS", "100000"))
BATCH = 500
PART = JOBS // 10
"""The first measurement is after this number of jobs, when all pools and caches are filled."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it reads /proc, which only Linux has")


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a worker process, and of the server while no job waits."""

    rss: int
    """The resident memory in MB."""
    files: int
    threads: int
    connections: int
    keys: int
    """The number of keys that do not expire. RQ keeps a job and its result for at least 500 seconds."""


@pytest.fixture(params=["sqlite", "rq", "celery", "dramatiq"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Redis | None]]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db", None
        return
    server = Redis()
    yield f"{request.param}+{server.url}", server
    server.kill()


@pytest.mark.timeout(0)  # 100,000 jobs take as long as the machine needs
def test_a_worker_does_not_grow(
    url: tuple[str, Redis | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, server = url
    given = {"QUEUEPORT_URL": address, "QUEUEPORT_KEEP_SUCCEEDED": "1s"}
    command = [sys.executable, "-m", "queueport", "worker", tasks.__name__, "--queue=default", "--log-level=warning"]
    with get_queue(address) as queue:
        worker = WorkerProcess(command, {**os.environ, **given}, tmp_path / "log")
        try:
            run(queue, PART)
            first = settled(worker, server)
            run(queue, JOBS - PART)
            last = settled(worker, server)
        finally:
            worker.clean()
    with capsys.disabled():
        print(f"\n{address.partition(':')[0]}, {JOBS} jobs: {asdict(first)} -> {asdict(last)}")  # noqa: T201
    assert last.rss <= first.rss * 1.1 + 5
    assert last.files <= first.files + 5
    assert last.threads <= first.threads + 2
    assert last.connections <= first.connections + 5
    assert last.keys <= first.keys + 20


def run(queue: JobQueue, jobs: int) -> None:
    """Run so many jobs that do nothing, and wait until their records are deleted."""
    target = queue.stats().processed + jobs
    for done in range(0, jobs, BATCH):
        queue.enqueue_many(tasks.echo.job(None) for _ in range(min(BATCH, jobs - done)))
        eventually(lambda: queue.stats().totals.queued < 2 * BATCH, 300)
    eventually(lambda: queue.stats().processed == target and queue.stats().totals.total == 0, 300, queue.stats)


def settled(worker: WorkerProcess, server: Redis | None) -> Size:
    """The size when it no longer changes, except for the memory: the framework's worker has ended its bookkeeping."""
    found = [size(worker, server)]

    def unchanged() -> bool:
        found.append(size(worker, server))
        return replace(found[-1], rss=0) == replace(found[-2], rss=0)

    eventually(unchanged, 30, lambda: found[-2:])
    return found[-1]


def size(worker: WorkerProcess, server: Redis | None) -> Size:
    """Measure the worker's processes together, and the server."""
    pids = processes(worker.pid)
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
    connections = keys = 0
    if server is not None:
        with redis.Redis.from_url(server.url) as client:
            keyspace = client.info("keyspace")["db0"]
            connections, keys = client.info("clients")["connected_clients"], keyspace["keys"] - keyspace["expires"]
    return Size(
        sum(value(text, "VmRSS") for text in status) // 1024,
        files,
        sum(value(text, "Threads") for text in status),
        connections,
        keys,
    )


def value(status: str, name: str) -> int:
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])


def processes(group: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                found.append(int(path.name))
        except ProcessLookupError:
            continue
    return found

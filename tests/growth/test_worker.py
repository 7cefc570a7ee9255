"""A worker that runs many small jobs, or none for a week: memory, files, threads, connections and keys stay the same.

`nox -s growth` runs this with 100,000 jobs and 168 hours; GROWTH_JOBS and GROWTH_HOURS are other numbers.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from queueport import JobQueue, get_queue
from queueport.testing import tasks
from queueport.testing.process import WorkerProcess
from queueport.testing.redis_store import Redis
from queueport.testing.waiting import eventually
from tests.growth.sizes import assert_no_growth, settled

JOBS = int(os.environ.get("GROWTH_JOBS", "100000"))
HOURS = float(os.environ.get("GROWTH_HOURS", "168"))
BATCH = 500
PART = 10
"""The first measurement is after this part of the jobs or hours, when all pools and caches are filled."""
OPTIONS = ["worker", tasks.__name__, "--queue=default", "--log-level=warning"]


@pytest.mark.timeout(0)  # 100,000 jobs take as long as the machine needs
def test_a_worker_of_many_jobs_does_not_grow(
    url: tuple[str, Redis | None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, server = url
    given = {"QUEUEPORT_URL": address, "QUEUEPORT_KEEP_SUCCEEDED": "1s"}
    command = [sys.executable, "-m", "queueport", *OPTIONS]
    with get_queue(address) as queue:
        worker = WorkerProcess(command, {**os.environ, **given}, tmp_path / "log")
        try:
            run(queue, JOBS // PART)
            first = settled(worker.pid, server)
            run(queue, JOBS - JOBS // PART)
            last = settled(worker.pid, server)
        finally:
            worker.clean()
    with capsys.disabled():
        print(f"\n{address.partition(':')[0]}, {JOBS} jobs: {asdict(first)} -> {asdict(last)}")  # noqa: T201
    assert_no_growth(first, last)


def run(queue: JobQueue, jobs: int) -> None:
    """Run so many jobs that do nothing, and wait until their records are deleted."""
    target = queue.stats().processed + jobs
    for done in range(0, jobs, BATCH):
        queue.enqueue_many(tasks.echo.job(None) for _ in range(min(BATCH, jobs - done)))
        eventually(lambda: queue.stats().totals.queued < 2 * BATCH, 300)
    eventually(lambda: queue.stats().processed == target and queue.stats().totals.total == 0, 300, queue.stats)


@pytest.mark.timeout(0)
def test_an_idle_worker_does_not_grow_in_a_week(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The clock of the worker runs fast. It also sets the time in the database, which has no server with its own."""
    clock = tmp_path / "clock"
    given = {"QUEUEPORT_URL": f"sqlite:///{tmp_path}/jobs.db", "GROWTH_CLOCK": str(clock)}
    worker = WorkerProcess(
        [sys.executable, "-m", "tests.growth.fast_worker", *OPTIONS], {**os.environ, **given}, tmp_path / "log"
    )

    def reached(hours: float) -> bool:
        assert worker.running, worker.log
        return clock.exists() and float(clock.read_text() or 0) >= hours

    try:
        eventually(lambda: reached(HOURS / PART), 3600, lambda: worker.log)
        first = settled(worker.pid, None)
        eventually(lambda: reached(HOURS), 3600, lambda: worker.log)
        last = settled(worker.pid, None)
        assert worker.stop() == 0
    finally:
        worker.clean()
    with capsys.disabled():
        print(f"\nidle for {HOURS} hours: {asdict(first)} -> {asdict(last)}\n{worker.log}")  # noqa: T201
    assert_no_growth(first, last)
    assert worker.log == ""

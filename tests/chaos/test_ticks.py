"""2,000 ticks of 50 schedules while workers are killed: each tick has exactly one job, and no tick is missing.

`nox -s chaos -- tests/chaos/test_ticks.py` runs this. CHAOS_SEED repeats the kills of an earlier run, as far as
processes allow.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from adapters.rabbitmq.tests.test_contract import RabbitMQHarness
from queueport import JobQueue, JobState, JobStatus
from queueport.testing import tasks
from queueport.testing.harness import Harness
from queueport.testing.trace import TRACE
from queueport.testing.waiting import eventually

SCHEDULES, SECONDS, EVERY = 50, 40, 1.0
WORKERS, LEAST, MOST = 3, 0.2, 2.0
"""The workers that run at once, and the seconds from one kill to the next."""


class OnSqlite(Harness):
    """SQLite in the folder of the test."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder}/jobs.db")


@pytest.fixture(params=["sqlite", "rabbitmq"])
def harness(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setenv(TRACE, str(tmp_path))
    made = OnSqlite(tmp_path) if request.param == "sqlite" else RabbitMQHarness("quorum", private=False)
    yield made
    made.end()


def test_each_tick_has_one_job_although_workers_are_killed(harness: Harness) -> None:
    seed = os.environ.get("CHAOS_SEED") or str(time.time_ns())
    chance = random.Random(seed)
    queue = harness.open()
    for number in range(SCHEDULES):
        queue.schedules.add(f"s{number}", tasks.echo.job(number), every=EVERY, catch_up="all")
    first = {schedule.name: schedule.next_at for schedule in queue.schedules.list()}
    workers = [harness.process() for _ in range(WORKERS)]
    kills, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(chance.uniform(LEAST, MOST))
        workers.pop(chance.randrange(WORKERS)).kill()
        kills += 1
        workers.append(harness.process())
    for name in first:
        queue.schedules.pause(name)
    eventually(lambda: unfinished(queue) == 0, 60, lambda: queue.stats().totals)
    made = defaultdict[str, list[datetime]](list)
    for status in all_jobs(queue):
        made[status.headers["queueport-schedule"]].append(datetime.fromisoformat(status.headers["queueport-tick"]))
    total = sum(map(len, made.values()))
    print(f"seed {seed}: {total} ticks, {kills} kills")  # noqa: T201  # pytest -s shows the measured figures
    for name, start in first.items():
        assert start is not None
        assert sorted(made[name]) == [start + timedelta(seconds=n) for n in range(len(made[name]))], (name, seed)
    assert total >= SCHEDULES * (SECONDS - 2) * EVERY, seed


def unfinished(queue: JobQueue) -> int:
    totals = queue.stats().totals
    return totals.total - totals.succeeded


def all_jobs(queue: JobQueue) -> Iterator[JobStatus]:
    after = None
    while page := queue.jobs(JobState.SUCCEEDED, limit=500, after=after):
        yield from page
        after = page[-1].id

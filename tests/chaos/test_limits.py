"""20,000 starts of a task with a concurrency limit while workers are killed: never more runs at a time than the limit.

`nox -s chaos -- tests/chaos/test_limits.py` runs this. CHAOS_SEED repeats the kills of an earlier run, as far as
processes allow, and CHAOS_STARTS makes a shorter run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.rabbitmq.tests.test_contract import RabbitMQHarness
from queueport import JobQueue, JobState
from queueport.testing.chaos.ledger import LEDGER, Ledger
from queueport.testing.harness import Harness
from queueport.testing.trace import TRACE
from tests.chaos import limited_task
from tests.chaos.limited_task import CONCURRENCY, limited

STARTS = int(os.environ.get("CHAOS_STARTS", "20000"))
WORKERS, THREADS, LEAST, MOST = 3, 4, 1.0, 4.0
"""The workers that run at once, their threads, and the seconds from one kill to the next."""
AHEAD = 1000
"""New jobs are enqueued when fewer jobs than this have not ended."""
STUCK = 120.0
"""The run fails if no job ends for this number of seconds."""


class Workers(Harness):
    """Makes the harness start workers that know the task."""

    def worker_command(self, *options: str) -> Sequence[str]:
        return [*super().worker_command(*options), limited_task.__name__, f"--threads={THREADS}", "--processes=1"]


class OnSqlite(Workers):
    """SQLite in the folder of the test."""


class OnRabbitMQ(Workers, RabbitMQHarness):
    """RabbitMQ, with the records in a Redis."""


@pytest.fixture(params=["sqlite", "rabbitmq"])
def harness(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Harness]:
    monkeypatch.setenv(TRACE, str(tmp_path))
    monkeypatch.setenv(LEDGER, str(tmp_path))
    sqlite = request.param == "sqlite"
    made = OnSqlite(f"sqlite:///{tmp_path}/jobs.db") if sqlite else OnRabbitMQ("quorum", private=False)
    yield made
    made.end()


@pytest.mark.timeout(1800)
def test_no_more_jobs_run_than_the_limit_although_workers_are_killed(harness: Harness, tmp_path: Path) -> None:
    seed = os.environ.get("CHAOS_SEED") or str(time.time_ns())
    chance, queue, killed = random.Random(seed), harness.open(), dict[int, float]()
    command = harness.worker_command()
    workers = [harness.start(command, ready=False) for _ in range(WORKERS)]
    started = ended_at = time.monotonic()
    kill_at = started + MOST
    enqueued = ended = 0
    while ended < STARTS:
        if enqueued < STARTS and enqueued - ended < AHEAD:
            queue.enqueue_many(limited.job() for _ in range(min(AHEAD // 2, STARTS - enqueued)))
            enqueued += min(AHEAD // 2, STARTS - enqueued)
        if time.monotonic() >= kill_at:
            worker = workers.pop(chance.randrange(WORKERS))
            worker.kill()
            killed[worker.pid] = time.monotonic()
            workers.append(harness.start(command, ready=False))
            kill_at = time.monotonic() + chance.uniform(LEAST, MOST)
        time.sleep(0.1)
        if (now := queue.stats().totals.succeeded) > ended:
            ended, ended_at = now, time.monotonic()
        assert time.monotonic() < ended_at + STUCK, (seed, states(queue))
    ledger = Ledger(tmp_path)
    ledger.update()
    most, starts, lost = most_at_a_time(ledger.lines, killed)
    seconds = time.monotonic() - started
    figures = f"{starts} starts of {ended} jobs, {len(killed)} kills, {lost} runs that lost their leases"
    print(f"seed {seed}: {figures}, at most {most} at a time, {seconds:.0f} s")  # noqa: T201  # pytest -s shows it
    assert states(queue) == {"succeeded": STARTS}, seed
    assert most == CONCURRENCY, seed


def states(queue: JobQueue) -> dict[str, int]:
    totals = queue.stats().totals
    return {state.value: number for state in JobState if (number := getattr(totals, state.value))}


def most_at_a_time(lines: Sequence[dict[str, Any]], killed: dict[int, float]) -> tuple[int, int, int]:
    """The maximum number of runs at a time, the number of starts, and that of the runs that have lost their leases.

    A run without an end went on until its process was killed. A run that got to its end although its job was started
    again has lost its lease, and its slot with it, so it is not counted.
    """
    ends = {(line["job"], line["attempt"]): line["at"] for line in lines if line["what"] == "end"}
    begins = [line for line in lines if line["what"] == "begin"]
    latest = {line["job"]: line["attempt"] for line in sorted(begins, key=lambda line: int(line["attempt"]))}
    changes, lost = list[tuple[float, int]](), 0
    for line in begins:
        run = line["job"], line["attempt"]
        if run in ends and latest[line["job"]] > line["attempt"]:
            lost += 1
            continue
        changes += [(line["at"], 1), (ends[run] if run in ends else killed[line["pid"]], -1)]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most, len(begins), lost

"""The jobs of a run, and how each must end. Worker processes import this module.

The number of a job decides what it does, so that the verdict knows the right end without asking anybody.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import time
from typing import Any

from queueport import Job, Retry, current_job, task
from queueport.errors import BackendUnavailable
from queueport.status import JobState
from queueport.testing.chaos.clock import CLOCK, follow
from queueport.testing.chaos.ledger import LEDGER, Ledger

__all__ = ["expected", "is_long", "job", "job_id"]

QUICK = Retry(max_attempts=3, initial=0.2, factor=1.0, jitter=0.0)
CRASHES = 1000
"""The crash limit: no number of faults may make a job dead."""


if LEDGER in os.environ:
    faulthandler.register(signal.SIGUSR1)  # the run asks for the stacks of a worker that does not end
if CLOCK in os.environ:
    follow()


class Refused(Exception):
    """The error of the jobs that fail."""


def done(number: int) -> list[int]:
    """The result: the number of the job and of the attempt, so that a result of an earlier attempt is noticed."""
    return [number, current_job().attempt]


def pause(seconds: float) -> None:
    """Wait in small steps, so that an interruption ends the wait."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.05, left))


@task(retry=QUICK, crash_limit=CRASHES)
def work(number: int, seconds: float) -> list[int]:
    """Take some time and succeed."""
    with Ledger.here().running(current_job().id, current_job().attempt):
        pause(seconds)
        return done(number)


@task(retry=QUICK, crash_limit=CRASHES)
async def work_async(number: int, seconds: float) -> list[int]:
    """Take some time in the event loop and succeed."""
    with Ledger.here().running(current_job().id, current_job().attempt):
        await asyncio.sleep(seconds)
        return done(number)


def failures() -> int:
    """The number of failures of the running job. If the store does not answer, this waits until it does."""
    while True:
        try:
            return current_job().status().failures
        except BackendUnavailable:
            pause(0.2)


@task(retry=QUICK, crash_limit=CRASHES)
def flaky(number: int) -> list[int]:
    """Fail until one failure is counted, then succeed."""
    with Ledger.here().running(current_job().id, current_job().attempt):
        if failures() == 0:
            raise Refused(f"job {number} fails once")
        return done(number)


@task(retry=QUICK, crash_limit=CRASHES)
def doomed(number: int) -> None:
    """Fail until the job is dead."""
    with Ledger.here().running(current_job().id, current_job().attempt):
        raise Refused(f"job {number} always fails")


def job_id(number: int) -> str:
    """The id of the job with this number."""
    return f"chaos-{number}"


def job(number: int, lease: float) -> Job[Any]:
    """The job with this number. Of 40 jobs, one is longer than the lease, six take half a second; some are delayed or
    fail.
    """
    name, place = job_id(number), number % 40
    if place == 7:
        return work.using(job_id=name).job(number, 1.2 * lease)
    if place in (11, 31):
        return flaky.using(job_id=name).job(number)
    if place == 17:
        return doomed.using(job_id=name).job(number)
    if place in (23, 37):
        return work.using(job_id=name, delay=1.0).job(number, 0.01)
    kind = work_async if place % 10 == 9 else work
    return kind.using(job_id=name).job(number, 0.5 if is_long(name) else 0.01 * (place % 4))


def is_long(job: str) -> bool:
    """True if the job with this id takes half a second or more."""
    place = int(job.rpartition("-")[2]) % 40
    return place == 7 or place % 6 == 0


def expected(number: int) -> tuple[JobState, int]:
    """The state in which the job with this number must end, and its number of failures."""
    if number % 40 == 17:
        return JobState.DEAD, QUICK.max_attempts
    return JobState.SUCCEEDED, 1 if number % 40 in (11, 31) else 0

"""An attempt leaves its thread as it found it. For those who change how tasks are interrupted."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from queueport import Retry, RetryLater, current_job, get_queue, task
from queueport.engine.rules import Failed, Succeeded
from queueport.spi.record import Record
from queueport.status import JobState, JobStatus
from queueport.testing import rude_tasks
from queueport.workers.attempt import Attempt, InterruptReason

PROFILED = """
import cProfile, sys
from queueport.testing import rude_tasks
from tests.unit.test_attempt import attempt

def called(): pass

for interrupted in (False, True):
    one = attempt(rude_tasks.observe, b'{"args": ["tracer"], "kwargs": {}}', interrupted=interrupted)
    one.run(None, None)
    profiler = cProfile.Profile()
    profiler.enable()
    called()
    profiler.disable()
    sys.settrace(lambda *_: None)
    called()
    sys.settrace(None)
print("done")
"""


def no_status() -> JobStatus:
    raise AssertionError("these tasks do not read their status")


def attempt(what: object, payload: bytes = b'{"args": [], "kwargs": {}}', *, interrupted: bool = False) -> Attempt:
    """An attempt of this task. `interrupted`: it is interrupted while its task runs."""
    assert isinstance(what, type(rude_tasks.observe))
    record = Record("j", what.name, "q", payload, JobState.RUNNING, attempts=1, options={"timeout": 1.0})
    one = Attempt(record, what, "token", called_at=0.0, lease=30.0, status=no_status)
    if interrupted:
        threading.Timer(0.001, one.interrupt, [InterruptReason.TIMEOUT]).start()
    return one


@task(name="tests.unit.short")
def short() -> int:
    """Run Python code for a moment."""
    total = 0
    for number in range(300):
        total += number
    return total


def test_a_profiler_and_a_tracer_work_in_a_thread_that_has_run_attempts() -> None:
    """The test runs in a new process, because a hang of Python 3.11 cannot be interrupted."""
    done = subprocess.run([sys.executable, "-c", PROFILED], capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_an_interruption_at_the_last_moment_does_not_surface_outside_the_task() -> None:
    """The interruptions arrive around the end of the task, at random moments."""
    outcomes: list[type] = []
    surfaced: list[BaseException] = []
    ready = threading.Barrier(2)
    current: list[Attempt] = []

    def interrupt() -> None:
        for _ in range(ROUNDS):
            ready.wait(30)
            end = time.perf_counter() + random.uniform(0, 60e-6)
            while time.perf_counter() < end:
                pass
            current[0].interrupt(InterruptReason.TIMEOUT)
            ready.wait(30)

    def run() -> None:
        try:
            for _ in range(ROUNDS):
                one = attempt(short)
                current[:] = [one]
                ready.wait(30)
                outcomes.append(type(one.run(None, None)))
                assert not one.stuck(0.0)
                ready.wait(30)
                for _ in range(100):
                    pass
        except BaseException as error:  # noqa: BLE001  # an Interrupted is what must not come
            surfaced.append(error)
            ready.abort()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=target) for target in (interrupt, run)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert surfaced == []
    assert len(outcomes) == ROUNDS
    assert set(outcomes) <= {Succeeded, Failed}


ROUNDS = 2_000


@pytest.mark.parametrize(
    ("delay", "error"),
    [
        ("1", TypeError),
        (b"1", TypeError),
        (None, TypeError),
        (True, TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (-1, ValueError),
        (1e300, ValueError),
        (10**400, ValueError),
    ],
    ids=["text", "bytes", "none", "bool", "nan", "inf", "negative", "over a century", "no float"],
)
def test_retry_later_refuses_a_delay_that_is_not_a_usable_number(delay: float, error: type[Exception]) -> None:
    with pytest.raises(error, match="delay must be a"):
        RetryLater(delay=delay)


class Number:
    """A number of another library."""

    def __float__(self) -> float:
        return 2.5


def test_retry_later_accepts_numbers_of_other_libraries() -> None:
    number: Any = Number()
    later = RetryLater(delay=number)
    assert (later.delay, str(later)) == (2.5, "the task asked for a retry in 2.5 s")


@task(name="tests.unit.spoilt", retry=Retry(max_attempts=2, initial=0.1))
def spoilt(attribute: str) -> int:
    """Raise a RetryLater with an invalid attribute in the first attempt; then return the number of the attempt."""
    if current_job().attempt > 1:
        return current_job().attempt
    later = RetryLater(delay=0.1)
    setattr(later, attribute, "nonsense")
    raise later


@pytest.mark.parametrize("attribute", ["delay", "burns"])
def test_a_retry_later_with_an_invalid_attribute_is_an_ordinary_failure(attribute: str) -> None:
    with get_queue("memory://") as queue, queue.worker(tasks=[spoilt], threads=1):
        handle = queue.enqueue(spoilt, attribute)
        assert handle.result(10) == 2
        assert (handle.status().failures, handle.status().crashes) == (1, 0)


showing, may_end = threading.Event(), threading.Event()


@task(name="tests.unit.slow_to_show", retry=Retry(max_attempts=1), timeout=0.3)
def slow_to_show() -> None:
    """Raise an error whose message takes longer than the timeout."""

    class Slow(Exception):
        def __str__(self) -> str:
            showing.set()
            may_end.wait(10)
            return "shown at last"

    raise Slow


def test_code_of_an_error_that_takes_too_long_counts_as_part_of_the_attempt() -> None:
    """A worker can then end its process because of such code, as it does for a task that cannot be interrupted."""
    one = attempt(slow_to_show)
    runs = threading.Thread(target=one.run, args=[None, None])
    runs.start()
    assert showing.wait(10)
    one.interrupt(InterruptReason.TIMEOUT)
    assert one.stuck(-1.0)
    may_end.set()
    runs.join(10)
    assert not one.stuck(-1.0)

"""Workers of Dramatiq's own command: how they stop, and what they refuse."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from adapters.dramatiq.tests.onredis import RedisQueues
from queueport import JobState
from queueport.testing import Harness, hard_tasks, tasks
from queueport.testing.process import WorkerProcess
from queueport.testing.tasks import QUEUE, echo, wait_for
from queueport.testing.trace import TRACE, Trace
from queueport.testing.waiting import eventually
from tests.servers import redis_server


class NativeHarness(Harness):
    """Dramatiq on a Redis, with records there."""

    def __init__(self) -> None:
        super().__init__(f"dramatiq+{redis_server().url}")

    def native(self, *words: str, ready: bool = True, **environment: str) -> WorkerProcess:
        command: Sequence[str] = [
            sys.executable,
            "-m",
            "dramatiq",
            "queueport_dramatiq.worker",
            "--processes=1",
            *words,
        ]
        named = {"QUEUEPORT_TASKS": f"{tasks.__name__},{hard_tasks.__name__}", **environment}
        return self.start(command, ready=ready, **named)

    def clean(self) -> None:
        RedisQueues(redis_server().url, self.namespace).clean()


@pytest.fixture
def harness(trace: Trace) -> Iterator[NativeHarness]:
    made = NativeHarness()
    yield made
    made.end()
    print(made.story())  # noqa: T201  # pytest shows it where the test failed


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    monkeypatch.setenv(TRACE, str(tmp_path))
    return Trace(tmp_path)


def test_past_the_grace_period_a_job_is_given_back(harness: NativeHarness, trace: Trace) -> None:
    queue = harness.open()
    worker = harness.native("--threads=2", QUEUEPORT_GRACE="0.5")
    handle = queue.enqueue(wait_for, "go")
    eventually(lambda: trace.times(handle.id) == 1)
    assert worker.stop() == 0
    status = handle.status()
    assert (status.state, status.failures, status.crashes) == (JobState.QUEUED, 0, 0)
    trace.open("go")
    harness.native("--threads=2")
    assert handle.result(10) == "go"
    assert trace.overlaps() == []


def test_code_that_cannot_be_interrupted_ends_with_its_process(harness: NativeHarness, trace: Trace) -> None:
    queue = harness.open()
    worker = harness.native("--threads=2", QUEUEPORT_GRACE="0.5")
    handle = queue.enqueue(hard_tasks.sleep_once, 30.0)
    eventually(lambda: trace.times(handle.id) == 1)
    started = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - started < 15
    harness.native("--threads=2")
    handle.result(15)
    assert (handle.status().failures, handle.status().crashes) == (0, 0)
    assert trace.overlaps() == []


def test_queues_are_named_as_queueport_or_as_dramatiq_names_them(harness: NativeHarness, trace: Trace) -> None:
    queue = harness.open()
    harness.native("--queues", "a", f"{harness.namespace}.b")
    handles = [queue.enqueue(echo.using(queue=name).job(name)) for name in ("a", "b")]
    other = queue.enqueue(echo, "c")
    assert [handle.result(10) for handle in handles] == ["a", "b"]
    assert [worker.queues for worker in queue.stats().workers] == [("a", "b")]
    assert other.status().state is JobState.QUEUED
    assert other.status().queue == QUEUE


def test_without_a_url_it_says_what_to_write(harness: NativeHarness, trace: Trace) -> None:
    worker = harness.native(ready=False, QUEUEPORT_URL="")
    assert worker.wait() != 0
    assert "export QUEUEPORT_URL=" in worker.log


def test_with_another_backends_url_it_says_so(harness: NativeHarness, trace: Trace, tmp_path: Path) -> None:
    worker = harness.native(ready=False, QUEUEPORT_URL=f"sqlite:///{tmp_path}/jobs.db")
    assert worker.wait() != 0
    assert "names another backend" in worker.log


def test_without_a_task_it_does_not_start(harness: NativeHarness, trace: Trace) -> None:
    worker = harness.native(ready=False, QUEUEPORT_TASKS="")
    assert worker.wait() != 0
    assert "no task is registered" in worker.log


def test_with_a_task_module_that_cannot_be_imported_it_does_not_start(harness: NativeHarness, trace: Trace) -> None:
    worker = harness.native(ready=False, QUEUEPORT_TASKS="no.such.module")
    assert worker.wait() != 0
    assert "no module" in worker.log

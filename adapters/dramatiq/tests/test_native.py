"""Workers of Dramatiq's own command: how they stop, and which settings they refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from adapters.dramatiq.tests.onredis import RedisQueues
from queueport import JobState, Retry
from queueport.testing import Harness, hard_tasks, tasks
from queueport.testing.process import WorkerProcess
from queueport.testing.tasks import QUEUE, echo, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.servers import redis_server
from tests.telemetry import check_the_trace_continues

ROOT = Path(__file__).parents[3]


class NativeHarness(Harness):
    """Dramatiq on a Redis that also keeps the records."""

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
    print(made.logs())  # noqa: T201  # pytest shows it where the test failed


def test_a_job_is_interrupted_and_queued_again_after_the_grace_period(harness: NativeHarness, trace: Trace) -> None:
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


def test_a_process_whose_parent_was_killed_ends(harness: NativeHarness, trace: Trace) -> None:
    """Nobody would stop it, and it would wait for ever as soon as its log lines, which nobody reads, fill a pipe."""
    queue = harness.open()
    worker = harness.native("--threads=2")
    handle = queue.enqueue(wait_for, "go")
    eventually(lambda: trace.times(handle.id) == 1)
    os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: not queue.stats().workers, 15, queue.stats)
    harness.native("--threads=2")
    trace.open("go")
    assert handle.result(15) == "go"
    assert handle.status().crashes == 1
    assert trace.overlaps() == []


def test_a_trace_continues_in_dramatiqs_worker(harness: NativeHarness, trace: Trace) -> None:
    check_the_trace_continues(harness.open(), harness.native, trace.folder)


def test_a_job_that_times_out_while_its_worker_stops_and_cannot_be_interrupted_is_recorded(
    harness: NativeHarness, trace: Trace
) -> None:
    queue = harness.open()
    worker = harness.native("--threads=2", QUEUEPORT_LEASE="10")  # longer than recording a stuck attempt takes
    handle = queue.enqueue(hard_tasks.sleep_once.using(timeout=1.5, retry=Retry(max_attempts=1)).job(30.0))
    eventually(lambda: trace.times(handle.id) == 1)
    assert worker.stop() == 0
    eventually(lambda: handle.status().state is JobState.DEAD, 20)
    status = handle.status()
    assert (status.attempts, status.failures, status.crashes) == (1, 1, 0)


def test_the_command_accepts_queueports_and_dramatiqs_names_of_queues(harness: NativeHarness, trace: Trace) -> None:
    queue = harness.open()
    harness.native("--queues", "a", f"{harness.namespace}.b")
    handles = [queue.enqueue(echo.using(queue=name).job(name)) for name in ("a", "b")]
    other = queue.enqueue(echo, "c")
    assert [handle.result(10) for handle in handles] == ["a", "b"]
    assert [worker.queues for worker in queue.stats().workers] == [("a", "b")]
    assert other.status().state is JobState.QUEUED
    assert other.status().queue == QUEUE


def test_the_error_without_a_url_says_what_to_set(harness: NativeHarness, trace: Trace) -> None:
    worker = harness.native(ready=False, QUEUEPORT_URL="")
    assert worker.wait() != 0
    assert "export QUEUEPORT_URL=" in worker.log


def test_a_url_of_another_backend_is_refused(harness: NativeHarness, trace: Trace, tmp_path: Path) -> None:
    worker = harness.native(ready=False, QUEUEPORT_URL=f"sqlite:///{tmp_path}/jobs.db")
    assert worker.wait() != 0
    assert "from which this worker cannot take jobs" in worker.log
    assert len(own_lines(worker)) == 1


@pytest.mark.parametrize("url", ["", "no url", "nothing+redis://localhost", "dramatiq://no.such.module:broker"])
def test_importing_the_module_opens_nothing(url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", "import queueport_dramatiq.worker"]
    environment = {**os.environ, "QUEUEPORT_URL": url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("app", "url", "told"),
    [
        ("adapters.dramatiq.tests.legacy_redis", "dramatiq://no.such.module:broker", "there is no module"),
        ("adapters.dramatiq.tests.legacy_redis", "", "export QUEUEPORT_URL="),
        ("dramatiq_shop", None, "QUEUEPORT_URL does not name the broker of this worker: set it to"),
    ],
)
def test_a_joined_worker_with_a_wrong_url_does_not_start(
    harness: NativeHarness, trace: Trace, app: str, url: str | None, told: str
) -> None:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}", "QUEUEPORT_STORE": redis_server().url}
    environment |= {} if url is None else {"QUEUEPORT_URL": url}
    command = [sys.executable, "-m", "dramatiq", f"{app}:broker", "queueport_dramatiq.worker", "--processes=1"]
    worker = harness.start(command, ready=False, **environment)
    assert worker.wait() != 0
    assert told in worker.log
    assert "Traceback" not in worker.log


def test_a_worker_without_a_task_does_not_start(harness: NativeHarness, trace: Trace) -> None:
    worker = harness.native(ready=False, QUEUEPORT_TASKS="")
    assert worker.wait() != 0
    assert "no task is registered" in worker.log


def test_a_worker_with_a_task_module_that_cannot_be_imported_does_not_start(
    harness: NativeHarness, trace: Trace
) -> None:
    worker = harness.native(ready=False, QUEUEPORT_TASKS="no.such.module")
    assert worker.wait() != 0
    (line,) = own_lines(worker)
    assert line.startswith("dramatiq worker: there is no module 'no.such.module'")


def own_lines(worker: WorkerProcess) -> list[str]:
    """The lines that are not of Dramatiq's own log."""
    return [line for line in worker.log.splitlines() if "[dramatiq.MainProcess]" not in line]

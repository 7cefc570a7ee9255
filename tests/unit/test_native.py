"""queueport in a worker process of somebody else's: forks, ends and witnesses. For those who change `native`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport import JobQueue, JobState, Retry, get_queue
from queueport.errors import ConfigurationError
from queueport.message import Message
from queueport.native import NativeWorker
from queueport.runner import Verdict
from queueport.testing import tasks
from queueport.testing.hard_tasks import sleep_once
from queueport.testing.trace import TRACE, Trace
from queueport.testing.waiting import eventually

FRAMEWORK = """
import sys
from queueport.message import Message
from queueport.native import NativeWorker

worker = NativeWorker.from_environment(["default"])
worker.deliver(Message.of(worker.queue.read(sys.argv[1]), 0.0).body)
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    monkeypatch.setenv(TRACE, str(tmp_path))
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.setenv("QUEUEPORT_TASKS", "queueport.testing.tasks, queueport.testing.hard_tasks")
    with get_queue(os.environ["QUEUEPORT_URL"]) as queue:
        yield queue


def message(queue: JobQueue, job_id: str) -> bytes:
    return Message.of(queue.read(job_id), 0.0).body


def test_what_is_delivered_runs_in_the_callers_thread_and_its_end_is_told(queue: JobQueue) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    good, bad = queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.fail.using(retry=Retry(max_attempts=1)).job())
    done = worker.deliver(message(queue, good.id))
    assert (done.verdict, done.error) == (Verdict.ACKNOWLEDGE, None)
    assert good.result(0) == 1
    error = worker.deliver(message(queue, bad.id)).error
    assert error is not None
    assert error.type == "queueport.testing.tasks.Refused"
    assert worker.deliver(b"garbage").verdict is Verdict.PUT_ASIDE
    worker.stop()


def test_a_coroutine_goes_on_beside_the_caller(queue: JobQueue) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    handles = [queue.enqueue(tasks.asleep, 0.5) for _ in range(10)]
    for handle in handles:
        assert worker.deliver(message(queue, handle.id)).record is None
    assert {handle.status().state for handle in handles} == {JobState.RUNNING}
    worker.stop()
    assert [handle.result(0) for handle in handles] == [0.5] * 10


def test_a_fork_has_a_heart_of_its_own(queue: JobQueue) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    in_parent, in_child = queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.echo, 2)
    worker.deliver(message(queue, in_parent.id))
    child = os.fork()
    if child == 0:
        worker.deliver(message(queue, in_child.id))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert in_child.result(0) == 2
    assert in_child.status().worker != in_parent.status().worker
    assert str(child) in str(in_child.status().worker)
    worker.stop()


def test_once_stopped_it_hands_jobs_on_to_others(queue: JobQueue) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    handle = queue.enqueue(tasks.echo, 1)
    worker.deliver(message(queue, queue.enqueue(tasks.echo, 0).id))
    worker.stop()
    assert worker.deliver(message(queue, handle.id)).verdict is Verdict.ACKNOWLEDGE
    record = queue.read(handle.id)
    assert (record.state, record.attempts, record.sent) == (JobState.QUEUED, 0, False)
    assert record.wake_at is not None, "the dispatcher sends it again"


def test_code_that_cannot_be_interrupted_ends_with_its_process_and_counts_as_a_timeout(
    queue: JobQueue, tmp_path: Path
) -> None:
    job = sleep_once.using(timeout=0.3, retry=Retry(max_attempts=2, initial=60.0)).job(60.0)
    handle = queue.enqueue(job)
    process = subprocess.run(
        [sys.executable, "-c", FRAMEWORK, handle.id], check=False, capture_output=True, text=True, timeout=30
    )
    assert "this process ends with them" in process.stderr
    assert process.returncode == 1
    eventually(lambda: handle.status().state is JobState.RETRYING)
    status = handle.status()
    assert (status.attempts, status.failures, status.crashes) == (1, 1, 0)
    assert [error.type for error in status.errors] == ["queueport.errors.JobTimeout"]
    assert Trace(tmp_path).times(handle.id) == 1


@pytest.mark.parametrize("given", ["soon", "-1", "nan", ""])
def test_a_grace_period_is_a_number_of_seconds(queue: JobQueue, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("QUEUEPORT_GRACE", given)
    with pytest.raises(ConfigurationError, match="QUEUEPORT_GRACE must be a number of seconds, 0 or more, not "):
        NativeWorker.from_environment([tasks.QUEUE])


def test_the_environment_names_modules_that_are_there(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_TASKS", "no.such.module")
    with pytest.raises(ConfigurationError, match=r"no\.such\.module"):
        NativeWorker.from_environment([tasks.QUEUE])

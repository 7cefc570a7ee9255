"""Worker processes that are killed or replaced, in cases that the contract suite does not cover."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queueport import JobHandle, JobState, Retry, task
from queueport.testing.waiting import eventually
from tests.unit.workspace import Workspace

TASKS = """
import os, subprocess, time
from queueport import current_job, task

@task(name="sample_tasks.leave_a_process_behind")
def leave_a_process_behind() -> int:
    if current_job().attempt == 1:
        subprocess.Popen(["sleep", "30"], close_fds=False)
        os.kill(os.getpid(), 9)
    return current_job().attempt

@task(name="sample_tasks.spin")
def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while current_job().attempt == 1 and time.monotonic() < end:
        time.sleep(0.01)

@task(name="sample_tasks.wait_for")
def wait_for(file: str) -> int:
    while not os.path.exists(file):
        time.sleep(0.01)
    return current_job().attempt

@task(name="sample_tasks.sleep")
def sleep(seconds: float) -> None:
    if current_job().attempt == 1:
        time.sleep(seconds)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path, TASKS) as workspace:
        yield workspace


def test_a_process_left_behind_by_a_killed_child_does_not_block_the_parent(workspace: Workspace) -> None:
    workspace.worker("--processes=2", "--threads=1")
    handle = workspace.queue.enqueue("sample_tasks.leave_a_process_behind")
    assert handle.result(20) == 2
    eventually(lambda: len(workspace.queue.stats().workers) == 2, 10)


@pytest.mark.parametrize("count", [1, 2], ids=["one_process", "two_processes"])
def test_a_process_with_a_stuck_job_is_replaced_while_it_runs_its_other_jobs(workspace: Workspace, count: int) -> None:
    queue, worker = workspace.queue, workspace.worker(f"--processes={count}", "--threads=2")
    eventually(lambda: len(queue.stats().workers) == count)
    for number in range(2):  # in the second round, the worker that began as one process is a parent with a child
        stuck, neighbours = fill(workspace, f"go-{number}", 2 * count - 1)
        queue.enqueue("sample_tasks.spin", 0.0).result(20)
        assert {handle.status().state for handle in (stuck, *neighbours)} == {JobState.RUNNING}
        (workspace.folder / f"go-{number}").touch()
        assert {handle.result(20) for handle in neighbours} == {1}
        stuck.result(20)
        assert (stuck.status().failures, stuck.status().crashes) == (1, 0)
        eventually(lambda: len(queue.stats().workers) == count)
        assert worker.poll() is None
    worker.terminate()
    assert worker.wait(20) == 0
    assert len(queue.stats().workers) == 0


@pytest.mark.parametrize("count", [1, 2], ids=["one_process", "two_processes"])
def test_a_worker_that_is_stopped_while_it_is_replaced_returns_its_jobs_to_the_queue(
    workspace: Workspace, count: int
) -> None:
    queue, worker = workspace.queue, workspace.worker(f"--processes={count}", "--threads=2", "--grace=0.5")
    stuck, neighbours = fill(workspace, "go", 2 * count - 1)
    beside = queue.enqueue("sample_tasks.wait_for", "go")
    eventually(lambda: beside.status().state is JobState.RUNNING, 20)
    worker.terminate()
    assert worker.wait(20) == 0
    for handle in (beside, *neighbours):
        status = handle.status()
        assert (status.state, status.failures, status.crashes) == (JobState.QUEUED, 0, 0)
    assert stuck.status().state in (JobState.RETRYING, JobState.QUEUED)


@pytest.mark.parametrize(
    ("line", "count"),
    [("another process takes new jobs", 1), ("tasks declared", 2)],
    ids=["at_its_start", "at_the_handover"],
)
def test_a_signal_during_the_replacement_ends_both_processes_and_loses_no_job(
    workspace: Workspace, line: str, count: int
) -> None:
    """The line is logged when the successor is started, or when the program of its parent is started again."""
    queue, worker, log = workspace.queue, workspace.worker("--threads=2"), workspace.folder / "log"
    stuck, (neighbour,) = fill(workspace, "go", 1)
    beside = queue.enqueue("sample_tasks.wait_for", "later")
    if count == 2:
        eventually(lambda: beside.status().state is JobState.RUNNING, 20)
        (workspace.folder / "go").touch()
    eventually(lambda: log.read_text().count(line) == count, 20)
    worker.terminate()
    eventually(lambda: "the worker stops when its jobs have ended" in log.read_text(), 20)
    (workspace.folder / "go").touch()
    (workspace.folder / "later").touch()
    assert worker.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(worker.pid, 0)
    workspace.worker()
    for handle, failures in ((stuck, 1), (neighbour, 0), (beside, 0)):
        handle.result(20)
        assert (handle.status().failures, handle.status().crashes) == (failures, 0)
    assert [handle.status().attempts for handle in (neighbour, beside)] == [1, 1]


def test_a_process_that_is_still_starting_when_the_worker_is_stopped_ends_at_once(tmp_path: Path) -> None:
    only_one_starts = """
import sys
from pathlib import Path

if sys.argv[0].endswith("child.py"):
    try:
        Path(__file__).with_name("first").touch(exist_ok=False)
    except FileExistsError:
        Path(__file__).with_name("second").touch()
        time.sleep(60)
"""
    with Workspace(tmp_path, TASKS + only_one_starts) as workspace:
        worker = workspace.worker("--processes=2", "--log-level=info")
        eventually((workspace.folder / "second").exists, 20)
        worker.terminate()
        assert worker.wait(8) == 0
        assert "is killed" not in (workspace.folder / "log").read_text()


def test_a_worker_goes_on_if_the_code_of_a_stuck_job_ends_before_its_other_jobs(workspace: Workspace) -> None:
    queue, worker = workspace.queue, workspace.worker("--threads=2")
    stuck, neighbours = fill(workspace, "go", 1, seconds=5.0)
    stuck.result(20)
    (workspace.folder / "go").touch()
    assert neighbours[0].result(20) == 1
    eventually(lambda: (workspace.folder / "log").read_text().count("tasks declared") == 2 or worker.poll() is not None)
    queue.enqueue("sample_tasks.spin", 0.0).result(20)
    assert worker.poll() is None


def fill(
    workspace: Workspace, file: str, count: int, seconds: float = 60.0
) -> tuple[JobHandle[Any], list[JobHandle[Any]]]:
    """Enqueue a job that cannot be interrupted when it times out, and `count` jobs that wait for a file. Wait until all
    run.
    """
    late = task.named("sample_tasks.sleep", timeout=0.2, retry=Retry(max_attempts=2, initial=0.1))
    stuck = workspace.queue.enqueue(late, seconds)
    waiting = [workspace.queue.enqueue("sample_tasks.wait_for", file) for _ in range(count)]
    eventually(lambda: {handle.status().state for handle in (stuck, *waiting)} == {JobState.RUNNING}, 20)
    return stuck, waiting

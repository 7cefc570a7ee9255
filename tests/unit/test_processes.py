"""Worker processes that end in awkward ways: what the contract's lines do not pin down."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen

import pytest

from queueport import JobQueue, JobState, Retry, get_queue, task
from queueport.testing.waiting import eventually

TASKS = """
import os, subprocess, time
from queueport import current_job, task

@task(name="awkward.leaves_a_child")
def leaves_a_child() -> int:
    if current_job().attempt == 1:
        subprocess.Popen(["sleep", "30"], close_fds=False)
        os.kill(os.getpid(), 9)
    return current_job().attempt

@task(name="awkward.spin")
def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while current_job().attempt == 1 and time.monotonic() < end:
        time.sleep(0.01)

@task(name="awkward.sleep")
def sleep(seconds: float) -> None:
    if current_job().attempt == 1:
        time.sleep(seconds)
"""


class Place:
    """A folder with a database and a module of tasks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/jobs.db?lease=2"
        self.queue: JobQueue = get_queue(self.url)
        self.workers: list[Popen[bytes]] = []
        (folder / "awkward.py").write_text(TASKS)

    def worker(self, *options: str) -> Popen[bytes]:
        """A worker process, ready."""
        before = len(self.queue.stats().workers)
        command: Sequence[str] = [sys.executable, "-m", "queueport", "worker", "awkward", f"--url={self.url}", *options]
        with (self.folder / "log").open("ab") as log:
            self.workers.append(Popen(command, cwd=self.folder, stderr=log, process_group=0))
        eventually(lambda: len(self.queue.stats().workers) > before, 20)
        return self.workers[-1]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    with place.queue:
        yield place
        for worker in place.workers:
            worker.kill()
            worker.wait()


def test_what_a_dead_process_has_left_behind_does_not_hold_up_its_parent(place: Place) -> None:
    place.worker("--processes=2", "--threads=1")
    handle = place.queue.enqueue("awkward.leaves_a_child")
    assert handle.result(20) == 2
    eventually(lambda: len(place.queue.stats().workers) == 2, 10)


def test_a_worker_that_is_being_replaced_gives_back_its_jobs_when_it_is_stopped(place: Place) -> None:
    worker = place.worker("--grace=0.5")
    stuck = place.queue.enqueue(task.named("awkward.sleep", timeout=0.2, retry=Retry(max_attempts=2)), 60.0)
    neighbour = place.queue.enqueue("awkward.spin", 60.0)
    eventually(lambda: neighbour.status().state is JobState.RUNNING)
    waiting = place.queue.enqueue("awkward.spin", 60.0)
    eventually(lambda: waiting.status().state is JobState.RUNNING)
    late = eventually(lambda: untaken(place.queue), 20)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    left = [place.queue.status(job_id).state for job_id in (neighbour.id, waiting.id, late or "")]
    assert left == [JobState.QUEUED] * 3
    assert stuck.status().state in (JobState.RETRYING, JobState.QUEUED)
    assert (neighbour.status().failures, neighbour.status().crashes) == (0, 0)


def untaken(queue: JobQueue) -> str | None:
    """A job that the worker leaves alone, once it takes no more: it is being replaced then."""
    handle = queue.enqueue("awkward.spin", 0.0)
    try:
        handle.result(0.5)
    except TimeoutError:
        return handle.id
    return None

"""`queueport worker` and `dispatcher` as real processes on SQLite: how they start, stop and end. For their authors."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from queueport import JobQueue, JobState, get_queue, task
from queueport.cli import successor
from queueport.testing.process import WorkerProcess
from queueport.testing.waiting import eventually

TASKS = """
import os, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from queueport import Retry, current_job, task

@task
def add(a: int, b: int) -> int:
    return a + b

@task(retry=Retry(max_attempts=2, initial=0.01))
def fail() -> None:
    raise ValueError("one\\ntwo")

@task
def wait(name: str) -> int:
    current_job().progress(1, total=2, message="waiting")
    while not Path(name).exists():
        time.sleep(0.01)
    return os.getpid()

@task(timeout=0.5, retry=Retry(max_attempts=1))
def hang() -> None:
    os.chdir("/")
    time.sleep(60)

@task(retry=Retry(max_attempts=1))
def sleep() -> None:
    with ThreadPoolExecutor() as pool:  # whose thread Python joins at its exit
        pool.submit(time.sleep, 60).result()

@task
def leave() -> None:
    Thread(target=time.sleep, args=[60], daemon=False).start()
"""

Start = Callable[..., WorkerProcess]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    """A queue in a working directory of its own, with a module of tasks beside it."""
    (tmp_path / "shop.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUEUEPORT_URL", "sqlite:///jobs.db?lease=2")
    monkeypatch.setenv("QUEUEPORT_TASKS", "shop")
    with get_queue("sqlite:///jobs.db?lease=2") as opened:
        yield opened


@pytest.fixture
def start(queue: JobQueue, tmp_path: Path) -> Iterator[Start]:
    """Start a command in the background; nothing of it outlives the test."""
    started: list[WorkerProcess] = []

    def command(*words: str) -> WorkerProcess:
        log = tmp_path / f"{len(started)}.log"
        started.append(WorkerProcess([sys.executable, "-m", "queueport", *words], os.environ, log))
        return started[-1]

    yield command
    for process in started:
        process.clean()


def running(queue: JobQueue, job_id: str) -> bool:
    return queue.status(job_id).state is JobState.RUNNING


def test_a_burst_runs_what_is_due_logs_a_line_for_each_attempt_and_ends(queue: JobQueue, start: Start) -> None:
    done, dead = queue.enqueue("shop.add", 1, 2), queue.enqueue("shop.fail")
    worker = start("worker", "--burst")
    assert worker.wait() == 0
    assert done.result(timeout=0) == 3
    assert dead.status().failures >= 1  # its second attempt may come after the burst
    assert f"job {done.id} shop.add attempt 1 succeeded in" in worker.log
    assert f"job {dead.id} shop.fail attempt 1 is retrying: ValueError: one\\ntwo" in worker.log
    assert "Traceback" not in worker.log


def test_a_worker_takes_the_modules_and_queues_it_is_given(
    queue: JobQueue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUEUEPORT_TASKS")
    left, taken = queue.enqueue("shop.add", 1, 1), queue.enqueue(task.named("shop.add", queue="other"), 1, 2)
    worker = start("worker", "shop", "--queue", "other", "--burst", "--log-level", "WARNING")
    assert (worker.wait(), worker.log) == (0, "")
    assert (left.status().state, taken.status().state) == (JobState.QUEUED, JobState.SUCCEEDED)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_lets_its_job_end_and_leaves_the_rest(
    queue: JobQueue, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    job, rest = queue.enqueue("shop.wait", "go"), queue.enqueue("shop.add", 1, 2)
    worker = start("worker", "--threads", "1")
    eventually(lambda: running(queue, job.id))
    os.kill(worker.pid, number)
    eventually(lambda: f"{number.name}: the worker stops" in worker.log)
    (tmp_path / "go").touch()
    assert worker.wait() == 0
    assert (job.status().state, rest.status().state) == (JobState.SUCCEEDED, JobState.QUEUED)


def test_a_worker_ends_although_code_of_a_job_cannot_be_interrupted(queue: JobQueue, start: Start) -> None:
    job = queue.enqueue("shop.sleep")
    worker = start("worker", "--grace", "0")
    eventually(lambda: running(queue, job.id))
    assert worker.stop() == 0
    assert job.status().crashes == 0


def test_a_worker_ends_although_a_job_has_left_a_thread_behind(queue: JobQueue, start: Start) -> None:
    job = queue.enqueue("shop.leave")
    assert start("worker", "--burst").wait() == 0
    assert job.status().state is JobState.SUCCEEDED


def test_code_that_cannot_be_interrupted_ends_with_its_process_which_starts_anew(
    queue: JobQueue, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    pid, stuck = queue.enqueue("shop.wait", "go"), queue.enqueue("shop.hang")
    worker = start("worker", "--threads", "1")
    eventually(lambda: stuck.status().state is JobState.DEAD, timeout=20)
    error = stuck.status().error
    assert error is not None
    assert error.type == "queueport.errors.JobTimeout"
    assert (stuck.status().failures, stuck.status().crashes) == (1, 0)
    assert queue.enqueue("shop.wait", "go").result(timeout=20) == pid.result(timeout=0) == worker.pid
    assert worker.stop() == 0


def test_a_stopped_worker_still_records_what_could_not_be_interrupted(queue: JobQueue, start: Start) -> None:
    stuck = queue.enqueue("shop.hang")
    worker = start("worker")
    eventually(lambda: running(queue, stuck.id))
    assert worker.stop() == 0
    assert (stuck.status().state, stuck.status().failures, stuck.status().crashes) == (JobState.DEAD, 1, 0)


def test_several_processes_have_the_hooks_log_and_stop_as_one_does(
    queue: JobQueue, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "hooked.py").write_text(
        "import logging, shop\nfrom queueport import around_job\n@around_job\ndef tell(job):\n"
        "    logging.getLogger('hook').warning('rq://:secret@h\\n%s', job.id)\n    yield\n"
    )
    job = queue.enqueue("shop.add", 1, 2)
    worker = start("worker", "hooked", "--processes", "2", "--threads", "1")
    assert job.result(timeout=20) == 3
    eventually(lambda: f"job {job.id} shop.add attempt 1 succeeded" in worker.log)
    assert f"hook: rq://:***@h\\n{job.id}\n" in worker.log
    assert worker.stop() == 0


def test_a_dispatcher_alone_moves_what_is_due_and_stops(queue: JobQueue, start: Start) -> None:
    process = start("dispatcher", "sqlite:///jobs.db?lease=2")
    job = queue.enqueue(task.named("shop.add", delay=0.2), 1, 2)
    eventually(lambda: job.status().state is JobState.QUEUED)
    assert process.stop() == 0
    assert "SIGTERM: the dispatcher stops" in process.log


def test_following_shows_progress_and_the_end_of_a_job_in_another_process(
    queue: JobQueue, start: Start, tmp_path: Path
) -> None:
    job = queue.enqueue("shop.wait", "go")
    start("worker", "--burst")
    follower = start("status", job.id, "--follow", "--json")
    eventually(lambda: '"message":"waiting"' in follower.log)
    (tmp_path / "go").touch()
    assert follower.wait() == 0
    assert json.loads(follower.log.splitlines()[-1])["state"] == "succeeded"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a terminal's programs have, and inherit: a shell lets those in its background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_watching_ends_with_ctrl_c(start: Start) -> None:
    watcher = start("stats", "--watch", "--json", "--interval", "0.1")
    eventually(lambda: watcher.log.count("\n") > 2)
    os.kill(watcher.pid, signal.SIGINT)
    assert watcher.wait() == 130
    assert all(json.loads(line)["processed"] == 0 for line in watcher.log.splitlines())


def test_a_closed_output_ends_a_command_quietly(queue: JobQueue) -> None:
    queue.enqueue_many([task.named("shop.add").job(i, i) for i in range(500)])
    for words in (["jobs", "--limit", "500"], ["jobs", "--limit", "500", "--json"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "queueport", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(20)) == (b"", 141)
        process.stderr.close()


HANDOVER = """
import os, sys
from queueport.cli.successor import VARIABLE, Legacy, inherit, replace_process
legacy = inherit()
if not legacy.stuck:
    count = int(sys.argv[1])
    replace_process(Legacy([{"id": str(i), "token": "t" * 100, "error": None} for i in range(count)], stopping=True))
assert VARIABLE not in os.environ and legacy.stopping and legacy.stuck[0]["id"] == "0"
print(os.getpid(), len(legacy.stuck))
"""


@pytest.mark.parametrize(("given", "least"), [(3, 3), (5000, 100)])
def test_a_process_hands_over_to_itself_what_fits_into_a_pipe(tmp_path: Path, given: int, least: int) -> None:
    (tmp_path / "handover.py").write_text(HANDOVER)
    process = subprocess.Popen([sys.executable, str(tmp_path / "handover.py"), str(given)], stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=20)
    pid, count = map(int, output.split())
    assert pid == process.pid
    assert least <= count <= given


def test_what_is_meant_for_another_process_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (f"{os.getppid()} 0 go", "nonsense", ""):
        monkeypatch.setenv(successor.VARIABLE, value)
        assert successor.inherit() == successor.Legacy()
        assert successor.VARIABLE not in os.environ

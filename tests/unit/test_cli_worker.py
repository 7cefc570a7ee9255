"""`queueport worker` and `dispatcher` as processes on SQLite: start, stop and exit. For authors of commands."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from queueport import JobQueue, JobState, get_queue, task
from queueport.cli import workers
from queueport.errors import ConfigurationError
from queueport.testing.process import WorkerProcess
from queueport.testing.waiting import eventually
from queueport.workers.worker import REPEATED

TASKS = """
import asyncio, os, tempfile, time
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
    os.chdir(tempfile.gettempdir())
    time.sleep(60)

@task(retry=Retry(max_attempts=1))
def sleep() -> None:
    with ThreadPoolExecutor() as pool:  # Python waits for its thread at exit
        pool.submit(time.sleep, 60).result()

running = 0

@task
async def count() -> int:
    # returns how many of these tasks run at the same time in this process
    global running
    running += 1
    at_once = running
    await asyncio.sleep(0.3)
    running -= 1
    return at_once

@task
def leave() -> None:
    Thread(target=time.sleep, args=[60], daemon=False).start()
"""

Start = Callable[..., WorkerProcess]


@task(name="cli_worker.noop")
def noop() -> None: ...


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    """A queue in a new working directory that also contains a module of tasks."""
    (tmp_path / "shop.py").write_text(TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUEUEPORT_URL", "sqlite:///jobs.db?lease=2")
    monkeypatch.setenv("QUEUEPORT_TASKS", "shop")
    with get_queue("sqlite:///jobs.db?lease=2") as opened:
        yield opened


@pytest.fixture
def start(queue: JobQueue, tmp_path: Path) -> Iterator[Start]:
    """Starts a command in the background. Its processes are killed after the test."""
    started: list[WorkerProcess] = []

    def command(*arguments: str) -> WorkerProcess:
        log = tmp_path / f"{len(started)}.log"
        started.append(WorkerProcess([sys.executable, "-m", "queueport", *arguments], os.environ, log))
        return started[-1]

    yield command
    for process in started:
        process.clean()


def running(queue: JobQueue, job_id: str) -> bool:
    return queue.status(job_id).state is JobState.RUNNING


def test_a_burst_runs_the_due_jobs_logs_one_line_for_each_attempt_and_exits(queue: JobQueue, start: Start) -> None:
    done, dead = queue.enqueue("shop.add", 1, 2), queue.enqueue("shop.fail")
    worker = start("worker", "--burst")
    assert worker.wait() == 0
    assert done.result(timeout=0) == 3
    assert dead.status().failures >= 1  # the second attempt may become due after the burst has ended
    assert f"job {done.id} shop.add attempt 1 succeeded in" in worker.log
    assert f"job {dead.id} shop.fail attempt 1 is retrying: ValueError: one\\ntwo" in worker.log
    assert "Traceback" not in worker.log


def test_a_worker_uses_the_given_modules_and_queues(
    queue: JobQueue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUEUEPORT_TASKS")
    left, taken = queue.enqueue("shop.add", 1, 1), queue.enqueue(task.named("shop.add", queue="other"), 1, 2)
    worker = start("worker", "shop", "--queue", "other", "--burst", "--log-level", "WARNING")
    assert (worker.wait(), worker.log) == (0, "")
    assert (left.status().state, taken.status().state) == (JobState.QUEUED, JobState.SUCCEEDED)


def test_a_worker_reads_its_options_from_the_environment(
    queue: JobQueue, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"QUEUES": "one, two", "THREADS": "3", "PROCESSES": "2", "GRACE": "1m", "LOG_LEVEL": "warning"}
    for name, value in environment.items():
        monkeypatch.setenv(f"QUEUEPORT_{name}", value)
    worker = start("worker")
    eventually(lambda: len(queue.stats().workers) == 2)
    assert {live.queues for live in queue.stats().workers} == {("one", "two")}
    assert (worker.stop(), worker.log) == (0, "")
    monkeypatch.setenv("QUEUEPORT_GRACE", "soon")
    refused = start("worker")
    assert refused.wait() == 2
    assert "QUEUEPORT_GRACE" in refused.log


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_touches_a_file_while_it_lives_even_if_the_store_does_not_answer(
    queue: JobQueue, start: Start, tmp_path: Path, processes: str
) -> None:
    file = tmp_path / "alive"
    worker = start("worker", "--processes", processes, "--alive-file", "alive")
    eventually(lambda: len(queue.stats().workers) == int(processes))
    with locked():
        before = file.stat().st_mtime
        eventually(lambda: file.stat().st_mtime > before, 20)
    assert worker.stop() == 0
    refused = start("worker", "--alive-file", "absent/alive")
    assert refused.wait() == 2
    assert "--alive-file 'absent/alive' cannot be written: No such file or directory" in refused.log


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_that_waits_at_its_start_for_a_store_touches_the_file_for_liveness_probes(
    queue: JobQueue, start: Start, tmp_path: Path, processes: str
) -> None:
    file, url = tmp_path / "alive", "sqlite:///jobs.db?call_timeout=0.2"
    with locked():
        worker = start("worker", "--processes", processes, "--alive-file", "alive", "--url", url)
        eventually(lambda: "waits at its start" in worker.log, 20)
        for _ in range(2):
            before = file.stat().st_mtime
            eventually(lambda: file.stat().st_mtime > before, 20)  # noqa: B023  # called in this round only
        assert worker.stop() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_log_can_be_json_with_the_fields_of_each_attempt(
    queue: JobQueue, start: Start, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    monkeypatch.setenv("QUEUEPORT_LOG_FORMAT", "json")
    done, dead = queue.enqueue("shop.add", 1, 2), queue.enqueue("shop.fail")
    worker = start("worker", "--processes", processes)
    eventually(lambda: done.status().finished and dead.status().finished)
    assert worker.stop() == 0
    lines = [json.loads(line) for line in worker.log.splitlines()]
    assert all({"time", "level", "logger", "process", "message"} <= line.keys() for line in lines)
    ends = {(line["job_id"], line["attempt"]): line for line in lines if "job_id" in line}
    fields = {name: ends[done.id, 1][name] for name in ("task", "queue", "state", "level")}
    assert fields == {"task": "shop.add", "queue": "default", "state": "succeeded", "level": "INFO"}
    assert 0 < ends[done.id, 1]["duration"] < 5
    assert [ends[dead.id, attempt]["state"] for attempt in (1, 2)] == ["retrying", "dead"]
    assert "ValueError: one\ntwo" in ends[dead.id, 1]["message"]


@pytest.mark.parametrize(("options", "most"), [(["--coroutines=2"], {2}), ([], {3}), (["--processes=2"], {1, 2, 3})])
def test_async_jobs_do_not_exceed_the_number_that_option_or_environment_gives(
    queue: JobQueue, start: Start, monkeypatch: pytest.MonkeyPatch, options: list[str], most: set[int]
) -> None:
    monkeypatch.setenv("QUEUEPORT_COROUTINES", "3")
    handles = queue.enqueue_many(task.named("shop.count").job() for _ in range(8))
    assert start("worker", "--burst", *options).wait() == 0
    assert max(handle.result(0) for handle in handles) in most


def test_a_number_of_async_jobs_that_is_not_positive_is_refused(queue: JobQueue, start: Start) -> None:
    assert start("worker", "--coroutines=0").wait() == 2
    wrongs: list[Any] = [0, 1.5, True]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError, match="coroutines must be a whole number, 1 or more"):
            queue.worker(tasks=[noop], coroutines=wrong)


@contextmanager
def locked() -> Iterator[None]:
    """A context manager. Inside it, the database is locked, so no other connection can read or write."""
    connection = sqlite3.connect("jobs.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.close()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_held_by_a_store_that_does_not_answer(queue: JobQueue, start: Start, processes: str) -> None:
    handle = queue.enqueue("shop.add", 1, 2)
    options = ["--processes", processes, "--url", "sqlite:///jobs.db?lease=2&call_timeout=0.2"]
    with locked():
        stopped = start("worker", *options)
        worker = start("worker", *options)
        eventually(lambda: "waits at its start, and tries again: " in stopped.log, 20)
        assert stopped.stop() == 0
        assert stopped.log.count("waits at its start") <= 3, "the log repeats itself"
        eventually(lambda: "waits at its start" in worker.log, 20)
    assert handle.result(20) == 3
    assert worker.stop() == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_fails_when_its_time_to_wait_for_the_store_is_over(
    queue: JobQueue, start: Start, processes: str
) -> None:
    queue.setup()
    with locked():
        began = time.monotonic()
        worker = start(
            *("worker", "--wait=1", "--processes", processes, "--url", "sqlite:///jobs.db?lease=2&call_timeout=0.2")
        )
        assert worker.wait() == 1
        assert time.monotonic() - began > 1.0
        last = worker.log.splitlines()[-1]
        assert last.startswith("error: ")
        assert "jobs.db" in last
        assert "Traceback" not in worker.log
    with pytest.raises(ConfigurationError, match="wait must be a number of seconds"):
        queue.worker(tasks=[noop], wait=-1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_worker_lets_its_job_end_and_begins_no_other(
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


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_returns_the_running_jobs_to_the_queue_at_once(
    queue: JobQueue, start: Start, tmp_path: Path, processes: str, second: signal.Signals
) -> None:
    job = queue.enqueue("shop.wait", "go")
    worker = start("worker", "--processes", processes, "--grace", "3600")
    eventually(lambda: running(queue, job.id))
    worker.terminate()
    eventually(lambda: "SIGTERM: the worker stops" in worker.log)
    os.kill(worker.pid, second)  # as if a program passed on the first signal
    time.sleep(2 * REPEATED)
    assert running(queue, job.id)
    os.kill(worker.pid, second)
    assert worker.wait() == 0
    status = job.status()
    assert (status.state, status.failures, status.crashes) == (JobState.QUEUED, 0, 0)
    (tmp_path / "go").touch()
    assert start("worker", "--burst").wait() == 0
    assert job.status().state is JobState.SUCCEEDED


def test_a_worker_under_nohup_ignores_sighup(queue: JobQueue, start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the processes that a test starts inherit this
    try:
        worker = start("worker", "--processes", "2")
    finally:
        signal.signal(signal.SIGHUP, before)
    eventually(lambda: len(queue.stats().workers) == 2)
    os.killpg(worker.pid, signal.SIGHUP)
    assert queue.enqueue("shop.add", 1, 2).result(10) == 3
    assert worker.stop() == 0
    assert "SIGHUP" not in worker.log


def test_a_worker_exits_although_a_job_cannot_be_interrupted(queue: JobQueue, start: Start) -> None:
    job = queue.enqueue("shop.sleep")
    worker = start("worker", "--grace", "0")
    eventually(lambda: running(queue, job.id))
    assert worker.stop() == 0
    assert job.status().crashes == 0


def test_a_worker_exits_although_a_job_has_left_a_thread_behind(queue: JobQueue, start: Start) -> None:
    job = queue.enqueue("shop.leave")
    assert start("worker", "--burst").wait() == 0
    assert job.status().state is JobState.SUCCEEDED


def test_a_stuck_job_is_recorded_by_the_process_that_replaces_its_worker(
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


def test_a_stopped_worker_still_records_a_stuck_job(queue: JobQueue, start: Start) -> None:
    stuck = queue.enqueue("shop.hang")
    worker = start("worker")
    eventually(lambda: running(queue, stuck.id))
    assert worker.stop() == 0
    assert (stuck.status().state, stuck.status().failures, stuck.status().crashes) == (JobState.DEAD, 1, 0)


def test_a_process_that_replaces_another_begins_in_the_folder_of_the_worker(queue: JobQueue, start: Start) -> None:
    queue.enqueue("shop.hang")  # it changes the working directory, and the URL of the queue has a relative path
    queue.enqueue("shop.wait", "go")
    worker = start("worker", "--threads", "2")
    eventually(lambda: "another process takes new jobs" in worker.log, timeout=20)
    assert queue.enqueue("shop.add", 1, 2).result(timeout=20) == 3


LATE = """
import json, os, select, signal, time
from queueport.cli.workers import HANDOVER
from queueport.engine.dispatcher import Dispatcher
from queueport.workers.worker import Worker

def stop_in(owner, name, until=lambda: None):
    original = getattr(owner, name)
    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        until()
        return original(*arguments)
    setattr(owner, name, stopped)

def arrived():  # a thread has got the signal
    assert select.select([json.loads(os.environ[HANDOVER])[-1]], [], [], 20)[0]

def slow(self, *, wait=True, stop=Worker.stop):
    time.sleep(0.5)
    stop(self, wait=wait)

if STEP == "end of the run":
    Worker.stop = slow  # the thread that handles signals is late
    stop_in(Dispatcher, "stop")
elif STEP == "after the run":
    stop_in(Worker, "replaced_by")
else:
    stop_in(os, "execv", until=arrived)
"""


@pytest.mark.parametrize("step", ["end of the run", "after the run", "before the exec"])
class TestStoppedWhileItIsReplaced:
    """A worker gets SIGTERM in the moment in which its process is replaced because of a stuck job."""

    @pytest.fixture(autouse=True)
    def late(self, step: str, queue: JobQueue, tmp_path: Path) -> None:
        (tmp_path / "late.py").write_text(f"STEP = {step!r}\n{LATE}")

    def test_its_next_program_records_the_stuck_job_and_exits(self, queue: JobQueue, start: Start) -> None:
        stuck, rest = queue.enqueue("shop.hang"), queue.enqueue("shop.add", 1, 2)
        assert start("worker", "shop", "late", "--threads", "1").wait() == 0
        assert (stuck.status().state, stuck.status().failures, stuck.status().crashes) == (JobState.DEAD, 1, 0)
        assert rest.status().state is JobState.QUEUED

    def test_the_process_beside_it_lets_its_jobs_end(self, queue: JobQueue, start: Start, tmp_path: Path) -> None:
        stuck, first = queue.enqueue("shop.hang"), queue.enqueue("shop.wait", str(tmp_path / "first"))
        worker = start("worker", "shop", "late", "--threads", "2")
        eventually(lambda: "another process takes new jobs" in worker.log, timeout=20)
        second = queue.enqueue("shop.wait", "second")
        eventually(lambda: running(queue, second.id), timeout=20)
        (tmp_path / "first").touch()
        eventually(lambda: stuck.status().state is JobState.DEAD, timeout=20)  # before its lease lapses
        (tmp_path / "second").touch()
        assert worker.wait() == 0
        assert first.result(timeout=0) == worker.pid != second.result(timeout=0)
        assert [handle.status().crashes for handle in (stuck, first, second)] == [0, 0, 0]


def test_several_processes_use_hooks_log_and_stop_like_one(queue: JobQueue, start: Start, tmp_path: Path) -> None:
    (tmp_path / "hooked.py").write_text(
        "import logging, shop\nfrom queueport import around_job\n@around_job\ndef log_job(job):\n"
        "    logging.getLogger('hook').warning('rq://:secret@h\\n%s', job.id)\n    yield\n"
    )
    job = queue.enqueue("shop.add", 1, 2)
    worker = start("worker", "hooked", "--processes", "2", "--threads", "1")
    assert job.result(timeout=20) == 3
    eventually(lambda: f"job {job.id} shop.add attempt 1 succeeded" in worker.log)
    assert f"hook: rq://:***@h\\n{job.id}\n" in worker.log
    assert worker.stop() == 0


def test_several_processes_find_tasks_and_hooks_whose_functions_are_in_another_module(
    queue: JobQueue, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "library.py").write_text(
        "import logging, functools\n"
        "def double(number: int) -> int:\n    return 2 * number\n"
        "def fail() -> None:\n    raise ValueError\n"
        "def around(job):\n    logging.getLogger('hook').warning('around %s', job.id)\n    yield\n"
        "def dead(where, status):\n    logging.getLogger('hook').warning('dead %s %s', where, status.id)\n"
        "dead_here, dead_there = functools.partial(dead, 'here'), functools.partial(dead, 'there')\n"
    )
    (tmp_path / "declared.py").write_text(
        "import library\nfrom queueport import Retry, task\n"
        "task(library.double)\nfail = task(retry=Retry(max_attempts=1))(library.fail)\n"
    )
    (tmp_path / "hooked.py").write_text(
        "import library\nfrom queueport import around_job, on_dead, on_event\n"
        "around_job(library.around)\non_dead(library.dead_here)\non_event([].append)\n"
    )
    (tmp_path / "alert.py").write_text("import declared, library\ndeclared.fail.on_dead(library.dead_there)\n")
    double, fail = queue.enqueue("library.double", 4), queue.enqueue("library.fail")
    worker = start("worker", "declared", "hooked", "alert", "--processes", "2")
    assert double.result(timeout=20) == 8
    lines = {f"around {double.id}", f"dead here {fail.id}", f"dead there {fail.id}"}
    eventually(lambda: all(line in worker.log for line in lines), what=lambda: worker.log)
    assert worker.stop() == 0


def test_a_dispatcher_alone_queues_due_jobs_and_stops(queue: JobQueue, start: Start) -> None:
    process = start("dispatcher", "sqlite:///jobs.db?lease=2")
    job = queue.enqueue(task.named("shop.add", delay=0.2), 1, 2)
    eventually(lambda: job.status().state is JobState.QUEUED)
    assert process.stop() == 0
    assert "SIGTERM: the dispatcher stops" in process.log


def test_follow_shows_progress_and_end_of_a_job_in_another_process(
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
    """Restore the default handling of SIGINT. A shell that runs the tests in the background makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_watch(start: Start) -> None:
    watcher = start("stats", "--watch", "0.1", "--json")
    eventually(lambda: watcher.log.count("\n") > 2)
    os.kill(watcher.pid, signal.SIGINT)
    assert watcher.wait() == 130
    assert all(json.loads(line)["processed"] == 0 for line in watcher.log.splitlines())


def test_a_command_exits_without_an_error_message_if_its_output_is_closed(queue: JobQueue) -> None:
    queue.enqueue_many([task.named("shop.add").job(i, i) for i in range(500)])
    for arguments in (["jobs", "--limit", "500"], ["jobs", "--limit", "500", "--json"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "queueport", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(20)) == (b"", 141)
        process.stderr.close()


REPLACE = """
import os, sys
from queueport.cli.workers import HANDOVER, hold_signals, receive_handover, replace_process
stuck, stopping, _ = receive_handover()
if not stuck:
    attempts = [{"id": "i" * 64, "token": "t" * 100, "error": {"message": "e" * 200}}] * int(sys.argv[1])
    replace_process(attempts, stopping=True, signals=hold_signals())
assert HANDOVER not in os.environ and stopping and stuck[-1]["token"] == "t" * 100
print(os.getpid(), len(stuck))
"""


@pytest.mark.parametrize(("given", "least"), [(3, 3), (5000, 100)])
def test_a_process_hands_over_as_many_attempts_as_the_environment_can_hold(
    tmp_path: Path, given: int, least: int
) -> None:
    (tmp_path / "replace.py").write_text(REPLACE)
    process = subprocess.Popen([sys.executable, str(tmp_path / "replace.py"), str(given)], stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=20)
    pid, count = map(int, output.split())
    assert pid == process.pid
    assert least <= count <= given


def test_a_handover_for_another_process_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (f'[{os.getppid()}, [{{"id": "a"}}], true, [], 1]', "nonsense", "1", ""):
        monkeypatch.setenv(workers.HANDOVER, value)
        assert workers.receive_handover() == ([], False, [])
        assert workers.HANDOVER not in os.environ

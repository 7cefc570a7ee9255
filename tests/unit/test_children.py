"""Processes that tasks start: locks, sessions, and what is left when a worker replaces itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport import JobState, Retry, get_queue, task
from queueport.testing.hard_tasks import is_running
from queueport.testing.waiting import eventually
from queueport.workers import children
from tests.unit.workspace import Workspace

TASKS = """
import concurrent.futures, multiprocessing, os, subprocess, sys, time
from pathlib import Path
from queueport import current_job, get_queue, task

def square(number):
    return number * number

def enqueue(number):
    return get_queue().enqueue(work, number).id

@task(name="sample_tasks.work")
def work(number: int) -> int:
    return number

@task(name="sample_tasks.pool")
def pool(method: str) -> list[int]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(square, range(4))

@task(name="sample_tasks.executor")
def executor(method: str) -> list[str]:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, context) as executor:
        return list(executor.map(enqueue, range(4)))

@task(name="sample_tasks.daemon")
def daemon() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60], daemon=True)
    process.start()
    return process.pid

@task(name="sample_tasks.terminate")
def terminate() -> int | None:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    process.start()
    process.terminate()
    process.join(5)
    code = process.exitcode
    process.kill()
    return code

@task(name="sample_tasks.read_input")
def read_input() -> str:
    return subprocess.run(["head", "-c1"], capture_output=True, timeout=5, text=True).stdout

@task(name="sample_tasks.start")
def start(seconds: str, session: bool) -> int:
    return subprocess.Popen(["sleep", seconds], start_new_session=session).pid

@task(name="sample_tasks.stick")
def stick(seconds: float, file: str) -> None:
    if current_job().attempt == 1:
        def run():
            process = subprocess.Popen(["sleep", "60"])
            Path(file).write_text(str(process.pid))
            process.wait()
        with concurrent.futures.ThreadPoolExecutor() as executor:
            executor.submit(run)
            time.sleep(seconds)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path, TASKS) as workspace:
        yield workspace


@pytest.mark.parametrize("count", [1, 2], ids=["one_process", "two_processes"])
def test_a_task_may_use_pools_of_processes(workspace: Workspace, count: int) -> None:
    queue, worker = workspace.queue, workspace.worker(f"--processes={count}")
    for method in ("fork", "spawn"):
        assert queue.enqueue("sample_tasks.pool", method).result(20) == [0, 1, 4, 9]
        ids = queue.enqueue("sample_tasks.executor", method).result(20)
        assert [queue.result(job_id, 20) for job_id in ids] == [0, 1, 2, 3]
    assert queue.enqueue("sample_tasks.read_input").result(20) == ""
    daemon = queue.enqueue("sample_tasks.daemon").result(20)
    worker.terminate()
    assert worker.wait(20) == 0
    assert not is_running(daemon)


def test_a_process_that_is_terminated_right_after_its_fork_ends(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook of `sitecustomize` runs in the child before queueport's hook, so the signal arrives between the two."""
    late = "import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep(0.5))\n"
    (workspace.folder / "sitecustomize.py").write_text(late)
    monkeypatch.setenv("PYTHONPATH", str(workspace.folder))
    workspace.worker()
    assert workspace.queue.enqueue("sample_tasks.terminate").result(20) == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="the processes of an attempt are known on Linux only")
@pytest.mark.parametrize("count", [1, 2], ids=["one_process", "two_processes"])
def test_the_processes_of_a_stuck_task_end_with_its_worker_process(workspace: Workspace, count: int) -> None:
    queue, file = workspace.queue, workspace.folder / "pid"
    workspace.worker(f"--processes={count}", "--threads=4")
    stuck = queue.enqueue(
        task.named("sample_tasks.stick", timeout=0.5, retry=Retry(max_attempts=2, initial=0.1)), 60.0, str(file)
    )
    stuck.result(20)
    assert (stuck.status().failures, stuck.status().crashes) == (1, 0)
    assert not is_running(int(file.read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the children of a process")
def test_a_worker_that_replaces_itself_leaves_no_zombies_and_does_not_end_sessions(workspace: Workspace) -> None:
    queue, file = workspace.queue, workspace.folder / "pid"
    worker = workspace.worker("--threads=4")
    server = queue.enqueue("sample_tasks.start", "60", True).result(20)
    stuck = queue.enqueue(
        task.named("sample_tasks.stick", timeout=0.5, retry=Retry(max_attempts=2, initial=0.1)), 60.0, str(file)
    )
    stuck.result(20)
    assert is_running(server)
    os.kill(server, signal.SIGTERM)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children")
    eventually(lambda: children.read_text() == "")


def test_threads_may_fork_at_the_same_time(tmp_path: Path) -> None:
    queue = get_queue(f"sqlite:///{tmp_path}/jobs.db")
    enqueued: list[str] = []

    def fork_often() -> None:
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        enqueued.append(queue.enqueue("sample_tasks.work", 0).id)

    threads = [threading.Thread(target=fork_often, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(enqueued) == len(threads), "a thread waits for a lock that another one has not released after a fork"
    queue.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the test finds the exit recorder in /proc")
def test_the_exit_recorder_outlives_a_signal_to_all_processes(workspace: Workspace) -> None:
    queue = workspace.queue
    stuck = queue.enqueue(
        task.named("sample_tasks.stick", timeout=0.2, retry=Retry(max_attempts=2, initial=60.0)), 60.0, "pid"
    )
    code = (
        "import sys; from queueport import get_queue; from queueport.spi.message import Message;"
        "from queueport.workers.native import NativeWorker; worker = NativeWorker.from_environment(get_queue(), []);"
        "worker.deliver(Message.of(worker.queue.operations.read(sys.argv[1]), 0.0).body)"
    )
    environment = {**os.environ, "QUEUEPORT_URL": workspace.url, "QUEUEPORT_TASKS": "sample_tasks"}
    process = subprocess.Popen([sys.executable, "-c", code, stuck.id], cwd=workspace.folder, env=environment)
    os.kill(eventually(lambda: recorder(workspace.folder), 20), signal.SIGTERM)
    assert process.wait(20) == 1
    eventually(lambda: stuck.status().state is JobState.RETRYING)
    assert (stuck.status().failures, stuck.status().crashes) == (1, 0)


def recorder(folder: Path) -> int:
    """The id of an exit recorder that was started in this folder, or 0."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"record_stuck" in (process / "cmdline").read_bytes() and (process / "cwd").readlink() == folder:
                return int(process.name)
        except OSError:
            continue
    return 0


def test_a_process_that_ends_while_left_behind_processes_are_listed_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    getsid, (ends, stays) = os.getsid, processes

    def and_end(pid: int) -> int:
        if pid == ends.pid:
            ends.kill()
            ends.wait()
        return getsid(pid)

    monkeypatch.setattr(os, "getsid", and_end)
    try:
        assert {ends.pid, stays.pid} & children.left_behind() == {stays.pid}
    finally:
        stays.kill()
        stays.wait()

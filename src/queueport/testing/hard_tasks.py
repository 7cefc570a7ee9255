"""Tasks of the suite that run for long, start processes, or test contexts and hooks. For contract lines W and X."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from queueport import around_job, current_job, task
from queueport.context import CurrentJob
from queueport.testing.trace import Trace, traced

__all__: list[str] = []

seen: ContextVar[str | None] = ContextVar("queueport_contract_seen", default=None)


def note(name: str, **values: object) -> None:
    """Write a note about the current job for the test that is running. Does nothing if there is no trace."""
    trace = Trace.here()
    if trace is not None:
        trace.note(name, job=current_job().id, attempt=current_job().attempt, **values)


@task
@traced
def spin_once(seconds: float) -> int:
    """At the first attempt, run interruptible Python code for `seconds`. Return the number of the attempt."""
    end = time.monotonic() + seconds
    while current_job().attempt == 1 and time.monotonic() < end:
        time.sleep(0.01)
    return current_job().attempt


@task
@traced
def sleep_once(seconds: float) -> int:
    """At the first attempt, make one call of `seconds` that cannot be interrupted. Return the number of the attempt."""
    if current_job().attempt == 1:
        time.sleep(seconds)
    return current_job().attempt


@task
@traced
async def asleep_once(seconds: float) -> int:
    """At the first attempt, wait in the event loop for `seconds`. Return the number of the attempt."""
    if current_job().attempt == 1:
        await asyncio.sleep(seconds)
    return current_job().attempt


@task
@traced
async def block_once(seconds: float) -> int:
    """At the first attempt, block the event loop for `seconds`, and with it every job that runs on the loop.

    Returns the number of the attempt.
    """
    if current_job().attempt == 1:
        time.sleep(seconds)  # noqa: ASYNC251  # the test needs a blocked event loop
    return current_job().attempt


@task
def overtaken() -> int:
    """Wait at the gate of this attempt, and write a note when the wait begins, is interrupted or ends.

    The task is not traced, because two attempts may run at the same time: the first worker is paused and loses its
    lease. A trace would record this as an overlap.
    """
    trace, attempt = Trace.here(), current_job().attempt
    if trace is not None:
        note("waits", pid=os.getpid())
        try:
            trace.wait_at(f"attempt-{attempt}")
        except BaseException:
            note("interrupted")
            raise
        note("completed")
    return attempt


@task
def start_processes() -> list[int]:
    """Start three processes: one gets SIGTERM, one gets SIGINT, and one exits by itself. Return the exit codes."""
    terminated = fork_and_wait()
    interrupted = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stderr=subprocess.DEVNULL)
    os.kill(terminated, signal.SIGTERM)
    interrupted.send_signal(signal.SIGINT)
    exiting = os.fork()
    if exiting == 0:
        sys.exit(7)
    return [exit_code(terminated), interrupted.wait(10), exit_code(exiting)]


def fork_and_wait() -> int:
    """Fork a process that waits at most ten seconds for a signal. When that process runs, return its id."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b"x")
        time.sleep(10)
        os._exit(0)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return pid


def exit_code(pid: int) -> int:
    """Wait until a child process has ended, and return its exit code: negative, if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@task
def wait_for_program(file: str) -> list[int]:
    """At the first attempt, start a shell and a program that run for a minute, and write their process ids to `file`.

    The test interrupts the first attempt. The next attempt returns the ids of those processes that still run.
    """
    if current_job().attempt == 1:
        subprocess.run(f"sleep 60 & echo $! $$ > {file}; wait", shell=True, check=True)  # noqa: S602  # the command is fixed
    return [pid for pid in map(int, Path(file).read_text().split()) if is_running(pid)]


def is_running(pid: int) -> bool:
    """True if a process runs. False for a zombie: a process that has ended, but that its parent has not waited for.

    Works only on Linux: without `/proc`, the answer is always False.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@task
@traced
def remember(value: str) -> str | None:
    """Return `seen` of the thread's context (None if no earlier job has left a value there), and set a new value."""
    earlier = seen.get()
    seen.set(value)
    return earlier


@task
@traced
async def remember_async(value: str) -> str | None:
    """Return `seen` of the coroutine's context (None if no earlier job has left a value), and set a new value."""
    earlier = seen.get()
    seen.set(value)
    await asyncio.sleep(0)
    return earlier


@task
@traced
def wrapped(fails: bool) -> None:
    """Write a note, after the first notes of the hooks `outer` and `inner`. Raise an error if `fails`."""
    note("inside", by=threading.get_ident())
    if fails:
        raise ValueError("the task failed on purpose")


@around_job
def outer(job: CurrentJob) -> Iterator[None]:
    """The outer hook: write a note before and after `wrapped` runs, and one about an error that `wrapped` raises."""
    if job.task != wrapped.name:
        yield
        return
    note("outer", by=threading.get_ident())
    try:
        yield
    except ValueError as error:
        note("outer saw", error=str(error))
        raise
    finally:
        note("outer ends")


@around_job
def inner(job: CurrentJob) -> Iterator[None]:
    """The inner hook: write a note before `wrapped` runs, and one after it has succeeded."""
    if job.task == wrapped.name:
        note("inner", by=threading.get_ident())
    yield
    if job.task == wrapped.name:
        note("inner ends")

"""Controls the processes that tasks start: their signal handlers, and when they must end. For the runner.

A process that a task forks begins with default signal handlers in place of the worker's, and never continues with the
worker's code. If an attempt of a plain task is interrupted, the processes that its thread has started are found in
Linux's /proc and ended. On other systems, processes of tasks are not found, and may continue after the attempt.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

__all__ = [
    "SIGNALS",
    "STOPPING",
    "WorkerOnly",
    "default_signals",
    "end",
    "left_behind",
    "reap",
    "send",
    "started_by",
    "workers",
]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""The signals that workers and frameworks handle. In a process that a task forks, the default handlers replace the
handlers of the worker or framework. A signal that is ignored stays ignored, except SIGINT, which gets its default
handler too."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that stop a worker. SIGHUP does not, if it was ignored when the process started, as under `nohup`."""
PATIENCE = 1.0
"""Seconds between SIGTERM and SIGKILL to the processes of a task. If the code of an interrupted attempt still runs,
SIGTERM is sent this number of seconds after the interruption."""
POLL = 0.02
"""Seconds between two checks of whether the processes that `end` has signalled have ended."""
REAP_EVERY = 1.0
"""Seconds between two checks of whether the processes that `reap` watches have ended."""
CLOCK_TICKS = 2
"""The maximum error of a process's start time as the kernel reports it, in clock ticks."""

workers: set[int] = set()
"""The ids of the worker processes that this process has started, also before it started its program again by exec.
Other children of this process belong to tasks."""
_has_handlers = False
"""True while this process has the signal handlers of a worker or framework, which a forked child must not keep."""


class WorkerOnly:
    """A context manager around the code of a task. If the code forks, and the child process returns from the code or
    raises an error, the context manager ends the child process.

    Only the worker process itself may record how the attempt ended and take more jobs.
    """

    __slots__ = ("_pid",)

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if os.getpid() != self._pid:
            code = 1
            try:
                code = _exit_code(error)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)


def _exit_code(error: BaseException | None) -> int:
    """The exit code of a Python program that ends with this error (None: no error). Prints the error as Python does."""
    if error is None:
        return 0
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF
    if isinstance(error, SystemExit):
        sys.stderr.write(f"{error.code}\n")
    else:
        traceback.print_exception(error)
    return 1


def default_signals(on: bool) -> None:
    """Set whether processes that this process forks begin with default handlers in place of the handlers of SIGNALS."""
    global _has_handlers  # noqa: PLW0603  # like signal handlers, it is global to the process
    _has_handlers = on


_forking = threading.local()


def _hold_signals() -> None:
    """Block the signals until the fork is over. Otherwise, a signal that reaches the child before the child has set the
    default handlers would be lost.
    """
    if _has_handlers:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _release_signals() -> None:
    if (mask := _forking.__dict__.pop("mask", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _reset_signals() -> None:
    if _has_handlers:
        default_signals(False)
        for number in SIGNALS:
            if callable(signal.getsignal(number)) or number is signal.SIGINT:
                default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
    _release_signals()


os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_reset_signals)


def started_by(thread: int, seconds: float) -> set[int]:
    """The ids of the processes that a thread has started in the last `seconds`, and of their descendants.

    `thread` is the native id of a thread of this process. Because of `seconds`, processes that earlier jobs of the
    thread have started are left out. Empty if there is no /proc.
    """
    limit = seconds + CLOCK_TICKS / os.sysconf("SC_CLK_TCK")
    ages = {pid: _age(pid) for pid in _children(os.getpid(), thread)}
    return _with_descendants(pid for pid, age in ages.items() if age is not None and age <= limit)


def left_behind() -> set[int]:
    """The ids of the processes that tasks of this process have started, and of their descendants.

    A child that is in another session than this process is left out, with its descendants. Empty if there is no /proc.
    """
    session = os.getsid(0)
    started = set(_children(os.getpid())) - workers
    return _with_descendants(pid for pid in started if _age(pid) is not None and _session(pid) == session)


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to these processes. Ignores processes that have ended, or that this process may not signal."""
    for pid in pids:
        with suppress(OSError):
            os.kill(pid, number)


def end(pids: Collection[int]) -> None:
    """Send SIGTERM to these processes, and wait until they have ended. Send SIGKILL to those that still run PATIENCE
    seconds later, and return.
    """
    send(pids, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while alive := [pid for pid in pids if _age(pid) is not None]:
        if time.monotonic() > deadline:
            send(alive, signal.SIGKILL)
            return
        time.sleep(POLL)


def reap() -> None:
    """Collect, in a new thread, the exit codes of inherited processes of tasks, so that they do not stay as zombies.

    If an attempt is stuck, the process of `queueport worker` starts its program again by exec, and the new program
    inherits the child processes. Call this before the new program starts processes, and after adding the inherited
    worker processes to `workers`, whose exit codes the supervisor collects.
    """
    inherited = set(_children(os.getpid())) - workers

    def ended(pid: int) -> bool:
        try:
            return os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # a task has called os.wait, which has collected the exit code
            return True

    def collect() -> None:
        left = list(inherited)
        while left := [pid for pid in left if not ended(pid)]:
            time.sleep(REAP_EVERY)

    if inherited:
        threading.Thread(target=collect, name="queueport-reap", daemon=True).start()


def _with_descendants(pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    pending = list(pids)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += _children(pid)
    return found


def _children(pid: int, thread: int | None = None) -> list[int]:
    """The ids of the children of a process, or of one of its threads. Empty if the process or thread has ended, or if
    there is no /proc.
    """
    found: list[int] = []
    with suppress(OSError):
        threads = Path(f"/proc/{pid}/task")
        for path in threads.iterdir() if thread is None else [threads / str(thread)]:
            with suppress(OSError):
                found += map(int, (path / "children").read_text().split())
    return found


def _session(pid: int) -> int | None:
    """The id of the process's session; None if the process has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _age(pid: int) -> float | None:
    """Seconds since the process was started; None if it has ended, or if there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")

"""Runs the child processes of a worker: starts them, replaces those that end, and stops them. For `Worker`.

Each child is a new interpreter, because forking a process with threads is not safe. The end of the parent closes a
child's standard input, and the child then ends at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import IO, Any

from queueport.engine.operations import Operations
from queueport.errors import ConfigurationError, log_error
from queueport.spi.runner import Work
from queueport.workers import children as processes
from queueport.workers import modules
from queueport.workers.heartbeat import STUCK_AFTER
from queueport.workers.runner import finish_stuck

__all__ = ["CANNOT_START", "KILL_AFTER", "READY", "REPLACE", "Adopted", "Beside", "run"]

logger: logging.Logger = logging.getLogger("queueport")

CANNOT_START = 3
"""The exit code of a child that cannot start, because its configuration is wrong or a module cannot be imported. The
child is then not replaced: the other children are stopped, and `run` raises ConfigurationError."""
READY = b"ready\n"
"""A child reports this line first, when it reads commands and is about to take jobs."""
REPLACE = b"\n"
"""A child reports this line when it takes no more jobs because a job is stuck. Other jobs may still run in the child.
"""
EARLY_EXIT = 5.0
"""A child that ends within this number of seconds after its start is replaced after a pause, unless it has reported a
stuck job. A child that ends later is replaced without a pause."""
KILL_AFTER = STUCK_AFTER + 10.0
"""A child that has not stopped is killed this number of seconds after the grace period."""
STEP = 0.05
"""Seconds between two checks of whether a process that was told to stop has ended."""


class Adopted:
    """A child process that this process has started before it started its program again by exec.

    The class has those members of `Popen` that this module uses.
    """

    def __init__(self, pid: int, stdin: int) -> None:
        os.set_inheritable(stdin, False)
        self.pid = pid
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("the wait for an adopted child process", timeout or 0.0)
            time.sleep(STEP)
        return code

    def terminate(self) -> None:
        processes.send([self.pid], signal.SIGTERM)

    def kill(self) -> None:
        processes.send([self.pid], signal.SIGKILL)


@dataclass(slots=True)
class Child:
    """A worker process, and the pipe on which it reports that it is ready, that it must be replaced, and which attempts
    are stuck.
    """

    process: subprocess.Popen[bytes] | Adopted
    report: IO[bytes]
    started: float = field(default_factory=time.monotonic)
    ready: bool = False
    """True if the process has reported READY, or is adopted."""
    reported: bytes = b""
    """What the process has reported after READY."""

    def __post_init__(self) -> None:
        # A read must not wait for the end of the pipe, because a process that a task has started may keep it open.
        os.set_blocking(self.report.fileno(), False)
        processes.workers.add(self.process.pid)

    @classmethod
    def adopt(cls, pid: int, stdin: int, report: int) -> Child:
        """Make a child from the description that `leave` has returned before this process started its program again."""
        os.set_inheritable(report, False)
        return cls(Adopted(pid, stdin), os.fdopen(report, "rb"), ready=True)

    def leave(self) -> list[int]:
        """Let the pipes stay open when this process starts its program again by exec. Returns a description for
        `adopt`.
        """
        ends = [] if self.process.stdin is None else [self.process.stdin.fileno()]
        ends.append(self.report.fileno())
        for end in ends:
            os.set_inheritable(end, True)
        return [self.process.pid, *ends]

    def write_line(self, line: str) -> None:
        """Write a line to the standard input of the process. Does nothing if the process has ended."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # the process has ended
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()

    def stop(self, grace: float) -> None:
        """Tell the process to stop. If it is still starting, it has no jobs, and a signal ends it at once."""
        self.write_line(f"stop {grace}")
        self.read()
        if not self.ready and self.process.poll() is None:
            self.process.terminate()

    def read(self) -> None:
        """Read what the process has reported since the last call."""
        self.reported += self.report.read() or b""
        if self.reported.startswith(READY):
            self.ready, self.reported = True, self.reported.removeprefix(READY)

    @property
    def retiring(self) -> bool:
        """True if the process has reported that it takes no more jobs."""
        self.read()
        return bool(self.reported)


class Beside:
    """Runs a child process that takes jobs in place of this process, which has a stuck job.

    This process takes no more jobs, and only finishes the jobs that it has. If the child has a stuck job too, another
    child replaces it.
    """

    def __init__(self, operations: Operations, work: Work, spec: dict[str, Any]) -> None:
        self._children: list[Child] = []
        self._leave = threading.Event()
        # The children need an event of their own: `work.stop` is also set when the jobs of this process have ended.
        self._work = replace(work, stop=threading.Event())
        self._arguments = (operations, self._work, spec)
        self._thread = threading.Thread(target=self._run, name="queueport-beside", daemon=True)
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Tell the children to stop within `grace` seconds, because the worker was stopped. Returns at once."""
        self._work.grace = grace
        self._work.stop.set()

    def end(self) -> list[list[int]]:
        """Return descriptions of the running children for the next program in this process.

        Does not wait until the children have ended, even if the worker was stopped: the leases of this process's stuck
        attempts could lapse meanwhile.
        """
        self._leave.set()
        self._thread.join()
        return [child.leave() for child in self._children]

    def _run(self) -> None:
        try:
            self._children = run(*self._arguments, leave=self._leave)
        except Exception as error:  # noqa: BLE001  # an error must not stop this process's jobs
            log_error(logger, error, "no process takes jobs in place of this process, because of an error")


def run(
    operations: Operations,
    work: Work,
    spec: dict[str, Any],
    adopted: Sequence[Child] = (),
    leave: threading.Event | None = None,
) -> list[Child]:
    """Run `work.processes` child processes until `work.stop` is set, and then stop them; in a burst, at the latest
    until each has ended by itself with exit code 0 and without a stuck job. A child that ends otherwise is replaced.

    `spec` is the configuration of a child as plain JSON values. `adopted` are children that already run. A child that
    takes no more jobs because of a stuck job is replaced at once, and runs its other jobs to their end. As long as
    there are more than `work.processes` children of this kind, no child is started. When `leave` is set, the function
    returns the running children, and waits for none of them. Without `leave`, it returns an empty list.

    Raises ConfigurationError if a child cannot start.
    """
    children = list(adopted)
    wanted, pause = work.processes, 0.0
    try:
        while True:
            for child in [c for c in children if c.process.poll() is not None]:
                children.remove(child)
                _finish(operations, child)
                code = child.process.returncode
                if code == CANNOT_START:
                    raise ConfigurationError("a worker process could not start: see its last log line")
                if work.burst and code == 0 and not child.reported:
                    wanted -= 1
                    continue
                logger.warning("worker process %d ended with code %d", child.process.pid, code)
                early = time.monotonic() - child.started < EARLY_EXIT
                pause = min(max(pause * 2, 0.5), 30.0) if early and not child.reported else 0.0
                work.stop.wait(pause)
            if work.stop.is_set():
                break
            if leave is not None and leave.is_set():
                return children
            retiring = sum(child.retiring for child in children)
            if retiring <= work.processes:
                children += [_start(spec) for _ in range(wanted - len(children) + retiring)]
            if not children:
                return []
            work.stop.wait(0.1)
    except BaseException:
        _stop(operations, work, children)
        raise
    return _stop(operations, work, children, leave)


def _start(spec: dict[str, Any]) -> Child:
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "queueport.cli.child", str(writing)],
            stdin=subprocess.PIPE,
            pass_fds=[writing],
            cwd=modules.existing(spec["folder"]),  # a task may have changed the working directory of this process
        )
    finally:
        os.close(writing)
    child = Child(process, os.fdopen(reading, "rb"))
    child.write_line(json.dumps(spec))
    return child


def _stop(
    operations: Operations, work: Work, children: Sequence[Child], leave: threading.Event | None = None
) -> list[Child]:
    """Tell the children to stop, and wait until they have ended. Kills those that do not stop in time. When `leave` is
    set, returns those that still run.
    """
    grace, deadline = -1.0, 0.0
    left = list(children)
    while left and not (leave is not None and leave.is_set()):
        if work.grace != grace:  # in the first round, and when another call of `Worker.stop` changes it
            grace, deadline = work.grace, time.monotonic() + work.grace + KILL_AFTER
            for child in left:
                child.stop(grace)
        if time.monotonic() > deadline:
            for child in left:
                logger.warning("worker process %d did not stop in time and is killed", child.process.pid)
                child.process.kill()
                child.process.wait()
        for child in [c for c in left if c.process.poll() is not None]:
            left.remove(child)
            _finish(operations, child)
        if left:
            time.sleep(STEP)
    return left


def _finish(operations: Operations, child: Child) -> None:
    """Record the stuck attempts of a child that has exited, and close its pipes."""
    processes.workers.discard(child.process.pid)
    with child.report:
        child.read()
    lines = [line for line in child.reported.splitlines() if line]
    if child.process.stdin is not None:
        with suppress(BrokenPipeError):  # the process has ended without reading its last line
            child.process.stdin.close()
    for line in lines:
        try:
            finish_stuck(operations, json.loads(line))
        except Exception as error:  # noqa: BLE001  # the store is down, or a full pipe has cut the line
            logger.warning(
                "the end of a stuck attempt could not be recorded; its lease may lapse and count as a crash: %s", error
            )

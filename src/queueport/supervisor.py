"""A worker of several processes: the parent starts them, replaces those that end, and stops them. For `pool`.

Children are fresh interpreters, never forks of a threaded process. They end with their parent, whatever ended it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from queueport.driver import Work
from queueport.errors import ConfigurationError, QueueportError
from queueport.heartbeat import STUCK_AFTER
from queueport.runner import Runner

__all__ = ["CANNOT_START", "run"]

logger: logging.Logger = logging.getLogger("queueport")

CANNOT_START = 3
"""A child's exit code when its configuration is wrong: it is not started again."""
LIVED = 5.0
"""Seconds that a child must have lived to be replaced at once when it ends."""
LAST_WORD = STUCK_AFTER + 10.0
"""Seconds beyond the grace period that a stopping child has before it is killed."""


@dataclass(slots=True)
class Child:
    """One worker process, and the end of the pipe on which it tells what it could not stop."""

    process: subprocess.Popen[bytes]
    report: IO[bytes]
    started: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        """Write a line to its standard input; one that has just ended does not hear it."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()


def run(runner: Runner, work: Work) -> None:
    """Run `work.processes` children until stopped, or, in a burst, until each has ended by itself."""
    children: list[Child] = []
    pause = 0.0
    try:
        children = [_start(work) for _ in range(work.processes)]
        while not work.stop.wait(0.1):
            for child in [c for c in children if c.process.poll() is not None]:
                children.remove(child)
                _account(runner, child)
                code = child.process.returncode
                if code == CANNOT_START:
                    raise ConfigurationError("a worker process could not start; its own message says why")
                if work.burst and code == 0:
                    continue
                pause = 0.0 if time.monotonic() - child.started > LIVED else min(max(pause * 2, 0.5), 30.0)
                logger.warning("worker process %d ended with %d; a new one starts", child.process.pid, code)
                if work.stop.wait(pause):
                    break
                children.append(_start(work))
            if not children:
                return
    finally:
        _stop(runner, work, children)


def _start(work: Work) -> Child:
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # a fresh interpreter
            [sys.executable, "-m", "queueport.child", str(writing)], stdin=subprocess.PIPE, pass_fds=[writing]
        )
    finally:
        os.close(writing)
    os.set_blocking(reading, False)  # read once the child has ended; what it started itself may hold the other end
    child = Child(process, os.fdopen(reading, "rb"))
    child.say(json.dumps(work.child))
    return child


def _stop(runner: Runner, work: Work, children: list[Child]) -> None:
    for child in children:
        child.say("stop")
    deadline = time.monotonic() + work.grace + LAST_WORD
    for child in children:
        try:
            child.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("worker process %d did not stop in time and is killed", child.process.pid)
            child.process.kill()
            child.process.wait()
        _account(runner, child)


def _account(runner: Runner, child: Child) -> None:
    """A child has ended: so has the code of the attempts that it could not stop, and their end is recorded now."""
    with child.report:
        lines = (child.report.read() or b"").splitlines()
    if child.process.stdin is not None:
        child.process.stdin.close()
    for line in lines:
        try:
            runner.finish_stuck(json.loads(line))
        except (QueueportError, ValueError) as error:  # the store is away, or the pipe was full
            logger.warning("an attempt that ended with its process waits for its lease to lapse: %s", error)

"""`WorkerProcess`: a real worker process that a test starts, stops, pauses and kills. For the harness and for tests.

`pause_group` pauses a worker or a server together with the processes that it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from queueport.testing.waiting import eventually

__all__ = ["WorkerProcess", "pause_group"]


class WorkerProcess:
    """A worker and the processes that it starts, in one process group. All their output goes to the file `log`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.command = list(command)
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, process_group=0
            )

    @property
    def pid(self) -> int:
        """The id of the process that was started, and of the process group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """True if the process that was started still runs."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """The output of the worker so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """Send SIGKILL to the whole process group, and wait until the worker has ended."""
        self._send(signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """Send SIGSTOP to the whole process group, and wait until it has stopped, as `pause_group` does."""
        pause_group(self.pid)

    def resume(self) -> None:
        """Send SIGCONT to the whole process group."""
        self._send(signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM only to the process that was started, so that the worker stops gracefully. Does not wait."""
        if self.running:
            self._process.terminate()

    def terminate_group(self) -> None:
        """Send SIGTERM to the whole process group, as systemd does by default. Does not wait."""
        self._send(signal.SIGTERM)

    def stop(self, timeout: float = 20.0) -> int:
        """Tell the worker to stop, wait until it has ended, and return its exit code.

        Raises AssertionError after `timeout` seconds.
        """
        self.terminate()
        return self.wait(timeout)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait until the worker has ended, and return its exit code. Raises AssertionError after `timeout` seconds."""
        eventually(lambda: not self.running, timeout, lambda: f"the worker did not end:\n{self.log}")
        return self._process.wait()

    def clean(self) -> None:
        """Kill the whole process group, even if the group is paused or the worker has ended."""
        self.kill()

    def _send(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # the whole group has ended
            return


def pause_group(group: int) -> None:
    """Send SIGSTOP to all processes of a group, and wait until all their threads have stopped.

    On a busy machine, a thread may go on for many milliseconds after the signal was sent. On systems
    without /proc, this function does not wait. Does nothing if the whole group has ended. Raises AssertionError if a
    thread still runs after ten seconds.
    """
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGSTOP)
    eventually(lambda: all(state in "TtDZX" for state in _thread_states(group)))


def _thread_states(group: int) -> Iterator[str]:
    """The state of each thread of a process group, as one of the letters of proc(5)."""
    for path in Path("/proc").glob("[0-9]*/task/*/stat"):
        with suppress(OSError):  # the thread has ended
            state, _, thread_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(thread_group) == group:
                yield state

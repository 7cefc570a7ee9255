"""A real worker process under test: started by its command, killed, stopped, paused. For the harness."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from queueport.testing.waiting import eventually

__all__ = ["WorkerProcess"]


class WorkerProcess:
    """One worker with all the processes it starts, in a process group of its own. Its output goes to a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.command = list(command)
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, process_group=0
            )

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """All it has printed so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL for the worker and everything it started; returns when it is gone."""
        self._send(signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """SIGSTOP for all of it."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT for all of it."""
        self._send(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM for the worker itself: it is to stop gracefully. Does not wait."""
        if self.running:
            self._process.terminate()

    def stop(self, timeout: float = 20.0) -> int:
        """`terminate` and `wait`."""
        self.terminate()
        return self.wait(timeout)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait until it has ended; its exit code."""
        eventually(lambda: not self.running, timeout, lambda: f"the worker still runs:\n{self.log}")
        return self._process.wait()

    def clean(self) -> None:
        """Leave nothing of it behind, whatever state it is in."""
        self.kill()

    def _send(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # all of it has ended
            return

"""`Clock`: the wall clock of a worker's processes, which a run sets forward and back, by time-machine. For `World`.

The monotonic clock stays right, as it does if the clock of a computer is set.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["CLOCK", "Clock", "can_be_set", "follow"]

CLOCK = "QUEUEPORT_TEST_CLOCK"
"""The environment variable that names the file of a worker's clock: the seconds by which it is ahead."""
EVERY = 0.1
"""The seconds between two readings of the file."""


def can_be_set() -> bool:
    """True if time-machine is installed."""
    return importlib.util.find_spec("time_machine") is not None


class Clock:
    """The clock of the processes that are started with `environment`. `file` is a new file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment: Mapping[str, str] = {CLOCK: str(file)}
        self._set(0)

    @contextmanager
    def wrong(self, seconds: int) -> Iterator[None]:
        """A context manager. Inside it, the clock is so many seconds ahead, or behind if the number is negative."""
        self._set(seconds)
        try:
            yield
        finally:
            self._set(0)

    def _set(self, seconds: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._file)  # a process must not read half a number


def follow() -> None:
    """Keep the clock of this process, and of processes that it forks, as the file in CLOCK says. Called once."""
    follower = Follower(Path(os.environ[CLOCK]))
    follower.start()
    os.register_at_fork(after_in_child=follower.start)


class Follower:
    """Sets the clock of this process."""

    def __init__(self, file: Path) -> None:
        import time_machine  # imported here, because only some runs need it

        self._file = file
        self._travel = time_machine.travel
        self._moved: time_machine.travel | None = None
        self._ahead = 0

    def start(self) -> None:
        """Set the clock from now on, in a thread."""
        threading.Thread(target=self._run, name="chaos-clock", daemon=True).start()

    def _run(self) -> None:
        while True:
            ahead = int(self._file.read_text())
            if ahead != self._ahead:
                if self._moved is not None:
                    self._moved.stop()
                    self._moved = None
                if ahead:
                    self._moved = self._travel(time.time() + ahead)
                    self._moved.start()
                self._ahead = ahead
            time.sleep(EVERY)

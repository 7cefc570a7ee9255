"""`Side`: what the measurements need of a library. Each module of this package has one subclass, called `Bench`."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Side", "command", "environment"]

THREADS = 8
"""The number of jobs that each worker runs at the same time, unless the library can only run one."""


def environment(name: str) -> str:
    """The value of a variable BENCH_…, which `benchmarks.__main__` sets for the processes that it starts."""
    return os.environ[f"BENCH_{name}"]


def command(program: str, *arguments: str) -> list[str]:
    """A command of the environment that runs the benchmark."""
    return [str(Path(sys.executable).with_name(program)), *arguments]


class Side(ABC):
    """One library on one backend, with its settings for the same guarantees as the other side."""

    threads: ClassVar[int] = THREADS
    """The number of jobs that its worker runs at the same time."""
    thread_safe: ClassVar[bool] = True
    """Whether several threads may enqueue at the same time."""

    @abstractmethod
    def enqueue(self, milliseconds: float = 0.0) -> Any:
        """Enqueue one job and return when it is safe with the server."""

    def enqueue_many(self, count: int) -> None:
        """Enqueue that many jobs with the library's fastest call; without one, in a loop."""
        for _ in range(count):
            self.enqueue()

    def result(self, handle: Any) -> Any:
        """The kept result of a job that has ended. None: the library keeps none, or the job has not ended."""
        return None

    def worker(self) -> list[str] | None:
        """The command that starts the worker; None if the library has no worker."""
        return None

    def close(self) -> None:  # noqa: B027  # most libraries have nothing to close
        """Close the connections."""

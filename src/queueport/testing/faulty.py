"""`python -m queueport.testing.faulty ...`: the command line, killed by its own hand at a chosen step. For X6.

The step stands in the environment: QUEUEPORT_CONTRACT_FAULT="after store.swap 2" is SIGKILL when the second write that
a lifecycle decided has been made. Production code knows nothing of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self
from unittest.mock import patch

from queueport.capability import Capability
from queueport.queue import JobQueue

__all__ = ["FAULT", "Fault", "producer_faults", "worker_faults"]

FAULT = "QUEUEPORT_CONTRACT_FAULT"
"""The environment variable that names the step."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Death before or after the `number`-th call of a verb, like "store.swap"; an empty answer counts as no call."""

    when: str
    step: str
    number: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote."""
        when, step, number = text.split()
        return cls(when, step, int(number))

    def __str__(self) -> str:
        return f"{self.when} {self.step} {self.number}"

    def install(self, queue: JobQueue) -> None:
        """Put it into this queue."""
        name, verb = self.step.split(".")
        driver = queue.driver
        parts = {"store": queue.operations.store, "driver": driver, "transport": getattr(driver, "transport", None)}
        setattr(parts[name], verb, self._fatal(getattr(parts[name], verb)))

    def _fatal(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        lock, calls = threading.Lock(), iter(range(1, self.number + 1))

        def count() -> None:
            with lock:
                if next(calls, None) == self.number:
                    os.kill(os.getpid(), signal.SIGKILL)

        @wraps(verb)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.when == "before":
                count()
            found = verb(*args, **kwargs)
            if self.when == "after" and (found is None or len(found)):
                count()
            return found

        return call


def worker_faults(queue: JobQueue, when: str) -> list[Fault]:
    """One for each step that a worker of this queue takes."""
    steps = [("store.claim_due", 1), ("store.heartbeat", 1), *(("store.swap", number) for number in (1, 2, 3, 4))]
    if queue.driver.carries:
        steps += [("store.begin", 1), ("driver.publish", 1)]
        if Capability.NATIVE_DEAD_LETTERS in queue.capabilities:
            steps += [("driver.bury", 1)]
        if hasattr(queue.driver, "transport"):  # else acknowledging is the framework's own business
            steps += [("transport.receive", 1), ("transport.ack", 1)]
    else:
        steps += [("store.take", 1)]
    return [Fault(when, *step) for step in steps]


def producer_faults(queue: JobQueue) -> list[Fault]:
    """Two for each step that a producer takes: record, publish, mark; or all of it at once."""
    apart = queue.driver.carries and not queue.driver.alongside
    steps = ["store.insert", "driver.publish", "store.swap"] if apart else ["store.insert"]
    return [Fault(when, step) for step in steps for when in ("before", "after")]


def main() -> None:
    """Run the command line with the fault that the environment names."""
    from queueport.cli import main as command_line

    fault = Fault.parse(os.environ[FAULT])
    made = JobQueue.__init__

    def make(self: JobQueue, *args: Any) -> None:
        made(self, *args)
        fault.install(self)

    with patch.object(JobQueue, "__init__", make):
        command_line()


if __name__ == "__main__":
    main()

"""`python -m queueport.testing.contract.faults ...` runs the `queueport` command with a fault: at a chosen call of the
store or the driver, the process gets SIGKILL. For the contract lines P4, X6 and X11.

An environment variable names the call. With QUEUEPORT_CONTRACT_FAULT="after store.swap 2", the process is killed when
the store's `swap` has returned for the second time. queueport itself contains no code for such faults.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self
from unittest.mock import patch

from queueport.capability import Capability
from queueport.queue import JobQueue
from queueport.spi.transport import Transport

__all__ = ["FAULT", "Fault", "producer_faults", "worker_faults"]

FAULT = "QUEUEPORT_CONTRACT_FAULT"
"""The environment variable that names the fault, such as "after store.swap 2"."""


@dataclass(frozen=True, slots=True)
class Fault:
    """SIGKILL before or after a call of a verb. `step` is the verb, such as "store.swap".

    `when` is "before" or "after". `number` is the number of the call, from 1. If `when` is "after", calls that return
    an empty sequence do not count.
    """

    when: str
    step: str
    number: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Make a Fault from the text that `str` has made of a Fault."""
        when, step, number = text.split()
        return cls(when, step, int(number))

    def __str__(self) -> str:
        return f"{self.when} {self.step} {self.number}"

    def install(self, queue: JobQueue) -> None:
        """Replace the verb in the store or driver of this queue by a function that calls the verb, and that kills the
        process before or after the call with the `number` of the fault.
        """
        name, verb = self.step.split(".")
        parts = {"store": queue.operations.store, "driver": queue.driver}
        setattr(parts[name], verb, self._killing(getattr(parts[name], verb)))

    def _killing(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        lock, calls = threading.Lock(), iter(range(1, self.number + 1))

        def count() -> None:
            with lock:
                if next(calls, None) == self.number:
                    os.kill(os.getpid(), signal.SIGKILL)

        @wraps(verb)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.when == "before":
                count()
            answer = verb(*args, **kwargs)
            if self.when == "after" and not (isinstance(answer, Sequence) and len(answer) == 0):
                count()
            return answer

        return call


def worker_faults(queue: JobQueue, when: str) -> list[Fault]:
    """One fault for each step of a worker of this queue. The first four calls of `swap` are four steps.

    `when` is "before" or "after": the process is killed before or after the step.
    """
    steps = [("store.claim_due", 1), ("store.heartbeat", 1), *(("store.swap", number) for number in (1, 2, 3, 4))]
    if queue.driver.carries:
        steps += [("store.begin", 1), ("driver.publish", 1)]
        if Capability.NATIVE_DEAD_LETTERS in queue.capabilities:
            steps += [("driver.bury", 1)]
        if isinstance(queue.driver, Transport):  # with other drivers, the framework receives and acknowledges
            steps += [("driver.receive", 1), ("driver.ack", 1)]
    else:
        steps += [("store.take", 1)]
    return [Fault(when, *step) for step in steps]


def producer_faults(queue: JobQueue) -> list[Fault]:
    """The faults before and after each step of a producer: insert, publish and mark as sent. On some backends, `insert`
    is the only step.
    """
    several_steps = queue.driver.carries and not queue.driver.publishes_with_insert
    steps = ["store.insert", "driver.publish", "store.swap"] if several_steps else ["store.insert"]
    return [Fault(when, step) for step in steps for when in ("before", "after")]


def main() -> None:
    """Run `python -m queueport` with the fault that QUEUEPORT_CONTRACT_FAULT names."""
    fault = Fault.parse(os.environ[FAULT])
    original = JobQueue.__init__

    def init(self: JobQueue, *args: Any) -> None:
        original(self, *args)
        fault.install(self)

    with patch.object(JobQueue, "__init__", init):
        runpy.run_module("queueport", run_name="__main__")


if __name__ == "__main__":
    main()

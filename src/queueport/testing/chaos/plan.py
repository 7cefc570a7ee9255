"""`Plan`: the faults of a run, chosen from a seed, so that another run can repeat them. For `run` and the command."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["FAULTS", "Fault", "Plan"]

FAULTS: dict[str, str] = {
    "kill": "SIGKILL to all processes of a worker",
    "parent": "SIGKILL to the first process of a worker only",
    "child": "SIGKILL to a process of a worker that runs a job",
    "stop": "SIGSTOP to all processes of a worker, and SIGCONT after one and a half leases",
    "roll": "SIGTERM to a worker while its replacement starts",
    "producer": "SIGKILL to a producer",
}
"""The faults that need no control over the servers, and what each does."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault. `after` is the number of jobs that must have started before it happens; `target` is the number
    of the worker or producer.
    """

    kind: str
    target: int
    after: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does: it enqueues `jobs` jobs and carries out the `faults` in order."""

    seed: str
    jobs: int
    workers: int
    producers: int
    lease: float
    faults: Sequence[Fault]

    @classmethod
    def make(
        cls, seed: str, kinds: Sequence[str], *, jobs: int, faults: int, workers: int, producers: int, lease: float
    ) -> Self:
        """Choose `faults` faults of these kinds, spread over the run. The same arguments make the same plan.

        Each kind occurs before a kind occurs again.
        """
        chance = random.Random(seed)  # the plan must be repeatable
        chosen: list[str] = []
        while len(chosen) < faults:
            chosen += chance.sample(kinds, len(kinds))
        made = [
            Fault(kind, chance.randrange(producers if kind == "producer" else workers), jobs * number // (faults + 1))
            for number, kind in enumerate(chosen[:faults], 1)
        ]
        return cls(seed, jobs, workers, producers, lease, made)

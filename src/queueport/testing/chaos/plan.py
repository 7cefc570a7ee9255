"""`Plan`: the faults of a run, chosen from a seed, so that another run can repeat them. For `run` and the command."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["CLOCKS", "FAULTS", "PROCESSES", "SERVERS", "Fault", "Plan"]

PROCESSES: dict[str, str] = {
    "kill": "SIGKILL to all processes of a worker",
    "parent": "SIGKILL to the first process of a worker only",
    "child": "SIGKILL to a process of a worker that runs a job",
    "stop": "SIGSTOP to all processes of a worker, and SIGCONT after one and a half leases",
    "roll": "SIGTERM to a worker while its replacement starts",
    "producer": "SIGKILL to a producer",
}
"""The faults that need no control over the servers, and what each does."""
CLOCKS: dict[str, str] = {
    "clock-ahead": "the clock of a worker is an hour ahead for one and a half leases",
    "clock-back": "the clock of a worker is an hour behind for one and a half leases",
}
"""The faults of a worker's clock. They need time-machine, and a store that does not use the clocks of its clients."""
SERVERS: dict[str, str] = {
    "cut": "all connections to a server are reset, and new ones are refused",
    "delay": "what processes and a server send to each other arrives 0.2 seconds late",
    "half-open": "connections to a server stay open, but nothing arrives; at the end they are reset",
    "throttle": "SQS or DynamoDB refuses every other call, because there are too many",
    "restart-store": "SIGKILL to the server of the store, which is started again later",
    "restart-broker": "SIGKILL to the broker, which is started again later",
    "maxmemory": "Redis refuses writes, because it may not use more memory",
    "memory-alarm": "RabbitMQ has a memory alarm, and so takes no messages",
    "disk-full": "SQLite's disk is full",
}
"""The faults of servers. Each lasts for a time between a fifth of a lease and one and a half leases."""
FAULTS = {**PROCESSES, **CLOCKS, **SERVERS}
SHORTEST, LONGEST = 0.2, 1.5
"""How long faults of servers last, in leases."""
MOST_SERVERS = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault. `after` is the number of jobs that must have started before it happens; `target` is the number
    of the worker, producer or server, and `seconds` is how long a fault of a server lasts.
    """

    kind: str
    target: int
    after: int
    seconds: float = 0.0


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
        made = []
        for number, kind in enumerate(chosen[:faults], 1):
            targets = MOST_SERVERS if kind in SERVERS else producers if kind == "producer" else workers
            seconds = chance.uniform(SHORTEST, LONGEST) * lease if kind in SERVERS else 0.0
            made.append(Fault(kind, chance.randrange(targets), jobs * number // (faults + 1), seconds))
        return cls(seed, jobs, workers, producers, lease, made)

"""`ChaosRun`: what `queueport chaos --json` prints. For `report` and the schemas of the command line."""

from __future__ import annotations

from typing_extensions import TypedDict

__all__ = ["ChaosRun", "Found"]


class Found(TypedDict):
    """The breaches, by kind: a sentence for each job or count."""

    lost: list[str]
    stuck: list[str]
    overlapping: list[str]
    wrong: list[str]
    stats: list[str]
    late: list[str]


class ChaosRun(TypedDict):
    """The outcome of a run under faults."""

    url: str
    ok: bool
    """False if there is a breach."""
    seed: str
    lease: float
    workers: int
    producers: int
    jobs: int
    """The number of jobs that the run was to enqueue."""
    faults: dict[str, int]
    """The faults that were carried out, by kind."""
    accepted: int
    rejected: int
    unknown: int
    """The number of jobs of which the producer does not know whether they were accepted."""
    runs: int
    repeated: int
    """The number of runs that followed a crash or an interruption."""
    superseded: int
    """The number of runs that went on beside a run of a worker that had lost its lease."""
    noticed: dict[str, float]
    """For each kind of fault, the longest time in seconds from the fault until a lost attempt was noticed."""
    recovery: dict[str, float]
    """For each kind of fault, the longest time in seconds from the fault to the next start of a job that it hit."""
    breaches: Found
    unexpected: list[str]
    """Workers that ended by themselves, or did not end when they were told to."""
    seconds: float

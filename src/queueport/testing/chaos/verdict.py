"""The verdict: what producers were told, what the ledger shows and what the records say must agree.

Pure functions over `Evidence`, so that tests can give them evidence that is wrong.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from queueport.errors import WorkerLost
from queueport.stats import Stats
from queueport.status import JobState, JobStatus
from queueport.testing.chaos.ledger import Run
from queueport.testing.chaos.tasks import expected

__all__ = ["Evidence", "Happened", "Verdict", "judge"]

RECOVERY = 5.0
"""The seconds beyond a lease within which a job that a fault has hit must start again."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault that was carried out, from `begin` to `end`. `worker` is the name of the worker whose jobs it may have
    interrupted, if there is one. `server` is "store" or "broker" if it hit a server; "store" if that server is both.
    """

    kind: str
    worker: str
    begin: float
    end: float
    server: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known at the end of a run."""

    lease: float
    told: Mapping[str, str]
    runs: Sequence[Run]
    records: Mapping[str, JobStatus]
    stats: Stats
    faults: Sequence[Happened]
    wall: float = 0.0
    """The seconds by which the wall clock, which records use, is ahead of the monotonic clock of runs and faults."""


@dataclass(slots=True)
class Verdict:
    """The breaches, each with a sentence for each job, and the numbers of a run."""

    lost: list[str] = field(default_factory=list)
    """Accepted jobs without a record."""
    stuck: list[str] = field(default_factory=list)
    """Jobs that have not ended."""
    overlapping: list[str] = field(default_factory=list)
    """Jobs of which two runs went on at once, although the first run's worker could send heartbeats."""
    wrong: list[str] = field(default_factory=list)
    """Jobs whose record does not say what happened, and rejected jobs that ran."""
    stats: list[str] = field(default_factory=list)
    """Statistics that do not match the records."""
    late: list[str] = field(default_factory=list)
    """Lost attempts that were noticed later than a lease and RECOVERY seconds after a fault; jobs that started again
    later than that, although their process was free; and faults of servers after which no job started for so long. For
    a server, the time counts from the fault's end.
    """
    repeated: int = 0
    """The number of runs that were not needed: they followed a crash or an interruption."""
    superseded: int = 0
    """The number of runs that went on beside a run of a worker that had lost its lease."""
    noticed: dict[str, float] = field(default_factory=dict)
    """For each kind of fault, the longest time in seconds from the fault until a lost attempt was noticed, and its job
    was queued again; from the end of the last fault of the store, if that is later.
    """
    recovery: dict[str, float] = field(default_factory=dict)
    """For each kind of fault, the longest time in seconds from the fault to the next start of a job that it hit; for a
    server, from the end of the fault, and to the next start of any job, too.
    """

    @property
    def breaches(self) -> dict[str, list[str]]:
        """The sentences about breaches, by kind."""
        kinds = ("lost", "stuck", "overlapping", "wrong", "stats", "late")
        return {kind: getattr(self, kind) for kind in kinds}

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not any(self.breaches.values())


def judge(evidence: Evidence) -> Verdict:
    """Compare the three sources."""
    verdict, runs = Verdict(), defaultdict[str, list[Run]](list)
    for run in sorted(evidence.runs, key=lambda one: one.begin):  # a stopped process writes its lines late
        runs[run.job].append(run)
    for job, answer in evidence.told.items():
        _judge_job(verdict, job, answer, evidence.records.get(job), runs[job])
        _judge_overlaps(verdict, runs[job], evidence)
    for job in (runs.keys() | evidence.records.keys()) - evidence.told.keys():
        verdict.wrong.append(f"{job}: no producer offered it")
    _judge_recovery(verdict, runs, evidence)
    _judge_servers(verdict, evidence)
    if not verdict.stuck:
        _judge_stats(verdict, evidence)
    return verdict


def _judge_job(verdict: Verdict, job: str, answer: str, record: JobStatus | None, runs: Sequence[Run]) -> None:
    if record is None:
        if answer == "accepted":
            verdict.lost.append(f"{job}: accepted, but it has no record")
        elif runs:
            verdict.wrong.append(f"{job}: {answer}, ran {len(runs)} times, but it has no record")
        return
    if not record.finished:
        verdict.stuck.append(f"{job}: still {record.state}, {record.attempts} attempts, {answer}")
        return
    if answer == "rejected" and runs:
        verdict.wrong.append(f"{job}: rejected, but it ran {len(runs)} times")
    if record.state is JobState.CANCELLED and answer != "accepted" and not runs:
        return
    verdict.repeated += max(0, len(runs) - max(1, record.failures + (record.state is JobState.SUCCEEDED)))
    verdict.wrong += [f"{job}: {problem}" for problem in _wrong(job, record, runs)]


def _wrong(job: str, record: JobStatus, runs: Sequence[Run]) -> list[str]:
    """What is wrong with the end of a job."""
    number = int(job.rpartition("-")[2])
    state, failures = expected(number)
    problems = []
    if (record.state, record.failures) != (state, failures):
        problems.append(f"{record.state} with {record.failures} failures instead of {state} with {failures}")
    attempts = [run.attempt for run in runs]
    if len(set(attempts)) < len(attempts):
        problems.append(f"an attempt ran twice: {attempts}")
    if max(attempts, default=0) > record.attempts:
        problems.append(f"attempt {max(attempts)} ran, but the record counts {record.attempts}")
    outcomes = [run.outcome for run in runs if run.attempt == record.attempts]
    if record.state is JobState.SUCCEEDED and record.result != [number, record.attempts]:
        problems.append(f"the result is {record.result} instead of {[number, record.attempts]}")
    if record.state is JobState.SUCCEEDED and "returned" not in outcomes:
        problems.append(f"succeeded at attempt {record.attempts}, but no such run has returned")
    return problems


def _judge_overlaps(verdict: Verdict, runs: Sequence[Run], evidence: Evidence) -> None:
    for number, run in enumerate(runs):
        earlier = runs[:number]
        # a run without an end has died if the lock was free at the begin of a later one
        alive = next((place for place in range(number, 0, -1) if not runs[place].held), 0)
        before = [one for place, one in enumerate(earlier) if _goes_on(one, run.begin, place >= alive)]
        if not run.held and not before:
            continue
        # a worker that was stopped between the begin of the job and the start of its task starts the older attempt last
        pairs = [min(run, one, key=lambda each: each.attempt) for one in before or earlier]
        excused = [_silenced(older, run.begin, evidence) for older in pairs]
        # without a run in `before`, one of the earlier processes, stopped at the end of its run, still held the lock
        if all(excused) if before else any(excused):
            verdict.superseded += 1
        else:
            others = ", ".join(f"attempt {one.attempt} on {one.worker}" for one in before)
            verdict.overlapping.append(f"{run.job}: attempt {run.attempt} on {run.worker} ran beside {others}")


def _goes_on(run: Run, at: float, may_have_no_end: bool) -> bool:
    return may_have_no_end if run.end is None else run.end > at


def _silenced(run: Run, at: float, evidence: Evidence) -> bool:
    """True if the worker of this run could not send heartbeats for some time in the last lease before `at`."""
    return any(
        (fault.server == "store" or (fault.worker == run.worker and not fault.server and fault.kind != "roll"))
        and fault.begin <= at
        and fault.end >= at - evidence.lease
        for fault in evidence.faults
    )


def _judge_recovery(verdict: Verdict, runs: Mapping[str, Sequence[Run]], evidence: Evidence) -> None:
    for job, several in runs.items():
        for run, following in pairwise(several):
            hits = [fault for fault in evidence.faults if _hits(fault, run, following)]
            if not hits:
                continue
            fault = ([hit for hit in hits if not hit.server] or hits)[-1]  # a run whose process was killed has no end
            _judge_notice(verdict, run, fault, evidence)
            since = _usable(fault.begin, following.begin, evidence)
            seconds = following.begin - since
            verdict.recovery[fault.kind] = max(seconds, verdict.recovery.get(fault.kind, 0.0))
            if following.begin > _free(following, since + evidence.lease, evidence) + RECOVERY:
                hit = fault.worker or fault.server
                verdict.late.append(f"{job}: started again {seconds:.1f} s after {fault.kind} of {hit}")


def _judge_notice(verdict: Verdict, run: Run, fault: Happened, evidence: Evidence) -> None:
    """A worker that is lost must be noticed soon, however long its jobs then wait for others."""
    record = evidence.records.get(run.job)
    for error in record.errors if record is not None else ():
        if error.attempt == run.attempt and error.type.endswith(WorkerLost.__name__):
            at = error.at.timestamp() - evidence.wall
            seconds = max(0.0, at - _usable(fault.begin, at, evidence, "store"))
            verdict.noticed[fault.kind] = max(seconds, verdict.noticed.get(fault.kind, 0.0))
            if seconds > evidence.lease + RECOVERY:
                hit = fault.worker or fault.server
                verdict.late.append(f"{run.job}: its loss was noticed {seconds:.1f} s after {fault.kind} of {hit}")


def _usable(since: float, until: float, evidence: Evidence, *servers: str) -> float:
    """The end of the last fault of these servers, or of any, between these times; `since` if there is none."""
    faults = [fault for fault in evidence.faults if (fault.server in servers if servers else fault.server)]
    ends = [fault.end for fault in faults if fault.begin < until and fault.end > since]
    return min(max(ends, default=since), until)


def _judge_servers(verdict: Verdict, evidence: Evidence) -> None:
    """After a fault of a server, some job must start soon, unless none is left or another server has a fault."""
    faults = [fault for fault in evidence.faults if fault.server]
    for number, fault in enumerate(faults):
        until = faults[number + 1].begin if faults[number + 1 :] else math.inf
        begin = min((run.begin for run in evidence.runs if run.begin >= fault.end), default=math.inf)
        seconds = begin - fault.end
        if begin < until:
            verdict.recovery[fault.kind] = max(seconds, verdict.recovery.get(fault.kind, 0.0))
            if seconds > evidence.lease + RECOVERY:
                verdict.late.append(f"no job started for {seconds:.1f} s after {fault.kind} of {fault.server}")


def _free(run: Run, due: float, evidence: Evidence) -> float:
    """The time at which a process was free for this run, but not before `due`.

    A job that has crashed runs alone in its process. A process that has begun several such jobs gives all but the first
    back to the queue. So the job first waits for such jobs of all processes. Each of these waits for at most a lease
    before it begins. Then the job waits, at most a lease, for the other jobs of its process.
    """
    free, before = due, [other for other in evidence.runs if other.begin < run.begin]
    ends = {other: run.begin if other.end is None else min(other.end, run.begin) for other in before}
    for other in sorted(before, key=lambda one: one.begin):
        record = evidence.records.get(other.job)
        crashed = other.attempt > 1 and record is not None and record.crashes > 0
        if crashed and other.begin <= free + evidence.lease + RECOVERY:
            free = max(free, ends[other])
    others = [ends[other] for other in before if other.pid == run.pid]
    return max([free, *(min(end, free + evidence.lease) for end in others)])


def _hits(fault: Happened, run: Run, following: Run) -> bool:
    """True if the fault hit the worker of this run, or a server, while the run went on."""
    if fault.server:
        hit = run.begin <= fault.end < following.begin
    else:
        hit = fault.worker == run.worker and run.begin <= fault.begin < following.begin
    return hit and (run.end is None or run.end > fault.begin)


def _judge_stats(verdict: Verdict, evidence: Evidence) -> None:
    records, stats = evidence.records.values(), evidence.stats
    for state in JobState:
        counted, found = getattr(stats.totals, state.value), sum(record.state is state for record in records)
        if counted != found:
            verdict.stats.append(f"stats count {counted} {state.value} jobs, but there are {found}")
    failed = sum(record.failures + record.crashes for record in records)
    if (stats.processed, stats.failed) != (len(records), failed):
        verdict.stats.append(
            f"processed and failed are {(stats.processed, stats.failed)} instead of {(len(records), failed)}"
        )

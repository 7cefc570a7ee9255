"""The verdict of `queueport chaos` finds evidence that is wrong. For the authors of `queueport.testing.chaos`."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from queueport import JobError, JobQueue, JobState, get_queue
from queueport.testing.chaos import tasks
from queueport.testing.chaos.ledger import LEDGER, Ledger, Run
from queueport.testing.chaos.plan import FAULTS, SERVERS, Plan
from queueport.testing.chaos.verdict import Evidence, Happened, Verdict, judge

JOBS = 40
"""A number of jobs in which every kind of job occurs."""
LEASE = 0.1


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """The evidence of a run without faults."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    with pytest.MonkeyPatch.context() as patch, get_queue("memory://") as queue:
        patch.setenv(LEDGER, str(ledger.folder))
        jobs = [tasks.job(number, LEASE) for number in range(JOBS)]
        ledger.write("offered", jobs=[job.id for job in jobs])
        queue.enqueue_many(jobs)
        ledger.write("accepted", jobs=[job.id for job in jobs])
        with queue.worker():
            for job in jobs:
                wait_for(queue, job.id)
        ledger.update()
        records = {status.id: status for status in queue.jobs(limit=JOBS)}
        return Evidence(5.0, ledger.told(), ledger.runs(), records, queue.stats(), [])


def wait_for(queue: JobQueue, job_id: str) -> None:
    deadline = time.monotonic() + 20
    while not queue.status(job_id).finished:
        assert time.monotonic() < deadline
        queue.operations.store.wait([job_id], 1.0)


def found(evidence: Evidence) -> dict[str, list[str]]:
    """The breaches that were found, without the kinds of which there is none."""
    return {kind: sentences for kind, sentences in judge(evidence).breaches.items() if sentences}


def changed(good: Evidence, number: int, **values: Any) -> Evidence:
    """The evidence with other values in the record of this job."""
    job = tasks.job_id(number)
    return replace(good, records={**good.records, job: replace(good.records[job], **values)})


def with_run(good: Evidence, **values: Any) -> Evidence:
    """The evidence with one more run of the job 1, an attempt 2 that has returned, and the record counts it."""
    (first,) = [run for run in good.runs if run.job == tasks.job_id(1)]
    second = replace(first, **{"attempt": 2, "worker": "w2", "pid": first.pid + 1, **values})
    return replace(changed(good, 1, attempts=2, result=[1, 2]), runs=[*good.runs, second])


def first_run(good: Evidence) -> Run:
    (run,) = [run for run in good.runs if run.job == tasks.job_id(1)]
    return run


def test_a_run_without_faults_has_no_breach(good: Evidence) -> None:
    verdict = judge(good)
    assert verdict.breaches == Verdict().breaches
    assert (verdict.ok, verdict.repeated, verdict.superseded) == (True, 0, 0)
    assert {record.state for record in good.records.values()} == {JobState.SUCCEEDED, JobState.DEAD}


def test_a_lost_job_is_found(good: Evidence) -> None:
    lost = replace(good, records={job: one for job, one in good.records.items() if job != tasks.job_id(1)})
    assert found(lost)["lost"] == ["chaos-1: accepted, but it has no record"]


def test_a_job_that_was_neither_accepted_nor_run_is_not_lost(good: Evidence) -> None:
    told = {**good.told, "chaos-99": "unknown", "chaos-98": "rejected"}
    assert found(replace(good, told=told)) == {}


def test_a_stuck_job_is_found(good: Evidence) -> None:
    assert list(found(changed(good, 1, state=JobState.RUNNING))) == ["stuck"]


@pytest.mark.parametrize(
    ("number", "values"),
    [
        (1, {"state": JobState.DEAD}),
        (17, {"state": JobState.SUCCEEDED}),
        (11, {"failures": 2}),
        (1, {"result": [2, 1]}),
        (1, {"attempts": 2, "result": [1, 2]}),
    ],
    ids=["dead", "succeeded", "failures", "result", "attempt that did not run"],
)
def test_a_wrong_end_is_found(good: Evidence, number: int, values: dict[str, Any]) -> None:
    assert "wrong" in found(changed(good, number, **values))


def test_the_result_of_an_earlier_attempt_is_a_wrong_end(good: Evidence) -> None:
    begin = first_run(good).begin + 1
    stale = changed(with_run(good, begin=begin, end=begin + 1), 1, attempts=2, result=[1, 1])
    assert found(stale)["wrong"] == ["chaos-1: the result is [1, 1] instead of [1, 2]"]


def test_a_rejected_job_that_ran_is_found(good: Evidence) -> None:
    rejected = replace(good, told={**good.told, tasks.job_id(1): "rejected"})
    assert found(rejected)["wrong"] == ["chaos-1: rejected, but it ran 1 times"]


def test_an_attempt_that_ran_twice_is_found(good: Evidence) -> None:
    begin = first_run(good).begin + 1
    assert "an attempt ran twice" in found(with_run(good, attempt=1, begin=begin, end=begin + 1))["wrong"][0]


@pytest.mark.parametrize("held", [False, True], ids=["by the times", "by the lock"])
def test_overlapping_runs_are_found(good: Evidence, held: bool) -> None:
    first = first_run(good)
    assert first.end is not None
    begin = first.end + 1 if held else (first.begin + first.end) / 2
    assert list(found(with_run(good, begin=begin, end=begin + 1, held=held))) == ["overlapping"]


def test_a_run_beside_a_worker_that_was_stopped_is_counted_and_allowed(good: Evidence) -> None:
    first = first_run(good)
    assert first.end is not None
    beside = with_run(good, begin=(first.begin + first.end) / 2, end=first.end + 1)
    stop = Happened("stop", first.worker, first.begin, first.end)
    verdict = judge(replace(beside, faults=[stop]))
    assert (verdict.overlapping, verdict.superseded) == ([], 1)
    assert judge(replace(beside, faults=[replace(stop, worker="other")])).overlapping


def test_a_stopped_worker_excuses_only_its_own_runs(good: Evidence) -> None:
    first = first_run(good)
    assert first.end is not None
    begin = (first.begin + first.end) / 2
    beside = with_run(good, begin=begin, end=first.end + 2)
    third = replace(first, attempt=3, worker="w3", pid=first.pid + 2, begin=first.end + 1, end=first.end + 3)
    stop = Happened("stop", first.worker, first.begin, first.end)
    assert not judge(replace(beside, faults=[stop])).overlapping
    assert judge(replace(beside, runs=[*beside.runs, third], faults=[stop])).overlapping
    fourth = replace(third, begin=begin + 0.001)
    assert judge(replace(beside, runs=[*beside.runs, fourth], faults=[stop])).overlapping


def test_a_killed_run_needs_no_excuse_when_a_third_runs_beside_a_stopped_one(good: Evidence) -> None:
    killed = replace(first_run(good), worker="w1", end=None, outcome="")
    stopped = replace(killed, attempt=2, worker="w2", begin=killed.begin + 9, end=killed.begin + 18, outcome="returned")
    third = replace(stopped, attempt=3, worker="w3", begin=killed.begin + 15, end=killed.begin + 21, held=True)
    runs = [run for run in good.runs if run.job != tasks.job_id(1)]
    stop = Happened("stop", "w2", killed.begin + 10, killed.begin + 18)
    last = replace(changed(good, 1, attempts=3, result=[1, 3]), runs=[*runs, killed, stopped, third], faults=[stop])
    assert found(last) == {}
    held = replace(stopped, held=True)  # nothing shows that the first run has died
    assert found(replace(last, runs=[*runs, killed, held, third])).keys() == {"overlapping"}


def test_a_stopped_worker_may_start_its_task_after_the_job_was_taken_over(good: Evidence) -> None:
    first = first_run(good)
    assert first.end is not None
    stale = with_run(good, begin=(first.begin + first.end) / 2, end=first.end + 1, attempt=1)
    runs = [replace(run, attempt=2, worker="w1") if run == first else run for run in stale.runs]
    stop = Happened("stop", "w2", first.begin - 1, first.begin)
    assert judge(replace(stale, runs=runs, faults=[stop])).superseded == 1
    assert judge(replace(stale, runs=runs)).overlapping


@pytest.mark.parametrize(("seconds", "late"), [(9.9, False), (10.1, True)])
def test_a_late_recovery_is_found(good: Evidence, seconds: float, late: bool) -> None:
    first = first_run(good)
    assert first.end is not None
    kill = Happened("kill", first.worker, first.begin, first.end)
    killed = with_run(good, begin=first.begin + seconds, end=first.begin + seconds + 1)
    runs = [replace(run, end=None, outcome="") if run == first else run for run in killed.runs]
    verdict = judge(replace(killed, runs=runs, faults=[kill]))
    assert verdict.recovery["kill"] == pytest.approx(seconds)
    assert bool(verdict.late) is late


@pytest.mark.parametrize(("seconds", "late"), [(9.9, False), (10.1, True)])
@pytest.mark.parametrize("server", ["store", "broker"])
def test_a_lost_worker_must_be_noticed_soon(good: Evidence, seconds: float, late: bool, server: str) -> None:
    """However long its job then has to wait. A fault of the store prolongs this, a fault of the broker does not."""
    first, wall = first_run(good), 1e9
    assert first.end is not None
    kill, cut = Happened("kill", first.worker, first.begin, first.end), Happened("cut", "", 0.0, first.end + 2, server)
    at = (cut.end if server == "store" else kill.begin) + seconds
    crash = JobError("queueport.errors.WorkerLost", "no heartbeat", "", datetime.fromtimestamp(wall + at, UTC), 1)
    later = replace(crash, at=crash.at + timedelta(days=1))
    errors = [crash, replace(later, type="builtins.ValueError"), replace(later, attempt=2)]
    killed = changed(with_run(good, begin=at, end=at + 1), 1, attempts=2, result=[1, 2], errors=errors)
    runs = [replace(run, end=None, outcome="") if run == first else run for run in killed.runs]
    verdict = judge(replace(killed, runs=runs, faults=[kill, cut], wall=wall))
    assert verdict.noticed["kill"] == pytest.approx(seconds, abs=1e-5)
    assert any(sentence.startswith("chaos-1: its loss was noticed") for sentence in verdict.late) is late


def test_only_a_fault_of_the_store_excuses_a_run_beside_another(good: Evidence) -> None:
    first = first_run(good)
    assert first.end is not None
    beside = with_run(good, begin=(first.begin + first.end) / 2, end=first.end + 1)
    cut = Happened("cut", "", first.begin, first.end, "store")
    assert judge(replace(beside, faults=[cut])).superseded == 1
    assert judge(replace(beside, faults=[replace(cut, server="broker")])).overlapping
    assert judge(replace(beside, faults=[replace(cut, end=first.begin - 5.1)])).overlapping


@pytest.mark.parametrize(("seconds", "late"), [(9.9, False), (10.1, True)])
def test_the_recovery_from_a_fault_of_a_server_counts_from_its_end(good: Evidence, seconds: float, late: bool) -> None:
    first = first_run(good)
    assert first.end is not None
    end = first.begin + 20
    repeated = with_run(good, begin=end + seconds, end=end + seconds + 1)
    runs = [replace(run, end=end + 1) if run == first else run for run in repeated.runs]
    cut = Happened("cut", "", first.begin, end, "store")
    verdict = judge(replace(repeated, runs=runs, faults=[cut]))
    assert verdict.recovery["cut"] == pytest.approx(seconds)
    assert any(sentence.startswith("chaos-1: started again") for sentence in verdict.late) is late


@pytest.mark.parametrize(
    ("crashes", "begin", "process", "late"),
    [(0, 9, 1, True), (1, 9, 1, False), (1, 9, 2, False), (1, 15.1, 2, True)],
)
def test_a_crashed_job_waits_longer_for_one_that_has_crashed_too(
    good: Evidence, crashes: int, begin: float, process: int, late: bool
) -> None:
    """It also waits for one of another process, if that one begins within two leases and five seconds of the fault."""
    first = first_run(good)
    assert first.end is not None
    kill = Happened("kill", first.worker, first.begin, first.end)
    killed = with_run(good, begin=first.begin + 17, end=first.begin + 18)
    runs = [replace(run, end=None, outcome="") if run == first else run for run in killed.runs]
    begin, end = first.begin + begin, first.begin + 16
    other = replace(first, job=tasks.job_id(2), attempt=2, pid=first.pid + process, begin=begin, end=end)
    repeated = changed(replace(killed, runs=[*runs, other], faults=[kill]), 2, crashes=crashes, attempts=2)
    assert bool(judge(repeated).late) is late


def test_a_job_that_waits_for_a_server_is_not_late(good: Evidence) -> None:
    first = first_run(good)
    assert first.end is not None
    kill = Happened("kill", first.worker, first.begin, first.end)
    cut = Happened("cut", "", first.begin + 2, first.begin + 8, "broker")
    for seconds, late in ((17.9, False), (18.1, True)):
        killed = with_run(good, begin=first.begin + seconds, end=first.begin + seconds + 1)
        runs = [replace(run, end=None, outcome="") if run == first else run for run in killed.runs]
        verdict = judge(replace(killed, runs=runs, faults=[kill, cut]))
        assert any(sentence.startswith("chaos-1: started again") for sentence in verdict.late) is late
        assert verdict.recovery["kill"] == pytest.approx(seconds - 8)


@pytest.mark.parametrize(("seconds", "late"), [(9.9, False), (10.1, True)])
def test_a_server_after_whose_fault_no_job_starts_is_found(good: Evidence, seconds: float, late: bool) -> None:
    last = max(run.begin for run in good.runs)
    cut = Happened("cut", "", 0.0, last - seconds, "broker")
    runs = [run for run in good.runs if run.begin == last]
    verdict = judge(replace(good, runs=runs, faults=[cut]))
    assert verdict.late == ([f"no job started for {seconds} s after cut of broker"] if late else [])
    following = replace(cut, begin=last - 0.01, end=last + 1)
    assert judge(replace(good, runs=runs, faults=[cut, following])).late == []


def test_inexact_statistics_are_found(good: Evidence) -> None:
    for wrong in (
        replace(good.stats, failed=good.stats.failed + 1),
        replace(good.stats, processed=good.stats.processed - 1),
        replace(good.stats, totals=replace(good.stats.totals, queued=1)),
    ):
        assert list(found(replace(good, stats=wrong))) == ["stats"]


def test_a_seed_makes_the_same_plan_and_each_kind_occurs() -> None:
    def plan(seed: str) -> Plan:
        return Plan.make(seed, list(FAULTS), jobs=100, faults=28, workers=3, producers=2, lease=5.0)

    assert plan("1") == plan("1")
    assert plan("1") != plan("2")
    assert {fault.kind for fault in plan("1").faults[: len(FAULTS)]} == set(FAULTS)
    assert {fault.seconds > 0 for fault in plan("1").faults if fault.kind in SERVERS} == {True}
    assert [fault.after for fault in plan("1").faults] == sorted(fault.after for fault in plan("1").faults)


def test_the_ledger_sees_a_second_run_at_the_same_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with ledger.running("a", 1), ledger.running("a", 2):
        pass
    with ledger.running("a", 3):
        pass
    ledger.update()
    assert [run.held for run in ledger.runs()] == [False, True, False]

"""Group L, "Limits": how many jobs run at a time, and how many start in a time. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import combinations

from queueport import Capability, JobHandle, JobQueue, JobState
from queueport.testing import tasks
from queueport.testing.contract.case import Case, budgets, needs
from queueport.testing.harness import Harness
from queueport.testing.tasks import QUEUE
from queueport.testing.trace import Run, Trace
from queueport.testing.waiting import eventually

__all__ = ["LimitTests"]

TAKES_EFFECT = 2.0
"""The maximum number of seconds until all workers know the new limit of a queue."""


class LimitTests(Case):
    """All lines of group L."""

    def test_L1_no_more_jobs_run_than_the_limit_over_all_workers(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        with ExitStack() as workers:
            if Capability.PERSISTENT in queue.capabilities:
                harness.process(options=["--threads=4"])
                harness.process(options=["--threads=4"], native=True)
            else:
                for _ in range(2):
                    workers.enter_context(harness.working(queue, threads=4))
            handles = queue.enqueue_many(tasks.in_pairs.job("go") for _ in range(12))
            eventually(lambda: (len(trace.runs()), limited(handles)) == (2, 10), 10 + harness.late)
            trace.open("go")
            assert [handle.result(20) for handle in handles] == ["go"] * 12
        assert most_at_a_time(trace.runs()) == 2
        assert {budgets(handle.status()) for handle in handles} == {(1, 0, 0)}

    def test_L2_the_jobs_of_each_key_have_their_own_limit(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        handles = {key: queue.enqueue_many(tasks.one_by_key.job(key) for _ in range(3)) for key in ("a", "b")}
        with harness.working(queue, threads=4):
            eventually(lambda: {key: limited(handles[key]) for key in handles} == {"a": 2, "b": 2})
            trace.open("a")
            assert [handle.result(10) for handle in handles["a"]] == ["a"] * 3
            assert [handle.status().finished for handle in handles["b"]] == [False] * 3
            assert limited(handles["b"]) == 2
            trace.open("b")
            assert [handle.result(10) for handle in handles["b"]] == ["b"] * 3
        for same in handles.values():
            assert most_at_a_time(trace.runs(*(handle.id for handle in same))) == 1

    def test_L3_no_more_jobs_start_than_the_rate_allows(self, harness: Harness, queue: JobQueue) -> None:
        handles = queue.enqueue_many(tasks.five_a_second.job(number) for number in range(8))
        with harness.working(queue, threads=8):
            assert [handle.result(20) for handle in handles] == list(range(8))
        starts = sorted(at.timestamp() for handle in handles if (at := handle.status().started_at) is not None)
        for (first, before), (last, after) in combinations(enumerate(starts), 2):
            assert last - first + 1 <= 2 + 5 * (after - before) + 0.01, f"too many jobs have started: {starts}"
        assert {budgets(handle.status()) for handle in handles} == {(1, 0, 0)}

    def test_L4_the_limit_of_a_queue_is_changed_while_workers_run(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        with harness.working(queue, threads=8):
            assert queue.enqueue(tasks.echo, 1).result(10) == 1
            queue.limit(QUEUE, concurrency=1)
            time.sleep(TAKES_EFFECT)
            handles = queue.enqueue_many(tasks.wait_for.job("go") for _ in range(4))
            ids = [handle.id for handle in handles]
            eventually(lambda: (len(trace.runs(*ids)), limited(handles)) == (1, 3))
            queue.limit(QUEUE)
            eventually(lambda: len(trace.runs(*ids)) == 4, TAKES_EFFECT + harness.late)
            trace.open("go")
            assert [handle.result(10) for handle in handles] == ["go"] * 4
        assert queue.queue_limits() == {}

    @needs(Capability.PERSISTENT)
    def test_L5_the_slot_of_a_killed_worker_comes_free_with_its_lease(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        worker = harness.process(options=["--threads=2"])
        first = queue.enqueue(tasks.alone, "go")
        eventually(lambda: trace.times(first.id) == 1)
        second = queue.enqueue(tasks.alone, "go")
        eventually(lambda: limited([second]) == 1)
        worker.kill()
        trace.open("go")
        harness.process()
        wait = harness.settings["lease"] + 5.0 + harness.late
        assert [first.result(wait), second.result(wait)] == ["go", "go"]
        assert (budgets(first.status()), budgets(second.status())) == ((2, 0, 1), (1, 0, 0))
        started, (lost,) = second.status().started_at, first.status().errors
        assert started is not None
        assert started >= lost.at, "the job has started before the lease of the killed worker had lapsed"

    def test_L6_a_held_job_uses_no_thread_and_no_attempt(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with harness.working(queue, threads=2):
            handles = queue.enqueue_many(tasks.alone.job("go") for _ in range(5))
            eventually(lambda: limited(handles) == 4)
            others = queue.enqueue_many(tasks.echo.job(number) for number in range(5))
            assert [other.result(10) for other in others] == list(range(5))
            held = [status for handle in handles if (status := handle.status()).reason == "limited"]
            assert [(status.state, *budgets(status)) for status in held] == [(JobState.QUEUED, 0, 0, 0)] * 4
            trace.open("go")
            assert [handle.result(10) for handle in handles] == ["go"] * 5
        assert {budgets(handle.status()) for handle in handles} == {(1, 0, 0)}


def limited(handles: Iterable[JobHandle[str]]) -> int:
    """The number of these jobs that wait for a limit."""
    return sum(handle.status().reason == "limited" for handle in handles)


def most_at_a_time(runs: Iterable[Run]) -> int:
    """The maximum number of these runs that went on at the same time. All of them must have ended."""
    changes = sorted(change for run in runs for change in ((run.started, 1), (run.ended or 0.0, -1)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most

"""W: how a worker ends its jobs, its processes and itself; the framework's own worker. For the contract suite."""

from __future__ import annotations

from typing import Any

import pytest

from queueport import Capability, JobHandle, JobQueue, JobState, JobStatus, Retry, Task
from queueport.errors import JobFailed
from queueport.testing.case import Case, needs
from queueport.testing.hard_tasks import asleep_once, block_once, sleep_once, spin_once
from queueport.testing.harness import Harness
from queueport.testing.tasks import QUEUE, add, asleep, echo, fail, spin, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["Stopping"]

GRACE = 1.0
"""Seconds that running jobs have in these tests."""
SOON = Retry(max_attempts=2, initial=0.1, jitter=0.0)

processes = pytest.mark.parametrize("count", [1, 2], ids=["one_process", "two_processes"])


class Stopping(Case):
    """The lines W4, W6 and W9."""

    # -- W4 ----------------------------------------------------------------------------------------

    @needs(Capability.PERSISTENT)
    @processes
    def test_W4_sigterm_lets_running_jobs_finish(
        self, harness: Harness, queue: JobQueue, trace: Trace, count: int
    ) -> None:
        worker = harness.process(options=["--threads=1", f"--processes={count}"])
        running = [queue.enqueue(wait_for, "go") for _ in range(count)]
        eventually(lambda: len(trace.runs()) == count)
        rest = [queue.enqueue(echo, n) for n in range(3)]
        worker.terminate()
        eventually(lambda: "SIGTERM" in worker.log)
        trace.open("go")
        assert worker.wait() == 0
        assert [handle.result(0) for handle in running] == ["go"] * count
        assert {(handle.status().state, handle.status().attempts) for handle in rest} == {(JobState.QUEUED, 0)}
        with harness.working(queue):
            assert [handle.result(10) for handle in rest] == [0, 1, 2]

    @needs(Capability.THREADS)
    def test_W4_stop_lets_running_jobs_finish(self, queue: JobQueue, trace: Trace) -> None:
        worker = queue.worker(QUEUE, threads=1).start()
        running = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(running.id) == 1)
        rest = queue.enqueue(echo, 1)
        worker.stop(wait=False)
        trace.open("go")
        worker.stop()
        assert running.result(0) == "go"
        assert (rest.status().state, rest.status().attempts) == (JobState.QUEUED, 0)

    @needs(Capability.PERSISTENT)
    @processes
    def test_W4_past_the_grace_period_jobs_run_again_elsewhere(
        self, harness: Harness, queue: JobQueue, trace: Trace, count: int
    ) -> None:
        worker = harness.process(options=[f"--grace={GRACE}", f"--processes={count}"])
        handles = [queue.enqueue(task, 60.0) for task in (spin_once, asleep_once, sleep_once)]
        eventually(lambda: len(trace.runs()) == 3)
        harness.process()  # the elsewhere
        assert worker.stop() == 0
        assert [handle.result(15) for handle in handles] == [2, 2, 2]
        assert {budgets(handle.status()) for handle in handles} == {(2, 0, 0)}
        assert queue.stats().failed == 0

    @needs(Capability.THREADS)
    def test_W4_past_the_grace_period_without_a_process_to_end(self, queue: JobQueue, trace: Trace) -> None:
        worker = queue.worker(QUEUE, grace=0.2).start()
        handles = [queue.enqueue(task, 60.0) for task in (spin_once, asleep_once)]
        eventually(lambda: len(trace.runs()) == 2)
        worker.stop()
        assert {handle.status().state for handle in handles} == {JobState.QUEUED}
        with queue.worker(QUEUE):
            assert [handle.result(10) for handle in handles] == [2, 2]
        assert {budgets(handle.status()) for handle in handles} == {(2, 0, 0)}

    # -- W6 ----------------------------------------------------------------------------------------

    @pytest.mark.parametrize("task", [spin, asleep], ids=["thread", "coroutine"])
    def test_W6_a_timeout_is_a_failure_and_the_worker_lives(
        self, harness: Harness, queue: JobQueue, task: Task[[float], Any, Any]
    ) -> None:
        job = task.using(timeout=0.5, retry=Retry(max_attempts=1)).job(60.0)
        with harness.working(queue, threads=1):
            handle = queue.enqueue(job)
            with pytest.raises(JobFailed, match="JobTimeout") as caught:
                handle.result(10)
            assert queue.enqueue(echo, "alive").result(10) == "alive"
        assert caught.value.error is not None
        assert caught.value.error.type == "queueport.errors.JobTimeout"
        assert budgets(handle.status()) == (1, 1, 0)
        assert queue.stats().failed == 1

    def test_W6_after_a_timeout_it_is_tried_again(self, harness: Harness, queue: JobQueue) -> None:
        handles = [queue.enqueue(t.using(timeout=0.5, retry=SOON).job(60.0)) for t in (spin_once, asleep_once)]
        with harness.working(queue):
            assert [handle.result(10) for handle in handles] == [2, 2]
        assert {budgets(handle.status()) for handle in handles} == {(2, 1, 0)}

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize(
        ("task", "count"),
        [(sleep_once, 1), (sleep_once, 2), (block_once, 1)],
        ids=["one_process", "two_processes", "event_loop"],
    )
    def test_W6_code_that_cannot_be_interrupted_ends_with_its_process(
        self, harness: Harness, queue: JobQueue, trace: Trace, task: Task[[float], int, Any], count: int
    ) -> None:
        worker = harness.process(options=[f"--processes={count}"], QUEUEPORT_LEASE="5")
        stuck = queue.enqueue(task.using(timeout=0.5, retry=SOON).job(60.0))
        neighbours: list[JobHandle[Any]] = [
            queue.enqueue(spin, 4.0),
            queue.enqueue(asleep_once, 4.0),
            queue.enqueue(echo, 1),
        ]
        assert stuck.result(25) == 2
        for handle in neighbours:
            handle.result(25)
        assert budgets(stuck.status()) == (2, 1, 0)
        assert [error.type for error in stuck.status().errors] == ["queueport.errors.JobTimeout"]
        assert [handle.status().failures + handle.status().crashes for handle in neighbours] == [0, 0, 0]
        assert [trace.times(handle.id) for handle in (neighbours[0], neighbours[2])] == [1, 1]
        assert queue.enqueue(echo, "alive").result(10) == "alive"
        assert worker.stop() == 0, "the command that was started is still the one to stop"

    @needs(Capability.THREADS)
    def test_W6_without_a_process_to_end_the_retry_waits(self, queue: JobQueue, trace: Trace) -> None:
        with queue.worker(QUEUE, threads=2):
            stuck = queue.enqueue(sleep_once.using(timeout=0.2, retry=SOON).job(5.0))
            eventually(lambda: trace.times(stuck.id) == 1)
            neighbour = queue.enqueue(echo, 1)
            assert neighbour.result(4) == 1
            stuck.result(15)
        first, *_ = trace.runs(stuck.id)
        assert first.ended is not None
        assert first.ended - first.started >= 5.0
        assert stuck.status().crashes == 0
        assert budgets(neighbour.status()) == (1, 0, 0)

    # -- W9: only a framework has a worker of its own; elsewhere there is nothing to hold -------------

    def test_W9_the_native_worker_runs_and_fails_jobs(self, harness: Harness, queue: JobQueue) -> None:
        if harness.native_command([QUEUE]) is None:
            return
        harness.process(native=True)
        good, bad = queue.enqueue(add, 2, 3), queue.enqueue(fail)
        assert good.result(10) == 5
        with pytest.raises(JobFailed):
            bad.result(20)
        assert budgets(good.status()) == (1, 0, 0)
        assert budgets(bad.status()) == (3, 3, 0)

    def test_W9_the_native_worker_stops_gracefully(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        if harness.native_command([QUEUE]) is None:
            return
        worker = harness.process(native=True)
        running = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(running.id) == 1)
        worker.terminate()
        trace.open("go")
        assert worker.wait() == 0
        assert running.result(10) == "go"

    def test_W9_the_native_worker_may_be_killed(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        if harness.native_command([QUEUE]) is None:
            return
        worker = harness.process(native=True)
        handle: JobHandle[str] = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(handle.id) == 1)
        worker.kill()
        harness.process(native=True)
        eventually(lambda: trace.times(handle.id) == 2, 10)
        trace.open("go")
        assert handle.result(10) == "go"
        assert budgets(handle.status()) == (2, 0, 1)


def budgets(status: JobStatus) -> tuple[int, int, int]:
    """Attempts, failures and crashes."""
    return status.attempts, status.failures, status.crashes

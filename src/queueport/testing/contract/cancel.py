"""Group C, "Cancel": `cancel` and `purge`. For adapter authors; `lines` describes each contract line."""

from __future__ import annotations

import pytest

from queueport import CancelOutcome, Capability, JobQueue, JobState, Retry
from queueport.errors import JobCancelled
from queueport.testing import tasks
from queueport.testing.contract.case import Case, needs
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["CancelTests"]


class CancelTests(Case):
    """All lines of group C."""

    def test_C1_cancelled_waiting_jobs_never_run(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queued = queue.enqueue(tasks.echo, 1)
        scheduled = queue.enqueue(tasks.echo.using(delay=0.5).job(2))
        retrying = queue.enqueue(tasks.fail.using(retry=Retry(max_attempts=2, initial=1.0)).job("again"))
        assert [queued.cancel(), scheduled.cancel()] == [CancelOutcome.CANCELLED] * 2
        with harness.working(queue):
            eventually(lambda: retrying.status().state is JobState.RETRYING)
            assert retrying.cancel() is CancelOutcome.CANCELLED
            later = [queue.enqueue(tasks.echo.using(delay=1.5).job(n)) for n in range(2)]
            assert [handle.result(10) for handle in later] == [0, 1]
        assert trace.times(queued.id) == trace.times(scheduled.id) == 0
        assert trace.times(retrying.id) == 1
        for handle in (queued, scheduled, retrying):
            status = handle.status()
            assert (status.state, status.reason) == (JobState.CANCELLED, "cancelled")
            assert status.finished_at is not None
            with pytest.raises(JobCancelled, match=handle.id):
                handle.result(1)

    def test_C1_purge_cancels_the_waiting_jobs_of_one_queue(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        mine = queue.enqueue_many(tasks.echo.using(queue="mine").job(n) for n in range(5))
        mine.append(queue.enqueue(tasks.echo.using(queue="mine", delay=3600).job(5)))
        other = queue.enqueue(tasks.echo.using(queue="other").job(6))
        assert queue.purge("mine") == 6
        assert queue.purge("mine") == 0
        assert {(h.status().state, h.status().reason) for h in mine} == {(JobState.CANCELLED, "purged")}
        with harness.working(queue, "mine", "other"):
            assert other.result(10) == 6
            assert queue.enqueue(tasks.echo.using(queue="mine").job(7)).result(10) == 7
        assert {run.job for run in trace.runs()}.isdisjoint(handle.id for handle in mine)

    def test_C1_purge_leaves_running_jobs_alone(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        running = queue.enqueue(tasks.wait_for, "gate")
        with harness.working(queue, threads=1):
            eventually(lambda: running.status().state is JobState.RUNNING)
            waiting = queue.enqueue(tasks.echo, 1)
            assert queue.purge(tasks.QUEUE) == 1
            trace.open("gate")
            assert running.result(10) == "gate"
        assert waiting.status().state is JobState.CANCELLED

    def test_C2_a_running_job_is_interrupted(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.spin, 60.0)
        again = queue.enqueue(tasks.asleep, 60.0)
        with harness.working(queue):
            for job in (handle, again):
                eventually(lambda job=job: job.status().state is JobState.RUNNING)  # type: ignore[misc]
                assert job.cancel() is CancelOutcome.REQUESTED
                assert job.cancel() in (CancelOutcome.REQUESTED, CancelOutcome.ALREADY_FINISHED)
            for job in (handle, again):
                eventually(lambda job=job: job.status().finished, 10)  # type: ignore[misc]
                assert (job.status().state, job.status().attempts) == (JobState.CANCELLED, 1)
                with pytest.raises(JobCancelled):
                    job.result(1)
            assert queue.enqueue(tasks.echo, 1).result(10) == 1, "the worker no longer runs jobs"

    def test_C2_a_task_can_see_the_request(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.cancellable, 60.0)
        with harness.working(queue):
            eventually(lambda: handle.status().state is JobState.RUNNING)
            assert handle.cancel(interrupt=False) is CancelOutcome.REQUESTED
            eventually(lambda: handle.status().finished, 10)
        assert handle.status().state is JobState.CANCELLED
        assert trace.notes("cancel requested", job=handle.id), "the task did not see the request"

    def test_C2_without_interruption_the_task_runs_to_its_end(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        with harness.working(queue):
            for gate in ("first", "second", "third"):
                handle = queue.enqueue(tasks.wait_for, gate)
                eventually(lambda handle=handle: handle.status().state is JobState.RUNNING)  # type: ignore[misc]
                assert handle.cancel(interrupt=False) is CancelOutcome.REQUESTED
                trace.open(gate)  # the task usually ends before its worker has read the cancel request
                eventually(lambda handle=handle: handle.status().finished, 10)  # type: ignore[misc]
                assert handle.status().state is JobState.CANCELLED, (
                    "the job did not end as cancelled, although a cancel was requested"
                )
                assert trace.runs(handle.id)[0].ended is not None

    @needs(Capability.PERSISTENT)
    def test_C2_the_job_ends_cancelled_even_if_its_worker_is_killed(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        handle = queue.enqueue(tasks.wait_for, "never")
        worker = harness.process()
        eventually(lambda: handle.status().state is JobState.RUNNING)
        worker.pause()
        assert handle.cancel() is CancelOutcome.REQUESTED
        worker.kill()
        harness.process()
        eventually(lambda: handle.status().finished, 15)
        status = handle.status()
        assert (status.state, status.attempts, status.crashes) == (JobState.CANCELLED, 1, 0)

    def test_C3_a_finished_job_does_not_change(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        done = queue.enqueue(tasks.echo, "kept")
        dead = queue.enqueue(tasks.abort, "enough")
        cancelled = queue.enqueue(tasks.echo.using(delay=3600).job(1))
        cancelled.cancel()
        with harness.working(queue):
            eventually(lambda: done.status().finished and dead.status().finished)
        before = [handle.status() for handle in (done, dead, cancelled)]
        assert [handle.cancel() for handle in (done, dead, cancelled)] == [CancelOutcome.ALREADY_FINISHED] * 3
        assert [handle.status() for handle in (done, dead, cancelled)] == before

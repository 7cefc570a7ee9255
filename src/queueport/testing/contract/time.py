"""Group S, "Time": delays, restarts and expiry. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from queueport import CancelOutcome, Capability, JobHandle, JobQueue
from queueport.errors import JobCancelled
from queueport.status import JobState
from queueport.testing import tasks
from queueport.testing.contract.case import Case, disrupts, needs
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["TimeTests"]

DELAY = 2.0
HOUR = timedelta(hours=1)


class TimeTests(Case):
    """All lines of group S."""

    def test_S1_a_delayed_job_runs_on_time(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        with harness.working(queue):
            earliest = time.time() + DELAY
            at = datetime.now(UTC) + timedelta(seconds=DELAY)
            handles = [
                queue.enqueue(tasks.echo.using(delay=DELAY), 1),
                queue.enqueue(tasks.echo.using(delay=timedelta(seconds=DELAY)), 2),
                queue.enqueue(tasks.echo.using(run_at=at), 3),
                *queue.enqueue_many([tasks.echo.using(delay=DELAY).job(4)]),
            ]
            latest = time.time() + DELAY + harness.late
            assert {handle.status().state for handle in handles} == {JobState.SCHEDULED}
            assert [handle.result(10) for handle in handles] == [1, 2, 3, 4]
        starts = [run.started for run in trace.runs()]
        assert len(starts) == 4
        assert earliest <= min(starts)
        assert max(starts) <= latest

    def test_S1_a_time_in_the_past_means_now(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        past = datetime.now(UTC) - HOUR
        handle = queue.enqueue(tasks.echo.using(run_at=past), 1)
        no_delay = queue.enqueue(tasks.echo.using(delay=0), 2)
        assert (handle.status().state, no_delay.status().state) == (JobState.QUEUED, JobState.QUEUED)
        assert handle.status().run_at == past
        with harness.working(queue):
            before = time.time()
            later = queue.enqueue(tasks.echo.using(run_at=past), 3)
            assert [each.result(10) for each in (handle, no_delay, later)] == [1, 2, 3]
        assert trace.runs(later.id)[0].started - before < harness.late

    def test_S1_retry_runs_a_scheduled_job_now(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.echo.using(delay=HOUR), 1)
        with harness.working(queue):
            before = time.time()
            handle.retry()
            assert handle.result(10) == 1
        (run,) = trace.runs(handle.id)
        assert run.started - before < harness.late

    def test_S2_jobs_of_a_far_future_are_shown_and_can_be_cancelled(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        month = timedelta(days=30)
        run_at = datetime.now(UTC) + month
        far = {
            queue.enqueue(tasks.echo.using(delay=HOUR), 1): datetime.now(UTC) + HOUR,
            queue.enqueue(tasks.echo.using(delay=month), 2): datetime.now(UTC) + month,
            queue.enqueue(tasks.echo.using(run_at=run_at), 3): run_at,
        }
        with harness.working(queue):
            assert queue.enqueue(tasks.echo.using(delay=1.0), "near").result(10) == "near"
            for handle, at in far.items():
                status = handle.status()
                assert (status.state, status.attempts) == (JobState.SCHEDULED, 0)
                assert status.run_at is not None
                assert abs(status.run_at - at) < timedelta(seconds=5)
                assert status.next_attempt_at == status.run_at
            assert {job.id for job in queue.jobs(state="scheduled")} == {handle.id for handle in far}
            for handle in far:
                assert handle.cancel() is CancelOutcome.CANCELLED
                assert handle.status().state is JobState.CANCELLED
                assert handle.status().next_attempt_at is None
            assert queue.enqueue(tasks.echo, "last").result(10) == "last"
        assert [run for run in trace.runs() if run.job in {handle.id for handle in far}] == []

    def test_S2_status_shows_the_given_run_at(self, queue: JobQueue) -> None:
        run_at = datetime.now(UTC) + HOUR
        assert queue.enqueue(tasks.echo.using(run_at=run_at), 1).status().run_at == run_at

    @needs(Capability.PERSISTENT)
    @disrupts
    def test_S3_delayed_jobs_survive_a_restart_of_backend_and_workers(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        worker = harness.process()
        due = time.time() + 3.0
        handle = queue.enqueue(tasks.echo.using(delay=3.0), 1)
        far = queue.enqueue(tasks.echo.using(delay=HOUR), 2)
        worker.kill()
        harness.restart_backend()
        harness.process()
        assert queue.result(handle.id, 20) == 1
        (run,) = trace.runs()
        assert due <= run.started
        assert far.status().state is JobState.SCHEDULED
        assert queue.stats().totals.scheduled == 1

    def test_S4_an_expired_job_runs_only_after_a_retry(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.echo.using(expires=0.3), 1)
        later = queue.enqueue(tasks.echo.using(delay=0.6, expires=0.3), 2)
        both_expired = time.monotonic() + 0.7
        eventually(lambda: time.monotonic() > both_expired)
        with harness.working(queue):
            self._has_expired(handle)
            self._has_expired(later)
            assert trace.runs() == []
            handle.retry()
            later.retry()
            assert (handle.result(10), later.result(10)) == (1, 2)
        assert (trace.times(handle.id), trace.times(later.id)) == (1, 1)

    def test_S4_a_job_that_waits_too_long_for_a_busy_worker_expires(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        with harness.working(queue, threads=1):
            busy = queue.enqueue(tasks.wait_for, "busy")
            eventually(lambda: busy.status().state is JobState.RUNNING)
            handle = queue.enqueue(tasks.echo.using(expires=0.3), 1)
            expired = time.monotonic() + 0.4
            eventually(lambda: time.monotonic() > expired)
            trace.open("busy")
            assert busy.result(10) == "busy"
            self._has_expired(handle)
        assert trace.times(handle.id) == 0

    def test_S4_a_job_that_starts_in_time_does_not_expire(self, queue: JobQueue, harness: Harness) -> None:
        with harness.working(queue):
            started = queue.enqueue(tasks.spin.using(expires=harness.late), harness.late + 0.3)
            delayed = queue.enqueue(tasks.echo.using(expires=30, delay=0.2), 1)
            assert (started.result(10), delayed.result(10)) == (harness.late + 0.3, 1)

    def _has_expired(self, handle: JobHandle[object]) -> None:
        with pytest.raises(JobCancelled, match="expired"):
            handle.result(10)
        status = handle.status()
        assert (status.state, status.reason, status.attempts) == (JobState.CANCELLED, "expired", 0)
        assert status.finished_at is not None

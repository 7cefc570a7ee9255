"""Group F, "Follow-up jobs": chains and batches. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

from queueport import Batch, Capability, JobQueue, JobState, JobStatus, chain
from queueport.errors import JobCancelled
from queueport.testing import tasks
from queueport.testing.contract.case import Case, needs
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["FollowUpTests"]


class FollowUpTests(Case):
    """All lines of group F."""

    def test_F1_the_jobs_of_a_chain_run_in_order_with_results(self, queue: JobQueue, harness: Harness) -> None:
        passing = tasks.add.using(pass_result=True)
        first = queue.enqueue(chain(tasks.add.job(1, 2), passing.job(10), passing.job(100)))
        last = first.follow_ups[-1]
        assert (last.status().state, last.status().waits_for) == (JobState.SCHEDULED, 1)
        with harness.working(queue):
            assert last.result(10) == 113
        ends = [handle.status() for handle in (first, *first.follow_ups)]
        assert [status.attempts for status in ends] == [1, 1, 1]
        assert ends[0].children == [ends[1].id]
        assert ends[1].parents == [ends[0].id]
        for before, after in pairwise(ends):
            assert before.finished_at is not None
            assert after.started_at is not None
            assert before.finished_at <= after.started_at

    def test_F2_a_follow_up_job_waits_for_a_dead_job_and_is_cancelled_with_a_cancelled_one(
        self, queue: JobQueue, harness: Harness
    ) -> None:
        waiting = queue.enqueue(chain(tasks.echo.using(delay=60).job(1), tasks.echo.job(2), tasks.echo.job(3)))
        waiting.cancel()
        discarded, retried = (queue.enqueue(chain(tasks.abort.job("no"), tasks.echo.job(4))) for _ in range(2))
        with harness.working(queue):
            for handle in waiting.follow_ups:
                with pytest.raises(JobCancelled, match="the job that it follows was cancelled"):
                    handle.result(10)
            eventually(lambda: queue.count("dead") == 2)
            assert {queue.status(each.follow_ups[0].id).state for each in (discarded, retried)} == {JobState.SCHEDULED}
            queue.dead_letters.discard(discarded.id)
            with pytest.raises(JobCancelled):
                discarded.follow_ups[0].result(10)
            retried.retry()
            eventually(lambda: retried.status().failures == 1 and retried.status().state is JobState.DEAD)
            assert retried.follow_ups[0].status().state is JobState.SCHEDULED
            retried.follow_ups[0].retry()
            assert retried.follow_ups[0].result(10) == 4

    def test_F3_the_follow_up_job_of_a_batch_runs_once_after_jobs_that_end_at_once(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        jobs = [tasks.wait_for.job("go") for _ in range(2)]
        batch = queue.batch([*jobs, *(tasks.echo.job(n) for n in range(20))], then=tasks.echo.job("then"))
        with harness.working(queue):
            eventually(lambda: batch.progress().succeeded == 20)
            assert [status.waits_for for status in batch.follow_ups()] == [2]
            trace.open("go")
            assert batch.wait(10).succeeded == 22
            (then,) = followed(batch, 1)
        assert (then.attempts, then.result) == (1, "then")

    def test_F4_a_dead_job_keeps_its_batch_open_and_starts_on_dead_once(
        self, queue: JobQueue, harness: Harness
    ) -> None:
        jobs = [tasks.echo.job(1), tasks.abort.job("no"), tasks.abort.job("no"), tasks.echo.using(delay=60).job(2)]
        batch = queue.batch(jobs, then=tasks.echo.job("then"), on_dead=tasks.echo.job("dead"))
        queue.cancel(jobs[3].id)
        with harness.working(queue):
            (on_dead,) = followed(batch, 1)
            assert on_dead.result == "dead"
            eventually(lambda: batch.progress().dead == 2)
            assert not batch.wait(1).ended
            assert batch.retry() == 2
            eventually(lambda: batch.progress().dead == 2)
            assert [status.attempts for status in followed(batch, 1)] == [1]
            assert queue.dead_letters.purge(batch=batch.id) == 2
            done = followed(batch, 2)
        assert {status.result for status in done} == {"then", "dead"}
        assert {status.attempts for status in done} == {1}
        assert batch.progress().ended

    def test_F5_a_cancelled_batch_runs_nothing_more(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        batch = queue.batch([tasks.echo.job(n) for n in range(5)], then=tasks.echo.job(6), on_dead=tasks.echo.job(7))
        assert batch.cancel() == 5
        with harness.working(queue):
            assert queue.enqueue(tasks.echo, "last").result(10) == "last"
        assert len(trace.runs()) == 1
        assert {status.state for status in batch.follow_ups()} == {JobState.CANCELLED}

    @needs(Capability.PERSISTENT)
    def test_F6_no_follow_up_job_is_lost_or_doubled_when_workers_are_killed(
        self, queue: JobQueue, harness: Harness
    ) -> None:
        batches = [queue.batch([tasks.sleep.job(0.1), tasks.echo.job(n)], then=tasks.echo.job(n)) for n in range(20)]
        for count in (5, 10):
            worker = harness.process()
            eventually(partial(succeeded, queue, count), 20)
            worker.kill()
        harness.process()
        for batch in batches:
            (then,) = followed(batch, 1, 30)
            assert then.attempts - then.crashes == 1
        assert queue.stats().totals.succeeded == 60


def succeeded(queue: JobQueue, count: int) -> bool:
    """True if at least this number of jobs has succeeded."""
    return queue.stats().totals.succeeded >= count


def followed(batch: Batch, count: int, timeout: float = 10.0) -> list[JobStatus]:
    """Wait until this number of jobs that follow the batch has succeeded. Returns these jobs."""

    def done() -> list[JobStatus]:
        return [status for status in batch.follow_ups() if status.state is JobState.SUCCEEDED]

    eventually(lambda: len(done()) == count, timeout, batch.follow_ups)
    return done()

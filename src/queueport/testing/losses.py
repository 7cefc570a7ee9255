"""X: what is restarted, away, lost or delivered twice. For the contract suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from queueport import Capability, JobHandle, JobQueue, JobState, Retry
from queueport.errors import JobFailed, JobNotFound
from queueport.testing.case import Case, disrupts, needs
from queueport.testing.harness import Harness
from queueport.testing.stopping import budgets
from queueport.testing.tasks import QUEUE, echo, fail, spin, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["Losses"]


class Losses(Case):
    """The lines X3, X4, X5, X7 and X8."""

    # -- X3 ----------------------------------------------------------------------------------------

    def test_X3_a_message_that_comes_again_after_the_end_is_not_run(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        with harness.working(queue):
            ended = queue.enqueue(echo, "once")
            discarded = queue.enqueue(fail.using(retry=Retry(max_attempts=1)).job())
            ended.result(10)
            with pytest.raises(JobFailed):
                discarded.result(10)
            queue.dead_letters.discard(discarded.id)
            for handle in (ended, discarded):
                harness.redeliver(handle.id)
                self.nothing_waits(queue)
        assert (trace.times(ended.id), trace.times(discarded.id)) == (1, 1)
        assert (ended.status().state, discarded.status().state) == (JobState.SUCCEEDED, JobState.CANCELLED)

    def test_X3_a_message_of_a_job_that_retention_removed_is_not_run(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        short = harness.open(keep_succeeded=0.1)
        with harness.working(short):
            handle = short.enqueue(echo, "once")
            eventually(lambda: removed(handle))
            harness.redeliver(handle.id)
            self.nothing_waits(queue)
        assert trace.times(handle.id) == 1
        assert removed(handle)

    def test_X3_of_two_deliveries_at_once_one_runs(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with two_workers(harness, queue):
            handle = queue.enqueue(wait_for, "go")
            eventually(lambda: trace.times(handle.id) == 1)
            for _ in range(3):
                harness.redeliver(handle.id)
                self.nothing_waits(queue)
            trace.open("go")
            assert handle.result(10) == "go"
        assert trace.times(handle.id) == 1
        assert budgets(handle.status()) == (1, 0, 0)

    def nothing_waits(self, queue: JobQueue) -> None:
        """Whatever was delivered has been seen: a job enqueued after it has run, and the queue is empty."""
        assert queue.enqueue(echo, "after").result(10) == "after"
        if Capability.DEPTH in queue.capabilities:
            eventually(lambda: queue.stats().queues[QUEUE].depth == 0)

    # -- X4, X5 ------------------------------------------------------------------------------------

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("what", ["backend", "store"])
    @disrupts
    def test_X4_X5_restarted_in_mid_work_every_accepted_job_ends(
        self, harness: Harness, queue: JobQueue, trace: Trace, what: str
    ) -> None:
        handles = queue.enqueue_many(spin.job(0.05) for _ in range(100))
        with two_workers(harness, queue):
            eventually(lambda: len(trace.runs()) > 10)
            harness.restart_backend() if what == "backend" else harness.restart_store()
            assert [handle.result(20) for handle in handles] == [0.05] * 100
            assert queue.enqueue(echo, "reconnected").result(10) == "reconnected"
        assert {handle.status().crashes for handle in handles} == {0}

    @disrupts
    def test_X5_a_store_away_for_longer_than_a_lease_makes_no_crash(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        lease = harness.settings["lease"]
        with two_workers(harness, queue):
            handles = [queue.enqueue(spin, seconds) for seconds in (0.5, 0.5, 3.0 * lease)]
            eventually(lambda: len(trace.runs()) == 3)
            with harness.store_down():
                time.sleep(1.5 * lease)
            for handle in handles:
                handle.result(20)
            assert queue.enqueue(echo, "reconnected").result(10) == "reconnected"
        assert {budgets(handle.status()) for handle in handles} == {(1, 0, 0)}
        assert len(trace.runs()) == 4
        assert (queue.stats().processed, queue.stats().failed) == (4, 0)

    # -- X7, X8 ------------------------------------------------------------------------------------

    def test_X7_jobs_whose_messages_were_lost_still_end(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        handles = queue.enqueue_many(echo.job(number) for number in range(20))
        harness.wipe(QUEUE)
        with harness.working(queue):
            assert [handle.result(20) for handle in handles] == list(range(20))
        assert len(trace.runs()) == 20

    def test_X8_a_message_lost_from_a_queue_that_never_runs_empty(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        lost = queue.enqueue(echo, "found")
        harness.wipe(QUEUE)
        with ExitStack() as stack:
            if Capability.PERSISTENT in queue.capabilities:
                harness.process(options=["--threads=2", "--processes=2"])
            else:
                stack.enter_context(harness.working(queue, threads=2))
            deadline = time.monotonic() + 3 * harness.settings["lost_after"] + 1.0 + harness.late
            while not lost.status().finished:
                assert time.monotonic() < deadline
                if queue.stats().totals.queued < 20:
                    queue.enqueue_many(spin.job(0.02) for _ in range(20))
        assert lost.result(0) == "found"
        assert trace.times(lost.id) == 1


@contextmanager
def two_workers(harness: Harness, queue: JobQueue) -> Iterator[None]:
    """Two processes, or, where the backend does not outlive one, two workers beside the test."""
    with ExitStack() as stack:
        for _ in range(2):
            if Capability.PERSISTENT in queue.capabilities:
                harness.process()
            else:
                stack.enter_context(harness.working(queue))
        yield


def removed(handle: JobHandle[object]) -> bool:
    """Whether the job has no record any more."""
    try:
        handle.status()
    except JobNotFound:
        return True
    return False

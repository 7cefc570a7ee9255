"""E7 and E8: what a job's key and a job's id keep apart. For the contract suite."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from queueport import JobQueue, Retry
from queueport.errors import DuplicateJob, InvalidJob, InvalidState, JobFailed
from queueport.status import JobState
from queueport.testing import tasks
from queueport.testing.case import Case
from queueport.testing.harness import Harness
from queueport.testing.refusing import silent
from queueport.testing.trace import Trace
from queueport.testing.waiting import at_once, eventually

__all__ = ["Keys"]


class Keys(Case):
    """The lines of group E that tell jobs apart."""

    # -- E7: keys ----------------------------------------------------------------------------------

    def test_E7_one_job_of_a_key_is_alive(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        keyed = tasks.wait_for.using(key="invoice 7")
        first = queue.enqueue(keyed.using(delay=3600), "first")
        assert queue.enqueue(keyed, "second") == first, "while it is scheduled"
        first.retry()
        assert queue.enqueue(keyed, "second") == first, "while it is queued"
        assert queue.enqueue_many([keyed.job("third"), keyed.job("fourth")]) == [first, first]
        assert first.status().args == ["first"]
        assert first.status().key == "invoice 7"
        other = queue.enqueue(tasks.echo.using(key="invoice 7"), 1)
        assert other != first, "a key is its task's"
        with harness.working(queue):
            eventually(lambda: first.status().state is JobState.RUNNING)
            assert queue.enqueue(keyed, "second") == first, "while it runs"
            trace.open("first")
            first.result(10)
            trace.open("second")
            second = queue.enqueue(keyed, "second")
            assert second != first, "after it ended"
            assert second.result(10) == "second"
            assert other.result(10) == 1
        assert [run.job for run in trace.runs(first.id, second.id)] == [first.id, second.id]

    def test_E7_a_retrying_job_holds_its_key_and_a_dead_or_cancelled_one_does_not(
        self, queue: JobQueue, harness: Harness
    ) -> None:
        keyed = tasks.fail.using(key="k", retry=Retry(max_attempts=2, initial=3600.0))
        with harness.working(queue):
            first = queue.enqueue(keyed)
            eventually(lambda: first.status().state is JobState.RETRYING)
            assert queue.enqueue(keyed) == first
            first.retry()
            with pytest.raises(JobFailed):
                first.result(10)
        second = queue.enqueue(keyed)
        assert second != first
        second.cancel()
        assert queue.enqueue(keyed).id not in (first.id, second.id)

    def test_E7_many_threads_at_once_make_one_job_of_a_key(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        for key in ("a", "b", "c"):
            handles = at_once(partial(queue.enqueue, tasks.echo.using(key=key)))
            assert len({handle.id for handle in handles}) == 1
        with harness.working(queue):
            eventually(lambda: queue.stats().totals.succeeded == 3)
            assert queue.stats().totals.queued == 0
        assert len(trace.runs()) == 3

    def test_E7_a_dead_job_whose_key_is_taken_cannot_be_retried(self, queue: JobQueue, harness: Harness) -> None:
        keyed = tasks.fail.using(key="k", retry=Retry(max_attempts=1))
        dead = queue.enqueue(keyed)
        with harness.working(queue), pytest.raises(JobFailed):
            dead.result(10)
        holder = queue.enqueue(keyed)
        with pytest.raises(DuplicateJob, match=holder.id):
            dead.retry()
        assert dead.status().state is JobState.DEAD
        assert queue.dead_letters.count() == 1
        holder.cancel()
        dead.retry()
        assert dead.status().state is JobState.QUEUED
        with pytest.raises(InvalidState):
            dead.retry()

    # -- E8: ids -----------------------------------------------------------------------------------

    def test_E8_a_given_id_is_kept_and_taken_once(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        ids = ["a", "0-_Az", "x" * 64]
        for job_id in ids:
            assert queue.enqueue(tasks.echo.using(job_id=job_id), job_id).id == job_id
            with pytest.raises(DuplicateJob, match=job_id):
                queue.enqueue(tasks.add.using(job_id=job_id, queue="other"), 1)
        with harness.working(queue, tasks.QUEUE, "other"):
            assert [queue.result(job_id, 10) for job_id in ids] == ids
            with pytest.raises(DuplicateJob):  # it has ended
                queue.enqueue(tasks.echo.using(job_id="a"), "again")
            assert queue.status("a").result == "a"
        assert [trace.times(job_id) for job_id in ids] == [1, 1, 1]

    def test_E8_an_id_that_is_taken_leaves_the_rest_of_its_batch_alone(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        queue.enqueue(tasks.echo.using(job_id="taken"), "first")
        with pytest.raises(DuplicateJob, match="taken") as caught:
            queue.enqueue_many(tasks.echo.using(job_id=job_id).job(job_id) for job_id in ("before", "taken", "after"))
        assert (caught.value.accepted, caught.value.rejected) == (("before", "after"), ("taken",))
        with harness.working(queue):
            names = ("before", "taken", "after")
            assert [queue.result(job_id, 10) for job_id in names] == ["before", "first", "after"]
        assert len(trace.runs()) == 3

    def test_E8_an_id_given_twice_in_one_batch_sends_nothing(self, queue: JobQueue) -> None:
        with pytest.raises(DuplicateJob, match="twice") as caught:
            queue.enqueue_many(tasks.echo.using(job_id=job_id).job(1) for job_id in ("twice", "other", "twice"))
        assert (caught.value.accepted, caught.value.rejected) == ((), ("twice", "other", "twice"))
        assert queue.jobs() == []

    def test_E8_many_threads_at_once_make_one_job_of_an_id(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        def enqueue(number: int) -> bool:
            try:
                queue.enqueue(tasks.echo.using(job_id="one"), number)
            except DuplicateJob:
                return False
            return True

        assert sum(at_once(enqueue)) == 1
        with harness.working(queue):
            queue.result("one", 10)
        assert trace.times("one") == 1

    @pytest.mark.parametrize("bad", ["", "a b", "a.b", "a/b", "a:b", "é", "a\n", "\0", "x" * 65, 7])
    def test_E8_other_ids_are_refused(self, queue: JobQueue, bad: Any) -> None:
        with silent(queue), pytest.raises(InvalidJob, match="job_id"):
            queue.enqueue(tasks.echo.using(job_id=bad), 1)

"""W: what a worker takes, how many jobs at once, in what surroundings. For the contract suite."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from queueport import Capability, JobQueue, JobState, Retry
from queueport.errors import JobFailed
from queueport.testing.case import Case, needs
from queueport.testing.hard_tasks import remember, remember_async, wrapped
from queueport.testing.harness import Harness
from queueport.testing.tasks import QUEUE, asleep, echo, pass_on, spin
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["Workers"]


class Workers(Case):
    """The lines W1, W2, W3, W5, W7 and W8."""

    def test_W1_it_takes_jobs_of_its_queues_only(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        other = queue.enqueue(echo.using(queue="other").job(0))
        mine = [queue.enqueue(echo.using(queue=name).job(n)) for n, name in enumerate(["mine", "too", "mine"])]
        with harness.working(queue, "mine", "too"):
            assert [handle.result(10) for handle in mine] == [0, 1, 2]
            late = queue.enqueue(echo.using(queue="mine").job(3))
            assert late.result(10) == 3
        assert other.status().state is JobState.QUEUED
        assert trace.times(other.id) == 0

    @pytest.mark.parametrize("threads", [1, 4])
    def test_W2_as_many_at_once_as_asked_for(
        self, harness: Harness, queue: JobQueue, trace: Trace, threads: int
    ) -> None:
        with harness.working(queue, threads=threads):
            queue.enqueue(echo, 0).result(10)
            handles = [queue.enqueue(spin, 1.0 if threads > 1 else 0.2) for _ in range(4)]
            for handle in handles:
                handle.result(10)
        assert peak(trace, *(handle.id for handle in handles)) == threads
        if threads == 4:
            runs = trace.runs(*(handle.id for handle in handles))
            assert max(run.ended or 0.0 for run in runs) - runs[0].started < 2.0

    def test_W3_three_workers_run_each_of_300_jobs_once(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with ExitStack() as stack:
            if Capability.PERSISTENT in queue.capabilities:
                workers = [harness.process(options=["--threads=4"]) for _ in range(3)]
            else:
                workers = []
                for _ in range(3):
                    stack.enter_context(harness.working(queue, threads=4))
            handles = queue.enqueue_many(spin.job(0.02) for _ in range(300))
            for handle in handles:
                handle.result(30)
        runs = trace.runs()
        assert sorted(run.job for run in runs) == sorted(handle.id for handle in handles)
        assert len({run.pid for run in runs}) >= len(workers), "not every worker took part"
        assert queue.stats().processed == 300

    def test_W5_a_burst_ends_when_nothing_is_due(self, harness: Harness, queue: JobQueue) -> None:
        handles = [*(queue.enqueue(echo, n) for n in range(20)), queue.enqueue(spin, 0.5), queue.enqueue(asleep, 0.5)]
        parent = queue.enqueue(pass_on, 7)
        tomorrow = queue.enqueue(echo.using(delay=86_400).job(1))
        if Capability.PERSISTENT in queue.capabilities:
            assert harness.process(options=["--burst"]).wait() == 0
        else:
            queue.worker(QUEUE, burst=True).run()
        assert {handle.status().state for handle in handles} == {JobState.SUCCEEDED}
        assert queue.status(parent.result(0)).state is JobState.SUCCEEDED, "a job that a job enqueued is due, too"
        assert tomorrow.status().state is JobState.SCHEDULED

    @needs(Capability.PERSISTENT)
    def test_W5_a_burst_of_two_processes(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        handles = queue.enqueue_many(spin.job(0.02) for _ in range(50))
        assert harness.process(options=["--burst", "--processes=2"]).wait() == 0
        assert {handle.status().state for handle in handles} == {JobState.SUCCEEDED}
        assert len(trace.runs()) == 50

    def test_W7_coroutines_run_many_at_once(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with harness.working(queue, threads=2):
            queue.enqueue(asleep, 0.0).result(10)
            handles = queue.enqueue_many(asleep.job(1.0) for _ in range(40))
            assert queue.enqueue(echo, "beside them").result(10) == "beside them"
            assert {handle.result(20) for handle in handles} == {1.0}
        assert peak(trace, *(handle.id for handle in handles)) > 10

    def test_W8_context_does_not_leak_from_job_to_job(self, harness: Harness, queue: JobQueue) -> None:
        with harness.working(queue, threads=1):
            for task in (remember, remember_async):
                assert [queue.enqueue(task, word).result(10) for word in ("a", "b", "c")] == [None, None, None]

    def test_W8_around_job_wraps_each_in_its_own_thread(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with harness.working(queue):
            good = queue.enqueue(wrapped, False)
            good.result(10)
            bad = queue.enqueue(wrapped.using(retry=Retry(max_attempts=1)).job(True))
            with pytest.raises(JobFailed, match="from within"):
                bad.result(10)
            eventually(lambda: trace.notes("outer ends", job=bad.id))
        assert order(trace, good.id) == ["outer", "inner", "inside", "inner ends", "outer ends"]
        assert order(trace, bad.id) == ["outer", "inner", "inside", "outer saw", "outer ends"]
        threads = {note["thread"] for name in ("outer", "inner", "inside") for note in trace.notes(name, job=good.id)}
        assert len(threads) == 1


def peak(trace: Trace, *job_ids: str) -> int:
    """How many of these jobs ran at once, at most."""
    runs = trace.runs(*job_ids)
    return max(sum(one.started <= run.started < (one.ended or run.started) for one in runs) for run in runs)


def order(trace: Trace, job_id: str) -> list[str]:
    """What happened around one job, in its order."""
    names = ("outer", "inner", "inside", "inner ends", "outer saw", "outer ends")
    notes = [note for name in names for note in trace.notes(name, job=job_id)]
    return [note["note"] for note in sorted(notes, key=lambda note: note["at"])]

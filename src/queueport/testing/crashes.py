"""X: workers that are killed or stopped in mid-job. For the contract suite."""

from __future__ import annotations

import fcntl
import os
import signal

import pytest

from queueport import Capability, JobHandle, JobQueue, JobState
from queueport.errors import JobFailed
from queueport.testing.case import Case, needs
from queueport.testing.hard_tasks import overtaken
from queueport.testing.harness import Harness
from queueport.testing.losses import two_workers
from queueport.testing.process import WorkerProcess
from queueport.testing.stopping import budgets
from queueport.testing.tasks import die, echo, spin, wait_for
from queueport.testing.trace import Run, Trace
from queueport.testing.waiting import eventually

__all__ = ["Crashes"]


class Crashes(Case):
    """The lines X1, X2 and X9."""

    # -- X1 ----------------------------------------------------------------------------------------

    @needs(Capability.PERSISTENT)
    def test_X1_another_worker_runs_the_job_of_a_killed_one(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        workers = [harness.process(), harness.process()]
        handle = queue.enqueue(wait_for, "go")
        holder(workers, running(trace, handle)).kill()
        self.runs_again(harness, queue, trace, handle)

    @needs(Capability.PERSISTENT)
    def test_X1_one_process_of_two_is_killed_and_replaced(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        worker = harness.process(options=["--processes=2", "--threads=1"])
        eventually(lambda: len(queue.stats().workers) == 2)
        before = {one.name for one in queue.stats().workers}
        handle = queue.enqueue(wait_for, "go")
        os.kill(running(trace, handle).pid, signal.SIGKILL)
        self.runs_again(harness, queue, trace, handle)
        eventually(lambda: len({one.name for one in queue.stats().workers} - before) == 1, 15)
        assert worker.stop() == 0

    @needs(Capability.PERSISTENT)
    def test_X1_processes_die_with_their_parent(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        worker = harness.process(options=["--processes=2"])
        handle = queue.enqueue(wait_for, "go")
        running(trace, handle)
        os.kill(worker.pid, signal.SIGKILL)
        eventually(lambda: let_go(trace, handle), 1.0)
        harness.process()
        self.runs_again(harness, queue, trace, handle)

    def test_X1_a_job_longer_than_its_lease_is_left_to_the_worker_whose_heart_beats(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        with two_workers(harness, queue):
            handle = queue.enqueue(spin, 2.5 * harness.settings["lease"])
            handle.result(20)
        assert budgets(handle.status()) == (1, 0, 0)
        assert trace.times(handle.id) == 1

    def runs_again(self, harness: Harness, queue: JobQueue, trace: Trace, handle: JobHandle[str]) -> None:
        """The job, whose worker was killed just now, is run once more in time, and counted right."""
        lease = harness.settings["lease"]
        eventually(lambda: trace.times(handle.id) == 2, lease + 5.0)
        trace.open("go")
        assert handle.result(10) == "go"
        assert budgets(handle.status()) == (2, 0, 1)
        assert [error.type for error in handle.status().errors] == ["queueport.errors.WorkerLost"]
        assert (queue.stats().processed, queue.stats().failed) == (1, 1)

    # -- X2 ----------------------------------------------------------------------------------------

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("limit", [None, 1], ids=["third", "first"])
    def test_X2_a_job_that_kills_its_workers_is_dead_and_others_go_on(
        self, harness: Harness, queue: JobQueue, trace: Trace, limit: int | None
    ) -> None:
        deaths = 3 if limit is None else limit
        deadly = queue.enqueue(die.using(crash_limit=limit).job())
        workers = [harness.process(options=["--threads=2"]) for _ in range(deaths + 1)]
        others = [queue.enqueue(echo, n) for n in range(10)]
        with pytest.raises(JobFailed, match="WorkerLost"):
            deadly.result(deaths * (harness.settings["lease"] + 5.0))
        assert [handle.result(15) for handle in others] == list(range(10))
        assert budgets(deadly.status()) == (deaths, 0, deaths)
        assert trace.times(deadly.id) == deaths
        assert sum(worker.running for worker in workers) == 1
        assert queue.dead_letters.get(deadly.id).state is JobState.DEAD

    # -- X9 ----------------------------------------------------------------------------------------

    @needs(Capability.PERSISTENT)
    def test_X9_a_worker_stopped_beyond_its_lease_is_interrupted_when_it_goes_on(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        handle, stale = self.overtake(harness, queue, trace)
        stale.resume()
        eventually(lambda: trace.notes("interrupted", job=handle.id, attempt=1))
        trace.open("attempt-2")
        assert handle.result(10) == 2
        self.counts_are_right(queue, trace, handle, completed=[2])
        assert stale.stop() == 0

    @needs(Capability.PERSISTENT)
    def test_X9_what_a_stopped_worker_says_when_it_goes_on_is_not_heard(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        handle, stale = self.overtake(harness, queue, trace)
        trace.open("attempt-1")
        stale.resume()
        assert stale.stop() == 0, "it goes on and ends: whatever it had to say is said"
        assert handle.status().state is JobState.RUNNING
        trace.open("attempt-2")
        assert handle.result(10) == 2
        self.counts_are_right(queue, trace, handle, completed=[1, 2] if trace.notes("completed", attempt=1) else [2])

    @needs(Capability.PERSISTENT)
    def test_X9_a_late_word_does_not_change_what_has_ended(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        handle, stale = self.overtake(harness, queue, trace)
        trace.open("attempt-2")
        assert handle.result(10) == 2
        trace.open("attempt-1")
        stale.resume()
        assert stale.stop() == 0
        assert handle.result(0) == 2
        self.counts_are_right(queue, trace, handle, completed=[2, 1] if trace.notes("completed", attempt=1) else [2])

    def overtake(self, harness: Harness, queue: JobQueue, trace: Trace) -> tuple[JobHandle[int], WorkerProcess]:
        """A job that another worker runs by now, and its first worker, still stopped."""
        stale = harness.process()
        handle = queue.enqueue(overtaken)
        eventually(lambda: trace.notes("waits", job=handle.id, attempt=1))
        stale.pause()
        harness.process()
        eventually(lambda: trace.notes("waits", job=handle.id, attempt=2), harness.settings["lease"] + 5.0)
        return handle, stale

    def counts_are_right(self, queue: JobQueue, trace: Trace, handle: JobHandle[int], completed: list[int]) -> None:
        """One crash, one end."""
        assert [note["attempt"] for note in trace.notes("completed", job=handle.id)] == completed
        assert budgets(handle.status()) == (2, 0, 1)
        stats = queue.stats()
        assert (stats.processed, stats.failed) == (1, 1)
        assert (stats.totals.succeeded, stats.totals.running, stats.totals.total) == (1, 0, 1)


def running(trace: Trace, handle: JobHandle[str]) -> Run:
    """The job's first execution, once it runs."""
    return eventually(lambda: trace.runs(handle.id))[0]


def holder(workers: list[WorkerProcess], run: Run) -> WorkerProcess:
    """The worker that runs it: the process itself, or the parent of the one that does."""
    return next(worker for worker in workers if os.getpgid(run.pid) == worker.pid)


def let_go(trace: Trace, handle: JobHandle[str]) -> bool:
    """Whether nobody runs that job: the lock that its task holds ends with its process."""
    with (trace.folder / f"{handle.id}.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

"""Group X, "Crash": killed and stopped workers, restarted servers, lost and repeated messages. For adapter authors.

`lines` describes each contract line. The workers and producers that are killed are real processes: they get SIGKILL.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from queueport import Capability, JobHandle, JobQueue, JobState, Retry
from queueport.errors import JobFailed, JobNotFound
from queueport.testing.contract import faults
from queueport.testing.contract.case import Case, budgets, disrupts, needs
from queueport.testing.contract.faults import FAULT, Fault
from queueport.testing.hard_tasks import overtaken
from queueport.testing.harness import Harness
from queueport.testing.process import WorkerProcess
from queueport.testing.tasks import QUEUE, add, asleep, die, echo, fail, spin, wait_for
from queueport.testing.trace import Run, Trace
from queueport.testing.waiting import eventually

__all__ = ["CrashTests", "LossTests", "StaleWorkerTests", "StepTests", "WorkerLossTests"]

TWICE = Retry(max_attempts=2, initial=0.2)


class WorkerLossTests(Case):
    """Lines X1, X2 and X10: workers that are killed while they run a job, and a job longer than its lease."""

    @needs(Capability.PERSISTENT)
    def test_X1_another_worker_runs_the_job_of_a_killed_worker(
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
        eventually(lambda: stopped(trace, handle), 1.0)
        harness.process()
        self.runs_again(harness, queue, trace, handle)

    def test_X1_a_job_longer_than_its_lease_stays_with_a_worker_that_sends_heartbeats(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        with two_workers(harness, queue):
            handle = queue.enqueue(spin, 2.5 * harness.settings["lease"])
            handle.result(20)
        assert budgets(handle.status()) == (1, 0, 0)
        assert trace.times(handle.id) == 1

    def runs_again(self, harness: Harness, queue: JobQueue, trace: Trace, handle: JobHandle[str]) -> None:
        """Assert that a job whose worker was killed runs again soon after its lease has lapsed.

        The job must then succeed, with exactly one crash counted. No other job may have run.
        """
        lease = harness.settings["lease"]
        eventually(lambda: trace.times(handle.id) == 2, lease + 5.0)
        trace.open("go")
        assert handle.result(10) == "go"
        assert budgets(handle.status()) == (2, 0, 1)
        assert [error.type for error in handle.status().errors] == ["queueport.errors.WorkerLost"]
        assert (queue.stats().processed, queue.stats().failed) == (1, 1)

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

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("native", [False, True], ids=["worker", "native"])
    def test_X10_a_job_that_kills_its_workers_makes_no_other_job_dead(
        self, harness: Harness, queue: JobQueue, native: bool
    ) -> None:
        if native and harness.native_command([QUEUE]) is None:
            return
        deadly = queue.enqueue(die)
        plain, coroutines = [spin.job(0.2) for _ in range(40)], [asleep.job(0.2) for _ in range(10)]
        others = queue.enqueue_many([*plain[:20], *coroutines, *plain[20:]])
        workers: list[WorkerProcess] = []

        def ended() -> bool:
            if not any(worker.running for worker in workers):
                workers.append(harness.process(options=["--threads=4"], native=native))
            return deadly.status().finished and all(handle.status().finished for handle in others)

        eventually(ended, 60)
        assert [handle.result(0) for handle in others] == [0.2] * 50
        assert deadly.status().state is JobState.DEAD
        assert (deadly.status().failures, deadly.status().crashes) == (0, 3)
        crashes = [handle.status().crashes for handle in others]
        assert max(crashes) <= 1, "a job was run again beside the one that kills"
        assert queue.stats().failed == 3 + sum(crashes)


def running(trace: Trace, handle: JobHandle[str]) -> Run:
    """Wait until an attempt of the job has started, and return the first run of the job."""
    return eventually(lambda: trace.runs(handle.id))[0]


def holder(workers: list[WorkerProcess], run: Run) -> WorkerProcess:
    """The worker of this run: the run is in the worker's own process or in one of its child processes."""
    return next(worker for worker in workers if os.getpgid(run.pid) == worker.pid)


def stopped(trace: Trace, handle: JobHandle[str]) -> bool:
    """True if no process runs this started job: the lock that `traced` holds during a run is free."""
    with (trace.folder / f"{handle.id}.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class LossTests(Case):
    """Lines X3, X4, X5, X7 and X8: repeated and lost messages, restarted and unreachable servers."""

    def test_X3_a_message_delivered_again_after_the_job_ended_is_ignored(
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
                self.no_message_waits(queue, trace)
        assert (trace.times(ended.id), trace.times(discarded.id)) == (1, 1)
        assert (ended.status().state, discarded.status().state) == (JobState.SUCCEEDED, JobState.CANCELLED)

    def test_X3_a_message_of_a_job_removed_by_retention_is_ignored(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        short = harness.open(keep_succeeded=0.1)
        with harness.working(short):
            handle = short.enqueue(echo, "once")
            eventually(lambda: removed(handle))
            harness.redeliver(handle.id)
            self.no_message_waits(queue, trace)
        assert trace.times(handle.id) == 1
        assert removed(handle)

    def test_X3_of_several_deliveries_one_runs(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with two_workers(harness, queue):
            handle = queue.enqueue(wait_for, "go")
            eventually(lambda: trace.times(handle.id) == 1)
            try:
                for _ in range(3):
                    harness.redeliver(handle.id)
                    self.no_message_waits(queue, trace)
            finally:  # without `redeliver`, the harness skips the test here, but the job must still end
                trace.open("go")
            assert handle.result(10) == "go"
        assert trace.times(handle.id) == 1
        assert budgets(handle.status()) == (1, 0, 0)

    def no_message_waits(self, queue: JobQueue, trace: Trace) -> None:
        """Wait until all messages were received, as far as the backend shows it.

        Enqueues a job and waits until it runs; its record may be removed at once. If the backend declares DEPTH, also
        waits until the depth is 0.
        """
        after = queue.enqueue(echo, "after")
        eventually(lambda: trace.times(after.id) == 1)
        if Capability.DEPTH in queue.capabilities:
            eventually(lambda: queue.stats().queues[QUEUE].depth == 0)

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("what", ["backend", "store"])
    @disrupts
    def test_X4_X5_after_a_restart_every_accepted_job_ends(
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
    def test_X5_a_store_down_for_longer_than_a_lease_causes_no_crash(
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

    @needs(Capability.THREADS)
    @disrupts
    def test_X5_a_worker_that_starts_while_the_store_is_down_held_by_it(
        self, harness: Harness, queue: JobQueue, caplog: pytest.LogCaptureFixture
    ) -> None:
        handle = queue.enqueue(echo, 1)
        with ExitStack() as stack:
            with harness.store_down():
                stack.enter_context(harness.working(queue))
                eventually(lambda: "waits at its start" in caplog.text, 20)
            assert handle.result(20) == 1

    def test_X7_jobs_whose_messages_were_lost_end(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        handles = queue.enqueue_many(echo.job(number) for number in range(20))
        harness.wipe(QUEUE)
        with harness.working(queue):
            assert [handle.result(20) for handle in handles] == list(range(20))
        assert len(trace.runs()) == 20

    def test_X8_a_lost_message_is_noticed_in_a_queue_that_is_never_empty(
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
    """A context manager. Inside it, two workers run: if the backend declares PERSISTENT, each is a process.

    These processes run until the end of the test. Other workers stop at the end of the `with` block.
    """
    with ExitStack() as stack:
        for _ in range(2):
            if Capability.PERSISTENT in queue.capabilities:
                harness.process()
            else:
                stack.enter_context(harness.working(queue))
        yield


def removed(handle: JobHandle[object]) -> bool:
    """True if the record of the job was removed."""
    try:
        handle.status()
    except JobNotFound:
        return True
    return False


class StepTests(Case):
    """Lines X6 and X11: producers and workers that are killed before or after one of their steps."""

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_X6_a_worker_killed_at_each_step(self, harness: Harness, queue: JobQueue, trace: Trace, when: str) -> None:
        killed_at = {f"step-{number}": fault for number, fault in enumerate(faults.worker_faults(queue, when))}
        workers = {name: faulty_worker(harness, name, fault) for name, fault in killed_at.items()}
        good: list[JobHandle[Any]] = []
        bad: list[JobHandle[None]] = []

        def all_killed() -> bool:
            counts = queue.stats().queues
            for name in [name for name, worker in workers.items() if worker.running]:
                # when all jobs in the queue of a worker have ended, enqueue new jobs, until the worker is killed
                if counts[name].total == counts[name].succeeded + counts[name].dead:
                    jobs = [task.using(queue=name).job(0.8) for task in (spin, asleep)]
                    good.extend(queue.enqueue_many([*jobs, spin.using(queue=name, delay=0.3).job(0.0)]))
                    bad.append(queue.enqueue(fail.using(queue=name, retry=TWICE).job()))
            return all(not worker.running for worker in workers.values())

        eventually(all_killed, 30, lambda: [str(killed_at[name]) for name, worker in workers.items() if worker.running])
        assert {worker.wait() for worker in workers.values()} == {-signal.SIGKILL}
        # About twenty jobs have crashed once. Such a job runs alone in its process, so two processes save time.
        harness.process(*workers, options=["--processes=2"])
        for handle in good:
            handle.result(30)
        eventually(lambda: all(handle.status().state is JobState.DEAD for handle in bad), 30)
        statuses = [handle.status() for handle in (*good, *bad)]
        assert max(status.crashes for status in statuses) <= 1, "a job counts more crashes than workers were killed"
        assert {status.failures for status in statuses} == {0, 2}
        assert queue.stats().processed == len(statuses)
        assert queue.stats().failed == sum(status.failures + status.crashes for status in statuses)

    @needs(Capability.PERSISTENT)
    def test_X11_jobs_whose_messages_a_killed_worker_had_fetched_run_within_a_lease(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        late = {"QUEUEPORT_LOST_AFTER": "60.0"}  # otherwise, the jobs might run because of the search for lost messages
        step = Fault("before", "store.begin" if queue.driver.carries else "store.take")
        killed = faulty_worker(harness, QUEUE, step, **late)
        harness.process(options=["--threads=1"], native=False, **late)
        handles = queue.enqueue_many(spin.job(0.05) for _ in range(20))
        assert killed.wait() == -signal.SIGKILL
        lease = harness.settings["lease"]
        eventually(lambda: all(handle.status().finished for handle in handles), lease + 4.0 + harness.late)
        assert len(trace.runs()) == 20
        assert {budgets(handle.status()) for handle in handles} == {(1, 0, 0)}

    @needs(Capability.PERSISTENT)
    def test_X6_a_producer_killed_at_each_step(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        killed_at = {f"step-{number}": fault for number, fault in enumerate(faults.producer_faults(queue))}
        words = ("enqueue", add.name, "1")
        for name, fault in killed_at.items():  # start one producer after the other, to limit the load
            producer = harness.start(command(harness, *words, f"--id={name}"), ready=False, **{FAULT: str(fault)})
            assert producer.wait() == -signal.SIGKILL
        harness.process()
        for name, fault in killed_at.items():
            if fault == Fault("before", "store.insert"):
                with pytest.raises(JobNotFound):
                    queue.status(name)
            else:
                assert queue.result(name, 15) == 2
                assert trace.times(name) == 1


def faulty_worker(harness: Harness, queue: str, fault: Fault, **environment: str) -> WorkerProcess:
    """Start a worker of a queue, and wait until the stats list the worker or the fault has killed it.

    The wait limits the load: many workers that start at the same time would slow down the tests that run in parallel.
    """
    words = harness.worker_command(f"--queue={queue}", "--threads=4")
    words = command(harness, *words[words.index("worker") :])
    return harness.start(words, ready=True, **{FAULT: str(fault)}, **environment)


def command(harness: Harness, *words: str) -> list[str]:
    """The command line that runs a `queueport` command through `faults`, which kills the process at the step that the
    variable QUEUEPORT_CONTRACT_FAULT names.
    """
    worker = list(harness.worker_command())
    interpreter = worker[: worker.index("worker")]
    return [faults.__name__ if word == "queueport" else word for word in interpreter] + list(words)


class StaleWorkerTests(Case):
    """Line X9: workers that are stopped with SIGSTOP for longer than a lease, and then continued."""

    @needs(Capability.PERSISTENT)
    def test_X9_a_worker_resumed_after_its_lease_interrupts_its_job(
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
    def test_X9_writes_of_a_resumed_worker_are_rejected_while_another_runs_the_job(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        handle, stale = self.overtake(harness, queue, trace)
        trace.open("attempt-1")
        stale.resume()
        assert stale.stop() == 0, "the stopped worker did not continue and end"
        assert handle.status().state is JobState.RUNNING
        trace.open("attempt-2")
        assert handle.result(10) == 2
        self.counts_are_right(queue, trace, handle, completed=[1, 2] if trace.notes("completed", attempt=1) else [2])

    @needs(Capability.PERSISTENT)
    def test_X9_writes_of_a_resumed_worker_do_not_change_an_ended_job(
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
        """Let a second worker take over the job of a stopped worker. Return the job and the stopped worker."""
        stale = harness.process()
        handle = queue.enqueue(overtaken)
        eventually(lambda: trace.notes("waits", job=handle.id, attempt=1))
        stale.pause()
        harness.process()
        eventually(lambda: trace.notes("waits", job=handle.id, attempt=2), harness.settings["lease"] + 5.0)
        return handle, stale

    def counts_are_right(self, queue: JobQueue, trace: Trace, handle: JobHandle[int], completed: list[int]) -> None:
        """Assert that one crash and one success are counted, and that `completed` lists the attempts that completed."""
        assert [note["attempt"] for note in trace.notes("completed", job=handle.id)] == completed
        assert budgets(handle.status()) == (2, 0, 1)
        stats = queue.stats()
        assert (stats.processed, stats.failed) == (1, 1)
        assert (stats.totals.succeeded, stats.totals.running, stats.totals.total) == (1, 0, 1)


class CrashTests(WorkerLossTests, LossTests, StepTests, StaleWorkerTests):
    """All lines of group X."""

"""Group W, "Worker": what a worker takes, how it runs jobs and how it ends. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from queueport import CancelOutcome, Capability, JobHandle, JobQueue, JobState, Retry, Task
from queueport.errors import JobFailed
from queueport.testing.contract.case import Case, budgets, needs
from queueport.testing.hard_tasks import (
    asleep_once,
    block_once,
    remember,
    remember_async,
    sleep_once,
    spin_once,
    start_processes,
    wait_for_program,
    wrapped,
)
from queueport.testing.harness import Harness
from queueport.testing.process import WorkerProcess
from queueport.testing.rude_tasks import RUDE, fail_rudely, fail_rudely_async, observe, return_rudely
from queueport.testing.tasks import QUEUE, add, asleep, echo, fail, pass_on, spin, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["WorkerTests"]

GRACE = 1.0
"""The grace period of the worker that a test of W4 stops, in seconds."""
OBSERVE = 0.5
"""Seconds after SIGTERM for which a test checks that the job still runs."""
PAUSE_TAKES = 2.0
"""The number of seconds after which `pause` or `resume` must have taken effect."""
TOOLS = ("profiler", "tracer")
SOON = Retry(max_attempts=2, initial=0.1, jitter=0.0)

to_all = pytest.mark.parametrize("group", [False, True], ids=["to_parent", "to_group"])
"""Runs a test twice. If `group` is True, the test sends SIGTERM to all processes of the worker, otherwise only to the
process that the test started."""
processes = pytest.mark.parametrize("count", [1, 2], ids=["one_process", "two_processes"])


class WorkerTests(Case):
    """All lines of group W."""

    def test_W1_a_worker_takes_jobs_of_its_queues_only(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        other = queue.enqueue(echo.using(queue="other").job(0))
        mine = [queue.enqueue(echo.using(queue=name).job(n)) for n, name in enumerate(["mine", "too", "mine"])]
        with harness.working(queue, "mine", "too"):
            assert [handle.result(10) for handle in mine] == [0, 1, 2]
            late = queue.enqueue(echo.using(queue="mine").job(3))
            assert late.result(10) == 3
        assert other.status().state is JobState.QUEUED
        assert trace.times(other.id) == 0

    @pytest.mark.parametrize("threads", [1, 4])
    def test_W2_a_worker_runs_one_job_for_each_thread(
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
            batches = [queue.enqueue_many(spin.job(0.02) for _ in range(50)) for _ in range(6)]
            handles = [handle for batch in batches for handle in batch]
            for handle in handles:
                handle.result(30)
        runs = trace.runs()
        assert sorted(run.job for run in runs) == sorted(handle.id for handle in handles)
        assert len({run.pid for run in runs}) >= len(workers), "not every worker took jobs"
        assert queue.stats().processed == 300

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
        told = count if count > 1 else 0
        eventually(lambda: "SIGTERM" in worker.log and worker.log.count("was told to stop") == told)
        trace.open("go")
        assert worker.wait() == 0
        assert [handle.result(0) for handle in running] == ["go"] * count
        assert {(handle.status().state, handle.status().attempts) for handle in rest} == {(JobState.QUEUED, 0)}
        with harness.working(queue):
            assert [handle.result(10) for handle in rest] == [0, 1, 2]

    @needs(Capability.PERSISTENT)
    @processes
    def test_W4_sigterm_to_all_processes_lets_running_jobs_finish(
        self, harness: Harness, queue: JobQueue, trace: Trace, count: int
    ) -> None:
        stop_while_running(harness.process(options=[f"--processes={count}"]), queue, trace, group=True)

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
    def test_W4_after_the_grace_period_jobs_run_again_elsewhere(
        self, harness: Harness, queue: JobQueue, trace: Trace, count: int
    ) -> None:
        worker = harness.process(options=[f"--grace={GRACE}", f"--processes={count}"])
        handles = [queue.enqueue(task, 60.0) for task in (spin_once, asleep_once, sleep_once)]
        eventually(lambda: len(trace.runs()) == 3)
        harness.process()  # a second worker, which runs the jobs again
        assert worker.stop() == 0
        assert [handle.result(15) for handle in handles] == [2, 2, 2]
        assert {budgets(handle.status()) for handle in handles} == {(2, 0, 0)}
        assert queue.stats().failed == 0

    @needs(Capability.THREADS)
    def test_W4_after_the_grace_period_of_a_worker_in_this_process(self, queue: JobQueue, trace: Trace) -> None:
        worker = queue.worker(QUEUE, grace=0.2).start()
        handles = [queue.enqueue(task, 60.0) for task in (spin_once, asleep_once)]
        eventually(lambda: len(trace.runs()) == 2)
        worker.stop()
        assert {handle.status().state for handle in handles} == {JobState.QUEUED}
        with queue.worker(QUEUE):
            assert [handle.result(10) for handle in handles] == [2, 2]
        assert {budgets(handle.status()) for handle in handles} == {(2, 0, 0)}

    def test_W5_a_burst_ends_when_nothing_is_due(self, harness: Harness, queue: JobQueue) -> None:
        handles = [*(queue.enqueue(echo, n) for n in range(20)), queue.enqueue(spin, 0.5), queue.enqueue(asleep, 0.5)]
        parent = queue.enqueue(pass_on, 7)
        tomorrow = queue.enqueue(echo.using(delay=86_400).job(1))
        if Capability.PERSISTENT in queue.capabilities:
            assert harness.process(options=["--burst"]).wait() == 0
        else:
            queue.worker(QUEUE, burst=True).run()
        assert {handle.status().state for handle in handles} == {JobState.SUCCEEDED}
        assert queue.status(parent.result(0)).state is JobState.SUCCEEDED, (
            "the worker ended before it had run the job that a job enqueued"
        )
        assert tomorrow.status().state is JobState.SCHEDULED

    @needs(Capability.PERSISTENT)
    def test_W5_a_burst_of_two_processes(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        handles = queue.enqueue_many(spin.job(0.02) for _ in range(50))
        assert harness.process(options=["--burst", "--processes=2"]).wait() == 0
        assert {handle.status().state for handle in handles} == {JobState.SUCCEEDED}
        assert len(trace.runs()) == 50

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

    def test_W6_after_a_timeout_the_job_is_retried(self, harness: Harness, queue: JobQueue) -> None:
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
        lease = "15"  # the process that starts must record the attempt before its lease lapses, on a busy machine too
        worker = harness.process(options=[f"--processes={count}"], QUEUEPORT_LEASE=lease)
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
        assert worker.stop() == 0, "SIGTERM to the process that was started no longer stops the worker"

    @needs(Capability.THREADS)
    def test_W6_in_this_process_the_retry_held_by_such_code(self, queue: JobQueue, trace: Trace) -> None:
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

    def test_W7_coroutines_run_many_at_once(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with harness.working(queue, threads=2):
            queue.enqueue(asleep, 0.0).result(10)
            handles = queue.enqueue_many(asleep.job(1.0) for _ in range(40))
            assert queue.enqueue(echo, "at the same time").result(10) == "at the same time"
            assert {handle.result(20) for handle in handles} == {1.0}
        assert peak(trace, *(handle.id for handle in handles)) > 10

    def test_W7_coroutines_do_not_exceed_their_number(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        handles = queue.enqueue_many(asleep.job(0.3) for _ in range(12))
        begun = []

        def ended() -> bool:
            totals = queue.stats().totals
            begun.append(totals.running)
            return totals.succeeded == len(handles)

        with harness.working(queue, threads=4, coroutines=3):
            eventually(ended, 30)
        assert peak(trace, *(handle.id for handle in handles)) == 3
        assert max(begun) <= 3, "a job that waits for a slot of the event loop has begun"

    def test_W8_context_does_not_leak_from_job_to_job(self, harness: Harness, queue: JobQueue) -> None:
        with harness.working(queue, threads=1):
            for task in (remember, remember_async):
                assert [queue.enqueue(task, value).result(10) for value in ("a", "b", "c")] == [None, None, None]

    def test_W8_around_job_wraps_each_job_in_its_thread(self, harness: Harness, queue: JobQueue, trace: Trace) -> None:
        with harness.working(queue):
            good = queue.enqueue(wrapped, False)
            good.result(10)
            bad = queue.enqueue(wrapped.using(retry=Retry(max_attempts=1)).job(True))
            with pytest.raises(JobFailed, match="the task failed on purpose"):
                bad.result(10)
            eventually(lambda: trace.notes("outer ends", job=bad.id))
        assert order(trace, good.id) == ["outer", "inner", "inside", "inner ends", "outer ends"]
        assert order(trace, bad.id) == ["outer", "inner", "inside", "outer saw", "outer ends"]
        threads = {note["thread"] for name in ("outer", "inner", "inside") for note in trace.notes(name, job=good.id)}
        assert len(threads) == 1

    def test_W9_the_native_worker_runs_and_fails_jobs(self, harness: Harness, queue: JobQueue) -> None:
        if harness.native_command([QUEUE]) is None:
            return  # the backend has no workers of its own
        harness.process(native=True)
        good, bad = queue.enqueue(add, 2, 3), queue.enqueue(fail)
        assert good.result(10) == 5
        with pytest.raises(JobFailed):
            bad.result(20)
        assert budgets(good.status()) == (1, 0, 0)
        assert budgets(bad.status()) == (3, 3, 0)

    def test_W9_the_native_worker_goes_on_after_errors_that_are_hard_to_record(
        self, harness: Harness, queue: JobQueue
    ) -> None:
        if harness.native_command([QUEUE]) is None:
            return  # the backend has no workers of its own
        harness.process(native=True)
        handles = [queue.enqueue(fail_rudely, kind) for kind in RUDE]
        handles += [queue.enqueue(fail_rudely_async, "exits"), queue.enqueue(return_rudely)]
        eventually(lambda: all(handle.status().state is JobState.DEAD for handle in handles), 60)
        assert {budgets(handle.status()) for handle in handles} == {(1, 1, 0)}
        assert [queue.enqueue(observe, tool).result(20) for tool in TOOLS] == [10, 10]

    @to_all
    def test_W9_the_native_worker_stops_gracefully(
        self, harness: Harness, queue: JobQueue, trace: Trace, group: bool
    ) -> None:
        if harness.native_command([QUEUE]) is None:
            return  # the backend has no workers of its own
        stop_while_running(harness.process(native=True), queue, trace, group)

    def test_W9_the_job_of_a_killed_native_worker_runs_again(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        if harness.native_command([QUEUE]) is None:
            return  # the backend has no workers of its own
        worker = harness.process(native=True)
        handle: JobHandle[str] = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(handle.id) == 1)
        worker.kill()
        harness.process(native=True)
        eventually(lambda: trace.times(handle.id) == 2, 10)
        trace.open("go")
        assert handle.result(10) == "go"
        assert budgets(handle.status()) == (2, 0, 1)

    def test_W10_profilers_and_tracers_work_in_tasks_and_after_them(self, harness: Harness, queue: JobQueue) -> None:
        late = spin.using(timeout=0.3, retry=Retry(max_attempts=1))
        with harness.working(queue, threads=1):
            for _ in range(2):
                with pytest.raises(JobFailed, match="JobTimeout"):
                    queue.enqueue(late, 60.0).result(20)
                assert [queue.enqueue(observe, tool).result(20) for tool in TOOLS] == [10, 10]
                assert queue.enqueue(echo, "afterwards").result(10) == "afterwards"

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("native", [False, True], ids=["worker", "native"])
    def test_W11_processes_of_a_task_begin_with_default_signal_handlers(
        self, harness: Harness, queue: JobQueue, native: bool
    ) -> None:
        harness.process(options=[] if native else ["--processes=2"], native=native)
        handle = queue.enqueue(start_processes)
        assert handle.result(15) == [-15, -2, 7]
        assert budgets(handle.status()) == (1, 0, 0)

    @needs(Capability.PERSISTENT)
    @pytest.mark.skipif(sys.platform != "linux", reason="the processes of an attempt are known on Linux only")
    @pytest.mark.parametrize("native", [False, True], ids=["worker", "native"])
    def test_W11_processes_of_an_interrupted_attempt_end_with_it(
        self, harness: Harness, queue: JobQueue, tmp_path: Path, native: bool
    ) -> None:
        worker = harness.process(native=native)
        late = wait_for_program.using(timeout=0.5, retry=SOON)
        handle = queue.enqueue(late.job(str(tmp_path / "pids")))
        assert handle.result(15) == []
        assert budgets(handle.status()) == (2, 1, 0)
        for text in ("cannot be interrupted", "did not end in time"):
            assert text not in worker.log, "the processes ended only with their worker"

    def test_W12_a_paused_queue_starts_nothing_until_it_is_resumed(
        self, harness: Harness, queue: JobQueue, trace: Trace
    ) -> None:
        with harness.working(queue, QUEUE, "other", threads=1):
            running = queue.enqueue(wait_for, "go")
            eventually(lambda: trace.times(running.id) == 1)
            waiting = [queue.enqueue(echo, n) for n in range(5)]
            dies = queue.enqueue(fail.using(retry=Retry(max_attempts=2, initial=0.1, jitter=0.0)).job())
            delayed = queue.enqueue(echo.using(delay=PAUSE_TAKES).job(5))
            expires = queue.enqueue(echo.using(delay=PAUSE_TAKES, expires=PAUSE_TAKES + 1.0).job(6))
            cancelled = queue.enqueue(echo, 7)
            pause(queue)
            trace.open("go")
            assert running.result(10) == "go"
            waiting.append(queue.enqueue(echo, 8))
            assert queue.enqueue(echo.using(queue="other").job(9)).result(10) == 9
            eventually(lambda: delayed.status().state is JobState.QUEUED)
            eventually(lambda: expires.status().reason == "expired")
            assert cancelled.cancel() is CancelOutcome.CANCELLED
            observe_that(lambda: len(trace.runs()) == 2, "a job of the paused queue has started")
            assert {budgets(handle.status()) for handle in (*waiting, dies, delayed)} == {(0, 0, 0)}
            assert {handle.status().state for handle in (*waiting, dies, delayed)} == {JobState.QUEUED}
            resumed_at = resume(queue)
            assert [handle.result(10) for handle in (*waiting, delayed)] == [0, 1, 2, 3, 4, 8, 5]
            eventually(lambda: dies.status().state is JobState.DEAD)
        assert {trace.times(handle.id) for handle in (*waiting, delayed)} == {1}
        first = min(run.started for run in trace.runs(*(handle.id for handle in waiting)))
        assert first - resumed_at < PAUSE_TAKES + harness.late
        assert {budgets(handle.status()) for handle in (*waiting, delayed)} == {(1, 0, 0)}
        assert budgets(dies.status()) == (2, 2, 0)
        assert trace.times(expires.id) == trace.times(cancelled.id) == 0

    def test_W12_a_pause_is_seen_by_everyone_in_its_namespace(self, harness: Harness, queue: JobQueue) -> None:
        other, elsewhere = harness.open(), harness.open(namespace=f"{harness.namespace}_b")
        queue.pause("unused", "first")
        first = queue.paused()["unused"]
        other.pause("unused", "second")
        assert {name: pause.reason for name, pause in queue.paused().items()} == {"unused": "second"}
        assert queue.paused()["unused"].since == first.since
        assert other.stats().queues["unused"].paused == other.paused()["unused"]
        assert other.stats().queues["default"].paused is None
        assert elsewhere.paused() == {}
        assert not elsewhere.resume("unused")
        assert [queue.resume("unused"), other.resume("unused")] == [True, False]
        assert other.paused() == {}

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("native", [False, True], ids=["worker", "native"])
    def test_W12_jobs_of_a_paused_queue_survive_their_worker(
        self, harness: Harness, queue: JobQueue, trace: Trace, native: bool
    ) -> None:
        worker = harness.process(native=native)
        running = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(running.id) == 1)
        pause(queue)
        handles = [queue.enqueue(echo, n) for n in range(25)]
        observe_that(lambda: len(trace.runs()) == 1, "a job of the paused queue has started")
        worker.kill()
        harness.process(native=native)
        eventually(lambda: running.status().crashes == 1, 15)
        observe_that(lambda: len(trace.runs()) == 1, "a job of the paused queue has started")
        trace.open("go")
        resume(queue)
        assert [handle.result(30) for handle in (running, *handles)] == ["go", *range(25)]
        assert budgets(running.status()) == (2, 0, 1)
        assert {budgets(handle.status()) for handle in handles} == {(1, 0, 0)}
        assert {trace.times(handle.id) for handle in handles} == {1}


def pause(queue: JobQueue) -> None:
    """Pause the queue `default`, and wait until the pause must have taken effect everywhere."""
    queue.pause(QUEUE, "maintenance")
    time.sleep(PAUSE_TAKES)
    assert queue.stats().queues[QUEUE].paused == queue.paused()[QUEUE]
    assert queue.paused()[QUEUE].reason == "maintenance"


def resume(queue: JobQueue) -> float:
    """Resume the queue `default`. Returns the time of the call."""
    called_at = time.time()
    assert queue.resume(QUEUE)
    assert queue.stats().queues[QUEUE].paused is None
    return called_at


def observe_that(condition: Callable[[], bool], problem: str) -> None:
    """Check for PAUSE_TAKES seconds that the condition holds."""
    until = time.monotonic() + PAUSE_TAKES
    while time.monotonic() < until:
        assert condition(), problem
        time.sleep(0.1)


def stop_while_running(worker: WorkerProcess, queue: JobQueue, trace: Trace, group: bool) -> None:
    """Enqueue a job, and send SIGTERM while the worker runs this job. The job and the worker must end normally.

    With `group`, the whole process group gets SIGTERM.
    """
    running = queue.enqueue(wait_for.using(retry=Retry(max_attempts=1)).job("go"))
    eventually(lambda: trace.times(running.id) == 1)
    if group:
        worker.terminate_group()
    else:
        worker.terminate()
    until = time.monotonic() + OBSERVE
    while time.monotonic() < until:
        assert running.status().state is JobState.RUNNING
    trace.open("go")
    assert worker.wait() == 0
    assert running.result(10) == "go"
    assert budgets(running.status()) == (1, 0, 0)


def peak(trace: Trace, *job_ids: str) -> int:
    """The largest number of these jobs that ran at the same time."""
    runs = trace.runs(*job_ids)
    return max(sum(one.started <= run.started < (one.ended or run.started) for one in runs) for run in runs)


def order(trace: Trace, job_id: str) -> list[str]:
    """The names of the notes that `wrapped` and its hooks have written about this job, oldest first."""
    names = ("outer", "inner", "inside", "inner ends", "outer saw", "outer ends")
    notes = [note for name in names for note in trace.notes(name, job=job_id)]
    return [note["note"] for note in sorted(notes, key=lambda note: note["at"])]

"""RQ's own command runs queueport's jobs. A killed work horse is one crash; one that cannot be interrupted, one
timeout.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapters.rq.tests.rq_harness import RQCase, RQHarness
from queueport import JobQueue, JobState, Retry, Task
from queueport.testing.contract.case import budgets
from queueport.testing.hard_tasks import asleep_once, block_once, sleep_once
from queueport.testing.tasks import QUEUE, asleep, die, die_once, echo, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.telemetry import check_the_trace_continues

DYING = "adapters.rq.tests.dying_worker.DyingWorker"
SOON = Retry(max_attempts=2, initial=0.1)


class TestNativeWorker(RQCase):
    def test_a_killed_horse_is_one_crash_and_the_worker_goes_on(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        worker = harness.process(native=True)
        handle = queue.enqueue(die_once)
        assert handle.result(20) == 2
        assert budgets(handle.status()) == (2, 0, 1)
        assert worker.running
        assert harness.rq.queue(QUEUE).failed_job_registry.get_job_ids() == []

    def test_a_horse_is_not_listed_as_a_worker_so_a_killed_one_causes_no_duplicates(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        worker = harness.process(native=True)
        handle = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(handle.id) == 1)
        assert [listed.queues for listed in queue.stats().workers] == [(QUEUE,)]
        (horse,) = children(worker.pid)
        os.kill(horse, signal.SIGKILL)
        trace.open("go")
        assert handle.result(20) == "go"
        assert [*queue.operations.store.workers(lost=True)] == []

    def test_a_job_that_its_killed_horse_had_not_begun_runs_soon(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        """The search for lost messages would find the job much later."""
        command = harness.native_command([QUEUE])
        dying = [word.replace("queueport_rq.worker.QueueportWorker", DYING) for word in command]
        worker = harness.start(dying, QUEUEPORT_LOST_AFTER="60.0")
        handle = queue.enqueue(echo, 1)
        assert handle.result(20) == 1
        assert "Work horse killed" in worker.log
        assert budgets(handle.status()) == (1, 0, 0)

    def test_a_job_that_always_kills_its_horse_is_dead_at_the_limit(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        worker = harness.process(native=True)
        handle = queue.enqueue(die.using(crash_limit=2).job())
        eventually(lambda: handle.status().state is JobState.DEAD, 25)
        assert trace.times(handle.id) == 2
        assert worker.running
        eventually(lambda: list(harness.native_dead()) == [handle.id])

    @pytest.mark.parametrize("task", [sleep_once, block_once], ids=["thread", "event_loop"])
    def test_code_that_cannot_be_interrupted_ends_with_its_horse(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, task: Task[[float], int, Any]
    ) -> None:
        worker = harness.process(native=True, QUEUEPORT_LEASE="10")  # longer than recording a stuck attempt takes
        handle = queue.enqueue(task.using(timeout=0.5, retry=SOON).job(60.0))
        assert handle.result(25) == 2
        assert budgets(handle.status()) == (2, 1, 0)
        assert [error.type for error in handle.status().errors] == ["queueport.errors.JobTimeout"]
        assert worker.running

    def test_a_coroutine_ends_before_its_horse_does(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        harness.process(native=True)
        assert queue.enqueue(asleep, 1.0).result(20) == 1.0
        slow = queue.enqueue(asleep_once.using(timeout=0.5, retry=SOON).job(60.0))
        assert slow.result(20) == 2
        assert budgets(slow.status()) == (2, 1, 0)

    def test_a_signal_to_all_processes_does_not_interrupt_the_job(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        worker = harness.process(native=True)
        handle = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(handle.id) == 1)
        (horse,) = children(worker.pid)
        os.kill(horse, signal.SIGTERM)
        worker.terminate()
        trace.open("go")
        assert worker.wait() == 0
        assert handle.result(10) == "go"
        assert budgets(handle.status()) == (1, 0, 0)

    def test_a_trace_continues_in_the_work_horse(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        check_the_trace_continues(queue, partial(harness.process, native=True), trace.folder)

    def test_an_idle_worker_is_listed_until_it_ends(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        worker = harness.process(native=True)
        (seen,) = queue.stats().workers
        assert seen.queues == (QUEUE,)
        assert echo.name in seen.tasks
        assert worker.stop() == 0
        assert list(queue.stats().workers) == []

    @pytest.mark.parametrize(
        ("environment", "queues", "said"),
        [
            ({}, ["another.default"], "is not a queue of namespace"),
            ({}, ["default"], "is not a queue of namespace"),
            ({"QUEUEPORT_URL": "memory://"}, ["queueport.default"], "from which this worker cannot take jobs"),
            ({"QUEUEPORT_TASKS": "no.such.module"}, [], "there is no module"),
        ],
        ids=["other_namespace", "bare_name", "other_backend", "missing_module"],
    )
    def test_a_wrong_queue_or_setting_is_refused_in_one_sentence(
        self, harness: RQHarness, trace: Trace, environment: dict[str, str], queues: list[str], said: str
    ) -> None:
        command = harness.native_command([QUEUE])
        assert command is not None
        words = [*command[:-1], *(queues or command[-1:])]
        worker = harness.start(words, ready=False, **environment)
        assert worker.wait(30) == 1
        assert said in worker.log
        assert worker.log.count("\n") == 1


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

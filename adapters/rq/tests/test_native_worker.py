"""RQ's own worker command runs queueport's jobs: horses that die or cannot be stopped are counted right, and more."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from adapters.rq.tests.rq_harness import RQCase, RQHarness
from queueport import JobQueue, JobState, Retry, Task
from queueport.testing.hard_tasks import asleep_once, block_once, sleep_once
from queueport.testing.stopping import budgets
from queueport.testing.tasks import QUEUE, asleep, die, die_once, echo, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

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
        worker = harness.process(native=True, QUEUEPORT_LEASE="10")  # the witness of its end takes a while to start
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

    def test_a_signal_for_all_its_processes_ends_no_job_in_the_middle(
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

    def test_it_is_seen_while_it_is_idle_and_no_more_when_it_has_ended(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        worker = harness.process(native=True)
        (seen,) = queue.stats().workers
        assert seen.queues == (QUEUE,)
        assert echo.name in seen.tasks
        assert worker.stop() == 0
        assert list(queue.stats().workers) == []

    @pytest.mark.parametrize(
        ("environment", "queues", "said"),
        [
            ({}, ["another.default"], "is no queue of namespace"),
            ({}, ["default"], "is no queue of namespace"),
            ({"QUEUEPORT_URL": "memory://"}, ["queueport.default"], "is not RQ's"),
            ({"QUEUEPORT_TASKS": "no.such.module"}, [], "there is no module"),
        ],
        ids=["other_namespace", "bare_name", "other_backend", "missing_module"],
    )
    def test_what_it_cannot_do_is_said_in_one_sentence(
        self, harness: RQHarness, trace: Trace, environment: dict[str, str], queues: list[str], said: str
    ) -> None:
        command = harness.native_command([QUEUE])
        assert command is not None
        words = [*command[:-1], *(queues or command[-1:])]
        worker = harness.start(words, ready=False, **environment)
        assert worker.wait(30) == 1
        assert said in worker.log


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

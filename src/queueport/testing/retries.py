"""R: attempts, gaps, policies, and a new life for what has ended. For the contract suite."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from queueport import Job, JobHandle, JobQueue, JobState, Retry
from queueport.errors import InvalidState, JobFailed
from queueport.testing import tasks
from queueport.testing.case import Case
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["Retries"]

CLOCKS = 0.02
"""Seconds by which the clocks of a store and of its workers may differ, on one machine."""


def quick(max_attempts: int, initial: float = 0.1, **rest: Any) -> Retry:
    """A policy without chance and growth, unless `rest` says otherwise."""
    return Retry(**{"max_attempts": max_attempts, "initial": initial, "factor": 1.0, "jitter": 0.0, **rest})


def ended(*handles: JobHandle[Any], state: JobState = JobState.DEAD) -> bool:
    """Whether all of them have that final state."""
    return all(handle.status().state is state for handle in handles)


class Retries(Case):
    """The lines of group R."""

    def test_R1_as_many_attempts_as_the_policy_gives(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        numbers = (1, 2, 5)
        handles = queue.enqueue_many([tasks.fail.using(retry=quick(number)).job("no") for number in numbers])
        with harness.working(queue, threads=4):
            eventually(lambda: ended(*handles), 20)
            assert queue.enqueue(tasks.echo, "after them").result(10) == "after them"
        for number, handle in zip(numbers, handles, strict=True):
            status = handle.status()
            assert trace.times(handle.id) == number
            assert (status.attempts, status.failures, status.max_attempts) == (number, number, number)
            assert (status.crashes, status.next_attempt_at) == (0, None)
            assert [error.attempt for error in status.errors] == list(range(1, number + 1))

    def test_R2_gaps_follow_the_policy(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        policies = {
            quick(4, 0.5): [(0.5, 0.5)] * 3,
            quick(3, 0.4, factor=3.0): [(0.4, 0.4), (1.2, 1.2)],
            quick(3, 0.6, factor=100.0, maximum=1.5): [(0.6, 0.6), (1.5, 1.5)],
            quick(3, 1.0, jitter=0.5): [(1.0, 1.5)] * 2,
        }
        handles = queue.enqueue_many([tasks.fail.using(retry=policy).job("no") for policy in policies])
        with harness.working(queue, threads=4):
            eventually(lambda: ended(*handles), 20)
        for handle, waits in zip(handles, policies.values(), strict=True):
            runs = trace.runs(handle.id)
            gaps = [later.started - (earlier.ended or 0.0) for earlier, later in pairwise(runs)]
            assert len(gaps) == len(waits)
            for gap, (least, most) in zip(gaps, waits, strict=True):
                assert least - CLOCKS <= gap <= most + harness.late, (gaps, waits)

    def test_R2_between_attempts_it_is_retrying(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=quick(2, 3.0)), 2)
        with harness.working(queue, threads=1):
            eventually(lambda: handle.status().state is JobState.RETRYING)
            status, first = handle.status(), trace.runs(handle.id)[0]
            assert status.next_attempt_at is not None
            assert status.started_at is not None
            assert status.next_attempt_at - status.started_at >= timedelta(seconds=3 - CLOCKS)
            assert status.error is not None
            assert status.error.type == f"{tasks.__name__}.Refused"
            assert status.error.message == "not before attempt 2"
            assert (status.attempts, status.failures, status.finished_at) == (1, 1, None)
            assert handle.result(10) == 2
        second = trace.runs(handle.id)[1]
        assert second.started >= status.next_attempt_at.timestamp() - CLOCKS
        assert second.started - (first.ended or 0.0) <= 3 + harness.late
        status = handle.status()
        assert (status.state, status.error, status.next_attempt_at) == (JobState.SUCCEEDED, None, None)
        assert [error.attempt for error in status.errors] == [1]

    def test_R2_a_duplicate_message_between_attempts_starts_nothing(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        handle = queue.enqueue(tasks.fail.using(retry=quick(2, 3.0)), "no")
        with harness.working(queue, threads=1):
            eventually(lambda: handle.status().state is JobState.RETRYING)
            harness.redeliver(handle.id)
            queue.enqueue(tasks.echo, "behind the duplicate").result(10)
            assert (handle.status().state, trace.times(handle.id)) == (JobState.RETRYING, 1)
            eventually(lambda: ended(handle))
        first, second = trace.runs(handle.id)
        assert second.started - (first.ended or 0.0) >= 3 - CLOCKS

    def test_R3_the_error_decides_by_class_or_name(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        module = tasks.__name__
        rules: list[tuple[str, dict[str, Any], int]] = [
            ("ValueError", {"retry_on": (ValueError,)}, 2),
            ("ValueError", {"retry_on": (KeyError,)}, 1),
            ("KeyError", {"retry_on": (LookupError,)}, 2),
            ("ValueError", {"retry_on": ("builtins.ValueError",)}, 2),
            ("ValueError", {"retry_on": ("ValueError", "KeyError")}, 2),
            ("RefusedForGood", {"retry_on": (tasks.Refused,)}, 2),
            ("RefusedForGood", {"retry_on": (f"{module}.Refused",)}, 2),
            ("RefusedForGood", {"retry_on": ("Refused",)}, 2),
            ("Refused", {"retry_on": (tasks.RefusedForGood,)}, 1),
            ("Refused", {"retry_on": ("elsewhere.Refused",)}, 1),
            ("ValueError", {"abort_on": (ValueError,)}, 1),
            ("ValueError", {"abort_on": (KeyError,)}, 2),
            ("RefusedForGood", {"abort_on": (tasks.Refused,)}, 1),
            ("RefusedForGood", {"abort_on": (f"{module}.Refused",)}, 1),
            ("Refused", {"abort_on": ("RefusedForGood",)}, 2),
            ("RefusedForGood", {"retry_on": (tasks.Refused,), "abort_on": (tasks.RefusedForGood,)}, 1),
        ]
        jobs: list[Job[None]] = [tasks.fail_as.using(retry=quick(2, **rule)).job(name) for name, rule, _ in rules]
        handles = queue.enqueue_many(jobs)
        with harness.working(queue, threads=4):
            eventually(lambda: ended(*handles), 20)
        seen = [(name, rule, trace.times(handle.id)) for (name, rule, _), handle in zip(rules, handles, strict=True)]
        assert seen == rules

    def test_R3_abort_ends_at_once(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        policy = quick(5, retry_on=("queueport.Abort", Exception))
        handle = queue.enqueue(tasks.abort.using(retry=policy), "hopeless")
        with harness.working(queue, threads=1), pytest.raises(JobFailed, match="hopeless"):
            handle.result(10)
        status = handle.status()
        assert (status.state, trace.times(handle.id)) == (JobState.DEAD, 1)
        assert status.error is not None
        assert status.error.type.endswith(".Abort")

    def test_R3_retry_later_sets_its_own_delay_and_burns_or_not(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        slow = quick(3, 60.0, retry_on=(KeyError,))
        burning = queue.enqueue(tasks.later.using(retry=slow), 1.0, True, 9)
        saved = queue.enqueue(tasks.later.using(retry=slow), 0.5, True, 2)
        free = queue.enqueue(tasks.later.using(retry=quick(1, 60.0)), 0.5, False, 3)
        with harness.working(queue, threads=4):
            assert (saved.result(20), free.result(20)) == (3, 4)
            eventually(lambda: ended(burning), 20)
        for handle, delay, times, failures in ((burning, 1.0, 3, 3), (saved, 0.5, 3, 2), (free, 0.5, 4, 0)):
            runs = trace.runs(handle.id)
            assert (len(runs), handle.status().failures) == (times, failures)
            for earlier, later in pairwise(runs):
                assert delay - CLOCKS <= later.started - (earlier.ended or 0.0) <= delay + harness.late

    def test_R4_the_task_sees_its_attempt(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=quick(4)), 4)
        with harness.working(queue, threads=1):
            assert handle.result(10) == 4
        assert [run.attempt for run in trace.runs(handle.id)] == [1, 2, 3, 4]

    def test_R5_a_dead_job_has_a_new_life(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        saved = queue.enqueue(tasks.fail_until.using(retry=quick(2)), 3)
        hopeless = queue.enqueue(tasks.fail.using(retry=quick(2)), "no")
        with harness.working(queue, threads=4):
            eventually(lambda: ended(saved, hopeless))
        for handle in (saved, hopeless):
            for _ in range(2):
                harness.redeliver(handle.id)
            assert queue.retry(handle.id).id == handle.id
            status = handle.status()
            assert (status.state, status.failures, status.crashes) == (JobState.QUEUED, 0, 0)
            assert (status.finished_at, status.reason, status.attempts) == (None, None, 2)
            assert [error.attempt for error in status.errors] == [1, 2]
        with harness.working(queue, threads=4):
            assert saved.result(10) == 3
            eventually(lambda: ended(hopeless))
            harness.redeliver(saved.id)
            harness.redeliver(hopeless.id)
            queue.enqueue(tasks.echo, "behind the old messages").result(10)
            eventually(lambda: not queue.jobs(state=JobState.QUEUED) and not queue.jobs(state=JobState.RUNNING))
        assert [run.attempt for run in trace.runs(saved.id)] == [1, 2, 3]
        assert [run.attempt for run in trace.runs(hopeless.id)] == [1, 2, 3, 4]
        assert [error.attempt for error in saved.status().errors] == [1, 2]
        assert [error.attempt for error in hopeless.status().errors] == [1, 2, 3, 4]
        assert (saved.status().state, saved.status().failures) == (JobState.SUCCEEDED, 0)
        assert (hopeless.status().state, hopeless.status().failures) == (JobState.DEAD, 2)

    def test_R5_a_handle_retries_too(self, queue: JobQueue, harness: Harness) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=quick(1)), 2)
        with harness.working(queue, threads=1):
            with pytest.raises(JobFailed):
                handle.result(10)
            assert handle.retry().result(10) == 2

    def test_R6_what_is_queued_or_running_or_succeeded_is_not_retried(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        handle = queue.enqueue(tasks.wait_for, "gate")
        self._is_refused(queue, handle, JobState.QUEUED)
        with harness.working(queue, threads=2):
            try:
                eventually(lambda: trace.times(handle.id))
                self._is_refused(queue, handle, JobState.RUNNING)
            finally:
                trace.open("gate")
            assert handle.result(10) == "gate"
            self._is_refused(queue, handle, JobState.SUCCEEDED)
            queue.enqueue(tasks.echo, "after it").result(10)
        assert (handle.status().state, trace.times(handle.id)) == (JobState.SUCCEEDED, 1)

    def test_R6_a_retrying_job_may_be_hurried(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=quick(2, 600.0)), 2)
        with harness.working(queue, threads=1):
            eventually(lambda: handle.status().state is JobState.RETRYING)
            queue.retry(handle.id)
            assert handle.result(5) == 2
        assert handle.status().failures == 1

    @staticmethod
    def _is_refused(queue: JobQueue, handle: JobHandle[str], state: JobState) -> None:
        before = handle.status()
        assert before.state is state
        for retry in (handle.retry, lambda: queue.retry(handle.id)):
            with pytest.raises(InvalidState, match=str(state)):
                retry()
        after = handle.status()
        assert (after.state, after.attempts, after.failures) == (state, before.attempts, before.failures)

"""Group R, "Retry": attempts, backoff, retry policies, `retry`. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from queueport import Job, JobHandle, JobQueue, JobState, Retry
from queueport.errors import InvalidState, JobFailed
from queueport.testing import tasks
from queueport.testing.contract.case import Case, budgets
from queueport.testing.harness import Harness
from queueport.testing.rude_tasks import RUDE, fail_rudely, fail_rudely_async, return_rudely
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["RetryTests"]

RUDE_TASKS = (fail_rudely, fail_rudely_async)
CLOCKS = 0.02
"""The difference, in seconds, that the tests allow between the clocks of a store and a worker on the same machine."""


def constant(max_attempts: int, initial: float = 0.1, **rest: Any) -> Retry:
    """A retry policy with a constant delay and no jitter. Options in `rest` take precedence."""
    return Retry(**{"max_attempts": max_attempts, "initial": initial, "factor": 1.0, "jitter": 0.0, **rest})


def dead(*handles: JobHandle[Any]) -> bool:
    """True if all these jobs are dead."""
    return all(handle.status().state is JobState.DEAD for handle in handles)


class RetryTests(Case):
    """All lines of group R."""

    def test_R1_a_failing_task_has_exactly_max_attempts(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        numbers = (1, 2, 5)
        handles = queue.enqueue_many([tasks.fail.using(retry=constant(number)).job("no") for number in numbers])
        with harness.working(queue, threads=4):
            eventually(lambda: dead(*handles), 20)
            assert queue.enqueue(tasks.echo, "afterwards").result(10) == "afterwards"
        for number, handle in zip(numbers, handles, strict=True):
            status = handle.status()
            assert trace.times(handle.id) == number
            assert (status.attempts, status.failures, status.max_attempts) == (number, number, number)
            assert (status.crashes, status.next_attempt_at) == (0, None)
            assert [error.attempt for error in status.errors] == list(range(1, number + 1))

    def test_R2_gaps_follow_the_policy(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        policies = {
            constant(4, 0.5): [(0.5, 0.5)] * 3,
            constant(3, 0.4, factor=3.0): [(0.4, 0.4), (1.2, 1.2)],
            constant(3, 0.6, factor=100.0, maximum=1.5): [(0.6, 0.6), (1.5, 1.5)],
            constant(3, 1.0, jitter=0.5): [(1.0, 1.5)] * 2,
        }
        handles = queue.enqueue_many([tasks.fail.using(retry=policy).job("no") for policy in policies])
        with harness.working(queue, threads=4):
            eventually(lambda: dead(*handles), 20)
        for handle, waits in zip(handles, policies.values(), strict=True):
            runs = trace.runs(handle.id)
            gaps = [later.started - (earlier.ended or 0.0) for earlier, later in pairwise(runs)]
            assert len(gaps) == len(waits)
            for gap, (least, most) in zip(gaps, waits, strict=True):
                assert least - CLOCKS <= gap <= most + harness.late, (gaps, waits)

    def test_R2_between_attempts_the_job_is_retrying(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=constant(2, 3.0)), 2)
        with harness.working(queue, threads=1):
            eventually(lambda: handle.status().state is JobState.RETRYING)
            status, first = handle.status(), trace.runs(handle.id)[0]
            assert status.next_attempt_at is not None
            assert status.started_at is not None
            assert status.next_attempt_at - status.started_at >= timedelta(seconds=3 - CLOCKS)
            assert status.error is not None
            assert status.error.type == f"{tasks.__name__}.Refused"
            assert status.error.message == "the task fails before attempt 2"
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
        handle = queue.enqueue(tasks.fail.using(retry=constant(2, 3.0)), "no")
        with harness.working(queue, threads=1):
            eventually(lambda: handle.status().state is JobState.RETRYING)
            harness.redeliver(handle.id)
            queue.enqueue(tasks.echo, "after the duplicate").result(10)
            assert (handle.status().state, trace.times(handle.id)) == (JobState.RETRYING, 1)
            eventually(lambda: dead(handle))
        first, second = trace.runs(handle.id)
        assert second.started - (first.ended or 0.0) >= 3 - CLOCKS

    def test_R3_retry_on_and_abort_on_match_by_class_or_name(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
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
        jobs: list[Job[None]] = [tasks.fail_as.using(retry=constant(2, **rule)).job(name) for name, rule, _ in rules]
        handles = queue.enqueue_many(jobs)
        with harness.working(queue, threads=4):
            eventually(lambda: dead(*handles), 20)
        seen = [(name, rule, trace.times(handle.id)) for (name, rule, _), handle in zip(rules, handles, strict=True)]
        assert seen == rules

    def test_R3_abort_makes_the_job_dead_at_once(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        policy = constant(5, retry_on=("queueport.Abort", Exception))
        handle = queue.enqueue(tasks.abort.using(retry=policy), "hopeless")
        with harness.working(queue, threads=1), pytest.raises(JobFailed, match="hopeless"):
            handle.result(10)
        status = handle.status()
        assert (status.state, trace.times(handle.id)) == (JobState.DEAD, 1)
        assert status.error is not None
        assert status.error.type.endswith(".Abort")

    def test_R3_retry_later_sets_its_delay_and_burns_if_asked(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        slow = constant(3, 60.0, retry_on=(KeyError,))
        burning = queue.enqueue(tasks.later.using(retry=slow), 1.0, True, 9)
        saved = queue.enqueue(tasks.later.using(retry=slow), 0.5, True, 2)
        free = queue.enqueue(tasks.later.using(retry=constant(1, 60.0)), 0.5, False, 3)
        with harness.working(queue, threads=4):
            assert (saved.result(20), free.result(20)) == (3, 4)
            eventually(lambda: dead(burning), 20)
        for handle, delay, times, failures in ((burning, 1.0, 3, 3), (saved, 0.5, 3, 2), (free, 0.5, 4, 0)):
            runs = trace.runs(handle.id)
            assert (len(runs), handle.status().failures) == (times, failures)
            for earlier, later in pairwise(runs):
                assert delay - CLOCKS <= later.started - (earlier.ended or 0.0) <= delay + harness.late

    def test_R4_the_task_sees_its_attempt(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=constant(4)), 4)
        with harness.working(queue, threads=1):
            assert handle.result(10) == 4
        assert [run.attempt for run in trace.runs(handle.id)] == [1, 2, 3, 4]

    def test_R5_a_dead_job_can_be_retried(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        saved = queue.enqueue(tasks.fail_until.using(retry=constant(2)), 3)
        hopeless = queue.enqueue(tasks.fail.using(retry=constant(2)), "no")
        with harness.working(queue, threads=4):
            eventually(lambda: dead(saved, hopeless))
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
            eventually(lambda: dead(hopeless))
            harness.redeliver(saved.id)
            harness.redeliver(hopeless.id)
            queue.enqueue(tasks.echo, "after the old messages").result(10)
            eventually(lambda: not queue.jobs(state=JobState.QUEUED) and not queue.jobs(state=JobState.RUNNING))
        assert [run.attempt for run in trace.runs(saved.id)] == [1, 2, 3]
        assert [run.attempt for run in trace.runs(hopeless.id)] == [1, 2, 3, 4]
        assert [error.attempt for error in saved.status().errors] == [1, 2]
        assert [error.attempt for error in hopeless.status().errors] == [1, 2, 3, 4]
        assert (saved.status().state, saved.status().failures) == (JobState.SUCCEEDED, 0)
        assert (hopeless.status().state, hopeless.status().failures) == (JobState.DEAD, 2)

    def test_R5_a_handle_can_retry_its_job(self, queue: JobQueue, harness: Harness) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=constant(1)), 2)
        with harness.working(queue, threads=1):
            with pytest.raises(JobFailed):
                handle.result(10)
            assert handle.retry().result(10) == 2

    def test_R6_a_queued_running_or_succeeded_job_cannot_be_retried(
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
            queue.enqueue(tasks.echo, "afterwards").result(10)
        assert (handle.status().state, trace.times(handle.id)) == (JobState.SUCCEEDED, 1)

    def test_R6_retry_runs_a_retrying_job_now(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.fail_until.using(retry=constant(2, 600.0)), 2)
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

    def test_R7_an_error_that_is_hard_to_record_fails_its_attempt_only(self, queue: JobQueue, harness: Harness) -> None:
        handles = [queue.enqueue(task.using(retry=tasks.ONCE).job(kind)) for kind in RUDE for task in RUDE_TASKS]
        handles.append(queue.enqueue(return_rudely))
        with harness.working(queue, threads=2):
            eventually(lambda: dead(*handles), 30)
            assert [queue.enqueue(tasks.echo, n).result(10) for n in range(3)] == [0, 1, 2]
            assert queue.enqueue(tasks.asleep, 0.1).result(10) == 0.1
        for handle in handles:
            status = handle.status()
            assert budgets(status) == (1, 1, 0)
            assert status.error is not None
            error = status.error
            assert 0 < len(error.type) <= 500
            assert len(error.message) <= 2_000
            assert 0 < len(error.traceback) <= 8_000
        assert queue.stats().failed == len(handles)

"""T: status, results, progress. For the contract suite; listing and retention are in `keeping`."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from queueport import AsyncJobQueue, JobQueue, JobState, Task
from queueport.errors import JobFailed, JobNotFound, ResultTimeout
from queueport.status import Progress
from queueport.testing import tasks
from queueport.testing.case import Case
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["Results"]

NEVER = "never-seen"


def last_line(task: Task[..., Any, Any]) -> int:
    """The number of the last line of a task's code."""
    function = task.function
    assert function is not None
    lines, first = inspect.getsourcelines(inspect.unwrap(function))
    return first + len(lines) - 1


class Results(Case):
    """The lines T1 to T4, and T6."""

    def test_T1_an_id_never_seen_is_not_found(self, queue: JobQueue) -> None:
        handle = queue.handle(NEVER)
        by_id = (queue.status, queue.result, queue.retry, queue.cancel)
        calls: list[Callable[[], object]] = [partial(call, NEVER) for call in by_id]
        calls += [handle.status, handle.result, handle.retry, handle.cancel, partial(handle.result, 30)]
        for call in calls:
            with pytest.raises(JobNotFound, match=NEVER):
                call()

    def test_T2_while_it_runs_and_after(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.wait_for, "gate")
        with harness.working(queue, threads=2):
            try:
                eventually(lambda: trace.times(handle.id))
                status = handle.status()
                assert (status.state, status.finished, status.attempts) == (JobState.RUNNING, False, 1)
                assert status.worker in {worker.name for worker in queue.stats().workers}
                assert status.started_at is not None
                assert status.started_at >= status.enqueued_at
                assert (status.finished_at, status.result, status.error) == (None, None, None)
            finally:
                trace.open("gate")
            assert handle.result(10) == "gate"
        ended = handle.status()
        assert (ended.state, ended.finished, ended.result) == (JobState.SUCCEEDED, True, "gate")
        assert (ended.attempts, ended.started_at, ended.worker) == (1, status.started_at, status.worker)
        assert ended.started_at is not None
        assert ended.finished_at is not None
        assert ended.finished_at >= ended.started_at

    def test_T3_the_result_has_the_type_of_the_annotation(self, queue: JobQueue, harness: Harness) -> None:
        parcel = tasks.Parcel.model_validate({"kg": "1.50", "labels": ["ä"]})
        with harness.working(queue, threads=1):
            handle = queue.enqueue(tasks.same_parcel, parcel)
            assert handle.result(10) == parcel
        for result in (queue.result(handle.id), queue.handle(handle.id, tasks.same_parcel).result()):
            assert isinstance(result, tasks.Parcel)
            assert result == parcel
        assert handle.status().result == {"kg": "1.50", "labels": ["ä"]}

    def test_T3_it_waits_for_the_end_and_no_longer(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.spin, 0.5)
        with harness.working(queue, threads=1):
            assert handle.result() == 0.5
            answered = time.time()
        ended = trace.runs(handle.id)[0].ended
        assert ended is not None
        assert answered - ended <= 1.0

    def test_T3_a_result_that_does_not_come_in_time(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.wait_for, "gate")
        self._times_out(queue, handle.id)
        with harness.working(queue, threads=1):
            try:
                eventually(lambda: trace.times(handle.id))
                self._times_out(queue, handle.id)
            finally:
                trace.open("gate")
            assert handle.result(10) == "gate"

    @staticmethod
    def _times_out(queue: JobQueue, job_id: str) -> None:
        for timeout in (0.0, 0.7):
            started = time.monotonic()
            with pytest.raises(ResultTimeout):
                queue.result(job_id, timeout)
            assert timeout <= time.monotonic() - started <= timeout + 1.0

    def test_T3_a_failure_tells_where_it_was(self, queue: JobQueue, harness: Harness) -> None:
        handle = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no such ünit")
        with harness.working(queue, threads=1), pytest.raises(JobFailed, match="no such ünit") as failed:
            handle.result(10)
        error = failed.value.error
        assert error is not None
        assert (error.type, error.message, error.attempt) == (f"{tasks.__name__}.Refused", "no such ünit", 1)
        assert f'tasks.py", line {last_line(tasks.fail)}, in fail' in error.traceback
        assert error.traceback.rstrip().endswith("Refused: no such ünit")
        assert handle.status().error == error

    def test_T3_a_thousand_waits_cost_no_thread_each(self, queue: JobQueue, harness: Harness) -> None:
        async def wait_for_all() -> list[Any]:
            handles = await waiting.enqueue_many(tasks.echo.job(number) for number in range(200))
            before = threading.active_count()
            waits = [asyncio.ensure_future(handle.result(60)) for handle in handles * 5]
            _, unfinished = await asyncio.wait(waits, timeout=1.0)
            assert len(unfinished) == len(waits) == 1000
            assert threading.active_count() - before < 50
            with harness.working(queue, threads=4):
                return await asyncio.gather(*waits)

        waiting = AsyncJobQueue(queue)
        assert asyncio.run(wait_for_all()) == list(range(200)) * 5

    def test_T3_waiting_in_a_coroutine_is_like_waiting(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        async def wait() -> None:
            with pytest.raises(JobNotFound):
                await waiting.result(NEVER)
            handle = await waiting.enqueue(tasks.wait_for, "gate")
            started = time.monotonic()
            with pytest.raises(ResultTimeout):
                await handle.result(0.5)
            assert 0.5 <= time.monotonic() - started <= 1.5
            trace.open("gate")
            dying = await waiting.enqueue(tasks.fail.using(retry=tasks.ONCE), "no")
            with harness.working(queue, threads=1):
                assert await handle.result(10) == "gate"
                with pytest.raises(JobFailed, match="no"):
                    await dying.result(10)

        waiting = AsyncJobQueue(queue)
        asyncio.run(wait())

    def test_T4_progress_is_seen_while_it_runs(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.report, "gate", 10)
        assert handle.status().progress is None
        with harness.working(queue, threads=1):
            try:
                eventually(lambda: handle.status().progress is not None)
                status = handle.status()
            finally:
                trace.open("gate")
            assert status.state is JobState.RUNNING
            assert status.progress == Progress(5, 10, "half way")
            assert handle.result(10) == 10

    def test_T6_a_result_that_is_no_json_is_the_end(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.unserialisable.using(retry=tasks.QUICK))
        with harness.working(queue, threads=1), pytest.raises(JobFailed, match="result"):
            handle.result(10)
        status = handle.status()
        assert (status.state, status.result, trace.times(handle.id)) == (JobState.DEAD, None, 1)
        assert status.error is not None
        assert status.error.type == "queueport.errors.InvalidJob"

    def test_T6_a_result_that_is_too_large_is_the_end(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        limit = queue.limits.result
        assert limit is not None, "no store keeps results of any size"
        fits = queue.enqueue(tasks.large, limit - 2)  # without the quotes
        handle = queue.enqueue(tasks.large.using(retry=tasks.QUICK), limit - 1)
        with harness.working(queue, threads=1):
            assert len(fits.result(20)) == limit - 2
            with pytest.raises(JobFailed, match=f"{limit + 1} bytes.*{limit}"):
                handle.result(20)
        status = handle.status()
        assert (status.state, status.result, trace.times(handle.id)) == (JobState.DEAD, None, 1)
        assert status.error is not None
        assert status.error.type == "queueport.errors.PayloadTooLarge"

"""Group T, "Status and result": what `status`, `result` and `jobs` return, and retention. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from queueport import AsyncJobQueue, JobQueue, JobState, Retry, Task
from queueport.errors import JobFailed, JobNotFound, ResultTimeout
from queueport.status import Progress
from queueport.testing import tasks
from queueport.testing.contract.case import Case, budgets
from queueport.testing.harness import Harness
from queueport.testing.rude_tasks import WRONG_PROGRESS, report_oddly
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["StatusTests"]

UNKNOWN = "never-seen"
"""An id that no job has."""


class StatusTests(Case):
    """All lines of group T."""

    def test_T1_an_unknown_id_is_not_found(self, queue: JobQueue) -> None:
        handle = queue.handle(UNKNOWN)
        by_id = (queue.status, queue.result, queue.retry, queue.cancel)
        calls: list[Callable[[], object]] = [partial(call, UNKNOWN) for call in by_id]
        calls += [handle.status, handle.result, handle.retry, handle.cancel, partial(handle.result, 30)]
        for call in calls:
            with pytest.raises(JobNotFound, match=UNKNOWN):
                call()

    def test_T2_status_during_and_after_an_attempt(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
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

    def test_T3_result_returns_soon_after_the_job_ends(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.spin, 0.5)
        with harness.working(queue, threads=1):
            assert handle.result() == 0.5
            answered = time.time()
        ended = trace.runs(handle.id)[0].ended
        assert ended is not None
        assert answered - ended <= 1.0

    def test_T3_result_times_out(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
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

    def test_T3_a_failure_carries_its_traceback(self, queue: JobQueue, harness: Harness) -> None:
        handle = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no such ünit")
        with harness.working(queue, threads=1), pytest.raises(JobFailed, match="no such ünit") as failed:
            handle.result(10)
        error = failed.value.error
        assert error is not None
        assert (error.type, error.message, error.attempt) == (f"{tasks.__name__}.Refused", "no such ünit", 1)
        assert f'tasks.py", line {last_line(tasks.fail)}, in fail' in error.traceback
        assert error.traceback.rstrip().endswith("Refused: no such ünit")
        assert handle.status().error == error

    def test_T3_a_thousand_awaited_results_need_no_thread_each(self, queue: JobQueue, harness: Harness) -> None:
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

    def test_T3_result_can_be_awaited(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        async def wait() -> None:
            with pytest.raises(JobNotFound):
                await waiting.result(UNKNOWN)
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

    def test_T4_progress_is_visible_while_the_job_runs(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
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

    def test_T5_jobs_are_filtered_newest_first(self, queue: JobQueue, harness: Harness) -> None:
        one = queue.enqueue(tasks.add, 1).id
        dead = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no").id
        with harness.working(queue, threads=1):
            eventually(lambda: not queue.jobs(state="queued") and not queue.jobs(state="running"))
        two = queue.enqueue(tasks.add.using(queue="other"), 2).id
        later = queue.enqueue(tasks.echo.using(delay=3600), 3).id
        four = queue.enqueue(tasks.echo, 4).id
        five = queue.enqueue(tasks.add, 5).id
        queue.cancel(five)
        found = {
            "all": queue.jobs(),
            "succeeded": queue.jobs(state=JobState.SUCCEEDED),
            "by a state's name": queue.jobs(state="dead"),
            "queued": queue.jobs(state=JobState.QUEUED),
            "scheduled": queue.jobs(state=JobState.SCHEDULED),
            "cancelled": queue.jobs(state=JobState.CANCELLED),
            "running": queue.jobs(state=JobState.RUNNING),
            "queue": queue.jobs(queue="other"),
            "no such queue": queue.jobs(queue="none"),
            "task": queue.jobs(task=tasks.add),
            "by a task's name": queue.jobs(task=tasks.echo.name),
            "queue and task": queue.jobs(queue=tasks.QUEUE, task=tasks.add),
            "all three": queue.jobs("queued", tasks.QUEUE, tasks.echo),
            "limit": queue.jobs(limit=2),
            "a huge limit": queue.jobs("queued", limit=10**30),
        }
        assert {name: [status.id for status in page] for name, page in found.items()} == {
            "all": [five, four, later, two, dead, one],
            "succeeded": [one],
            "by a state's name": [dead],
            "queued": [four, two],
            "scheduled": [later],
            "cancelled": [five],
            "running": [],
            "queue": [two],
            "no such queue": [],
            "task": [five, two, one],
            "by a task's name": [four, later],
            "queue and task": [five, one],
            "all three": [four],
            "limit": [five, four],
            "a huge limit": [four, two],
        }

    def test_T5_pages_follow_one_another(self, queue: JobQueue) -> None:
        wanted = [handle.id for handle in queue.enqueue_many([tasks.add.job(number) for number in range(7)])]
        queue.enqueue_many([tasks.echo.job(number) for number in range(3)])
        seen: list[str] = []
        pages = 0
        while page := queue.jobs(state="queued", task=tasks.add, limit=2, after=seen[-1] if seen else None):
            seen += [status.id for status in page]
            pages += 1
            queue.enqueue(tasks.add, 100)  # a job that is enqueued between two pages must not change the next page
        assert (seen, pages) == (wanted[::-1], 4)

    def test_T6_a_result_that_cannot_be_serialised_makes_the_job_dead(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        handle = queue.enqueue(tasks.unserialisable.using(retry=tasks.QUICK))
        with harness.working(queue, threads=1), pytest.raises(JobFailed, match="result"):
            handle.result(10)
        status = handle.status()
        assert (status.state, status.result, trace.times(handle.id)) == (JobState.DEAD, None, 1)
        assert status.error is not None
        assert status.error.type == "queueport.errors.InvalidJob"

    def test_T6_a_result_that_is_too_large_makes_the_job_dead(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        limit = queue.limits.result
        assert limit is not None, "the store does not declare a limit for results"
        fits = queue.enqueue(tasks.large, limit - 2)  # JSON adds two quotation marks
        handle = queue.enqueue(tasks.large.using(retry=tasks.QUICK), limit - 1)
        with harness.working(queue, threads=1):
            assert len(fits.result(20)) == limit - 2
            with pytest.raises(JobFailed, match=f"{limit + 1} bytes.*{limit}"):
                handle.result(20)
        status = handle.status()
        assert (status.state, status.result, trace.times(handle.id)) == (JobState.DEAD, None, 1)
        assert status.error is not None
        assert status.error.type == "queueport.errors.PayloadTooLarge"

    def test_T7_ended_jobs_are_removed_after_their_retention(self, harness: Harness, trace: Trace) -> None:
        queue = harness.open(keep_succeeded=2.0, keep_dead=4.0)
        succeeded = queue.enqueue(tasks.echo, 1).id
        kept_longer = queue.enqueue(tasks.echo.using(keep_result=3600.0), 2).id
        dead = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no").id
        alive = self._alive(queue)
        with harness.working(queue, threads=4):
            try:
                eventually(lambda: queue.status(succeeded).finished and queue.status(dead).finished)
                ends = queue.status(succeeded).finished_at, queue.status(dead).finished_at
                eventually(lambda: removed(queue, succeeded))
                first = queue.operations.store.now()
                assert queue.status(dead).state is JobState.DEAD
                eventually(lambda: removed(queue, dead))
                second = queue.operations.store.now()
                self._still_alive(queue, alive)
            finally:
                trace.open("gate")
        assert queue.result(kept_longer) == 2
        for end, seen, keep in zip(ends, (first, second), (2.0, 4.0), strict=True):
            assert end is not None
            assert keep <= seen - end.timestamp() <= keep + 2.0
        for job_id in (succeeded, dead):
            with pytest.raises(JobNotFound):
                queue.status(job_id)

    def test_T7_retention_by_count_keeps_the_newest(self, harness: Harness, trace: Trace) -> None:
        queue = harness.open(keep_succeeded="3 jobs")
        dead = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no").id
        with harness.working(queue, threads=1):
            eventually(lambda: queue.status(dead).finished)
        done = [handle.id for handle in queue.enqueue_many([tasks.echo.job(number) for number in range(6)])]
        alive = self._alive(queue)
        with harness.working(queue, threads=4):
            try:
                eventually(lambda: removed(queue, *done[:3]))
                self._still_alive(queue, alive)
            finally:
                trace.open("gate")
            assert queue.result(alive[JobState.RUNNING], 10) == "gate"
            eventually(lambda: removed(queue, done[3]))
        kept = {status.id for status in queue.jobs(state=JobState.SUCCEEDED)}
        assert kept == {*done[4:], alive[JobState.RUNNING]}
        assert [queue.result(job_id) for job_id in done[4:]] == [4, 5]
        assert queue.status(dead).state is JobState.DEAD

    @staticmethod
    def _alive(queue: JobQueue) -> dict[JobState, str]:
        """Enqueue one job for each state that is not final. A worker brings the jobs to their states."""
        slow = Retry(max_attempts=2, initial=3600.0)
        return {
            JobState.QUEUED: queue.enqueue(tasks.echo.using(queue="without_worker"), 3).id,
            JobState.SCHEDULED: queue.enqueue(tasks.echo.using(delay=3600), 4).id,
            JobState.RETRYING: queue.enqueue(tasks.fail.using(retry=slow), "later").id,
            JobState.RUNNING: queue.enqueue(tasks.wait_for, "gate").id,
        }

    @staticmethod
    def _still_alive(queue: JobQueue, jobs: dict[JobState, str]) -> None:
        assert {state: queue.status(job_id).state for state, job_id in jobs.items()} == {s: s for s in jobs}

    def test_T8_progress_cannot_stop_the_heartbeats_of_other_jobs(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        odd, neighbour = queue.enqueue(report_oddly, "gate"), queue.enqueue(tasks.wait_for, "gate")
        with harness.working(queue, threads=2):
            try:
                eventually(lambda: odd.status().progress is not None)
                time.sleep(2.5 * harness.settings["lease"])  # the test proves that no job is interrupted in this time
                assert (odd.status().state, neighbour.status().state) == (JobState.RUNNING, JobState.RUNNING)
            finally:
                trace.open("gate")
            errors = odd.result(10)
            assert neighbour.result(10) == "gate"
        assert len(errors) == len(WRONG_PROGRESS)
        assert (budgets(odd.status()), budgets(neighbour.status())) == ((1, 0, 0), (1, 0, 0))
        progress = odd.status().progress
        assert progress is not None
        assert (progress.current, progress.total) == (0.5, 8)
        assert progress.message is not None
        assert progress.message.startswith("\0\\ud800x")
        assert len(progress.message) <= 1_000

    def test_T9_jobs_are_found_by_tag_key_error_time_and_text(self, queue: JobQueue, harness: Harness) -> None:
        one = queue.enqueue(tasks.add.using(tags=("vip", "eu"), key="k"), 1701).id
        dead = queue.enqueue(tasks.fail.using(retry=tasks.ONCE, tags=["vip"]), "no").id
        assert [status.tags for status in queue.jobs()] == [["vip"], ["vip", "eu"]]
        assert {status.id for status in queue.jobs("queued", tag="vip")} == {one, dead}
        with harness.working(queue, threads=1):
            eventually(lambda: not queue.jobs(state="queued") and not queue.jobs(state="running"))
        two = queue.enqueue(tasks.add.using(tags=["eu"], key="k", queue="other"), 1702).id
        later = queue.enqueue(tasks.echo.using(delay=3600), "Zoë").id
        middle = queue.status(two).enqueued_at
        found: dict[str, list[dict[str, Any]]] = {
            "": [{"tag": "none"}, {"key": "none"}, {"text": "none"}, {"error": "OSError"}, {"since": 0}],
            "one dead": [{"tag": "vip"}, {"until": middle}],
            "one": [{"key": "k", "tag": "vip"}, {"text": "1701", "until": 0}, {"state": "succeeded", "tag": "eu"}],
            "dead": [{"error": "Exception"}, {"error": "Refused", "tag": "vip"}, {"state": "dead", "since": 3600}],
            "two": [{"key": "k", "since": middle}, {"tag": "eu", "queue": "other"}, {"state": "queued", "tag": "eu"}],
            "one two": [{"key": "k"}, {"tag": "eu"}, {"task": tasks.add, "text": "170"}],
            "two later": [{"since": middle}],
            "later": [{"text": "Zoë"}, {"since": middle, "state": "scheduled"}],
        }
        names = {"one": one, "dead": dead, "two": two, "later": later}
        for expected, queries in found.items():
            wanted = [names[name] for name in reversed(expected.split())]
            for query in queries:
                assert [status.id for status in queue.jobs(**query)] == wanted, query
                assert queue.count(**query) == len(wanted), query
        letters = queue.dead_letters
        dead_only: list[dict[str, Any]] = [{"tag": "vip"}, {"text": '"no"'}, {"until": middle}, {"error": "Refused"}]
        for query in dead_only:
            assert [status.id for status in letters.list(**query)] == [dead], query
        assert letters.list(tag="eu") == letters.list(key="k") == letters.list(since=middle) == []
        assert [status.id for status in queue.jobs(tag="eu", limit=1)] == [two]
        assert [status.id for status in queue.jobs(tag="eu", limit=1, after=two)] == [one]

    def test_T10_many_jobs_are_changed_by_filters(self, queue: JobQueue, harness: Harness) -> None:
        failing = tasks.fail.using(retry=tasks.ONCE, tags=["import"])
        dead = [handle.id for handle in queue.enqueue_many([failing.job(f"no {number}") for number in range(3)])]
        other = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no 1").id
        with harness.working(queue):
            eventually(lambda: queue.dead_letters.count() == 4)
            assert queue.dead_letters.retry_all(tag="import", text="no 1") == 1
            eventually(lambda: queue.status(dead[1]).attempts == 2 and queue.status(dead[1]).state is JobState.DEAD)
            assert queue.status(other).attempts == 1
        waiting = [queue.enqueue(tasks.echo.using(tags=["import"], delay=delay), 1).id for delay in (None, 3600)]
        kept = queue.enqueue(tasks.echo, 1).id
        assert queue.cancel_all(tag="import") == 2
        assert {queue.status(job_id).reason for job_id in waiting} == {"cancelled"}
        assert queue.status(kept).state is JobState.QUEUED
        assert queue.dead_letters.purge(tag="import", error="Refused") == 3
        assert {queue.status(job_id).reason for job_id in dead} == {"discarded"}
        assert [status.id for status in queue.dead_letters.list()] == [other]


def last_line(task: Task[..., Any, Any]) -> int:
    """The number of the last line of a task's function in its file."""
    function = task.function
    assert function is not None
    lines, first = inspect.getsourcelines(inspect.unwrap(function))
    return first + len(lines) - 1


def removed(queue: JobQueue, *job_ids: str) -> bool:
    """True if `jobs` no longer lists any of these jobs."""
    listed = {status.id for status in queue.jobs()}
    return listed.isdisjoint(job_ids)

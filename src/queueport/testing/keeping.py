"""T: listing, and how long what has ended is kept. For the contract suite."""

from __future__ import annotations

import pytest

from queueport import JobQueue, JobState, Retry
from queueport.errors import JobNotFound
from queueport.testing import tasks
from queueport.testing.case import Case
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["Keeping"]


def gone(queue: JobQueue, *job_ids: str) -> bool:
    """Whether none of them can be found any more."""
    listed = {status.id for status in queue.jobs()}
    return listed.isdisjoint(job_ids)


class Keeping(Case):
    """The lines T5 and T7."""

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
        }

    def test_T5_pages_follow_one_another(self, queue: JobQueue) -> None:
        wanted = [handle.id for handle in queue.enqueue_many([tasks.add.job(number) for number in range(7)])]
        queue.enqueue_many([tasks.echo.job(number) for number in range(3)])
        seen: list[str] = []
        pages = 0
        while page := queue.jobs(state="queued", task=tasks.add, limit=2, after=seen[-1] if seen else None):
            seen += [status.id for status in page]
            pages += 1
            queue.enqueue(tasks.add, 100)  # newer than the first page: it moves nothing
        assert (seen, pages) == (wanted[::-1], 4)

    def test_T7_what_has_ended_goes_in_its_time(self, harness: Harness, trace: Trace) -> None:
        queue = harness.open(keep_succeeded=2.0, keep_dead=4.0)
        succeeded = queue.enqueue(tasks.echo, 1).id
        kept_longer = queue.enqueue(tasks.echo.using(keep_result=3600.0), 2).id
        dead = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no").id
        alive = self._alive(queue)
        with harness.working(queue, threads=4):
            try:
                eventually(lambda: queue.status(succeeded).finished and queue.status(dead).finished)
                ends = queue.status(succeeded).finished_at, queue.status(dead).finished_at
                eventually(lambda: gone(queue, succeeded))
                first = queue.operations.store.now()
                assert queue.status(dead).state is JobState.DEAD
                eventually(lambda: gone(queue, dead))
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

    def test_T7_or_only_the_newest_are_kept(self, harness: Harness, trace: Trace) -> None:
        queue = harness.open(keep_succeeded="3 jobs")
        dead = queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no").id
        with harness.working(queue, threads=1):
            eventually(lambda: queue.status(dead).finished)
        done = [handle.id for handle in queue.enqueue_many([tasks.echo.job(number) for number in range(6)])]
        alive = self._alive(queue)
        with harness.working(queue, threads=4):
            try:
                eventually(lambda: gone(queue, *done[:3]))
                self._still_alive(queue, alive)
            finally:
                trace.open("gate")
            assert queue.result(alive[JobState.RUNNING], 10) == "gate"
            eventually(lambda: gone(queue, done[3]))
        kept = {status.id for status in queue.jobs(state=JobState.SUCCEEDED)}
        assert kept == {*done[4:], alive[JobState.RUNNING]}
        assert [queue.result(job_id) for job_id in done[4:]] == [4, 5]
        assert queue.status(dead).state is JobState.DEAD

    @staticmethod
    def _alive(queue: JobQueue) -> dict[JobState, str]:
        """A job for each state that is not final, the worker to come."""
        patient = Retry(max_attempts=2, initial=3600.0)
        return {
            JobState.QUEUED: queue.enqueue(tasks.echo.using(queue="nobody_works"), 3).id,
            JobState.SCHEDULED: queue.enqueue(tasks.echo.using(delay=3600), 4).id,
            JobState.RETRYING: queue.enqueue(tasks.fail.using(retry=patient), "later").id,
            JobState.RUNNING: queue.enqueue(tasks.wait_for, "gate").id,
        }

    @staticmethod
    def _still_alive(queue: JobQueue, jobs: dict[JobState, str]) -> None:
        assert {state: queue.status(job_id).state for state, job_id in jobs.items()} == {s: s for s in jobs}

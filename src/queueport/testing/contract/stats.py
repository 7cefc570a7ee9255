"""Group M, "Stats": what `stats` and `check` report. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from queueport import Capability, JobQueue, JobState, Retry, Task
from queueport.errors import DuplicateJob, JobNotFound
from queueport.testing import tasks
from queueport.testing.contract.case import Case, lacks, needs
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["StatsTests"]

ONCE = Retry(max_attempts=1)


class StatsTests(Case):
    """All lines of group M."""

    def test_M1_counts_equal_what_was_done(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queue.enqueue_many(tasks.echo.using(queue="a").job(n) for n in range(4))
        queue.enqueue_many(tasks.fail.using(queue="b", retry=ONCE).job() for _ in range(3))
        queue.enqueue(tasks.fail.using(queue="b", retry=Retry(max_attempts=2, initial=3600)).job())
        queue.enqueue(tasks.echo.using(queue="b", delay=3600).job(0))
        queue.enqueue(tasks.echo.using(queue="b").job(0)).cancel()
        before = queue.stats()
        assert (before.queues["a"].queued, before.queues["a"].ready, before.queues["b"].queued) == (4, 4, 4)
        assert (before.totals.queued, before.totals.scheduled, before.totals.cancelled) == (8, 1, 1)
        assert before.totals.total == 10
        with harness.working(queue, "a", "b"):
            eventually(lambda: queue.stats().totals.queued == 0 and queue.stats().totals.running == 0)
        waiting = queue.enqueue(tasks.echo.using(queue="a").job(9))
        stats = queue.stats()
        a, b = stats.queues["a"], stats.queues["b"]
        assert (a.queued, a.succeeded, a.dead, a.total) == (1, 4, 0, 5)
        assert (b.scheduled, b.retrying, b.dead, b.cancelled, b.succeeded, b.total) == (1, 1, 3, 1, 0, 6)
        assert (stats.totals.succeeded, stats.totals.dead, stats.totals.queued, stats.totals.total) == (4, 3, 1, 11)
        assert (stats.processed, stats.failed) == (8, 4)
        waiting.cancel()
        assert queue.stats().queues["a"].queued == 0

    def test_M1_an_empty_queue_shows_zeros(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        empty = queue.stats()
        assert (empty.totals.total, empty.processed, empty.failed, empty.workers) == (0, 0, 0, [])
        assert empty.queues["never-used"].total == 0
        assert empty.queues["never-used"].oldest_queued_age is None
        handle = queue.enqueue(tasks.echo, 1)
        with harness.working(queue):
            handle.result(10)
        used = queue.stats().queues[tasks.QUEUE]
        assert (used.queued, used.running, used.succeeded, used.oldest_queued_age) == (0, 0, 1, None)

    @needs(Capability.DEPTH)
    def test_M1_depth_is_the_backends_own_count(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queue.enqueue_many(tasks.echo.job(n) for n in range(3))
        queue.enqueue(tasks.echo.using(delay=3600).job(4))
        eventually(lambda: queue.stats().queues[tasks.QUEUE].depth == 3)

    @lacks(Capability.DEPTH)
    def test_M1_an_unknown_depth_is_none(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queue.enqueue(tasks.echo, 1)
        assert queue.stats().queues[tasks.QUEUE].depth is None

    def test_M1_running_jobs_are_counted(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handles = queue.enqueue_many(tasks.wait_for.job("gate") for _ in range(3))
        with harness.working(queue, threads=2):
            eventually(lambda: queue.stats().totals.running == 2)
            assert queue.stats().totals.queued == 1
            trace.open("gate")
            assert [handle.result(10) for handle in handles] == ["gate"] * 3
        assert queue.stats().totals.succeeded == 3

    def test_M2_age_is_that_of_the_oldest_waiting_job(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        started = time.time()
        oldest = queue.enqueue(tasks.echo, 1)
        second = queue.enqueue(tasks.echo, 2)
        queue.enqueue(tasks.echo.using(delay=3600).job(3))

        def age() -> float:
            found = queue.stats().queues[tasks.QUEUE].oldest_queued_age
            assert found is not None
            return found

        first = age()
        assert 0 <= first <= time.time() - started + 0.1
        eventually(lambda: age() >= first + 0.3)
        waited = age()
        oldest.cancel()
        assert age() <= waited + 0.1, "the age is not that of the oldest job that is still queued"
        second.cancel()
        assert queue.stats().queues[tasks.QUEUE].oldest_queued_age is None

    def test_M3_live_workers_are_listed(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        with harness.working(queue, "a", "b"):
            (worker,) = eventually(lambda: queue.stats().workers)
            assert set(worker.queues) == {"a", "b"}
            assert tasks.echo.name in worker.tasks
            assert abs(worker.heartbeat_at.timestamp() - time.time()) < 5
            assert queue.enqueue(tasks.echo.using(queue="a").job(1)).result(10) == 1
            first = worker.heartbeat_at
            eventually(lambda: queue.stats().workers[0].heartbeat_at > first)
        assert queue.stats().workers == [], "a worker that has stopped is still listed"

    @needs(Capability.PERSISTENT)
    def test_M3_a_killed_worker_is_removed(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        worker = harness.process()
        other = harness.process()
        assert len(queue.stats().workers) == 2
        worker.kill()
        eventually(lambda: len(queue.stats().workers) == 1, 10)
        assert other.running

    def test_M4_counters_only_grow_and_survive_retention(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        short = harness.open(keep_succeeded=0.2, keep_dead=0.2)
        for _ in range(3):
            short.enqueue(tasks.echo, 1)
        handle = short.enqueue(tasks.fail.using(retry=Retry(max_attempts=2, initial=0.1, jitter=0)).job())
        with harness.working(short):
            seen = [(0, 0)]

            def removed() -> bool:
                stats = short.stats()
                now = stats.processed, stats.failed
                assert now >= seen[-1], "a counter became smaller"
                seen.append(now)
                return stats.totals.total == 0 and now != (0, 0)

            eventually(removed, 15)
        stats = short.stats()
        assert (stats.processed, stats.failed) == (4, 2)
        assert handle.id not in {status.id for status in short.jobs()}

    @needs(Capability.PERSISTENT)
    def test_M4_counters_are_exact_after_kill_9(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        done = queue.enqueue_many(tasks.echo.job(n) for n in range(10))
        stuck = queue.enqueue(tasks.die_once)
        first = harness.process(options=["--threads=2"])
        eventually(lambda: not first.running)
        harness.process(options=["--threads=2"])
        eventually(lambda: all(h.status().state is JobState.SUCCEEDED for h in [*done, stuck]), 20)
        stats = queue.stats()
        crashes = sum(handle.status().crashes for handle in [*done, stuck])
        assert (stats.processed, stats.totals.succeeded) == (11, 11)
        assert stats.failed == crashes >= 1

    def test_M5_check_leaves_nothing_behind_and_warns_of_jobs_without_a_worker(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        def alone() -> list[str]:
            health = queue.check()
            assert health.ok, health.problems
            return [warning for warning in health.warnings if "no live worker" in warning]

        assert alone() == []
        assert queue.stats().as_dict()["queues"] == {}
        handle = queue.enqueue(tasks.echo.using(queue="a").job(1))
        before = queue.stats()
        assert [("1 job " in warning, "'a'" in warning) for warning in alone()] == [(True, True)]
        assert queue.stats().queues.keys() == before.queues.keys()
        assert queue.stats().totals == before.totals
        with harness.working(queue, "a"):
            assert handle.result(10) == 1
            queue.enqueue(tasks.echo.using(queue="a", delay=3600).job(2))
            assert alone() == []

    def test_M6_the_history_adds_up_to_what_was_done(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queue.enqueue_many(tasks.echo.using(queue="a").job(n) for n in range(4))
        dead = queue.enqueue_many(tasks.fail.using(queue="b", retry=ONCE).job() for _ in range(3))
        queue.enqueue(tasks.fail.using(queue="b", retry=Retry(max_attempts=2, initial=0.0, jitter=0)).job())
        kept = queue.enqueue(tasks.echo.using(queue="b", delay=3600, key="k").job(0))
        assert not queue.enqueue(tasks.echo.using(queue="b", key="k").job(0)).created
        cancelled = queue.enqueue_many(tasks.echo.using(queue="b", delay=3600).job(n) for n in range(2))
        for handle in [*cancelled, cancelled[0]]:
            handle.cancel()
        with pytest.raises(DuplicateJob):
            queue.enqueue(tasks.echo.using(queue="a", job_id=kept.id).job(1))
        with harness.working(queue, "a", "b"):
            eventually(lambda: queue.stats().totals.dead == 4 and queue.stats().totals.succeeded == 4, 20)
            dead[0].retry()
            eventually(lambda: queue.stats().processed == 11, 20)
        queue.dead_letters.discard(dead[1].id)
        with pytest.raises(JobNotFound):
            queue.dead_letters.discard(dead[1].id)
        a = {"enqueued": 4, "succeeded": 4, "failed": 0, "dead": 0, "retried": 0, "cancelled": 0, "wait": 4, "run": 4}
        b = {"enqueued": 7, "succeeded": 0, "failed": 6, "dead": 5, "retried": 1, "cancelled": 2, "wait": 6, "run": 6}
        eventually(lambda: _summed(queue, "a") == a and _summed(queue, "b") == b, 10, lambda: f"{_summed(queue, 'b')}")
        assert _summed(queue, "b", tasks.fail) == {**b, "enqueued": 4, "cancelled": 0}
        assert _summed(queue) == {name: a[name] + b[name] for name in a}
        hour = queue.stats().queues["b"].last_hour
        assert hour is not None
        assert (hour.enqueued, hour.failed, hour.dead, hour.run.count) == (7, 6, 5, 6)

    @needs(Capability.PERSISTENT)
    def test_M6_the_history_is_exact_after_kill_9(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        short = harness.open(keep_succeeded=0.2)
        done = short.enqueue_many(tasks.echo.job(n) for n in range(10))
        stuck = short.enqueue(tasks.die_once)
        first = harness.process(options=["--threads=2"])
        eventually(lambda: not first.running)
        harness.process(options=["--threads=2"])
        eventually(lambda: short.stats().processed == 11, 20)
        crashes = short.stats().failed
        found = _summed(queue)
        assert (found["enqueued"], found["succeeded"], found["failed"], found["dead"]) == (11, 11, crashes, 0)
        assert found["wait"] == found["run"] >= 12
        assert len({handle.id for handle in [*done, stuck]}) == 11


def _summed(queue: JobQueue, name: str | None = None, task: Task[..., Any, Any] | None = None) -> dict[str, int]:
    """The sums of the history of the last hour, with the numbers of waits and run times."""
    points = queue.history(name, task)
    events = ("enqueued", "succeeded", "failed", "dead", "retried", "cancelled")
    sums = {event: sum(getattr(point, event) for point in points) for event in events}
    return {
        **sums,
        "wait": sum(point.wait.count for point in points),
        "run": sum(point.run.count for point in points),
    }

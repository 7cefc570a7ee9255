"""Group D, "Dead letters": dead jobs, `on_dead` hooks, unknown tasks and invalid messages. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import json
import os
import random
from datetime import UTC, datetime, timedelta

import pytest

from queueport import Capability, JobQueue, JobState, Retry, task
from queueport.errors import JobFailed, JobNotFound
from queueport.testing import tasks
from queueport.testing.contract.case import Case, needs
from queueport.testing.damage import damaged
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["DeadLetterTests"]

DAMAGED = "QUEUEPORT_CONTRACT_DAMAGED"
"""The environment variable with the number of damaged messages in the test of D6; default: 100."""
ONCE = Retry(max_attempts=1)

INVALID = {
    "not JSON": b"\xff\x00{",
    "nested too deeply": b"[" * 50_000 + b"]" * 50_000,
    "not an object": b"[1, 2]",
    "not from queueport": b'{"hello": "world"}',
    "of the wrong shape": b'{"v": 1, "id": 7, "task": null}',
    "of a newer version": json.dumps({"v": 999, "id": "x", "task": "t", "queue": "default"}).encode(),
    "without a record": json.dumps(
        {"v": 1, "id": "never-was", "task": tasks.echo.name, "queue": "default", "life": 1, "sent_at": 0.0}
    ).encode(),
}


def make_dead(queue: JobQueue, harness: Harness, *jobs: tuple[str, str]) -> list[str]:
    """Make one dead job for each pair of queue and error class. Returns the ids of the jobs."""
    made = [tasks.fail_as.using(queue=name, retry=ONCE).job(error, f"in {name}") for name, error in jobs]
    handles = queue.enqueue_many(made)
    with harness.working(queue, *{name for name, _ in jobs}):
        eventually(lambda: all(handle.status().state is JobState.DEAD for handle in handles), 15)
    return [handle.id for handle in handles]


def died_at(queue: JobQueue, *job_ids: str) -> datetime:
    """The time at which the last of these jobs died."""
    return max(at for job_id in job_ids if (at := queue.status(job_id).finished_at) is not None)


class DeadLetterTests(Case):
    """All lines of group D."""

    def test_D1_a_dead_job_keeps_its_data(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        retry = Retry(max_attempts=2, initial=0.1, jitter=0.0)
        job = tasks.fail.using(queue="q", retry=retry, headers={"a": "b"}).job(message="no luck")
        handle = queue.enqueue(job)
        with harness.working(queue, "q"):
            eventually(lambda: handle.status().state is JobState.DEAD)
        status = queue.dead_letters.get(handle.id)
        assert status == handle.status()
        assert (status.task, status.queue, status.args) == (tasks.fail.name, "q", [])
        assert (status.kwargs, status.headers) == ({"message": "no luck"}, {"a": "b"})
        assert (status.attempts, status.failures, status.crashes, status.max_attempts) == (2, 2, 0, 2)
        assert status.error is not None
        assert (status.error.type, status.error.message) == ("queueport.testing.tasks.Refused", "no luck")
        assert "raise Refused(message)" in status.error.traceback
        assert [error.attempt for error in status.errors] == [1, 2]
        assert status.started_at is not None
        assert status.finished_at is not None
        assert status.enqueued_at <= status.started_at <= status.finished_at <= datetime.now(UTC)
        assert json.loads(json.dumps(status.as_dict()))["error"]["message"] == "no luck"

    def test_D2_filters_find_the_jobs_that_died(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        ids = make_dead(
            queue, harness, ("a", "ValueError"), ("a", "Refused"), ("b", "ValueError"), ("b", "RefusedForGood")
        )
        letters = queue.dead_letters
        assert {status.id for status in letters.list()} == set(ids)
        assert {status.id for status in letters.list(queue="a")} == set(ids[:2])
        assert {status.id for status in letters.list(error="ValueError")} == {ids[0], ids[2]}
        assert {status.id for status in letters.list(error="Refused")} == {ids[1], ids[3]}
        assert {status.id for status in letters.list(error="queueport.testing.tasks.Refused", queue="a")} == {ids[1]}
        assert {status.id for status in letters.list(error="Exception", limit=9)} == set(ids)
        assert letters.count(error="OSError") == 0
        assert letters.list(task=tasks.echo.name) == []
        found = (letters.count(), letters.count(queue="b"), letters.count(error="ValueError"), letters.count(task="x"))
        assert found == (4, 2, 2, 0)
        assert letters.count(task=tasks.fail_as.name, queue="b", error="RefusedForGood") == 1
        pages, after = [], None
        while page := letters.list(limit=3, after=after):
            pages.append([status.id for status in page])
            after = page[-1].id
        assert [len(page) for page in pages] == [3, 1]
        assert [*pages[0], *pages[1]] == [status.id for status in letters.list()]
        with pytest.raises(JobNotFound, match="nowhere"):
            letters.get("nowhere")
        alive = queue.enqueue(tasks.echo, 1)
        with pytest.raises(JobNotFound, match=alive.id):
            letters.get(alive.id)

    def test_D3_retry_and_discard_affect_only_the_named_jobs(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        ids = make_dead(queue, harness, ("a", "ValueError"), ("a", "Refused"), ("b", "ValueError"), ("b", "Refused"))
        letters = queue.dead_letters
        letters.discard(ids[0])
        discarded = queue.status(ids[0])
        assert (discarded.state, discarded.reason) == (JobState.CANCELLED, "discarded")
        assert letters.retry(ids[1]).status().state is JobState.QUEUED
        assert letters.retry_all(queue="b", error="ValueError") == 1
        assert queue.status(ids[2]).state is JobState.QUEUED
        assert [status.id for status in letters.list()] == [ids[3]]
        assert letters.retry_all() == 1
        assert letters.retry_all() == 0
        assert letters.count() == 0
        for job_id in (ids[0], "nowhere"):
            with pytest.raises(JobNotFound):
                letters.discard(job_id)
            with pytest.raises(JobNotFound):
                letters.retry(job_id)

    def test_D3_purge_discards_the_jobs_that_are_old_enough(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        old = make_dead(queue, harness, ("a", "ValueError"), ("b", "ValueError"))
        letters = queue.dead_letters
        assert letters.purge(older_than=3600) == 0
        last = died_at(queue, *old)
        eventually(lambda: datetime.now(UTC) - last > timedelta(seconds=1))
        (young,) = make_dead(queue, harness, ("a", "ValueError"))
        between = last + (died_at(queue, young) - last) / 2
        assert letters.purge(queue="a", older_than=datetime.now(UTC) - between) == 1
        assert {status.id for status in letters.list()} == {old[1], young}
        assert letters.purge(queue="b") == 1
        assert letters.purge() == 1
        assert letters.count() == 0
        assert queue.status(young).reason == "discarded"

    def test_D3_a_job_can_be_added(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.dead_letters.add(tasks.add.job(1, b=2), error="found in the old system")
        status = queue.dead_letters.get(handle.id)
        assert (status.state, status.args, status.kwargs, status.attempts) == (JobState.DEAD, [1], {"b": 2}, 0)
        assert status.error is not None
        assert status.error.message == "found in the old system"
        with pytest.raises(JobFailed, match="found in the old system"):
            handle.result(1)
        queue.dead_letters.retry(handle.id)
        with harness.working(queue):
            assert handle.result(10) == 3

    def test_D4_the_hook_is_called_once(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        retry = Retry(max_attempts=2, initial=0.05, jitter=0.0)
        handles = queue.enqueue_many(tasks.fail.using(retry=retry).job(f"no {n}") for n in range(3))
        fine = queue.enqueue(tasks.fail_until, 2)
        with harness.working(queue):
            eventually(lambda: len(trace.notes("dead")) == 3)
            assert fine.result(10) == 2
        notes = trace.notes("dead")
        assert sorted(note["job"] for note in notes) == sorted(handle.id for handle in handles)
        assert {note["state"] for note in notes} == {"dead"}
        assert {note["error"] for note in notes} == {"no 0", "no 1", "no 2"}

    def test_D4_a_hook_that_raises_changes_nothing(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        handle = queue.enqueue(tasks.fail.using(retry=ONCE).job("raise in the hook"))
        with harness.working(queue):
            eventually(lambda: trace.notes("dead", job=handle.id))
            assert queue.enqueue(tasks.echo, 1).result(10) == 1
        assert handle.status().state is JobState.DEAD

    @needs(Capability.PERSISTENT)
    def test_D4_the_worker_that_declares_the_death_calls_the_hook(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        handle = queue.enqueue(tasks.die_with_hook.using(crash_limit=1).job())
        first = harness.process()
        eventually(lambda: not first.running)
        harness.process()
        eventually(lambda: handle.status().state is JobState.DEAD, 15)
        eventually(lambda: trace.notes("dead", job=handle.id))
        assert len(trace.notes("dead", job=handle.id)) == 1

    @needs(Capability.THREADS)
    def test_D5_a_worker_leaves_unknown_tasks_to_others(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queue = harness.open(unknown_after=30.0)
        known, unknown = queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.add, 1, 2)
        # A backend may give the message, once a second, to the thread that has waited longest: so each worker has one.
        # Another backend may give it to either of them each time, so the job may need long.
        with queue.worker(tasks=[tasks.echo], threads=1):
            assert known.result(10) == 1
            assert unknown.status().state is JobState.QUEUED
            with harness.working(queue, threads=1):
                assert unknown.result(30) == 3
        status = unknown.status()
        assert (status.attempts, status.failures, status.crashes) == (1, 0, 0)

    @needs(Capability.PERSISTENT)
    def test_D5_a_rolling_deploy_loses_nothing(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        # The job of the unknown task must not become dead before the newer worker has started: a start takes seconds.
        harness.process(QUEUEPORT_UNKNOWN_AFTER="30")
        newer = queue.enqueue("queueport.testing.newer.only_here", 5)
        assert queue.enqueue(tasks.echo, 1).result(10) == 1
        assert newer.status().state is JobState.QUEUED
        harness.process(options=["queueport.testing.newer"], QUEUEPORT_UNKNOWN_AFTER="30")
        # Only the newer of the two workers knows the task. The message is published again within 7.5 s, then once a
        # second, and each time either worker may receive it. With a timeout of 15 s, about one run in 64 failed.
        assert newer.result(30) == 5
        status = newer.status()
        assert (status.attempts, status.failures, status.crashes) == (1, 0, 0)

    def test_D5_a_task_unknown_to_all_workers_makes_the_job_dead(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        unknown = queue.enqueue("nobody.knows.this", 1)
        with harness.working(queue):
            assert queue.enqueue(tasks.echo, 1).result(10) == 1
            eventually(lambda: unknown.status().state is JobState.DEAD, 15)
            assert queue.enqueue(tasks.echo, 2).result(10) == 2
        status = unknown.status()
        assert status.error is not None
        assert status.error.type.endswith("UnknownTask")
        assert "nobody.knows.this" in status.error.message
        assert (status.attempts, status.failures) == (0, 0)
        assert status.finished_at is not None
        assert (status.finished_at - status.enqueued_at).total_seconds() >= 2.0, "the job died within unknown_after"

    def test_D5_a_task_runs_under_its_aliases(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        assert tasks.renamed.aliases == ("queueport.testing.tasks.old_name",)
        handle = queue.enqueue(task.named("queueport.testing.tasks.old_name").job(4))
        with harness.working(queue):
            assert handle.result(10) == 4

    @pytest.mark.parametrize("body", list(INVALID))
    def test_D6_invalid_messages_are_logged_and_put_aside(
        self, queue: JobQueue, harness: Harness, trace: Trace, caplog: pytest.LogCaptureFixture, body: str
    ) -> None:
        first = queue.enqueue(tasks.echo, 1)
        harness.inject(tasks.QUEUE, INVALID[body])
        with harness.working(queue):
            assert first.result(10) == 1
            assert queue.enqueue(tasks.echo, 2).result(10) == 2, "the worker no longer runs jobs"
            eventually(lambda: "put aside" in caplog.text + harness.logs(), what=lambda: caplog.text)
            if Capability.DEPTH in queue.capabilities:
                eventually(lambda: queue.stats().queues[tasks.QUEUE].depth == 0)
        assert len(trace.runs()) == 2

    def test_D6_jobs_run_among_damaged_messages(
        self, queue: JobQueue, harness: Harness, trace: Trace, caplog: pytest.LogCaptureFixture
    ) -> None:
        number = int(os.environ.get(DAMAGED, "100"))
        chance, seconds = random.Random(number), 30 + number / 20
        handles = []
        queue.setup(tasks.QUEUE)
        for place in range(number):
            fields = {"v": 1, "id": f"never-{place}", "task": tasks.echo.name, "queue": tasks.QUEUE, "life": 1}
            harness.inject(tasks.QUEUE, damaged(chance, {**fields, "sent_at": 1.7e9, "priority": 0, "payload": {}}))
            if place % 10 == 0:
                handles.append(queue.enqueue(tasks.echo, place))
        with harness.working(queue, threads=4):
            eventually(lambda: all(handle.status().finished for handle in handles), seconds)
            if Capability.DEPTH in queue.capabilities:
                eventually(lambda: queue.stats().queues[tasks.QUEUE].depth == 0, seconds)
            assert queue.enqueue(tasks.echo, "after").result(seconds) == "after", "the worker no longer runs jobs"
        assert {handle.status().state for handle in handles} == {JobState.SUCCEEDED}
        assert [len(trace.runs(handle.id)) for handle in handles] == [1] * len(handles)
        assert {run.task for run in trace.runs()} == {tasks.echo.name}
        assert "Traceback" not in caplog.text + harness.logs()

    @needs(Capability.NATIVE_DEAD_LETTERS)
    def test_D7_a_dead_job_is_visible_to_the_backends_tools(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        ids = make_dead(queue, harness, *[("default", "ValueError")] * 3)
        eventually(lambda: sorted(harness.native_dead()) == sorted(ids), 15)
        queue.dead_letters.discard(ids[0])
        eventually(lambda: sorted(harness.native_dead()) == sorted(ids[1:]))
        queue.retry(ids[1])
        eventually(lambda: list(harness.native_dead()) == [ids[2]])
        queue.dead_letters.purge()
        eventually(lambda: list(harness.native_dead()) == [])

    @needs(Capability.NATIVE_DEAD_LETTERS)
    def test_D7_a_native_redrive_runs_it_again(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        (job_id,) = make_dead(queue, harness, ("default", "ValueError"))
        eventually(lambda: list(harness.native_dead()) == [job_id], 15)
        harness.redrive(job_id)
        with harness.working(queue):
            eventually(lambda: queue.status(job_id).attempts == 2, 15)
            eventually(lambda: queue.status(job_id).state is JobState.DEAD, 15)
            eventually(lambda: list(harness.native_dead()) == [job_id], 15)
        assert len(queue.status(job_id).errors) == 2

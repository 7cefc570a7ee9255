"""RQ's own tools show queueport's queues and its started and failed jobs, and `rq requeue` retries dead jobs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from rq.job import Job, JobStatus

from adapters.rq.tests.rq_harness import RQCase, RQHarness
from queueport import JobQueue, JobState, Retry, get_queue
from queueport.errors import JobFailed
from queueport.testing.contract.case import disrupts
from queueport.testing.redis_store import Redis
from queueport.testing.tasks import QUEUE, echo, fail, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport_rq.names import Names


def rq(harness: RQHarness, *words: str) -> str:
    """The output of one of RQ's commands."""
    command = [sys.executable, "-m", "rq.cli", words[0], "-u", harness.server.url, *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestNativeTools(RQCase):
    def test_rq_info_counts_waiting_finished_and_dead_jobs(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        name = harness.rq.queue(QUEUE).name
        queue.enqueue_many(echo.job(number) for number in range(3))
        dead = queue.enqueue(fail.using(retry=Retry(max_attempts=1)).job())
        assert f"queue {name} 4, 0 executing, 0 finished, 0 failed" in rq(harness, "info", "--raw", name)
        with harness.working(queue):
            eventually(lambda: dead.status().state is JobState.DEAD)
            eventually(lambda: harness.rq.queue(QUEUE).finished_job_registry.get_job_count(cleanup=False) == 3)
        assert f"queue {name} 0, 0 executing, 3 finished, 1 failed" in rq(harness, "info", "--raw", name)

    def test_a_job_that_will_be_retried_is_not_in_the_registry_of_failed_jobs(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        waiting = queue.enqueue(fail.using(retry=Retry(max_attempts=2, initial=60.0)).job("not yet"))
        (rq_id,) = harness.rq.queue(QUEUE).job_ids
        with harness.working(queue):
            eventually(lambda: waiting.status().state is JobState.RETRYING)
            eventually(lambda: Job.fetch(rq_id, harness.rq.client, "json").get_status() is JobStatus.FAILED)
        job = Job.fetch(rq_id, harness.rq.client, "json")
        assert job.description == f"{fail.name} {waiting.id}"
        (result,) = job.results()
        assert "not yet" in str(result.exc_string)
        assert harness.rq.queue(QUEUE).failed_job_registry.get_job_ids() == []
        assert 0 < int(harness.rq.client.ttl(job.key)) <= 500

    def test_rqs_status_of_a_message_does_not_affect_the_job(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        handles = queue.enqueue_many(echo.job(status.value) for status in JobStatus)
        for rq_id, status in zip(harness.rq.queue(QUEUE).job_ids, JobStatus, strict=True):
            harness.rq.client.hset(Job.key_for(rq_id), "status", status.value)
        with harness.working(queue):
            assert [handle.result(20) for handle in handles] == [status.value for status in JobStatus]
        assert [trace.times(handle.id) for handle in handles] == [1] * len(handles)

    @pytest.mark.parametrize("native", [False, True], ids=["worker", "native"])
    def test_a_running_job_whose_message_a_dashboard_deletes_goes_on_and_a_queued_one_is_sent_again(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, native: bool
    ) -> None:
        queued = queue.enqueue(echo, "sent again")
        (message,) = harness.rq.queue(QUEUE).job_ids
        Job.fetch(message, harness.rq.client, "json").delete()
        harness.process(native=native)
        assert queued.result(harness.settings["lost_after"] + 20) == "sent again"
        running = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(running.id) == 1)
        (message,) = harness.rq.queue(QUEUE).started_job_registry.get_job_ids(cleanup=False)
        Job.fetch(message, harness.rq.client, "json").delete()
        trace.open("go")
        assert running.result(20) == "go"
        assert [(trace.times(handle.id), handle.status().attempts) for handle in (queued, running)] == [(1, 1), (1, 1)]

    def test_rq_requeue_retries_a_dead_job_whose_copy_has_the_error(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        handle = queue.enqueue(fail.using(retry=Retry(max_attempts=1)).job("no luck"))
        failed = harness.rq.queue(QUEUE).failed_job_registry
        copy = Names(harness.namespace).copy(handle.id, 1)
        with harness.working(queue):
            eventually(lambda: failed.get_job_ids() == [copy])
            job = Job.fetch(copy, harness.rq.client, "json")
            assert job.description == f"{fail.name} {handle.id}"
            result = job.latest_result()
            assert result is not None
            assert "no luck" in str(result.exc_string)
            rq(harness, "requeue", "--queue", harness.rq.queue(QUEUE).name, copy)
            again = Names(harness.namespace).copy(handle.id, 2)
            eventually(lambda: failed.get_job_ids() == [again])
        assert handle.status().attempts == 2
        assert not Job.exists(copy, harness.rq.client)

    def test_a_started_message_expires_before_rq_would_mark_it_as_failed(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        worker = harness.process()
        handle = queue.enqueue(wait_for, "go")
        eventually(lambda: trace.times(handle.id) == 1)
        worker.kill()
        started = harness.rq.queue(QUEUE).started_job_registry
        entries: Any = harness.rq.client.zrange(started.key, 0, -1, withscores=True)
        ((member, score),) = entries
        rq_id = started.parse_job_id(member)
        assert 0 < int(harness.rq.client.ttl(Job.key_for(rq_id))) < score - time.time() - 10
        harness.rq.client.expire(Job.key_for(rq_id), 0)
        started.cleanup(score + 1)
        assert harness.rq.queue(QUEUE).failed_job_registry.get_job_ids() == []
        harness.rq.client.delete(started.key)

    def test_one_id_in_two_namespaces_is_two_dead_letters(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        other = RQHarness(private=False)
        try:
            mine = [harness.open(), other.open()]
            for each in mine:
                handle = each.enqueue(fail.using(job_id="same", retry=Retry(max_attempts=1)).job())
                with harness.working(each), pytest.raises(JobFailed):
                    handle.result(10)
            eventually(lambda: [list(each.native_dead()) for each in (harness, other)] == [["same"], ["same"]])
            mine[0].dead_letters.discard("same")
            copies = [Names(each.namespace).copy("same", 1) for each in (harness, other)]
            assert [Job.exists(copy, harness.rq.client) for copy in copies] == [False, True]
            assert [list(each.native_dead()) for each in (harness, other)] == [[], ["same"]]
        finally:
            other.end()

    @disrupts
    def test_suspended_workers_take_no_jobs_until_rq_resume_and_can_be_stopped(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        rq(harness, "suspend")
        try:
            handle = queue.enqueue(echo, 1)
            with queue.worker(QUEUE, threads=2):
                eventually(lambda: "suspended" in rq(harness, "info", "--raw"), 20)
            assert trace.times(handle.id) == 0
        finally:
            rq(harness, "resume")
        with harness.working(queue):
            assert handle.result(10) == 1

    @disrupts
    def test_a_redis_can_be_named_by_its_socket(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        assert isinstance(harness.server, Redis)
        with get_queue(f"rq+unix://{harness.server.socket}?db=0", namespace=harness.namespace) as other:
            assert other.check().ok
            handle = other.enqueue(echo, "by socket")
            assert queue.status(handle.id).id == handle.id
            with harness.working(queue):
                assert handle.result(10) == "by socket"

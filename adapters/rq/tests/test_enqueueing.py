"""Record and message are one step of the Redis that has both, and what cannot be sent is not recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from adapters.rq.tests.rq_harness import RQCase, RQHarness
from queueport import JobQueue, JobState, get_queue
from queueport.errors import BackendUnavailable, DuplicateJob, JobNotFound
from queueport.store import Insert, Written
from queueport.testing.tasks import QUEUE, echo
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.servers import redis_server


def refused(*_: Any) -> NoReturn:
    raise AssertionError("a step more")


class TestEnqueueing(RQCase):
    def test_one_step_records_and_sends(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(queue.driver, "publish", refused)
            patched.setattr(queue.operations.store, "swap", refused)
            one = queue.enqueue(echo, 1)
            many = queue.enqueue_many(echo.job(number) for number in range(500))
        assert harness.rq.queue(QUEUE).count == queue.stats().queues[QUEUE].queued == 501
        with harness.working(queue):
            assert one.result(10) == 1
            assert [handle.result(30) for handle in many] == list(range(500))

    def test_a_lost_answer_is_known_again_where_a_worker_was_faster(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        insert, lost = queue.operations.store.insert, iter([True])

        def lose_the_first_answer(inserts: Sequence[Insert]) -> Sequence[Written]:
            written = insert(inserts)
            if next(lost, False):
                eventually(lambda: queue.status("mine").state is JobState.SUCCEEDED)
                raise BackendUnavailable("the answer was lost")
            return written

        monkeypatch.setattr("queueport.accepting.QUICK", 60.0)
        monkeypatch.setattr(queue.operations.store, "insert", lose_the_first_answer)
        with harness.working(queue):
            assert queue.enqueue(echo.using(job_id="mine"), 1).result(10) == 1
            with pytest.raises(DuplicateJob):
                queue.enqueue(echo.using(job_id="mine"), 1)
        assert trace.times("mine") == 1

    def test_what_is_not_recorded_is_not_sent(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        queue.enqueue(echo.using(job_id="mine"), 1)
        with pytest.raises(DuplicateJob):
            queue.enqueue(echo.using(job_id="mine"), 2)
        held = queue.enqueue(echo.using(key="k"), 3)
        assert queue.enqueue(echo.using(key="k"), 4).id == held.id
        queue.enqueue(echo.using(delay=60), 5)
        assert harness.rq.queue(QUEUE).count == 2

    def test_what_is_not_sent_is_not_recorded(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        harness.rq.client.set(harness.rq.queue("odd").key, "no list")
        jobs = [echo.using(job_id=f"job-{number}", queue="odd" if number == 1 else None).job(1) for number in range(3)]
        with pytest.raises(BackendUnavailable, match="RQ did not take 1 of 3 jobs; they will not run") as raised:
            queue.enqueue_many(jobs)
        harness.rq.client.delete(harness.rq.queue("odd").key)
        assert (raised.value.accepted, raised.value.rejected) == (("job-0", "job-2"), ("job-1",))
        with pytest.raises(JobNotFound):
            queue.status("job-1")
        assert harness.rq.queue(QUEUE).count == 2

    def test_why_nothing_was_sent_is_said_where_another_store_has_the_records(
        self, tmp_path: Path, trace: Trace
    ) -> None:
        url, says = f"rq+{redis_server().url.rpartition('/')[0]}/99", r"has no database of that number.*RQ did not take"
        with (
            get_queue(url, store=f"sqlite:///{tmp_path}/jobs.db") as queue,
            pytest.raises(BackendUnavailable, match=says) as raised,
        ):
            queue.enqueue(echo, 1)
        assert isinstance(raised.value.__cause__, redis.ResponseError)

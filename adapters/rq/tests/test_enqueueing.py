"""In one Redis, record and message are written in one step, and a job that cannot be sent has no record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis

from adapters.rq.tests.rq_harness import RQCase, RQHarness
from queueport import JobQueue, JobState, get_queue
from queueport.errors import BackendUnavailable, DuplicateJob, JobNotFound
from queueport.spi.message import Message
from queueport.spi.store import Insert, WriteResult
from queueport.testing.tasks import QUEUE, echo, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport_rq.job import QueueportJob
from tests.servers import redis_server
from tests.servers.forgetting import check_calls_over_forgotten_connections
from tests.servers.health import check_never_sent, check_redis_adapter, check_replica


def refused(*_: Any) -> NoReturn:
    raise AssertionError("enqueue must not take a second step")


@pytest.mark.parametrize("size", [10, 10_000], ids=["short", "compressed"])
def test_a_message_is_stored_as_rq_itself_would_store_its_job(size: int) -> None:
    def written(commands: Iterable[Sequence[Any]]) -> dict[tuple[str, ...], Any]:
        """What these commands write: hashes by key, without empty fields, and all other commands."""
        encode: Any = rq_queue.connection.get_encoder().encode
        found: dict[tuple[str, ...], Any] = {}
        for name, key, *rest in ([encode(word).decode("latin-1") for word in words] for words in commands):
            if name == "HSET":
                fields = found.setdefault((name, key), {})
                fields |= {field: value for field, value in zip(rest[::2], rest[1::2], strict=True) if value}
            else:
                found[name, key] = rest
        return found

    text = '{"v":1}' + " " * size
    message = Message(id="j1", task="shop.send", queue="default", life=1, sent_at=1.0, body=text.encode())
    with get_queue("rq+redis://localhost") as queue:
        rq_queue = queue.native.queue("default")
        ((*ours,),) = queue.driver.publish_commands([message])
    key = next(words[1].decode() for words in ours if words[0] == b"HSET")
    job_id = key.removeprefix("rq:job:")
    with rq_queue.connection.pipeline() as pipeline:
        rq_queue.enqueue(
            "queueport_rq.job.run",
            text,
            job_id=job_id,
            job_timeout=-1,
            result_ttl=500,
            failure_ttl=31_536_000,
            ttl=7 * 86_400,
            description="shop.send j1",
            pipeline=pipeline,
        )
        native = written(words for words, _ in pipeline.command_stack)
    found = written(ours)
    expected = {about: rest for about, rest in native.items() if "depend" not in about[1]}  # keys that do not exist
    assert found.keys() == expected.keys()
    mine, theirs = found.pop(("HSET", key)), expected.pop(("HSET", key))
    assert found == expected
    assert mine.keys() == theirs.keys()
    fetched = [QueueportJob(id=job_id, connection=rq_queue.connection, serializer="json") for _ in range(2)]
    for job, fields in zip(fetched, (mine, theirs), strict=True):
        job.restore({name.encode(): value.encode("latin-1") for name, value in fields.items()})
        assert job.body == text.encode()
    for name in theirs.keys() - {"created_at", "enqueued_at", "data"}:
        assert mine[name] == theirs[name]
    assert all(job.enqueued_at is not None and job.enqueued_at.tzinfo is not None for job in fetched)


class TestEnqueueing(RQCase):
    def test_one_step_inserts_records_and_publishes_messages(
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

    def test_enqueue_recognises_its_job_if_the_answer_was_lost_and_a_worker_was_faster(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        insert, lost = queue.operations.store.insert, iter([True])

        def lose_the_first_answer(inserts: Sequence[Insert]) -> Sequence[WriteResult]:
            written = insert(inserts)
            if next(lost, False):
                eventually(lambda: queue.status("mine").state is JobState.SUCCEEDED)
                raise BackendUnavailable("the answer was lost")
            return written

        monkeypatch.setattr("queueport.engine.enqueue.QUICK", 60.0)
        monkeypatch.setattr(queue.operations.store, "insert", lose_the_first_answer)
        with harness.working(queue):
            assert queue.enqueue(echo.using(job_id="mine"), 1).result(10) == 1
            with pytest.raises(DuplicateJob):
                queue.enqueue(echo.using(job_id="mine"), 1)
        assert trace.times("mine") == 1

    def test_a_job_that_is_not_inserted_is_not_sent(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        queue.enqueue(echo.using(job_id="mine"), 1)
        with pytest.raises(DuplicateJob):
            queue.enqueue(echo.using(job_id="mine"), 2)
        held = queue.enqueue(echo.using(key="k"), 3)
        assert queue.enqueue(echo.using(key="k"), 4).id == held.id
        queue.enqueue(echo.using(delay=60), 5)
        assert harness.rq.queue(QUEUE).count == 2

    def test_a_job_that_replaces_another_is_not_sent(
        self, queue: JobQueue, harness: RQHarness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keyed = echo.using(key="k", key_mode="replace")
        first = queue.enqueue(keyed, 1)
        with monkeypatch.context() as patched:
            patched.setattr(queue.driver, "publish", refused)
            patched.setattr(queue.operations.store, "swap", refused)
            assert queue.enqueue(keyed, 2).replaced
        assert queue.enqueue(keyed.using(delay=60), 3).replaced
        assert harness.rq.queue(QUEUE).count == 1
        assert queue.enqueue(keyed, 4).replaced  # now it must be published again
        with harness.working(queue):
            assert first.result(10) == 4
        assert trace.times(first.id) == 1

    def test_a_running_job_keeps_its_key_if_the_job_that_takes_it_cannot_be_sent(
        self, queue: JobQueue, harness: RQHarness, trace: Trace
    ) -> None:
        keyed = wait_for.using(key="k", key_mode="replace")
        first = queue.enqueue(keyed, "first")
        harness.rq.client.set(harness.rq.queue("odd").key, "not a list")
        with harness.working(queue):
            eventually(lambda: first.status().state is JobState.RUNNING)
            with pytest.raises(BackendUnavailable) as caught:
                queue.enqueue(keyed.using(job_id="mine", queue="odd"), "second")
            harness.rq.client.delete(harness.rq.queue("odd").key)
            assert caught.value.rejected == ("mine",)
            assert first.status().key == "k"
            assert queue.enqueue(keyed.using(key_mode="return"), "third") == first
            trace.open("first")
            assert first.result(10) == "first"
        assert [job.id for job in queue.jobs()] == [first.id]

    def test_a_job_that_is_not_sent_is_not_recorded(self, queue: JobQueue, harness: RQHarness, trace: Trace) -> None:
        harness.rq.client.set(harness.rq.queue("odd").key, "not a list")
        jobs = [echo.using(job_id=f"job-{number}", queue="odd" if number == 1 else None).job(1) for number in range(3)]
        with pytest.raises(
            BackendUnavailable, match="1 of 3 jobs were not enqueued on RQ and will not run: enqueue them again"
        ) as raised:
            queue.enqueue_many(jobs)
        harness.rq.client.delete(harness.rq.queue("odd").key)
        assert (raised.value.accepted, raised.value.rejected) == (("job-0", "job-2"), ("job-1",))
        with pytest.raises(JobNotFound):
            queue.status("job-1")
        assert harness.rq.queue(QUEUE).count == 2

    def test_the_error_says_why_nothing_was_sent_with_a_separate_store(self, tmp_path: Path, trace: Trace) -> None:
        url, says = (
            f"rq+{redis_server().url.rpartition('/')[0]}/99",
            r"has no database of that number.*not enqueued on RQ",
        )
        with (
            get_queue(url, store=f"sqlite:///{tmp_path}/jobs.db") as queue,
            pytest.raises(BackendUnavailable, match=says) as raised,
        ):
            queue.enqueue(echo, 1)
        assert isinstance(raised.value.__cause__, redis.ResponseError)

    def test_a_hanging_redis_delays_a_long_batch_once(self, tmp_path: Path) -> None:
        server = redis_server(private=True)
        jobs = [echo.using(job_id=f"job-{number}").job(number) for number in range(500)]
        with get_queue(f"rq+{server.url}", store=f"sqlite:///{tmp_path}/jobs.db", call_timeout=1.0) as queue:
            started = time.monotonic()
            with server.paused(), pytest.raises(BackendUnavailable) as caught:
                queue.enqueue_many(jobs)
            assert time.monotonic() - started < 2.0
        assert caught.value.rejected == tuple(job.id for job in jobs)


def test_check_says_once_what_prevents_an_enqueue(tmp_path: Path) -> None:
    check_redis_adapter("rq", tmp_path)


def test_a_redis_that_has_become_a_replica_is_reported_and_used_again_later(caplog: pytest.LogCaptureFixture) -> None:
    check_replica("rq", caplog)


@pytest.mark.parametrize("store", [None, "sqlite"])
def test_a_call_over_an_idle_connection_that_was_forgotten_succeeds(store: str | None, tmp_path: Path) -> None:
    url = None if store is None else f"sqlite:///{tmp_path}/jobs.db"
    check_calls_over_forgotten_connections(RQHarness(private=False, store=url))


def test_a_job_is_not_recorded_if_no_connection_can_be_opened(tmp_path: Path) -> None:
    check_never_sent("rq+redis://{}/0", tmp_path)

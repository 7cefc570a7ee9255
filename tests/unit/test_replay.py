"""`JobQueue.replay`: a new job like an existing one, with the same or other arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from queueport import AsyncJobQueue, Job, JobQueue, JobState, Retry, current_job, get_queue, hooks, task
from queueport.errors import DuplicateJob, InvalidJob, InvalidState, JobNotFound
from queueport.spi.record import REPLAY_OF, Change
from queueport.spi.store import Swap
from queueport.testing import FakeQueue


@task(name="replay.send", queue="mails")
def send(address: str, at: datetime | None = None, *, body: bytes = b"") -> str:
    if address == "bad":
        raise ValueError("no such address")
    return f"{address} {at} {body!r}"


class Order(BaseModel):
    """A model that takes times as text in JSON only."""

    model_config = ConfigDict(strict=True)
    at: datetime
    count: int = 1


@task(name="replay.book")
def book(order: Order) -> None:
    pass


@task(name="replay.itself")
def itself() -> str:
    job = current_job()
    return "" if job.status().replay_of else get_queue().replay(job.id).id


@pytest.fixture(params=["memory", "sqlite"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    with get_queue("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db") as opened:
        yield opened


def work(queue: JobQueue) -> None:
    queue.worker(tasks=[send, itself], threads=1, burst=True).run()


def test_a_replay_is_a_new_job_with_the_task_queue_options_and_arguments_of_the_old_one(queue: JobQueue) -> None:
    options: dict[str, Any] = {"queue": "bulk", "retry": Retry(max_attempts=1), "timeout": 7.0, "crash_limit": 2}
    options |= {"keep_result": 99.0, "priority": 3, "expires": 60.0, "headers": {"tenant": "acme"}, "tags": ("vip",)}
    old = queue.enqueue(send.using(**options), "bad", body=b"\xff")
    work(queue)
    queue.worker("bulk", tasks=[send], burst=True).run()
    assert old.status().state is JobState.DEAD
    new = queue.replay(old.id)
    assert (new.created, new.id != old.id) == (True, True)
    one, other = (queue.operations.read(handle.id) for handle in (old, new))
    for name in ("task", "queue", "payload", "priority", "options", "tags"):
        assert getattr(one, name) == getattr(other, name)
    assert one.expires_at is not None
    assert other.expires_at is not None
    assert other.expires_at - other.enqueued_at == pytest.approx(60.0, abs=0.001)
    status = new.status()
    assert (status.state, status.attempts, status.errors) == (JobState.QUEUED, 0, [])
    assert (status.replay_of, old.status().replay_of) == (old.id, None)
    assert status.as_dict()["replay_of"] == old.id
    assert status.headers == {"tenant": "acme", REPLAY_OF: old.id}
    assert old.status().state is JobState.DEAD


def test_a_job_in_any_state_is_replayed(queue: JobQueue) -> None:
    succeeded, dead = queue.enqueue(send, "a"), queue.enqueue(send.using(retry=Retry(max_attempts=1)), "bad")
    retrying = queue.enqueue(send.using(retry=Retry(max_attempts=2, initial=600)), "bad")
    work(queue)
    cancelled = queue.enqueue(send, "a")
    cancelled.cancel()
    scheduled, queued = queue.enqueue(send.using(delay=600), "a"), queue.enqueue(send, "a")
    jobs = [succeeded, dead, retrying, cancelled, scheduled, queued]
    states = [job.status().state for job in jobs]
    assert states == ["succeeded", "dead", "retrying", "cancelled", "scheduled", "queued"]
    for job in jobs:
        assert queue.replay(job.id).status().state is JobState.QUEUED  # also without the delay of the scheduled job
    assert [job.status().state for job in jobs] == states
    running = queue.enqueue(itself)
    work(queue)
    replay = queue.status(str(running.result()))  # made while the job was running
    assert (replay.replay_of, replay.state) == (running.id, JobState.SUCCEEDED)


def test_given_arguments_replace_those_of_the_job(queue: JobQueue) -> None:
    at = datetime(2026, 11, 30, tzinfo=UTC)
    old = queue.enqueue(send, "ann", at, body=b"\xfe\xff")
    status = old.status()
    plain = queue.replay(old.id, args=["bob", *status.args[1:]])
    edited = queue.replay(old.id, kwargs={**status.kwargs})  # bytes stay the base64 that `status` shows
    typed = queue.replay(old.id, args=("eve", at + timedelta(days=1)), kwargs={"body": b"\x00"})
    none = queue.replay(old.id, kwargs={})
    work(queue)
    assert plain.result(5) == f"bob {at} {bytes([254, 255])!r}"
    assert edited.result(5) == f"ann {at} {bytes([254, 255])!r}"
    assert typed.result(5) == f"eve {at + timedelta(days=1)} {bytes([0])!r}"
    assert none.result(5) == f"ann {at} b''"
    assert (old.status().args, old.status().kwargs) == (status.args, status.kwargs)


def test_plain_values_are_checked_as_json_and_kept_as_they_are(queue: JobQueue) -> None:
    old = queue.enqueue(book, Order(at=datetime(2026, 11, 30, tzinfo=UTC)))
    (order,) = old.status().args
    assert order == {"at": "2026-11-30T00:00:00Z", "count": 1}
    assert queue.replay(old.id, args=[{"at": order["at"]}]).status().args == [{"at": order["at"]}]
    typed = Order(at=datetime(2027, 1, 1, tzinfo=UTC), count=2)
    assert queue.replay(old.id, args=[typed]).status().args == [{"at": "2027-01-01T00:00:00Z", "count": 2}]
    with pytest.raises(InvalidJob, match="argument 'order': count: Input should be a valid integer"):
        queue.replay(old.id, args=[{**order, "count": "3"}])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"args": [1]}, r"job \w+ cannot be replayed with these arguments: task 'replay.send': argument 'address': "),
        ({"args": ["a", "yesterday"]}, "argument 'at': "),
        ({"args": []}, "missing a required argument: 'address'"),
        ({"kwargs": {"nosuch": 1}}, "unexpected keyword argument 'nosuch'"),
        ({"kwargs": {"body": "not base64!"}}, "argument 'body': "),
        ({"kwargs": {1: 2}}, "keywords must be strings"),
        ({"args": "ann"}, "args must be a list or a tuple of the positional arguments, not str"),
        ({"kwargs": ["a"]}, "kwargs must be a mapping of the names of arguments to values, not list"),
        ({"new_id": "a b"}, "id must be 1 to 64 letters"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(queue: JobQueue, given: Any, sentence: str) -> None:
    old = queue.enqueue(send, "ann")
    with pytest.raises(InvalidJob, match=sentence):
        queue.replay(old.id, **given)
    assert queue.stats().totals.total == 1


def test_without_the_task_arguments_are_plain_json(queue: JobQueue) -> None:
    old = queue.enqueue("elsewhere.work", 1, text="a")
    new = queue.replay(old.id, args=[{"any": [None, 1.5]}])
    assert (new.status().args, new.status().kwargs) == ([{"any": [None, 1.5]}], {"text": "a"})
    assert queue.replay(old.id).status().args == [1]
    for wrong in (datetime.now(UTC), float("nan"), {1: 2}, object()):
        with pytest.raises(InvalidJob, match=r"task 'elsewhere\.work': argument args"):
            queue.replay(old.id, args=[wrong])


def test_arguments_that_no_longer_fit_are_refused_until_they_are_replaced(queue: JobQueue) -> None:
    old = queue.enqueue(task.named("replay.send"), 17)  # the job of an older release of the application
    with pytest.raises(InvalidJob, match="argument 'address': Input should be a valid string"):
        queue.replay(old.id)
    assert queue.replay(old.id, args=["17"]).status().args == ["17"]


def test_a_job_whose_arguments_are_damaged_is_replayed_with_others(queue: JobQueue) -> None:
    old = queue.enqueue(send, "ann")
    record = queue.operations.read(old.id)
    queue.operations.store.swap([Swap(old.id, record.rev, Change({"payload": b"{"}), "new")])
    for args in (None, ["bob"]):
        with pytest.raises(InvalidJob, match="the payload is not valid JSON"):
            queue.replay(old.id, args)
    assert queue.replay(old.id, args=["bob"], kwargs={}).status().args == ["bob"]


def test_a_key_is_kept_and_one_that_is_held_refuses_the_replay(
    queue: JobQueue, caplog: pytest.LogCaptureFixture
) -> None:
    old = queue.enqueue(send.using(key="order-1"), "ann")
    for args in (None, ["bob"]):
        with pytest.raises(DuplicateJob, match=rf"while job {old.id} holds its key 'order-1': wait until") as raised:
            queue.replay(old.id, args)
        assert (len(raised.value.rejected), raised.value.accepted) == (1, ())
    assert queue.stats().totals.total == 1
    work(queue)
    new = queue.replay(old.id)
    assert new.status().key == "order-1"
    with pytest.raises(DuplicateJob, match=f"job {old.id} cannot be replayed while job {new.id}"):
        queue.replay(old.id)


def test_a_task_cannot_replay_its_own_job_with_a_key(queue: JobQueue) -> None:
    handle = queue.enqueue(itself.using(key="k", retry=Retry(max_attempts=1)))
    work(queue)
    error = handle.status().error
    assert error is not None
    assert error.type == f"{InvalidState.__module__}.InvalidState"


@pytest.mark.parametrize(
    ("wrong", "says"), [("nosuch", "there is no job"), ("a b", "is not a job id"), ("", "is not a job id")]
)
def test_an_unknown_job_is_refused(queue: JobQueue, wrong: str, says: str) -> None:
    with pytest.raises(JobNotFound, match=says):
        queue.replay(wrong)


def test_the_new_id_makes_a_repeated_call_safe(queue: JobQueue) -> None:
    old = queue.enqueue(send, "ann")
    assert queue.replay(old.id, new_id="again-1").id == "again-1"
    with pytest.raises(DuplicateJob, match="a job with the id 'again-1' exists already"):
        queue.replay(old.id, new_id="again-1")


def test_a_replay_of_a_replay_names_its_direct_origin_and_no_trace_or_schedule(queue: JobQueue) -> None:
    headers = {"traceparent": "00-a-b-01", "tracestate": "x", "queueport-tick": "2026", "tenant": "acme"}
    first = queue.enqueue(send.using(headers=headers), "ann")
    second = queue.replay(first.id)
    third = queue.replay(second.id)
    assert third.status().headers == {"tenant": "acme", REPLAY_OF: second.id}


def test_hooks_and_coroutines_replay_too(queue: JobQueue) -> None:
    def stamp(job: Job[Any]) -> Job[Any]:
        return replace(job, headers={**job.headers, "stamp": "1"})

    old = queue.enqueue(send, "ann")
    hooks.before_enqueue(stamp)
    try:
        new = asyncio.run(AsyncJobQueue(queue).replay(old.id, args=["bob"], new_id="async-1"))
    finally:
        hooks.remove(stamp)
    status = queue.status("async-1")
    assert (new.id, new.created, status.args, status.headers["stamp"]) == ("async-1", True, ["bob"], "1")


def test_the_key_of_a_discarded_job_stays_taken_for_unique_for_and_retry_runs_the_job(job_queue: FakeQueue) -> None:
    once = send.using(key="k", unique_for=60.0, retry=Retry(max_attempts=1))
    old = job_queue.enqueue(once, "bad")
    job_queue.drain()
    job_queue.dead_letters.discard(old.id)
    assert old.status().reason == "discarded"
    assert job_queue.enqueue(once, "bad").id == old.id
    old.retry()
    assert old.status().state is JobState.QUEUED
    job_queue.drain()
    job_queue.dead_letters.discard(old.id)
    job_queue.advance(60)
    assert job_queue.enqueue(once, "bad").id != old.id


def test_a_key_that_unique_for_keeps_refuses_the_replay_until_it_is_free(job_queue: FakeQueue) -> None:
    old = job_queue.enqueue(send.using(key="k", unique_for=60.0), "ann")
    job_queue.drain()
    assert old.status().state is JobState.SUCCEEDED
    with pytest.raises(DuplicateJob, match=f"while job {old.id} holds its key 'k': wait until .* unique_for"):
        job_queue.replay(old.id)
    job_queue.advance(61)
    new = job_queue.replay(old.id)
    assert job_queue.operations.read(new.id).options["unique_for"] == 60.0


def test_a_job_that_has_lost_its_key_is_replayed_without_it(job_queue: FakeQueue) -> None:
    old = job_queue.enqueue(send.using(key="k", unique_for=60.0), "ann")
    record = job_queue.operations.read(old.id)
    job_queue.operations.store.swap([Swap(old.id, record.rev, Change({"key": None}), "new")])
    record = job_queue.operations.read(job_queue.replay(old.id).id)
    assert (record.key, record.options) == (None, {})


def test_a_fake_queue_replays(job_queue: FakeQueue) -> None:
    old = job_queue.enqueue(send, "bad")
    job_queue.drain()
    job_queue.replay(old.id, args=["good"])
    job_queue.drain()
    assert [status.replay_of for status in job_queue.succeeded] == [old.id]

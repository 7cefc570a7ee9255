"""`BulkChange`: pages, skipped jobs, the rate and the end by an event, on memory, SQLite and Redis."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from queueport import JobQueue, JobState, chain, get_queue, task
from queueport.engine.bulk import BulkChange, cancelling, discarding, purging, retrying
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.operations import Changed
from queueport.spi.settings import read
from queueport.spi.store import Query
from queueport.stores.redis.store import RedisStore
from tests.mutants.wire import Broker, WireTransport
from tests.servers import redis_server


@task(name="bulk.noop")
def noop(number: int) -> int:
    return number


@pytest.fixture(params=["memory", "sqlite", "redis"])
def queue(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    """A queue whose jobs are changed in pages of three."""
    monkeypatch.setattr("queueport.engine.bulk.PAGE", 3)
    if request.param != "redis":
        with get_queue({"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/jobs.db"}[request.param]) as queue:
            yield queue
        return
    store = RedisStore(redis_server(private=True).url, namespace=f"test{uuid4().hex[:12]}", call_timeout=5.0)
    with JobQueue(*read("wire://bulk", {}), WireTransport(Broker()), store) as queue:
        yield queue


def dead(queue: JobQueue, number: int, key: str | None = None) -> list[str]:
    return [queue.dead_letters.add(noop.using(key=key).job(n), "by hand").id for n in range(number)]


def retry_all(queue: JobQueue) -> BulkChange:
    return retrying(queue.operations, Query(state=JobState.DEAD))


def test_the_numbers_after_each_page_contain_skipped_jobs(queue: JobQueue) -> None:
    dead(queue, 4, key="k")
    dead(queue, 3)
    queue.enqueue(noop.using(key="k", delay=600), 1)  # holds the key
    change = retry_all(queue)
    assert change.count() == 7
    assert len(change.first(2)) == 2
    assert [*change.pages()] == [Changed(3, 0), Changed(3, 3), Changed(3, 4)]
    assert queue.dead_letters.count() == 4


def test_a_change_ends_after_its_page_when_it_is_stopped(queue: JobQueue) -> None:
    dead(queue, 7)
    stop, numbers = threading.Event(), []
    for done in discarding(queue.operations, Query(state=JobState.DEAD)).pages(stop=stop):
        numbers.append(done.changed)
        if done.changed == 6:
            stop.set()
    assert numbers == [3, 6]
    assert queue.dead_letters.count() == 1


def test_a_change_stops_while_it_waits_for_its_rate(queue: JobQueue) -> None:
    dead(queue, 3)
    stop = threading.Event()
    pages = retry_all(queue).pages(0.001, stop)  # the next job is due in 1,000 seconds
    assert next(pages) == Changed(1, 0)
    threading.Timer(0.05, stop.set).start()
    assert [*pages] == []
    assert queue.dead_letters.count() == 2


@pytest.mark.parametrize(
    ("rate", "times"), [(0.5, [2.0] * 7), (2.5, [0.8, 0.8, 0.8, 0.4]), (700, [3 / 700] * 2 + [1 / 700])]
)
def test_a_rate_spreads_the_jobs_over_the_time(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, rate: float, times: list[float]
) -> None:
    dead(queue, 7)
    now, waited = 0.0, list[float]()

    def wait(_: object, seconds: float) -> bool:
        nonlocal now
        now += seconds
        waited.append(seconds)
        return False

    monkeypatch.setattr(queue.operations.runtime, "wait", wait)
    monkeypatch.setattr(queue.operations.runtime, "monotonic", lambda: now)
    assert [*retry_all(queue).pages(rate)][-1] == Changed(7, 0)
    assert [seconds for seconds in waited if seconds] == pytest.approx(times)


def test_a_page_that_took_long_makes_the_next_ones_not_faster(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    dead(queue, 4)
    times, waited = iter([0.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0]), list[float]()
    monkeypatch.setattr(queue.operations.runtime, "wait", lambda _, seconds: waited.append(seconds))
    operations = queue.operations

    def slow() -> float:
        return next(times, 10.0)

    monkeypatch.setattr(operations.runtime, "monotonic", slow)
    assert [*retry_all(queue).pages(1.0)][-1] == Changed(4, 0)
    assert waited[:2] == [0.0, 1.0]


def test_jobs_that_wait_for_others_are_skipped_when_scheduled_jobs_are_run_now(queue: JobQueue) -> None:
    later = noop.using(delay=600)
    batch = queue.batch([later.job(1), later.job(2)], then=noop.job(3), on_dead=noop.job(4))
    first = queue.enqueue(chain(later.job(5), noop.job(6)))
    assert [*retrying(queue.operations, Query(state=JobState.SCHEDULED)).pages()][-1] == Changed(3, 3)
    assert (batch.progress().queued, first.status().state) == (2, JobState.QUEUED)
    assert {job.state for job in (*batch.follow_ups(), first.follow_ups[0].status())} == {JobState.SCHEDULED}
    assert first.follow_ups[0].retry().status().state is JobState.QUEUED  # one that was chosen by its id runs


def test_jobs_that_have_waited_for_others_are_skipped_when_cancelled_jobs_are_retried(queue: JobQueue) -> None:
    batch = queue.batch([noop.using(delay=600).job(n) for n in (1, 2)], then=noop.job(3), on_dead=noop.job(4))
    assert batch.cancel() == 2
    assert [*retrying(queue.operations, Query(state=JobState.CANCELLED)).pages()][-1] == Changed(2, 2)
    assert batch.progress().queued == 2
    assert {job.state for job in batch.follow_ups()} == {JobState.CANCELLED}


def test_an_on_dead_job_that_was_not_needed_is_skipped(queue: JobQueue) -> None:
    batch = queue.batch([noop.job(1)], on_dead=noop.job(2))
    queue.cancel_all(batch=batch.id)
    Dispatcher(queue.operations).tick()
    (on_dead,) = batch.follow_ups()
    assert (on_dead.state, on_dead.reason) == (JobState.CANCELLED, "not_needed")
    assert [*retrying(queue.operations, Query(state=JobState.CANCELLED)).pages()][-1] == Changed(1, 1)
    assert queue.status(on_dead.id).state is JobState.CANCELLED


def test_jobs_are_cancelled_and_purged_in_every_state_that_waits(queue: JobQueue) -> None:
    queue.enqueue_many([noop.job(1), noop.using(delay=600).job(2), noop.using(queue="other", delay=600).job(3)])
    assert cancelling(queue.operations, Query(queue="other")).run() == 1
    assert purging(queue.operations, "default").run() == 2
    assert queue.count(JobState.CANCELLED) == 3

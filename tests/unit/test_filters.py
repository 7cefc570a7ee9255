"""The filters of `JobQueue.jobs`, `DeadLetters` and their async versions, on memory and SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from queueport import AsyncJobQueue, JobQueue, Retry, get_queue, task
from queueport.errors import ConfigurationError, InvalidJob, JobCancelled
from queueport.status import JobStatus
from queueport.testing import fake
from queueport.testing.waiting import eventually


@task(name="filters.lose", retry=Retry(max_attempts=1))
def lose(n: int, note: str = "") -> None:
    raise ConnectionResetError(f"{n} {note}")


@task(name="filters.keep")
def keep(n: int) -> int:
    return n


@task(name="filters.wait")
async def wait() -> None:
    await asyncio.sleep(60)


@pytest.fixture(params=["memory://", "sqlite:///{}/jobs.db"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    with get_queue(request.param.format(tmp_path)) as opened:
        yield opened


def ids(found: list[JobStatus]) -> list[str]:
    return [status.id for status in found]


def both(queue: JobQueue, **filters: Any) -> tuple[list[str], list[str]]:
    """The ids that `jobs` and `dead_letters.list` find, with `AsyncJobQueue` too."""
    found = ids(queue.jobs(**filters)), ids(queue.dead_letters.list(**filters))

    async def awaited() -> tuple[list[str], list[str]]:
        other = AsyncJobQueue(queue)
        return ids(await other.jobs(**filters)), ids(await other.dead_letters.list(**filters))

    assert asyncio.run(awaited()) == found
    return found


def test_jobs_are_found_by_error_and_key(queue: JobQueue) -> None:
    queue.enqueue(lose.using(job_id="a", key="order-1").job(1))
    queue.enqueue(lose.using(job_id="b").job(2))
    queue.worker(tasks=[lose], burst=True).run()
    queue.enqueue(keep.using(job_id="c", key="order-1").job(3))
    assert both(queue, key="order-1") == (["c", "a"], ["a"])
    assert both(queue, error="OSError") == (["b", "a"], ["b", "a"])
    assert both(queue, error="OSError", key="order-1") == (["a"], ["a"])
    assert both(queue, error="LookupError") == both(queue, key="order-2") == ([], [])


def test_jobs_are_found_by_tag_in_every_state(queue: JobQueue) -> None:
    queue.enqueue(lose.using(job_id="a", tags=("vip", "eu")).job(1))
    queue.enqueue(keep.using(job_id="b", tags=["vip"]).job(2))
    queue.enqueue(keep.using(job_id="c").job(3))
    queue.worker(tasks=[lose, keep], burst=True).run()
    queue.enqueue(keep.using(tags=("us",)).using(job_id="d", tags=("eu", "eu")).job(4))
    assert both(queue, tag="vip") == (["b", "a"], ["a"])
    assert both(queue, tag="eu") == (["d", "a"], ["a"])
    assert both(queue, tag="us") == ([], [])
    assert ids(queue.jobs("queued", tag="eu")) == ["d"]
    tags = {status.id: status.tags for status in queue.jobs()}
    assert tags == {"a": ["vip", "eu"], "b": ["vip"], "c": [], "d": ["eu"]}
    queue.retry("a")
    assert both(queue, tag="vip") == (["b", "a"], [])
    assert ids(queue.jobs("queued", tag="vip")) == ["a"]


def test_jobs_are_found_by_a_text_in_their_arguments(queue: JobQueue) -> None:
    queue.enqueue(lose.using(job_id="a").job(17, note="Zoë"))
    queue.worker(tasks=[lose], burst=True).run()
    queue.enqueue(keep.using(job_id="b").job(17))
    assert both(queue, text="17") == (["b", "a"], ["a"])
    assert both(queue, text='"note":"Zoë"') == (["a"], ["a"])
    assert both(queue, text="zoë") == ([], [])
    assert ids(queue.jobs(limit=1, text="17")) == ["b"]
    assert ids(queue.jobs(limit=1, text="17", after="b")) == ["a"]


@pytest.mark.parametrize("tags", ["vip", ["a"] * 11, [""], ["x" * 101], ["a\nb"], ["\ud800"], [7], 7, {"a": 1}])
def test_wrong_tags_raise_one_sentence(tags: Any) -> None:
    with pytest.raises(InvalidJob, match=r"^tags must be at most 10 texts of 1 to 100 characters"):
        keep.using(tags=tags)


def test_the_jobs_of_a_schedule_have_its_tags(queue: JobQueue) -> None:
    queue.schedules.add("nightly", keep.using(tags=("vip",)).job(1), every=60)
    first = queue.schedules.get("nightly")
    assert queue.schedules.run_now("nightly").status().tags == ["vip"]
    assert queue.schedules.add("nightly", keep.using(tags=("vip",)).job(1), every=60) == first
    assert both(queue, tag="vip")[0]


def test_jobs_are_found_by_the_time_of_their_enqueue(queue: JobQueue) -> None:
    queue.enqueue(keep.using(job_id="a").job(1))
    now = queue.status("a").enqueued_at
    for since in (now, now - timedelta(hours=1), 60, 60.5, timedelta(minutes=1)):
        assert both(queue, since=since)[0] == ["a"]
        assert both(queue, until=since)[0] == []
    assert both(queue, since=0)[0] == both(queue, since=now + timedelta(milliseconds=1))[0] == []
    assert both(queue, until=now + timedelta(hours=1))[0] == ["a"]
    assert both(queue, since=60, until=0)[0] == ["a"]


def test_filters_that_are_none_are_not_given(queue: JobQueue) -> None:
    queue.enqueue(keep.using(job_id="a").job(1))
    assert both(queue, error=None, key=None, tag=None, since=None, until=None)[0] == ["a"]


def many(queue: JobQueue) -> None:
    """Three dead jobs, and three that wait: one for its time."""
    for number, job_id in enumerate("abc"):
        queue.enqueue(lose.using(job_id=job_id, tags=["vip"] if number else None, key=job_id).job(number))
    queue.worker(tasks=[lose], burst=True).run()
    queue.enqueue(keep.using(job_id="d", tags=["vip"]).job(17))
    queue.enqueue(keep.using(job_id="e", tags=["vip"], delay=60).job(4))
    queue.enqueue(keep.using(job_id="f").job(5))


def states(queue: JobQueue) -> dict[str, str]:
    return {status.id: status.reason or status.state.value for status in reversed(queue.jobs())}


FILTERS: list[dict[str, Any]] = [
    {"tag": "vip"},
    {"key": "b"},
    {"text": "[1]"},
    {"error": "OSError", "tag": "vip", "key": "c"},
    {"since": 60, "until": 0},
    {"until": 3600},
]


@pytest.mark.parametrize("filters", FILTERS)
def test_dead_jobs_are_counted_retried_and_discarded_by_filters(queue: JobQueue, filters: dict[str, Any]) -> None:
    many(queue)
    found = ids(queue.dead_letters.list(**filters))
    assert queue.dead_letters.count(**filters) == len(found)
    assert queue.count("dead", **filters) == len(found)
    assert queue.dead_letters.retry_all(**filters) == len(found)
    assert {job_id: states(queue)[job_id] for job_id in "abc"} == {
        job_id: "queued" if job_id in found else "dead" for job_id in "abc"
    }
    queue.worker(tasks=[lose], burst=True).run()
    assert queue.dead_letters.purge(**filters) == len(found)
    assert {job_id: states(queue)[job_id] for job_id in "abc"} == {
        job_id: "discarded" if job_id in found else "dead" for job_id in "abc"
    }


def test_cancel_all_cancels_what_has_not_ended(queue: JobQueue) -> None:
    many(queue)
    assert queue.cancel_all(text="17", tag="vip") == 1
    assert queue.cancel_all("scheduled", tag="vip") == 1
    assert states(queue) == {"a": "dead", "b": "dead", "c": "dead", "d": "cancelled", "e": "cancelled", "f": "queued"}
    assert queue.cancel_all(task=keep) == 1
    assert queue.cancel_all(since=60) == 0


def test_cancel_all_asks_running_jobs_to_stop(queue: JobQueue) -> None:
    running = [queue.enqueue(wait.using(tags=["vip"])) for _ in range(2)]
    with queue.worker(tasks=[wait], threads=2).start():
        eventually(lambda: queue.stats().totals.running == 2)
        assert queue.cancel_all(tag="vip") == 2
        for handle in running:
            with pytest.raises(JobCancelled):
                handle.result(20)


def test_coroutines_change_many_jobs_too(queue: JobQueue) -> None:
    many(queue)

    async def change() -> list[int]:
        other = AsyncJobQueue(queue)
        dead = other.dead_letters
        counts = [await other.count(tag="vip"), await dead.count(tag="vip"), await dead.retry_all(key="a")]
        return [*counts, await dead.purge(tag="vip", error="OSError"), await other.cancel_all(tag="vip")]

    assert asyncio.run(change()) == [4, 2, 1, 2, 2]


def test_cancel_all_needs_a_filter_and_a_state_that_has_not_ended() -> None:
    queue = get_queue("memory://")
    with pytest.raises(ConfigurationError, match="give at least one"):
        queue.cancel_all()
    with pytest.raises(ConfigurationError, match="dead jobs have ended: choose one of scheduled, retrying"):
        queue.cancel_all("dead", tag="vip")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"since": datetime(2026, 1, 1)}, "aware datetime"),  # noqa: DTZ001  # a naive time must be refused
    ({"since": "yesterday"}, "aware datetime"),
    ({"until": -1}, "seconds ago"),
    ({"until": True}, "seconds ago"),
    ({"until": float("nan")}, "seconds ago"),
    ({"key": ""}, "cannot be searched for: pass text"),
    ({"key": 7}, "cannot be searched for: pass text"),
    ({"key": "\ud800"}, "cannot be searched for: pass text"),
    ({"colour": "red"}, "no filter 'colour'"),
    ({"finished_before": 1.0}, "no filter 'finished_before'"),
    ({"sinc": 3}, "did you mean 'since'"),
]


@pytest.mark.parametrize(("filters", "text"), WRONG)
def test_wrong_filters_raise_one_sentence(filters: dict[str, Any], text: str) -> None:
    queue = get_queue("memory://")
    dead = queue.dead_letters
    for find in (queue.jobs, queue.count, queue.cancel_all, dead.list, dead.count, dead.retry_all, dead.purge):
        with pytest.raises(ConfigurationError, match=text):
            find(**filters)


def test_a_wrong_filter_beside_an_age_is_refused_before_the_store_is_asked() -> None:
    queue = get_queue("memory://")
    dead = queue.dead_letters
    queue.operations.store.now = lambda: pytest.fail("the store was asked")  # type: ignore[method-assign]
    for find in (dead.list, dead.count, dead.purge):
        with pytest.raises(ConfigurationError, match="not a queue name"):
            find(queue="a b", older_than=5)


def test_an_age_is_counted_from_the_clock_of_the_store() -> None:
    """The machine's own clock may be wrong."""
    queue = get_queue("memory://")
    queue.enqueue(keep.using(job_id="a").job(1))
    present = queue.operations.store.now
    queue.operations.store.now = lambda: present() + 3600  # type: ignore[method-assign]
    assert queue.jobs(since=60) == []
    assert ids(queue.jobs(since=3700, until=datetime.now(UTC) + timedelta(1))) == ["a"]


def test_dead_letters_are_found_by_the_time_since_their_death() -> None:
    with fake() as queue:
        old = queue.dead_letters.add(keep.job(1), "old")
        queue.advance(60)
        new = queue.dead_letters.add(keep.job(1), "new")
        queue.advance(30)
        letters = queue.dead_letters
        for older_than, found in ((None, [new, old]), (29, [new, old]), (timedelta(seconds=31), [old]), (91.0, [])):
            assert [status.id for status in letters.list(older_than=older_than)] == [handle.id for handle in found]
            assert letters.count(older_than=older_than) == len(found)
        assert letters.purge(older_than=31) == 1

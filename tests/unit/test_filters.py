"""The filters of `JobQueue.jobs`, `DeadLetters` and their async versions, on memory and SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from queueport import AsyncJobQueue, JobQueue, Retry, get_queue, task
from queueport.errors import ConfigurationError, InvalidJob
from queueport.status import JobStatus


@task(name="filters.lose", retry=Retry(max_attempts=1))
def lose(n: int, note: str = "") -> None:
    raise ConnectionResetError(f"{n} {note}")


@task(name="filters.keep")
def keep(n: int) -> int:
    return n


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
    for find in (queue.jobs, queue.dead_letters.list):
        with pytest.raises(ConfigurationError, match=text):
            find(**filters)


def test_an_age_is_counted_from_the_clock_of_the_store() -> None:
    """The machine's own clock may be wrong."""
    queue = get_queue("memory://")
    queue.enqueue(keep.using(job_id="a").job(1))
    present = queue.operations.store.now
    queue.operations.store.now = lambda: present() + 3600  # type: ignore[method-assign]
    assert queue.jobs(since=60) == []
    assert ids(queue.jobs(since=3700, until=datetime.now(UTC) + timedelta(1))) == ["a"]

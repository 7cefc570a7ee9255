"""The filters of `JobQueue.jobs`, `DeadLetters` and their async versions, on memory and SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from queueport import AsyncJobQueue, JobQueue, Retry, get_queue, task
from queueport.errors import ConfigurationError
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
    assert both(queue, error=None, key=None, since=None, until=None)[0] == ["a"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"since": datetime(2026, 1, 1)}, "aware datetime"),  # noqa: DTZ001  # a naive time must be refused
    ({"since": "yesterday"}, "aware datetime"),
    ({"until": -1}, "seconds ago"),
    ({"until": True}, "seconds ago"),
    ({"until": float("nan")}, "seconds ago"),
    ({"key": ""}, "not a name"),
    ({"key": 7}, "not a name"),
    ({"key": "\ud800"}, "not a name"),
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

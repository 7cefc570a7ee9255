"""Who may close a queue: the code that opened it, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport import AsyncJobQueue, Capability, JobHandle, JobQueue, connect, get_queue
from queueport.errors import QueueClosed, Unsupported
from queueport.testing.tasks import echo


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    """The process's default queue, that of QUEUEPORT_URL."""
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///{tmp_path}/jobs.db")
    connect._from_environment.cache_clear()
    yield get_queue()
    connect._from_environment.cache_clear()


def close_in_every_way(handle: JobHandle[int]) -> None:
    with get_queue() as queue:
        queue.stats()
    get_queue().close()
    asyncio.run(AsyncJobQueue(get_queue()).close())
    assert isinstance(handle.queue, JobQueue)
    handle.queue.close()


def test_nobody_closes_the_default_queue(default: JobQueue) -> None:
    handle = echo.enqueue(1)
    close_in_every_way(handle)
    assert get_queue() is default
    assert echo.enqueue(2).status().id != handle.status().id
    assert default.stats().totals.queued == 2


def test_a_queue_used_as_default_can_only_be_closed_by_its_owner(tmp_path: Path) -> None:
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as mine:
        with mine.as_default():
            handle = echo.enqueue(1)
            close_in_every_way(handle)
            assert handle.status().id == handle.id
        lent = mine.shared
    for queue in (mine, lent):
        with pytest.raises(QueueClosed, match="open a new one"):
            queue.stats()


def test_the_default_queue_is_that_of_the_latest_use_that_has_not_ended() -> None:
    one, other = get_queue("memory://?namespace=one"), get_queue("memory://?namespace=other")
    with one, other, one.as_default(), other.as_default():
        with one.as_default():
            assert get_queue() is one.shared
        assert get_queue() is other.shared


def test_a_handle_has_the_queue_that_enqueued_its_job(tmp_path: Path) -> None:
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as mine:
        assert mine.enqueue(echo, 1).queue is mine


def test_a_queue_that_lacks_a_required_capability_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[JobQueue] = []

    def close(queue: JobQueue) -> None:
        closed.append(queue)

    monkeypatch.setattr(JobQueue, "close", close)
    with pytest.raises(Unsupported, match="memory lacks GROUPS"):
        get_queue("memory://", require={Capability.GROUPS})
    assert [queue.backend for queue in closed] == ["memory"]

"""`AsyncJobQueue` where it has code of its own: waiting for results, and handles."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from queueport import AsyncJobQueue, JobQueue, get_queue
from queueport.stores.memory.store import MemoryStore
from queueport.testing import tasks


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://?namespace=aio") as queue:
        yield queue


def test_a_handle_of_a_new_dead_letter_says_that_it_was_created_and_has_its_task(queue: JobQueue) -> None:
    handle = asyncio.run(AsyncJobQueue(queue).dead_letters.add(tasks.echo.job(1), "by hand"))
    assert (handle.created, handle.task) == (True, tasks.echo)
    assert asyncio.run(handle.status()).id == handle.id


@pytest.mark.parametrize(
    ("owner", "method"), [(MemoryStore, "wait"), (threading.Thread, "start")], ids=["the store", "no thread"]
)
def test_results_arrive_at_once_after_an_unexpected_error(queue: JobQueue, owner: Any, method: str) -> None:
    aq = AsyncJobQueue(queue)

    async def fail_and_wait_again() -> int:
        handle = await aq.enqueue(tasks.echo, 7)
        await aq.status(handle.id)  # starts the threads of `asyncio.to_thread`
        broken = patch.object(owner, method, side_effect=RuntimeError("unexpected"))
        with broken, pytest.raises(RuntimeError, match="unexpected"):
            await asyncio.wait_for(handle.result(), 5)
        with queue.worker(tasks=[tasks.echo]):
            result: int = await asyncio.wait_for(handle.result(8), 8)
            return result

    assert asyncio.run(fail_and_wait_again()) == 7

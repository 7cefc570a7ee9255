"""Coroutines that await results and changes: calls of the store, threads, errors, closing, forks. On three stores."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from queueport import AsyncJobQueue, JobQueue, JobState, JobStatus, Retry, aio, current_job, get_queue, task
from queueport.errors import BackendUnavailable, ConfigurationError, JobNotFound, QueueClosed, ResultTimeout
from queueport.spi.record import Change, CorruptRecord
from queueport.spi.settings import read
from queueport.spi.store import Swap
from queueport.stores.redis.store import RedisStore
from queueport.testing import tasks
from queueport.testing.redis_store import forget
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport
from tests.servers import redis_server

WAITING = 1000


@pytest.fixture(params=["memory", "sqlite", "redis"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    if request.param != "redis":
        with get_queue("memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db") as queue:
            yield queue
        return
    server, namespace = redis_server(), f"watching{uuid4().hex[:8]}"
    url, settings = read("wire://watching", {})
    with JobQueue(url, settings, WireTransport(Broker()), RedisStore(server.url, namespace=namespace)) as queue:
        yield queue
    forget(server, namespace)


@pytest.fixture
def memory() -> Iterator[JobQueue]:
    with get_queue("memory://") as queue:
        yield queue


@task(name="watching.steps", retry=Retry(max_attempts=1))
def steps(gates: list[str]) -> str:
    """Report the name of each gate as progress, and wait until the test opens it."""
    for number, gate in enumerate(gates):
        current_job().progress(number, message=gate)
        assert GATES[gate].wait(10)
    return "done"


GATES: dict[str, threading.Event] = {}


def calls(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the calls of the store's `wait` and `get` from now on."""
    counted: Counter[str] = Counter()
    store = queue.operations.store

    def count(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            counted[name] += 1
            return method(*args)

        return called

    for name in ("wait", "get"):
        monkeypatch.setattr(store, name, count(name, getattr(store, name)))
    return counted


def end(queue: JobQueue, *job_ids: str) -> None:
    """Cancel jobs that wait, in one write."""
    operations = queue.operations
    records = [record for record in operations.store.get(job_ids) if record is not None]
    assert operations.apply([(record, operations.lifecycle.purge(record)) for record in records]) == len(job_ids)


def delete(queue: JobQueue, job_id: str) -> None:
    record = queue.operations.read(job_id)
    queue.operations.store.swap([Swap(job_id, record.rev, Change(delete=True), "deleted")])


def watchers() -> int:
    return sum(thread.name == "queueport-results" for thread in threading.enumerate())


async def started(queue: JobQueue, coroutine: Coroutine[Any, Any, Any], calls: Counter[str]) -> asyncio.Task[Any]:
    """A task that runs the coroutine, after the store was called twice to wait for its job."""
    waiting = asyncio.create_task(coroutine)
    calls.clear()
    await until(lambda: calls["wait"] >= 2)
    return waiting


async def until(condition: Callable[[], bool]) -> None:
    """`eventually`, without blocking the event loop."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_thousand_coroutines_share_one_thread_and_its_calls_of_the_store(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_for_all() -> None:
        aq = AsyncJobQueue(queue)
        handles = await aq.enqueue_many(tasks.echo.job(number) for number in range(WAITING))
        counted = calls(queue, monkeypatch)
        waits = [asyncio.create_task(handle.result(60)) for handle in handles]
        await until(lambda: counted["get"] == WAITING)  # each coroutine reads its job once
        await until(lambda: watchers() == 1)
        counted.clear()
        began = time.monotonic()
        await until(lambda: counted["wait"] >= 5)
        assert counted["get"] == 0
        assert watchers() == 1
        await asyncio.to_thread(end, queue, *(handle.id for handle in handles))
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(answer).__name__ for answer in answers} == {"JobCancelled"}
        assert counted["wait"] <= 10 + (time.monotonic() - began) / 0.01
        assert counted["get"] <= 1 + counted["wait"]

    asyncio.run(wait_for_all())
    eventually(lambda: watchers() == 0)


def test_jobs_that_do_not_end_are_read_again_in_one_call(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "READ_EVERY", 0.3)

    async def wait_for_a_deleted_job() -> None:
        handles = await AsyncJobQueue(queue).enqueue_many(tasks.echo.job(number) for number in range(50))
        counted = calls(queue, monkeypatch)
        waits = [asyncio.create_task(handle.result()) for handle in handles]
        await until(lambda: counted["wait"] >= 2)
        await asyncio.to_thread(delete, queue, handles[0].id)
        counted.clear()
        began = time.monotonic()
        with pytest.raises(JobNotFound, match=handles[0].id):
            await asyncio.wait_for(waits[0], 10)
        assert 1 <= counted["get"] <= 10 + 2 * (time.monotonic() - began) / 0.3 < 50
        assert not any(waiting.done() for waiting in waits[1:])
        for waiting in waits:
            waiting.cancel()

    asyncio.run(wait_for_a_deleted_job())


def test_a_result_that_is_awaited_later_than_another_arrives_soon(queue: JobQueue) -> None:
    async def wait() -> float:
        aq = AsyncJobQueue(queue)
        endless = asyncio.create_task((await aq.enqueue(tasks.echo.using(queue="idle"), 0)).result())
        await until(lambda: watchers() == 1)
        handle = await aq.enqueue(tasks.echo.using(queue="idle"), 1)
        waiting = asyncio.create_task(handle.result(10))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await handle.cancel()
        with pytest.raises(Exception, match="cancelled"):
            await waiting
        endless.cancel()
        return time.monotonic() - began

    assert asyncio.run(wait()) < 1.0


def test_cancelled_and_timed_out_waits_leave_no_thread(queue: JobQueue) -> None:
    async def stop_waiting() -> None:
        handle = await AsyncJobQueue(queue).enqueue(tasks.echo, 1)
        waiting = asyncio.create_task(handle.result())
        await until(lambda: watchers() == 1)
        waiting.cancel()
        began = time.monotonic()
        with pytest.raises(ResultTimeout, match=handle.id):
            await handle.result(0.3)
        assert 0.3 <= time.monotonic() - began <= 1.5
        await until(lambda: watchers() == 0)

    asyncio.run(stop_waiting())


def test_a_close_ends_all_waits_at_once(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def close_while_waiting() -> None:
        aq = AsyncJobQueue(queue)
        handle = await aq.enqueue(tasks.echo, 1)
        counted = calls(queue, monkeypatch)
        waits = [asyncio.create_task(AsyncJobQueue(queue.shared).result(handle.id)) for _ in range(3)]
        waits.append(asyncio.create_task(next_change(aq, handle.id)))
        await until(lambda: counted["wait"] >= 2)
        began = time.monotonic()
        await aq.close()
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, QueueClosed)
        assert time.monotonic() - began < 2.0

    asyncio.run(close_while_waiting())
    eventually(lambda: watchers() == 0)


async def next_change(aq: AsyncJobQueue, job_id: str) -> JobStatus:
    changes = aq.changes(job_id, 0.1)
    await anext(changes)
    return await anext(changes)


def test_a_loop_that_was_closed_with_waiting_tasks_does_not_disturb_others(memory: JobQueue) -> None:
    handle = memory.enqueue(tasks.echo, 1)
    closed = asyncio.new_event_loop()
    closed.set_exception_handler(lambda *_: None)  # asyncio complains of the task that this test leaves
    left = closed.create_task(AsyncJobQueue(memory).result(handle.id))
    while watchers() == 0:
        closed.run_until_complete(asyncio.sleep(0.01))
    closed.run_until_complete(closed.shutdown_default_executor())
    closed.close()

    async def wait() -> Any:
        waiting = asyncio.create_task(AsyncJobQueue(memory).result(handle.id, 10))
        await asyncio.sleep(0.1)
        with memory.worker(tasks=[tasks.echo]):
            return await waiting

    assert asyncio.run(wait()) == 1
    assert not left.done()


def test_results_arrive_after_an_outage_of_the_store(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    outage = threading.Event()
    store = queue.operations.store
    wait = store.wait

    def failing(*args: Any) -> Any:
        if outage.is_set():
            raise BackendUnavailable("the store does not answer")
        return wait(*args)

    async def wait_through_an_outage() -> None:
        handle = await AsyncJobQueue(queue).enqueue(tasks.echo, 1)
        monkeypatch.setattr(store, "wait", failing)
        counted = calls(queue, monkeypatch)
        waiting = await started(queue, handle.result(), counted)
        outage.set()
        counted.clear()
        await until(lambda: counted["wait"] >= 2)
        await asyncio.to_thread(end, queue, handle.id)
        assert not waiting.done()
        outage.clear()
        with pytest.raises(Exception, match="cancelled"):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(wait_through_an_outage())


def test_a_store_that_stays_down_is_an_error_of_each_wait(memory: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "READ_EVERY", 0.2)

    def down(*_: Any) -> Any:
        raise BackendUnavailable("the store does not answer")

    async def wait() -> None:
        handle = await AsyncJobQueue(memory).enqueue(tasks.echo, 1)
        waiting = await started(memory, handle.result(), calls(memory, monkeypatch))
        for name in ("wait", "get"):
            monkeypatch.setattr(memory.operations.store, name, down)
        with pytest.raises(BackendUnavailable, match="does not answer"):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(wait())


def test_a_damaged_record_is_an_error_of_its_own_wait_only(memory: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "READ_EVERY", 0.2)
    store = memory.operations.store
    get = store.get

    async def wait() -> None:
        damaged, sound = await AsyncJobQueue(memory).enqueue_many([tasks.echo.job(1), tasks.echo.job(2)])

        def damaging(ids: Any) -> Any:
            if damaged.id in ids:
                raise CorruptRecord(f"the record of job {damaged.id} is damaged")
            return get(ids)

        waits = [asyncio.create_task(handle.result()) for handle in (damaged, sound)]
        await until(lambda: watchers() == 1)
        monkeypatch.setattr(store, "get", damaging)
        with pytest.raises(CorruptRecord, match=damaged.id):
            await asyncio.wait_for(waits[0], 10)
        with memory.worker(tasks=[tasks.echo]):
            assert await asyncio.wait_for(waits[1], 10) == 2

    asyncio.run(wait())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # this test forks one
def test_a_forked_child_waits_in_a_thread_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with get_queue(f"sqlite:///{tmp_path}/jobs.db") as queue:
        handle = queue.enqueue(tasks.echo, 1)

        async def wait_in_both() -> None:
            waiting = await started(queue, AsyncJobQueue(queue).result(handle.id), calls(queue, monkeypatch))
            child = multiprocessing.get_context("fork").Process(target=wait_in_child, args=[queue, handle.id])
            child.start()
            await until(in_child(tmp_path).exists)
            await asyncio.to_thread(end, queue, handle.id)
            with pytest.raises(Exception, match="cancelled"):
                await waiting
            await asyncio.to_thread(child.join, 10)
            assert child.exitcode == 0

        def wait_in_child(queue: JobQueue, job_id: str) -> None:
            async def wait() -> None:
                waiting = asyncio.create_task(AsyncJobQueue(queue).result(job_id))
                await until(lambda: watchers() == 1)
                in_child(tmp_path).touch()
                with pytest.raises(Exception, match="cancelled"):
                    await asyncio.wait_for(waiting, 5)

            asyncio.run(wait())

        asyncio.run(wait_in_both())


def in_child(folder: Path) -> Path:
    """A file that exists when the child process waits."""
    return folder / "waiting"


# -- changes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["memory", "sqlite"], indirect=True)
def test_changes_of_state_and_progress_are_seen_until_the_job_ends(queue: JobQueue) -> None:
    GATES.update(first=threading.Event(), second=threading.Event())

    async def watch() -> list[tuple[JobState, str | None]]:
        aq = AsyncJobQueue(queue)
        handle = await aq.enqueue(steps, ["first", "second"])
        seen: list[tuple[JobState, str | None]] = []
        async with asyncio.timeout(20):
            async for status in aq.changes(handle.id, every=0.05):
                message = status.progress.message if status.progress else None
                seen.append((status.state, message))
                if status.state is JobState.QUEUED:
                    queue_worker.start()
                elif message is not None:
                    GATES[message].set()
        assert await aq.result(handle.id) == "done"
        return seen

    queue_worker = queue.worker(tasks=[steps])
    try:
        seen = asyncio.run(watch())
    finally:
        queue_worker.stop()
    assert seen[0] == (JobState.QUEUED, None)
    assert seen[-1] == (JobState.SUCCEEDED, "second")
    assert {message for _, message in seen} == {None, "first", "second"}
    assert len(set(seen)) == len(seen)


def test_many_readers_of_changes_share_one_read(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(aq: AsyncJobQueue, job_id: str, states: list[JobState]) -> None:
        async for status in aq.changes(job_id, 0.2):
            states.append(status.state)  # noqa: PERF401 - the test looks at the list meanwhile

    async def watch() -> list[list[JobState]]:
        aq = AsyncJobQueue(queue)
        handle = await aq.enqueue(tasks.echo, 1)
        counted = calls(queue, monkeypatch)
        found: list[list[JobState]] = [[] for _ in range(100)]
        readers = [asyncio.create_task(read(aq, handle.id, states)) for states in found]
        await until(lambda: all(found))  # each reads once at first
        first = counted["get"]
        await until(lambda: counted["get"] >= first + 5)
        before, began = counted["get"], time.monotonic()
        await until(lambda: counted["get"] >= before + 5)
        assert counted["get"] - before < 100 * (time.monotonic() - began)  # not 500 reads a second
        await handle.cancel()
        await asyncio.gather(*readers)
        return found

    assert asyncio.run(watch()) == [[JobState.QUEUED, JobState.CANCELLED]] * 100


def test_changes_of_an_ended_job_are_its_last_status(memory: JobQueue) -> None:
    handle = memory.enqueue(tasks.echo, 1)
    handle.cancel()

    async def watch() -> None:
        aq = AsyncJobQueue(memory)
        assert [status async for status in aq.changes(handle.id)] == [handle.status()]
        with pytest.raises(JobNotFound):
            await anext(aq.changes("unknown"))
        for every in (0, -1.0, float("nan")):
            with pytest.raises(ConfigurationError, match=r"^every.* number of seconds"):
                await anext(aq.changes(handle.id, every))

    asyncio.run(watch())

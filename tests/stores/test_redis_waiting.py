"""`wait` of the Redis store: how soon it returns, across processes and restarts, and how many records it reads."""

import multiprocessing
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis

from queueport.spi.record import Change, Record
from queueport.spi.store import Insert, Swap
from queueport.status import JobState
from queueport.stores.redis.store import RedisStore
from queueport.testing.stores.harness import LONG, bare, dead, put, rev, succeeded, swap
from queueport.testing.waiting import eventually
from tests.servers import redis_server

WATCHED = 1000


@pytest.fixture
def store() -> Iterator[RedisStore]:
    store = RedisStore(redis_server(private=True).url, namespace=f"test{uuid4().hex[:12]}")
    yield store
    store.close()


class Waiter:
    """A thread that waits for these jobs until one has ended."""

    def __init__(self, store: RedisStore, ids: list[str]) -> None:
        self.found: list[Record] = []
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._wait, args=[store, ids])
        self._thread.start()

    def _wait(self, store: RedisStore, ids: list[str]) -> None:
        deadline = time.monotonic() + LONG
        while not self.found and time.monotonic() < deadline:
            self.found.extend(store.wait(ids, LONG))
        self.ended_at = time.monotonic()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join(2 * LONG)


def listeners(store: RedisStore, job_id: str) -> int:
    """The number of connections that are subscribed to the end of a job."""
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        answer: Any = client.pubsub_numsub(store.prefix + b"ended:" + job_id.encode())
        return int(answer[0][1])


def reads(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list of numbers. Each later read of the store by `wait` appends the number of records in that read."""
    found: list[int] = []
    read = store._waiting._read

    def counted(ids: Collection[str]) -> Sequence[Record]:
        found.append(len(ids))
        return read(ids)

    monkeypatch.setattr(store._waiting, "_read", counted)
    return found


def end(store: RedisStore, record: Record) -> None:
    store.swap([Swap(record.id, record.rev, Change({"state": JobState.SUCCEEDED}), rev())])


def end_elsewhere(url: str, prefix: bytes, job_id: str) -> float:
    """End the job, and return the time just before the end. Runs in another process."""
    store = RedisStore(url, namespace=prefix.decode()[1:-2])
    (record,) = store.get([job_id])
    assert record is not None
    moment = time.monotonic()
    end(store, record)
    store.close()
    return moment


def test_wait_returns_soon_after_a_job_ends_in_another_process(store: RedisStore) -> None:
    record = put(store)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(int).result()  # wait until the interpreter has started
        waiter = Waiter(store, [record.id, "another"])
        eventually(lambda: listeners(store, record.id) == 1)
        moment = pool.submit(end_elsewhere, redis_server(private=True).url, store.prefix, record.id).result()
        waiter.join()
    assert [found.id for found in waiter.found] == [record.id]
    assert waiter.ended_at - moment < 0.5


@pytest.mark.parametrize("make", [succeeded, dead], ids=["succeeded", "dead"])
def test_wait_returns_an_ended_job_each_time(store: RedisStore, make: Any) -> None:
    record = make(store)
    assert [list(store.wait([record.id], LONG)) for _ in range(3)] == [[record]] * 3


def test_wait_returns_when_its_job_is_inserted_dead(store: RedisStore) -> None:
    waiter = Waiter(store, ["later"])
    eventually(lambda: listeners(store, "later") == 1)
    store.insert([Insert(bare("later"), Change({"state": JobState.DEAD}), "r")])
    waiter.join()
    assert [found.id for found in waiter.found] == ["later"]


def test_wait_returns_when_its_job_is_deleted(store: RedisStore) -> None:
    record = put(store)

    def delete() -> None:
        eventually(lambda: listeners(store, record.id) == 1)
        store.swap([Swap(record.id, record.rev, Change(delete=True), rev())])

    deleting = threading.Thread(target=delete)
    deleting.start()
    started = time.monotonic()
    assert list(store.wait([record.id], LONG)) == []
    assert time.monotonic() - started < 4.0  # a message ended the wait before `call_timeout` could
    deleting.join()


def test_a_repeated_wait_reads_only_records_that_may_have_changed(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Change({"state": JobState.QUEUED})
    records = [written.record for written in store.insert([Insert(bare(), new, "r") for _ in range(WATCHED)])]
    ids = [record.id for record in records if record]
    read = reads(store, monkeypatch)
    assert [list(store.wait(ids, 0.01)) for _ in range(5)] == [[]] * 5
    assert read == [WATCHED]
    first = records[0]
    assert first is not None
    end(store, first)
    assert [record.id for record in store.wait(ids, LONG)] == [first.id]
    assert read == [WATCHED, 1]
    assert list(store.wait(ids[1:], 0.01)) == []
    # Each call of `wait` returns an ended job, even if an earlier call has returned the job.
    assert [record.id for record in store.wait(ids, LONG)] == [first.id]
    assert list(store.wait([*ids[1:], "one more"], 0.01)) == []
    assert read == [WATCHED, 1, 1, 1]


def test_wait_works_again_for_a_job_that_was_retried(store: RedisStore) -> None:
    record = succeeded(store)
    (found,) = store.wait([record.id], LONG)
    record = swap(store, found, state=JobState.QUEUED)
    assert list(store.wait([record.id], 0.01)) == []
    end(store, record)
    assert [again.id for again in store.wait([record.id], LONG)] == [record.id]


def test_a_connection_is_subscribed_only_to_the_awaited_jobs(store: RedisStore) -> None:
    store.wait(["a", "b"], 0.0)
    assert (listeners(store, "a"), listeners(store, "b")) == (1, 1)
    store.wait(["b", "c"], 0.0)
    assert [listeners(store, name) for name in "abc"] == [0, 1, 1]
    store.close()
    eventually(lambda: listeners(store, "c") == 0)


def test_wait_continues_after_a_restart_of_the_server(store: RedisStore) -> None:
    record = put(store)
    waiter = Waiter(store, [record.id])
    eventually(lambda: listeners(store, record.id) == 1)
    redis_server(private=True).restart()
    eventually(lambda: listeners(store, record.id) == 1)
    end(store, record)
    waiter.join()
    assert [found.id for found in waiter.found] == [record.id]


def test_wait_finds_a_job_that_ended_while_the_connection_was_closed(store: RedisStore) -> None:
    record = put(store)
    assert list(store.wait([record.id], 0.01)) == []
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        client.client_kill_filter(_type="pubsub")
    end(store, record)
    assert [found.id for found in store.wait([record.id], 0.0)] == [record.id]


def test_wait_returns_in_each_of_many_threads(store: RedisStore) -> None:
    records = [put(store) for _ in range(30)]
    waiters = [Waiter(store, [record.id]) for record in records]
    eventually(lambda: all(listeners(store, record.id) == 1 for record in records))
    for record in records:
        end(store, record)
    for waiter, record in zip(waiters, records, strict=True):
        waiter.join()
        assert [found.id for found in waiter.found] == [record.id]

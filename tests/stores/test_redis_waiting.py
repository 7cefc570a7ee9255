"""Waiting for results with the Redis store: at once, over processes and restarts, without reading in vain."""

import multiprocessing
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
import redis

from queueport.record import Change, Record
from queueport.status import JobState
from queueport.store import Insert, Swap
from queueport.stores.redis import RedisStore
from queueport.testing.stores.harness import bare, dead, put, rev, succeeded, swap
from queueport.testing.waiting import eventually
from tests.servers import redis_server

LONG = 20.0
"""Seconds that nobody is meant to wait."""
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
        """Until it is over."""
        self._thread.join(2 * LONG)


def listeners(store: RedisStore, job_id: str) -> int:
    """How many connections are subscribed to the end of a job."""
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        told: Any = client.pubsub_numsub(store.prefix + b"ended:" + job_id.encode())
        return int(told[0][1])


def reads(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each look reads, from now on."""
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
    """In another process; the time just before."""
    store = RedisStore(url, namespace=prefix.decode()[1:-2])
    (record,) = store.get([job_id])
    assert record is not None
    moment = time.monotonic()
    end(store, record)
    store.close()
    return moment


def test_an_end_in_another_process_wakes_at_once(store: RedisStore) -> None:
    record = put(store)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(int).result()  # the interpreter is there
        waiter = Waiter(store, [record.id, "another"])
        eventually(lambda: listeners(store, record.id) == 1)
        moment = pool.submit(end_elsewhere, redis_server(private=True).url, store.prefix, record.id).result()
        waiter.join()
    assert [found.id for found in waiter.found] == [record.id]
    assert waiter.ended_at - moment < 0.5


@pytest.mark.parametrize("make", [succeeded, dead], ids=["succeeded", "dead"])
def test_a_job_that_ended_before_is_answered_each_time(store: RedisStore, make: Any) -> None:
    record = make(store)
    assert [list(store.wait([record.id], LONG)) for _ in range(3)] == [[record]] * 3


def test_a_job_that_is_dead_from_the_start_wakes_whoever_waits_for_its_id(store: RedisStore) -> None:
    waiter = Waiter(store, ["later"])
    eventually(lambda: listeners(store, "later") == 1)
    store.insert([Insert(bare("later"), Change({"state": JobState.DEAD}), "r")])
    waiter.join()
    assert [found.id for found in waiter.found] == ["later"]


def test_a_wait_ends_when_its_job_is_deleted(store: RedisStore) -> None:
    record = put(store)

    def delete() -> None:
        eventually(lambda: listeners(store, record.id) == 1)
        store.swap([Swap(record.id, record.rev, Change(delete=True), rev())])

    deleting = threading.Thread(target=delete)
    deleting.start()
    started = time.monotonic()
    assert list(store.wait([record.id], LONG)) == []
    assert time.monotonic() - started < 4.0  # sooner than it would look anew
    deleting.join()


def test_whoever_waits_again_reads_only_what_is_new(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [record.id for record in store.wait(ids, LONG)] == [first.id]  # asked for again
    assert list(store.wait([*ids[1:], "one more"], 0.01)) == []
    assert read == [WATCHED, 1, 1, 1]


def test_a_job_that_lives_again_is_waited_for_again(store: RedisStore) -> None:
    record = succeeded(store)
    (found,) = store.wait([record.id], LONG)
    record = swap(store, found, state=JobState.QUEUED)
    assert list(store.wait([record.id], 0.01)) == []
    end(store, record)
    assert [again.id for again in store.wait([record.id], LONG)] == [record.id]


def test_a_connection_listens_to_what_is_waited_for_and_to_nothing_else(store: RedisStore) -> None:
    store.wait(["a", "b"], 0.0)
    assert (listeners(store, "a"), listeners(store, "b")) == (1, 1)
    store.wait(["b", "c"], 0.0)
    assert [listeners(store, name) for name in "abc"] == [0, 1, 1]
    store.close()
    eventually(lambda: listeners(store, "c") == 0)


def test_a_wait_survives_a_restart_and_is_woken_after_it(store: RedisStore) -> None:
    record = put(store)
    waiter = Waiter(store, [record.id])
    eventually(lambda: listeners(store, record.id) == 1)
    redis_server(private=True).restart()
    eventually(lambda: listeners(store, record.id) == 1)
    end(store, record)
    waiter.join()
    assert [found.id for found in waiter.found] == [record.id]


def test_what_ended_while_the_connection_was_cut_is_found(store: RedisStore) -> None:
    record = put(store)
    assert list(store.wait([record.id], 0.01)) == []
    with redis.Redis.from_url(redis_server(private=True).url) as client:
        client.client_kill_filter(_type="pubsub")
    end(store, record)
    assert [found.id for found in store.wait([record.id], 0.0)] == [record.id]


def test_many_threads_that_wait_are_all_woken(store: RedisStore) -> None:
    records = [put(store) for _ in range(30)]
    waiters = [Waiter(store, [record.id]) for record in records]
    eventually(lambda: all(listeners(store, record.id) == 1 for record in records))
    for record in records:
        end(store, record)
    for waiter, record in zip(waiters, records, strict=True):
        waiter.join()
        assert [found.id for found in waiter.found] == [record.id]

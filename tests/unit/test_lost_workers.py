"""Jobs whose messages a lost worker may have fetched. Line X11 of the contract tests it with killed workers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from queueport import JobQueue
from queueport.engine import dispatcher as module
from queueport.engine.dispatcher import BATCH, Dispatcher
from queueport.spi.record import Change, Record
from queueport.spi.settings import read
from queueport.spi.store import StoreStats
from queueport.stats import WorkerStats
from queueport.stores.memory.store import MemoryStore
from queueport.testing import tasks
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport

LEASE = 1.0
HELD = 5
"""The number of messages that the lost worker has fetched."""


class HidingTransport(WireTransport):
    """A transport whose broker keeps the messages that a killed worker had fetched."""

    returns_fetched = False


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def queue(broker: Broker) -> Iterator[JobQueue]:
    url, settings = read(f"wire://hiding?lease={LEASE}", {})
    with JobQueue(url, settings, HidingTransport(broker), MemoryStore()) as queue:
        yield queue


@pytest.fixture
def dispatcher(queue: JobQueue) -> Dispatcher:
    return Dispatcher(queue.operations)


def announced(queue: JobQueue, name: str = "w", ttl: float = 0.01) -> None:
    """Announce a worker that is lost after `ttl` seconds. 0 seconds: the worker has stopped."""
    queue.operations.store.announce(WorkerStats(name, (tasks.QUEUE,), (), datetime.fromtimestamp(0, UTC)), ttl)


def fetched(broker: Broker, number: int) -> list[bytes]:
    """Remove the oldest messages from the broker, as a worker does that fetches and does not acknowledge them."""
    bodies = [body for _, _, body in broker.waiting[tasks.QUEUE][:number]]
    del broker.waiting[tasks.QUEUE][:number]
    return bodies


def waiting(broker: Broker) -> int:
    return len(broker.waiting[tasks.QUEUE])


def searched(dispatcher: Dispatcher) -> None:
    """Run rounds of the dispatcher until it has searched for lost workers. A new dispatcher first waits."""
    eventually(lambda: (dispatcher.tick(), dispatcher._handles_leases())[1])
    before = dispatcher._searched_at
    eventually(lambda: (dispatcher.tick(), dispatcher._searched_at > before)[1])


def test_the_jobs_that_a_lost_worker_had_fetched_are_published_again_once(
    queue: JobQueue, broker: Broker, dispatcher: Dispatcher
) -> None:
    announced(queue)
    announced(queue, "another")
    handles = queue.enqueue_many(tasks.echo.job(number) for number in range(HELD))
    assert len(fetched(broker, HELD)) == HELD
    searched(dispatcher)
    assert waiting(broker) == HELD
    assert queue.operations.store.workers(lost=True) == []
    searched(dispatcher)
    assert waiting(broker) == HELD
    assert {(handle.status().attempts, handle.status().crashes) for handle in handles} == {(0, 0)}


def test_a_long_queue_is_not_published_again(queue: JobQueue, broker: Broker, dispatcher: Dispatcher) -> None:
    announced(queue)
    long = HELD + 3 * BATCH
    queue.enqueue_many(tasks.echo.job(number) for number in range(long))
    lost = fetched(broker, HELD)
    searched(dispatcher)
    assert waiting(broker) == long - HELD + HELD + BATCH
    ids = {body[:60] for _, _, body in broker.waiting[tasks.QUEUE]}
    assert {body[:60] for body in lost} <= ids


@pytest.mark.parametrize("why", ["it has stopped", "it is alive", "the backend returns its messages"])
def test_nothing_is_published_again_for_a_worker_that_is_not_lost_or_whose_messages_come_back(
    queue: JobQueue, broker: Broker, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    announced(queue, ttl=60.0 if why == "it is alive" else 0.01)
    if why == "it has stopped":
        announced(queue, ttl=0.0)
    if why == "the backend returns its messages":
        monkeypatch.setattr(queue.driver, "returns_fetched", True)
    queue.enqueue_many(tasks.echo.job(number) for number in range(HELD))
    fetched(broker, HELD)
    searched(dispatcher)
    assert waiting(broker) == 0


def test_a_dispatcher_that_has_just_started_waits_until_live_workers_have_announced_themselves(
    queue: JobQueue, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOST_EVERY", 0.0)
    announced(queue)
    queue.enqueue(tasks.echo, 1)
    fetched(broker, 1)
    eventually(lambda: queue.operations.store.workers(lost=True))
    dispatcher = Dispatcher(queue.operations)
    dispatcher.tick()
    assert waiting(broker) == 0
    eventually(lambda: (dispatcher.tick(), waiting(broker) == 1)[1])


def test_a_job_that_was_sent_after_the_lease_of_the_lost_worker_is_not_published_again(
    queue: JobQueue, broker: Broker, dispatcher: Dispatcher
) -> None:
    announced(queue)
    seen = queue.operations.store.now()
    eventually(lambda: queue.operations.store.now() > seen + LEASE)
    queue.enqueue(tasks.echo, 1)
    searched(dispatcher)
    assert waiting(broker) == 1


def test_a_search_goes_on_although_another_dispatcher_publishes_the_same_jobs(
    queue: JobQueue, broker: Broker, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(queue)
    held = 3 * BATCH
    queue.enqueue_many(tasks.echo.job(number) for number in range(held))
    fetched(broker, held)
    store = queue.operations.store
    unreceived, other = store.unreceived, Dispatcher(queue.operations)

    def together(queue_name: str, priority: int, before: float, limit: int) -> Sequence[Record]:
        found = unreceived(queue_name, priority, before, limit)
        other._operations.apply([(record, lifecycle.resend_fetched(record, before=before)) for record in found[:10]])
        return found

    lifecycle = queue.operations.lifecycle
    monkeypatch.setattr(store, "unreceived", together)
    searched(dispatcher)
    assert waiting(broker) == held


def test_a_stop_leaves_the_search_to_another_dispatcher(
    queue: JobQueue, broker: Broker, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced(queue)
    queue.enqueue_many(tasks.echo.job(number) for number in range(HELD))
    fetched(broker, HELD)
    stats = queue.operations.store.stats

    def stopped() -> StoreStats:
        dispatcher._stop.set()
        return stats()

    with monkeypatch.context() as patched:
        patched.setattr(queue.operations.store, "stats", stopped)
        searched(dispatcher)
    assert len(queue.operations.store.workers(lost=True)) == 1
    searched(Dispatcher(queue.operations))
    assert waiting(broker) == HELD


def test_jobs_that_wait_longer_for_a_further_message_do_not_hide_lost_messages_behind_them(
    queue: JobQueue, broker: Broker
) -> None:
    operations, store = queue.operations, queue.operations.store
    queue.enqueue_many(tasks.echo.job(n) for n in range(2 * BATCH + HELD))
    number = 2 * BATCH + HELD
    eventually(lambda: len(store.unreceived(tasks.QUEUE, 0, math.inf, number)) == number)  # all jobs are marked as sent
    found = store.unreceived(tasks.QUEUE, 0, math.inf, number)
    patient = [(record, Change({"sends": 9})) for record in found[: 2 * BATCH]]
    assert operations.apply(patient) == 2 * BATCH
    fetched(broker, number)
    frontier = store.now() + 10 * operations.rules.lost_after
    assert operations.find_lost(tasks.QUEUE, 0, frontier, BATCH) == HELD
    assert waiting(broker) == HELD

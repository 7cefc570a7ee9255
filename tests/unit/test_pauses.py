"""Pauses of queues: the copy that a process keeps, what it costs, and the jobs that rest in the store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from queueport import AsyncJobQueue, JobQueue, JobState, get_queue
from queueport.engine.copies import READ_EVERY
from queueport.engine.dispatcher import Dispatcher
from queueport.engine.lifecycle import PAUSED, REST, Lifecycle
from queueport.engine.operations import Operations
from queueport.engine.pauses import Pauses
from queueport.engine.rules import Refusal
from queueport.engine.runtime import Runtime
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.record import Change, CorruptRecord, Record
from queueport.spi.store import Document, Query, Swap, WriteResult
from queueport.stores.memory.store import MemoryStore
from queueport.testing import FakeQueue
from queueport.testing.waiting import eventually
from tests.costs import count_store_calls, noop
from tests.mutants.wire import Broker, WireTransport
from tests.unit.records import CLAIMING, NOW, QUEUED, RETRYING, RULES, SCHEDULED, after, job, running


class Clock(Runtime):
    """Clocks that stand still until a test moves them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def pauses(store: MemoryStore, clock: Clock) -> Pauses:
    made = Pauses(store, clock)
    made.follow()
    return made


@pytest.fixture
def wire() -> Iterator[JobQueue]:
    """A queue on a broker in memory."""
    store = MemoryStore()
    with get_queue("memory://") as memory:
        yield JobQueue(memory._url, memory.settings, WireTransport(Broker()), store)


# -- the copy ----------------------------------------------------------------------------------------------------------


def test_the_copy_is_read_again_only_when_it_is_too_old(
    store: MemoryStore, clock: Clock, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    with count_store_calls(store, monkeypatch) as found:
        for _ in range(100):
            assert pauses.current() == {}
        assert found["documents"] == 1
        Pauses(store, clock).add("emails", None)
        clock.now += READ_EVERY - 0.01
        assert pauses.current() == {}
        clock.now += 0.01
        assert set(pauses.current()) == {"emails"}


def test_a_process_that_does_not_follow_reads_nothing(
    store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with count_store_calls(store, monkeypatch) as found:
        assert Pauses(store, clock).current() == {}
        assert found == {}


def test_only_a_paused_queue_makes_an_idle_process_read(
    store: MemoryStore, clock: Clock, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    with count_store_calls(store, monkeypatch) as found:
        for _ in range(10):
            clock.now += READ_EVERY
            assert pauses.known() == {}
        assert found == {}
        pauses.add("emails", None)
        assert set(pauses.current()) == {"emails"}
        found.clear()
        for _ in range(10):
            clock.now += READ_EVERY
            assert set(pauses.known()) == {"emails"}
        assert found == {"documents": 10}


def test_the_last_copy_holds_while_the_store_does_not_answer(
    store: MemoryStore, clock: Clock, pauses: Pauses, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(kind: str) -> Sequence[Document]:
        raise BackendUnavailable("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(store, "documents", down)
        with pytest.raises(BackendUnavailable):
            pauses.current()
    pauses.add("emails", None)
    assert set(pauses.current()) == {"emails"}
    read_at = pauses.read_at
    with monkeypatch.context() as patch:
        patch.setattr(store, "documents", down)
        for _ in range(3):
            clock.now += READ_EVERY
            assert set(pauses.current()) == {"emails"}
    assert pauses.read_at == read_at
    assert "the last known ones hold" in caplog.text
    assert pauses.remove("emails")
    assert pauses.current() == {}


def test_a_forked_child_goes_on_with_the_copy_of_its_parent(
    pauses: Pauses, store: MemoryStore, monkeypatch: Any
) -> None:
    pauses.add("emails", None)
    pauses.current()
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(store, "documents", lambda kind: os._exit(1))
        os._exit(0 if set(pauses.current()) == {"emails"} else 2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_pausing_twice_changes_only_the_reason(pauses: Pauses, store: MemoryStore) -> None:
    pauses.add("emails", "first")
    first = pauses.read()["emails"]
    pauses.add("emails", None)
    assert pauses.read() == {"emails": replace(first, reason=None)}
    assert (pauses.remove("emails"), pauses.remove("emails")) == (True, False)


def test_a_lost_race_for_the_document_is_run_again(
    pauses: Pauses, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = store.documents
    seen: list[int] = []

    def late(kind: str) -> Sequence[Document]:
        found = documents(kind)
        if not seen:  # another process pauses the queue between the read and the write
            seen.append(1)
            assert store.put_document(Document(kind, "emails", {"since": 5.0}, "theirs"), None)
        return found

    monkeypatch.setattr(store, "documents", late)
    pauses.add("emails", "mine")
    pause = pauses.read()["emails"]
    assert (pause.reason, pause.since) == ("mine", datetime.fromtimestamp(5.0, UTC))


@pytest.mark.parametrize("value", [{}, {"since": "x", "reason": 1}, {"since": 1e300}, {"since": -(2**70)}])
def test_a_document_with_wrong_values_still_pauses_the_queue(
    pauses: Pauses, store: MemoryStore, value: dict[str, Any]
) -> None:
    assert store.put_document(Document("pause", "emails", value, "r"), None)
    assert pauses.read()["emails"].reason is None


# -- the lifecycle -----------------------------------------------------------------------------------------------------


def dispatched(record: Any, *, paused: bool = True, rules: Any = RULES, known: bool = True) -> Change:
    return Lifecycle(rules).dispatch(record, now=NOW, known=lambda _: known, paused=paused)


@pytest.mark.parametrize("state", [QUEUED, SCHEDULED, RETRYING])
def test_a_due_job_of_a_paused_queue_rests_in_the_store(state: JobState) -> None:
    record = job(state, sends=1)
    change = dispatched(record)
    rests = after(change, record)
    assert (rests.state, rests.sent, rests.reason, rests.wake_at) == (QUEUED, False, PAUSED, NOW + REST)
    assert change.then == frozenset()
    again = after(dispatched(rests), rests)
    assert (again, dispatched(rests).then) == (replace(rests, rev=again.rev), frozenset())


@pytest.mark.parametrize(("expires", "wakes"), [(1.0, 1.0), (REST, REST), (REST + 1, REST)])
def test_a_resting_job_is_checked_when_it_expires(expires: float, wakes: float) -> None:
    record = job(QUEUED, expires_at=NOW + expires)
    assert after(dispatched(record), record).wake_at == NOW + wakes


def test_a_job_of_a_paused_queue_expires_and_its_crashes_count() -> None:
    expired = job(QUEUED, expires_at=NOW)
    assert after(dispatched(expired), expired).reason == "expired"
    crashed = after(dispatched(running()), running())
    assert (crashed.state, crashed.crashes, crashed.reason, crashed.token) == (QUEUED, 1, PAUSED, None)


def test_a_job_of_a_paused_queue_does_not_die_because_its_task_is_unknown() -> None:
    record = job(QUEUED, unknown_since=NOW - 1e6)
    rests = after(dispatched(record, known=False), record)
    assert (rests.state, rests.unknown_since, rests.reason) == (QUEUED, None, PAUSED)
    waits = after(dispatched(record, known=False, rules=CLAIMING), record)
    assert (waits.state, waits.unknown_since, waits.sent, waits.reason) == (QUEUED, None, True, None)


def test_a_resting_job_wakes_once_and_is_then_published_without_a_reason() -> None:
    record = job(QUEUED, reason=PAUSED, wake_at=NOW + 500)
    lifecycle = Lifecycle(RULES)
    change = lifecycle.wake(record)
    assert isinstance(change, Change)
    awake = after(change, record)
    assert (awake.state, awake.reason, awake.wake_at) == (QUEUED, None, NOW)
    assert lifecycle.wake(awake) is Refusal.NOT_ALLOWED
    assert lifecycle.wake(replace(record, sent=True)) is Refusal.NOT_ALLOWED
    assert lifecycle.wake(running(reason=PAUSED)) is Refusal.NOT_ALLOWED
    published = dispatched(record, paused=False)  # nobody has woken it
    assert (after(published, record).reason, published.then) == (None, dispatched(job(QUEUED), paused=False).then)
    begun = lifecycle.begin(token="t", worker="w", defaults={})
    assert after(begun, record).reason is None


# -- a queue -----------------------------------------------------------------------------------------------------------


def test_jobs_and_idle_workers_cost_no_calls_for_pauses(wire: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = wire.operations.store.documents
    reads: list[float] = []

    def counted(kind: str) -> Sequence[Document]:
        if kind == "pause":
            reads.append(time.monotonic())
        return documents(kind)

    monkeypatch.setattr(wire.operations.store, "documents", counted)
    with count_store_calls(wire.operations.store, monkeypatch) as found:
        handles = wire.enqueue_many(noop.job(n) for n in range(50))
        assert reads == []
        started = time.monotonic()
        with wire.worker(tasks=[noop], threads=2):
            assert [handle.result(10) for handle in handles] == list(range(50))
            before = len(reads)
            assert 0 < before <= 2 + (time.monotonic() - started) / READ_EVERY  # two threads may read at first
            calls = found["claim_due"]
            eventually(lambda: found["claim_due"] > calls + 50)  # more than two seconds
            assert len(reads) == before


def test_a_dispatcher_that_saw_the_pause_too_long_wakes_the_jobs_again(wire: JobQueue) -> None:
    """The dispatcher lets a job rest by an old copy, after `resume` has woken all others."""
    operations = wire.operations
    operations.pauses.follow()
    wire.pause("default")
    assert set(operations.pauses.current()) == {"default"}
    handle = wire.enqueue(noop.using(delay=0.01).job(1))
    other = JobQueue(wire._url, wire.settings, operations.driver, operations.store)
    assert other.resume("default")
    dispatcher = Dispatcher(operations)
    eventually(lambda: dispatcher.tick() and handle.status().reason == PAUSED)
    eventually(lambda: dispatcher.tick() >= 0 and handle.status().reason is None, READ_EVERY + 1)
    eventually(lambda: dispatcher.tick() >= 0 and operations.read(handle.id).sent, 2)


def test_a_job_that_comes_to_rest_after_the_last_read_and_the_resume_is_woken(
    wire: JobQueue, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the dispatcher writes that a job rests, another thread reads the pauses, and then the queue is resumed."""
    operations = Operations(wire.operations.store, wire.operations.driver, wire.operations.rules, clock)
    operations.pauses.follow()
    wire.pause("default")
    assert set(operations.pauses.current()) == {"default"}
    handle = wire.enqueue(noop.using(delay=0.01).job(1))
    swap = operations.store.swap

    def late(swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        monkeypatch.undo()
        clock.now += READ_EVERY
        assert set(operations.pauses.current()) == {"default"}
        assert wire.resume("default")
        return swap(swaps)

    monkeypatch.setattr(operations.store, "swap", late)
    eventually(lambda: operations.dispatch(10))
    assert handle.status().reason == PAUSED
    operations.wake_resting()
    clock.now += READ_EVERY
    operations.wake_resting()
    assert handle.status().reason is None


def test_a_damaged_record_does_not_keep_other_jobs_at_rest(wire: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = wire.operations
    operations.pauses.follow()
    wire.pause("default")
    damaged, other = wire.enqueue_many(noop.using(delay=0.01).job(n) for n in range(2))
    dispatcher = Dispatcher(operations)
    eventually(lambda: dispatcher.tick() >= 0 and damaged.status().reason == other.status().reason == PAUSED)
    get = operations.store.get

    def found(ids: Sequence[str]) -> Sequence[Record | None]:
        if damaged.id in ids:
            raise CorruptRecord("it cannot be read")
        return get(ids)

    monkeypatch.setattr(operations.store, "get", found)
    assert wire.resume("default")
    assert other.status().reason is None


def test_resume_goes_on_if_the_last_job_of_a_page_is_deleted(wire: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.engine.operations.PAGE", 3)
    operations = wire.operations
    operations.pauses.follow()
    wire.pause("default")
    handles = wire.enqueue_many(noop.using(delay=0.01).job(n) for n in range(8))
    dispatcher = Dispatcher(operations)
    eventually(lambda: dispatcher.tick() >= 0 and all(h.status().reason == PAUSED for h in handles))
    find, deleted = operations.store.find, list[str]()

    def found(query: Query) -> Sequence[Record]:
        page = find(query)
        if not deleted:  # another process runs the job to its end, and deletes its record
            (done,) = operations.store.swap([Swap(page[-1].id, page[-1].rev, Change(delete=True), "r")])
            assert done.applied
            deleted.append(page[-1].id)
        return page

    monkeypatch.setattr(operations.store, "find", found)
    assert wire.resume("default")
    left = [handle for handle in handles if handle.id not in deleted]
    assert len(left) == 7
    assert {handle.status().reason for handle in left} == {None}


def test_resume_wakes_the_resting_jobs_oldest_first_in_pages(wire: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queueport.engine.operations.PAGE", 3)
    operations = wire.operations
    operations.pauses.follow()
    wire.pause("default")
    handles = wire.enqueue_many(noop.using(delay=0.01).job(n) for n in range(8))
    dispatcher = Dispatcher(operations)
    eventually(lambda: dispatcher.tick() >= 0 and all(h.status().reason == PAUSED for h in handles))
    other = wire.enqueue(noop.using(queue="other", delay=0.01).job(9))
    eventually(lambda: dispatcher.tick() >= 0 and operations.read(other.id).sent)
    assert isinstance(operations.driver, WireTransport)
    broker = operations.driver.broker
    assert [*broker.sent] == [other.id]
    assert wire.resume("default")
    assert {handle.status().reason for handle in handles} == {None}
    dispatcher.tick()
    assert [*broker.sent] == [other.id, *(handle.id for handle in handles)]


def test_a_burst_ends_although_jobs_of_a_paused_queue_wait(wire: JobQueue) -> None:
    wire.pause("default")
    held, runs = wire.enqueue(noop, 1), wire.enqueue(noop.using(queue="other").job(2))
    wire.worker("default", "other", tasks=[noop], burst=True).run()
    assert (held.status().state, held.status().attempts) == (JobState.QUEUED, 0)
    assert runs.result(0) == 2


def test_a_worker_stops_at_once_while_all_its_queues_are_paused(wire: JobQueue) -> None:
    wire.pause("default")
    handle = wire.enqueue(noop, 1)
    worker = wire.worker(tasks=[noop]).start()
    eventually(lambda: handle.status().reason == PAUSED)
    started = time.monotonic()
    worker.stop()
    assert time.monotonic() - started < 2.0


def test_a_fake_queue_can_be_paused() -> None:
    with FakeQueue() as queue:
        handle = queue.enqueue(noop, 1)
        queue.pause("default")
        assert queue.drain() == 0
        assert queue.resume("default")
        assert queue.drain() == 1
        assert handle.result() == 1


async def use_async(queue: JobQueue) -> tuple[Any, bool, bool]:
    aq = AsyncJobQueue(queue)
    await aq.pause("emails", reason="why")
    paused = await aq.paused()
    return paused, await aq.resume("emails"), await aq.resume("emails")


def test_coroutines_can_pause() -> None:
    import asyncio

    with get_queue("memory://") as queue:
        paused, first, second = asyncio.run(use_async(queue))
    assert (paused["emails"].reason, first, second) == ("why", True, False)


@pytest.mark.parametrize("call", ["pause", "resume"])
def test_a_wrong_queue_name_is_refused(call: str) -> None:
    with get_queue("memory://") as queue, pytest.raises(ConfigurationError, match="is not a queue name"):
        getattr(queue, call)("no name")


@pytest.mark.parametrize("reason", [1, "x" * 1001])
def test_a_wrong_reason_is_refused(reason: Any) -> None:
    with get_queue("memory://") as queue, pytest.raises(ConfigurationError, match="at most 1000 characters"):
        queue.pause("emails", reason)


def test_the_statistics_are_plain_json(wire: JobQueue) -> None:
    wire.pause("emails", "why")
    shown = wire.stats().as_dict()["queues"]["emails"]["paused"]
    assert shown["reason"] == "why"
    assert datetime.fromisoformat(shown["since"]) == wire.paused()["emails"].since

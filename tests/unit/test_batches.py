"""Bad data of one job does not stop the other jobs of a batch: in heartbeats, begins, swaps, messages and others."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from queueport import JobHandle, JobQueue, JobState, get_queue
from queueport.engine import arguments, operations
from queueport.errors import BackendUnavailable
from queueport.spi.message import Message, SendOutcome, SendResult
from queueport.spi.record import Change, Record
from queueport.spi.settings import read
from queueport.spi.store import Query, Swap, WriteResult
from queueport.status import Progress
from queueport.stores.memory.store import MemoryStore
from queueport.testing import tasks
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport

LEASE = 0.6


@contextmanager
def failing(owner: type, method: str, bad: Callable[[Any], bool], error: Exception, where: int = 1) -> Iterator[None]:
    """Make the method raise the error if `bad` is true for an item of its argument at position `where`."""
    real = getattr(owner, method)

    def call(*args: Any) -> Any:
        if any(map(bad, args[where])):
            raise error
        return real(*args)

    with patch.object(owner, method, call):
        yield


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def queue(broker: Broker) -> Iterator[JobQueue]:
    url, settings = read(f"wire://batches?lease={LEASE}&call_timeout=1.0", {})
    with JobQueue(url, settings, WireTransport(broker), MemoryStore()) as queue:
        yield queue


def test_a_change_of_many_jobs_includes_jobs_whose_records_another_process_has_just_changed(queue: JobQueue) -> None:
    for number in range(3):
        queue.dead_letters.add(tasks.echo.job(number), "added")
    operations, store, swap = queue.operations, queue.operations.store, MemoryStore.swap
    first, second, third = store.find(Query(JobState.DEAD))
    beside = [(first, operations.lifecycle.mark_buried(first)), (second, operations.lifecycle.retry(second))]
    others = [Swap(record.id, record.rev, change, "other") for record, change in beside if isinstance(change, Change)]

    def swap_after_others(self: MemoryStore, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        swap(self, others)
        others.clear()
        return swap(self, swaps)

    with patch.object(MemoryStore, "swap", swap_after_others):
        assert queue.dead_letters.purge() == 2
    assert [queue.status(record.id).state for record in (first, second, third)] == ["cancelled", "queued", "cancelled"]


def test_progress_that_the_store_cannot_keep_does_not_stop_heartbeats(queue: JobQueue, trace: Trace) -> None:
    text: Any = "text"
    odd = Progress(current=text)  # `CurrentJob.progress` would refuse this value

    def spoilt(beat: Any) -> bool:
        return beat.values.get("progress") is odd

    with failing(MemoryStore, "heartbeat", spoilt, TypeError("cannot be encoded")), queue.worker(threads=2) as worker:
        first, second = queue.enqueue(tasks.wait_for, "go"), queue.enqueue(tasks.wait_for, "go")
        eventually(lambda: len(trace.runs()) == 2)
        running = worker._runner.heartbeat.running()  # no public method accepts such progress
        (attempt,) = [one for one in running if one.record.id == first.id]
        attempt.job.latest_progress = odd
        eventually(lambda: attempt.written_progress is odd)
        begun = worker._runner.operations.store.now()
        eventually(lambda: worker._runner.operations.store.now() > begun + 2 * LEASE)
        attempt.job.latest_progress = None
        trace.open("go")
        assert [first.result(10), second.result(10)] == ["go", "go"]
    assert [(handle.status().attempts, handle.status().crashes) for handle in (first, second)] == [(1, 0)] * 2


def test_an_outcome_that_the_store_cannot_keep_is_a_failure(queue: JobQueue) -> None:
    def too_odd(swap: Any) -> bool:
        return bool(swap.change.set.get("result") == b'"odd"')

    with failing(MemoryStore, "swap", too_odd, TypeError("cannot be encoded")), queue.worker(threads=1):
        odd, good = queue.enqueue(tasks.echo, "odd"), queue.enqueue(tasks.echo, "good")
        assert good.result(10) == "good"
        eventually(lambda: odd.status().finished)
    status = odd.status()
    assert (status.state, status.attempts, status.crashes) == (JobState.DEAD, 1, 0)
    assert status.error is not None
    assert status.error.message == "cannot be encoded"


def test_a_message_whose_begin_fails_is_put_aside_and_the_others_run(queue: JobQueue, broker: Broker) -> None:
    handles = queue.enqueue_many([tasks.echo.job(number) for number in range(5)])
    bad = handles[2].id
    with failing(MemoryStore, "begin", lambda begin: begin.id == bad, KeyError("odd")), queue.worker(threads=8):
        assert [handle.result(10) for handle in handles if handle.id != bad] == [0, 1, 3, 4]
        eventually(lambda: broker.aside)
    assert handles[2].status().state is JobState.QUEUED


def test_an_acknowledgement_that_fails_does_not_lose_the_jobs_of_its_batch(queue: JobQueue) -> None:
    with failing(WireTransport, "ack", lambda _: True, KeyError("odd")), queue.worker(threads=8):
        handles = queue.enqueue_many([tasks.echo.job(number) for number in range(5)])
        assert [handle.result(10) for handle in handles] == [0, 1, 2, 3, 4]


def due(queue: JobQueue, number: int) -> list[JobHandle[Any]]:
    """Jobs that are due, for the next `dispatch`."""
    handles = queue.enqueue_many([tasks.echo.using(delay=0.01).job(n) for n in range(number)])
    eventually(lambda: queue.operations.store.now() > (handles[-1].status().enqueued_at.timestamp() + 0.01))
    return handles


def states(handles: Sequence[JobHandle[Any]]) -> list[JobState]:
    return [handle.status().state for handle in handles]


def test_a_record_that_cannot_be_moved_does_not_stop_the_others_of_its_batch(queue: JobQueue, broker: Broker) -> None:
    handles = due(queue, 5)
    with failing(MemoryStore, "swap", lambda swap: swap.id == handles[1].id, TypeError("odd")):
        queue.operations.dispatch(100)
    queued = JobState.QUEUED
    assert states(handles) == [queued, JobState.SCHEDULED, queued, queued, queued]
    assert broker.sent.keys() == {handle.id for handle in handles if handle is not handles[1]}


def test_a_record_that_cannot_be_moved_does_not_stop_a_purge(queue: JobQueue) -> None:
    handles = queue.enqueue_many([tasks.echo.job(number) for number in range(3)])
    with failing(MemoryStore, "swap", lambda swap: swap.id == handles[0].id, TypeError("odd")):
        assert queue.purge("default") == 2
    assert states(handles) == [JobState.QUEUED, JobState.CANCELLED, JobState.CANCELLED]


def test_a_record_whose_decision_raises_does_not_stop_the_others_of_its_batch(queue: JobQueue) -> None:
    handles = due(queue, 3)
    lifecycle = type(queue.operations.lifecycle)
    real = lifecycle.dispatch

    def dispatch(self: Any, record: Any, **options: Any) -> Any:
        if record.id == handles[0].id:
            raise KeyError("a damaged option")
        return real(self, record, **options)

    with patch.object(lifecycle, "dispatch", dispatch):
        queue.operations.dispatch(100)
    assert states(handles) == [JobState.SCHEDULED, JobState.QUEUED, JobState.QUEUED]


def test_a_message_that_cannot_be_sent_does_not_stop_the_others_of_its_batch(queue: JobQueue, broker: Broker) -> None:
    handles = due(queue, 5)
    with failing(WireTransport, "send", lambda message: message.id == handles[3].id, ValueError("odd"), where=2):
        queue.operations.dispatch(100)
    assert broker.sent.keys() == {handle.id for handle in handles if handle is not handles[3]}
    assert states(handles) == [JobState.QUEUED] * 5


def test_a_message_that_the_broker_refuses_does_not_stop_the_others_of_its_batch(
    queue: JobQueue, broker: Broker
) -> None:
    """Some brokers close the channel because of one message, and lose the messages after it."""
    handles = due(queue, 5)
    real = WireTransport.send

    def send(self: WireTransport, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        bad = [i for i, message in enumerate(messages) if message.id == handles[2].id]
        taken = messages[: bad[0]] if bad else messages
        lost = [SendResult(SendOutcome.UNKNOWN, ConnectionError("closed"))] * (len(messages) - len(taken))
        return [*real(self, queue, taken), *lost]

    with patch.object(WireTransport, "send", send):
        queue.operations.dispatch(100)
    assert broker.sent.keys() == {handle.id for handle in handles if handle is not handles[2]}
    assert [queue.operations.read(handle.id).sent for handle in handles] == [True, True, False, True, True]


@pytest.mark.parametrize("error", [ValueError("odd"), BackendUnavailable("refused")], ids=["unexpected", "refused"])
def test_a_copy_that_cannot_be_buried_does_not_stop_the_others_of_its_batch(
    queue: JobQueue, broker: Broker, error: Exception
) -> None:
    with failing(WireTransport, "bury", lambda _: True, BackendUnavailable("down"), where=2):
        handles = [queue.dead_letters.add(tasks.echo.job(number), "by hand") for number in range(5)]
    assert broker.dead == {}
    with failing(WireTransport, "bury", lambda message: message.id == handles[2].id, error, where=2):
        queue.operations.bury([handle.id for handle in handles])
    assert broker.dead.keys() == {handle.id for handle in handles if handle is not handles[2]}
    buried = [queue.operations.read(handle.id).buried for handle in handles]
    assert buried == [True, True, False, True, True]


def test_a_backend_that_is_down_is_not_asked_for_each_copy(queue: JobQueue) -> None:
    asked: list[int] = []

    def bury(_: object, queue: str, messages: Sequence[Any]) -> None:
        asked.append(len(messages))
        raise BackendUnavailable("down")

    with patch.object(WireTransport, "bury", bury):
        handles = [queue.dead_letters.add(tasks.echo.job(number), "by hand") for number in range(5)]
        asked.clear()
        queue.operations.bury([handle.id for handle in handles])
    assert asked == [5, 1, 1]


def test_a_copy_of_an_error_that_utf_8_cannot_encode_can_be_sent(queue: JobQueue) -> None:
    """An earlier release of `dead_letters.add` stored an error text with a lone surrogate."""
    record = queue.operations.read(queue.dead_letters.add(tasks.echo.job(1), "\ud800").id)
    assert record.errors[-1].message == "\\ud800"
    old = replace(record, errors=(replace(record.errors[-1], message="\ud800"),))
    assert json.loads(Message.of(old, 0.0, buried=True).body)["error"]["message"] == "\ud800"


def test_the_error_of_a_dead_letter_added_by_hand_is_short_text(queue: JobQueue) -> None:
    handle = queue.dead_letters.add(tasks.echo.job(1), "x" * 10_000_000)
    error = handle.status().error
    assert error is not None
    assert len(error.message) == 2_000
    no_text: Any = ValueError("no text")
    with pytest.raises(TypeError, match="error must be text, not ValueError"):
        queue.dead_letters.add(tasks.echo.job(1), no_text)


class Filter(logging.Filter):
    """Raises for every log line, as a broken logging configuration may."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise SystemExit(9)


def test_a_job_ends_although_its_log_lines_cannot_be_written() -> None:
    logger, broken = logging.getLogger("queueport"), Filter()
    with get_queue("memory://") as queue, queue.worker(tasks.QUEUE, threads=1) as worker:
        queue.enqueue(tasks.echo, 0).result(10)
        logger.addFilter(broken)
        try:
            handles: list[JobHandle[Any]] = [
                queue.enqueue(tasks.echo, 1),
                queue.enqueue(tasks.fail.using(retry=tasks.ONCE), "no"),
                queue.enqueue(tasks.echo, 2),
            ]
            eventually(lambda: all(handle.status().finished for handle in handles))
            eventually(lambda: worker.idle)
        finally:
            logger.removeFilter(broken)


@pytest.mark.parametrize("deleted", [1, 2], ids=["the last of the page", "the whole page"])
def test_a_change_of_all_jobs_goes_on_although_jobs_are_deleted_meanwhile(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    for module in (operations, arguments):
        monkeypatch.setattr(module, "PAGE", 2)
    for number in range(7):
        queue.dead_letters.add(tasks.echo.job(number), "it failed")
    store = queue.operations.store
    find, pages = store.find, itertools.count()

    def and_delete(query: Query) -> Sequence[Record]:
        page = find(query)
        if next(pages) == 0:  # as a dispatcher does when the retention is over
            store.swap([Swap(record.id, record.rev, Change(delete=True), "r") for record in page[-deleted:]])
        return page

    monkeypatch.setattr(store, "find", and_delete)
    assert queue.dead_letters.retry_all() == 7 - deleted
    assert queue.stats().totals.dead == 0

"""What a producer learns, and how soon, if the backend or the store does not answer. For authors of `enqueue`."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn
from unittest.mock import Mock

import pytest

from queueport import AsyncJobQueue, JobQueue, JobState, Limits, get_queue
from queueport.engine.enqueue import BATCH, QUEUES
from queueport.engine.sending import Sending
from queueport.errors import BackendMisconfigured, BackendUnavailable, DuplicateJob, JobNotFound, PayloadTooLarge
from queueport.spi.message import Message, SendOutcome, SendResult
from queueport.spi.record import Record
from queueport.spi.settings import read
from queueport.spi.store import Insert, Query, WriteResult
from queueport.stores.memory.store import MemoryStore
from queueport.stores.redis.store import RedisStore
from queueport.testing import tasks
from queueport.testing.redis_store import Redis
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport
from tests.servers import redis_server

CALL_TIMEOUT = 0.2
DOWN = BackendUnavailable("the store is down")


class SilentTransport(WireTransport):
    """A transport whose broker does not answer unless `awake` is true. `called` lists the queues of its calls."""

    call_timeout = CALL_TIMEOUT

    def __init__(self) -> None:
        super().__init__(Broker())
        self.awake = False
        self.called: list[str] = []

    def send(self, queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        self.called.append(queue)
        if self.awake:
            return super().send(queue, messages)
        self._wait()
        return [SendResult(SendOutcome.UNKNOWN, BackendUnavailable("the broker did not answer"))] * len(messages)

    def bury(self, queue: str, messages: Sequence[Message]) -> NoReturn:
        self.unbury(queue, messages)

    def unbury(self, queue: str, messages: Sequence[Message]) -> NoReturn:
        self.called.append(queue)
        self._wait()
        raise BackendUnavailable("the broker did not answer")

    def _wait(self) -> None:
        threading.Event().wait(self.call_timeout)  # a call without an answer ends after this time


@pytest.fixture
def transport() -> SilentTransport:
    return SilentTransport()


@pytest.fixture
def queue(transport: SilentTransport) -> Iterator[JobQueue]:
    url, settings = read(f"wire://silent?call_timeout={CALL_TIMEOUT}", {})
    with JobQueue(url, settings, transport, MemoryStore()) as queue:
        yield queue


def failure(queue: JobQueue, *names: str, queues: int = 1) -> BackendUnavailable:
    """The error of a batch of jobs with these ids, which go to this number of queues in turn."""
    jobs = [tasks.echo.using(job_id=name, queue=f"q{i % queues}").job(1) for i, name in enumerate(names)]
    with pytest.raises(BackendUnavailable) as caught:
        queue.enqueue_many(jobs)
    return caught.value


def test_a_silent_broker_delays_a_batch_for_many_queues_once(queue: JobQueue, transport: SilentTransport) -> None:
    names = [f"job-{number}" for number in range(100)]
    error = failure(queue, *names, queues=50)
    assert transport.called == ["q0"]
    assert (error.accepted, error.rejected, error.unknown) == ((), tuple(names), ())
    assert str(error).startswith(
        "the broker did not answer; 100 of 100 jobs were not enqueued on wire and will not run: enqueue them again"
    )
    assert queue.status("job-0").reason == "not_sent"  # its message may arrive later
    with pytest.raises(JobNotFound):  # its message was certainly not sent
        queue.status("job-1")


def test_a_store_that_is_misconfigured_is_reported_as_that(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = BackendMisconfigured("the user lacks a permission", rejected=["job-0"])
    monkeypatch.setattr(queue.operations.store, "insert", Mock(side_effect=refused))
    error = failure(queue, "job-0")
    assert type(error) is BackendMisconfigured
    assert error.rejected == ("job-0",)


def test_a_slow_broker_does_not_delay_a_batch_beyond_the_claim(queue: JobQueue, transport: SilentTransport) -> None:
    transport.awake = True
    slow = threading.Event()
    send = transport.send

    def send_slowly(queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        slow.wait(CALL_TIMEOUT * 0.3)
        return send(queue, messages)

    transport.send = send_slowly  # type: ignore[method-assign]
    names = [f"job-{number}" for number in range(6)]
    error = failure(queue, *names, queues=6)
    assert 0 < len(transport.called) <= 2
    assert error.accepted == tuple(names[: len(transport.called)])
    assert error.rejected == tuple(names[len(transport.called) :])
    assert "the backend is too slow to take all messages in time" in str(error)


def test_a_batch_for_many_queues_is_published_in_several_steps(queue: JobQueue, transport: SilentTransport) -> None:
    transport.awake = True
    inserts = Mock(side_effect=queue.operations.store.insert)
    queue.operations.store.insert = inserts  # type: ignore[method-assign]
    handles = queue.enqueue_many(tasks.echo.using(queue=f"q{i % (2 * QUEUES)}").job(i) for i in range(2 * QUEUES))
    assert len(handles) == queue.stats().totals.queued == 2 * QUEUES
    assert [len(call.args[0]) for call in inserts.call_args_list] == [QUEUES, QUEUES]
    queue.enqueue_many(tasks.echo.job(i) for i in range(BATCH + 1))
    assert [len(call.args[0]) for call in inserts.call_args_list][2:] == [BATCH, 1]
    assert queue.enqueue_many([]) == []


def test_a_silent_broker_delays_a_dispatcher_once_for_the_dead_jobs_of_many_queues(
    queue: JobQueue, transport: SilentTransport
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(transport, "bury", Mock(side_effect=BackendUnavailable("the broker refuses copies")))
        for number in range(6):
            queue.dead_letters.add(tasks.echo.using(job_id=f"job-{number}", queue=f"q{number}").job(1), "by hand")
    store = queue.operations.store
    dead = queue.jobs(state=JobState.DEAD)
    queue.operations.bury([job.id for job in dead])
    assert len(transport.called) == 1
    assert store.stats().queues["q0"].states[JobState.DEAD] == 1
    transport.called.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("queueport.engine.bulk.PAGE", 2)
        assert queue.dead_letters.retry_all() == 6
    assert len(transport.called) == 1  # one publish, and no call for the other two pages
    assert queue.stats().totals.queued == 6


@pytest.fixture
def timed(queue: JobQueue, transport: SilentTransport, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The calls of the transport, as pairs of a method and a queue. A call takes 0.6 of the `call_timeout`."""
    clock, calls = [0.0], list[tuple[str, str]]()

    def take(method: str, given: str) -> None:
        calls.append((method, given))
        clock[0] += 0.6 * CALL_TIMEOUT

    def send(queue: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        take("send", queue)
        outcome = SendOutcome.SENT if transport.awake else SendOutcome.UNKNOWN
        return [SendResult(outcome)] * len(messages)

    monkeypatch.setattr(transport, "send", send)
    monkeypatch.setattr(transport, "bury", lambda queue, _: take("bury", queue))
    monkeypatch.setattr(transport, "unbury", lambda queue, _: take("unbury", queue))
    monkeypatch.setattr(queue.operations.runtime, "monotonic", lambda: clock[0])
    return calls


def dead_jobs(queue: JobQueue, *queues: str) -> None:
    """Add a dead job to each of these queues."""
    for number, name in enumerate(queues):
        queue.dead_letters.add(tasks.echo.using(job_id=f"job-{number}", queue=name).job(1), "by hand")


def test_the_copy_of_a_retried_job_is_removed_although_the_broker_takes_long_to_answer(
    queue: JobQueue, transport: SilentTransport, timed: list[tuple[str, str]]
) -> None:
    transport.awake = True
    dead_jobs(queue, "q", "q", "q")
    timed.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("queueport.engine.bulk.PAGE", 1)
        assert queue.dead_letters.retry_all() == 3
    assert timed == [("send", "q"), ("unbury", "q")] * 3


def test_copies_of_many_queues_are_removed_for_one_call_timeout_if_the_broker_answers(
    queue: JobQueue, transport: SilentTransport, timed: list[tuple[str, str]]
) -> None:
    dead_jobs(queue, "q0", "q1", "q2", "q3")
    timed.clear()
    assert queue.dead_letters.purge() == 4
    assert [method for method, _ in timed] == ["unbury"] * 2  # they have taken 1.2 times the `call_timeout`


def test_no_call_follows_one_that_was_not_answered(
    queue: JobQueue, transport: SilentTransport, timed: list[tuple[str, str]]
) -> None:
    dead_jobs(queue, "q", "q")
    timed.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("queueport.engine.bulk.PAGE", 1)
        assert queue.dead_letters.retry_all() == 2
    assert timed == [("send", "q")]


def test_messages_are_sent_alone_only_for_half_of_the_call_timeout(queue: JobQueue) -> None:
    for number in range(10):
        queue.dead_letters.add(tasks.echo.using(job_id=f"job-{number}").job(1), "by hand")
    records = queue.operations.store.find(Query())
    clock, calls = [0.0], list[int]()

    def send(batch: Sequence[Record]) -> Sequence[SendResult]:
        """Fail fast as a batch. Alone, every second message takes long and fails."""
        calls.append(len(batch))
        clock[0] += 0.1 if len(batch) > 1 else 1.0
        return [SendResult(SendOutcome.FAILED if len(calls) % 2 else SendOutcome.SENT)] * len(batch)

    runtime = Mock(monotonic=lambda: clock[0], random=lambda: 0.5)
    Sending(replace(queue.operations.rules, claim=10.0), runtime).send("published", send, records)
    assert calls == [10, 1, 1, 1]


def test_jobs_are_withdrawn_by_one_call_and_are_unknown_if_it_is_not_answered(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = Mock(side_effect=DOWN)
    monkeypatch.setattr(queue.operations.store, "swap", swap)
    names = [f"job-{number}" for number in range(30)]
    error = failure(queue, *names)
    assert (error.accepted, error.rejected, error.unknown) == ((), (), tuple(names))
    assert "30 of 30 jobs may or may not run: enqueue them again with the same job_id" in str(error)
    assert len(swap.call_args_list) == 2  # the call is repeated once, because it failed at once
    assert [len(call.args[0]) for call in swap.call_args_list] == [30, 30]
    swap.reset_mock()
    # Treat every failed call as slow: slow calls are not repeated.
    monkeypatch.setattr("queueport.engine.enqueue.QUICK", -1.0)
    assert failure(queue, "one").unknown == ("one",)
    assert len(swap.call_args_list) == 1


def test_an_unknown_job_runs_when_its_claim_is_over(
    queue: JobQueue, transport: SilentTransport, monkeypatch: pytest.MonkeyPatch, trace: Trace
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(queue.operations.store, "swap", Mock(side_effect=DOWN))
        error = failure(queue, "mine")
    assert error.unknown == ("mine",)
    assert "job mine may or may not run: enqueue it again with this job_id" in str(error)
    with pytest.raises(DuplicateJob):
        queue.enqueue(tasks.echo.using(job_id="mine"), 1)
    transport.awake = True
    with queue.worker("q0", tasks=[tasks.echo]):
        assert queue.result("mine", 10) == 1


def test_a_withdrawn_job_that_is_enqueued_again_runs_once(
    queue: JobQueue, transport: SilentTransport, trace: Trace
) -> None:
    assert failure(queue, "mine").rejected == ("mine",)
    assert queue.status("mine").reason == "not_sent"
    transport.awake = True
    handle = queue.enqueue(tasks.echo.using(job_id="mine"), 2)
    with queue.worker(tasks.QUEUE, tasks=[tasks.echo]):
        assert handle.result(10) == 2
    with pytest.raises(DuplicateJob):
        queue.enqueue(tasks.echo.using(job_id="mine"), 3)
    assert trace.times("mine") == 1


def test_a_job_is_rejected_alone_if_the_holder_of_its_key_cannot_get_a_new_rev(
    queue: JobQueue, transport: SilentTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport.awake = True
    keyed = tasks.echo.using(key="k")
    with monkeypatch.context() as patched:
        patched.setattr(queue.driver, "publish", lambda messages: [SendResult(SendOutcome.SENT)] * len(messages))
        patched.setattr(queue.operations.store, "swap", Mock(side_effect=DOWN))
        holder = queue.enqueue(keyed, 1)  # the mark fails, so that the holder looks as if it is not published yet
        with pytest.raises(BackendUnavailable) as caught:
            queue.enqueue_many([keyed.using(job_id="held").job(2), tasks.echo.using(job_id="free").job(3)])
    assert (caught.value.accepted, caught.value.rejected, caught.value.unknown) == (("free",), ("held",), ())
    with pytest.raises(JobNotFound):
        queue.status("held")
    assert holder.status().state is queue.status("free").state is JobState.QUEUED


def test_an_error_lists_a_taken_id_among_the_rejected_ones_in_the_order_given(
    queue: JobQueue, transport: SilentTransport
) -> None:
    transport.awake = True
    queue.enqueue(tasks.echo.using(job_id="job-1"), 1)
    transport.awake = False
    error = failure(queue, "job-0", "job-1", "job-2")
    assert (error.accepted, error.rejected, error.unknown) == ((), ("job-0", "job-1", "job-2"), ())


def test_an_insert_that_the_store_may_have_applied_is_unknown_for_one_job_too(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = queue.operations.store.insert

    def without_answer(inserts: Sequence[Insert]) -> NoReturn:
        insert(inserts)
        raise BackendUnavailable("the store did not answer")

    monkeypatch.setattr(queue.operations.store, "insert", without_answer)
    with pytest.raises(BackendUnavailable, match=r"^the store did not answer; job one may or may not run") as caught:
        queue.enqueue(tasks.echo.using(job_id="one"), 1)
    assert (caught.value.accepted, caught.value.rejected, caught.value.unknown) == ((), (), ("one",))
    with pytest.raises(BackendUnavailable) as caught:
        queue.dead_letters.add(tasks.echo.using(job_id="dead").job(1), "by hand")
    assert caught.value.unknown == ("dead",)
    with pytest.raises(BackendUnavailable) as caught:
        asyncio.run(AsyncJobQueue(queue).enqueue_many([tasks.echo.using(job_id="async").job(1)]))
    assert caught.value.unknown == ("async",)


@pytest.mark.parametrize("move", ["retry", "cancel"])
def test_a_repeated_insert_recognises_its_job_although_another_process_has_changed_it(
    queue: JobQueue, transport: SilentTransport, monkeypatch: pytest.MonkeyPatch, move: str
) -> None:
    transport.awake = True
    insert, calls = queue.operations.store.insert, iter([True])

    def lose_the_first_answer(inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        written = insert(inserts)
        if next(calls, False):
            getattr(queue, move)("mine")
            raise BackendUnavailable("the answer was lost")
        return written

    monkeypatch.setattr("queueport.engine.enqueue.QUICK", 60.0)
    monkeypatch.setattr(queue.operations.store, "insert", lose_the_first_answer)
    mine = tasks.echo.using(job_id="mine", delay=60)
    assert queue.enqueue(mine, 1).id == "mine"
    assert queue.status("mine").state is {"retry": JobState.QUEUED, "cancel": JobState.CANCELLED}[move]
    assert len(transport.called) == (move == "retry")
    with pytest.raises(DuplicateJob):
        queue.enqueue(mine, 1)


def test_a_job_that_a_locked_database_did_not_take_is_rejected(tmp_path: Path) -> None:
    with get_queue(f"sqlite:///{tmp_path}/jobs.db?call_timeout=0.1") as queue:
        queue.enqueue(tasks.echo, 1)
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            error = failure(queue, "a", "b")
        assert (error.accepted, error.rejected, error.unknown) == ((), ("a", "b"), ())
        assert str(error).endswith("; 2 of 2 jobs were not enqueued on sqlite and will not run: enqueue them again")


def test_a_job_is_rejected_if_the_first_call_to_redis_is_refused(transport: SilentTransport) -> None:
    url, settings = read("wire://refused", {})
    server = Redis("--requirepass", "1")
    with JobQueue(url, settings, transport, RedisStore(server.url)) as queue:
        error = failure(queue, "a", "b")
    server.kill()
    assert (error.accepted, error.rejected, error.unknown) == ((), ("a", "b"), ())
    assert "requires a password" in str(error)


def marked(queue: JobQueue, job_id: str) -> bool:
    """True if the job is marked as sent."""
    (record,) = queue.operations.store.get([job_id])
    return record is not None and record.sent


def test_a_job_is_rejected_while_redis_is_down_and_unknown_while_it_hangs(transport: SilentTransport) -> None:
    transport.awake = True
    server = redis_server(private=True)
    url, settings = read("wire://silent?call_timeout=0.5", {})
    with JobQueue(url, settings, transport, RedisStore(server.url, namespace="unknown", call_timeout=0.5)) as queue:
        failing = {"down": (server.down, ("a", "b"), ()), "hangs": (server.paused, (), ("a", "b"))}
        for name, (broken, rejected, unknown) in failing.items():
            queue.enqueue(tasks.echo.using(job_id=name), 1)  # this opens a connection, which stays open
            eventually(partial(marked, queue, name))  # before, the thread that marks jobs may use this connection
            with broken():
                error = failure(queue, "a", "b")
            assert (error.accepted, error.rejected, error.unknown) == ((), rejected, unknown)


class SmallStore(MemoryStore):
    """A store that can keep no headers."""

    def check_size(self, record: Record) -> None:
        if record.headers:
            raise PayloadTooLarge("these headers are too large")


def test_a_job_that_the_store_cannot_keep_is_refused_before_another_job_of_its_batch_is_sent(
    transport: SilentTransport,
) -> None:
    queue = JobQueue(*read("wire://silent", {}), transport, SmallStore())
    large = tasks.echo.using(headers={"large": "x"}).job(1)
    with pytest.raises(PayloadTooLarge, match="these headers"):
        queue.enqueue_many([*(tasks.echo.job(number) for number in range(BATCH)), large])
    with pytest.raises(PayloadTooLarge, match="these headers"):
        queue.dead_letters.add(large, "by hand")
    assert (transport.called, queue.jobs()) == ([], [])


@pytest.mark.parametrize(
    ("backend", "store", "says"),
    [
        (100, None, "wire accepts at most 100"),
        (None, 90, "the job store accepts at most 90"),
        (100, 90, "store accepts at most 90"),
    ],
)
def test_the_error_for_a_job_that_is_too_large_names_whose_limit_it_is(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, backend: int | None, store: int | None, says: str
) -> None:
    monkeypatch.setattr(WireTransport, "limits", Limits(payload=backend))
    monkeypatch.setattr(MemoryStore, "limits", Limits(payload=store))
    with pytest.raises(PayloadTooLarge, match=says):
        queue.enqueue(tasks.echo, "x" * 200)


def test_a_replaced_job_whose_message_cannot_be_published_is_not_withdrawn(
    queue: JobQueue, transport: SilentTransport
) -> None:
    keyed = tasks.echo.using(key="k", key_mode="replace")
    first = queue.enqueue(keyed.using(delay=60), "first")
    second = queue.enqueue(keyed, "second")  # its publish has an unknown outcome
    assert (second.id, second.replaced) == (first.id, True)
    record = queue.operations.read(first.id)
    assert (record.state, record.sent, record.sends) == (JobState.QUEUED, False, 1)
    assert first.status().error is not None
    assert first.status().args == ["second"]
    transport.awake = True
    assert queue.enqueue(keyed, "third").replaced
    record = queue.operations.read(first.id)
    assert (record.sent, record.sends, record.errors) == (True, 1, ())


def test_a_sent_job_that_is_replaced_keeps_its_message(queue: JobQueue, transport: SilentTransport) -> None:
    transport.awake = True
    keyed = tasks.echo.using(key="k", key_mode="replace")
    first = queue.enqueue(keyed, 1)
    sent = queue.operations.read(first.id)
    assert queue.enqueue(keyed.using(expires=60, timeout=5), 2).replaced
    assert transport.called == ["default"]
    record = queue.operations.read(first.id)
    assert (record.sent, record.sent_at, record.queued_at) == (True, sent.sent_at, sent.queued_at)
    assert (record.payload != sent.payload, record.expires_at is None, record.options) == (True, False, {"timeout": 5})
    assert queue.enqueue(keyed.using(queue="other"), 3).replaced
    assert transport.called == ["default", "other"]
    record = queue.operations.read(first.id)
    assert (record.queue, record.sent, record.expires_at, record.options) == ("other", True, None, {})


def test_a_job_that_was_replaced_cannot_be_withdrawn_by_its_first_producer(
    queue: JobQueue, transport: SilentTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed, again = tasks.echo.using(key="k", key_mode="replace"), iter([True])
    send = SilentTransport.send

    def replaced_meanwhile(self: SilentTransport, name: str, messages: Sequence[Message]) -> Sequence[SendResult]:
        if next(again, False):
            assert queue.enqueue(keyed.using(delay=60), "second").replaced
            return [SendResult(SendOutcome.FAILED)] * len(messages)
        return send(self, name, messages)

    monkeypatch.setattr(SilentTransport, "send", replaced_meanwhile)
    first = queue.enqueue(keyed, "first")
    assert (first.created, first.status().state, first.status().args) == (True, JobState.SCHEDULED, ["second"])


def test_a_repeated_insert_recognises_its_job_although_another_producer_has_replaced_it(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, calls = queue.operations.store.insert, iter([True])
    keyed = tasks.echo.using(key="k", key_mode="replace", delay=60)

    def lose_the_first_answer(inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        written = insert(inserts)
        if next(calls, False):
            assert queue.enqueue(keyed, "second").replaced
            raise BackendUnavailable("the answer was lost")
        return written

    monkeypatch.setattr("queueport.engine.enqueue.QUICK", 60.0)
    monkeypatch.setattr(queue.operations.store, "insert", lose_the_first_answer)
    first = queue.enqueue(keyed, "first")
    assert (first.created, first.status().args) == (True, ["second"])
    assert len(queue.jobs()) == 1

"""Jobs with a counted crash, which run alone in their process. Line X10 of the contract tests real crashes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from queueport import JobHandle, JobQueue, JobState, Retry, get_queue
from queueport.errors import BackendUnavailable, JobFailed
from queueport.spi.record import Change, Record
from queueport.spi.runner import MessageAction, Work
from queueport.spi.store import Swap
from queueport.testing import tasks
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport.workers.attempt import Attempt
from queueport.workers.native import NativeWorker
from queueport.workers.runner import Runner
from tests.unit.records import NOT_MINE, NOTHING, message_body, running

LEASE = 1.0


@pytest.fixture
def queue(trace: Trace) -> Iterator[JobQueue]:
    with get_queue("memory://", lease=LEASE) as queue:
        yield queue


def suspects(queue: JobQueue, *handles: JobHandle[Any]) -> None:
    """Count a crash for each of these jobs."""
    for handle in handles:
        record = queue.operations.read(handle.id)
        swap = Swap(record.id, record.rev, Change({"crashes": 1}), "crashed", record)
        (written,) = queue.operations.store.swap([swap])
        assert written.applied


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_suspect_starts_after_the_jobs_beside_it_and_the_worker_begins_no_other(
    queue: JobQueue, trace: Trace, kind: str
) -> None:
    short = [tasks.spin.job(0.3) if kind == "plain" else tasks.asleep.job(0.3) for _ in range(3)]
    beside = queue.enqueue_many(short)
    suspect = queue.enqueue(tasks.wait_for, "go")
    later = queue.enqueue(tasks.echo, "later")
    suspects(queue, suspect)
    with queue.worker(tasks.QUEUE, threads=4):
        eventually(lambda: trace.runs(suspect.id))
        assert [handle.status().state for handle in beside] == [JobState.SUCCEEDED] * 3
        assert later.status().state is JobState.QUEUED
        trace.open("go")
        assert later.result(10) == "later"
    assert suspect.status().attempts == 1


@pytest.mark.parametrize("task", [tasks.spin, tasks.asleep], ids=["plain", "async"])
def test_suspects_run_one_after_the_other_and_being_handed_back_burns_no_budget(
    queue: JobQueue, trace: Trace, task: Any
) -> None:
    handles = queue.enqueue_many(task.job(0.1) for _ in range(6))
    suspects(queue, *handles)
    with queue.worker(tasks.QUEUE, threads=4):
        assert [handle.result(20) for handle in handles] == [0.1] * 6
    runs = sorted(trace.runs(), key=lambda run: run.started)
    assert len(runs) == 6
    assert all((one.ended or 0.0) <= other.started for one, other in itertools.pairwise(runs))
    assert {(handle.status().failures, handle.status().crashes) for handle in handles} == {(0, 1)}
    assert max(handle.status().attempts for handle in handles) <= 2


@pytest.mark.parametrize("task", [tasks.spin, tasks.asleep], ids=["plain", "async"])
def test_a_suspect_waits_at_most_a_lease_and_its_timeout_counts_from_its_start(
    queue: JobQueue, trace: Trace, task: Any
) -> None:
    long = queue.enqueue(tasks.wait_for, "go")
    suspect = queue.enqueue(task.using(timeout=LEASE * 0.8).job(0.2))
    suspects(queue, suspect)
    with queue.worker(tasks.QUEUE, threads=2):
        assert suspect.result(10) == 0.2
        started, long_started = trace.runs(suspect.id)[0].started, trace.runs(long.id)[0].started
        assert started - long_started > LEASE * 0.8
        assert long.status().state is JobState.RUNNING
        trace.open("go")
        assert long.result(10) == "go"
    assert (suspect.status().failures, suspect.status().crashes) == (0, 1)


def test_a_suspect_that_runs_longer_than_its_timeout_is_interrupted(queue: JobQueue) -> None:
    suspect = queue.enqueue(tasks.spin.using(timeout=0.2, retry=Retry(max_attempts=1)).job(60.0))
    suspects(queue, suspect)
    with queue.worker(tasks.QUEUE), pytest.raises(JobFailed, match="JobTimeout"):
        suspect.result(10)


def test_a_crash_counts_for_a_suspect_only_after_its_task_has_started(queue: JobQueue) -> None:
    handles = [queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.echo, 2)]
    suspects(queue, *handles[1:])
    runner = Runner(queue.operations, [tasks.echo], Work((tasks.QUEUE,)))
    fresh, suspect = runner.suspects.admit(runner.receiver.take([tasks.echo.name], 2))
    assert fresh.record.id == handles[0].id
    assert crashes_after_a_lapse(queue, suspect.record.id) == 1
    runner.run(fresh)
    assert runner.may_start(suspect)
    assert crashes_after_a_lapse(queue, suspect.record.id) == 2
    assert queue.operations.lifecycle.start_suspect(running(), token="mine") is NOTHING
    assert queue.operations.lifecycle.start_suspect(running(interrupted=True), token="another") is NOT_MINE


def crashes_after_a_lapse(queue: JobQueue, job_id: str) -> int:
    """The number of crashes of this job if its lease lapsed now."""
    record = queue.operations.read(job_id)
    change = queue.operations.lifecycle.dispatch(record, now=record.wake_at or 0.0, known=lambda _: True)
    return change.applied(record, "lapsed", record.wake_at or 0.0).crashes


def test_a_frameworks_threads_begin_no_job_while_a_suspect_runs_and_hand_theirs_back_at_a_stop(
    queue: JobQueue, trace: Trace
) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE], threads=4, grace=10.0)
    suspect, first, second = (
        queue.enqueue(tasks.wait_for, "go"),
        queue.enqueue(tasks.echo, 1),
        queue.enqueue(tasks.echo, 2),
    )
    suspects(queue, suspect)
    bodies = [message_body(queue, handle.id) for handle in (suspect, first, second)]
    threads = [threading.Thread(target=worker.deliver, args=[body]) for body in bodies]
    threads[0].start()
    eventually(lambda: trace.runs(suspect.id))
    threads[1].start()
    eventually(lambda: worker.process._begins._busy)
    assert first.status().state is JobState.QUEUED
    trace.open("go")
    assert first.result(10) == 1
    again = queue.enqueue(tasks.wait_for, "never")
    suspects(queue, again)
    threads.append(threading.Thread(target=worker.deliver, args=[message_body(queue, again.id)]))
    threads[3].start()
    eventually(lambda: trace.runs(again.id))
    threads[2].start()
    eventually(lambda: worker.process._begins._busy)
    worker._work.grace = 0.0
    worker.stop()
    for thread in threads:
        thread.join(10)
    assert (second.status().state, second.status().attempts) == (JobState.QUEUED, 0)
    assert (again.status().state, again.status().crashes) == (JobState.QUEUED, 1)


def test_a_begin_that_is_repeated_after_an_error_counts_its_suspect_once(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect, expired = queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.echo.using(expires=0.01).job(2))
    suspects(queue, suspect)
    bodies = [message_body(queue, handle.id) for handle in (suspect, expired)]
    store = queue.operations.store
    now, enqueued_at = store.now, store.now()
    eventually(lambda: now() > enqueued_at + 0.01)
    answers = iter([BackendUnavailable("the store is away")])

    def away_once() -> float:
        error = next(answers, None)
        if error is not None:
            raise error
        return now()

    monkeypatch.setattr(store, "now", away_once)  # asked because the second job has expired
    runner = Runner(queue.operations, [tasks.echo], Work((tasks.QUEUE,)))
    attempt, _ = runner.receiver.begin(bodies, threading.Event())
    assert next(answers, None) is None  # the first call has failed
    assert isinstance(attempt, Attempt)
    assert runner.suspects.present
    runner.run(attempt)
    assert not runner.suspects.present


def test_the_threads_of_a_framework_begin_one_suspect_at_a_time(queue: JobQueue, trace: Trace) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE], threads=4, grace=10.0)
    first, *others = handles = queue.enqueue_many([tasks.wait_for.job("go"), *(tasks.echo.job(n) for n in range(3))])
    suspects(queue, *handles)
    threads = [threading.Thread(target=worker.deliver, args=[message_body(queue, handle.id)]) for handle in handles]
    threads[0].start()
    eventually(lambda: trace.runs(first.id))
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: len(worker.process._begins._waiting) == len(others) - 1)  # the other thread handles the batch
    trace.open("go")
    for thread in threads:
        thread.join(10)
    assert [handle.result(0) for handle in others] == [0, 1, 2]
    assert {handle.status().attempts for handle in handles} == {1}
    worker.stop()


@pytest.mark.parametrize("error", [BackendUnavailable("the answer was lost"), RuntimeError("a fault of the store")])
def test_a_suspect_counts_its_crashes_although_the_store_did_not_confirm_that_it_waits(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    beside, suspect = queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.echo, 2)
    suspects(queue, suspect)
    runner = Runner(queue.operations, [tasks.echo], Work((tasks.QUEUE,)))
    begun = runner.receiver.take([tasks.echo.name], 2)
    settle = queue.operations.settle

    def unconfirmed(*arguments: Any) -> Any:
        settle(*arguments)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(queue.operations, "settle", unconfirmed)
        fresh, waiting = runner.suspects.admit(begun)
    assert fresh.record.id == beside.id
    runner.run(fresh)
    if isinstance(error, BackendUnavailable):
        assert crashes_after_a_lapse(queue, suspect.id) == 1
        assert runner.may_start(waiting)
        assert crashes_after_a_lapse(queue, suspect.id) == 2


def test_a_job_that_cannot_be_handed_back_does_not_keep_the_others_of_its_batch(
    queue: JobQueue, trace: Trace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker, store = NativeWorker(queue, [tasks.QUEUE], threads=4, grace=0.0), queue.operations.store
    worker.begin()
    suspect, bad, good = (queue.enqueue(tasks.wait_for, "never") for _ in range(3))
    suspects(queue, suspect)
    bodies = [message_body(queue, handle.id) for handle in (bad, good)]
    thread = threading.Thread(target=worker.deliver, args=[message_body(queue, suspect.id)])
    thread.start()
    eventually(lambda: trace.runs(suspect.id))
    get = store.get

    def damaged(ids: Sequence[str]) -> Sequence[Record | None]:
        if bad.id in ids:
            raise ValueError("the record is damaged")
        return get(ids)

    with monkeypatch.context() as patched:
        patched.setattr(store, "get", damaged)
        worker._work.stop.set()
        try:
            actions = worker.process._begin(bodies)
        finally:
            worker.stop()
            thread.join(10)
    assert actions == [MessageAction.PUT_ASIDE, MessageAction.ACKNOWLEDGE]
    assert "cannot be begun or handed back" in caplog.text
    assert (good.status().state, good.status().attempts) == (JobState.QUEUED, 0)


def test_a_suspect_starts_only_when_those_begun_with_it_are_handed_back_although_the_store_was_away_for_a_lease(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = [queue.enqueue(tasks.echo, number) for number in range(2)]
    suspects(queue, *handles)
    runner = Runner(queue.operations, [tasks.echo], Work((tasks.QUEUE,)))
    begun = runner.receiver.take([tasks.echo.name], 2)
    settle_all = queue.operations.settle_all

    def away(*_: Any) -> Any:
        raise BackendUnavailable("the store is away")

    with monkeypatch.context() as outage:
        outage.setattr(queue.operations, "settle_all", away)
        (kept,) = runner.suspects.admit(begun)
        eventually(lambda: kept.seconds() > LEASE)
        assert runner.suspects.must_wait(kept)
    assert queue.operations.settle_all == settle_all
    eventually(lambda: not runner.suspects.must_wait(kept))
    (other,) = [attempt for attempt in begun if attempt is not kept]
    record = queue.operations.read(other.record.id)
    assert (record.state, record.crashes) == (JobState.QUEUED, 1)
    runner.run(kept)

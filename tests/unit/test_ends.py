"""The ends of attempts that end at the same time are recorded in one call, and none of them fails or delays another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from queueport import JobHandle, JobQueue, JobState, Task, get_queue, task
from queueport.errors import BackendUnavailable
from queueport.spi.record import Record
from queueport.spi.runner import Delivery, Work
from queueport.spi.store import Swap, WriteResult
from queueport.testing.waiting import eventually
from queueport.workers.attempt import Attempt, InterruptReason
from queueport.workers.pool import Pool, StoreIntake
from queueport.workers.runner import Runner

THREADS = 4
started = threading.Semaphore(0)
go_on = threading.Event()


@task(name="ends.number")
def number(value: int) -> int:
    """Return the value."""
    return value


@task(name="ends.slow")
def slow() -> None:
    """Run until `go_on` is set."""
    started.release()
    assert go_on.wait(30)


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    go_on.clear()
    with get_queue("memory://") as queue:
        yield queue
        go_on.set()


class Ends:
    """Begins jobs as a worker does, runs them, and records their ends together."""

    def __init__(self, queue: JobQueue) -> None:
        store: Any = queue.operations.store
        self.runner = Runner(queue.operations, [number], Work(("default",), threads=THREADS, grace=0.0), queue.shared)
        self._intake = StoreIntake(store, self.runner)

    def begin(self) -> Sequence[Attempt]:
        return self._intake.next([number.name], THREADS, 0.0)

    def finish(self, attempts: Sequence[Attempt]) -> list[Record]:
        """The jobs whose end was recorded."""
        found = self.runner.finish_all([self.runner.execute(attempt) for attempt in attempts])
        return [record for record in found if record is not None]


@pytest.fixture
def ends(queue: JobQueue) -> Ends:
    return Ends(queue)


@pytest.fixture
def jobs(queue: JobQueue) -> list[JobHandle[int]]:
    return queue.enqueue_many(number.job(value) for value in range(THREADS))


class Swaps:
    """Replaces `swap` of a store, and keeps the swaps of each call."""

    def __init__(self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
        store = queue.operations.store
        self.calls: list[Sequence[Swap]] = []
        self._swap = store.swap
        monkeypatch.setattr(store, "swap", self)

    def __call__(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        self.calls.append(swaps)
        return self._swap(swaps)


def states(jobs: Sequence[JobHandle[Any]]) -> list[JobState]:
    return [job.status().state for job in jobs]


def test_ends_are_recorded_in_one_call(
    queue: JobQueue, ends: Ends, jobs: list[JobHandle[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    swaps = Swaps(queue, monkeypatch)
    assert len(ends.finish(ends.begin())) == THREADS
    assert [len(call) for call in swaps.calls] == [THREADS]
    assert [job.result() for job in jobs] == list(range(THREADS))
    assert not ends.runner.heartbeat.running()


def test_the_messages_of_ends_are_acknowledged_in_one_call(ends: Ends, jobs: list[JobHandle[int]]) -> None:
    calls: list[Sequence[Delivery]] = []
    attempts = ends.begin()
    assert len(attempts) == len(jobs)
    for attempt in attempts:
        attempt.delivery, attempt.on_acknowledge = Delivery(attempt.record.id.encode(), "default"), calls.append
    attempts[0].extend()  # the first heartbeat acknowledges, too
    ends.finish(attempts)
    bodies = [[delivery.body.decode() for delivery in call] for call in calls]
    assert bodies == [[attempts[0].record.id], [attempt.record.id for attempt in attempts[1:]]]


def test_a_job_that_has_changed_meanwhile_is_decided_again(
    queue: JobQueue, ends: Ends, jobs: list[JobHandle[int]]
) -> None:
    attempts = ends.begin()
    jobs[1].cancel()
    ends.finish(attempts)
    ended = JobState.SUCCEEDED
    assert states(jobs) == [ended, JobState.CANCELLED, ended, ended]
    assert queue.stats().processed == THREADS


def test_a_job_that_another_attempt_holds_is_left_alone(
    queue: JobQueue, ends: Ends, jobs: list[JobHandle[int]]
) -> None:
    attempts = ends.begin()
    attempts[2].token = "of another attempt"
    assert len(ends.finish(attempts)) == THREADS - 1
    assert states(jobs)[2] is JobState.RUNNING


def test_an_end_that_cannot_be_written_is_a_failure_of_this_job_only(
    ends: Ends, jobs: list[JobHandle[int]], queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Swaps):
        def __call__(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
            if any(swap.change.set.get("result") == b"1" for swap in swaps):
                raise ValueError("this result cannot be written")
            return super().__call__(swaps)

    Refusing(queue, monkeypatch)
    assert len(ends.finish(ends.begin())) == THREADS
    ended = JobState.SUCCEEDED
    assert states(jobs) == [ended, JobState.DEAD, ended, ended]


def test_an_end_that_cannot_be_recorded_at_all_does_not_affect_the_others(
    ends: Ends,
    jobs: list[JobHandle[int]],
    queue: JobQueue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing(Swaps):
        def __call__(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
            if any(swap.id in {jobs[1].id, jobs[2].id} for swap in swaps):
                raise ValueError("this job cannot be written")
            return super().__call__(swaps)

    attempts = ends.begin()
    attempts[2].interrupt(InterruptReason.STOP)  # its outcome is None: the job is to return to its queue
    Refusing(queue, monkeypatch)
    assert [record.id for record in ends.finish(attempts)] == [jobs[0].id, jobs[3].id]
    assert states(jobs) == [JobState.SUCCEEDED, JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED]
    lost = [message for message in caplog.messages if "may not have been recorded" in message]
    assert [job.id in "".join(lost) for job in jobs] == [False, True, True, False]
    assert not ends.runner.heartbeat.running()


def test_ends_whose_answer_was_lost_are_counted_once(
    ends: Ends, jobs: list[JobHandle[int]], queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Swaps):
        def __call__(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
            answer = super().__call__(swaps)
            if len(self.calls) == 1:
                raise BackendUnavailable("the answer was lost")
            return answer

    Silent(queue, monkeypatch)
    assert len(ends.finish(ends.begin())) == THREADS
    assert set(states(jobs)) == {JobState.SUCCEEDED}
    assert queue.stats().processed == THREADS


def test_a_worker_records_attempts_that_end_during_a_call_in_the_next_one(
    queue: JobQueue, jobs: list[JobHandle[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = threading.Semaphore(0)
    execute = Runner.execute

    def counted(self: Runner, attempt: Attempt) -> Any:
        try:
            return execute(self, attempt)
        finally:
            executed.release()

    class Slow(Swaps):
        def __call__(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
            for _ in range(THREADS if not self.calls else 0):  # the first call takes until all attempts have ended
                assert executed.acquire(timeout=30)
            return super().__call__(swaps)

    monkeypatch.setattr(Runner, "execute", counted)
    swaps = Slow(queue, monkeypatch)
    with queue.worker(tasks=[number], threads=THREADS):
        assert [job.result(timeout=30) for job in jobs] == list(range(THREADS))
    assert len(swaps.calls) <= 3


def test_an_end_does_not_wait_for_attempts_that_still_run(queue: JobQueue) -> None:
    tasks: list[Task[..., Any, Any]] = [number, slow]
    with queue.worker(tasks=tasks, threads=2):
        running = queue.enqueue(slow)
        assert started.acquire(timeout=30)
        assert queue.enqueue(number, 1).result(timeout=30) == 1
        assert running.status().state is JobState.RUNNING
        go_on.set()
        running.result(timeout=30)


def test_a_worker_stops_although_the_store_does_not_take_the_end_of_a_job(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Down(Swaps):
        def __call__(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
            self.calls.append(swaps)
            raise BackendUnavailable("the store is down")

    down = Down(queue, monkeypatch)
    worker = queue.worker(tasks=[number], threads=1, grace=0.0).start()
    job = queue.enqueue(number, 1)
    eventually(lambda: len(down.calls) > 1)
    worker.stop()
    assert job.status().state is JobState.RUNNING


@pytest.mark.parametrize("recorded_by_another_thread", [True, False])
def test_a_worker_without_free_threads_waits_while_another_thread_records_the_ends(
    ends: Ends,
    jobs: list[JobHandle[int]],
    queue: JobQueue,
    recorded_by_another_thread: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store: Any = queue.operations.store
    pool = Pool(ends.runner, store)
    pool._slots[False] = 0
    pool._ends = [ends.runner.execute(attempt) for attempt in ends.begin()]
    pool._records = recorded_by_another_thread
    held: list[bool] = []

    def wait_for(condition: Callable[[], bool], _seconds: float) -> None:
        held.append(condition())

    monkeypatch.setattr(pool._changed, "wait_for", wait_for)
    pool._take_turn()
    assert held == [not recorded_by_another_thread], "the condition for which the worker waits"
    assert states(jobs) == [JobState.RUNNING if recorded_by_another_thread else JobState.SUCCEEDED] * THREADS

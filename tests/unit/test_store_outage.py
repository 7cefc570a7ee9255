"""A worker and a dispatcher whose store does not answer, answers late, or applies a call and loses the answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest

from queueport import JobQueue, JobState, get_queue
from queueport.engine.dispatcher import Dispatcher
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.runner import Work
from queueport.testing import tasks
from queueport.testing.waiting import eventually
from queueport.workers.attempt import Attempt
from queueport.workers.runner import Runner
from tests.unit.records import message_body

LEASE = 0.3


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://", lease=LEASE) as queue:
        yield queue


@pytest.fixture
def runner(queue: JobQueue) -> Runner:
    return Runner(queue.operations, [tasks.echo], Work((tasks.QUEUE,)))


def test_a_begin_whose_answer_was_lost_is_recognised_when_it_is_repeated(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = queue.operations.store
    monkeypatch.setattr(store, "begin", without_first_answer(store.begin))
    job_id = queue.enqueue(tasks.echo, 1).id
    (attempt,) = runner.receiver.begin([message_body(queue, job_id)], runner.given_up)
    assert isinstance(attempt, Attempt)
    runner.run(attempt)
    assert queue.status(job_id).state is JobState.SUCCEEDED
    assert (queue.status(job_id).attempts, queue.status(job_id).crashes) == (1, 0)


def test_begin_is_not_repeated_after_the_worker_was_stopped(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = message_body(queue, queue.enqueue(tasks.echo, 1).id)
    stop = threading.Event()
    calls = 0

    def begin(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            stop.set()
        unavailable()

    monkeypatch.setattr(queue.operations.store, "begin", begin)
    with pytest.raises(BackendUnavailable):
        runner.receiver.begin([body], stop)
    assert calls == 2


def test_a_task_whose_lease_has_lapsed_does_not_start_without_an_accepted_heartbeat(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue(tasks.echo, 1)
    (attempt,) = runner.receiver.take([tasks.echo.name], 1)
    eventually(lambda: time.monotonic() > attempt.until)
    heartbeat = Mock(side_effect=unavailable)
    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as pool:
        patched.setattr(queue.operations.store, "heartbeat", heartbeat)
        may_start = pool.submit(runner.may_start, attempt)
        eventually(lambda: heartbeat.call_count > 1)
        assert not may_start.done()
        runner.stop()
        assert not may_start.result(10)
    assert not runner.heartbeat.running()


def test_a_lease_that_lapsed_while_the_store_was_slow_does_not_count_as_a_crash(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, claim_due = queue.operations.store, queue.operations.store.claim_due

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(LEASE / 2)
        return claim_due(*args, **kwargs)

    handle = queue.enqueue(tasks.echo, 1)
    (attempt,) = runner.receiver.take([tasks.echo.name], 1)
    eventually(lambda: time.monotonic() > attempt.until)
    with monkeypatch.context() as patched:
        patched.setattr(store, "claim_due", slow)
        assert queue.operations.dispatch(10) == 1
    assert (handle.status().state, handle.status().crashes) == (JobState.RUNNING, 0)
    # No heartbeat is sent, so the next dispatch counts a crash and queues the job again.
    eventually(lambda: queue.operations.dispatch(10) == 1)
    assert (handle.status().state, handle.status().crashes) == (JobState.QUEUED, 1)


def test_a_lease_that_lapsed_while_the_machine_was_suspended_does_not_count_as_a_crash(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = queue.enqueue(tasks.echo, 1)
    runner.receiver.take([tasks.echo.name], 1)
    other = Dispatcher(queue.operations)
    end = time.monotonic() + LEASE * 2
    while time.monotonic() < end:
        runner.heartbeat.beat(runner.heartbeat.running())
        other.tick()
    assert (handle.status().state, handle.status().crashes) == (JobState.RUNNING, 0)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600.0)
    monkeypatch.setattr(queue.operations.store, "_clock", time.time)
    other.tick()
    Dispatcher(queue.operations, refresh=runner.heartbeat.refresh).tick()
    assert (handle.status().state, handle.status().crashes) == (JobState.RUNNING, 0)
    eventually(lambda: other.tick() and handle.status().crashes == 1)


@pytest.mark.parametrize("error", [BackendUnavailable("it does not answer"), ConfigurationError("it evicts keys")])
def test_check_reports_a_store_that_is_unavailable_or_misconfigured(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(queue.operations.store, "check", Mock(side_effect=error))
    health = queue.check()
    assert (health.ok, health.problems, health.store_seconds) == (False, [str(error)], None)


def test_check_reports_once_what_store_and_backend_both_report(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (queue.operations.store, queue.driver):
        monkeypatch.setattr(part, "check", unavailable)
    assert queue.check().problems == ["the store does not answer"]


def unavailable(*args: Any, **kwargs: Any) -> NoReturn:
    """Replaces a method of a store, which then does not answer."""
    raise BackendUnavailable("the store does not answer")


def without_first_answer(method: Callable[..., Any]) -> Callable[..., Any]:
    """Replaces a method of a store: the first call is applied, but its answer is lost."""
    losses = iter((True,))

    def call(*args: Any) -> Any:
        answer = method(*args)
        return unavailable() if next(losses, False) else answer

    return call

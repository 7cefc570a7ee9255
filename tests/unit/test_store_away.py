"""What a worker makes of a store that gives no answer, a late one, or one that is lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from queueport import JobQueue, JobState, get_queue
from queueport.attempt import Attempt
from queueport.dispatcher import Dispatcher
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.message import Message
from queueport.runner import Runner
from queueport.testing import tasks
from queueport.testing.waiting import eventually

LEASE = 0.3


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    with get_queue("memory://", lease=LEASE) as queue:
        yield queue


@pytest.fixture
def runner(queue: JobQueue) -> Runner:
    return Runner(queue.operations, {tasks.echo.name: tasks.echo}, (tasks.QUEUE,))


def test_a_begin_whose_answer_was_lost_is_mine_all_the_same(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = queue.operations.store
    monkeypatch.setattr(store, "begin", answered_from_the_second_time(store.begin))
    job_id = queue.enqueue(tasks.echo, 1).id
    (attempt,) = runner.begin([Message.of(queue.read(job_id), 0.0).body])
    assert isinstance(attempt, Attempt)
    runner.run(attempt)
    assert queue.status(job_id).state is JobState.SUCCEEDED
    assert (queue.status(job_id).attempts, queue.status(job_id).crashes) == (1, 0)


def test_nothing_is_begun_any_more_once_the_worker_stops(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Message.of(queue.read(queue.enqueue(tasks.echo, 1).id), 0.0).body
    monkeypatch.setattr(queue.operations.store, "begin", away)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(BackendUnavailable):
        runner.begin([body], stop)


def test_a_task_whose_lease_has_lapsed_does_not_start_before_a_heartbeat_was_heard(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue(tasks.echo, 1)
    (attempt,) = runner.take([tasks.echo.name], 1)
    eventually(lambda: time.monotonic() > attempt.until)
    with monkeypatch.context() as patched:
        patched.setattr(queue.operations.store, "heartbeat", away)
        threading.Timer(0.2, runner.stop).start()
        assert not runner.ready(attempt)
    assert not runner.heartbeat.running()


def test_leases_that_lapsed_while_the_store_was_slow_are_spared(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, claim_due = queue.operations.store, queue.operations.store.claim_due

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(LEASE / 2)
        return claim_due(*args, **kwargs)

    handle = queue.enqueue(tasks.echo, 1)
    (attempt,) = runner.take([tasks.echo.name], 1)
    eventually(lambda: time.monotonic() > attempt.until)
    with monkeypatch.context() as patched:
        patched.setattr(store, "claim_due", slow)
        assert queue.operations.dispatch(10) == 1
    assert (handle.status().state, handle.status().crashes) == (JobState.RUNNING, 0)
    eventually(lambda: queue.operations.dispatch(10) == 1)
    assert (handle.status().state, handle.status().crashes) == (JobState.QUEUED, 1), "its holder has not beaten since"


def test_leases_that_lapsed_while_the_machine_slept_are_spared(
    queue: JobQueue, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = queue.enqueue(tasks.echo, 1)
    runner.take([tasks.echo.name], 1)
    other = Dispatcher(queue.operations)
    until = time.monotonic() + LEASE * 2
    while time.monotonic() < until:
        runner.heartbeat.beat(runner.heartbeat.running())
        other.tick()
    assert (handle.status().state, handle.status().crashes) == (JobState.RUNNING, 0)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600.0)
    monkeypatch.setattr(queue.operations.store, "_clock", time.time)
    other.tick()
    Dispatcher(queue.operations, runner).tick()
    assert (handle.status().state, handle.status().crashes) == (JobState.RUNNING, 0)
    eventually(lambda: other.tick() and handle.status().crashes == 1)


@pytest.mark.parametrize("error", [BackendUnavailable("it is away"), ConfigurationError("it evicts keys")])
def test_a_store_that_must_not_be_used_as_it_is_makes_check_fail(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(queue.operations.store, "check", Mock(side_effect=error))
    health = queue.check()
    assert (health.ok, health.problems, health.store_seconds) == (False, [str(error)], None)


def away(*args: Any, **kwargs: Any) -> Any:
    """A verb of a store that does not answer."""
    raise BackendUnavailable("the store is away")


def answered_from_the_second_time(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb of a store; the first call is applied, and its answer lost."""
    calls = iter((True,))

    def call(*args: Any) -> Any:
        answer = verb(*args)
        return away() if next(calls, False) else answer

    return call

"""Events: which changes call the hooks of `on_event`, what an event says, and that a hook does no harm."""

from __future__ import annotations

import contextvars
import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from queueport import Event, JobQueue, JobState, Retry, RetryLater, Task, current_job, get_queue, hooks, on_event, task
from queueport.engine.dispatcher import Dispatcher
from queueport.errors import BackendUnavailable, ConfigurationError, DuplicateJob, JobFailed
from queueport.spi.settings import read
from queueport.spi.store import ClaimingStore
from queueport.stats import WorkerStats
from queueport.stores.memory.store import MemoryStore
from queueport.testing import FakeQueue
from queueport.testing.tasks import asleep, echo
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport
from tests.unit.workspace import Workspace

ONCE = Retry(max_attempts=1)


@task(name="events.fail")
def fail(text: str) -> None:
    """Raise an error."""
    raise ValueError(text)


@task(name="events.later")
def later() -> None:
    """Ask for a retry that burns no budget, in the first attempt."""
    if current_job().attempt == 1:
        raise RetryLater(delay=0, burns=False)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events of this process, in order."""
    found: list[Event] = []
    monkeypatch.setattr(hooks, "event_hooks", [])
    on_event(found.append)
    return found


@pytest.fixture(params=["memory://", "sqlite:///{}/jobs.db", "wire://events"], ids=["memory", "sqlite", "broker"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobQueue]:
    url = request.param.format(tmp_path)
    if not url.startswith("wire:"):
        with get_queue(url) as queue:
            yield queue
        return
    with JobQueue(*read(url, {}), WireTransport(Broker()), MemoryStore()) as queue:
        yield queue


def of_job(events: list[Event], job_id: str) -> list[str]:
    return [event.name for event in events if event.job_id == job_id]


@pytest.mark.parametrize("job", [echo, asleep], ids=["plain", "async"])
def test_the_events_of_a_job_that_succeeds(queue: JobQueue, events: list[Event], job: Task[[Any], Any, Any]) -> None:
    before = datetime.now(UTC)
    handle = queue.enqueue(job.using(headers={"a": "b"}).job(0.01))  # a worker could be faster than its event
    with queue.worker(tasks=[job]) as worker:
        handle.result(10)
        name = worker.name
    assert [event.name for event in events if event.job_id is None] == ["worker_started", "worker_stopped"]
    assert {event.worker for event in events if event.job_id is None} == {name}
    mine = [event for event in events if event.job_id == handle.id]
    assert [(event.name, event.state, event.attempt) for event in mine] == [
        ("enqueued", JobState.QUEUED, 0),
        ("started", JobState.RUNNING, 1),
        ("succeeded", JobState.SUCCEEDED, 1),
    ]
    assert {(e.task, e.queue, e.backend, e.headers["a"]) for e in mine} == {(job.name, "default", queue.backend, "b")}
    assert [event.worker for event in mine] == [None, name, name]
    assert [event.duration is None for event in mine] == [True, True, False]
    assert 0 <= (mine[-1].duration or 0.0) < 10
    assert before <= mine[0].at <= mine[1].at <= mine[2].at <= datetime.now(UTC)
    assert {event.error for event in mine} == {None}


def test_the_events_of_a_job_that_fails_and_is_retried_and_dies(queue: JobQueue, events: list[Event]) -> None:
    handle = queue.enqueue(fail.using(retry=Retry(max_attempts=2, initial=0.01), delay=0.01).job("no"))
    with queue.worker(tasks=[fail]), pytest.raises(JobFailed):
        handle.result(10)
    mine = [event for event in events if event.job_id == handle.id]
    assert [(event.name, event.state, event.attempt) for event in mine] == [
        ("enqueued", JobState.SCHEDULED, 0),
        ("started", JobState.RUNNING, 1),
        ("failed", JobState.RETRYING, 1),
        ("retrying", JobState.RETRYING, 1),
        ("started", JobState.RUNNING, 2),
        ("failed", JobState.DEAD, 2),
        ("dead", JobState.DEAD, 2),
    ]
    errors = [event.error for event in mine if event.name in ("failed", "retrying", "dead")]
    assert [(error.type, error.message) for error in errors if error is not None] == [("ValueError", "no")] * 4
    assert "raise ValueError" in (mine[-1].error.traceback if mine[-1].error is not None else "")
    assert all(event.duration is not None for event in mine if event.error is not None)


def test_a_retry_that_burns_no_budget_is_no_failure(queue: JobQueue, events: list[Event]) -> None:
    handle = queue.enqueue(later)
    with queue.worker(tasks=[later]):
        handle.result(10)
    assert of_job(events, handle.id) == ["enqueued", "started", "retrying", "started", "succeeded"]


def test_the_events_of_changes_that_people_make(queue: JobQueue, events: list[Event]) -> None:
    handle = queue.enqueue(echo, 1)
    handle.cancel()
    handle.retry()
    queue.purge("default")
    queue.enqueue(echo.using(expires=0, job_id="late").job(1))
    with queue.worker(tasks=[echo]):
        eventually(lambda: queue.status("late").state is JobState.CANCELLED)
    added = queue.dead_letters.add(echo.job(1), "by hand")
    queue.dead_letters.discard(added.id)
    found = [(event.name, event.reason) for event in events if event.job_id == handle.id]
    assert found == [("enqueued", None), ("cancelled", "cancelled"), ("retrying", None), ("cancelled", "purged")]
    assert [(e.name, e.reason) for e in events if e.job_id == "late"] == [("enqueued", None), ("cancelled", "expired")]
    assert [(e.name, e.reason) for e in events if e.job_id == added.id] == [("dead", None), ("cancelled", "discarded")]
    assert {event.duration for event in events} == {None}
    (dead,) = [event for event in events if event.name == "dead"]
    assert dead.error is not None
    assert dead.error.message == "by hand"


def test_a_cancelled_attempt_has_a_duration(queue: JobQueue, events: list[Event]) -> None:
    handle = queue.enqueue(asleep, 30.0)
    with queue.worker(tasks=[asleep]):
        eventually(lambda: handle.status().state is JobState.RUNNING)
        handle.cancel()
        eventually(lambda: handle.status().state is JobState.CANCELLED)
    assert of_job(events, handle.id) == ["enqueued", "started", "cancelled"]
    assert events[-2].duration is not None  # the last event is that of the worker


def test_only_jobs_that_were_added_are_enqueued(
    queue: JobQueue, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = queue.enqueue(echo.using(key="k", job_id="first").job(1))
    assert queue.enqueue(echo.using(key="k").job(1)).id == first.id
    with pytest.raises(DuplicateJob):
        queue.enqueue(echo.using(job_id="first").job(2))

    def down(_: object) -> None:
        raise BackendUnavailable("down")

    monkeypatch.setattr(queue.operations.store, "insert", down)
    with pytest.raises(BackendUnavailable):
        queue.enqueue(echo, 1)
    assert [(event.name, event.job_id) for event in events] == [("enqueued", "first")]


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/jobs.db"])
def test_a_lost_worker_and_its_job(url: str, events: list[Event], tmp_path: Path) -> None:
    with get_queue(url.format(tmp_path), lease=1.0) as queue:
        handle = queue.enqueue(echo.using(crash_limit=2).job(1))
        store, dispatcher = queue.operations.store, Dispatcher(queue.operations)
        assert isinstance(store, ClaimingStore)
        for _ in range(2):
            # Begin the job, as a worker does that is then killed.
            store.announce(WorkerStats("killed", ("default",), (echo.name,), datetime.now(UTC)), 0.1)
            change = queue.operations.lifecycle.begin(token="t", worker="killed", defaults={})
            assert len(store.take(["default"], {echo.name: change}, 1, queue.operations.runtime.new_id())) == 1
            eventually(lambda: (dispatcher.tick(), handle.status().state)[1] is not JobState.RUNNING)
            eventually(lambda: (dispatcher.tick(), store.workers(lost=True))[1] == [])
    mine = [event for event in events if event.job_id == handle.id]
    assert [event.name for event in mine] == ["enqueued", "failed", "retrying", "failed", "dead"]
    assert {event.duration for event in mine} == {None}
    assert {event.error.type for event in mine if event.error is not None} == {"queueport.errors.WorkerLost"}
    assert {event.worker for event in mine[1:]} == {"killed"}
    lost = [event for event in events if event.job_id is None]
    assert [(event.name, event.worker) for event in lost] == [("worker_lost", "killed")] * 2


@pytest.mark.parametrize("error", [OSError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_hook_that_raises_does_no_harm(
    queue: JobQueue, events: list[Event], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> None:
        raise error

    hooks.event_hooks.insert(0, broken)
    handles = [queue.enqueue(echo, number) for number in range(5)]
    with queue.worker(tasks=[echo]):
        assert [handle.result(10) for handle in handles] == [0, 1, 2, 3, 4]
    assert [of_job(events, handle.id) for handle in handles] == [["enqueued", "started", "succeeded"]] * 5
    lines = [record for record in caplog.records if "on_event" in record.getMessage()]
    assert 1 <= len(lines) <= 2  # the loops of the worker and of the producer log repeated errors at growing intervals


def test_a_hook_does_not_change_the_context_of_a_task(queue: JobQueue, events: list[Event]) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    hooks.event_hooks.append(lambda event: variable.set(event.name))
    seen: list[str] = []

    @task(name="events.look")
    def look() -> None:
        seen.append(variable.get())

    with queue.worker(tasks=[look]):
        queue.enqueue(look).result(10)
    assert (seen, variable.get()) == (["unset"], "unset")


def test_a_task_is_interrupted_while_a_hook_runs(queue: JobQueue, events: list[Event]) -> None:
    ended: list[str] = []

    def slow(event: Event) -> None:
        while event.name == "enqueued" and event.task == echo.name:
            pass

    @task(name="events.caller")
    def caller() -> None:
        queue.enqueue(echo, 1)
        ended.append("the interruption was lost")

    hooks.event_hooks.append(slow)
    handle = queue.enqueue(caller.using(timeout=0.3, retry=ONCE).job())
    with queue.worker(tasks=[caller]), pytest.raises(JobFailed, match="JobTimeout"):
        handle.result(10)
    assert ended == []


def test_the_fake_queue_has_the_same_events(events: list[Event]) -> None:
    with FakeQueue() as queue:
        handles = [queue.enqueue(echo, 1), queue.enqueue(asleep, 0.0)]
        queue.drain()
    for handle in handles:
        assert of_job(events, handle.id) == ["enqueued", "started", "succeeded"]
        assert [event.at for event in events if event.job_id == handle.id] == [queue.now] * 3


TASKS = """
from queueport import task

@task
def echo(value: int) -> int:
    return value
"""

HOOKS = """
import json, os
from queueport import on_event

@on_event
def note(event):
    with open("events", "a") as file:
        file.write(json.dumps([event.name, event.worker, event.job_id, os.getpid()]) + "\\n")
"""


def test_events_of_a_worker_with_several_processes(tmp_path: Path) -> None:
    file = tmp_path / "events"
    (tmp_path / "sample_hooks.py").write_text(HOOKS)

    def noted(name: str) -> list[list[Any]]:
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if line[0] == name]

    with Workspace(tmp_path, TASKS) as place:
        worker = place.worker("sample_hooks", "--processes=2")
        eventually(lambda: len(noted("worker_started")) == 2, 20)
        handle = place.queue.enqueue("sample_tasks.echo", 7)
        assert handle.result(20) == 7
        eventually(lambda: [line[2] for line in noted("succeeded")] == [handle.id], 20)
        _, killed, _, pid = noted("worker_started")[0]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: [line[1] for line in noted("worker_lost")] == [killed], 30)
        eventually(lambda: len(noted("worker_started")) == 3, 20)
        worker.terminate()
        assert worker.wait(30) == 0
    started = {line[1] for line in noted("worker_started")}
    assert {line[1] for line in noted("worker_stopped")} == started - {killed}


def test_a_hook_must_be_callable() -> None:
    with pytest.raises(ConfigurationError, match="@on_event takes a function"):
        on_event("no")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def test_without_a_hook_no_lost_worker_is_searched(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is lost, but nobody wants to know, so that it stays in the store."""
    monkeypatch.setattr(hooks, "event_hooks", [])
    monkeypatch.setattr("queueport.engine.dispatcher.LOST_EVERY", 0.0)
    store = queue.operations.store
    store.announce(WorkerStats("crashed", ("default",), (), datetime.now(UTC)), 0.01)
    eventually(lambda: len(store.workers(lost=True)) == 1)
    dispatcher = Dispatcher(queue.operations)
    monkeypatch.setattr(dispatcher, "_handles_leases", lambda: True)
    dispatcher.tick()
    assert [worker.name for worker in store.workers(lost=True)] == ["crashed"]

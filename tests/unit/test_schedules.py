"""Recurring jobs: `queue.schedules`, `@task(every=...)`, and the step that makes the job of a tick."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from queueport import Event, JobQueue, JobState, Retry, before_enqueue, current_job, get_queue, hooks, task
from queueport.aio import AsyncJobQueue
from queueport.engine.schedules import KIND, ScheduleDispatcher
from queueport.errors import (
    BackendUnavailable,
    ConfigurationError,
    InvalidState,
    PayloadTooLarge,
    ScheduleNotFound,
    Unsupported,
)
from queueport.spi.message import Message, SendResult
from queueport.spi.record import CorruptRecord
from queueport.spi.store import Document
from queueport.stores.memory.store import MemoryStore
from queueport.tasks import registry
from queueport.testing import FakeQueue, fake
from queueport.testing.waiting import eventually
from tests.mutants.wire import Broker, WireTransport

ran: list[Any] = []


@task(name="recurring.note")
def note(value: int = 0, *, word: str = "") -> dict[str, str]:
    ran.append((value, word))
    return dict(current_job().headers)


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    ran.clear()
    with registry.isolated():
        yield


@pytest.fixture
def queue() -> Iterator[FakeQueue]:
    with fake() as queue:
        yield queue


def states(queue: JobQueue) -> list[JobState]:
    return [status.state for status in queue.jobs()]


# -- ticks ---------------------------------------------------------------------------------------------


def test_each_tick_makes_one_job(queue: FakeQueue) -> None:
    start = queue.now
    added = queue.schedules.add("noting", note.job(7, word="x"), every=300)
    assert added.next_at == start + timedelta(seconds=300)
    queue.advance(299)
    assert queue.jobs() == []
    queue.advance(1)
    queue.drain()
    (status,) = queue.jobs()
    assert ran == [(7, "x")]
    assert status.result == {
        "queueport-schedule": "noting",
        "queueport-tick": (start + timedelta(seconds=300)).isoformat(),
    }
    queue.advance(3600)
    assert len(queue.jobs()) == 13
    shown = queue.schedules.get("noting")
    assert (shown.last_at, shown.next_at) == (start + timedelta(seconds=3900), start + timedelta(seconds=4200))
    assert shown.last_job_id == queue.jobs(limit=1)[0].id
    assert shown.last_state is JobState.QUEUED
    queue.drain()
    assert queue.schedules.list()[0].last_state is JobState.SUCCEEDED


def test_a_cron_expression_is_read_in_its_time_zone(queue: FakeQueue) -> None:
    queue.at(datetime(2030, 3, 1, tzinfo=UTC))
    queue.schedules.add("nightly", note.job(), cron="0 3 * * *", timezone="Europe/Berlin")
    queue.at(datetime(2030, 3, 1, 2, 1, tzinfo=UTC))
    assert [status.headers["queueport-tick"] for status in queue.jobs()] == ["2030-03-01T02:00:00+00:00"]


@pytest.mark.parametrize(("catch_up", "expected"), [("one", [120]), ("all", [60, 120]), ("none", [])])
def test_missed_ticks(catch_up: str, expected: list[int], queue: FakeQueue) -> None:
    start = queue.now
    queue.schedules.add("noting", note.job(), every=60, catch_up=catch_up, end=start + timedelta(seconds=120))
    queue._fake_runtime.now += 3600  # an hour without a worker
    queue.advance(0)
    made = sorted(status.headers["queueport-tick"] for status in queue.jobs())
    assert made == [(start + timedelta(seconds=seconds)).isoformat() for seconds in expected]
    assert queue.schedules.get("noting").next_at is None


def test_a_tick_that_is_only_a_little_late_is_not_missed(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.job(), every=60, catch_up="none")
    queue._fake_runtime.now += 119
    queue.advance(0)
    assert len(queue.jobs()) == 1


def test_without_overlap_a_tick_held_by_the_end_of_the_previous_job(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.job(), every=60, overlap=False)
    queue.advance(180)
    assert len(queue.jobs()) == 1
    queue.drain()
    queue.advance(60)
    assert sorted(states(queue)) == [JobState.QUEUED, JobState.SUCCEEDED]


def test_an_expired_job_prevents_no_later_tick(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.using(expires=90).job(), every=60, overlap=False)
    queue.advance(360)
    assert states(queue) == [JobState.QUEUED] + [JobState.CANCELLED] * 2


def test_options_of_the_job_apply_to_each_tick(queue: FakeQueue) -> None:
    job = note.using(queue="bulk", retry=Retry(max_attempts=5), headers={"a": "b"}, priority=3, timeout=9).job(1)
    queue.schedules.add("noting", job, every=60)
    queue.advance(60)
    (status,) = queue.jobs(queue="bulk")
    assert (status.max_attempts, status.headers["a"]) == (5, "b")
    record = queue.operations.read(status.id)
    assert (record.priority, record.options["timeout"]) == (3, 9.0)


def test_the_hooks_see_each_job(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(hooks, "_before", [])

    @before_enqueue
    def remember(job: Any) -> Any:
        seen.append(job.task)
        return job

    queue.schedules.add("noting", note.job(), every=60)
    queue.advance(120)
    queue.schedules.run_now("noting")
    assert seen == ["recurring.note"] * 3


def test_the_job_of_a_tick_is_an_event(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Event] = []
    monkeypatch.setattr(hooks, "event_hooks", [seen.append])
    queue.schedules.add("noting", note.job(), every=60)
    queue.advance(60)
    assert [(event.name, event.job_id) for event in seen] == [("enqueued", queue.jobs()[0].id)]


def test_many_dispatchers_make_one_job_for_each_tick(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with get_queue(url) as queue:
        queue.schedules.add(
            "noting", note.job(), every=1, start=datetime.now(UTC) - timedelta(seconds=200), catch_up="all"
        )
        entry = queue.operations.store.documents(KIND)[0]
        past = {**entry.value, "next": entry.value["origin"]}
        assert queue.operations.store.put_document(Document(KIND, "noting", past, "past"), entry.rev)
        queues = [get_queue(url) for _ in range(4)]
        threads = [
            threading.Thread(target=lambda q=q: [ScheduleDispatcher(q.operations).make_due() for _ in range(20)])
            for q in queues
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ticks = [status.headers["queueport-tick"] for status in queue.jobs(limit=1000)]
        assert len(ticks) == len(set(ticks))
        first = datetime.fromtimestamp(entry.value["origin"], UTC)
        assert sorted(ticks) == [(first + timedelta(seconds=n)).isoformat() for n in range(len(ticks))]
        assert len(ticks) >= 200
        for each in queues:
            each.close()


def test_a_worker_makes_and_runs_the_jobs() -> None:
    with get_queue("memory://") as queue:
        queue.schedules.add("noting", note.job(5), every=1)
        with queue.worker(threads=1, tasks=[note]):
            eventually(lambda: len(ran) >= 2, 15)
    assert set(ran) == {(5, "")}


def test_a_lost_answer_makes_no_second_job(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.schedules.add("noting", note.job(), every=60)
    queue._fake_runtime.now += 60
    store, dispatcher = queue.operations.store, ScheduleDispatcher(queue.operations)
    put = store.put_document

    def answer_lost(*args: Any) -> bool:
        put(*args)
        raise BackendUnavailable("the answer is lost")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_document", answer_lost)
        with pytest.raises(BackendUnavailable):
            dispatcher.make_due()
    dispatcher.make_due()
    assert len(queue.jobs()) == 1


def test_one_bad_schedule_does_not_stop_the_others(queue: FakeQueue, caplog: pytest.LogCaptureFixture) -> None:
    queue.operations.store.put_document(Document(KIND, "bad", {"job": 1}, "r"), None)
    queue.schedules.add("good", note.job(), every=60)
    queue.schedules.add("worse", note.job(), every=60)
    entry = next(each for each in queue.operations.store.documents(KIND) if each.name == "worse")
    worse = {**entry.value, "job": {**entry.value["job"], "queue": "no such name!"}}
    queue.operations.store.put_document(Document(KIND, "worse", worse, "w"), entry.rev)
    with caplog.at_level(logging.WARNING):
        queue.advance(60)
    assert [status.headers["queueport-schedule"] for status in queue.jobs()] == ["good"]
    assert [schedule.name for schedule in queue.schedules.list()] == ["good"]
    with pytest.raises(CorruptRecord, match="'worse' cannot be read"):
        queue.schedules.get("worse")
    assert "the schedule 'bad' cannot be read" in caplog.text
    assert "no job could be made for the schedule 'worse'" in caplog.text


def test_a_task_whose_concurrency_key_fails_does_not_stop_the_schedules_of_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @task(name="recurring.broken", every=60, concurrency=1, concurrency_key=lambda: 1 / 0)
    def broken() -> None: ...

    @task(name="recurring.beat", every=60)
    def beat() -> None: ...

    with caplog.at_level(logging.WARNING), FakeQueue() as queue:
        assert [schedule.name for schedule in queue.schedules.list()] == ["recurring.beat"]
        queue.advance(60)
        assert [status.task for status in queue.jobs()] == ["recurring.beat"]
    line = next(each for each in caplog.records if "recurring.broken" in each.getMessage())
    assert line.exc_info is None
    assert line.getMessage() == (
        "a task's schedule cannot be written, and is tried again: the concurrency_key of task 'recurring.broken' "
        "raised ZeroDivisionError for these arguments: division by zero"
    )


def test_a_recurring_task_gives_its_default_values_to_its_concurrency_key() -> None:
    @task(name="recurring.rollup", every=60, concurrency=1, concurrency_key=lambda day: day)
    def rollup(day: str = "today") -> None: ...

    with FakeQueue() as queue:
        queue.advance(60)
        assert [status.task for status in queue.jobs()] == ["recurring.rollup"]


def test_a_name_with_a_per_cent_sign_does_not_spoil_the_log_line(
    queue: FakeQueue, caplog: pytest.LogCaptureFixture
) -> None:
    queue.schedules.add("100%d", note.job(), every=60)
    (entry,) = queue.operations.store.documents(KIND)
    damaged = {**entry.value, "job": {**entry.value["job"], "queue": "no such name!"}}
    queue.operations.store.put_document(Document(KIND, "100%d", damaged, "w"), entry.rev)
    queue.advance(60)
    assert "no job could be made for the schedule '100%d'" in caplog.text


def test_a_job_that_replaces_cannot_be_the_job_of_a_schedule_without_overlap(queue: FakeQueue) -> None:
    replacing = note.using(key="k", key_mode="replace").job()
    with pytest.raises(ConfigurationError, match='overlap=False and key_mode="replace" cannot be combined'):
        queue.schedules.add("one", replacing, every=60, overlap=False)
    assert queue.schedules.list() == []
    assert queue.schedules.add("one", replacing, every=60).recurrence.overlap


def test_an_inline_queue_runs_the_job_of_a_schedule_that_is_run_now() -> None:
    with FakeQueue(inline=True) as queue:
        queue.schedules.add("one", note.job(7), every=60)
        handle = queue.schedules.run_now("one")
        assert handle.status().state is JobState.SUCCEEDED
        assert handle.created
    assert ran == [(7, "")]


def test_the_jobs_of_a_round_are_published_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a broker that does not answer delays the dispatcher once, not once for each schedule."""
    with get_queue("memory://") as memory:
        queue = JobQueue(memory._url, memory.settings, WireTransport(Broker()), MemoryStore())
    driver = queue.driver
    for name in ("first", "second", "third"):
        queue.schedules.add(name, note.job(), every=3600, overlap=name != "third")
    make_due(queue, "first", "second", "third")
    queue.enqueue(note.using(key="schedule:third").job())
    publish, sent = driver.publish, list[Sequence[Message]]()

    def published(messages: Sequence[Message]) -> Sequence[SendResult]:
        sent.append(messages)
        return publish(messages)

    monkeypatch.setattr(driver, "publish", published)
    ScheduleDispatcher(queue.operations).make_due()
    (messages,) = sent
    made = queue.jobs()[:2]
    assert {message.id for message in messages} == {status.id for status in made}
    assert [status.headers["queueport-schedule"] for status in made] == ["second", "first"]
    assert all(queue.operations.read(status.id).sent for status in made)


def test_a_job_that_a_tick_replaces_is_published_at_once() -> None:
    transport = WireTransport(Broker())
    with get_queue("memory://") as memory:
        queue = JobQueue(memory._url, memory.settings, transport, MemoryStore())
    keyed = note.using(key="k", key_mode="replace")
    waiting = queue.enqueue(keyed.using(delay=3600), 1)
    queue.schedules.add("noting", keyed.job(2), every=3600)
    make_due(queue, "noting")
    ScheduleDispatcher(queue.operations).make_due()
    (status,) = queue.jobs()
    assert (status.id, status.state, status.args) == (waiting.id, JobState.QUEUED, [2])
    assert queue.operations.read(waiting.id).sent
    assert len(transport.receive([status.queue], 2, 0.0)) == 1


def make_due(queue: JobQueue, *names: str) -> None:
    """Let the next tick of these schedules be a second ago."""
    store = queue.operations.store
    for document in store.documents(KIND):
        if document.name in names:
            due = {**document.value, "next": store.now() - 1}
            assert store.put_document(Document(KIND, document.name, due, f"due-{document.name}"), document.rev)


def test_a_round_ends_in_time_and_is_fair_if_the_store_is_slow(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        queue.schedules.add(name, note.job(), every=1, catch_up="all")
    queue._fake_runtime.now += 1000
    store, passed = queue.operations.store, [0.0]
    put = store.put_document

    def slow(*args: Any) -> bool:
        passed[0] += 0.125
        return put(*args)

    monkeypatch.setattr(store, "put_document", slow)
    monkeypatch.setattr(queue._fake_runtime, "monotonic", lambda: passed[0])
    due = ScheduleDispatcher(queue.operations).make_due()
    assert due is not None
    assert due < queue._fake_runtime.now  # the rest is due in the next round
    made = [status.headers["queueport-schedule"] for status in queue.jobs(limit=1000)]
    assert made.count("first") == made.count("second") == 4


# -- changing schedules --------------------------------------------------------------------------------


def test_a_schedule_is_paused_and_resumed(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.job(), every=60)
    assert queue.schedules.pause("noting").paused
    queue.advance(3600)
    assert queue.jobs() == []
    assert not queue.schedules.resume("noting").paused
    queue.advance(0)
    assert queue.jobs() == []
    queue.advance(60)
    assert len(queue.jobs()) == 1


def test_resume_does_not_catch_up(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.job(), every=60, catch_up="all")
    queue.schedules.pause("noting")
    queue._fake_runtime.now += 3600  # no worker meanwhile
    queue.schedules.resume("noting")
    queue.advance(0)
    assert queue.jobs() == []


def test_resume_repeats_no_tick_after_the_clock_was_set_back(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.job(), every=60)
    queue.advance(600)
    last = queue.schedules.get("noting").last_at
    assert last is not None
    queue._fake_runtime.now -= 300
    queue.schedules.pause("noting")
    assert queue.schedules.resume("noting").next_at == last + timedelta(seconds=60)


def test_add_changes_only_what_is_different(queue: FakeQueue) -> None:
    first = queue.schedules.add("noting", note.job(1), every=60)
    queue.advance(30)
    assert queue.schedules.add("noting", note.job(1), every=60) == first
    queue.schedules.pause("noting")
    changed = queue.schedules.add("noting", note.job(2), every=60)
    assert (changed.args, changed.paused) == ([2], True)
    assert changed.next_at == queue.now + timedelta(seconds=60)
    assert [schedule.name for schedule in queue.schedules.list()] == ["noting"]


def test_run_now_leaves_the_ticks_alone(queue: FakeQueue) -> None:
    before = queue.schedules.add("noting", note.job(4), every=60, overlap=False)
    handle = queue.schedules.run_now("noting")
    assert handle.created
    again = queue.schedules.run_now("noting")
    assert (again.id, again.created) == (handle.id, False)
    queue.drain()
    assert handle.result(0) == {"queueport-schedule": "noting"}
    assert queue.schedules.get("noting") == before


def test_a_removed_schedule_makes_no_more_jobs(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.job(), every=60)
    queue.advance(60)
    queue.schedules.remove("noting")
    queue.advance(600)
    assert len(queue.jobs()) == 1
    assert queue.schedules.list() == []


def test_an_unreadable_schedule_can_be_removed(queue: FakeQueue) -> None:
    queue.operations.store.put_document(Document(KIND, "bad", {}, "r"), None)
    queue.schedules.remove("bad")
    assert queue.operations.store.documents(KIND) == []


def test_add_replaces_an_unreadable_schedule(queue: FakeQueue) -> None:
    queue.operations.store.put_document(Document(KIND, "bad", {"job": 1}, "r"), None)
    for call in (queue.schedules.get, queue.schedules.pause, queue.schedules.resume, queue.schedules.run_now):
        with pytest.raises(CorruptRecord, match=r"'bad' cannot be read .*: add it again, or remove it"):
            call("bad")
    queue.schedules.add("bad", note.job(1), every=60)
    assert queue.schedules.get("bad").args == [1]


@pytest.mark.parametrize("call", ["get", "pause", "resume", "run_now", "remove"])
def test_an_unknown_name_raises(call: str, queue: FakeQueue) -> None:
    with pytest.raises(ScheduleNotFound, match="no schedule 'other'"):
        getattr(queue.schedules, call)("other")


@pytest.mark.parametrize(
    ("name", "job", "options", "sentence"),
    [
        ("a\nb", note.job(), {"every": 60}, "a schedule's name must be"),
        ("noting", note, {"every": 60}, "a schedule needs a job"),
        ("noting", note.using(delay=5).job(), {"every": 60}, "cannot have delay="),
        ("noting", note.using(run_at=datetime(2030, 1, 1, tzinfo=UTC)).job(), {"every": 60}, "cannot have run_at="),
        ("noting", note.job(), {}, "either every="),
        ("noting", note.job(), {"cron": "x"}, "'x' is not a cron expression"),
    ],
)
def test_a_wrong_schedule_is_refused(
    name: str, job: Any, options: dict[str, Any], sentence: str, queue: FakeQueue
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        queue.schedules.add(name, job, **options)
    assert queue.schedules.list() == []


def test_a_job_that_the_backend_cannot_take_is_refused_at_once(queue: FakeQueue) -> None:
    with pytest.raises(Unsupported, match="group"):
        queue.schedules.add("noting", note.using(group="g").job(), every=60)
    with pytest.raises(PayloadTooLarge):
        queue.schedules.add("noting", note.job(word="x" * 66_000), every=60)
    assert queue.schedules.list() == []


async def _async_schedules(queue: JobQueue) -> None:
    schedules = AsyncJobQueue(queue).schedules
    await schedules.add("noting", note.job(3), every=60)
    assert [each.args for each in await schedules.list()] == [[3]]
    assert (await schedules.pause("noting")).paused
    assert not (await schedules.resume("noting")).paused
    assert (await schedules.get("noting")).name == "noting"
    handle = await schedules.run_now("noting")
    assert handle.created
    await schedules.remove("noting")
    assert await schedules.list() == []


def test_the_async_schedules(queue: FakeQueue) -> None:
    import asyncio

    asyncio.run(_async_schedules(queue))


# -- declared by tasks ---------------------------------------------------------------------------------


def test_a_task_declares_its_schedule() -> None:
    @task(name="recurring.declared", every=timedelta(minutes=1), overlap=False)
    def declared(value: int = 3) -> None:
        ran.append(value)

    with fake() as queue:
        (shown,) = queue.schedules.list()
        assert (shown.name, shown.declared, shown.recurrence.overlap) == ("recurring.declared", True, False)
        queue.advance(60)
        queue.drain()
        assert ran == [3]
        with pytest.raises(InvalidState, match="declares this schedule"):
            queue.schedules.add("recurring.declared", note.job(), every=1)


def declare(every: float | None) -> Any:
    options: dict[str, Any] = {} if every is None else {"every": every}

    def declared() -> None: ...

    declared.__qualname__ = "declared"
    return task(name="recurring.deployed", **options)(declared)


def test_a_deployment_changes_and_removes_declared_schedules() -> None:
    with get_queue("memory://") as queue:

        def deploy(every: float | None) -> list[float | None]:
            ScheduleDispatcher(queue.operations, [declare(every)]).make_due()
            return [schedule.recurrence.interval for schedule in queue.schedules.list() if schedule.declared]

        queue.schedules.add("other", note.job(), every=60)
        assert deploy(60) == [60]
        first = queue.schedules.get("recurring.deployed")
        queue.schedules.pause("recurring.deployed")
        assert deploy(60) == [60]
        assert queue.schedules.get("recurring.deployed").next_at == first.next_at
        assert deploy(30) == [30]
        assert queue.schedules.get("recurring.deployed").paused
        assert deploy(None) == []
        assert [schedule.name for schedule in queue.schedules.list()] == ["other"]


@pytest.mark.parametrize("every", [30, None])
def test_a_declaration_is_written_although_a_tick_comes_between(
    every: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with get_queue("memory://") as queue:
        ScheduleDispatcher(queue.operations, [declare(60)]).make_due()
        store = queue.operations.store
        read = store.documents

        def read_before_a_tick(kind: str) -> Any:
            found = read(kind)
            for each in found:  # another dispatcher writes as soon as this one has read
                assert store.put_document(Document(KIND, each.name, each.value, each.rev + "x"), each.rev)
            return found

        dispatcher = ScheduleDispatcher(queue.operations, [declare(every)])
        with monkeypatch.context() as patch:
            patch.setattr(store, "documents", read_before_a_tick)
            dispatcher.make_due()
        dispatcher.make_due()
        assert [each.recurrence.interval for each in queue.schedules.list()] == ([] if every is None else [every])


def test_a_worker_of_other_modules_removes_nothing() -> None:
    with get_queue("memory://") as queue:
        ScheduleDispatcher(queue.operations, [declare(60)]).make_due()
        (document,) = queue.operations.store.documents(KIND)
        elsewhere = {**document.value, "module": "shop.not_imported_here"}
        queue.operations.store.put_document(Document(KIND, document.name, elsewhere, "r"), document.rev)
        ScheduleDispatcher(queue.operations, [note]).make_due()
        assert [schedule.name for schedule in queue.schedules.list()] == ["recurring.deployed"]


def test_no_job_is_made_for_a_declared_task_that_no_worker_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake() as queue:
        declared = declare(60)
        ScheduleDispatcher(queue.operations, [declared]).make_due()
        (document,) = queue.operations.store.documents(KIND)
        gone = {**document.value, "job": {**document.value["job"], "task": "recurring.gone"}, "module": "shop.gone"}
        queue.operations.store.put_document(Document(KIND, document.name, gone, "r"), document.rev)
        queue.advance(120)
        assert queue.jobs() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"every": 0}, "task 'recurring.wrong': every must be"),
        ({"cron": "x"}, "task 'recurring.wrong': 'x' is not a cron expression"),
        ({"overlap": False}, "overlap needs every= or cron="),
        ({"timezone": "UTC"}, "timezone needs every= or cron="),
        ({"every": 60, "cron": "* * * * *"}, "not both"),
    ],
)
def test_a_wrong_declaration_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        task(name="recurring.wrong", **options)(lambda_free)


def lambda_free() -> None: ...


def test_a_recurring_task_needs_no_arguments() -> None:
    def needy(value: int) -> None: ...

    with pytest.raises(ConfigurationError, match="give value a default value"):
        task(name="recurring.needy", every=60)(needy)


# -- a task that enqueues its own successor --------------------------------------------------------------


@task(name="recurring.chained", retry=Retry(max_attempts=1))
def chained(key: str) -> None:
    chained.using(key=key, delay=60).enqueue(key)


def test_a_task_cannot_enqueue_its_successor_with_its_own_key(queue: FakeQueue) -> None:
    handle = chained.using(key="k").enqueue("k")
    queue.drain()
    status = handle.status()
    assert status.state is JobState.DEAD
    assert status.error is not None
    assert status.error.type == "queueport.errors.InvalidState"
    assert "@task(every=...)" in status.error.message


@task(name="recurring.cut_off", retry=Retry(max_attempts=1))
def cut_off(key: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(get_queue().operations.store, "get", Mock(side_effect=BackendUnavailable("the store is away")))
        with pytest.raises(BackendUnavailable) as raised:
            cut_off.using(key=key, job_id="next").enqueue(key)
    ran.append(raised.value.rejected)


def test_a_job_whose_key_could_not_be_checked_is_rejected(queue: FakeQueue) -> None:
    cut_off.using(key="k").enqueue("k")
    queue.drain()
    assert ran == [("next",)]


@task(name="recurring.forwarded", retry=Retry(max_attempts=1))
def forwarded(key: str) -> None:
    with get_queue("memory://elsewhere") as elsewhere:
        elsewhere.enqueue(forwarded.using(key=key).job(key))


def test_a_task_can_enqueue_its_key_on_another_backend(queue: FakeQueue) -> None:
    handle = forwarded.using(key="k").enqueue("k")
    queue.drain()
    assert handle.status().error is None


@task(name="recurring.restarting", retry=Retry(max_attempts=1))
def restarting() -> None:
    get_queue().schedules.run_now("restarting")


def test_a_job_without_overlap_cannot_run_its_own_schedule(queue: FakeQueue) -> None:
    queue.schedules.add("restarting", restarting.job(), every=60, overlap=False)
    queue.advance(60)
    queue.drain()
    (status,) = queue.jobs()
    assert status.error is not None
    assert status.error.type == "queueport.errors.InvalidState"


@task(name="recurring.adding", retry=Retry(max_attempts=1))
def adding(key: str) -> None:
    get_queue().schedules.add("later", adding.using(key=key).job(key), every=60)


def test_a_task_can_add_a_schedule_with_its_own_key(queue: FakeQueue) -> None:
    handle = adding.using(key="k").enqueue("k")
    queue.drain()
    assert handle.status().error is None
    assert [schedule.name for schedule in queue.schedules.list()] == ["later"]


def test_another_key_is_fine(queue: FakeQueue) -> None:
    handle = chained.using(key="k").enqueue("other")
    queue.drain()
    assert handle.status().state is JobState.SUCCEEDED
    assert [status.key for status in queue.jobs("scheduled")] == ["other"]


def test_schedules_are_json(queue: FakeQueue) -> None:
    queue.schedules.add("noting", note.job(1, word="é"), cron="0 3 * * *", end=datetime(2099, 1, 1, tzinfo=UTC))
    (shown,) = queue.schedules.list()
    assert json.loads(json.dumps(shown.as_dict())) == shown.as_dict()

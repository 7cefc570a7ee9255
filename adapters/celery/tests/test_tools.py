"""Celery's tools show the names, ids and outcomes of queueport's jobs, and can cancel jobs and stop workers."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from adapters.celery.tests.harness import CeleryHarness
from queueport import JobQueue, JobState, Retry
from queueport.errors import JobCancelled, JobFailed
from queueport.testing.tasks import QUEUE, echo, fail, wait_for
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport_celery.messages import ENTRY, JSON, OutgoingMessage

ONCE = Retry(max_attempts=1)

both = pytest.mark.parametrize("native", [False, True], ids=["ours", "celery's"])


@contextmanager
def events_during(queue: JobQueue) -> Iterator[list[dict[str, Any]]]:
    """The events that Celery's workers send inside the `with` block."""
    events: list[dict[str, Any]] = []
    with queue.native.connection_for_read() as connection:
        receiver = queue.native.events.Receiver(connection, handlers={"*": events.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
        thread.start()
        try:
            eventually(lambda: queue.native.control.enable_events(reply=True, timeout=1) and events)
            yield events
        finally:
            receiver.should_stop = True
            thread.join(10)


@both
def test_events_show_the_name_of_the_task_and_the_outcome(celery: CeleryHarness, native: bool) -> None:
    queue = celery.open()
    celery.process(native=native)
    with events_during(queue) as events:
        good, bad = queue.enqueue(echo, "x"), queue.enqueue(fail.using(retry=ONCE).job("told"))
        good.result(10)
        with pytest.raises(JobFailed):
            bad.result(10)
        kinds = {"task-received", "task-started", "task-succeeded", "task-failed"}
        eventually(lambda: kinds <= {event["type"] for event in events}, 10, lambda: str(events))
    received = {event["uuid"]: event for event in events if event["type"] == "task-received"}
    assert {job: event["name"] for job, event in received.items()} == {good.id: echo.name, bad.id: fail.name}
    assert received[good.id]["args"] == "('x',)"
    ended = {event["uuid"]: event for event in events if event["type"] in ("task-succeeded", "task-failed")}
    assert (ended[good.id]["type"], ended[bad.id]["type"]) == ("task-succeeded", "task-failed")
    assert ended[good.id]["result"] == "'x'"
    assert ended[bad.id]["exception"] == "queueport.testing.tasks.Refused('told')"


@both
def test_inspect_shows_running_jobs(celery: CeleryHarness, trace: Trace, native: bool) -> None:
    queue = celery.open()
    celery.process(native=native)
    handle = queue.enqueue(wait_for, "go")
    eventually(lambda: trace.times(handle.id) == 1)
    active = queue.native.control.inspect(timeout=2).active()
    assert [(job["id"], job["name"]) for jobs in active.values() for job in jobs] == [(handle.id, wait_for.name)]
    trace.open("go")
    assert handle.result(10) == "go"


def test_celery_revoke_cancels_the_job(celery: CeleryHarness, trace: Trace) -> None:
    queue = celery.open()
    celery.process(options=["--threads=1"])
    running, waiting = queue.enqueue(wait_for, "go"), queue.enqueue(echo, 1)
    eventually(lambda: trace.times(running.id) == 1)
    queue.native.control.revoke(waiting.id, reply=True, timeout=2)
    trace.open("go")
    with pytest.raises(JobCancelled):
        waiting.result(10)
    assert running.result(10) == "go"
    assert trace.times(waiting.id) == 0


def test_celery_shutdown_stops_a_worker_gracefully(celery: CeleryHarness, trace: Trace) -> None:
    queue = celery.open()
    worker = celery.process()
    running = queue.enqueue(wait_for, "go")
    eventually(lambda: trace.times(running.id) == 1)
    queue.native.control.shutdown()
    eventually(lambda: "told to shut down" in worker.log)
    trace.open("go")
    assert worker.wait() == 0
    assert running.status().state is JobState.SUCCEEDED


@both
def test_a_message_of_another_app_is_put_aside(celery: CeleryHarness, native: bool) -> None:
    queue = celery.open()
    celery.process(native=native)
    headers = {"task": "another.app.task", "id": "foreign", "lang": "py"}
    body = b"[[1],{},{}]"
    name = celery.broker.names.native(QUEUE)
    celery.broker.publish(
        OutgoingMessage(name, body, headers, {"content_type": "application/json", "content_encoding": "utf-8"})
    )
    assert queue.enqueue(echo, 1).result(10) == 1
    found: list[Any] = []
    deadline = time.monotonic() + 10
    while not found and time.monotonic() < deadline:
        found = celery.broker.messages(celery.broker.names.aside(QUEUE))
    (kept,) = found
    assert (kept.headers["task"], kept.headers["id"], kept.payload) == ("another.app.task", "foreign", [[1], {}, {}])


@both
def test_a_message_that_cannot_be_decompressed_is_put_aside(celery: CeleryHarness, native: bool) -> None:
    queue = celery.open()
    celery.process(native=native)
    headers = {"task": ENTRY, "id": "bad", "lang": "py", "compression": "application/x-gzip"}
    celery.broker.publish(OutgoingMessage(celery.broker.names.native(QUEUE), b"not compressed", headers, JSON))
    assert queue.enqueue(echo, 1).result(10) == 1

    def kept() -> bool:
        try:
            return bool(celery.broker.messages(celery.broker.names.aside(QUEUE)))
        except (zlib.error, TypeError):  # kombu cannot read the copy either, because it is unchanged
            return True

    eventually(kept, 10)


@both
def test_celery_add_consumer_lets_a_worker_take_jobs_of_one_more_queue(celery: CeleryHarness, native: bool) -> None:
    queue = celery.open()
    celery.process(native=native)
    more = celery.broker.names.native("more")
    eventually(lambda: queue.native.control.add_consumer(more, reply=True, timeout=1))
    assert queue.enqueue(echo.using(queue="more"), 1).result(10) == 1
    assert queue.enqueue(echo, 2).result(10) == 2


def test_a_message_that_cannot_be_put_aside_keeps_no_place_in_the_prefetch(celery: CeleryHarness) -> None:
    queue = celery.open()
    names = celery.broker.names
    celery.broker.obstruct(names.aside(QUEUE))
    worker = celery.start(celery.native_command([QUEUE], "-c", "1", "--prefetch-multiplier", "1"))
    headers = {"task": "another.app.task", "id": "foreign", "lang": "py"}
    for _ in range(2):
        celery.broker.publish(OutgoingMessage(names.native(QUEUE), b"[[1],{},{}]", headers, JSON))
    eventually(lambda: worker.log.count("a message could not be put aside") == 2, 20, lambda: worker.log)
    assert queue.enqueue(echo, 1).result(10) == 1

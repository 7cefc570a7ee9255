"""queueport in the worker process of a framework: deliveries, forks and stuck attempts. For authors of `native`."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest

from queueport import JobHandle, JobQueue, JobState, Retry, get_queue, task
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.record import CorruptRecord
from queueport.spi.runner import MessageAction
from queueport.spi.store import Begin, WriteResult
from queueport.tasks import registry
from queueport.testing import tasks
from queueport.testing.hard_tasks import sleep_once
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually
from queueport.workers.attempt import Attempt
from queueport.workers.native import NativeWorker
from tests.unit.records import message_body

LEASE = 1.0

FRAMEWORK_WORKER = """
import sys
from queueport import get_queue
from queueport.spi.message import Message
from queueport.workers.native import NativeWorker

worker = NativeWorker.from_environment(get_queue(), ["default"])
worker.deliver(Message.of(worker.queue.operations.read(sys.argv[1]), 0.0).body)
"""

STOPPING_WORKER = """
import os, sys, threading, time
from queueport import JobState, get_queue
from queueport.spi.message import Message
from queueport.workers.native import NativeWorker

worker, job_id = NativeWorker.from_environment(get_queue(), ["default"]), sys.argv[1]
body = Message.of(worker.queue.operations.read(job_id), 0.0).body
threading.Thread(target=worker.deliver, args=[body], daemon=True).start()
while worker.queue.operations.read(job_id).state is not JobState.RUNNING:
    time.sleep(0.01)
worker.stop()
assert worker.process.must_exit
os._exit(5)
"""

MOVES = """
import os, tempfile, time
from queueport import Retry, task

@task(timeout=0.2, retry=Retry(max_attempts=1))
def move_and_sleep() -> None:
    os.chdir(tempfile.gettempdir())
    time.sleep(60)
"""


@pytest.fixture
def queue(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    monkeypatch.setenv("QUEUEPORT_URL", f"sqlite:///{tmp_path}/jobs.db")
    monkeypatch.setenv("QUEUEPORT_TASKS", "queueport.testing.tasks, queueport.testing.hard_tasks")
    with get_queue(os.environ["QUEUEPORT_URL"]) as queue:
        yield queue


def test_deliver_runs_the_job_in_the_callers_thread_and_returns_how_it_ended(queue: JobQueue, trace: Trace) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    good, bad = queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.fail.using(retry=Retry(max_attempts=1)).job())
    done = worker.deliver(message_body(queue, good.id))
    assert (done.action, done.error) == (MessageAction.ACKNOWLEDGE, None)
    assert good.result(0) == 1
    (start,) = trace.notes("start", job=good.id)
    assert (start["pid"], start["thread"]) == (os.getpid(), threading.get_ident())
    error = worker.deliver(message_body(queue, bad.id)).error
    assert error is not None
    assert error.type == "queueport.testing.tasks.Refused"
    assert worker.deliver(b"not a message").action is MessageAction.PUT_ASIDE
    worker.stop()


def test_the_file_for_liveness_probes_is_touched_in_a_frameworks_process_too(
    queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "alive"
    monkeypatch.setenv("QUEUEPORT_ALIVE_FILE", str(file))
    worker = NativeWorker.from_environment(queue, [tasks.QUEUE])
    worker.begin()
    eventually(file.exists)
    worker.stop()


def test_a_coroutine_goes_on_after_deliver_has_returned(queue: JobQueue) -> None:
    go = threading.Event()
    with registry.isolated():

        @task(name="wait_in_the_event_loop")
        async def wait(number: int) -> int:
            await asyncio.to_thread(go.wait, 30)
            return number

        worker = NativeWorker(queue, [tasks.QUEUE])
        handles = [queue.enqueue(wait, number) for number in range(10)]
        for handle in handles:
            assert worker.deliver(message_body(queue, handle.id)).record is None
        assert {handle.status().state for handle in handles} == {JobState.RUNNING}
        go.set()
        worker.stop()
    assert [handle.result(0) for handle in handles] == list(range(10))


def test_a_stop_held_by_a_job_that_is_being_begun(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, store = NativeWorker(queue, [tasks.QUEUE]), queue.operations.store
    begin, called, go = store.begin, threading.Event(), threading.Event()

    def slow(begins: Sequence[Begin]) -> Sequence[WriteResult]:
        called.set()
        assert go.wait(10)
        return begin(begins)

    monkeypatch.setattr(store, "begin", slow)
    handle = queue.enqueue(tasks.sleep, 0.3)
    thread = threading.Thread(target=worker.deliver, args=[message_body(queue, handle.id)])
    thread.start()
    assert called.wait(10)
    threading.Timer(0.3, go.set).start()
    worker.stop()
    assert handle.status().state is JobState.SUCCEEDED
    thread.join(10)


def test_a_second_stop_after_a_coroutine_does_nothing(queue: JobQueue) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    handle = queue.enqueue(tasks.asleep, 0.0)
    worker.deliver(message_body(queue, handle.id))
    worker.stop()
    eventually(lambda: "queueport-async" not in {thread.name for thread in threading.enumerate()})
    worker.stop()
    assert handle.result(0) == 0.0


def test_a_coroutine_that_held_by_its_turn_has_not_begun_and_is_handed_back_at_a_stop(
    queue: JobQueue, trace: Trace
) -> None:
    with get_queue(queue.url, coroutines=2) as narrow:
        worker = NativeWorker(narrow, [tasks.QUEUE])
        patient = tasks.asleep.using(timeout=0.5, retry=Retry(max_attempts=1))
        handles = [narrow.enqueue(tasks.asleep, 1.0), narrow.enqueue(tasks.asleep, 60.0), narrow.enqueue(patient, 0.1)]
        for handle in handles[:2]:
            worker.deliver(message_body(narrow, handle.id))
        # This job waits for a free slot for longer than its timeout. The timeout must not include this wait.
        worker.deliver(message_body(narrow, handles[2].id))
        assert handles[2].result(10) == 0.1
        first, last = trace.runs(handles[0].id, handles[2].id)
        assert last.started - first.started > 0.9

        blocked = narrow.enqueue(tasks.asleep, 0.1), narrow.enqueue(tasks.asleep, 60.0)
        worker.deliver(message_body(narrow, blocked[1].id))
        thread = threading.Thread(target=worker.deliver, args=[message_body(narrow, blocked[0].id)])
        thread.start()
        worker._work.grace = 0.0
        worker.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert (blocked[0].status().state, blocked[0].status().attempts) == (JobState.QUEUED, 0)


def test_a_message_that_cannot_be_begun_keeps_no_slot(queue: JobQueue) -> None:
    with get_queue(queue.url, coroutines=1) as narrow:
        worker = NativeWorker(narrow, [tasks.QUEUE])
        handle, other = narrow.enqueue(tasks.asleep, 0.0), narrow.enqueue(tasks.asleep, 0.0)
        body = message_body(narrow, handle.id)
        worker.deliver(body)
        handle.result(10)
        worker.deliver(body)  # deliver a duplicate
        worker.deliver(message_body(narrow, other.id))
        assert other.result(10) == 0.0
        worker.stop()


def test_a_worker_that_starts_while_the_store_is_away_is_announced_later(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with get_queue(queue.url, lease=LEASE) as short:
        worker = NativeWorker(short, [tasks.QUEUE])
        with monkeypatch.context() as outage:
            away = Mock(side_effect=BackendUnavailable("the store is away"))
            outage.setattr(short.operations.store, "announce", away)
            worker.begin()
            assert "is not listed until the store answers: the store is away" in caplog.text
            assert short.stats().workers == []
        eventually(lambda: short.stats().workers, 10)
        handle = short.enqueue(tasks.echo, 1)
        worker.deliver(message_body(short, handle.id))
        assert handle.result(10) == 1
        worker.stop()


def test_a_forked_process_sends_its_own_heartbeats(queue: JobQueue, trace: Trace) -> None:
    with get_queue(queue.url, lease=LEASE) as short:
        worker = NativeWorker(short, [tasks.QUEUE])
        in_parent, in_child = short.enqueue(tasks.echo, 1), short.enqueue(tasks.wait_for, "go")
        worker.deliver(message_body(short, in_parent.id))
        child = os.fork()
        if child == 0:
            try:
                worker.deliver(message_body(short, in_child.id))
                os._exit(0)
            finally:
                os._exit(1)
        try:
            first = eventually(lambda: lease_end(short, in_child))
            eventually(lambda: lease_end(short, in_child) > first)
        finally:
            trace.open("go")
            status = os.waitpid(child, 0)[1]
        assert status == 0
        assert in_child.result(0) == "go"
        assert in_child.status().worker != in_parent.status().worker
        assert str(child) in str(in_child.status().worker)
        worker.stop()


def test_a_forked_process_is_not_listed_so_a_killed_one_is_not_a_lost_worker(queue: JobQueue, trace: Trace) -> None:
    with get_queue(queue.url, lease=LEASE) as short:
        worker, store = NativeWorker(short, [tasks.QUEUE]), short.operations.store
        handle = short.enqueue(tasks.wait_for, "go")
        child = os.fork()
        if child == 0:
            try:
                worker.deliver(message_body(short, handle.id))
            finally:
                os._exit(1)
        try:
            eventually(lambda: trace.runs(handle.id))
            assert list(store.workers()) == []
            worker.begin()  # the process that fetches the messages is listed
            assert [listed.name for listed in store.workers()] == [worker.process.name]
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        worker.stop()
        assert [*store.workers(), *store.workers(lost=True)] == []


def test_the_job_of_a_killed_process_is_handed_back_unless_it_had_begun(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker, store = NativeWorker(queue, [tasks.QUEUE]), queue.operations.store
    received, begun = queue.enqueue(tasks.echo, 1), queue.enqueue(tasks.echo, 2)
    (attempt,) = worker.process.receiver.begin([message_body(queue, begun.id)], threading.Event())
    assert isinstance(attempt, Attempt)
    for handle in (received, begun):
        worker.hand_back(handle.id)
    waiting, running = queue.operations.read(received.id), queue.operations.read(begun.id)
    assert (waiting.state, waiting.sent, waiting.attempts) == (JobState.QUEUED, False, 0)
    assert waiting.wake_at is not None, "no dispatcher would publish the job again"
    assert (running.state, running.attempts) == (JobState.RUNNING, 1)
    for error in (BackendUnavailable("the store is away"), CorruptRecord("it is damaged")):
        with monkeypatch.context() as outage:
            outage.setattr(store, "get", Mock(side_effect=error))
            worker.hand_back(received.id)
        assert f"job {received.id}, whose process was killed, could not be handed back: {error}" in caplog.text
    worker.process.run(attempt)  # `stop` would take it for stuck, and end all processes that this process has started
    worker.stop()


def lease_end(queue: JobQueue, handle: JobHandle[str]) -> float:
    """The time at which the lease of the job ends, or 0 if the job is not running."""
    record = queue.operations.read(handle.id)
    return record.wake_at or 0.0 if record.state is JobState.RUNNING else 0.0


def test_a_stopped_worker_hands_its_jobs_back(queue: JobQueue) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    handle = queue.enqueue(tasks.echo, 1)
    worker.deliver(message_body(queue, queue.enqueue(tasks.echo, 0).id))
    worker.stop()
    assert worker.deliver(message_body(queue, handle.id)).action is MessageAction.ACKNOWLEDGE
    record = queue.operations.read(handle.id)
    assert (record.state, record.attempts, record.sent) == (JobState.QUEUED, 0, False)
    assert record.wake_at is not None, "no dispatcher would publish the job again"


def test_a_stuck_attempt_ends_with_its_process_and_counts_as_a_timeout(queue: JobQueue, trace: Trace) -> None:
    job = sleep_once.using(timeout=0.3, retry=Retry(max_attempts=2, initial=60.0)).job(60.0)
    handle = queue.enqueue(job)
    process = subprocess.run(
        [sys.executable, "-c", FRAMEWORK_WORKER, handle.id], check=False, capture_output=True, text=True, timeout=30
    )
    assert "this process exits, because interrupted jobs did not end in time" in process.stderr
    assert process.returncode == 1
    eventually(lambda: handle.status().state is JobState.RETRYING)
    status = handle.status()
    assert (status.attempts, status.failures, status.crashes) == (1, 1, 0)
    assert [error.type for error in status.errors] == ["queueport.errors.JobTimeout"]
    assert trace.times(handle.id) == 1


def test_a_job_that_times_out_while_its_process_stops_and_cannot_be_interrupted_is_recorded(
    queue: JobQueue, trace: Trace
) -> None:
    job = sleep_once.using(timeout=1.0, retry=Retry(max_attempts=2, initial=60.0)).job(60.0)
    handle = queue.enqueue(job)
    process = subprocess.run(
        [sys.executable, "-c", STOPPING_WORKER, handle.id], check=False, capture_output=True, text=True, timeout=30
    )
    assert process.returncode == 5, process.stderr
    eventually(lambda: handle.status().state is JobState.RETRYING)
    status = handle.status()
    assert (status.attempts, status.failures, status.crashes) == (1, 1, 0)
    assert [error.type for error in status.errors] == ["queueport.errors.JobTimeout"]


def test_a_stuck_job_that_has_changed_the_working_directory_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moves.py").write_text(MOVES)
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "QUEUEPORT_URL": "sqlite:///jobs.db", "QUEUEPORT_TASKS": "moves"}
    with get_queue("sqlite:///jobs.db") as queue:
        handle = queue.enqueue("moves.move_and_sleep")
        process = subprocess.run(
            [sys.executable, "-c", FRAMEWORK_WORKER, handle.id], env=environment, timeout=40, check=False
        )
        assert process.returncode == 1
        eventually(lambda: handle.status().state is JobState.DEAD)
        assert (handle.status().failures, handle.status().crashes) == (1, 0)


@pytest.mark.parametrize("given", ["soon", "-1", "nan", ""])
def test_a_grace_period_that_is_not_a_number_of_seconds_is_refused(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("QUEUEPORT_GRACE", given)
    with pytest.raises(ConfigurationError, match="QUEUEPORT_GRACE must be a number of seconds, 0 or more, not "):
        NativeWorker.from_environment(queue, [tasks.QUEUE])


def test_a_missing_module_in_the_environment_is_refused(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUEPORT_TASKS", "no.such.module")
    with pytest.raises(ConfigurationError, match=r"no\.such\.module"):
        NativeWorker.from_environment(queue, [tasks.QUEUE])


def test_a_stop_gives_up_a_begin_that_the_store_does_not_answer(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = NativeWorker(queue, [tasks.QUEUE])
    handle = queue.enqueue(tasks.echo, 1)
    body, called, errors = message_body(queue, handle.id), threading.Event(), list[BackendUnavailable]()

    def away(begins: Sequence[Begin]) -> Sequence[WriteResult]:
        called.set()
        raise BackendUnavailable("the store is away")

    def deliver() -> None:
        try:
            worker.deliver(body)
        except BackendUnavailable as error:
            errors.append(error)

    monkeypatch.setattr(queue.operations.store, "begin", away)
    thread = threading.Thread(target=deliver)
    thread.start()
    assert called.wait(10)
    stopping = threading.Thread(target=worker.stop)  # with the default grace period of 30 seconds
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()
    thread.join(10)
    assert len(errors) == 1

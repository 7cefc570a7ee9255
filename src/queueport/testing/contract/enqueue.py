"""Group E, "Enqueue": which jobs are accepted, how their arguments arrive, and what is refused. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar, cast
from unittest.mock import Mock, patch
from uuid import UUID

import pytest

from queueport import AsyncJobQueue, Capability, Job, JobHandle, JobQueue, Limits, Retry, get_queue, task
from queueport.errors import (
    BackendUnavailable,
    DuplicateJob,
    InvalidJob,
    InvalidState,
    JobFailed,
    JobNotFound,
    PayloadTooLarge,
    Unsupported,
)
from queueport.spi.message import Message, SendOutcome, SendResult
from queueport.spi.record import Record
from queueport.spi.store import Insert, WriteResult
from queueport.status import JobState
from queueport.testing import tasks
from queueport.testing.contract.case import Case, disrupts, lacks, needs
from queueport.testing.harness import Harness
from queueport.testing.tasks import Parcel, Point
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["ArgumentTests", "EnqueueTests", "IdentityTests", "KeyModeTests", "OriginTests", "RefusalTests"]

T = TypeVar("T")

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
"""For each library, the code that a program must run first, so that the threads of the program are greenlets."""
GREENLETS = """
from threading import Thread
from queueport import get_queue
from queueport.testing import tasks

def enqueue():
    for number in range(5):
        print(queue.enqueue(tasks.echo, number).id)

queue = get_queue()
assert queue.check().ok, queue.check()
threads = [Thread(target=enqueue) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for handle in queue.enqueue_many(tasks.echo.job(number) for number in range(10)):
    print(handle.id)
"""
"""A program that enqueues jobs in threads and prints the ids of the jobs. The test puts code of PATCHES before this
program, so that the threads are greenlets."""
THREADS = 8
"""The number of threads that `at_once` starts, for tests of E7, E8, E10 and E13 to E15."""
BATCH = [f"job-{number}" for number in range(10)]
"""The ids of a batch that is sent only in part: the jobs in ACCEPTED are accepted, and those in REJECTED are not."""
SECRET_NUMBER = 271_828_182
"""An argument that no log may show."""
ACCEPTED, REJECTED = tuple(BATCH[:4]), tuple(BATCH[4:])
LOST = [f"lost-{number}" for number in range(6)]
"""The ids of a batch that E9 tries to enqueue while the backend is down. Each job has its own queue, because the time
limit must hold for the whole batch, not for each queue."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    2**60,
    -(2**60),
    0.1,
    -0.0,
    1e300,
    5e-324,
    "",
    "\0",
    "a\0b\n\t\x7f",
    "žluťoučký 漢字 🎈 \u2028",
    [],
    {},
    {"": [{"deep": [[[None, {"ключ": [1, 2.5, "\0"]}]]]}]},
)


NAMES = (
    *("self", "cls", "args", "kwargs", "fields", "_", "__class__", "größe"),
    *("task", "what", "name", "queue", "job", "job_id", "function", "fn", "delay", "priority", "headers", "timeout"),
    *("actor", "broker", "message", "result", "exception", "request", "body", "envelope", "connection", "pipeline"),
)
"""Names of keyword arguments that must reach a task, although most of them are also names of parameters of queueport or
of a framework."""


class ArgumentTests(Case):
    """Lines E1, E2 and the first part of E3: jobs and their arguments arrive as they were given."""

    def test_E1_before_a_worker_runs_status_shows_the_job_as_given(self, queue: JobQueue) -> None:
        handle = queue.enqueue(tasks.add.using(headers={"tenant": "Zoë"}), 1, b=2)
        status = handle.status()
        assert handle.id
        assert (status.id, status.task, status.queue) == (handle.id, tasks.add.name, tasks.QUEUE)
        assert (status.state, status.attempts, status.finished) == (JobState.QUEUED, 0, False)
        assert (status.args, status.kwargs, status.headers) == ([1], {"b": 2}, {"tenant": "Zoë"})
        assert (status.started_at, status.finished_at, status.worker, status.error) == (None, None, None, None)
        assert abs(status.enqueued_at - datetime.now(UTC)) < timedelta(seconds=10)

    def test_E1_headers_arrive(self, queue: JobQueue, harness: Harness) -> None:
        given = {"traceparent": "00-4bf92f-01", "tenant": "Zoë \n 漢字"}
        handle = queue.enqueue(tasks.headers.using(headers=given))
        with harness.working(queue):
            assert handle.result(10) == given
            assert queue.enqueue(tasks.headers).result(10) == {}

    def test_E2_plain_arguments_and_results_arrive_equal(self, queue: JobQueue, harness: Harness) -> None:
        handles = queue.enqueue_many(tasks.echo.job(value) for value in VALUES)
        with harness.working(queue):
            for value, handle in zip(VALUES, handles, strict=True):
                result = handle.result(10)
                assert (repr(result), type(result)) == (repr(value), type(value))
                assert handle.status().args == [value]
                assert handle.status().result == value

    def test_E2_typed_arguments_and_results_arrive_as_their_types(self, queue: JobQueue, harness: Harness) -> None:
        parcel = Parcel(kg=Decimal("1.50"), labels=["fragile", ""])
        at = datetime(2024, 2, 29, 23, 59, 59, 123456, timezone(timedelta(hours=5.5)))
        uid, price, data = UUID(int=2**127 + 1), Decimal("0.10"), bytes(range(256))
        handle = queue.enqueue(tasks.typed, at, uid, price, data, Point(1, 0.5), parcel, 1, 2, last=Point(3, 4.0))
        again = queue.enqueue(
            tasks.same, at, uid, price, data, Point(-1, 0.1), parcel, 2**60, 0, a=Point(3, 4.0), b=Point(5, 6.0)
        )
        with harness.working(queue):
            types = ["datetime", "UUID", "Decimal", "bytes", "Point", "Parcel", "int", "int", "Point"]
            assert handle.result(10) == {"types": types, "parcel": ["fragile", ""], "point": 1}
            one = (at, uid, price, data, Point(-1, 0.1), parcel)
            assert again.result(10) == (*one, [2**60, 0], {"a": Point(3, 4.0), "b": Point(5, 6.0)})
            back = queue.enqueue(tasks.same_parcel, parcel)
            assert back.result(10) == parcel
            assert back.status().result == {"kg": "1.50", "labels": ["fragile", ""]}
            with_its_type = queue.handle(back.id, tasks.same_parcel)
            assert with_its_type.result(10) == parcel

    def test_E2_keyword_arguments_may_have_any_name(self, queue: JobQueue, harness: Harness) -> None:
        given = {name: number for number, name in enumerate(NAMES)}
        handle = queue.enqueue(tasks.named, **given)
        with harness.working(queue, threads=1):
            assert handle.result(10) == given
            assert queue.enqueue(tasks.echo, 1).result(10) == 1
        assert (handle.status().kwargs, handle.status().attempts) == (given, 1)

    def test_E3_many_mixed_jobs_over_two_queues_run_once_each(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        jobs = [_mixed(number) for number in range(250)]
        with harness.working(queue, tasks.QUEUE, "other", threads=4):
            handles = queue.enqueue_many(jobs)
            assert [handle.id for handle in handles] == [job.id for job in jobs]
            eventually(lambda: queue.stats().totals.succeeded == 250, 40, lambda: queue.stats().totals)
            results = [handle.result(10) for handle in handles]
        assert results == [number + 1 if number % 3 == 0 else number % 3 for number in range(250)]
        assert Counter(run.job for run in trace.runs()) == dict.fromkeys([job.id for job in jobs], 1)
        assert {name: counts.succeeded for name, counts in queue.stats().queues.items()} == {
            "default": 125,
            "other": 125,
        }


def _mixed(number: int) -> Job[Any]:
    """Make a job whose task, options and queue depend on the number."""
    queue = "default" if number % 2 == 0 else "other"
    if number % 3 == 0:
        return tasks.add.using(queue=queue, headers={"number": str(number)}).job(number)
    return tasks.echo.using(queue=queue, timeout=20, job_id=f"job-{number}").job(number % 3)


class RefusalTests(Case):
    """The rest of E3, and E4, E5, E6 and E9: what is refused, and what happens while a server is down."""

    @pytest.mark.parametrize("outcome", [SendOutcome.FAILED, SendOutcome.UNKNOWN])
    def test_E3_of_a_partly_sent_batch_only_the_accepted_jobs_run(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch, outcome: SendOutcome
    ) -> None:
        with monkeypatch.context() as patched:
            if queue.driver.carries:
                # A one-step enqueue accepts all jobs or none, so the test turns one-step enqueues off.
                patched.setattr(queue.driver, "publishes_with_insert", False)
                patched.setattr(queue.driver, "publish", _publish_in_part(queue, outcome))
            else:
                patched.setattr("queueport.engine.enqueue.BATCH", len(ACCEPTED))
                patched.setattr(queue.operations.store, "insert", _insert_once(queue))
            self._enqueue_in_part(queue, unknown=0 if queue.driver.carries else len(ACCEPTED))
        self._only_accepted_jobs_run(queue, harness, trace)

    def test_E3_a_long_batch_may_fail_between_two_steps(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("queueport.engine.enqueue.BATCH", len(ACCEPTED))
            patched.setattr(queue.operations.store, "insert", _insert_once(queue))
            self._enqueue_in_part(queue, unknown=len(ACCEPTED))
        self._only_accepted_jobs_run(queue, harness, trace)

    def _enqueue_in_part(self, queue: JobQueue, unknown: int) -> None:
        """Enqueue BATCH, and check that the error lists the jobs in ACCEPTED as accepted.

        The error must list the first `unknown` jobs of REJECTED as unknown, and the rest of REJECTED as rejected.
        """
        with pytest.raises(BackendUnavailable) as caught:
            queue.enqueue_many(tasks.echo.using(job_id=name).job(name) for name in BATCH)
        assert (caught.value.accepted, caught.value.unknown) == (ACCEPTED, REJECTED[:unknown])
        assert caught.value.rejected == REJECTED[unknown:]

    def _only_accepted_jobs_run(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        assert [name for name in REJECTED if not _withdrawn(queue, name)] == []
        with harness.working(queue):
            assert [queue.result(name, 10) for name in ACCEPTED] == list(ACCEPTED)
            assert queue.enqueue(tasks.echo, "later").result(10) == "later"
        assert [trace.times(name) for name in ACCEPTED] == [1] * len(ACCEPTED)
        assert [name for name in REJECTED if trace.times(name)] == []

    @pytest.mark.parametrize(
        ("name", "args", "kwargs", "parameter"),
        [
            ("add", ("one",), {}, "a"),
            ("add", (1,), {"b": None}, "b"),
            ("add", (), {}, "a"),
            ("add", (1, 2, 3), {}, "too many"),
            ("add", (1,), {"c": 2}, "c"),
            ("same_parcel", ({"kg": "much"},), {}, "kg"),
            *(
                ("echo", (value,), {}, "value")
                for value in (object(), {1: 2}, (1, 2), {1}, math.nan, [math.inf], "\ud800", b"\xff", 1j)
            ),
        ],
    )
    def test_E4_invalid_arguments_are_refused_before_any_io(
        self, queue: JobQueue, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], parameter: str
    ) -> None:
        with no_io(queue), pytest.raises(InvalidJob, match=rf"\b{parameter}\b"):
            queue.enqueue(getattr(tasks, name), *args, **kwargs)
        assert queue.jobs() == []

    def test_E5_arguments_up_to_the_limit_arrive(self, queue: JobQueue, harness: Harness) -> None:
        size, limit = _largest_text(queue.limits)
        handle = queue.enqueue(tasks.length, "x" * size)
        with harness.working(queue):
            assert handle.result(20) == size
        if limit is not None:
            with no_io(queue), pytest.raises(PayloadTooLarge, match=rf"\b{limit + 1}\b.*\b{limit}\b"):
                queue.enqueue(tasks.length, "x" * (size + 1))
            assert queue.stats().totals.succeeded == 1

    def test_E5_with_one_job_too_large_nothing_of_the_batch_is_sent(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue.operations.store, "limits", Limits(payload=1000))
        sizes = (1, 1000, 1)
        with no_io(queue), pytest.raises(PayloadTooLarge, match=r"\b1000\b"):
            queue.enqueue_many(tasks.length.job("é" * (size // 2)) for size in sizes)
        assert queue.jobs() == []

    def test_E5_headers_count_if_the_whole_message_is_limited(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(queue.operations.store, "limits", Limits(message=2000))
        with no_io(queue), pytest.raises(PayloadTooLarge, match=r"\b2000\b"):
            queue.enqueue(tasks.length.using(headers={"note": "x" * 2000}), "")
        queue.enqueue(tasks.length.using(headers={"note": "x" * 1000}), "")

    @lacks(Capability.PRIORITY)
    def test_E6_a_priority_is_refused(self, queue: JobQueue) -> None:
        _refuses(queue, lambda: queue.enqueue(tasks.echo.using(priority=1), 1))
        queue.enqueue(tasks.echo.using(priority=0), 1)

    @lacks(Capability.GROUPS)
    def test_E6_a_group_is_refused(self, queue: JobQueue) -> None:
        _refuses(queue, lambda: queue.enqueue(tasks.echo.using(group="g"), 1))
        _refuses(queue, lambda: queue.enqueue_many([tasks.echo.job(1), tasks.echo.using(group="g").job(2)]))

    def test_E6_requiring_a_missing_capability_is_refused(self, harness: Harness) -> None:
        for capability in Capability:
            if capability in harness.capabilities:
                assert capability in harness.open(require=[capability]).capabilities
            else:
                with pytest.raises(Unsupported, match=capability.name):
                    harness.open(require=[capability])

    @disrupts
    def test_E9_while_the_backend_is_down_enqueue_fails_in_time(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        queue.enqueue(tasks.echo.using(job_id="before"), 1)
        allowed = queue.settings.call_timeout + 1.0
        with harness.sends_down():
            for names in (["lost"], LOST):
                jobs = [tasks.echo.using(job_id=name, queue=f"q{i}").job(1) for i, name in enumerate(names)]
                started = time.monotonic()
                with pytest.raises(BackendUnavailable) as caught:
                    queue.enqueue_many(jobs)
                assert time.monotonic() - started < allowed
                assert (*caught.value.rejected, *caught.value.unknown) == tuple(names)
        queue.enqueue(tasks.echo.using(job_id="after"), 1)
        self._only_the_others_run(queue, harness, trace)

    def test_E9_while_the_store_is_down_enqueue_fails(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        queue.enqueue(tasks.echo.using(job_id="before"), 1)
        down = BackendUnavailable("the store is down")
        with (
            patch.object(queue.operations.store, "insert", side_effect=down),
            pytest.raises(BackendUnavailable) as caught,
        ):
            queue.enqueue(tasks.echo.using(job_id="lost"), 1)
        assert (caught.value.accepted, caught.value.rejected, caught.value.unknown) == ((), (), ("lost",))
        queue.enqueue(tasks.echo.using(job_id="after"), 1)
        self._only_the_others_run(queue, harness, trace)

    def _only_the_others_run(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        assert [name for name in ("lost", *LOST) if not _withdrawn(queue, name)] == []
        with harness.working(queue):
            assert [queue.result(name, 10) for name in ("before", "after")] == [1, 1]
        assert sorted(run.job for run in trace.runs()) == ["after", "before"]

    def test_E9_a_job_whose_insert_was_not_answered_is_unknown(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = [tasks.echo.using(job_id=name, delay=60).job(name) for name in ACCEPTED]
        with monkeypatch.context() as patched:
            patched.setattr("queueport.engine.enqueue.QUICK", -1.0)  # each failure counts as slow: no call is repeated
            patched.setattr(queue.operations.store, "insert", _without_answer(queue.operations.store.insert))
            with pytest.raises(BackendUnavailable, match="may or may not run") as caught:
                queue.enqueue_many(jobs)
        assert (caught.value.accepted, caught.value.rejected, caught.value.unknown) == ((), (), ACCEPTED)
        for job in jobs:
            with pytest.raises(DuplicateJob, match=job.id):
                queue.enqueue(job)

    def test_E9_a_job_whose_withdrawal_was_not_answered_is_unknown(
        self, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not queue.driver.carries:
            return  # if the store is the queue, no job is withdrawn
        jobs = [tasks.echo.using(job_id=name).job(name) for name in BATCH]
        with monkeypatch.context() as patched:
            patched.setattr(queue.driver, "publishes_with_insert", False)
            patched.setattr(queue.driver, "publish", _publish_in_part(queue, SendOutcome.FAILED))
            patched.setattr(queue.operations.store, "swap", Mock(side_effect=BackendUnavailable("the store is down")))
            with pytest.raises(BackendUnavailable, match="may or may not run") as caught:
                queue.enqueue_many(jobs)
        assert (caught.value.accepted, caught.value.rejected, caught.value.unknown) == (ACCEPTED, (), REJECTED)
        with pytest.raises(DuplicateJob):
            queue.enqueue(jobs[-1])

    @pytest.mark.parametrize("outcome", [SendOutcome.FAILED, SendOutcome.UNKNOWN])
    def test_E9_a_rejected_job_can_be_enqueued_again_with_its_id(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch, outcome: SendOutcome
    ) -> None:
        if not queue.driver.carries:
            return  # if the store is the queue, no job is withdrawn
        jobs = [tasks.echo.using(job_id=name).job(name) for name in BATCH]
        with monkeypatch.context() as patched:
            patched.setattr(queue.driver, "publishes_with_insert", False)
            patched.setattr(queue.driver, "publish", _publish_in_part(queue, outcome))
            with pytest.raises(BackendUnavailable):
                queue.enqueue_many(jobs)
        queue.enqueue_many(job for job in jobs if job.id in REJECTED)
        with harness.working(queue):
            assert [queue.result(name, 10) for name in BATCH] == BATCH
        assert [trace.times(name) for name in BATCH] == [1] * len(BATCH)

    def test_E9_a_lost_answer_of_the_store_neither_loses_nor_duplicates_jobs(
        self, queue: JobQueue, harness: Harness, trace: Trace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, calls = queue.operations.store, iter([True])
        insert = store.insert

        def lose_the_answer(inserts: Sequence[Insert]) -> Sequence[WriteResult]:
            written = insert(inserts)
            if next(calls, False):
                raise BackendUnavailable("the answer was lost")
            return written

        monkeypatch.setattr(store, "insert", lose_the_answer)
        handles = queue.enqueue_many(tasks.echo.job(number) for number in range(3))
        with harness.working(queue):
            assert [handle.result(10) for handle in handles] == [0, 1, 2]
        assert [trace.times(handle.id) for handle in handles] == [1, 1, 1]


@contextmanager
def no_io(queue: JobQueue) -> Iterator[None]:
    """A context manager. Inside it, a call of any method of the driver or the store that may do I/O raises an error."""
    with ExitStack() as stack:
        for part in (queue.operations.store, queue.driver):
            for name, verb in inspect.getmembers(type(part), inspect.isfunction):
                if not name.startswith("_") and name != "check_size":
                    reason = AssertionError(f"{verb.__qualname__} was called")
                    stack.enter_context(patch.object(part, name, side_effect=reason))
        yield


def _largest_text(limits: Limits) -> tuple[int, int | None]:
    """The length of the longest text that `tasks.length` can take, and the limit in bytes that determines this length.

    Without a limit: a length of almost 1 MiB, and None.
    """
    job = tasks.length.job("")
    record = Record(id=job.id, task=job.task, queue=job.queue, payload=job.payload, state=JobState.QUEUED)
    sizes = ((limits.payload, len(job.payload)), (limits.message, Message.size(record)))
    left = [(limit - size, limit) for limit, size in sizes if limit is not None]
    return min(left, default=(2**20 - len(job.payload), None))


def _refuses(queue: JobQueue, call: Callable[[], object]) -> None:
    """Assert that the call raises `Unsupported`, that the error names the backend, and that no I/O was done."""
    with no_io(queue), pytest.raises(Unsupported, match=re.escape(queue.backend)):
        call()
    assert queue.jobs() == []


def _withdrawn(queue: JobQueue, job_id: str) -> bool:
    """True if the job was withdrawn or was never inserted, so that it will never run."""
    try:
        status = queue.status(job_id)
    except JobNotFound:
        return True
    return status.state is JobState.CANCELLED and status.reason == "not_sent"


def _publish_in_part(queue: JobQueue, outcome: SendOutcome) -> Callable[[Sequence[Message]], Sequence[SendResult]]:
    """Make a replacement for `publish` that returns `outcome` for all messages after the first `len(ACCEPTED)`.

    If `outcome` is UNKNOWN, the backend gets all messages nevertheless. Otherwise it gets only the first
    `len(ACCEPTED)` messages.
    """
    publish = queue.driver.publish

    def publish_in_part(messages: Sequence[Message]) -> Sequence[SendResult]:
        sent = publish(messages if outcome is SendOutcome.UNKNOWN else messages[: len(ACCEPTED)])
        rest = [SendResult(outcome, ConnectionError("the connection was lost")) for _ in messages[len(ACCEPTED) :]]
        return [*sent[: len(ACCEPTED)], *rest]

    return publish_in_part


def _without_answer(call: Callable[[T], object]) -> Callable[[T], NoReturn]:
    """Make a function that calls `call` and then raises BackendUnavailable, as if the answer were lost."""

    def without_answer(items: T) -> NoReturn:
        call(items)
        raise BackendUnavailable("the answer was lost")

    return without_answer


def _insert_once(queue: JobQueue) -> Callable[[Sequence[Insert]], Sequence[WriteResult]]:
    """Make a replacement for the store's `insert`: the first call works, and later calls raise BackendUnavailable."""
    insert, calls = queue.operations.store.insert, iter([True])

    def insert_once(inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        if next(calls, False):
            return insert(inserts)
        raise BackendUnavailable("the connection was lost")

    return insert_once


class IdentityTests(Case):
    """Lines E7 and E8: keys and ids."""

    def test_E7_one_job_with_a_key_is_alive(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        keyed = tasks.wait_for.using(key="invoice 7")
        first = queue.enqueue(keyed.using(delay=3600), "first")
        assert queue.enqueue(keyed, "second") == first, "a scheduled job does not hold its key"
        first.retry()
        assert queue.enqueue(keyed, "second") == first, "a queued job does not hold its key"
        later = queue.enqueue_many([keyed.job("third"), keyed.job("fourth"), tasks.echo.job(0)])
        assert later[:2] == [first, first]
        assert [handle.created for handle in (first, *later)] == [True, False, False, True]
        assert first.status().args == ["first"]
        assert first.status().key == "invoice 7"
        other = queue.enqueue(tasks.echo.using(key="invoice 7"), 1)
        assert other != first, "a job holds the key of another task"
        with harness.working(queue):
            eventually(lambda: first.status().state is JobState.RUNNING)
            assert queue.enqueue(keyed, "second") == first, "a running job does not hold its key"
            trace.open("first")
            first.result(10)
            trace.open("second")
            second = queue.enqueue(keyed, "second")
            assert second != first, "a job that has ended still holds its key"
            assert second.created
            assert second.result(10) == "second"
            assert other.result(10) == 1
        assert [run.job for run in trace.runs(first.id, second.id)] == [first.id, second.id]

    def test_E7_arguments_that_are_dropped_are_logged(self, queue: JobQueue, caplog: pytest.LogCaptureFixture) -> None:
        keyed = tasks.add.using(key="k", delay=3600)
        with caplog.at_level(logging.WARNING, "queueport"):
            holder = queue.enqueue(keyed, 1, b=2)
            queue.enqueue(keyed, 1, b=2)
            assert not caplog.messages
            asyncio.run(self._enqueue_async(queue, keyed.job(1, b=SECRET_NUMBER)))
            queue.enqueue_many([keyed.job(SECRET_NUMBER), tasks.add.job(SECRET_NUMBER)])
        assert len(caplog.messages) == 2
        for text in caplog.messages:
            assert holder.id in text
            assert "'k'" in text
            assert str(SECRET_NUMBER) not in text

    @staticmethod
    async def _enqueue_async(queue: JobQueue, job: Job[int]) -> None:
        handle = await AsyncJobQueue(queue).enqueue(job)
        assert not handle.created

    def test_E7_a_retrying_job_holds_its_key_and_a_dead_or_cancelled_job_does_not(
        self, queue: JobQueue, harness: Harness
    ) -> None:
        keyed = tasks.fail.using(key="k", retry=Retry(max_attempts=2, initial=3600.0))
        with harness.working(queue):
            first = queue.enqueue(keyed)
            eventually(lambda: first.status().state is JobState.RETRYING)
            assert queue.enqueue(keyed) == first
            first.retry()
            with pytest.raises(JobFailed):
                first.result(10)
        second = queue.enqueue(keyed)
        assert second != first
        second.cancel()
        assert queue.enqueue(keyed).id not in (first.id, second.id)

    def test_E7_many_threads_enqueue_one_job_with_a_key(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        for key in ("a", "b", "c"):
            handles = at_once(partial(queue.enqueue, tasks.echo.using(key=key)))
            assert len({handle.id for handle in handles}) == 1
            assert sum(handle.created for handle in handles) == 1
        with harness.working(queue):
            eventually(lambda: queue.stats().totals.succeeded == 3)
            assert queue.stats().totals.queued == 0
        assert len(trace.runs()) == 3

    def test_E7_a_dead_job_whose_key_is_taken_cannot_be_retried(self, queue: JobQueue, harness: Harness) -> None:
        keyed = tasks.fail.using(key="k", retry=Retry(max_attempts=1))
        dead = queue.enqueue(keyed)
        with harness.working(queue), pytest.raises(JobFailed):
            dead.result(10)
        holder = queue.enqueue(keyed)
        with pytest.raises(DuplicateJob, match=holder.id):
            dead.retry()
        assert dead.status().state is JobState.DEAD
        assert queue.dead_letters.count() == 1
        holder.cancel()
        dead.retry()
        assert dead.status().state is JobState.QUEUED
        with pytest.raises(InvalidState):
            dead.retry()

    def test_E8_a_given_id_is_kept_and_unique(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        ids = ["a", "0-_Az", "x" * 64]
        for job_id in ids:
            assert queue.enqueue(tasks.echo.using(job_id=job_id), job_id).id == job_id
            with pytest.raises(DuplicateJob, match=job_id):
                queue.enqueue(tasks.add.using(job_id=job_id, queue="other"), 1)
        with harness.working(queue, tasks.QUEUE, "other"):
            assert [queue.result(job_id, 10) for job_id in ids] == ids
            with pytest.raises(DuplicateJob):  # the id stays in use after the job has ended
                queue.enqueue(tasks.echo.using(job_id="a"), "again")
            assert queue.status("a").result == "a"
        assert [trace.times(job_id) for job_id in ids] == [1, 1, 1]

    def test_E8_a_duplicate_id_does_not_affect_the_rest_of_its_batch(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        queue.enqueue(tasks.echo.using(job_id="taken"), "first")
        with pytest.raises(DuplicateJob, match="taken") as caught:
            queue.enqueue_many(tasks.echo.using(job_id=job_id).job(job_id) for job_id in ("before", "taken", "after"))
        assert (caught.value.accepted, caught.value.rejected) == (("before", "after"), ("taken",))
        with harness.working(queue):
            names = ("before", "taken", "after")
            assert [queue.result(job_id, 10) for job_id in names] == ["before", "first", "after"]
        assert len(trace.runs()) == 3

    def test_E8_with_one_id_twice_in_a_batch_nothing_is_sent(self, queue: JobQueue) -> None:
        with pytest.raises(DuplicateJob, match="twice") as caught:
            queue.enqueue_many(tasks.echo.using(job_id=job_id).job(1) for job_id in ("twice", "other", "twice"))
        assert (caught.value.accepted, caught.value.rejected) == ((), ("twice", "other", "twice"))
        assert queue.jobs() == []

    def test_E8_many_threads_enqueue_one_job_with_an_id(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        def enqueue(number: int) -> bool:
            try:
                queue.enqueue(tasks.echo.using(job_id="one"), number)
            except DuplicateJob:
                return False
            return True

        assert sum(at_once(enqueue)) == 1
        with harness.working(queue):
            queue.result("one", 10)
        assert trace.times("one") == 1

    @pytest.mark.parametrize("bad", ["", "a b", "a.b", "a/b", "a:b", "é", "a\n", "\0", "x" * 65, 7])
    def test_E8_invalid_ids_are_refused(self, queue: JobQueue, bad: Any) -> None:
        with no_io(queue), pytest.raises(InvalidJob, match="job_id"):
            queue.enqueue(tasks.echo.using(job_id=bad), 1)


def at_once(call: Callable[[int], T]) -> list[T]:
    """Call the function once in each of THREADS threads, at the same time. Returns the results.

    The argument is the number of the thread, from 0.
    """
    start = threading.Barrier(THREADS)

    def run(number: int) -> T:
        start.wait(10)
        return call(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


class KeyModeTests(Case):
    """Lines E13, E14 and E15: what happens if a key is taken, and how long it is taken."""

    def test_E13_a_taken_key_is_rejected(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        keyed = tasks.wait_for.using(key="k", key_mode="reject")
        first = queue.enqueue(keyed.using(delay=3600), "first")

        def is_rejected(state: JobState) -> None:
            assert first.status().state is state
            with pytest.raises(DuplicateJob, match=first.id) as caught:
                queue.enqueue(keyed.using(job_id="second"), "second")
            assert (caught.value.accepted, caught.value.rejected) == ((), ("second",))

        is_rejected(JobState.SCHEDULED)
        first.retry()
        is_rejected(JobState.QUEUED)
        with pytest.raises(DuplicateJob, match="'k'") as caught:
            queue.enqueue_many([tasks.echo.job(1), keyed.using(job_id="second").job("second"), tasks.echo.job(2)])
        assert (len(caught.value.accepted), caught.value.rejected) == (2, ("second",))
        assert queue.enqueue(keyed.using(key_mode="return"), "second") == first
        with harness.working(queue):
            eventually(lambda: first.status().state is JobState.RUNNING)
            is_rejected(JobState.RUNNING)
            trace.open("first")
            first.result(10)
            trace.open("second")
            second = queue.enqueue(keyed, "second")
            assert second.created
            assert second.result(10) == "second"
            assert [queue.result(job_id, 10) for job_id in caught.value.accepted] == [1, 2]
        assert len(trace.runs()) == 4

    def test_E13_many_threads_enqueue_one_job_and_the_others_are_rejected(self, queue: JobQueue) -> None:
        def enqueue(number: int) -> bool:
            try:
                return queue.enqueue(tasks.echo.using(key="k", key_mode="reject"), number).created
            except DuplicateJob:
                return False

        assert sum(at_once(enqueue)) == 1
        assert len(queue.jobs()) == 1

    def test_E13_a_mode_without_a_key_is_refused(self, queue: JobQueue) -> None:
        with no_io(queue), pytest.raises(InvalidJob, match="key="):
            queue.enqueue(tasks.echo.using(key_mode="reject"), 1)
        unknown: Any = "throw"
        with no_io(queue), pytest.raises(InvalidJob, match="'reject'"):
            queue.enqueue(tasks.echo.using(key="k", key_mode=unknown), 1)

    def test_E14_a_waiting_job_takes_the_new_arguments_and_run_time(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        keyed = tasks.add.using(key="k", key_mode="replace")
        first = queue.enqueue(keyed.using(delay=3600, headers={"n": "1"}), 1)
        assert (first.created, first.replaced) == (True, False)
        second = queue.enqueue(keyed.using(delay=7200, queue="other", headers={"n": "2"}), 2, b=3)
        assert (second.id, second.created, second.replaced) == (first.id, False, True)
        status = first.status()
        assert (status.state, status.queue, status.headers) == (JobState.SCHEDULED, "other", {"n": "2"})
        assert (status.args, status.kwargs) == ([2], {"b": 3})
        assert status.next_attempt_at is not None
        assert timedelta(seconds=7190) < status.next_attempt_at - datetime.now(UTC) < timedelta(seconds=7210)
        assert len(queue.jobs()) == 1
        handles = [queue.enqueue(keyed, 4), *queue.enqueue_many([keyed.job(5), tasks.add.job(0), keyed.job(6)])]
        assert [handle.replaced for handle in handles] == [True, True, False, True]
        assert [handle.id for handle in (handles[0], handles[1], handles[3])] == [first.id] * 3
        asyncio.run(self._replace_async(queue, keyed.job(7)))
        assert (first.status().state, first.status().queue) == (JobState.QUEUED, tasks.QUEUE)
        with harness.working(queue):
            assert first.result(10) == 8
            assert handles[2].result(10) == 1
            another = queue.enqueue(keyed, 9)
            assert (another.created, another.result(10)) == (True, 10)
        assert [trace.times(handle.id) for handle in (first, another)] == [1, 1]

    @staticmethod
    async def _replace_async(queue: JobQueue, job: Job[int]) -> None:
        handle = await AsyncJobQueue(queue).enqueue(job)
        assert (handle.created, handle.replaced) == (False, True)

    def test_E14_a_queued_job_that_is_delayed_does_not_start_early(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        keyed = tasks.echo.using(key="k", key_mode="replace")
        handle = queue.enqueue(keyed, "first")
        assert queue.enqueue(keyed.using(delay=2), "second").replaced
        assert handle.status().state is JobState.SCHEDULED
        due = handle.status().next_attempt_at
        assert due is not None
        with harness.working(queue):
            assert queue.enqueue(tasks.echo, "later").result(10) == "later"
            assert handle.result(15) == "second"
        started = handle.status().started_at
        assert started is not None
        assert started >= due, "the message that was sent before has started the job"
        assert trace.times(handle.id) == 1

    def test_E14_a_retrying_job_is_as_new(self, queue: JobQueue, harness: Harness) -> None:
        keyed = tasks.later.using(key="k", key_mode="replace", retry=Retry(max_attempts=2))
        handle = queue.enqueue(keyed, 3600.0, True, 1)
        with harness.working(queue):
            eventually(lambda: handle.status().state is JobState.RETRYING)
            assert handle.status().failures == 1
            assert queue.enqueue(keyed, 0.1, True, 2).replaced
            assert handle.result(10) == 3, "the failure of other arguments counts"

    def test_E14_a_running_job_goes_on_and_a_new_job_gets_the_key(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        keyed = tasks.wait_for.using(key="k", key_mode="replace")
        first = queue.enqueue(keyed, "first")
        with harness.working(queue, threads=2):
            eventually(lambda: first.status().state is JobState.RUNNING)
            second = queue.enqueue(keyed.using(delay=3600), "second")
            assert (second.created, second.replaced, second == first) == (True, False, False)
            assert (first.status().args, first.status().state) == (["first"], JobState.RUNNING)
            assert queue.enqueue(keyed.using(key_mode="return"), "third") == second
            trace.open("first")
            assert first.result(10) == "first"
            assert queue.enqueue(keyed, "fourth") == second
            trace.open("fourth")
            assert second.result(10) == "fourth"
        assert [trace.times(handle.id) for handle in (first, second)] == [1, 1]

    def test_E14_many_threads_replace_one_job(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        def replace(number: int) -> tuple[str, bool, bool]:
            handle = queue.enqueue(tasks.echo.using(key="k", key_mode="replace", delay=3600), number)
            return handle.id, handle.created, handle.replaced

        found = at_once(replace)
        assert len({job_id for job_id, _, _ in found}) == 1
        assert sum(created for _, created, _ in found) == 1
        assert sum(replaced for _, _, replaced in found) == THREADS - 1
        job_id = found[0][0]
        given = queue.status(job_id).args[0]
        queue.retry(job_id)
        with harness.working(queue):
            assert queue.result(job_id, 10) == given
        assert trace.times(job_id) == 1

    def test_E14_the_last_call_of_many_that_race_with_a_worker_is_not_lost(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        keyed = tasks.echo.using(key="k", key_mode="replace")
        created: list[str] = []

        def replace(thread: int) -> None:
            for number in range(2):
                handle = queue.enqueue(keyed, [thread, number])
                assert handle.created is not handle.replaced
                if handle.created:
                    created.append(handle.id)

        with harness.working(queue, threads=2):
            at_once(replace)
            last = queue.enqueue(keyed, "last")
            created += [last.id] if last.created else []
            assert last.result(20) == "last"
            for job_id in created:
                queue.result(job_id, 20)
        assert Counter(run.job for run in trace.runs()) == dict.fromkeys(created, 1)

    def test_E15_a_key_stays_taken_after_the_end(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        keyed = tasks.echo.using(key="k", unique_for=timedelta(seconds=3))
        first = queue.enqueue(keyed.using(delay=0.1), "first")
        with harness.working(queue):
            assert first.result(10) == "first"
            again = queue.enqueue(tasks.echo.using(key="k"), "again")
            assert (again, again.created, again.replaced) == (first, False, False)
            for number in range(2):
                with pytest.raises(DuplicateJob, match=first.id):
                    queue.enqueue(tasks.echo.using(key="k", key_mode="reject"), number)
            assert not queue.enqueue(tasks.echo.using(key="k", key_mode="replace"), "again").replaced
            assert queue.enqueue(keyed.using(key="another"), "other").result(10) == "other"

            def enqueued() -> JobHandle[Any] | None:
                handle = queue.enqueue(keyed, "second")
                return handle if handle.created else None

            second = cast("JobHandle[Any]", eventually(enqueued, 10))
            assert second.result(10) == "second"
        ends, begins = first.status().finished_at, second.status().enqueued_at
        assert ends is not None
        assert timedelta(seconds=3) <= begins - ends <= timedelta(seconds=5)
        assert [trace.times(handle.id) for handle in (first, second)] == [1, 1]

    def test_E15_a_dead_job_keeps_its_key_and_a_cancelled_job_does_not(self, queue: JobQueue, harness: Harness) -> None:
        keyed = tasks.fail.using(key="k", unique_for=3600, retry=Retry(max_attempts=1))
        cancelled = queue.enqueue(keyed.using(delay=3600))
        cancelled.cancel()
        dead = queue.enqueue(keyed)
        assert dead.created
        with harness.working(queue), pytest.raises(JobFailed):
            dead.result(10)
        assert queue.enqueue(keyed) == dead
        dead.retry()
        assert dead.status().state is JobState.QUEUED
        assert queue.enqueue(keyed) == dead
        dead.cancel()
        assert queue.enqueue(keyed).created

    def test_E15_a_key_stays_taken_although_the_record_was_deleted(self, queue: JobQueue, harness: Harness) -> None:
        keyed = tasks.echo.using(key="k", unique_for=3600, keep_result=0)
        first = queue.enqueue(keyed, 1)
        with harness.working(queue):
            eventually(lambda: not queue.jobs(), 15)
        again = queue.enqueue(keyed, 2)
        assert (again, again.created) == (first, False)
        with pytest.raises(JobNotFound):
            again.status()
        with pytest.raises(DuplicateJob, match=first.id):
            queue.enqueue(keyed.using(key_mode="reject"), 3)
        same_id = queue.enqueue(keyed.using(job_id=first.id), 4)
        assert (same_id, same_id.created) == (first, False)
        assert queue.jobs() == []

    def test_E15_many_threads_enqueue_one_job_until_it_is_over(self, queue: JobQueue, harness: Harness) -> None:
        def enqueue(number: int) -> int:
            keyed = tasks.echo.using(key="k", unique_for=3600)
            return sum(queue.enqueue(keyed, [number, again]).created for again in range(2))

        with harness.working(queue, threads=2):
            assert sum(at_once(enqueue)) == 1

    def test_E15_options_that_have_no_effect_are_refused(self, queue: JobQueue) -> None:
        with no_io(queue), pytest.raises(InvalidJob, match="key="):
            queue.enqueue(tasks.echo.using(unique_for=1), 1)
        with no_io(queue), pytest.raises(InvalidJob, match="replace"):
            queue.enqueue(tasks.echo.using(key="k", unique_for=1).using(key_mode="replace"), 1)
        for bad in (0, -1, "1"):
            seconds: Any = bad
            with no_io(queue), pytest.raises(InvalidJob, match="unique_for"):
                queue.enqueue(tasks.echo.using(key="k", unique_for=seconds), 1)

    def test_E14_a_task_may_replace_the_job_with_its_own_key(self, queue: JobQueue, harness: Harness) -> None:
        first = queue.enqueue(tasks.follow.using(key="k"), 2)
        with harness.working(queue):
            assert queue.result(queue.result(first.result(10), 10), 10) == "end"


class OriginTests(Case):
    """Lines E10, E11 and E12: threads, forks and tasks that enqueue; tasks by name; order."""

    def test_E10_jobs_enqueued_from_many_threads_run_once_each(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        def enqueue(number: int) -> list[str]:
            single = [queue.enqueue(tasks.echo, number).id for _ in range(10)]
            return single + [handle.id for handle in queue.enqueue_many(tasks.echo.job(number) for _ in range(10))]

        ids = [job_id for each in at_once(enqueue) for job_id in each]
        assert len(set(ids)) == THREADS * 20
        with harness.working(queue, threads=4):
            eventually(lambda: queue.stats().totals.succeeded == len(ids), 30, lambda: queue.stats().totals)
        assert Counter(run.job for run in trace.runs()) == dict.fromkeys(ids, 1)

    @needs(Capability.PERSISTENT)
    # Python 3.12 and newer warn of a fork in a process with threads, but this test needs such a fork.
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_E10_parent_and_child_enqueue_after_a_fork(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        whose = ("before", "parent", "child", "orphan", "after")
        names = {who: [f"{who}-{number}" for number in range(20)] for who in whose}
        parent = harness.open()
        _enqueue_all(parent, names["before"])  # opens the connections that the child inherits
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _enqueue_all(parent, names["child"])
                trace.wait_at("the parent has closed its queue")
                _enqueue_all(parent, names["orphan"])
                parent.close()
                code = 0
            finally:
                os._exit(code)
        _enqueue_all(parent, names["parent"])
        parent.close()
        trace.open("the parent has closed its queue")
        assert _exit_code(child) == 0, "the child could not enqueue"
        _enqueue_all(queue, names["after"])
        ids = [job_id for each in names.values() for job_id in each]
        with harness.working(queue, threads=4):
            eventually(lambda: queue.stats().totals.succeeded == len(ids), 30, lambda: queue.stats().totals)
        assert Counter(run.job for run in trace.runs()) == dict.fromkeys(ids, 1)

    @needs(Capability.PERSISTENT)
    @pytest.mark.parametrize("library", list(PATCHES))
    def test_E10_greenlets_enqueue(self, queue: JobQueue, harness: Harness, trace: Trace, library: str) -> None:
        if find_spec(library) is None:  # an import would leave hooks of the library in this process
            pytest.skip(f"{library} is not installed")
        program = [sys.executable, "-c", f"{PATCHES[library]}\n{GREENLETS}"]
        environment = {**os.environ, **harness.environment()}
        ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 0, ended.stderr
        ids = ended.stdout.split()
        assert len(set(ids)) == 35
        with harness.working(queue, threads=4):
            eventually(lambda: queue.stats().totals.succeeded == len(ids), 30, lambda: queue.stats().totals)
        assert Counter(run.job for run in trace.runs()) == dict.fromkeys(ids, 1)

    def test_E11_a_task_enqueues_another_on_its_own_backend(self, queue: JobQueue, harness: Harness) -> None:
        handles = [queue.enqueue(tasks.pass_on, 7), queue.enqueue(tasks.pass_on_async, 7)]
        with harness.working(queue), get_queue("memory://") as another, another.as_default():
            assert [queue.result(handle.result(10), 10) for handle in handles] == [7, 7]
            assert another.jobs() == []

    @needs(Capability.PERSISTENT)
    def test_E11_a_task_enqueues_another_in_a_native_worker(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        self._enqueue_parents(queue, trace)
        harness.process(native=True)
        self._children_ran(queue, trace)

    @needs(Capability.PERSISTENT)
    def test_E11_a_task_enqueues_another_in_a_worker_of_two_processes(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        self._enqueue_parents(queue, trace)
        harness.process(options=["--processes=2"])
        self._children_ran(queue, trace)

    def _enqueue_parents(self, queue: JobQueue, trace: Trace) -> None:
        queue.enqueue_many([tasks.pass_on.using(job_id="one").job(7), tasks.pass_on_async.using(job_id="two").job(8)])

    def _children_ran(self, queue: JobQueue, trace: Trace) -> None:
        assert [queue.result(queue.result(job_id, 20), 20) for job_id in ("one", "two")] == [7, 8]
        assert os.getpid() not in {run.pid for run in trace.runs()}

    def test_E12_a_task_by_name_runs_like_any_other(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        add = task.named(tasks.add.name, queue="other", headers={"tenant": "a"}, job_id="by-name")
        named = queue.enqueue(add, 1, b=2)
        failing = queue.enqueue(task.named(tasks.fail.name, retry=Retry(max_attempts=2, initial=0.1)), "again")
        assert named.id == "by-name"
        assert (named.status().queue, named.status().headers) == ("other", {"tenant": "a"})
        with harness.working(queue, tasks.QUEUE, "other"):
            assert named.result(10) == 3
            assert queue.enqueue(tasks.echo.name, [1]).result(10) == [1]
            with pytest.raises(JobFailed, match="again"):
                failing.result(10)
        assert (trace.times(named.id), trace.times(failing.id)) == (1, 2)

    @needs(Capability.PRIORITY)
    def test_E12_higher_priority_runs_first(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        priorities = [0, 5, -10, 10, -3, 9, None]
        for priority in priorities:
            queue.enqueue(tasks.echo.using(priority=priority), 0 if priority is None else priority)
        with harness.working(queue, threads=1):
            eventually(lambda: queue.stats().totals.succeeded == len(priorities))
        order = [queue.status(run.job).args[0] for run in trace.runs()]
        assert order == [10, 9, 5, 0, 0, -3, -10]

    @needs(Capability.GROUPS)
    def test_E12_jobs_of_a_group_run_in_order(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        for number in range(20):
            queue.enqueue(tasks.echo.using(group="even" if number % 2 == 0 else "odd"), number)
        with harness.working(queue, threads=4):
            eventually(lambda: queue.stats().totals.succeeded == 20, 30)
        order = [queue.status(run.job).args[0] for run in trace.runs()]
        assert [number for number in order if number % 2 == 0] == list(range(0, 20, 2))
        assert [number for number in order if number % 2 == 1] == list(range(1, 20, 2))


def _enqueue_all(queue: JobQueue, ids: list[str]) -> None:
    """Enqueue jobs with these ids: one half one by one, the other half in a batch."""
    for job_id in ids[::2]:
        queue.enqueue(tasks.echo.using(job_id=job_id), job_id)
    queue.enqueue_many(tasks.echo.using(job_id=job_id).job(job_id) for job_id in ids[1::2])


def _exit_code(child: int) -> int:
    """Wait for a forked child process and return its exit code."""

    def ended() -> tuple[int, int] | None:
        found = os.waitpid(child, os.WNOHANG)
        return found if found[0] else None

    _, status = cast("tuple[int, int]", eventually(ended, 20))
    return os.waitstatus_to_exitcode(status)


class EnqueueTests(ArgumentTests, RefusalTests, IdentityTests, KeyModeTests, OriginTests):
    """All lines of group E."""

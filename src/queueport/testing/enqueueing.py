"""E: what an application enqueues arrives, from wherever it was enqueued. For the contract suite.

Keys and ids are in `keys`; what is refused, and what happens when a backend is away, is in `refusing`.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import pytest

from queueport import Capability, Job, JobQueue, Retry, get_queue, task
from queueport.errors import JobFailed
from queueport.status import JobState
from queueport.testing import tasks
from queueport.testing.case import Case, needs
from queueport.testing.harness import Harness
from queueport.testing.tasks import Parcel, Point
from queueport.testing.trace import Trace
from queueport.testing.waiting import THREADS, at_once, eventually

__all__ = ["Enqueueing"]

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


class Enqueueing(Case):
    """The lines of group E, but for those of `Keys` and `Refusing`."""

    # -- E1: as given ------------------------------------------------------------------------------

    def test_E1_before_any_worker_runs_a_job_is_as_it_was_given(self, queue: JobQueue) -> None:
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

    # -- E2: equal ---------------------------------------------------------------------------------

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

    # -- E3: many ----------------------------------------------------------------------------------

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

    # -- E10: threads and forks --------------------------------------------------------------------

    def test_E10_nothing_is_lost_or_doubled_from_many_threads(
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
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # the line is about it
    def test_E10_parent_and_child_enqueue_after_a_fork(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        whose = ("before", "parent", "child", "orphan", "after")
        names = {who: [f"{who}-{number}" for number in range(20)] for who in whose}
        parent = harness.open()
        _enqueue_all(parent, names["before"])  # so that there are connections, which both sides then have
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

    # -- E11: from inside a task -------------------------------------------------------------------

    def test_E11_a_task_enqueues_another_on_its_own_backend(self, queue: JobQueue, harness: Harness) -> None:
        handles = [queue.enqueue(tasks.pass_on, 7), queue.enqueue(tasks.pass_on_async, 7)]
        with harness.working(queue), get_queue("memory://") as another, another.as_default():
            assert [queue.result(handle.result(10), 10) for handle in handles] == [7, 7]
            assert another.jobs() == []

    @needs(Capability.PERSISTENT)
    def test_E11_so_it_does_in_a_native_worker(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        self._passes_on(queue, trace)
        harness.process(native=True)
        self._passed_on(queue, trace)

    @needs(Capability.PERSISTENT)
    def test_E11_so_it_does_in_a_worker_of_several_processes(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        self._passes_on(queue, trace)
        harness.process(options=["--processes=2"])
        self._passed_on(queue, trace)

    def _passes_on(self, queue: JobQueue, trace: Trace) -> None:
        queue.enqueue_many([tasks.pass_on.using(job_id="one").job(7), tasks.pass_on_async.using(job_id="two").job(8)])

    def _passed_on(self, queue: JobQueue, trace: Trace) -> None:
        assert [queue.result(queue.result(job_id, 20), 20) for job_id in ("one", "two")] == [7, 8]
        assert os.getpid() not in {run.pid for run in trace.runs()}

    # -- E12: by name, and by priority -------------------------------------------------------------

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


def _mixed(number: int) -> Job[Any]:
    """One of three tasks, on one of two queues."""
    queue = "default" if number % 2 == 0 else "other"
    if number % 3 == 0:
        return tasks.add.using(queue=queue, headers={"number": str(number)}).job(number)
    return tasks.echo.using(queue=queue, timeout=20, job_id=f"job-{number}").job(number % 3)


def _enqueue_all(queue: JobQueue, ids: list[str]) -> None:
    """Half of them one by one, half in a batch."""
    for job_id in ids[::2]:
        queue.enqueue(tasks.echo.using(job_id=job_id), job_id)
    queue.enqueue_many(tasks.echo.using(job_id=job_id).job(job_id) for job_id in ids[1::2])


def _exit_code(child: int) -> int:
    """Wait for a forked child."""

    def ended() -> tuple[int, int] | None:
        found = os.waitpid(child, os.WNOHANG)
        return found if found[0] else None

    _, status = cast("tuple[int, int]", eventually(ended, 20))
    return os.waitstatus_to_exitcode(status)

"""Group P, "Recurring jobs": the ticks of schedules. For adapter authors.

The module `lines` describes each contract line.
"""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

from queueport import Capability, JobQueue, JobState, JobStatus
from queueport.errors import ScheduleNotFound
from queueport.testing import tasks
from queueport.testing.contract.case import Case, needs
from queueport.testing.contract.crash import faulty_worker
from queueport.testing.contract.faults import Fault
from queueport.testing.harness import Harness
from queueport.testing.trace import Trace
from queueport.testing.waiting import eventually

__all__ = ["RecurringTests"]

EVERY = 1.0
"""Seconds between two ticks."""


class RecurringTests(Case):
    """All lines of group P."""

    def test_P1_each_tick_makes_one_job(self, queue: JobQueue, harness: Harness, trace: Trace) -> None:
        start = datetime.now(UTC) + timedelta(seconds=1)
        with harness.working(queue):
            added = queue.schedules.add("adding", tasks.add.job(3, b=4), every=EVERY, start=start)
            assert added.next_at == start
            made = ended(queue, 4)
            shown = queue.schedules.get("adding")
        assert made == [start + timedelta(seconds=n) for n in range(len(made))]
        assert {status.result for status in queue.jobs(JobState.SUCCEEDED)} == {7}
        assert shown.last_at in made
        assert shown.next_at is not None
        starts = sorted(run.started for run in trace.runs())
        late = [began - tick.timestamp() for began, tick in zip(starts, made, strict=False)]
        assert all(0 <= seconds <= 1 + harness.late for seconds in late), late

    @needs(Capability.PERSISTENT)
    def test_P1_several_workers_make_one_job_for_each_tick(self, queue: JobQueue, harness: Harness) -> None:
        start = datetime.now(UTC) - timedelta(seconds=1)
        queue.schedules.add("echoing", tasks.echo.job("x"), every=EVERY, start=start, catch_up="all")
        first = queue.schedules.get("echoing").next_at
        assert first is not None
        harness.process()
        harness.process(native=True)
        made = ended(queue, queue.stats().totals.succeeded + 4)  # four of them while both workers run
        assert made == [first + timedelta(seconds=n) for n in range(len(made))]

    def test_P2_a_schedule_is_paused_resumed_and_removed(self, queue: JobQueue, harness: Harness) -> None:
        queue.schedules.add("echoing", tasks.echo.job(1), every=EVERY)
        with harness.working(queue):
            ended(queue, 1)
            queue.schedules.pause("echoing")
            made = quiet(queue)
            queue.schedules.resume("echoing")
            after = ended(queue, len(made) + 1)
            assert after[len(made)] - made[-1] >= timedelta(seconds=2 * EVERY)
            queue.schedules.remove("echoing")
            made = quiet(queue)
            assert len(made) == len(set(made))
        assert queue.schedules.list() == []
        with pytest.raises(ScheduleNotFound):
            queue.schedules.remove("echoing")

    def test_P2_run_now_enqueues_a_job_at_once(self, queue: JobQueue, harness: Harness) -> None:
        before = queue.schedules.add("adding", tasks.add.job(1), every=3600)
        with harness.working(queue):
            handle = queue.schedules.run_now("adding")
            assert handle.created
            assert handle.result(10) == 2
        assert queue.schedules.get("adding") == before

    def test_P3_without_overlap_a_tick_makes_no_job_while_the_previous_one_is_alive(
        self, queue: JobQueue, harness: Harness, trace: Trace
    ) -> None:
        queue.schedules.add("waiting", tasks.wait_for.job("go"), every=EVERY, overlap=False)
        with harness.working(queue):
            eventually(trace.runs)
            first = queue.jobs()
            eventually(lambda: passed(queue, "waiting", tick_of(first[0]), 2))
            assert queue.jobs()[0].id == first[0].id
            trace.open("go")
            made = ended(queue, 2)
        assert made[1] - made[0] >= timedelta(seconds=2 * EVERY)

    @needs(Capability.PERSISTENT)
    def test_P4_no_tick_is_lost_or_doubled_when_workers_are_killed(self, queue: JobQueue, harness: Harness) -> None:
        queue.schedules.add("echoing", tasks.echo.job(1), every=EVERY, catch_up="all")
        first = queue.schedules.get("echoing").next_at
        assert first is not None
        for when, number in [("before", 1), ("after", 1), ("before", 2), ("after", 2)]:
            worker = faulty_worker(harness, tasks.QUEUE, Fault(when, "store.put_document", number))
            assert worker.wait() == -signal.SIGKILL, "the worker was not killed at a tick"
        harness.process()
        made = ended(queue, 8, 30)
        assert made == [first + timedelta(seconds=n) for n in range(len(made))]


def tick_of(status: JobStatus) -> datetime:
    """The tick whose job this is."""
    return datetime.fromisoformat(status.headers["queueport-tick"])


def ended(queue: JobQueue, count: int, timeout: float = 20.0) -> list[datetime]:
    """Wait until this number of jobs has succeeded. Returns the ticks of all jobs up to the latest succeeded one."""
    eventually(lambda: queue.stats().totals.succeeded >= count, timeout, lambda: queue.stats().totals)
    jobs = queue.jobs(limit=1000)
    latest = max(tick_of(status) for status in jobs if status.state is JobState.SUCCEEDED)
    return sorted(tick for status in jobs if (tick := tick_of(status)) <= latest)


def quiet(queue: JobQueue) -> list[datetime]:
    """Wait for two ticks and a half, in which no further job may be made after the first half. Returns all ticks."""
    time.sleep(0.5 * EVERY)
    before = queue.jobs(limit=1000)
    time.sleep(2 * EVERY)
    after = queue.jobs(limit=1000)
    assert [status.id for status in after] == [status.id for status in before]
    return sorted(map(tick_of, after))


def passed(queue: JobQueue, name: str, tick: datetime, ticks: int) -> bool:
    """True if a dispatcher has handled this number of ticks after the tick `tick`."""
    last = queue.schedules.get(name).last_at
    return last is not None and last - tick >= timedelta(seconds=ticks * EVERY)

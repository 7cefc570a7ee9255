"""The promises about limits, jobs that follow others, and schedules, which `Checker` checks with its own.

Each class keeps what follows from the writes that it has seen, and compares the records with that. It uses none of the
numbers that the store counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from queueport.engine.lifecycle import COMPLETE_WITHIN, NOT_NEEDED, PARENT_CANCELLED
from queueport.job.limits import QueueLimit
from queueport.spi.record import Record
from queueport.spi.storage import is_held, is_passed
from queueport.spi.store import Document
from queueport.status import JobState

Records = Mapping[str, Record | None]
ENDED = JobState.SUCCEEDED, JobState.CANCELLED
ROUNDING = 1e-6
"""Seconds by which two times may differ that should be equal."""


@dataclass(frozen=True)
class Limited:
    """The limits of an example: that of the task "task", and that of the queue. A rate has a burst of 1."""

    task: QueueLimit | None = None
    queue: QueueLimit | None = None


UNLIMITED = Limited()


class Limits:
    """No limit is exceeded, jobs begin in their order, and no job waits although it may begin."""

    def __init__(self, limited: Limited) -> None:
        named = {"task:task": limited.task, "queue:default": limited.queue}
        self._limits = {name: limit for name, limit in named.items() if limit is not None}
        self._let_on: dict[str, str] = {}
        """The jobs that were let on and have not begun: the name of the limit by the id of the job."""
        self._started: dict[str, float] = {}
        """The time of the latest start of each limit with a rate."""

    def written(self, before: Record | None, after: Record | None, records: Records, now: float) -> None:
        """Check one write of a job."""
        if after is None or not self._limits:
            return
        if after.state is JobState.RUNNING and before is not None and before.state is JobState.QUEUED:
            for name in self._limits:
                if self._holds_for(name, after):
                    self._begun(name, after, records, now)
        if before is not None and is_held(before) and is_passed(after) and after.held_by is not None:
            self._let_on[after.id] = after.held_by
        elif not is_passed(after):
            self._let_on.pop(after.id, None)

    def _begun(self, name: str, after: Record, records: Records, now: float) -> None:
        limit, rate = self._limits[name], self._limits[name].starts[0]
        assert name in (after.slots or ()), "a job begins without a slot of its limit"
        most = limit.concurrency
        assert most is None or self._running(name, records) <= most, "more jobs run than their limit allows"
        if rate is not None:
            since = now - self._started.get(name, 0.0)
            assert since >= 1 / rate - ROUNDING, "jobs start faster than their limit allows"
            self._started[name] = now
        if after.id not in self._let_on:  # a job that one of its limits has let on passes the held jobs of the others
            assert not self._held(name, records), "a job overtakes those that wait for its limit"

    def polled(self, records: Records, now: float) -> None:
        """Check, after a round of a dispatcher without a fault, that no held job may begin."""
        for name, limit in self._limits.items():
            if self._held(name, records):
                ahead = sum(each == name for each in self._let_on.values())
                most, rate = limit.concurrency, limit.starts[0]
                full = most is not None and self._running(name, records) + ahead >= most
                early = rate is not None and (ahead > 0 or now - self._started.get(name, 0.0) < 1 / rate - ROUNDING)
                assert full or early, "a job waits for its limit although it may begin"

    def _holds_for(self, name: str, record: Record) -> bool:
        return name.startswith("queue:") or record.task == "task"

    def _running(self, name: str, records: Records) -> int:
        running = [record for record in records.values() if record is not None and record.state is JobState.RUNNING]
        return sum(self._holds_for(name, record) for record in running)

    def _held(self, name: str, records: Records) -> bool:
        return any(record is not None and is_held(record) and record.held_by == name for record in records.values())


@dataclass(frozen=True)
class Parents:
    """The jobs that a job follows: all jobs of a batch, or one job of a chain. `if_dead`: it is the `on_dead` job."""

    ids: tuple[str, ...]
    batch: bool = True
    if_dead: bool = False


class FollowUps:
    """A job that follows others is due exactly when the last of these has ended, once, and their results are kept."""

    def __init__(self) -> None:
        self.parents: dict[str, Parents] = {}
        """What each job that follows others waits for."""
        self._ended: dict[str, JobState] = {}
        """How each job ended first. A job that is dead has not ended, until it is discarded or deleted."""
        self._needed: set[str] = set()
        """The `on_dead` jobs of batches of which a job has died before all had ended."""

    def left(self, job_id: str) -> int:
        """The number of jobs that this job must still wait for."""
        return 0 if job_id in self._needed else sum(each not in self._ended for each in self.parents[job_id].ids)

    def reason(self, job_id: str) -> str | None:
        """Why this job is cancelled when it is due; None if it runs."""
        parents = self.parents[job_id]
        if parents.if_dead:
            return None if job_id in self._needed else NOT_NEEDED
        ends = [self._ended.get(each, JobState.SUCCEEDED) for each in parents.ids]
        return None if parents.batch or ends == [JobState.SUCCEEDED] else PARENT_CANCELLED

    def written(self, before: Record | None, after: Record | None, now: float, accepted: bool) -> None:
        """Check one write of a job. `accepted`: its producer was told that it is enqueued."""
        job = after or before
        if not self.parents or job is None:
            return
        if after is not None and after.state is JobState.DEAD and (before is None or before.state is not after.state):
            for waiting, parents in self.parents.items():
                if parents.if_dead and job.id in parents.ids and self.left(waiting):
                    self._needed.add(waiting)
        deleted = before is not None and after is None and before.state is JobState.DEAD
        if (deleted or (after is not None and after.state in ENDED)) and job.reason != "not_sent":
            self._ended.setdefault(job.id, JobState.CANCELLED if after is None else after.state)
        if job.id in self.parents and before is not None and before.state is JobState.SCHEDULED and after is not None:
            self._moved(after, now, accepted)

    def _moved(self, after: Record, now: float, accepted: bool) -> None:
        reason = after.reason
        if after.state is JobState.CANCELLED and reason == "incomplete":
            assert not accepted, "an accepted job is cancelled because its producer was slow"
            assert now >= after.enqueued_at + COMPLETE_WITHIN, "a producer had too little time"
        elif after.state is JobState.CANCELLED and reason in (PARENT_CANCELLED, NOT_NEEDED):
            assert reason == self.reason(after.id), f"a job is cancelled as {reason}, which is wrong"
            assert not self.left(after.id), f"a job is cancelled as {reason} too early"

    def due(self, job_id: str) -> bool:
        """True if the job may be queued by others than an operator."""
        return not self.left(job_id) and self.reason(job_id) is None

    def settled(self, records: Records) -> None:
        """Check, after a call, that each waiting job knows for how many jobs it waits, and whether it must run."""
        for job_id in self.parents:
            record = records[job_id]
            if record is None or record.state is not JobState.SCHEDULED:
                continue
            left = self.left(job_id)
            assert record.waits_for == left, f"a job waits for {record.waits_for} jobs, but {left} have not ended"
            assert record.reason == self.reason(job_id), "a waiting job does not know whether it must run"
            assert left or record.wake_at is not None, "a job that waits for no other job is not due"

    def deleted(self, before: Record, records: Records) -> None:
        """Check that no job which may still read the result of a deleted one needs it."""
        waiting = None if before.links is None or before.links.then is None else records[before.links.then]
        if before.state in ENDED and waiting is not None and waiting.life == 1:
            assert waiting.state in ENDED, "the result of a job is deleted though a job that follows it needs it"

    def may_wait(self, record: Record, records: Records) -> bool:
        """True if the job waits for a dead job, which nobody has retried or discarded, or for one that so waits."""
        if record.id not in self.parents or record.state is not JobState.SCHEDULED or not record.waits_for:
            return False
        left = [records[each] for each in self.parents[record.id].ids if each not in self._ended]
        return any(each is not None and (each.state is JobState.DEAD or self.may_wait(each, records)) for each in left)

    def incomplete(self, records: Records) -> bool:
        """True if a job waits for jobs of which its producer has not said that all were inserted."""
        found = [records[job_id] for job_id in self.parents]
        return any(each is not None and each.waits_for > 0 and each.wake_at is not None for each in found)


class Ticks:
    """Each tick of the schedule has its job once, made in the step that moves the schedule on."""

    def __init__(self) -> None:
        self.made: Counter[float] = Counter()
        """The number of jobs that were made for each tick."""
        self.next: float | None = None
        """The next tick. Without a schedule, None."""
        self.catch_up = "one"
        """The `catch_up` with which the schedule was added."""

    def inserted(self, record: Record, now: float) -> None:
        """Check the job of a tick that was made now."""
        tick = datetime.fromisoformat(record.headers["queueport-tick"]).timestamp()
        assert tick <= now, "the job of a tick is made before its time"
        self.made[tick] += 1
        assert self.made[tick] == 1, "a tick has two jobs"

    def moved(self, found: Document | None, records: Records) -> None:
        """Check the schedule after a write of its document."""
        before, self.next = self.next, None if found is None else found.value["next"]
        if found is None or before is None or self.next is None or self.next == before:
            return
        assert self.next > before, "a schedule goes back"
        every = found.value["recurrence"]["every"]
        last = self.next - every
        first = before if self.catch_up == "all" else last
        overlaps = any(r is not None and r.key is not None and not r.state.final for r in records.values())
        for number in range(round((last - first) / every) + 1):
            assert overlaps or self.made[first + number * every], "a tick has no job"

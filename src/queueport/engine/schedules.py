"""Recurring jobs: their documents in the store, and the step that makes the job of a tick. For the core.

A schedule is a document of the store. A dispatcher that finds a tick due replaces the document and inserts the job in
one atomic step, so that each tick has exactly one job however many dispatchers run. `docs/protocol.md#schedules`
specifies the steps.
"""

from __future__ import annotations

import hashlib
import logging
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from queueport import hooks
from queueport.engine.batches import call_batch
from queueport.engine.enqueue import Enqueue
from queueport.engine.operations import Operations
from queueport.errors import BackendUnavailable, PayloadTooLarge, QueueportError
from queueport.job import Job, Options
from queueport.job.recurrence import Recurrence, Schedule
from queueport.retry import Retry, importable
from queueport.spi.failures import FailureLog
from queueport.spi.record import Record
from queueport.spi.storage import document_text
from queueport.spi.store import Document, Insert, JobStore, Query
from queueport.status import JobState, utc
from queueport.tasks import Task, registry

__all__ = ["KIND", "Entry", "ScheduleDispatcher", "read_entries", "template", "write_entry"]

logger: logging.Logger = logging.getLogger("queueport")

KIND = "schedule"
"""The kind of the documents that contain schedules."""
READ_EVERY = 5.0
"""Maximum seconds between two readings of all schedules. A new schedule is found within this time."""
LATE = 60.0
"""With `catch_up="none"`, a tick that is at most this number of seconds late still gets its job."""
LARGEST = 65_536
"""The maximum size of a schedule in bytes, as JSON, so that it fits into any store."""
BATCH = 100
"""The maximum number of ticks of one schedule that one round handles, and of jobs that are published together."""
ROUND = 1.0
"""After this number of seconds, a round leaves further missed ticks to the next one: the dispatcher has other work."""
OPTIONS = ("timeout", "crash_limit", "keep_result", "priority", "group", "key", "key_mode", "unique_for", "tags")
"""The options of a job that are stored in its schedule, besides the retry policy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule as its document contains it. Times are seconds since the epoch, by the store's clock."""

    name: str
    job: Mapping[str, Any]
    """What the jobs have in common: the output of `template`."""
    recurrence: Recurrence
    origin: float
    """A tick, from which the ticks of `Recurrence.every` are counted."""
    next: float | None
    module: str | None = None
    """The module that declares the schedule with its task; None if `Schedules.add` made the schedule."""
    paused: bool = False
    last: float | None = None
    last_job: str | None = None
    rev: str | None = None
    """The rev of the document; None if it is not in the store yet."""

    @classmethod
    def new(cls, name: str, job: Job[Any], recurrence: Recurrence, now: float, *, module: str | None = None) -> Entry:
        """A schedule that is added now."""
        origin = now + (recurrence.interval or 0.0) if recurrence.start is None else recurrence.start.timestamp()
        return cls(name, template(job), recurrence, origin, recurrence.following(now, origin), module)

    @classmethod
    def read(cls, document: Document) -> Entry:
        """Read a document. Raises ValueError if it cannot be read."""
        value = document.value
        try:
            return cls(
                name=document.name,
                job=dict(value["job"]),
                recurrence=Recurrence.from_dict(value["recurrence"]),
                origin=float(value["origin"]),
                next=None if value["next"] is None else float(value["next"]),
                module=value["module"],
                paused=bool(value["paused"]),
                last=None if value["last"] is None else float(value["last"]),
                last_job=value["last_job"],
                rev=document.rev,
            )
        except (KeyError, TypeError, ValueError, AttributeError, QueueportError) as error:
            raise ValueError(
                f"the schedule {document.name!r} cannot be read ({type(error).__name__}: {error})"
            ) from error

    def document(self, rev: str) -> Document:
        """The document of this schedule, with a new rev."""
        value = {
            "job": dict(self.job),
            "recurrence": self.recurrence.as_dict(),
            "origin": self.origin,
            "next": self.next,
            "module": self.module,
            "paused": self.paused,
            "last": self.last,
            "last_job": self.last_job,
        }
        return Document(KIND, self.name, value, rev)

    def same(self, other: Entry) -> bool:
        """True if both have the same jobs at the same times."""
        return (self.job, self.recurrence, self.module) == (other.job, other.recurrence, other.module)

    def make_job(self, job_id: str, tick: float | None = None) -> Job[Any]:
        """The job of a tick; with None, of `Schedules.run_now`. Raises the errors of `Job` for a damaged document."""
        job = self.job
        options = {name: value for name in OPTIONS if (value := job["options"].get(name)) is not None}
        if not self.recurrence.overlap:
            options.setdefault("key", f"schedule:{self.name}"[:256])
        retry = job["options"].get("retry")
        headers = {**job["headers"], "queueport-schedule": self.name}
        if tick is not None:
            headers["queueport-tick"] = _shown(tick)
        return Job(
            id=job_id,
            task=job["task"],
            payload=job["payload"].encode(),
            queue=job["queue"],
            expires=job["expires"],
            headers=headers,
            options=Options(**options, retry=None if retry is None else Retry.from_dict(retry)),
            limit_key=job.get("limit_key"),
            task_ref=registry.get(job["task"]),
        )

    def shown(self, last_state: JobState | None) -> Schedule:
        """The schedule as applications see it, with the state of the job of its latest tick.

        Raises InvalidJob if the payload is damaged.
        """
        job = self.make_job("shown")
        return Schedule(
            name=self.name,
            task=job.task,
            queue=job.queue,
            args=job.args,
            kwargs=job.kwargs,
            recurrence=self.recurrence,
            paused=self.paused,
            declared=self.module is not None,
            next_at=utc(self.next),
            last_at=utc(self.last),
            last_job_id=self.last_job,
            last_state=last_state,
            headers=dict(self.job["headers"]),
        )


def template(job: Job[Any]) -> dict[str, Any]:
    """What the jobs of a schedule have in common, as plain JSON values."""
    options = {name: value for name in OPTIONS if (value := getattr(job.options, name)) is not None}
    if job.options.tags is not None:
        options["tags"] = list(job.options.tags)  # as JSON has it, because `same` compares
    if job.options.retry is not None:
        options["retry"] = job.options.retry.as_dict()
    own = {} if job.limit_key is None else {"limit_key": job.limit_key}
    return {
        **own,
        "task": job.task,
        "payload": job.payload.decode(),
        "queue": job.queue,
        "expires": job.expires,
        "headers": dict(job.headers),
        "options": options,
    }


def read_entries(store: JobStore, log: Callable[[str], object]) -> list[Entry]:
    """All schedules of the store, by name. Calls `log` with a sentence for each that cannot be read."""
    entries: list[Entry] = []
    for document in store.documents(KIND):
        try:
            entries.append(Entry.read(document))
        except ValueError as error:
            log(str(error))
    return entries


def write_entry(operations: Operations, entry: Entry) -> bool:
    """Write a schedule, if nobody has changed it since it was read. Raises PayloadTooLarge and BackendUnavailable."""
    document = entry.document(operations.runtime.new_id())
    size = len(document_text(document.value))
    if size > LARGEST:
        raise PayloadTooLarge(
            f"the schedule {entry.name!r} has {size} bytes with the arguments of its job, but at most {LARGEST} are "
            "possible: keep large data elsewhere and pass a reference to it"
        )
    return operations.store.put_document(document, entry.rev)


class ScheduleDispatcher:
    """Makes the jobs of due ticks, and the schedules that tasks declare. The dispatcher calls it in each round."""

    def __init__(self, operations: Operations, tasks: Iterable[Task[..., Any, Any]] = ()) -> None:
        self._operations = operations
        self._store = operations.store
        self._runtime = operations.runtime
        self._enqueue = Enqueue(operations)
        tasks = list(tasks)
        self._undeclared = [task for task in tasks if task.recurrence is not None]
        """The tasks whose schedules have not been written yet."""
        self._removes = bool(tasks)
        """True until the schedules that are no longer declared have been removed."""
        self._next_read = -math.inf
        """The time of the next reading of all schedules, by the monotonic clock."""
        self._failures = FailureLog(logger, self._runtime.monotonic)

    def tick(self) -> None:
        """Make the jobs of all ticks that are due, if it is time for that. Raises BackendUnavailable."""
        started = self._runtime.monotonic()
        if started < self._next_read:
            return
        due = self.make_due()
        wait = READ_EVERY if due is None else min(READ_EVERY, max(0.0, due - self._store.now()))
        self._next_read = started + wait

    def make_due(self) -> float | None:
        """Make the jobs of all ticks that are due, at most BATCH of each schedule. Raises BackendUnavailable.

        Returns the time of the next tick, by the store's clock; None if none is known.
        """
        if self._undeclared or self._removes:
            self._declare()
        entries = read_entries(self._store, self._log_unreadable)
        if not entries:
            return None
        now = self._store.now()
        end = self._runtime.monotonic() + ROUND
        for _ in range(BATCH):  # one tick of each schedule, so that many missed ticks of one do not delay the others
            due = [(entry, entry.next) for entry in entries if entry.next is not None and entry.next <= now]
            if not due or self._runtime.monotonic() >= end:
                break
            entries = [entry for entry in entries if entry.next is None or entry.next > now]
            for start in range(0, len(due), BATCH):
                entries += self._advance_all(due[start : start + BATCH], now)
        return min((entry.next for entry in entries if entry.next is not None), default=None)

    def _log_unreadable(self, sentence: str) -> None:
        self._failures.warning(
            "%s: unless a newer release of queueport wrote it, add it again, or remove it with "
            "`queueport schedules remove`",
            ValueError(sentence),
        )

    def _advance_all(self, due: Sequence[tuple[Entry, float]], now: float) -> list[Entry]:
        """Handle the next tick of each of these schedules. Returns those with which this process can go on now."""
        made: list[Insert] = []
        try:
            advanced = [self._advance(entry, tick, now, made) for entry, tick in due]
        finally:  # some jobs may have been made before the store did not answer
            self._follow(made)
        return [entry for entry in advanced if entry is not None]

    def _advance(self, entry: Entry, tick: float, now: float, made: list[Insert]) -> Entry | None:
        """Handle the next tick of a schedule, `tick`, and add its job to `made`. Returns the schedule after that.

        Returns None if this process cannot go on with it now, for example because another dispatcher was faster.
        """
        try:
            if entry.module is not None and not self._known(entry.job["task"]):
                return None
            return self._make(entry, tick, now, made)
        except BackendUnavailable:
            raise
        except Exception as error:  # noqa: BLE001  # one schedule must not stop the others
            self._failures.error(
                error, _about("no job could be made for the schedule {}; it is tried again", entry.name)
            )
            return None

    def _make(self, entry: Entry, tick: float, now: float, made: list[Insert]) -> Entry | None:
        """Make the job of the next tick, `tick`, write the schedule, and add the job to `made`. Returns the schedule
        after that; None if somebody else has written it.
        """
        recurrence = entry.recurrence
        if recurrence.catch_up != "all" or entry.paused:
            tick = recurrence.latest(now, tick, entry.origin)
        after = replace(entry, next=recurrence.following(tick, entry.origin))
        insert = None
        if not entry.paused and not (recurrence.catch_up == "none" and now - tick > LATE):
            job = hooks.call_before_enqueue(entry.make_job(_tick_id(entry.name, tick), tick))
            insert = self._enqueue.insert_of(job)
            after = replace(after, last=tick, last_job=job.id)
        document = after.document(self._runtime.new_id())
        if not self._store.put_document(document, entry.rev, insert):
            return None
        if insert is not None and (insert.change.then or hooks.event_hooks):
            made.append(insert)
        return replace(after, rev=document.rev)

    def _follow(self, made: Sequence[Insert]) -> None:
        """Publish the new jobs together, so that a backend that does not answer delays the dispatcher once, and call
        the on_event hooks for them. Also publish the waiting jobs that they have replaced. Leaves out a job that has no
        record because its key was held.
        """
        found = call_batch(self._store.get, [insert.record.id for insert in made], lambda _, __: None)
        pairs = list(zip(found, made, strict=True))
        new = [(record, insert) for record, insert in pairs if record is not None and record.rev == insert.rev]
        if hooks.event_hooks:
            self._operations.events.enqueued(insert for _, insert in new)
        self._operations.follow([(record, insert.change) for record, insert in new])
        replacing = [insert for record, insert in pairs if record is None and insert.replace is not None]
        if self._operations.driver.carries:
            self._operations.publish([record for insert in replacing for record in self._replaced(insert)])

    def _replaced(self, insert: Insert) -> Sequence[Record]:
        """The record, or none, of the job that this insert has replaced, if its message is still to be published."""
        new = insert.record
        found = self._store.find(Query(JobState.QUEUED, task=new.task, key=new.key, limit=1))
        return [record for record in found if record.rev == insert.rev and not record.sent]

    def _known(self, name: str) -> bool:
        """True if this process or a live worker has the task, so that the task was not removed from the application."""
        return registry.get(name) is not None or any(name in worker.tasks for worker in self._store.workers())

    def _declare(self) -> None:
        """Write the schedules that the tasks declare, and remove those that their modules no longer declare.

        The worker that started last decides. Schedules that `Schedules.add` made stay as they are. What could not be
        written, because somebody else wrote the same schedule at the same time, is tried again in the next round.
        """
        entries = {entry.name: entry for entry in read_entries(self._store, self._log_unreadable)}
        now = self._store.now()
        self._undeclared = [task for task in self._undeclared if not self._written(task, entries.get(task.name), now)]
        gone = [entry for entry in entries.values() if entry.module in sys.modules and not _declared(entry.name)]
        self._removes = bool([entry for entry in gone if not self._remove(entry)])

    def _written(self, task: Task[..., Any, Any], old: Entry | None, now: float) -> bool:
        """Write a schedule as `_write` does. Logs any error but BackendUnavailable, and then returns False."""
        try:
            return self._write(task, old, now)
        except BackendUnavailable:
            raise
        except QueueportError as error:
            self._failures.warning("a task's schedule cannot be written, and is tried again: %s", error)
        except Exception as error:  # noqa: BLE001  # one task must not stop the others
            self._failures.error(
                error, _about("the schedule of task {} cannot be written; it is tried again", task.name)
            )
        return False

    def _write(self, task: Task[..., Any, Any], old: Entry | None, now: float) -> bool:
        """Write the schedule that a task declares, if it is new. Returns False if somebody else has written it."""
        if task.recurrence is None:
            return True
        new = Entry.new(task.name, task.job(), task.recurrence, now, module=importable(task.__module__))
        if old is not None and old.module is None:
            self._failures.warning(
                "every= or cron= of the task %s has no effect, because a schedule with this name was added at run "
                "time: remove that schedule with `queueport schedules remove`",
                task.name,
            )
            return True
        if old is not None:
            if old.same(new):
                return True
            new = replace(new, paused=old.paused, last=old.last, last_job=old.last_job, rev=old.rev)
        if not write_entry(self._operations, new):
            return False
        logger.info("schedule %s: next at %s", new.name, _shown(new.next))
        return True

    def _remove(self, entry: Entry) -> bool:
        """Remove a schedule that is no longer declared. Returns False if somebody else has written it."""
        if entry.rev is None or not self._store.delete_document(KIND, entry.name, entry.rev):
            return False
        logger.info("schedule %s was removed, because its task no longer declares it", entry.name)
        return True


def _declared(name: str) -> bool:
    task = registry.get(name)
    return task is not None and task.name == name and task.recurrence is not None


def _about(message: str, name: str) -> str:
    """A message of a log line that contains the name, so that the same failure of another schedule is another one."""
    return message.format(repr(name).replace("%", "%%"))


def _tick_id(name: str, tick: float) -> str:
    """The id of the job of a tick: the same in every process. It begins with the time, like the other ids."""
    digest = hashlib.sha256(f"{name}\0{tick!r}".encode()).hexdigest()
    return f"{int(tick * 1000):012x}{digest[:20]}"


def _shown(moment: float | None) -> str:
    at = utc(moment)
    return "never" if at is None else at.isoformat()

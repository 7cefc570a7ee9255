"""`queue.schedules`: add, list, pause and remove recurring jobs. For applications and operators."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from queueport.engine.batches import call_batch
from queueport.engine.enqueue import Enqueue
from queueport.engine.operations import Operations
from queueport.engine.schedules import KIND, Entry, read_entries, write_entry
from queueport.errors import ConfigurationError, InvalidJob, InvalidState, ScheduleNotFound
from queueport.job import HandleQueue, Job, JobHandle, new_id
from queueport.job.recurrence import Recurrence, Schedule
from queueport.spi.record import CorruptRecord
from queueport.spi.store import Document
from queueport.status import JobState

__all__ = ["Schedules"]

logger: logging.Logger = logging.getLogger("queueport")


class ScheduleQueue(HandleQueue, Protocol):
    """The members of `JobQueue` that `Schedules` uses."""

    @property
    def operations(self) -> Operations: ...

    def enqueue(self, what: Job[Any], /) -> JobHandle[Any]: ...


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name.strip()) == len(name) <= 200 and name.isprintable()


def _read(document: Document) -> Entry:
    """The schedule in a document. Raises CorruptRecord."""
    try:
        return Entry.read(document)
    except ValueError as error:
        raise CorruptRecord(f"{error}: add it again, or remove it") from error


class Schedules:
    """The recurring jobs of a backend's queues. `JobQueue.schedules` returns it.

        queue.schedules.add("nightly", cleanup.job(days=30), cron="0 3 * * *", timezone="Europe/Berlin")
        queue.schedules.pause("nightly")

    A dispatcher, which every worker has, makes a job for each tick of a schedule. A task can also declare its schedule:
    `@task(every=300.0)`; the name of the schedule is then the name of the task. Every method may raise
    BackendUnavailable and QueueClosed.
    """

    def __init__(self, queue: ScheduleQueue) -> None:
        self._queue = queue

    def add(
        self,
        name: str,
        job: Job[Any],
        *,
        every: float | timedelta | None = None,
        cron: str | None = None,
        timezone: str = "UTC",
        start: datetime | None = None,
        end: datetime | None = None,
        catch_up: str = "one",
        overlap: bool = True,
    ) -> Schedule:
        """Add a schedule, or change the one with this name. Nothing changes if it has the same job and times already.
        A schedule that cannot be read is replaced.

        Each tick makes a job like `job`, with an id of its own and two more headers: "queueport-schedule", the name,
        and "queueport-tick", the time of the tick. `Recurrence` describes the other arguments. A changed schedule keeps
        its pause, and its ticks count from now.

        Raises ConfigurationError for a wrong argument, and for `overlap=False` with a job whose `key_mode` is
        "replace", InvalidState if a task declares the schedule, and Unsupported and PayloadTooLarge as
        `JobQueue.enqueue` does.
        """
        recurrence = Recurrence(
            every=every, cron=cron, timezone=timezone, start=start, end=end, catch_up=catch_up, overlap=overlap
        )
        return self.put(name, job, recurrence)

    def put(self, name: str, job: Job[Any], recurrence: Recurrence) -> Schedule:
        """Like `add`, for a recurrence that exists already."""
        if not _is_name(name):
            raise ConfigurationError(f"a schedule's name must be 1 to 200 printable characters, not {name!r:.80}")
        if not isinstance(job, Job):
            raise ConfigurationError(f"a schedule needs a job, such as cleanup.job(days=30), not {type(job).__name__}")
        for option in ("delay", "run_at", "job_id", "then"):
            if getattr(job.options, option) is not None:
                raise ConfigurationError(f"the job of a schedule cannot have {option}=")
        if not recurrence.overlap and job.options.key_mode == "replace":
            raise ConfigurationError(
                'overlap=False and key_mode="replace" cannot be combined, because a tick would add a job while the '
                "previous one runs: leave out one of them"
            )
        Enqueue(self._queue.operations).insert_of(job)  # raises if the backend or the store cannot take such a job

        def added(old: Entry | None) -> Entry:
            new = Entry.new(name, job, recurrence, self._queue.operations.store.now())
            if old is None:
                return new
            if old.module is not None:
                raise InvalidState(f"the task {name} in {old.module} declares this schedule: change its declaration")
            if old.same(new):
                return old
            return replace(new, paused=old.paused, last=old.last, last_job=old.last_job)

        return self._write(name, added, damaged=True)

    def list(self) -> list[Schedule]:
        """All schedules, by name. A schedule that cannot be read is left out, and a warning is logged."""
        return [*self._shown(*read_entries(self._queue.operations.store, logger.warning))]

    def get(self, name: str) -> Schedule:
        """One schedule. Raises ScheduleNotFound, and CorruptRecord if it cannot be read."""
        return self._only(self._found(name))

    def pause(self, name: str) -> Schedule:
        """Make no jobs for the ticks from now on, until `resume`. Raises ScheduleNotFound."""
        return self._change(name, lambda entry: replace(entry, paused=True))

    def resume(self, name: str) -> Schedule:
        """Make jobs again, from the next tick on. Ticks during the pause have no jobs. Raises ScheduleNotFound."""
        now = self._queue.operations.store.now()

        def resumed(entry: Entry) -> Entry:
            if not entry.paused:
                return entry
            # The latest tick that had its job can be in the future if the clock was set back.
            after = now if entry.last is None else max(now, entry.last)
            return replace(entry, paused=False, next=entry.recurrence.following(after, entry.origin))

        return self._change(name, resumed)

    def run_now(self, name: str) -> JobHandle[Any]:
        """Enqueue a job of the schedule now. The ticks do not change. Raises ScheduleNotFound.

        With `overlap=False`, if a job of the schedule has not ended, returns the handle of that job, with `created`
        False. Raises InvalidState if that job itself makes the call, and the errors of `JobQueue.enqueue`.
        """
        return self._queue.enqueue(self._found(name).make_job(new_id()))

    def remove(self, name: str) -> None:
        """Remove a schedule. Jobs that it has made stay. Raises ScheduleNotFound.

        A schedule that a task declares comes back when a worker with this task starts: remove `every=` or `cron=` from
        the declaration, or pause the schedule.
        """
        store = self._queue.operations.store
        while True:
            document = self._document(name)
            if document is None:
                raise self._missing(name)
            if store.delete_document(KIND, name, document.rev):
                return

    def _change(self, name: str, change: Callable[[Entry], Entry]) -> Schedule:
        def changed(entry: Entry | None) -> Entry:
            if entry is None:
                raise self._missing(name)
            return change(entry)

        return self._write(name, changed)

    def _write(self, name: str, change: Callable[[Entry | None], Entry], *, damaged: bool = False) -> Schedule:
        """Change a schedule, again if somebody else changes it at the same time.

        With `damaged`, a schedule that cannot be read is replaced, as if there was none.
        """
        while True:
            document = self._document(name)
            try:
                old = None if document is None else _read(document)
            except CorruptRecord:
                if not damaged:
                    raise
                old = None
            new = change(old)
            rev = None if document is None else document.rev
            if new == old or write_entry(self._queue.operations, replace(new, rev=rev)):
                return self._only(new)

    def _shown(self, *entries: Entry) -> Sequence[Schedule]:
        """The schedules as applications see them. One whose job is damaged is left out, and a warning is logged."""
        ids = [entry.last_job for entry in entries if entry.last_job is not None]
        records = call_batch(self._queue.operations.store.get, ids, lambda _, __: None)
        states: dict[str | None, JobState] = {record.id: record.state for record in records if record is not None}
        shown = []
        for entry in entries:
            try:
                shown.append(entry.shown(states.get(entry.last_job)))
            except InvalidJob as error:
                logger.warning("the schedule %s cannot be read (%s): add it again, or remove it", entry.name, error)
        return shown

    def _only(self, entry: Entry) -> Schedule:
        for schedule in self._shown(entry):
            return schedule
        raise CorruptRecord(f"the job of the schedule {entry.name!r} cannot be read: add it again, or remove it")

    def _document(self, name: str) -> Document | None:
        documents = self._queue.operations.store.documents(KIND)
        return next((document for document in documents if document.name == name), None)

    def _found(self, name: str) -> Entry:
        document = self._document(name)
        if document is None:
            raise self._missing(name)
        return _read(document)

    def _missing(self, name: object) -> ScheduleNotFound:
        return ScheduleNotFound(f"there is no schedule {name!r:.80} in this namespace: `schedules.list()` shows all")

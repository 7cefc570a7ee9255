"""Accepts jobs: checks them, inserts their records, publishes their messages and marks them as sent. For `JobQueue`.

Most steps serve one promise: a job runs if `enqueue` returns, and does not run if `enqueue` raises, unless its id is in
`BackendUnavailable.unknown`. `docs/protocol.md#enqueue` specifies the steps.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from enum import Enum, auto
from functools import lru_cache
from typing import Any, NamedTuple

from queueport import hooks
from queueport.capability import Capability, Limits
from queueport.context import running_job
from queueport.engine.lifecycle import NOT_NEEDED
from queueport.engine.operations import Operations, SettleResult
from queueport.engine.rules import Refusal
from queueport.errors import (
    BackendMisconfigured,
    BackendUnavailable,
    DuplicateJob,
    InvalidJob,
    InvalidState,
    PayloadTooLarge,
    Unsupported,
    message_of,
    type_of,
)
from queueport.job import BATCH_TAG, Job, frozen
from queueport.spi.message import Message, SendOutcome
from queueport.spi.record import Change, FollowUp, OfChange, Record, RecordDraft
from queueport.spi.store import Insert, Query, Swap, WriteOutcome, WriteResult
from queueport.spi.url import hidden
from queueport.status import JobError, JobState
from queueport.tasks import Task, registry, task

__all__ = ["Enqueue", "Verdict", "make_job", "make_jobs"]

logger: logging.Logger = logging.getLogger("queueport")

BATCH = 500
"""The maximum number of jobs to insert and publish in one step."""
QUEUES = 20
"""The maximum number of queues in one step. Most drivers publish to one queue after the other, and must have published
to all of them before the claim on the new jobs ends."""
FIRST_CHANGES = 64
"""How many results of `Lifecycle.new` to cache. The result depends on delay and expiry only, which are equal for most
jobs."""
QUICK = 0.5
"""Seconds. If an insert or a withdrawal fails within this time, because the store does not answer, the call is repeated
once: usually only an old connection was broken."""


TOO_LATE = "it took more than an hour to enqueue all jobs of the batch or chain: enqueue fewer jobs together"


class _Fate(Enum):
    """The outcome of the enqueue of one job."""

    ACCEPTED = auto()
    REJECTED = auto()
    """This call has certainly not enqueued the job."""
    UNKNOWN = auto()
    """The job may run, because the store did not answer."""
    TAKEN = auto()
    """A job with the same id exists already, or another job has the key and the mode is "reject". This call has not
    enqueued the job."""


class Verdict(NamedTuple):
    """The outcome of the enqueue of one job, with its details.

    If `fate` is REJECTED or UNKNOWN, `cause` is the error, or None if the backend named no error. If it is TAKEN,
    `cause` is the error about the key, or None if the id is taken. `publish` is the inserted or replaced record if its
    message must still be published; otherwise None.
    """

    id: str
    """The id of the job. If another job holds its key and the outcome is ACCEPTED, the id of that other job."""
    fate: _Fate
    cause: Exception | None = None
    publish: Record | None = None
    held: bool = False
    """True if the key was taken, so that the job with this id existed before, and was not changed."""
    replaced: bool = False
    """True if the job with this id, which existed before, has taken over the new job's arguments and options."""


def make_job(what: Task[..., Any, Any] | Job[Any] | str, args: Sequence[Any], kwargs: dict[str, Any]) -> Job[Any]:
    """Make a job from the arguments of `enqueue`: `what` is a task, a task's name, or a job.

    If `what` is the name or alias of a task that is registered in this process, the options of this task apply, and its
    annotations check the arguments. Raises InvalidJob, and ConfigurationError for a wrong name or an annotation that
    cannot be resolved.
    """
    if isinstance(what, Task):
        return what.job(*args, **kwargs)
    if isinstance(what, str):
        return (registry.get(what) or task.named(what)).job(*args, **kwargs)
    if isinstance(what, Job):
        if args or kwargs:
            raise InvalidJob("a job has its arguments already: pass no other arguments with it")
        return what
    raise InvalidJob(
        f"enqueue takes a task, a job or a task's name, not {type(what).__name__}: pass a function that is decorated "
        "with @task"
    )


def make_jobs(call: str, jobs: object) -> list[Job[Any]]:
    """The jobs that the caller gave to the method `call`. Raises InvalidJob, and the errors of `make_job`."""
    if isinstance(jobs, Iterable) and not isinstance(jobs, str | bytes):
        return [make_job(job, (), {}) for job in jobs]
    raise InvalidJob(f"{call} takes a list of jobs, for example [notify.job(7)], not {jobs!r:.80}")


class Enqueue:
    """Accepts jobs for one store and backend. Thread-safe."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._driver = operations.driver
        self._lifecycle = operations.lifecycle
        self._runtime = operations.runtime
        self._first_change = lru_cache(FIRST_CHANGES)(operations.lifecycle.new)
        self._marked = OfChange(operations.lifecycle.mark_new)

    def accept(self, jobs: Sequence[Job[Any]]) -> list[Verdict]:
        """Accept jobs. Returns the verdict of each job; if another job holds its key, with the id of that other job.

        Every job is checked before the first one is inserted. Raises InvalidJob, Unsupported, InvalidState,
        PayloadTooLarge, DuplicateJob and BackendUnavailable. The last two contain the ids of all jobs, grouped by
        outcome.
        """
        try:
            for job in jobs:
                if job.options.key is not None and job.options.key_mode != "replace":
                    self._check_key(job)
        except BackendUnavailable as error:
            error.rejected = tuple(job.id for job in jobs)
            raise
        limits = self._operations.limits
        inserts = [self.insert_of(job, limits) for job in jobs]
        given = [job.id for job in jobs]
        if len(set(given)) < len(given):
            raise _repeated(given)
        verdicts: list[Verdict] = []
        for group in _groups(inserts):
            found = self._accept(group)
            if hooks.event_hooks:
                self._tell(group, found)
            verdicts += found
            for verdict in found:
                if verdict.fate is not _Fate.ACCEPTED:
                    return self._complete(inserts, verdicts, given[len(verdicts) :])
        if inserts and inserts[0].record.waits_for:  # jobs that follow others come first
            return self._complete(inserts, verdicts, ())
        return verdicts

    def check_batch(self, batch_id: str, jobs: Sequence[Job[Any]]) -> None:
        """Raise DuplicateJob if a batch with this id exists. `jobs` are those that the caller wants to enqueue.

        Does not notice a call that enqueues the same batch at the same moment. Raises BackendUnavailable.
        """
        ids = [job.id for job in jobs]
        try:
            found = self._store.find(Query(tag=f"{BATCH_TAG}{batch_id}", limit=1))
        except BackendUnavailable as error:
            raise _unavailable(error, ids) from error.__cause__
        if found:
            raise DuplicateJob(
                f"a batch with the id {batch_id!r} exists already: choose another batch_id, unless this call repeats "
                "one whose outcome is unknown",
                rejected=ids,
            )

    def _tell(self, inserts: Sequence[Insert], verdicts: Sequence[Verdict]) -> None:
        """Call the on_event hooks for the jobs that were added."""
        self._operations.events.enqueued(
            i
            for i, v in zip(inserts, verdicts, strict=True)
            if v.fate is _Fate.ACCEPTED and v.id == i.record.id and not v.held
        )

    def _complete(self, inserts: Sequence[Insert], verdicts: Sequence[Verdict], rest: Sequence[str]) -> list[Verdict]:
        """Let the new jobs that follow others wait without a limit, or delete those that follow a job which was not
        accepted. `rest` has the ids of the jobs that were not tried.

        Returns the verdicts. Raises DuplicateJob and BackendUnavailable.
        """
        accepted = {verdict.id for verdict in verdicts if verdict.fate is _Fate.ACCEPTED}
        incomplete: set[str | None] = set()
        for insert in reversed(inserts):  # each job comes after those that follow it
            links = insert.record.links
            if links is not None and (insert.record.id not in accepted or insert.record.id in incomplete):
                incomplete |= {links.then, links.on_dead}
        now = self._runtime.wall()
        waiting = [i for i in inserts if i.record.waits_for and i.record.id in accepted]
        asked = [
            (
                i.change.applied(i.record, i.rev, now),
                self._lifecycle.give_up if i.record.id in incomplete else self._lifecycle.complete,
            )
            for i in waiting
        ]
        try:
            settled: list[SettleResult | Exception] = self._operations.settle_all(asked) if asked else []
        except BackendUnavailable as error:
            settled = [error] * len(asked)
        given_up, failed = list[str](), dict[str, Verdict]()
        for (record, _), answer in zip(asked, settled, strict=True):
            if isinstance(answer, Exception):
                failed[record.id] = Verdict(record.id, _Fate.UNKNOWN, answer)
            elif answer.change is not None and answer.change.delete:
                given_up.append(record.id)
            elif answer.refusal is Refusal.FINAL:
                failed[record.id] = Verdict(record.id, _Fate.REJECTED, BackendUnavailable(TOO_LATE))
        found = [failed.get(v.id, v) for v in verdicts if v.id not in given_up]
        if given_up or any(verdict.fate is not _Fate.ACCEPTED for verdict in found):
            raise self._failure(found, [*given_up, *rest])
        return found

    def add_dead(self, job: Job[Any], error: JobError) -> None:
        """Insert a job directly as a dead letter. Raises PayloadTooLarge, DuplicateJob and BackendUnavailable."""
        if job.options.then is not None:
            raise InvalidJob(f"job {job.id} cannot have then=, because it is added to the dead letters")
        if job.options.pass_result:
            raise InvalidJob(
                f"job {job.id} cannot have pass_result=True, because a job that is added to the dead letters "
                "follows no job"
            )
        record, change = _bare_record(job), self._lifecycle.new_dead(error)
        self._store.check_size(record)
        (verdict,) = self._accept([Insert(record, change, self._runtime.new_id())])
        if verdict.fate is not _Fate.ACCEPTED:
            raise self._failure([verdict], ())
        self._operations.follow([(record, change)])

    # -- check -------------------------------------------------------------------------------------

    def insert_of(self, job: Job[Any], limits: Limits | None = None) -> Insert:
        """Check a job, and make its record and first change, without I/O.

        Raises InvalidJob, Unsupported and PayloadTooLarge.
        """
        limits = self._operations.limits if limits is None else limits
        options = job.options
        if options.key is None and (options.key_mode is not None or options.unique_for is not None):
            name = "unique_for" if options.key_mode is None else "key_mode"
            raise InvalidJob(f"{name}= has no effect without a key: pass key=, or leave it out")
        if options.priority:
            self._need(Capability.PRIORITY, "priority")
        if options.group is not None:
            self._need(Capability.GROUPS, "group")
        if options.pass_result and (job.links is None or not job.links.pass_result):
            raise InvalidJob(
                f"job {job.id} has pass_result=True, but it follows no job: pass it as then=, or use chain"
            )
        record = _bare_record(job)
        if limits.payload is not None and len(record.payload) > limits.payload:
            raise self._too_large("payload", f"arguments of {record.task} have", len(record.payload), limits.payload)
        if limits.message is not None and Message.largest_size(record) > limits.message:
            size = Message.size(record, self._operations.signer)
            if size > limits.message:
                raise self._too_large("message", f"message of {record.task} has", size, limits.message)
        self._store.check_size(record)
        run_at = None if options.run_at is None else options.run_at.timestamp()
        delay = options.delay if run_at is None else run_at - self._runtime.wall()
        if record.waits_for:
            return Insert(record, self._lifecycle.new_waiting(expires=job.expires), self._runtime.new_id())
        change = self._first_change(delay=delay, expires=job.expires)
        if run_at is not None:  # record the producer's time itself, not the store's time plus a delay
            names = ("run_at", "wake_at") if change.set["state"] is JobState.SCHEDULED else ("run_at",)
            change = replace(change.with_next(Change(dict.fromkeys(names, run_at))), then=change.then)
        replaces = self._lifecycle.replace(record, change) if options.key_mode == "replace" else None
        return Insert(record, change, self._runtime.new_id(), reject=options.key_mode == "reject", replace=replaces)

    def _check_key(self, job: Job[Any]) -> None:
        """Raise InvalidState if a task enqueues a job with the task and key of its own job, which holds the key."""
        running = running_job.get(None)
        if running is None or (job.task, job.options.key) != (running.task, running.key):
            return
        if self._store.get([running.id])[0] is not None:  # otherwise the running job is in another store
            raise InvalidState(
                f"job {running.id} holds the key {running.key!r} until it has ended, so it cannot enqueue its own "
                "successor with this key: declare the task with @task(every=...), raise RetryLater, or use another key"
            )

    def _need(self, capability: Capability, option: str) -> None:
        if capability not in self._driver.capabilities:
            url_option = self._driver.url_options.get(capability)
            add = f"add {url_option} to the URL, " if url_option else ""
            raise Unsupported(
                f"{self._driver.name} does not support {option}= at this URL: leave it out, {add}or choose a backend "
                f"that has the capability {capability.name}"
            )

    def _too_large(self, name: str, what: str, size: int, limit: int) -> PayloadTooLarge:
        """The error for a part of a job that has `size` bytes, more than `limit`, the field `name` of a `Limits`.

        `what` is the part and a verb, such as "arguments of TASK have".
        """
        of_store = self._driver.carries and getattr(self._driver.limits, name) != limit
        accepts = f"{'the job store' if of_store else self._driver.name} accepts at most {limit}"
        return PayloadTooLarge(
            f"the {what} {size} bytes, but {accepts}: keep large data elsewhere and pass a reference to it"
        )

    # -- insert, publish, mark ---------------------------------------------------------------------

    def _accept(self, inserts: Sequence[Insert]) -> list[Verdict]:
        try:
            inserts = self._with_messages(inserts)
            written = self._insert(inserts)
        except BackendUnavailable as error:
            fates = dict.fromkeys(error.rejected, _Fate.REJECTED)
            return [Verdict(i.record.id, fates.get(i.record.id, _Fate.UNKNOWN), error) for i in inserts]
        silent: list[BackendUnavailable] = []
        verdicts = [
            Verdict(i.record.id, _Fate.ACCEPTED)
            if w.outcome is WriteOutcome.APPLIED and not i.change.then
            else self._settle_insert(i, w, silent)
            for i, w in zip(inserts, written, strict=True)
        ]
        unsent = [(verdict.replaced, verdict.publish) for verdict in verdicts if verdict.publish is not None]
        if not unsent:
            return verdicts
        failed = self._publish([record for replaced, record in unsent if not replaced])
        # A replaced job was accepted before, so it is not withdrawn: if this publish fails, a dispatcher repeats it.
        self._operations.publish([record for replaced, record in unsent if replaced])
        return [verdict if verdict.replaced else failed.get(verdict.id, verdict) for verdict in verdicts]

    def _failure(self, verdicts: Sequence[Verdict], rest: Sequence[str]) -> BackendUnavailable | DuplicateJob:
        """Make the error to raise if a job was not accepted. `rest` has the ids of the jobs that were not tried.

        If the cause of the first failed job is a BackendUnavailable, the new error's text begins with the cause's text.
        """

        def ids(*fates: _Fate) -> list[str]:
            return [verdict.id for verdict in verdicts if verdict.fate in fates]

        accepted, unknown = ids(_Fate.ACCEPTED), ids(_Fate.UNKNOWN)
        rejected = [*ids(_Fate.REJECTED, _Fate.TAKEN), *rest]
        failed = [verdict for verdict in verdicts if verdict.fate in (_Fate.REJECTED, _Fate.UNKNOWN)]
        if not failed:
            taken = next(verdict for verdict in verdicts if verdict.fate is _Fate.TAKEN)
            message = (
                f"a job with the id {taken.id!r} exists already: choose another job_id, unless this call repeats one "
                "whose outcome is unknown"
            )
            return DuplicateJob(str(taken.cause or message), accepted=accepted, rejected=rejected)
        cause, count, parts = failed[0].cause, len(verdicts) + len(rest), list[str]()
        if isinstance(cause, BackendUnavailable):
            parts.append(str(cause))
        elif cause is not None:
            parts.append(hidden(f"{self._driver.name} failed with {type_of(cause)}: {message_of(cause)}"))
        if rejected:
            jobs, them = ("the job was", "it") if count == 1 else (f"{len(rejected)} of {count} jobs were", "them")
            parts.append(f"{jobs} not enqueued on {self._driver.name} and will not run: enqueue {them} again")
        if unknown:
            one = f"job {unknown[0]} may or may not run: enqueue it again with this job_id"
            many = f"{len(unknown)} of {count} jobs may or may not run: enqueue them again with the same job_id"
            parts.append(f"{one if len(unknown) == 1 else many}, and DuplicateJob means that it was enqueued")
        kind = BackendMisconfigured if isinstance(cause, BackendMisconfigured) else BackendUnavailable
        error = kind("; ".join(parts), accepted=accepted, rejected=rejected, unknown=unknown)
        error.__cause__ = cause.__cause__ if isinstance(cause, BackendUnavailable) else cause
        return error

    def _with_messages(self, inserts: Sequence[Insert]) -> Sequence[Insert]:
        """Return the inserts. If the driver `publishes_with_insert`, an insert of a queued job also publishes the job's
        message and marks the job as sent.

        Raises BackendUnavailable; its `rejected` are the ids of all the jobs.
        """
        if not self._driver.publishes_with_insert:
            return inserts
        new = [insert for insert in inserts if FollowUp.PUBLISH in insert.change.then]
        if not new:
            return inserts
        try:
            now = self._store.approximate_now()
        except BackendUnavailable as error:  # no insert was tried, so certainly nothing was inserted
            raise _unavailable(error, [insert.record.id for insert in inserts]) from error.__cause__
        signer = self._operations.signer
        # The first change sets no field that a message contains.
        messages = [Message.of(i.record, now, signer=signer) for i in new]
        changes = {id(i.change): i.change for i in new}
        marked = {key: self._marked(change) for key, change in changes.items()}
        sent = {
            i.rev: Insert(i.record, marked[id(i.change)], i.rev, tuple(commands), i.reject, i.replace)
            for i, commands in zip(new, self._driver.publish_commands(messages), strict=True)
        }
        return [sent.get(insert.rev, insert) for insert in inserts]

    def _insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        """Insert records. Raises BackendUnavailable; its `rejected` are the ids that certainly were not inserted."""
        started = self._runtime.monotonic()
        try:
            return self._store.insert(inserts)
        except BackendUnavailable as error:
            if self._runtime.monotonic() - started > QUICK:
                raise
            first = error
        try:
            since = self._store.approximate_now() - (self._runtime.monotonic() - started)
        except BackendUnavailable:  # the insert was not repeated, so the first error still holds
            raise first from first.__cause__
        try:
            again = self._store.insert(inserts)
        except BackendUnavailable as error:
            raise _unavailable(error, [i for i in error.rejected if i in first.rejected]) from error.__cause__
        return [_recognise(i, w, since) for i, w in zip(inserts, again, strict=True)]

    def _settle_insert(self, insert: Insert, written: WriteResult, silent: list[BackendUnavailable]) -> Verdict:
        """Decide the outcome of one job of a batch. `written` is the store's answer to its insert.

        If another job holds the key and is not sent yet, the producer of that other job may still withdraw it. To
        prevent this, that other job gets a new rev. If the record of a withdrawn job has the same id, this record is
        deleted and the insert is repeated. If the store does not answer one of these calls, the error is appended to
        `silent`. The jobs of the batch that need such a call after that are rejected with this error.
        """
        own = insert.record.id
        while True:
            found = written.record
            if written.error is not None:
                return Verdict(own, _Fate.REJECTED, written.error)
            mine = found is not None and found.rev == insert.rev
            held = written.outcome is WriteOutcome.KEY_HELD
            replaced = written.outcome is WriteOutcome.REPLACED or (held and mine)  # by this call or an earlier one
            if replaced and found is not None:
                publishes = found.state is JobState.QUEUED and not found.sent
                return Verdict(found.id, _Fate.ACCEPTED, publish=found if publishes else None, replaced=True)
            if mine or written.applied:
                publishes = mine and FollowUp.PUBLISH in insert.change.then
                return Verdict(own, _Fate.ACCEPTED, publish=found if publishes else None)
            if found is None or not (held or found.reason == "not_sent"):
                return Verdict(own, _Fate.TAKEN)
            if held and (found.sent or found.state is not JobState.QUEUED):
                return _held(insert, found)
            if silent:
                return Verdict(own, _Fate.REJECTED, silent[0])
            settled = self._change_found(insert, written, found, silent)
            if isinstance(settled, Verdict):
                return settled
            written = settled

    def _change_found(
        self, insert: Insert, written: WriteResult, found: Record, silent: list[BackendUnavailable]
    ) -> Verdict | WriteResult:
        """Take the step of `_settle_insert` that changes or deletes the record `found`. Returns the outcome, or the
        store's answer to go on with.
        """
        held, own = written.outcome is WriteOutcome.KEY_HELD, insert.record.id
        change = Change({"sends": found.sends}) if held else Change(delete=True)
        try:
            done = self._store.swap([Swap(found.id, found.rev, change, self._runtime.new_id())])[0]
        except BackendUnavailable as error:
            silent.append(error)
            return written
        if held and done.applied:
            return _held(insert, found)
        try:
            return self._insert([insert])[0]
        except BackendUnavailable as error:
            silent.append(error)
            return Verdict(own, _Fate.REJECTED if own in error.rejected else _Fate.UNKNOWN, error)

    def _publish(self, records: Sequence[Record]) -> dict[str, Verdict]:
        """Publish the messages of new records, and withdraw each job whose publish was not confirmed.

        Returns the outcome of each job whose publish was not confirmed, by id.
        """
        results = zip(records, self._operations.publish(records, new=True), strict=True)
        failed = [(record, sent) for record, sent in results if sent.outcome is not SendOutcome.SENT]
        if not failed:
            return {}
        certain = [sent.outcome is not SendOutcome.UNKNOWN for _, sent in failed]
        changes = [self._lifecycle.withdraw(certain=each) for each in certain]
        fates = self._withdraw([(record, change) for (record, _), change in zip(failed, changes, strict=True)])
        return {r.id: Verdict(r.id, fate, sent.error) for (r, sent), fate in zip(failed, fates, strict=True)}

    def _withdraw(self, changes: Sequence[tuple[Record, Change]]) -> Sequence[_Fate]:
        """Withdraw jobs. Returns the outcome of each job, in order.

        If another process has changed a job's record since its insert, that job is accepted. If the store does not
        answer, the outcome of all the jobs is UNKNOWN.
        """
        swaps = [Swap(record.id, record.rev, change, self._runtime.new_id()) for record, change in changes]
        started = self._runtime.monotonic()
        for last in (False, True):
            try:
                written = self._store.swap(swaps)
            except BackendUnavailable as error:
                if last or self._runtime.monotonic() - started > QUICK:
                    logger.warning("%d jobs could not be withdrawn and may run: %s", len(swaps), error)
                    break
                continue
            return [
                _Fate.REJECTED if w.applied or w.record is None or w.record.rev == swap.rev else _Fate.ACCEPTED
                for w, swap in zip(written, swaps, strict=True)
            ]
        return [_Fate.UNKNOWN] * len(swaps)


def _groups(inserts: Sequence[Insert]) -> Iterator[Sequence[Insert]]:
    """Split the inserts, in order, into groups of at most BATCH jobs and QUEUES queues.

    Jobs that follow others come first, in groups of their own: if one of them is refused, no job may be inserted that
    would release another job with its id.
    """
    start, queues, waiting = 0, set[str](), False
    for number, insert in enumerate(inserts):
        queues.add(insert.record.queue)
        if number - start == BATCH or len(queues) > QUEUES or (waiting and not insert.record.waits_for):
            yield inserts[start:number]
            start, queues = number, {insert.record.queue}
        waiting = insert.record.waits_for > 0
    if inserts:
        yield inserts[start:]


def _repeated(given: Sequence[str]) -> DuplicateJob:
    """The error for a call that was given an id more than once."""
    repeated = next(job_id for job_id, number in Counter(given).items() if number > 1)
    return DuplicateJob(
        f"the id {repeated!r} is given more than once in one call: give each job its own id; no job was enqueued",
        rejected=given,
    )


def _unavailable(error: BackendUnavailable, rejected: Sequence[str]) -> BackendUnavailable:
    """A copy of the error that contains the ids of the jobs that certainly were not inserted."""
    return type(error)(str(error), rejected=rejected)


def _bare_record(job: Job[Any]) -> Record:
    """The job's record before its first change."""
    draft = RecordDraft(
        id=job.id,
        task=job.task,
        queue=job.queue,
        payload=job.payload,
        state=JobState.SCHEDULED,
        priority=job.options.priority or 0,
        group=job.options.group,
        key=job.options.key,
        headers=dict(job.headers),
        options=job.options.for_record(),
        tags=job.options.tags or (),
        limit_key=job.limit_key,
    )
    if job.links is not None:
        draft.links, draft.waits_for = job.links, job.links.waits_for
        draft.tags = (*draft.tags, *job.links.own_tags())
        draft.reason = NOT_NEEDED if job.links.if_dead else None
    return frozen(draft, Record)


def _held(insert: Insert, holder: Record) -> Verdict:
    """The outcome for a job whose key the job `holder` has: the producer gets the handle of `holder`. In the mode
    "reject", the producer gets a DuplicateJob.
    """
    new = insert.record
    if insert.reject:
        text = f"job {holder.id} of task {new.task} has the key {new.key!r} already: wait until it is free"
        return Verdict(new.id, _Fate.TAKEN, DuplicateJob(text))
    _warn_of_other_arguments(new, holder)
    return Verdict(holder.id, _Fate.ACCEPTED, held=True)


def _warn_of_other_arguments(new: Record, holder: Record) -> None:
    """Log a warning if `new`, which is not added, has other arguments than `holder`, which holds its key.

    Does nothing if the holder's arguments are not known, because the store cannot read the holder's record.
    """
    if not holder.payload:
        return
    try:
        if new.payload == holder.payload or json.loads(new.payload) == json.loads(holder.payload):
            return
    except (ValueError, RecursionError):  # the payload of the holder is damaged
        pass
    logger.warning(
        "the new arguments for %s are dropped, because job %s holds the key %r with different arguments: "
        "check `created` of the handle",
        *(new.task, holder.id, new.key),
    )


def _recognise(insert: Insert, written: WriteResult, since: float) -> WriteResult:
    """Correct the answer to a repeated insert, whose first call may have been applied although it raised an error.

    The first call counts as applied if the record with this id was enqueued at `since` or later, with the same task,
    queue and payload. `since` is the store's time before the first call. The rev cannot show this, because another
    process may have changed the record since then.
    """
    new, found = insert.record, written.record
    if written.outcome is not WriteOutcome.REFUSED or found is None or found.enqueued_at < since:
        return written
    same = (found.task, found.queue, found.payload) == (new.task, new.queue, new.payload)
    if insert.replace is not None:  # another producer may have replaced it meanwhile
        same = same or (found.task, found.key) == (new.task, new.key)
    return WriteResult(WriteOutcome.APPLIED, found) if same else written

"""The lifecycle of a job: pure decisions about its record, the same on every backend and store.

In this package, read this file first. The methods of `Lifecycle` return a `Change` to write, or a `Refusal`. Most of
them take the record as it was read. No method does I/O, reads a clock or draws a random number: `now` and `random` are
arguments, and the store adds its own time to the durations in a `Change`. `docs/protocol.md` explains why each rule
exists.

    scheduled ──due──► queued ──begin──► running ──ok──────────► succeeded
        ▲                 ▲                 │ ├──error, budget left─► retrying ──due──► queued
        └── new(delay)    └── new           │ ├──error, none left───► dead ──retry──► queued
                                            │ └──lease lapsed───────► queued (crash counted) or dead (limit)
       scheduled | queued | retrying | running ──cancel──► cancelled ──retry──► queued
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from queueport.engine.rules import AttemptOutcome, Refusal, Rules, Succeeded
from queueport.errors import PublishFailed, QueueportError, UnknownTask, WorkerLost, bases_of, message_of, type_of
from queueport.spi.record import Change, FollowUp, Record, Release
from queueport.spi.storage import is_held, is_passed
from queueport.spi.store import LIMITED, Replacement
from queueport.status import WAITING, JobError, JobState

__all__ = ["NOT_NEEDED", "PUBLISH_FAILED", "Lifecycle", "publish_failed"]

ERROR_HISTORY = 10
"""The maximum number of errors that a record keeps, so that the record stays small enough for any store."""
KEEP_CANCELLED = 86_400.0
"""Seconds for which cancelled jobs are kept if succeeded jobs are kept by count."""
UNKNOWN_CHECKS = 4
"""About how many times within `unknown_after` the dispatcher checks whether a live worker knows the task of a job."""
RESEND_AFTER = 1.0
"""Seconds after which a dispatcher handles a job that a worker has received but not begun, because the worker takes no
more jobs or does not know the task. For an unknown task, the time is shorter if `unknown_after` is short."""
PUBLISH_FAILED = "queueport.errors.PublishFailed"
"""The type of the error of a job whose message the backend did not confirm."""
PAUSED = "paused"
"""The `reason` of a queued job that rests in the store, because its queue is paused."""
REST = 600.0
"""Seconds after which a dispatcher checks a resting job, in case nobody has woken it when its queue was resumed."""
HELD = 600.0
"""Seconds after which a dispatcher checks a held job, in case no worker knows its task, and so its limit, any more."""
PASSED = 5.0
"""Seconds after which a job that was let on, and has not begun, loses its place in the limit to a held job."""
COMPLETE_WITHIN = 3600.0
"""Seconds that a producer has to insert all jobs of a batch or chain, before a dispatcher cancels those that wait."""
NEEDED = 600.0
"""Seconds after which a dispatcher checks again whether the result of a job is still needed."""
PARENT_CANCELLED = "parent_cancelled"
"""The `reason` of a job that is cancelled because the job that it follows was cancelled or discarded."""
NOT_NEEDED = "not_needed"
"""The `reason` of the `on_dead` job of a batch, until a job of the batch dies."""
MAX_DOUBLINGS = 32
"""The maximum number of times that a wait is doubled, so that it stays a finite number."""


class Lifecycle:
    """The decisions about jobs under one set of rules, which are its only state. Thread-safe.

    `Operations` makes it. `Enqueue`, the workers and `DeadLetters` call it, too.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    # -- into the queue ----------------------------------------------------------------------------

    def enter_queued(self, expires_at: float | None = None, values: Mapping[str, Any] | None = None) -> Change:
        """Put the job into its queue. The process that writes this change has the claim and must publish the message.

        If the store is the queue, there is no message, and workers cannot take expired jobs. `wake_at` then makes the
        dispatcher cancel the job when it expires.
        """
        fresh = {"state": JobState.QUEUED, "token": None, "interrupted": False, "unknown_since": None}
        queued = {**fresh, "sends": 0, "sent_at": None, **(values or {})}
        if not self.rules.carries:
            return Change({**queued, "sent": True, "wake_at": expires_at}, {"queued_at": 0.0})
        stamp = {"queued_at": 0.0, "wake_at": self.rules.claim}
        return Change({**queued, "sent": False}, stamp, then=frozenset({FollowUp.PUBLISH}))

    def new(self, *, delay: float | None, expires: float | None) -> Change:
        """The first change of a new job: queued, or scheduled if `delay` is greater than 0."""
        stamp = {"enqueued_at": 0.0}
        if delay is not None:
            stamp["run_at"] = delay
        if expires is not None:
            stamp["expires_at"] = expires
        if delay is not None and delay > 0:
            return Change({"state": JobState.SCHEDULED}, {**stamp, "wake_at": delay})
        if expires is not None and not self.rules.carries:
            stamp["wake_at"] = expires
        queued = self.enter_queued()
        return replace(queued.with_next(Change(stamp=stamp)), then=queued.then)

    def replace(self, record: Record, new: Change) -> Replacement:
        """What an insert of `record` with the first change `new` does to a job that holds its key.

        A job that waits becomes as new, with the fields of `record`. It keeps its id, its attempts and its errors. If
        its message was sent and is still right, it keeps its place, unless it now has to wait for its time. A running
        job only gives up its key.
        """
        names = ("payload", "queue", "priority", "group", "headers", "options", "limit_key")
        fresh = {"failures": 0, "crashes": 0, "progress": None, "reason": None, "run_at": None, "expires_at": None}
        values = {**{name: getattr(record, name) for name in names}, **fresh}
        unsent = dict.fromkeys(("token", "unknown_since", "sent_at", "wake_at", "held_by"))
        unsent |= {"interrupted": False, "sent": False, "sends": 0}
        first = replace(new, stamp={name: at for name, at in new.stamp.items() if name != "enqueued_at"})
        waiting = replace(Change({**values, **unsent}).with_next(first), then=new.then)
        sent = None
        if new.set["state"] is JobState.QUEUED:
            times = ("run_at", "expires_at", *(() if self.rules.carries else ("wake_at",)))
            given, stamp = ({name: kept[name] for name in times if name in kept} for kept in (new.set, new.stamp))
            sent = Change(values).with_next(Change(given, stamp))
        return Replacement(waiting, sent, Change({"key": None}))

    def new_dead(self, error: JobError) -> Change:
        """The first change of a job that an operator adds to the dead letters. No on_dead hook is called."""
        change = self._dead({"errors": (error,)})
        return replace(change, stamp={**change.stamp, "enqueued_at": 0.0}, then=change.then - {FollowUp.CALL_ON_DEAD})

    def mark(self, record: Record) -> Change:
        """Record that the backend has taken the message. If the write is refused, the record was changed or deleted."""
        confirmed = {"errors": _past(record)} if publish_failed(record) else {}
        change = Change({**_sent(record.sends + 1), **confirmed}, {"sent_at": 0.0})
        return change.with_next(Change(stamp={"wake_at": PASSED})) if is_passed(record) else change

    def mark_new(self, first: Change) -> Change:
        """Add the mark to the first change of a new job, whose insert also publishes its message."""
        return first.with_next(Change(_sent(1), {"sent_at": 0.0}))

    def send_unknown(self, record: Record, *, why: str, now: float) -> Change:
        """Count a publish with an unknown outcome. Each such publish doubles the wait for the next.

        The wait is at most `lost_after`, but at least the length of a claim. Here and below, `why` is the text of the
        backend's error, and `now` is the store's time of the claim.
        """
        doubled = self.rules.claim * 2.0 ** min(record.sends + 1, MAX_DOUBLINGS)
        wait = min(doubled, max(self.rules.lost_after, self.rules.claim))
        return Change({"sends": record.sends + 1, "errors": _unconfirmed(record, why, now)}, {"wake_at": wait})

    def send_failed(self, record: Record, *, why: str, now: float) -> Change:
        """Make the job wait for its next publish, because its message certainly did not arrive.

        The wait is as long as the job has been queued: at least the length of a claim, at most `lost_after`.
        """
        waited = 0.0 if record.queued_at is None else now - record.queued_at
        wait = max(self.rules.claim, min(waited, self.rules.lost_after))
        return Change({"errors": _unconfirmed(record, why, now)}, {"wake_at": wait})

    def send_refused(self, record: Record, *, why: str, now: float) -> Change:
        """Make a queued job dead, because the backend refuses its message for good."""
        return self._dead({"errors": _unconfirmed(record, why, now)}, record)

    def withdraw(self, *, certain: bool) -> Change:
        """Withdraw a new job whose publish failed: delete it if its message has certainly not arrived (`certain`), or
        cancel it if the outcome is unknown.

        Write the change with the rev of the insert. If the write is refused, another process has changed the job. The
        job is then accepted, and the producer must not raise.
        """
        return Change(delete=True) if certain else self._cancelled("not_sent", None)

    def resend(self, record: Record, *, frontier: float) -> Change | Refusal:
        """Publish a queued job again if its message should have arrived before `frontier`; otherwise return a Refusal.

        The first message may take 2 x `lost_after` seconds to arrive. Each further message may take twice as long as
        the message before it.
        """
        return self._resend(record, self.rules.lost_after * 2.0 ** min(record.sends, MAX_DOUBLINGS), frontier)

    def resend_fetched(self, record: Record, *, before: float) -> Change | Refusal:
        """Publish a queued job again if its message was sent before `before`, because a lost worker may have fetched
        this message; otherwise return a Refusal.
        """
        return self._resend(record, 0.0, before)

    def _resend(self, record: Record, wait: float, before: float) -> Change | Refusal:
        if record.state is not JobState.QUEUED or not record.sent or record.sent_at is None:
            return Refusal.NOT_ALLOWED
        if record.sent_at + wait >= before:
            return Refusal.NOTHING
        return Change({"sent": False}, {"wake_at": self.rules.claim}, then=frozenset({FollowUp.PUBLISH}))

    # -- an attempt --------------------------------------------------------------------------------

    def begin(self, *, token: str, worker: str, defaults: dict[str, Any]) -> Change:
        """Begin a job: it is running, with this token and a lease.

        The store applies this change only if the job is queued and has not expired. It also adds 1 to `attempts`.
        """
        attempt = {"state": JobState.RUNNING, "token": token, "worker": worker, "defaults": defaults}
        stamp = {"started_at": 0.0, "wake_at": self.rules.lease}
        return Change({**attempt, "progress": None, "unknown_since": None, "reason": None}, stamp)

    def begin_refused(self, record: Record, *, token: str, now: float) -> Change | Refusal:
        """Decide what happens to a job whose begin the store refused.

        Returns NOTHING if an earlier call with the same token, whose answer was lost, has begun the job. Cancels a
        queued job that has expired. `record` is the record that the store returned with the refusal. `now` is the
        store's time, which the caller must read after it has received the record.
        """
        if record.state is JobState.RUNNING and record.token == token:
            return Refusal.NOTHING
        if record.state is JobState.QUEUED and record.expired(now):
            return self._cancelled("expired", record)
        return Refusal.FINAL if record.state.final else Refusal.NOT_MINE

    def finish(self, record: Record, *, token: str, outcome: AttemptOutcome, random: float) -> Change | Refusal:
        """Record how an attempt ended. `random`, in [0, 1), determines the jitter of the wait before a retry.

        A job with a cancel request becomes cancelled, whatever the outcome is.

        Returns NOT_MINE if the record has another token, and NOTHING if an earlier call, whose answer was lost, has
        already recorded the end. To make this recognisable, the record keeps the token of an ended attempt until the
        job is queued again.
        """
        if record.token != token:
            return Refusal.NOT_MINE
        if record.state is not JobState.RUNNING:
            return Refusal.NOTHING
        if record.cancel_requested:
            return self._cancelled("cancelled", record)
        if isinstance(outcome, Succeeded):
            values = {"state": JobState.SUCCEEDED, "result": outcome.result}
            rules = self.rules
            keep = record.option("keep_result", rules.keeps(record) if rules.keep_named else rules.keep_succeeded)
            stamp = {"finished_at": 0.0}
            if "unique_for" in record.options:
                stamp["key_until"] = record.options["unique_for"]
            if keep is None:  # no time limit: the dispatcher deletes the oldest jobs beyond a number
                change = Change({**values, "wake_at": None}, stamp, 1)
            else:
                change = Change(values, {**stamp, "wake_at": keep}, 1)
            return change if record.links is None else self._releasing(record, change)
        policy = record.retry_policy(self.rules.retry)
        failures = record.failures + int(outcome.burns)
        failed = {"failures": failures, "errors": _history(record, outcome.error)}
        again = not outcome.fatal and (outcome.delay is not None or policy.allows(outcome.names))
        if again and (not outcome.burns or failures < policy.max_attempts):
            wait = policy.delay(max(failures, 1), random) if outcome.delay is None else outcome.delay
            return Change({"state": JobState.RETRYING, **failed}, {"wake_at": wait}, failed=int(outcome.burns))
        return self._dead(failed, record, failed=1)

    def interrupt(self, record: Record, *, token: str, stopped: bool) -> Change | Refusal:
        """End an attempt because its worker stops: queue the job again, and count neither a failure nor a crash.

        If `stopped` is False, the task's code still runs, or the job is a suspect whose task has not started. The job
        then stays `running` with its lease. When the lease lapses, a dispatcher queues the job again without counting a
        crash. In both cases, a job with a cancel request becomes cancelled instead.
        """
        if record.token != token:
            return Refusal.NOT_MINE
        if record.state is not JobState.RUNNING:
            return Refusal.NOTHING
        if not stopped:
            return Change({"interrupted": True})
        if record.cancel_requested:
            return self._cancelled("cancelled", record)
        return self.enter_queued(record.expires_at)

    def start_suspect(self, record: Record, *, token: str) -> Change | Refusal:
        """Make the lapse of the lease count as a crash, because the task of a suspect starts now.

        While the suspect waited for other attempts to end, a lapse did not count as a crash, because `interrupt` had
        set `interrupted`.
        """
        if record.token != token or record.state is not JobState.RUNNING:
            return Refusal.NOT_MINE
        return Change({"interrupted": False}) if record.interrupted else Refusal.NOTHING

    def task_unknown(self, record: Record) -> Change | Refusal:
        """Make the job wait in the store, because the worker that received its message does not know the task.

        If the store is the queue, there is no message, and the reason is that no live worker of the queue knows the
        task. `sends` is set to 0, because a message that a worker received is not lost.
        """
        if record.state is not JobState.QUEUED:
            return Refusal.NOT_ALLOWED
        wait = {"wake_at": min(RESEND_AFTER, self.rules.unknown_after / UNKNOWN_CHECKS)}
        if record.unknown_since is None:
            wait["unknown_since"] = 0.0
        return Change({"sent": False, "sends": 0}, wait)

    def release(self, record: Record) -> Change | Refusal:
        """Hand the job back, because the worker that received its message takes no more jobs, or the queue is paused.

        After RESEND_AFTER seconds, a dispatcher publishes the job again, or lets it rest.
        """
        queued = record.state is JobState.QUEUED
        return Change({"sent": False, "sends": 0}, {"wake_at": RESEND_AFTER}) if queued else Refusal.NOT_ALLOWED

    def wake(self, record: Record) -> Change | Refusal:
        """Make a resting job due now, because its queue is no longer paused; see `dispatch`."""
        rests = record.state is JobState.QUEUED and not record.sent and record.reason == PAUSED
        return Change({"reason": None}, {"wake_at": 0.0}) if rests else Refusal.NOT_ALLOWED

    # -- limits ------------------------------------------------------------------------------------

    def hold(self) -> Change:
        """Make a job wait for a limit that does not let it begin. The store sets the limit, and wakes the job if it
        expires. The job burns no budget and keeps its place: `queued_at` stays.
        """
        return Change({"sent": False, "sends": 0, "reason": LIMITED}, {"wake_at": HELD})

    def let_on(self, record: Record, now: float, *, paused: bool) -> Change | Refusal:
        """Let a held job begin before the jobs that are still held. The caller has the claim and must publish it.

        `now` is the store's time. If the queue of the job is `paused`, the job waits for the end of the pause, and no
        more for the limit, so that jobs of other queues can begin.
        """
        if not is_held(record):
            return Refusal.NOT_ALLOWED
        if self.rules.carries:
            if paused:
                return Change({"reason": PAUSED, "held_by": None}).with_next(_checked_in(REST, record, now))
            return Change({"reason": None}, {"wake_at": self.rules.claim}, then=frozenset({FollowUp.PUBLISH}))
        queued = {"sent": True, "reason": None}
        if paused:
            return Change({**queued, "held_by": None, "wake_at": record.expires_at})
        return Change(queued).with_next(_checked_in(PASSED, record, now))

    # -- requests of callers and operators ---------------------------------------------------------

    def cancel(self, record: Record, *, interrupts: bool = True) -> Change | Refusal:
        """Cancel a waiting job, or record a cancel request for a running job.

        With `interrupts`, the worker then interrupts the task's code; otherwise the task must check for the request.
        """
        if record.state.final:
            return Refusal.FINAL
        if record.state in WAITING:
            return self._cancelled("cancelled", record)
        if record.cancel_requested and (record.cancel_interrupts or not interrupts):
            return Refusal.NOTHING
        return Change({"cancel_requested": True, "cancel_interrupts": interrupts})

    def purge(self, record: Record) -> Change | Refusal:
        """Cancel the job if it is waiting. A running job is not affected."""
        return self._cancelled("purged", record) if record.state in WAITING else Refusal.NOT_ALLOWED

    def retry(self, record: Record) -> Change | Refusal:
        """Give a dead or cancelled job a new life, with fresh budgets and no expiry. Queue a scheduled or retrying job
        at once.

        For a dead job, the follow-up UNBURY removes the dead-letter copy of the previous life.
        """
        waits = {"waits_for": 0, "reason": None} if record.waits_for else {}
        if record.state in (JobState.SCHEDULED, JobState.RETRYING):
            return self.enter_queued(record.expires_at, waits)
        if record.state not in (JobState.DEAD, JobState.CANCELLED):
            return Refusal.NOT_ALLOWED
        budgets = {"life": record.life + 1, "failures": 0, "crashes": 0, **waits}
        cleared = {"cancel_requested": False, "buried": False}
        forgotten = dict.fromkeys(("expires_at", "finished_at", "reason", "progress", "key_until"))
        change = self.enter_queued(None, {**budgets, **cleared, **forgotten})
        return self._unbury(change) if record.state is JobState.DEAD else change

    def retry_found(self, record: Record) -> Change | Refusal:
        """`retry` for a job that a filter has found.

        Refuses a job that waits for others, or was cancelled while it waited, and the `on_dead` job of a batch of which
        no job has died. Such a job runs before its turn only if somebody chooses it by its id.
        """
        waits = record.state in (JobState.SCHEDULED, JobState.CANCELLED) and record.waits_for > 0
        unneeded = record.state is JobState.CANCELLED and record.reason == NOT_NEEDED
        return Refusal.NOT_ALLOWED if waits or unneeded else self.retry(record)

    def redrive(self, record: Record, *, life: int) -> Change | Refusal:
        """Retry a job whose dead-letter copy was redriven. The job must be dead in `life`, the copy's life."""
        return self.retry(record) if _dead_in(record, life) else Refusal.NOT_ALLOWED

    def bury_again(self, record: Record, *, life: int) -> Change | Refusal:
        """Bury a job again: its copy was redriven, but the job cannot be retried, because another job holds its key."""
        bury = Change({"buried": False}, {"wake_at": self.rules.claim}, then=frozenset({FollowUp.BURY}))
        return bury if _dead_in(record, life) else Refusal.NOT_ALLOWED

    def discard(self, record: Record) -> Change | Refusal:
        """Remove a job from the dead letters: it becomes cancelled, and is kept as long as other cancelled jobs."""
        values = {"state": JobState.CANCELLED, "reason": "discarded", "buried": False}
        change = Change(values, {"wake_at": self._keep()})  # not counted in `processed`, as the death was
        return self._unbury(self._releasing(record, change)) if record.state is JobState.DEAD else Refusal.NOT_ALLOWED

    def mark_buried(self, record: Record) -> Change:
        """Record that a copy is in the backend's dead letters.

        If the write is refused because the job is no longer dead in this life, the caller removes the copy.
        """
        return Change({"buried": True, "wake_at": self._dead_until(record)})

    def bury_failed(self, record: Record, *, now: float) -> Change:
        """Make the job wait for its next burial, because a burial failed.

        The wait is as long as the job has been dead, but at least the length of a claim. `now` is the store's time of
        the claim.
        """
        waited = now - (record.finished_at or 0.0)
        return Change(stamp={"wake_at": max(self.rules.claim, waited)})

    def bury_refused(self, record: Record) -> Change:
        """Stop trying to bury the job, because the backend refuses its copy for good. The job stays dead."""
        return Change({"wake_at": self._dead_until(record)})

    # -- the dispatcher ----------------------------------------------------------------------------

    def dispatch(
        self,
        record: Record,
        *,
        now: float,
        known: Callable[[Record], bool],
        seconds: float = 0.0,
        paused: bool = False,
        needed: bool = False,
    ) -> Change:
        """Decide what the dispatcher does with a due record.

        `record` is as `claim_due` returned it, `now` is the store's time of that call, and `seconds` is how long the
        call took. `known` tells whether a live worker of the job's queue knows the job's task. With
        `needed`, a job that follows this ended one may still read its result. If the write is refused, the dispatcher
        leaves the job to the process that has changed it.

        If the queue of the job is `paused`, the job is not published. Instead it rests in the store, at most REST
        seconds or until it expires: queued, not sent, with the reason PAUSED.
        """
        if needed:
            return Change(stamp={"wake_at": NEEDED})
        change = self._dispatch(record, now, (lambda _: True) if paused else known, seconds)
        if not paused or FollowUp.PUBLISH not in change.then:
            return change
        return change.with_next(Change({"reason": PAUSED})).with_next(_checked_in(REST, record, now))

    def _dispatch(self, record: Record, now: float, known: Callable[[Record], bool], seconds: float) -> Change:
        if record.state in WAITING and record.expired(now):
            return self._cancelled("expired", record)
        if record.state in (JobState.SCHEDULED, JobState.RETRYING):
            return self._due(record)
        if record.state is JobState.QUEUED:
            return self._dispatch_queued(record, now, known)
        if record.state is JobState.RUNNING:
            if seconds > self.rules.lease / 3:  # heartbeats were probably as slow as this claim: give workers more time
                return Change(stamp={"wake_at": self.rules.lease / 3})
            return self._dispatch_lapsed(record, now)
        if record.state is JobState.DEAD and self.rules.buries and not record.buried and now < self._dead_until(record):
            return Change(then=frozenset({FollowUp.BURY}))
        then = frozenset({FollowUp.UNBURY}) if record.buried else frozenset[FollowUp]()
        return self._releasing(record, Change(delete=True, then=then))

    def _due(self, record: Record) -> Change:
        """Queue a job whose time has come. A job that follows others is cancelled instead, if it must not run."""
        if record.waits_for:  # its producer has not said in time that all jobs were inserted
            return self._cancelled("incomplete", record)
        if record.state is JobState.SCHEDULED and record.reason is not None:
            return self._cancelled(record.reason, record)
        return self.enter_queued(record.expires_at)

    def _dispatch_queued(self, record: Record, now: float, known: Callable[[Record], bool]) -> Change:
        if record.sent:
            # The job only waits for a worker. If the store is the queue, a dispatcher must cancel it when it expires.
            # If it was let on, it has not begun for PASSED seconds, and held jobs may now begin before it.
            passed = {"held_by": None} if record.held_by is not None else {}
            return Change({"wake_at": None if self.rules.carries else record.expires_at, **passed})
        if is_held(record) and known(record):  # a worker that knows the limit lets the job on
            return _checked_in(HELD, record, now)
        if record.unknown_since is not None and not known(record):
            if now - record.unknown_since < self.rules.unknown_after:
                return Change(stamp={"wake_at": self.rules.unknown_after / UNKNOWN_CHECKS})
            message = (
                f"no worker of queue {record.queue!r} knows the task {record.task!r}; start one that imports it, then "
                "retry the job"
            )
            error = _error(UnknownTask(message), record, now)
            return self._dead({"errors": _history(record, error), "unknown_since": None}, record)
        held = {"reason": None, "held_by": None} if is_held(record) else {}
        if not self.rules.carries:
            return Change({"sent": True, "wake_at": record.expires_at, "unknown_since": None, **held})
        if record.unknown_since is not None or record.reason is not None:
            noted = {"unknown_since": None, "reason": None, **held}
            return Change(noted, {"wake_at": self.rules.claim}, then=frozenset({FollowUp.PUBLISH}))
        return Change(then=frozenset({FollowUp.PUBLISH}))

    def _dispatch_lapsed(self, record: Record, now: float) -> Change:
        """End an attempt whose lease has lapsed. Clears the token, so that the attempt's later writes are rejected."""
        if record.cancel_requested:
            return self._cancelled("cancelled", record, token=None)
        if record.interrupted:
            return self.enter_queued(record.expires_at)
        message = (
            f"worker {record.worker} was lost while it ran attempt {record.attempts}: it sent no heartbeat in time, "
            "for example because it was killed or could not reach the store"
        )
        crashes = record.crashes + 1
        crashed = {"crashes": crashes, "errors": _history(record, _error(WorkerLost(message), record, now))}
        if crashes < record.option("crash_limit", self.rules.crash_limit):
            return replace(self.enter_queued(record.expires_at, crashed), failed=1)
        return self._dead({**crashed, "token": None}, record, failed=1)

    # -- final states ------------------------------------------------------------------------------

    def _dead(self, values: Mapping[str, Any], record: Record | None = None, *, failed: int = 0) -> Change:
        stamp = {"finished_at": 0.0, "wake_at": self.rules.claim if self.rules.buries else self.rules.keep_dead}
        if record is not None and "unique_for" in record.options:
            stamp["key_until"] = record.options["unique_for"]
        then = frozenset({FollowUp.CALL_ON_DEAD, FollowUp.BURY} if self.rules.buries else {FollowUp.CALL_ON_DEAD})
        change = Change({**values, "state": JobState.DEAD, "buried": False}, stamp, 1, failed, then=then)
        if record is None or record.links is None or record.links.on_dead is None:
            return change
        started = Release(record.links.on_dead, all=True, set={"reason": None}, after=record.links.batch)
        return replace(change, releases=(started,))

    def _cancelled(self, reason: str, record: Record | None, **values: Any) -> Change:
        stamp = {"finished_at": 0.0, "wake_at": self._keep()}
        change = Change({**values, "state": JobState.CANCELLED, "reason": reason, "held_by": None}, stamp, 1)
        return change if record is None else self._releasing(record, change)

    def _releasing(self, record: Record, change: Change) -> Change:
        """Add to a change that ends a job for good what it means for the jobs that wait for it.

        A job that follows one job is cancelled if that job has not succeeded. For a job that follows a batch, only the
        number of ended jobs counts.
        """
        links = record.links
        if links is None or record.released:
            return change
        broken = links.batch is None and change.set.get("state") is not JobState.SUCCEEDED
        values = {"reason": PARENT_CANCELLED} if broken else {}
        by = record.id if links.batch is None else links.batch
        found = [] if links.then is None else [Release(links.then, set=values, after=by)]
        found += [] if links.on_dead is None else [Release(links.on_dead, after=by)]
        if not found:
            return change
        after = change.set if change.delete else {**change.set, "released": True}
        start = frozenset({FollowUp.START}) if links.batch is None else frozenset[FollowUp]()
        return replace(change, set=after, releases=tuple(found), then=change.then | start)

    # -- jobs that follow others -------------------------------------------------------------------

    def new_waiting(self, *, expires: float | None) -> Change:
        """The first change of a job that follows others. It is cancelled if it is not `complete` in time."""
        stamp = {"enqueued_at": 0.0, "wake_at": COMPLETE_WITHIN}
        return Change({"state": JobState.SCHEDULED}, stamp if expires is None else {**stamp, "expires_at": expires})

    def complete(self, record: Record) -> Change | Refusal:
        """Let a job wait without a limit, because all jobs that it follows were inserted.

        Returns FINAL if a dispatcher has cancelled it because this took too long.
        """
        if record.state is JobState.CANCELLED and record.reason == "incomplete":
            return Refusal.FINAL
        return Change({"wake_at": None}) if self._waits(record) else Refusal.NOTHING

    def give_up(self, record: Record) -> Change | Refusal:
        """Delete a job that waits for others, because not all of them could be enqueued."""
        return Change(delete=True) if self._waits(record) else Refusal.NOT_ALLOWED

    def cancel_waiting(self, record: Record) -> Change | Refusal:
        """Cancel a job that waits for others."""
        return self._cancelled("cancelled", record) if self._waits(record) else Refusal.NOT_ALLOWED

    def start(self, record: Record) -> Change | Refusal:
        """Queue or cancel a job at once that the end of another one has released."""
        released = record.state is JobState.SCHEDULED and record.links is not None and not record.waits_for
        return self._due(record) if released else Refusal.NOT_ALLOWED

    @staticmethod
    def _waits(record: Record) -> bool:
        return record.state is JobState.SCHEDULED and record.waits_for > 0

    def _keep(self) -> float:
        """Seconds for which the record of a cancelled job is kept."""
        return KEEP_CANCELLED if self.rules.keep_succeeded is None else self.rules.keep_succeeded

    def _dead_until(self, record: Record) -> float:
        """The time at which the retention of a dead job is over."""
        return (record.finished_at or 0.0) + self.rules.keep_dead

    def _unbury(self, change: Change) -> Change:
        return replace(change, then=change.then | {FollowUp.UNBURY}) if self.rules.buries else change


def _checked_in(seconds: float, record: Record, now: float) -> Change:
    """Let a dispatcher check a waiting job in so many seconds, or when it expires if that is sooner."""
    ends = record.expires_at
    sooner = ends is not None and ends <= now + seconds
    return Change({"wake_at": ends}) if sooner else Change(stamp={"wake_at": seconds})


def _dead_in(record: Record, life: int) -> bool:
    return record.state is JobState.DEAD and record.life == life


def _error(error: QueueportError, record: Record, now: float) -> JobError:
    at = datetime.fromtimestamp(now, UTC)
    return JobError(type_of(error), message_of(error), "", at, record.attempts, bases_of(error))


def _sent(sends: int) -> dict[str, Any]:
    return {"sent": True, "sends": sends, "wake_at": None}


def publish_failed(record: Record) -> bool:
    """True if the newest error of the record is a PublishFailed."""
    return bool(record.errors) and record.errors[-1].type == PUBLISH_FAILED


def _past(record: Record) -> tuple[JobError, ...]:
    """The errors to keep when another error or a successful publish follows: all but a PublishFailed at the end."""
    return record.errors[:-1] if publish_failed(record) else record.errors


def _unconfirmed(record: Record, why: str, now: float) -> tuple[JobError, ...]:
    return _history(record, _error(PublishFailed(why), record, now))


def _history(record: Record, error: JobError) -> tuple[JobError, ...]:
    return (*_past(record), error)[-ERROR_HISTORY:]

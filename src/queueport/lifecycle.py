"""The life of a job: pure decisions over its record, for every backend and every store. Read this file first.

Each function takes the rules in force and a record as it was read, and answers with a `Change` to swap in, or with a
`Refusal`. No I/O, no clock, no randomness: durations count from the store's own now, `now` and `random` are passed in.

    scheduled ──due──► queued ──begin──► running ──ok──────────► succeeded
        ▲                 ▲                 │ ├──error, tries left──► retrying ──due──► queued
        └── new(delay)    └── new           │ ├──error, none left───► dead ──retry──► queued
                                            │ └──lease lapsed───────► queued (crash counted) or dead (limit)
       scheduled | queued | retrying | running ──cancel──► cancelled ──retry──► queued
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from queueport.record import Change, Record, Then
from queueport.rules import Failed, Outcome, Refusal, Rules, Succeeded
from queueport.status import WAITING, JobError, JobState

__all__ = ["Failed", "Outcome", "Refusal", "Rules", "Succeeded"]

ERROR_HISTORY = 10
"""Errors kept in a record, so that it stays small enough for any store."""
CANCELLED_FOR = 86_400.0
"""Retention of cancelled jobs, in seconds, where succeeded ones are kept by count."""
UNKNOWN_CHECKS = 4
"""How often within `unknown_after` it is looked whether a worker knows the task by now."""
HANDED_ON = 1.0
"""Seconds after which a job that met the wrong worker goes out again, if a live one knows its task."""


def enter_queued(rules: Rules, expires_at: float | None = None, values: Mapping[str, Any] | None = None) -> Change:
    """To its queue. Where messages are carried, the one who swaps this in has the claim and publishes.

    Where the store is the queue, nobody is handed an expired job, so the dispatcher is woken to cancel it.
    """
    fresh = {"state": JobState.QUEUED, "token": None, "interrupted": False, "sends": 0, "unknown_since": None}
    queued = {**fresh, **(values or {})}
    if not rules.carries:
        return Change({**queued, "sent": True, "wake_at": expires_at}, {"queued_at": 0.0, "sent_at": 0.0})
    stamp = {"queued_at": 0.0, "wake_at": rules.claim}
    return Change({**queued, "sent": False, "sent_at": None}, stamp, then=frozenset({Then.PUBLISH}))


def new(rules: Rules, *, delay: float | None, expires: float | None) -> Change:
    """A new job's first change, over a bare record: queued, or scheduled when `delay` is still to come."""
    stamp = {"enqueued_at": 0.0}
    if delay is not None:
        stamp["run_at"] = delay
    if expires is not None:
        stamp["expires_at"] = expires
    if delay is not None and delay > 0:
        return Change({"state": JobState.SCHEDULED}, {**stamp, "wake_at": delay})
    if expires is not None and not rules.carries:
        stamp["wake_at"] = expires
    queued = enter_queued(rules)
    values = {name: value for name, value in queued.set.items() if name not in stamp}
    return replace(queued, set=values, stamp={**queued.stamp, **stamp})


def new_dead(rules: Rules, error: JobError) -> Change:
    """A job that is put straight into the dead letters, by hand."""
    change = _dead(rules, {"errors": (error,)})
    return replace(change, stamp={**change.stamp, "enqueued_at": 0.0}, then=change.then - {Then.TELL_DEATH})


def mark(record: Record) -> Change:
    """The backend has taken the message. Swapped on the rev of my own insert or claim; a refusal is ignored."""
    return Change({"sent": True, "sends": record.sends + 1, "wake_at": None}, {"sent_at": 0.0})


def send_unknown(rules: Rules, record: Record) -> Change:
    """Nobody knows whether the backend took it: the claim doubles, up to `lost_after`."""
    wait = min(rules.claim * 2.0 ** min(record.sends + 1, 32), max(rules.lost_after, rules.claim))
    return Change({"sends": record.sends + 1}, {"wake_at": wait})


def withdraw(rules: Rules, *, certain: bool) -> Change:
    """My publish failed: the record goes, or, where the outcome is unknown, it is cancelled before I raise.

    Swapped on the rev of my own insert. Refused: somebody took the job up; it is accepted, and I must not raise.
    """
    return Change(delete=True) if certain else _cancelled(rules, "not_sent")


def begin(rules: Rules, *, token: str, worker: str, defaults: dict[str, Any]) -> Change:
    """Start an attempt. The store applies it only to a queued job that has not expired, and adds one to `attempts`."""
    mine = {"state": JobState.RUNNING, "token": token, "worker": worker, "defaults": defaults}
    return Change({**mine, "progress": None, "unknown_since": None}, {"started_at": 0.0, "wake_at": rules.lease})


def begun(rules: Rules, record: Record | None, *, token: str, now: float) -> Change | Refusal:
    """What to do where begin was not applied: NOTHING means it is mine, begun by a call whose answer was lost.

    `record` is as the store found it then, and `now` the store's clock not before that.
    """
    if record is None:
        return Refusal.GONE
    if record.state is JobState.RUNNING and record.token == token:
        return Refusal.NOTHING
    if record.state is JobState.QUEUED and _expired(record, now):
        return _cancelled(rules, "expired")
    return Refusal.FINAL if record.state.final else Refusal.NOT_MINE


def redrive(rules: Rules, record: Record | None, *, life: int) -> Change | Refusal:
    """A buried copy came back by the backend's own tools: a retry(), if the job is dead in that same life."""
    if record is None:
        return Refusal.GONE
    if record.state is not JobState.DEAD or record.life != life:
        return Refusal.NOT_ALLOWED
    return retry(rules, record)


def finish(rules: Rules, record: Record | None, *, token: str, outcome: Outcome, random: float) -> Change | Refusal:
    """End an attempt whose code has stopped. `random` is in [0, 1).

    NOTHING: an earlier call of mine was applied. The token stays for that, until the job is queued again.
    """
    if record is None or record.token != token or record.state is not JobState.RUNNING:
        return _not_running(record, token)
    if record.cancel_requested:
        return _cancelled(rules, "cancelled")
    if isinstance(outcome, Succeeded):
        values = {"state": JobState.SUCCEEDED, "result": outcome.result}
        return _kept(values, record.option("keep_result", rules.keep_succeeded))
    policy = record.retry_policy(rules.retry)
    failures = record.failures + int(outcome.burns)
    told = {"failures": failures, "errors": _history(record, outcome.error)}
    again = not outcome.fatal and (outcome.delay is not None or policy.allows(outcome.names))
    if again and (not outcome.burns or failures < policy.max_attempts):
        wait = policy.delay(max(failures, 1), random) if outcome.delay is None else outcome.delay
        return Change({"state": JobState.RETRYING, **told}, {"wake_at": wait}, failed=int(outcome.burns))
    return _dead(rules, told, failed=1)


def interrupt(rules: Rules, record: Record | None, *, token: str, stopped: bool) -> Change | Refusal:
    """A graceful stop: back to the queue with no budget burned; a task that will not stop keeps its lease."""
    if record is None or record.token != token or record.state is not JobState.RUNNING:
        return _not_running(record, token)
    if not stopped:
        return Change({"interrupted": True})
    if record.cancel_requested:
        return _cancelled(rules, "cancelled")
    return enter_queued(rules, record.expires_at)


def unknown(rules: Rules, record: Record | None) -> Change | Refusal:
    """A worker that does not know the task met it: the job waits in the store for one that does.

    Its message did arrive, so that the patience with lost ones starts anew.
    """
    if record is None:
        return Refusal.GONE
    if record.state is not JobState.QUEUED:
        return Refusal.NOT_ALLOWED
    wait = {"wake_at": min(HANDED_ON, rules.unknown_after / UNKNOWN_CHECKS)}
    if record.unknown_since is None:
        wait["unknown_since"] = 0.0
    return Change({"sent": False, "sends": 0}, wait)


def hand_on(record: Record | None) -> Change | Refusal:
    """A worker that takes no more jobs met it: its message is as good as not sent."""
    if record is None:
        return Refusal.GONE
    if record.state is not JobState.QUEUED:
        return Refusal.NOT_ALLOWED
    return Change({"sent": False, "sends": 0}, {"wake_at": HANDED_ON})


def cancel(rules: Rules, record: Record | None, *, interrupts: bool = True) -> Change | Refusal:
    """Waiting: cancelled. Running: requested, and its worker ends it."""
    if record is None:
        return Refusal.GONE
    if record.state.final:
        return Refusal.FINAL
    if record.state in WAITING:
        return _cancelled(rules, "cancelled")
    if record.cancel_requested and (record.cancel_interrupts or not interrupts):
        return Refusal.NOTHING
    return Change({"cancel_requested": True, "cancel_interrupts": interrupts})


def purge(rules: Rules, record: Record | None) -> Change | Refusal:
    """Cancel it while it waits; what has been started meanwhile goes on."""
    if record is None:
        return Refusal.GONE
    return _cancelled(rules, "purged") if record.state in WAITING else Refusal.NOT_ALLOWED


def retry(rules: Rules, record: Record | None) -> Change | Refusal:
    """Dead or cancelled: a new life with fresh budgets. Scheduled or retrying: now.

    UNBURY is for the copy of the life that `record` had.
    """
    if record is None:
        return Refusal.GONE
    if record.state in (JobState.SCHEDULED, JobState.RETRYING):
        return enter_queued(rules, record.expires_at)
    if record.state not in (JobState.DEAD, JobState.CANCELLED):
        return Refusal.NOT_ALLOWED
    budgets = {"life": record.life + 1, "failures": 0, "crashes": 0}
    cleared = {"cancel_requested": False, "buried": False}
    forgotten = dict.fromkeys(("expires_at", "finished_at", "reason", "progress"))
    change = enter_queued(rules, None, {**budgets, **cleared, **forgotten})
    return _unbury(change) if rules.buries and record.state is JobState.DEAD else change


def discard(rules: Rules, record: Record | None) -> Change | Refusal:
    """Out of the dead letters for good, though the record stays until its retention is over."""
    if record is None:
        return Refusal.GONE
    if record.state is not JobState.DEAD:
        return Refusal.NOT_ALLOWED
    values = {"state": JobState.CANCELLED, "reason": "discarded", "buried": False}
    change = Change(values, {"wake_at": _keep(rules)})  # its end was counted when it died
    return _unbury(change) if rules.buries else change


def buried(rules: Rules, record: Record) -> Change:
    """My copy lies in the backend's dead letters; retention counts from the death. Refused: unbury the copy."""
    return Change({"buried": True, "wake_at": (record.finished_at or 0.0) + rules.keep_dead})


def bury_again(rules: Rules, record: Record | None, *, life: int) -> Change | Refusal:
    """A copy was taken out of the backend's dead letters, but its job cannot be revived: another one holds its key."""
    if record is None:
        return Refusal.GONE
    if record.state is not JobState.DEAD or record.life != life:
        return Refusal.NOT_ALLOWED
    return Change({"buried": False}, {"wake_at": rules.claim}, then=frozenset({Then.BURY}))


def dispatch(rules: Rules, record: Record, *, now: float, known: Callable[[Record], bool]) -> Change:
    """What the dispatcher does with a record whose `wake_at` has come; `known`: does a live worker know its task?

    Only for a record as `claim_due` gave it, and `now` is when it did: a claim cannot be told from a lease. Where the
    swap is refused, the dispatcher leaves the job alone; its time comes again.
    """
    if record.state in WAITING and _expired(record, now):
        return _cancelled(rules, "expired")
    if record.state in (JobState.SCHEDULED, JobState.RETRYING):
        return enter_queued(rules, record.expires_at)
    if record.state is JobState.QUEUED:
        return _dispatch_queued(rules, record, now, known)
    if record.state is JobState.RUNNING:
        return _lapsed(rules, record, now)
    if record.state is JobState.DEAD and rules.buries and not record.buried:
        return Change(then=frozenset({Then.BURY}))
    return Change(delete=True, then=frozenset({Then.UNBURY}) if record.buried else frozenset())


def spare(rules: Rules) -> Change:
    """A lease that lapsed while the store was out of reach: its holder beats first, if it lives."""
    return Change(stamp={"wake_at": rules.lease / 3})


def lost(rules: Rules, record: Record, *, frontier: float) -> Change | Refusal:
    """Its message should have arrived by now: publish it again, twice as patient each time."""
    if record.state is not JobState.QUEUED or not record.sent or record.sent_at is None:
        return Refusal.NOT_ALLOWED
    if record.sent_at + rules.lost_after * 2.0 ** min(record.sends, 32) >= frontier:
        return Refusal.NOTHING
    return Change({"sent": False}, {"wake_at": rules.claim}, then=frozenset({Then.PUBLISH}))


def _dispatch_queued(rules: Rules, record: Record, now: float, known: Callable[[Record], bool]) -> Change:
    if record.sent:  # where the store is the queue: it is not over yet by the dispatcher's reading of the clock
        return Change({"wake_at": None if rules.carries else record.expires_at})
    if record.unknown_since is not None and not known(record):
        if now - record.unknown_since < rules.unknown_after:
            return Change(stamp={"wake_at": rules.unknown_after / UNKNOWN_CHECKS})
        message = f"no worker of queue {record.queue!r} knows the task {record.task!r}; start one that imports it"
        error = JobError("queueport.errors.UnknownTask", message, "", datetime.fromtimestamp(now, UTC), record.attempts)
        return _dead(rules, {"errors": _history(record, error), "unknown_since": None})
    if not rules.carries:
        return Change({"sent": True, "wake_at": record.expires_at, "unknown_since": None})
    if record.unknown_since is not None:
        return Change({"unknown_since": None}, {"wake_at": rules.claim}, then=frozenset({Then.PUBLISH}))
    return Change(then=frozenset({Then.PUBLISH}))


def _lapsed(rules: Rules, record: Record, now: float) -> Change:
    """The lease is over. The token goes, whatever comes: what that worker still says is not heard."""
    if record.cancel_requested:
        return _cancelled(rules, "cancelled", token=None)
    if record.interrupted:
        return enter_queued(rules, record.expires_at)
    message = f"worker {record.worker} vanished while it ran attempt {record.attempts}"
    error = JobError("queueport.errors.WorkerLost", message, "", datetime.fromtimestamp(now, UTC), record.attempts)
    told = {"crashes": record.crashes + 1, "errors": _history(record, error)}
    if record.crashes + 1 < record.option("crash_limit", rules.crash_limit):
        return replace(enter_queued(rules, record.expires_at, told), failed=1)
    return _dead(rules, {**told, "token": None}, failed=1)


def _not_running(record: Record | None, token: str) -> Refusal:
    """Why an attempt that is not running under that token cannot end: it has, or it never was, or it is not mine."""
    if record is None:
        return Refusal.GONE
    return Refusal.NOTHING if record.token == token else Refusal.NOT_MINE


def _dead(rules: Rules, values: Mapping[str, Any], *, failed: int = 0) -> Change:
    stamp = {"finished_at": 0.0, "wake_at": rules.claim if rules.buries else rules.keep_dead}
    then = frozenset({Then.TELL_DEATH, Then.BURY} if rules.buries else {Then.TELL_DEATH})
    return Change({**values, "state": JobState.DEAD, "buried": False}, stamp, 1, failed, then=then)


def _cancelled(rules: Rules, reason: str, **values: Any) -> Change:
    stamp = {"finished_at": 0.0, "wake_at": _keep(rules)}
    return Change({**values, "state": JobState.CANCELLED, "reason": reason}, stamp, 1)


def _expired(record: Record, now: float) -> bool:
    return record.expires_at is not None and record.expires_at <= now


def _keep(rules: Rules) -> float:
    return CANCELLED_FOR if rules.keep_succeeded is None else rules.keep_succeeded


def _kept(values: Mapping[str, Any], keep: float | None) -> Change:
    """A final state with its retention by age, or (None) by count."""
    if keep is None:
        return Change({**values, "wake_at": None}, {"finished_at": 0.0}, 1)
    return Change(values, {"finished_at": 0.0, "wake_at": keep}, 1)


def _history(record: Record, error: JobError) -> tuple[JobError, ...]:
    return (*record.errors, error)[-ERROR_HISTORY:]


def _unbury(change: Change) -> Change:
    return replace(change, then=change.then | {Then.UNBURY})

"""Sample records, rules and messages, for the other tests in this folder."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from queueport import JobQueue
from queueport.engine.lifecycle import Lifecycle
from queueport.engine.rules import AttemptOutcome, Failed, Refusal, Rules
from queueport.retry import Retry
from queueport.spi.message import Message
from queueport.spi.record import Change, FollowUp, Record
from queueport.status import JobError, JobState

SCHEDULED, QUEUED, RUNNING, RETRYING = JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING, JobState.RETRYING
SUCCEEDED, DEAD, CANCELLED = JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED
GONE, NOT_ALLOWED, NOT_MINE, NOTHING = Refusal.GONE, Refusal.NOT_ALLOWED, Refusal.NOT_MINE, Refusal.NOTHING
PUBLISH, BURY, UNBURY = frozenset({FollowUp.PUBLISH}), frozenset({FollowUp.BURY}), frozenset({FollowUp.UNBURY})
CALL_ON_DEAD = frozenset({FollowUp.CALL_ON_DEAD})

NOW = 1_000_000.0
RETRY = Retry(max_attempts=3, initial=1.0, factor=2.0, jitter=0.5)
RULES = Rules(lease=30.0, claim=10.0, lost_after=60.0, keep_succeeded=500.0, keep_dead=900.0, retry=RETRY)
CLAIMING = replace(RULES, carries=False)
"""The rules with a claiming store, which needs no messages."""
BURYING = replace(RULES, buries=True)
"""The rules with a backend that has its own dead letters."""
ERROR = JobError("builtins.ValueError", "no", "", datetime.fromtimestamp(NOW, UTC), 1)
RAISED = Failed(ERROR, ("builtins.ValueError", "ValueError"))
"""The outcome of an attempt whose task raised ERROR."""

Decided = Change | Refusal


def job(state: JobState, **values: Any) -> Record:
    return Record(id="j", task="t", queue="q", payload=b"{}", state=state, rev="before", **values)


def running(**values: Any) -> Record:
    """A job in its first attempt, which has the token "mine"."""
    return job(RUNNING, **{"token": "mine", "attempts": 1, "worker": "w", "wake_at": NOW + 30, **values})


def after(decided: Decided, record: Record) -> Record:
    """Return the record after a change. Assert that the change was not refused and does not delete the record."""
    assert isinstance(decided, Change)
    assert not decided.delete
    return decided.applied(record, "after", NOW)


def finish(record: Record, outcome: AttemptOutcome, rules: Rules = RULES, random: float = 0.0) -> Decided:
    """End the attempt with the token "mine"."""
    return Lifecycle(rules).finish(record, token="mine", outcome=outcome, random=random)


def dispatch(
    record: Record, rules: Rules = RULES, *, known: bool = True, now: float = NOW, seconds: float = 0.0
) -> Change:
    """The change that the dispatcher makes to a due record. `known`: whether a worker knows the task of the job."""
    return Lifecycle(rules).dispatch(record, now=now, known=lambda _: known, seconds=seconds)


def message_body(queue: JobQueue, job_id: str) -> bytes:
    """A message of that job, as a backend delivers it."""
    return Message.of(queue.operations.read(job_id), 0.0).body

"""Jobs in every state and decisions over them, for the tests of the lifecycle."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from queueport import lifecycle
from queueport.lifecycle import Failed, Refusal, Rules
from queueport.record import Change, Record, Then
from queueport.retry import Retry
from queueport.status import JobError, JobState

S, Q, R, A = JobState.SCHEDULED, JobState.QUEUED, JobState.RUNNING, JobState.RETRYING
OK, DEAD, CANCELLED = JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED
GONE, NOT_ALLOWED, NOT_MINE, NOTHING = Refusal.GONE, Refusal.NOT_ALLOWED, Refusal.NOT_MINE, Refusal.NOTHING
PUBLISH, BURY, UNBURY = frozenset({Then.PUBLISH}), frozenset({Then.BURY}), frozenset({Then.UNBURY})
TELL_DEATH = frozenset({Then.TELL_DEATH})

NOW = 1_000_000.0
RETRY = Retry(max_attempts=3, initial=1.0, factor=2.0, jitter=0.5)
RULES = Rules(lease=30.0, claim=10.0, lost_after=60.0, keep_succeeded=500.0, keep_dead=900.0, retry=RETRY)
EMBEDDED = replace(RULES, carries=False)
BURYING = replace(RULES, buries=True)
ERROR = JobError("builtins.ValueError", "no", "", datetime.fromtimestamp(NOW, UTC), 1)
RAISED = Failed(ERROR, ("builtins.ValueError", "ValueError"))

Decided = Change | Refusal


def job(state: JobState, **values: Any) -> Record:
    return Record(id="j", task="t", queue="q", payload=b"{}", state=state, rev="before", **values)


def running(**values: Any) -> Record:
    return job(R, **{"token": "mine", "attempts": 1, "worker": "w", "wake_at": NOW + 30, **values})


def after(decided: Decided, record: Record) -> Record:
    assert isinstance(decided, Change)
    assert not decided.delete
    return decided.applied(record, "after", NOW)


def finished(record: Record | None, outcome: lifecycle.Outcome, rules: Rules = RULES, random: float = 0.0) -> Decided:
    return lifecycle.finish(rules, record, token="mine", outcome=outcome, random=random)


def dispatched(record: Record, rules: Rules = RULES, *, known: bool = True, now: float = NOW) -> Change:
    return lifecycle.dispatch(rules, record, now=now, known=lambda _: known)

"""What the author of a store writes for the suite, and the jobs that its tests are made of."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from queueport import lifecycle
from queueport.lifecycle import Failed, Rules, Succeeded
from queueport.record import Change, Record
from queueport.status import JobError, JobState
from queueport.store import Begin, Insert, JobStore, Outcome, Swap

__all__ = [
    "RULES",
    "Clock",
    "StoreHarness",
    "Tests",
    "bare",
    "dead",
    "error",
    "put",
    "retrying",
    "run",
    "succeeded",
    "swap",
]

START = 1_700_000_000.0
TOKEN = "token-1"  # noqa: S105  # of an attempt, no password
RULES = Rules(carries=False)
CARRIED = Rules()
"""Where a backend carries messages: a queued job is claimed by its publisher at first."""

_numbers = itertools.count()


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time, as a store asks for it."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class StoreHarness(ABC):
    """The store under test. For SharedSuite it must pickle, since other processes open the store too."""

    @abstractmethod
    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> JobStore:
        """One more store object on the records of that namespace, which are none at first. `clock` takes the place of
        the store's own; None: that one.
        """

    def damage(self, namespace: str, job_id: str, field: str, value: Any) -> None:
        """Write a flat value into the record behind the store's back. For SharedSuite."""
        raise NotImplementedError


class Tests:
    """The fixtures of every part of the suite."""

    @pytest.fixture
    def harness(self) -> StoreHarness:
        """The store under test, without records."""
        raise NotImplementedError("a subclass of the store suite has a fixture `harness`")

    @pytest.fixture
    def clock(self) -> Clock:
        """The time of `store`."""
        return Clock()

    @pytest.fixture
    def store(self, harness: StoreHarness, clock: Clock) -> Iterator[JobStore]:
        """The store under test."""
        store = harness.open(clock=clock)
        yield store
        store.close()


def bare(job_id: str | None = None, **fields: Any) -> Record:
    """A record as producers hand it in."""
    values = {"task": "app.send", "queue": "default", "payload": b'{"args":[1]}', "state": JobState.QUEUED, **fields}
    return Record(id=f"job-{next(_numbers)}" if job_id is None else job_id, **values)


def put(
    store: JobStore,
    job_id: str | None = None,
    *,
    delay: float | None = None,
    expires: float | None = None,
    rules: Rules = RULES,
    **fields: Any,
) -> Record:
    """Insert a new job; the record as it is then."""
    change = lifecycle.new(rules, delay=delay, expires=expires)
    return applied(store.insert([Insert(bare(job_id, **fields), change, rev())]))


def swap(store: JobStore, record: Record, **values: Any) -> Record:
    """Set these fields."""
    return applied(store.swap([Swap(record.id, record.rev, Change(values), rev())]))


def run(store: JobStore, record: Record, token: str = TOKEN) -> Record:
    """Begin it."""
    change = lifecycle.begin(RULES, token=token, worker="worker", defaults={})
    return applied(store.begin([Begin(record.id, change, rev())]))


def succeeded(store: JobStore, record: Record | str | None = None, **fields: Any) -> Record:
    """A job that has run well: this one, or a new one (of this id)."""
    return _ended(store, record, Succeeded(b"1"), fields)


def dead(
    store: JobStore, record: Record | str | None = None, kind: str = "builtins.ValueError", **fields: Any
) -> Record:
    """A job that has failed for good."""
    return _ended(store, record, Failed(error(kind), fatal=True), fields)


def retrying(store: JobStore, job_id: str | None = None, **fields: Any) -> Record:
    """A job that has failed and is due again in 7 seconds."""
    return _ended(store, job_id, Failed(error(), delay=7.0), fields)


def error(kind: str = "builtins.ValueError") -> JobError:
    """What an attempt ended with."""
    at = datetime.fromtimestamp(START, UTC)
    return JobError(kind, "it was refused", "Traceback ...", at, 1)


def rev() -> str:
    """A rev that nobody has used, in no process."""
    return uuid4().hex


def applied(answers: Sequence[Any]) -> Record:
    """The record of the one answer, which was applied."""
    (answer,) = answers
    assert answer.outcome is Outcome.APPLIED
    assert isinstance(answer.record, Record)
    return answer.record


def _ended(store: JobStore, record: Record | str | None, outcome: lifecycle.Outcome, fields: dict[str, Any]) -> Record:
    record = run(store, record if isinstance(record, Record) else put(store, record, **fields))
    change = lifecycle.finish(RULES, record, token=TOKEN, outcome=outcome, random=0.5)
    assert isinstance(change, Change)
    return applied(store.swap([Swap(record.id, record.rev, change, rev())]))

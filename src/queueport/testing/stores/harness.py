"""`StoreHarness`, which the author of a store implements, and functions that make jobs for the tests of the suite."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from queueport.engine.lifecycle import Lifecycle
from queueport.engine.rules import AttemptOutcome, Failed, Rules, Succeeded
from queueport.spi.record import Change, Record
from queueport.spi.store import Begin, Insert, JobStore, Swap, WriteOutcome
from queueport.status import JobError, JobState

__all__ = [
    "RULES",
    "Case",
    "Clock",
    "StoreHarness",
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
LONG = 20.0
"""A timeout in seconds that is much longer than a correct store needs."""
TOKEN = "token-1"  # noqa: S105  # the token of an attempt, not a password
RULES = Rules(carries=False)
CARRIED = Rules()
"""Rules for a backend that carries messages. With these rules, a new queued job is due only when its claim ends."""

_numbers = itertools.count()


class Clock:
    """A clock that stands still until `advance` moves it."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time in seconds since 1970. A store calls the clock object to read the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock forward, or back if `seconds` is negative."""
        self.now += seconds


class StoreHarness(ABC):
    """Opens and damages the store under test. For SharedSuite, the harness must be picklable, because other
    processes use it.
    """

    @abstractmethod
    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> JobStore:
        """Open the store for this namespace. At the start of each test, all namespaces must be empty.

        Within a test, stores of the same namespace must share their records, if the store can be shared. The store must
        read the time from `clock`; if `clock` is None, from its production clock.
        """

    def damage(self, namespace: str, job_id: str, field: str, value: Any) -> None:
        """Overwrite one field of the stored record, without the store's code. Only SharedSuite calls this method."""
        raise NotImplementedError

    def damage_document(self, namespace: str, kind: str, name: str, text: str) -> None:
        """Overwrite the JSON text of a stored document, without the store's code. Only SharedSuite calls this method.

        The document keeps its rev.
        """
        raise NotImplementedError


class Case:
    """The base class of every part of the suite. It defines the fixtures `harness`, `clock` and `store`."""

    @pytest.fixture
    def harness(self) -> StoreHarness:
        """The harness of the store under test. A subclass overrides this fixture."""
        raise NotImplementedError("a subclass of the store suite must define a `harness` fixture")

    @pytest.fixture
    def clock(self) -> Clock:
        """The clock of the fixture `store`."""
        return Clock()

    @pytest.fixture
    def store(self, harness: StoreHarness, clock: Clock) -> Iterator[JobStore]:
        """The store under test, without records."""
        store = harness.open(clock=clock)
        yield store
        store.close()


def bare(job_id: str | None = None, **fields: Any) -> Record:
    """A record with the fields that a producer sets before it inserts a job. Without `job_id`, the id is a new one."""
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
    """Insert a new job and return its record.

    If `rules` mark a new job as sent, also set `sent_at`, so that `unreceived` finds the job.
    """
    change = Lifecycle(rules).new(delay=delay, expires=expires)
    if change.set.get("sent"):
        change = change.with_next(Change(stamp={"sent_at": 0.0}))
    return applied(store.insert([Insert(bare(job_id, **fields), change, rev())]))


def swap(store: JobStore, record: Record, **values: Any) -> Record:
    """Set these fields of the record with a swap, and return the new record."""
    return applied(store.swap([Swap(record.id, record.rev, Change(values), rev())]))


def run(store: JobStore, record: Record, token: str = TOKEN) -> Record:
    """Begin the job with this token, and return its new record."""
    change = Lifecycle(RULES).begin(token=token, worker="worker", defaults={})
    return applied(store.begin([Begin(record.id, record.task, change, rev())]))


def succeeded(store: JobStore, record: Record | str | None = None, **fields: Any) -> Record:
    """Run a job until it has succeeded: the job of this record, or a new job with this id (None: any id)."""
    return _ended(store, record, Succeeded(b"1"), fields)


def dead(
    store: JobStore,
    record: Record | str | None = None,
    kind: str = "builtins.ValueError",
    bases: Sequence[str] = (),
    **fields: Any,
) -> Record:
    """Make a job dead by an attempt that fails with an error of this kind, which allows no retry.

    The job is that of `record`, or a new job with this id (None: any id).
    """
    return _ended(store, record, Failed(error(kind, *bases), fatal=True), fields)


def retrying(store: JobStore, job_id: str | None = None, **fields: Any) -> Record:
    """Run a new job whose attempt fails. Its next attempt is due in 7 seconds."""
    return _ended(store, job_id, Failed(error(), delay=7.0), fields)


def error(kind: str = "builtins.ValueError", *bases: str) -> JobError:
    """An error as a failed attempt records it. `kind` is the name of its class, and `bases` those of base classes."""
    at = datetime.fromtimestamp(START, UTC)
    return JobError(kind, "it was refused", "Traceback ...", at, 1, bases)


def rev() -> str:
    """A new rev that no process has used."""
    return uuid4().hex


def applied(answers: Sequence[Any]) -> Record:
    """Assert that there is one answer and that its write was applied. Returns its record."""
    (answer,) = answers
    assert answer.outcome is WriteOutcome.APPLIED
    assert isinstance(answer.record, Record)
    return answer.record


def _ended(store: JobStore, record: Record | str | None, outcome: AttemptOutcome, fields: dict[str, Any]) -> Record:
    record = run(store, record if isinstance(record, Record) else put(store, record, **fields))
    change = Lifecycle(RULES).finish(record, token=TOKEN, outcome=outcome, random=0.5)
    assert isinstance(change, Change)
    return applied(store.swap([Swap(record.id, record.rev, change, rev())]))

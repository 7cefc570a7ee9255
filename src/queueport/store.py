"""The SPI of what keeps records. For authors of stores; the verbs are those of PROTOCOL, each one atomic.

A store decides nothing: it applies a `Change` when the condition of its verb holds, and says what it found when not.
With the record move, in the same atomic step: its indexes, its hold on a key, the counts per queue and state, and the
two counters. `queueport.testing` has a suite that compares a store with the memory store, step by step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar, Self

from queueport.capability import Limits
from queueport.errors import BackendUnavailable
from queueport.record import Change, Record
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport.url import BackendURL

__all__ = [
    "Beat",
    "Begin",
    "ClaimingStore",
    "Command",
    "Insert",
    "JobStore",
    "Outcome",
    "Query",
    "QueueCounts",
    "StoreStats",
    "Swap",
    "Written",
]


Command = Sequence[bytes]
"""One command, in the words of the server that a store and a backend share."""


class Outcome(Enum):
    """What became of one write."""

    APPLIED = auto()
    REFUSED = auto()
    """The condition did not hold; for an insert: the id exists."""
    KEY_HELD = auto()
    """Another living job of the same task holds the key."""
    NOT_SENT = auto()
    """The server refused what was to go along with the record, which then was not inserted."""


@dataclass(frozen=True, slots=True)
class Written:
    """The answer to one write.

    `record` is the job as it is now: after the change where it was applied (None: deleted), as found where it was
    refused (None: there is no such job). Where the key is held, it is the holder.
    """

    outcome: Outcome
    record: Record | None
    error: BackendUnavailable | None = None
    """Why it was NOT_SENT; its cause is the library's own exception."""

    @property
    def applied(self) -> bool:
        """True where the change was made by this call."""
        return self.outcome is Outcome.APPLIED


@dataclass(frozen=True, slots=True)
class Insert:
    """A new record: `record` carries id, task, queue, payload and what else the producer gave; `change` the rest."""

    record: Record
    change: Change
    rev: str
    along: tuple[Command, ...] = ()
    """Run in the same step where the record is inserted; only where `JobStore.alongside` said so."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Apply `change` to the record `id` if its rev is `expected`; it then bears `rev`."""

    id: str
    expected: str
    change: Change
    rev: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Apply `change`, and attempts + 1, to the job `id` if it is queued and has not expired; it then bears `rev`."""

    id: str
    change: Change
    rev: str


@dataclass(frozen=True, slots=True)
class Beat:
    """Prolong the lease of the running job `id` if its token is `token`; `values` (progress) are set with it."""

    id: str
    token: str
    lease: float
    rev: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """Which records to find: all that is given must hold.

    Newest first, by the order of insertion; `after` is the id of the last one already seen, and where that one is gone
    nothing is found. `error` is the class name of the newest error, dotted or bare. `finished_before` is in seconds
    since the epoch, on the store's clock.
    """

    state: JobState | None = None
    queue: str | None = None
    task: str | None = None
    error: str | None = None
    finished_before: float | None = None
    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """One queue's kept counts; `queued_by_priority` has the priorities that have queued jobs now."""

    states: Mapping[JobState, int]
    queued_by_priority: Mapping[int, int]
    oldest_queued_at: float | None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Everything counted, and `now`, the store's clock as it was read with them."""

    now: float
    queues: Mapping[str, QueueCounts]
    processed: int
    failed: int


class JobStore(ABC):
    """Where records live. Every method must be thread-safe, must work in a child after a fork, and may block.

    A method may raise `BackendUnavailable`, whose cause is the library's own exception, and nothing else: it then is
    unknown whether the call was applied, and the caller finds out by the revs and tokens that it chose itself. It must
    not take longer than `call_timeout` seconds to say so. A connection is made on first use, never before, and made
    anew by the store itself when it broke. Batches are atomic item by item; the answers come in the order given.

    A record that cannot be read is put aside with a log line by the verb that meets it, in the same step, so that it
    blocks nobody; only `get` and `wait` leave it. The verbs that hand out work (begin, claim_due, unreceived, take,
    unknown) leave a record of a newer `v` alone.
    """

    limits: ClassVar[Limits] = Limits()
    settings: ClassVar[type[Any] | None] = None
    """The pydantic model of its URL options, for `queueport backends` and the docs."""
    shared: ClassVar[bool] = True
    """Other processes see the same records. False for memory."""
    poll: float = 0.25
    """Seconds between two looks of an idle dispatcher: what a look costs decides."""

    @classmethod
    @abstractmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        """Make a store from its URL. Must do no I/O. Raises ConfigurationError for a wrong URL or option."""

    @abstractmethod
    def insert(self, inserts: Sequence[Insert]) -> Sequence[Written]:
        """Add records whose id is absent and whose key is free, in the order given.

        May raise PayloadTooLarge, before any I/O, for what a record has beside its payload: `limits` do not say it all.
        """

    @abstractmethod
    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        """The records of these ids; None where there is none. Raises CorruptRecord for one that cannot be read."""

    @abstractmethod
    def find(self, query: Query) -> Sequence[Record]:
        """Records that match, newest first, at most `query.limit`. Must not scan what the filters exclude by state."""

    @abstractmethod
    def count(self, query: Query) -> int:
        """How many records match, `after` and `limit` aside."""

    @abstractmethod
    def swap(self, swaps: Sequence[Swap]) -> Sequence[Written]:
        """Apply each change whose `expected` rev is the record's. A change into a living state may meet a held key."""

    @abstractmethod
    def begin(self, begins: Sequence[Begin]) -> Sequence[Written]:
        """Apply each change, and attempts + 1, where the job is queued (sent or not) and has not expired."""

    @abstractmethod
    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        """The records whose wake_at has come, most overdue first, each pushed `claim` seconds on and given `rev`.

        `leases` False leaves running ones out. Two callers must never be given the same record within a claim.
        """

    @abstractmethod
    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        """Queued, sent records with sent_at before that, longest ago first."""

    @abstractmethod
    def overflow(self, state: JobState, keep: int, limit: int) -> Sequence[Record]:
        """The records in that final state beyond the newest `keep`, oldest first, at most `limit`."""

    @abstractmethod
    def heartbeat(self, beats: Sequence[Beat]) -> Sequence[Written]:
        """Set wake_at to now + lease, and `values`, where the job runs and the token is its own, lapsed or not."""

    @abstractmethod
    def stats(self) -> StoreStats:
        """Counts and counters as kept, not scanned. A queue once used stays listed, with zeros."""

    @abstractmethod
    def announce(self, worker: WorkerStats, ttl: float) -> None:
        """A worker lives; forgotten `ttl` seconds later. Its heartbeat_at is the store's now. A ttl of 0: it left."""

    @abstractmethod
    def workers(self) -> Sequence[WorkerStats]:
        """The workers that live, by name."""

    @abstractmethod
    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        """Block until a job of these is final, at most `timeout` seconds; the final ones. It may return early."""

    @abstractmethod
    def now(self) -> float:
        """The store's clock, in seconds since the epoch."""

    def reckoned(self) -> float:
        """The same, without asking where the store's clock is known well enough; not ahead of it."""
        return self.now()

    def alongside(self, url: BackendURL) -> bool:
        """Whether that URL, of this store's kind, is its own server, so that it takes commands along with inserts."""
        return False

    def setup(self) -> None:  # noqa: B027  # nothing to make is the common case
        """Make what must exist before use (tables, indexes). Must be idempotent."""

    def check(self) -> Sequence[str]:
        """Reach the store; warnings about how it is run, one sentence each. Raises BackendUnavailable, and
        ConfigurationError where records would be lost as it is run.
        """
        self.now()
        return ()

    def close(self) -> None:  # noqa: B027  # nothing to close is fine
        """Let go of connections. Must be idempotent; must not raise."""


class ClaimingStore(JobStore):
    """A store that can claim is a queue: memory and SQLite are backends by that alone."""

    @abstractmethod
    def take(self, queues: Sequence[str], changes: Mapping[str, Change], limit: int, rev: str) -> Sequence[Record]:
        """Begin, as `begin` does, the next queued jobs of these queues; they come back as they are after it.

        `changes` has the change for each task; jobs of other tasks are left alone. Across all these queues, higher
        priority first, then whoever was queued longer. Expired jobs are left for the dispatcher.
        """

    @abstractmethod
    def unknown(self, queues: Sequence[str], tasks: Collection[str], limit: int) -> Sequence[Record]:
        """Queued jobs of these queues whose task is none of these, not yet noticed (`unknown_since` is None)."""

    @abstractmethod
    def wait_for_work(self, queues: Sequence[str], timeout: float) -> None:
        """Block, at most `timeout` seconds, until something may have been queued since this thread last waited."""

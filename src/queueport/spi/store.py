"""The interface of job stores. For authors of stores. Each verb is atomic; `docs/protocol.md` specifies the verbs.

A store decides nothing. It applies a `Change` if the condition of the verb holds; otherwise it returns the record that
it found. In the same atomic step it must update the indexes, the holder of the key, the counts by queue and state, the
counters `processed` and `failed`, and the history (`queueport.spi.history`). The suite in `queueport.testing.stores`
compares a store with the memory store.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, ClassVar, Self

from queueport.capability import Limits
from queueport.errors import BackendUnavailable
from queueport.spi.history import HistoryCounts, HistoryQuery
from queueport.spi.record import Change, Record
from queueport.spi.url import BackendURL
from queueport.stats import WorkerStats
from queueport.status import JobState

__all__ = [
    "LIMITED",
    "LOOKED_AT",
    "LOST_KEPT",
    "MOST_LIMITS",
    "Begin",
    "ClaimingStore",
    "Command",
    "Document",
    "HeldJobs",
    "Insert",
    "JobStore",
    "LeaseRenewal",
    "LimitState",
    "Query",
    "QueueCounts",
    "Replacement",
    "StartLimit",
    "StoreStats",
    "Swap",
    "TakeLimits",
    "WriteOutcome",
    "WriteResult",
]

LOST_KEPT = 3600.0
"""Seconds for which a store must keep a lost worker, so that a dispatcher that starts later still finds it."""

LIMITED = "limited"
"""The `reason` of a queued job that is held because of a limit."""
LOOKED_AT = 100
"""The maximum number of jobs that one call of `take` reads beyond those that it may return, if there are limits."""
MOST_LIMITS = 100
"""The maximum number of limits that one call of `held` returns."""
COUNTED = 500
"""The number of records that `JobStore.count_within` reads at once."""

Command = Sequence[bytes]
"""A command for the server that the store and the backend share: its name and its arguments."""


class WriteOutcome(Enum):
    """The outcome of one write."""

    APPLIED = auto()
    REFUSED = auto()
    """The condition did not hold. For an insert: the id exists."""
    KEY_HELD = auto()
    """Another job of the same task holds the key, so the change was not applied. That job has not ended, or an insert
    found that the job has ended, but keeps its key (`Record.key_until`)."""
    REPLACED = auto()
    """Another job of the same task holds the key. The store has applied a change of `Insert.replace` to that job, and
    has not inserted the record."""
    LIMITED = auto()
    """A limit does not let the job begin. The store has applied `Begin.hold` to it."""
    NOT_SENT = auto()
    """The server refused `Insert.commands`, which publish the message, so the record was not inserted."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The answer to one write.

    `record` depends on the outcome. APPLIED: the record after the change (None: deleted). REFUSED: the record as found
    (None: no such job, or its record cannot be read). KEY_HELD: the record of the job that holds the key, or the result
    of `queueport.spi.storage.unreadable_holder` if the record cannot be read or was deleted. REPLACED: the record of
    that job after the change. LIMITED: the record after `Begin.hold`. NOT_SENT: None.
    """

    outcome: WriteOutcome
    record: Record | None
    error: BackendUnavailable | None = None
    """Why the outcome is NOT_SENT; None for other outcomes. Its cause is the client library's exception."""

    @property
    def applied(self) -> bool:
        """True if this call applied the change. False if an earlier call with the same rev has applied it."""
        return self.outcome is WriteOutcome.APPLIED


@dataclass(frozen=True, slots=True)
class Replacement:
    """The changes of which an insert makes one to the job that holds its key, if that job has not ended.

    `queueport.spi.storage.replacing` chooses the change. The holder then gets the rev of the insert. The store must
    leave a holder alone that a newer release wrote, or whose record it cannot read, or that has the rev of the insert,
    because an earlier call has changed it: then the outcome is KEY_HELD.
    """

    waiting: Change
    """For a job that waits: it takes over the fields of the new record. The outcome is REPLACED."""
    sent: Change | None
    """For a queued job that was sent and has the queue, priority and group of the new record; its message stays valid.
    The outcome is REPLACED. None: apply `waiting`."""
    running: Change
    """For a running job: it gives up the key, and in the same atomic step the new record is inserted. The outcome is
    that of the insert. If `Insert.commands` fail, neither is changed."""


@dataclass(frozen=True, slots=True)
class Insert:
    """Insert `record`, which has the producer's fields, with `change` applied to it and with the rev `rev`."""

    record: Record
    change: Change
    rev: str
    commands: tuple[Command, ...] = ()
    """Commands that the store must run in the same atomic step, only if the record is inserted. Given only if
    `JobStore.shares_server` has returned True for the server of the backend."""
    reject: bool = False
    """For the core: the answer KEY_HELD is an error for the producer. A store ignores this."""
    replace: Replacement | None = None
    """What to do if another job that has not ended holds the key; None: the outcome is KEY_HELD."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Apply `change` to the record `id` if its rev is `expected`, and set its rev to `rev`."""

    id: str
    expected: str
    change: Change
    rev: str
    record: Record | None = field(default=None, compare=False, repr=False)
    """The record with the rev `expected`, if the caller has read it. To make its answer, a store may apply the change
    to this record, instead of reading the changed record."""


@dataclass(frozen=True, slots=True)
class StartLimit:
    """A limit of the starts of jobs: how many may run at a time, and how many may start in a second."""

    name: str
    concurrency: int | None = None
    """At most so many running jobs use a slot of the limit. None: no limit."""
    rate: float | None = None
    """At most so many starts a second on average. None: no limit."""
    burst: int = 1
    """At most so many starts at once, after a time without starts."""
    keyed: bool = False
    """True: each `Record.limit_key` has a limit of its own, see `name_for`."""

    def name_for(self, key: str | None) -> str:
        """The name of the limit for a job with this `limit_key`."""
        return f"{self.name} {key}" if self.keyed and key is not None else self.name


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin the job `id`: apply `change`, add 1 to `attempts`, and set the rev to `rev`.

    The condition: the job is queued, has not expired, its task is `task`, and its `v` is not newer than this release's.

    With `limits`, the record's queue must also be `queue`. In the same atomic step, the store asks
    `queueport.spi.storage.admit` whether the limits let the job begin. If not, it holds the job: it applies
    `storage.holding` instead of `change`, and the outcome is LIMITED. Otherwise it applies `change` and
    `storage.counting`, and keeps the new `LimitState.full_at`.
    """

    id: str
    task: str
    change: Change
    rev: str
    queue: str = ""
    limits: tuple[StartLimit, ...] = ()
    hold: Change = field(default_factory=Change)


@dataclass(frozen=True, slots=True)
class TakeLimits:
    """The limits of the jobs that `take` may begin, by queue and task. `hold` is as in a `Begin`."""

    limits: Mapping[tuple[str, str], tuple[StartLimit, ...]]
    hold: Change

    def of(self, queue: str, task: str) -> tuple[StartLimit, ...]:
        """The limits of the jobs of this queue and task."""
        return self.limits.get((queue, task), ())


@dataclass(frozen=True, slots=True)
class LimitState:
    """What the store knows about a limit. All but `full_at` follows from the records."""

    running: int = 0
    """The number of running jobs that have the name of the limit in their `slots`."""
    held: int = 0
    """The number of queued jobs that wait for the limit: `held_by` is its name, and `reason` is "limited"."""
    passed: int = 0
    """The number of queued jobs that were let on and have not begun: `held_by` is its name, and `reason` is None."""
    full_at: float = 0.0
    """When all starts of `StartLimit.burst` are free again. Each start moves this time by 1 / `StartLimit.rate`."""


@dataclass(frozen=True, slots=True)
class HeldJobs:
    """A limit for which jobs are held: its name, its state, the first of these jobs, and the store's time."""

    name: str
    state: LimitState
    jobs: Sequence[Record]
    now: float


@dataclass(frozen=True, slots=True)
class LeaseRenewal:
    """Extend the lease of the job `id` to now + `lease` seconds, and set the fields in `values` and the rev to `rev`.

    The condition: the job runs with the token `token`.
    """

    id: str
    token: str
    lease: float
    rev: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """The conditions of `find`, `count` and `overflow`. A record must meet every condition that is not None.

    `error` is the class name of the latest error or of one of its ancestors, with or without its module, as
    `queueport.spi.storage.names_error` compares it. `finished_before` is in seconds since the epoch, by the store's
    clock; with it, a job that has not ended does not match. `after` is the id of the last record of the previous page;
    if that record is deleted, `find` finds nothing. `since` and `until` are such times too: the job was enqueued at
    `since` or later, and before `until`. `text`, in UTF-8, is a part of the payload.
    """

    state: JobState | None = None
    queue: str | None = None
    task: str | None = None
    error: str | None = None
    finished_before: float | None = None
    after: str | None = None
    limit: int = 100
    key: str | None = None
    tag: str | None = None
    since: float | None = None
    until: float | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A small named value beside the records, such as the pause of a queue.

    `kind` consists of small letters, and `name` is any text without NUL. `value` is a JSON object of at most 64 KiB.
    `rev` is a random text without blanks, which the writer chooses anew for each write.
    """

    kind: str
    name: str
    value: Mapping[str, Any]
    rev: str


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """The counts of one queue. `queued_by_priority` contains only priorities with queued jobs."""

    states: Mapping[JobState, int]
    queued_by_priority: Mapping[int, int]
    oldest_queued_at: float | None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """The counts of all queues, the counters `processed` and `failed`, and the store's time at which they were read."""

    now: float
    queues: Mapping[str, QueueCounts]
    processed: int
    failed: int


class JobStore(ABC):
    """Keeps the records. Methods may block. Each must be thread-safe and must work in a child process after a fork.

    If the store does not answer, a method must raise `BackendUnavailable`, with the client library's exception as its
    cause. It must do so within `call_timeout` seconds, to which `wait` and `wait_for_work` may add their `timeout`. The
    caller then does not know whether the call was applied, and finds out by the revs and tokens that it chose. A method
    must raise nothing else, unless its docstring says so. A store must connect on first use, not before, and must
    reconnect by itself. In a batch, each item is atomic. Results must be in the order of the items.

    If a verb finds a record that cannot be read, it must put the record aside and log this, so that the record does not
    block others. Exceptions: a record that was changed since it was read, or that a newer release wrote, stays in
    place, and `get` and `wait` leave every record in place. The verbs that hand out work (begin, claim_due, unreceived,
    take, unknown) must ignore a record with a newer `v`.
    """

    limits: ClassVar[Limits] = Limits()
    settings: ClassVar[type[Any] | None] = None
    """The pydantic model of the store's URL options, for `queueport backends` and the documentation."""
    shared: ClassVar[bool] = True
    """True if other processes see the same records."""
    own_clock: ClassVar[bool] = False
    """True if `now` is the time of the store's server, so that wrong clocks of other processes change nothing."""
    poll: float = 0.25
    """Seconds between two searches of a dispatcher for due records. If there are many workers, their dispatchers search
    less often. A store for which a search is expensive sets a higher number."""

    @classmethod
    @abstractmethod
    def open(cls, url: BackendURL, *, namespace: str, call_timeout: float) -> Self:
        """Make a store from its URL. Must not do I/O. Raises ConfigurationError for a wrong URL or option."""

    @abstractmethod
    def insert(self, inserts: Sequence[Insert]) -> Sequence[WriteResult]:
        """Insert each record whose id does not exist and whose key no other job holds, in the order given.

        If another job holds the key, apply `Insert.replace`, in the same atomic step, and run no `Insert.commands`.

        A write that sets `key_until`, and after which the job has ended, keeps the key taken for inserts until that
        time, even if the record is deleted before. This ends early if a retry makes a job with this key alive.

        `BackendUnavailable.rejected` should contain the ids of the records that this call certainly did not insert and
        will not insert later. The store must not repeat a call that may have been applied: the record may have been
        changed since, and then its rev no longer shows which call inserted it. Only `queueport.engine.enqueue` may
        repeat such a call.
        """

    @abstractmethod
    def get(self, ids: Sequence[str]) -> Sequence[Record | None]:
        """The records with these ids, in order; None for an id without a record.

        Raises CorruptRecord if one of the records cannot be read.
        """

    @abstractmethod
    def find(self, query: Query) -> Sequence[Record]:
        """At most `query.limit` matching records, the latest inserted first.

        If the query has a state, must not scan jobs in other states. With `key` or `tag`, must instead not scan jobs
        without this key or tag. With `since` or `until`, must not scan all jobs that were enqueued at other times. A
        store may rely on its clock for this: it may miss jobs if its clock was set back by more than
        `queueport.spi.storage.CLOCK_STEP`. With `text`, may read all jobs that meet the other conditions. Must then do
        this in many steps, each of which delays other calls by less than about 0.1 s, and may take longer than
        `call_timeout` in all.
        """

    @abstractmethod
    def ids(self, prefix: str, limit: int) -> Sequence[str]:
        """At most `limit` ids that begin with `prefix`, sorted. For people who type the beginning of an id.

        A store without an index by id may search all its ids. If this takes longer than `call_timeout` seconds, it must
        raise `queueport.spi.storage.search_too_long`.
        """

    @abstractmethod
    def count(self, query: Query) -> int:
        """The number of matching records. Ignores `query.after` and `query.limit`."""

    def count_within(self, query: Query, seconds: float) -> tuple[int, bool]:
        """Like `count`, but stops soon after `seconds`. Returns the number, and False if there may be more.

        This implementation reads the records page by page. A store that can count faster should override it.
        """
        end, number, page = time.monotonic() + seconds, 0, replace(query, after=None, text=None, limit=COUNTED)
        text = None if query.text is None else query.text.encode()
        while True:
            found = self.find(page)
            number += sum(text is None or text in record.payload for record in found)
            if len(found) < COUNTED or time.monotonic() >= end:
                return number, len(found) < COUNTED
            page = replace(page, after=found[-1].id)

    @abstractmethod
    def swap(self, swaps: Sequence[Swap]) -> Sequence[WriteResult]:
        """Apply each change if the record's rev is `expected`.

        If the change makes the job alive again and another job holds its key, the outcome must be KEY_HELD. In the same
        atomic step, and only if the change is applied, must apply each `Release` of the change.
        """

    @abstractmethod
    def begin(self, begins: Sequence[Begin]) -> Sequence[WriteResult]:
        """Apply each `Begin` whose condition holds. A job may begin even if it is not yet marked as sent."""

    @abstractmethod
    def held(self, names: Sequence[str] | None, limit: int, after: str = "") -> Sequence[HeldJobs]:
        """The limits for which jobs are held, sorted by name; of those with these names, or of all if `names` is None.

        Returns at most MOST_LIMITS limits, whose names come after `after`. Each has at most `limit` of its held jobs:
        those of the highest priority first, then those with the lowest `queued_at`.
        """

    @abstractmethod
    def claim_due(self, limit: int, claim: float, rev: str, *, leases: bool = True) -> Sequence[Record]:
        """Claim at most `limit` records whose wake_at has passed. Returns them, the most overdue first.

        To claim a record, set its wake_at to now + `claim` and its rev to `rev`. Until that wake_at has passed, no
        other call of `claim_due` may return the record, unless another verb sets an earlier wake_at. With
        `leases=False`, running jobs are left out.
        """

    @abstractmethod
    def unreceived(self, queue: str, priority: int, sent_before: float, limit: int) -> Sequence[Record]:
        """At most `limit` queued records of this queue and priority that were sent before `sent_before`, oldest first.

        The store may leave out records that have a wake_at: this verb is for backends that carry messages, with which
        a sent record has no wake_at.
        """

    @abstractmethod
    def overflow(self, query: Query, keep: int, limit: int) -> Sequence[Record]:
        """At most `limit` of the records that match the query, the earliest inserted first.

        Never includes the `keep` matching records that were inserted last.

        The query has a final state, and may have a queue and a task, but no other condition.
        """

    @abstractmethod
    def heartbeat(self, beats: Sequence[LeaseRenewal]) -> Sequence[WriteResult]:
        """Apply each `LeaseRenewal` whose job still runs with its token, even if the lease has already lapsed."""

    @abstractmethod
    def stats(self) -> StoreStats:
        """The counts and counters, which the store must maintain on each write. Lists every queue ever used."""

    @abstractmethod
    def history(self, query: HistoryQuery) -> Sequence[HistoryCounts]:
        """The numbers of the history that match the query, added up and sorted by step, queue and, if the query says
        so, task. Leaves out steps, queues and tasks without numbers.
        """

    @abstractmethod
    def fold_history(self) -> None:
        """Fold minutes older than KEEP_MINUTES into their hours, and delete hours older than KEEP_HOURS.

        Handles at most FOLDED minutes and FOLDED hours, the oldest first. Dispatchers call this about once a minute.
        Each number must be either in its minute or in its hour at every time, also if several processes call this at
        once.
        """

    @abstractmethod
    def announce(self, worker: WorkerStats, ttl: float) -> None:
        """Record that a worker is live for the next `ttl` seconds. Its heartbeat_at must be the store's present time.

        If `ttl` is 0, remove the worker.
        """

    @abstractmethod
    def workers(self, *, lost: bool = False) -> Sequence[WorkerStats]:
        """The live workers, sorted by name.

        With `lost`, instead the workers whose last `ttl` is over and that were not removed: they have crashed or cannot
        reach the store. The store must keep these for at least `LOST_KEPT` seconds, and must delete them some time
        after that.
        """

    @abstractmethod
    def documents(self, kind: str) -> Sequence[Document]:
        """The documents of this kind, sorted by name. Must contain every write that was answered before the call.

        A document that cannot be read must be put aside, and logged, so that a new document can have its name.
        """

    @abstractmethod
    def put_document(self, document: Document, expected: str | None, insert: Insert | None = None) -> bool:
        """Write the document if the one with its kind and name has the rev `expected`; None: if there is none.

        With `insert`, which has no `commands`, insert this record in the same atomic step, as the verb `insert` does.
        If its id exists, or another job holds its key, write only the document, and what `Insert.replace` says.

        Returns False if nothing was written, because the rev is another one. Returns True without a further write if it
        is the rev of `document`: an earlier call has written it. A caller without an answer can thus repeat its call.
        """

    @abstractmethod
    def delete_document(self, kind: str, name: str, expected: str) -> bool:
        """Delete the document if its rev is `expected`. Returns False if it was not deleted.

        After a lost answer, a repeated call returns False, because there is no such document any more.
        """

    @abstractmethod
    def wait(self, ids: Collection[str], timeout: float) -> Sequence[Record]:
        """Wait until one of these jobs is final, at most `timeout` seconds.

        Returns the records of those jobs that are final. May return before that, without any record.
        """

    @abstractmethod
    def now(self) -> float:
        """The store's clock, in seconds since the epoch."""

    def approximate_now(self) -> float:
        """An estimate of `now`, which must not be ahead of the store's clock. No I/O if the clock was read before."""
        return self.now()

    def shares_server(self, url: BackendURL) -> bool:
        """True if `url` names the same server as the URL of this store.

        If True, an `Insert` may have `commands`. The caller makes sure that `url` has a scheme that this store accepts.
        """
        return False

    def check_size(self, record: Record) -> None:  # noqa: B027  # most stores have no such limit
        """Raise PayloadTooLarge if a new record is too large for the store, although its payload is within `limits`.

        Called for every job of a batch before the first one is inserted. Must not do I/O.
        """

    def setup(self) -> None:  # noqa: B027  # many stores need nothing
        """Create the tables, indexes and other objects that must exist before use. Must be idempotent."""

    def check(self) -> Sequence[str]:
        """Test whether `insert` would work. Returns warnings about the store's configuration, one sentence each.

        Must leave nothing behind. Raises BackendUnavailable if an insert would fail, and ConfigurationError if the
        store's configuration can lose records.
        """
        self.now()
        return ()

    def close(self) -> None:  # noqa: B027  # some stores have nothing to close
        """Close all connections. Must be idempotent and must not raise."""


class ClaimingStore(JobStore):
    """A store that can also hand out the next job, so that it is a backend by itself."""

    @abstractmethod
    def take(
        self,
        queues: Sequence[str],
        changes: Mapping[str, Change],
        limit: int,
        rev: str,
        limits: TakeLimits | None = None,
    ) -> Sequence[Record]:
        """Begin at most `limit` of the next queued jobs of these queues, as `begin` does. Returns the changed records.

        `changes` maps a task's name to its change; jobs of other tasks must be ignored. The jobs of all these queues
        are ordered by priority, highest first, then by queued_at. Must ignore expired jobs; the dispatcher cancels
        them.

        As in a `Begin`, a job that `limits` do not let begin is held, and the next one is tried, but not more than
        LOOKED_AT jobs beyond `limit` in one call. Must not read jobs that are held already.
        """

    @abstractmethod
    def unknown(self, queues: Sequence[str], tasks: Collection[str], limit: int) -> Sequence[Record]:
        """At most `limit` queued jobs of these queues that have a task not in `tasks` and no `unknown_since`."""

    @abstractmethod
    def wait_for_work(self, queues: Sequence[str], timeout: float) -> None:
        """Return when a job may have been queued since this thread's last call, or after `timeout` seconds.

        The first call of a thread may return at once.
        """

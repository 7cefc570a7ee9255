"""Functions that stores share: the verbs that write, the fields to keep, statistics. For authors of stores.

The functions of the verbs are for stores that cannot evaluate the condition of a verb on their server. The memory store
uses them too. The suite in `queueport.testing.stores` compares every other store with the memory store.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from itertools import compress
from operator import ne
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from queueport.errors import BackendUnavailable
from queueport.spi.record import RECORD_VERSION, VALUES, Change, CorruptRecord, Record, Release
from queueport.spi.store import (
    LIMITED,
    Begin,
    Document,
    Insert,
    LeaseRenewal,
    LimitState,
    Query,
    QueueCounts,
    StartLimit,
    Swap,
)
from queueport.stats import WorkerStats
from queueport.status import JobError, JobState

T = TypeVar("T")

__all__ = [
    "CLOCK_STEP",
    "Tally",
    "Transition",
    "Verb",
    "admit",
    "begin",
    "begun",
    "counting",
    "document",
    "document_text",
    "given_fields",
    "given_names_and_values",
    "holding",
    "insert",
    "is_default",
    "is_held",
    "is_passed",
    "matches",
    "names_error",
    "newest_error",
    "readable",
    "readable_workers",
    "reading",
    "releasing",
    "renew",
    "renewal",
    "replace_waiting",
    "replacing",
    "room",
    "search_too_long",
    "start_in",
    "startable",
    "swap",
    "unreadable_holder",
    "worker_stats",
]


START_ERROR = 1e-6
"""This part of a start of a rate may be missing, because times are rounded."""
OTHER_RATE = 0.01
"""By this part of a start, the starts of a rate may exceed its burst, because times are rounded."""
CLOCK_STEP = 10.0
"""Seconds by which the clock of a store may be set back, or differ between its processes, without an effect on
searches by the time of the enqueue. Such a search may take records in the order of insertion for ordered by
`enqueued_at`, except for this time."""


class Transition(NamedTuple):
    """The result of a verb whose condition holds: the new record (None: the record is deleted), and the change made."""

    new: Record | None
    change: Change
    limited: bool = False
    """True if a limit did not let the job begin, so that the outcome is LIMITED."""
    full_at: Mapping[str, float] = MappingProxyType({})
    """The new `LimitState.full_at` of each limit with a rate, by name."""


Verb = Callable[[float, Record | None], Transition | None]
"""Takes the store's time and the record that was found (None: there is none). Returns the transition that the store
must write, or None if the verb's condition does not hold."""


def insert(item: Insert, now: float, found: Record | None) -> Transition | None:
    """Insert the record if its id is new.

    `partial(insert, item)` is a `Verb`. So are those of `swap`, `begin` and `renew`. None of these functions writes:
    the store must write the new record. For `insert` and `swap`, the store must first check that no other job holds the
    key of the new record.
    """
    return None if found is not None else Transition(item.change.applied(item.record, item.rev, now), item.change)


def replacing(item: Insert, holder: Record) -> Change | None:
    """The change that an insert makes to the job that holds its key. None: it makes none, and the outcome is KEY_HELD.

    If the holder is running, it gives up the key by this change, and the store must then insert the record. If the
    holder has the rev of the insert, an earlier call with this insert has changed it.
    """
    changes, new = item.replace, item.record
    if changes is None or holder.key != new.key or holder.state.final or not readable(holder):
        return None
    if holder.rev == item.rev:
        return None
    if holder.state is JobState.RUNNING:
        return changes.running
    if changes.sent is not None and holder.state is JobState.QUEUED and holder.sent:
        place = holder.queue, holder.priority, holder.group
        return changes.sent if place == (new.queue, new.priority, new.group) else changes.waiting
    return changes.waiting


def replace_waiting(item: Insert, now: float, found: Record | None) -> Transition | None:
    """Make the change of `replacing`, if the job still holds the key of the insert and waits."""
    if found is None or found.state is JobState.RUNNING:
        return None
    change = replacing(item, found)
    return None if change is None else Transition(change.applied(found, item.rev, now), change)


def swap(item: Swap, now: float, found: Record | None) -> Transition | None:
    """Change or delete the record, if it has the expected rev."""
    if found is None or found.rev != item.expected:
        return None
    return Transition(None if item.change.delete else item.change.applied(found, item.rev, now), item.change)


def begin(
    item: Begin, now: float, found: Record | None, state_of: Callable[[str], LimitState] | None = None
) -> Transition | None:
    """Begin the job, if it is queued, has not expired, has this task, and no newer release wrote its record.

    `state_of`, which is called only if the item has limits, returns the state of the limit with a name.
    """
    if found is None or found.task != item.task or not startable(found, now):
        return None
    if not item.limits or state_of is None:
        return Transition(begun(found, item.change, item.rev, now), item.change)
    if found.queue != item.queue:
        return None
    reached, full_at = admit(item.limits, found, now, state_of)
    if reached is not None:
        change = holding(item.hold, found, reached, now)
        return Transition(change.applied(found, item.rev, now), change, limited=True)
    change = item.change.with_next(counting(item.limits, found))
    return Transition(begun(found, change, item.rev, now), change, full_at=full_at)


def admit(
    limits: Sequence[StartLimit], record: Record, now: float, state_of: Callable[[str], LimitState]
) -> tuple[str | None, dict[str, float]]:
    """The name of the first limit that does not let the job begin, or None; and the new `full_at` by name.

    Each limit must have a free slot and a start of its rate, apart from those of the jobs that were let on for it. Only
    a job that was let on may begin while jobs are held, so the jobs begin in their order. It may pass the held jobs of
    all its limits: if not, two jobs with the same two limits, each let on for another one, would hold each other.
    """
    full_at = {}
    waited = is_passed(record)
    for limit in limits:
        name = limit.name_for(record.limit_key)
        state = state_of(name)
        if state.held and not waited:
            return name, {}
        if room(limit, state, now, ahead=0 if waited and record.held_by == name else state.passed) < 1:
            return name, {}
        if limit.rate is not None:
            full_at[name] = _full_at(limit.rate, limit.burst, state, now) + 1 / limit.rate
    return None, full_at


def room(limit: StartLimit, state: LimitState, now: float, *, ahead: int) -> float:
    """The number of jobs that the limit lets begin now after `ahead` others. May be infinite or negative."""
    free = math.inf if limit.concurrency is None else float(limit.concurrency - state.running)
    if limit.rate is not None:
        starts = limit.burst - (_full_at(limit.rate, limit.burst, state, now) - now) * limit.rate
        free = min(free, math.floor(starts + START_ERROR))
    return free - ahead


def start_in(limit: StartLimit, state: LimitState, now: float, *, ahead: int) -> float:
    """In how many seconds the rate has a start after `ahead` others, which begin now. 0 if it has one now."""
    if limit.rate is None:
        return 0.0
    full_at = _full_at(limit.rate, limit.burst, state, now)
    return max(0.0, full_at + (ahead + 1 - limit.burst) / limit.rate - now)


def _full_at(rate: float, burst: int, state: LimitState, now: float) -> float:
    """When the whole burst is free. If the state has more starts than a burst, they are those of an earlier, lower rate
    or a higher burst, and do not count.
    """
    return max(state.full_at, now) if (state.full_at - now) * rate <= burst + OTHER_RATE else now


def holding(hold: Change, record: Record, name: str, now: float) -> Change:
    """The change that makes the job wait for the limit: `hold`, and `wake_at` not later than the job's expiry."""
    change, ends = hold.with_next(Change({"held_by": name})), record.expires_at
    if ends is not None and ends < now + hold.stamp.get("wake_at", math.inf):
        return change.with_next(Change({"wake_at": ends}))
    return change


def counting(limits: Sequence[StartLimit], record: Record) -> Change:
    """The change that counts a job, which begins, against its limits."""
    return Change({"slots": tuple(limit.name_for(record.limit_key) for limit in limits), "held_by": None})


def is_held(record: Record) -> bool:
    """True if the job waits for the limit `held_by`."""
    return record.state is JobState.QUEUED and record.reason == LIMITED and record.held_by is not None


def is_passed(record: Record) -> bool:
    """True if the job has waited for the limit `held_by` and was let on, and has not begun since."""
    return record.state is JobState.QUEUED and record.reason is None and record.held_by is not None


def renew(item: LeaseRenewal, now: float, found: Record | None) -> Transition | None:
    """Extend the lease and set the values, if the job is running with this token."""
    if found is None or found.state is not JobState.RUNNING or found.token != item.token:
        return None
    change = renewal(item)
    return Transition(change.applied(found, item.rev, now), change)


def renewal(item: LeaseRenewal) -> Change:
    """The change that this heartbeat makes to the record: the new values, and `wake_at` at the end of the new lease."""
    return Change(item.values, {"wake_at": item.lease})


def releasing(item: Release, found: Record | None) -> Change | None:
    """The change of the waiting job that a `Release` makes; None if it makes none."""
    if found is None or found.state is not JobState.SCHEDULED or not found.waits_for:
        return None
    links = found.links
    if item.after is not None and (links is None or item.after not in (links.after, links.after_batch)):
        return None
    left = 0 if item.all else found.waits_for - 1
    return Change({**item.set, "waits_for": left}, {} if left else {"wake_at": 0.0})


def startable(record: Record, now: float) -> bool:
    """True if the job may begin: it is queued, has not expired, and no newer release wrote its record.

    `take` and `begin` require this. They also require that the job has the right task; this function does not check the
    task.
    """
    return record.state is JobState.QUEUED and not record.expired(now) and readable(record)


def begun(record: Record, change: Change, rev: str, now: float) -> Record:
    """The record after begin: with the change applied and 1 added to `attempts`."""
    return change.applied(record, rev, now, starts=True)


def readable(record: Record) -> bool:
    """False if a newer release wrote the record. The verbs that hand out work must then ignore the record."""
    return record.v <= RECORD_VERSION


def search_too_long(prefix: str, shown: str) -> BackendUnavailable:
    """The error for a search for ids that takes too long in the store `shown`."""
    return BackendUnavailable(
        f"the search for ids that begin with {prefix!r:.80} takes too long, because {shown} has too many keys: "
        "give the whole id"
    )


def unreadable_holder(job_id: str) -> Record:
    """The record for a KEY_HELD result if the record of the job that holds the key cannot be read.

    For example, a newer release wrote the holder's record. Only the id is that of the holder. The state is RUNNING, so
    that the caller does not change the holder.
    """
    return Record(job_id, "", "", b"", JobState.RUNNING)


def matches(query: Query, record: Record) -> bool:
    """True if the record meets the conditions of the query. Ignores the query's `after` and `limit`."""
    error = newest_error(record.errors)
    finished = record.finished_at
    return (
        (query.state is None or record.state is query.state)
        and (query.queue is None or record.queue == query.queue)
        and (query.task is None or record.task == query.task)
        and (query.error is None or (error is not None and names_error(error, query.error)))
        and (query.finished_before is None or (finished is not None and finished < query.finished_before))
        and (query.key is None or record.key == query.key)
        and (query.tag is None or query.tag in record.tags)
        and (query.since is None or record.enqueued_at >= query.since)
        and (query.text is None or query.text.encode() in record.payload)
        and (query.until is None or record.enqueued_at < query.until)
    )


class Tally:
    """Adds up the job counts of a store by queue. `queues` are queues to report even if they have no jobs."""

    def __init__(self, queues: Iterable[str] = ()) -> None:
        self.states: dict[str, dict[JobState, int]] = {queue: dict.fromkeys(JobState, 0) for queue in queues}
        self._queued: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def add(self, queue: str, priority: int, state: str, n: int) -> None:
        """Add `n` jobs. If a record is damaged, so that no state has this name, only list the queue."""
        counts = self.states.setdefault(queue, dict.fromkeys(JobState, 0))
        if state in _STATES:
            counts[_STATES[state]] += n
        if state == JobState.QUEUED.value:
            self._queued[queue][priority] += n

    def counts(self, oldest: Mapping[str, float]) -> dict[str, QueueCounts]:
        """The counts of each queue. `oldest` maps a queue to the time at which its oldest queued job was queued.

        A negative count is reported as zero, because some stores cannot read all their counts at the same moment.
        """
        found = {}
        for queue, states in self.states.items():
            queued = {priority: n for priority, n in self._queued[queue].items() if n > 0}
            found[queue] = QueueCounts({state: max(0, n) for state, n in states.items()}, queued, oldest.get(queue))
        return found


_STATES = {state.value: state for state in JobState}


def newest_error(errors: Sequence[JobError]) -> str | None:
    """The dotted names of the newest error's class and its ancestors, separated by spaces; None without errors."""
    return " ".join((errors[-1].type, *errors[-1].bases)) if errors else None


def names_error(classes: str, wanted: str) -> bool:
    """True if `classes`, as returned by `newest_error`, contains the name `wanted`, with or without its module."""
    return f" {wanted} " in f" {classes} " or f".{wanted} " in f"{classes} "


def given_fields(record: Record) -> dict[str, Any]:
    """The fields that a store must keep, with their values: `v`, and each field that differs from its default."""
    return dict(zip(*given_names_and_values(record), strict=True))


def given_names_and_values(record: Record) -> tuple[tuple[str, ...], list[Any]]:
    """The names and the values of `given_fields`. Records that have the same names share one tuple of names."""
    values = VALUES(record)
    differ = tuple(map(ne, values, _DEFAULTS.values()))
    return _names(differ), list(compress(values, differ))


@lru_cache
def _names(chosen: tuple[bool, ...]) -> tuple[str, ...]:
    return tuple(compress(_DEFAULTS, chosen))


def is_default(name: str, value: Any) -> bool:
    """True if a store need not keep this field, because a record that is read without the field has this value."""
    return bool(value == _DEFAULTS.get(name, _NO_DEFAULT))


_DEFAULTS: dict[str, Any] = {
    field.name: {} if field.default_factory is dict else field.default for field in dataclasses.fields(Record)
}
_NO_DEFAULT = object()
_DEFAULTS["v"] = None  # always keep `v`, because later releases have another default


def worker_stats(name: str, queues: Iterable[str], tasks: Iterable[str], seen: float) -> WorkerStats:
    """The statistics of a worker. `seen` is the time of its last announcement, in seconds since the epoch."""
    return WorkerStats(name, tuple(queues), tuple(tasks), datetime.fromtimestamp(seen, UTC))


def readable_workers(items: Iterable[T], read: Callable[[T], WorkerStats]) -> list[WorkerStats]:
    """The workers of the items that `read` can read, sorted by name.

    A damaged item is left out: a live worker replaces its item with its next heartbeat.
    """
    found = []
    for item in items:
        with suppress(ValueError, TypeError, LookupError, AttributeError, OverflowError, OSError, RecursionError):
            found.append(read(item))
    return sorted(found, key=lambda worker: worker.name)


def document_text(value: Mapping[str, Any]) -> str:
    """The value of a document as JSON, in ASCII."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def document(kind: str, name: Any, rev: Any, text: Any) -> Document:
    """The document with this rev and the value that `document_text` has encoded. Raises CorruptRecord."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CorruptRecord(f"the value of the document {name!r} is not valid JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(rev, str) or not isinstance(name, str):
        raise CorruptRecord(f"the document {name!r} is not a JSON object with a name and a rev")
    return Document(kind, name, value, rev)


@contextmanager
def reading(job_id: str) -> Iterator[None]:
    """A context manager that adds the job's id to the text of a CorruptRecord raised inside it."""
    try:
        yield
    except CorruptRecord as error:
        raise CorruptRecord(f"job {job_id!r} is damaged: {error}") from None

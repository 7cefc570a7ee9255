"""What a store counts in its history, and for how long it keeps the numbers. For authors of stores.

A store adds 1 to one number for each change, in the atomic step of the change. It keeps the numbers for each minute,
queue and task, under the name that `events` returns. Such a name lists all events of the change, such as
`succeeded,run7`, so that each change needs only one write. The events are the fields of `HistoryPoint`, and `waitN` and
`runN` for bucket N of the two histograms (`queueport.stats.BUCKETS`). A minute that is older than a day is folded into
its hour. So each number is in one minute or in one hour, never in both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from queueport.spi.record import Change, Record
from queueport.stats import BUCKETS
from queueport.status import JobState

__all__ = [
    "FOLDED",
    "HOUR",
    "KEEP_HOURS",
    "KEEP_MINUTES",
    "MINUTE",
    "OTHER",
    "PAIRS",
    "Before",
    "Counted",
    "HistoryCounts",
    "HistoryQuery",
    "Pair",
    "events",
    "gathered",
    "nothing",
    "start_of",
]

MINUTE, HOUR = 60, 3600
"""The lengths, in seconds, of the two kinds of intervals for which numbers are kept."""
KEEP_MINUTES, KEEP_HOURS = 24 * HOUR, 30 * 24 * HOUR
"""Seconds for which minutes and hours are kept. A store may keep them for longer, until `fold_history` is called."""
PAIRS = 100
"""The maximum number of pairs of a queue and a task that are counted separately in one interval, so that the history
has a limited size. All other pairs of the interval are counted under OTHER."""
FOLDED = 10
"""The maximum number of minutes, and of hours, that one call of `JobStore.fold_history` handles."""

Pair = tuple[str, str]
"""A queue and a task."""
OTHER: Pair = ("", "")
Counted = defaultdict[Pair, defaultdict[str, int]]
"""The numbers to add to an interval, by pair and name. `nothing` makes an empty one."""


def nothing() -> Counted:
    """A new `Counted` without numbers."""
    return defaultdict(partial(defaultdict, int))


class Before(NamedTuple):
    """What `events` needs of the record before the change."""

    state: JobState
    started_at: float | None = None


def events(old: Record | Before | None, new: Record | None, change: Change, now: float) -> str:
    """The events of this change, separated by commas: the name of the number to which the store must add 1.

    Empty if there are none. `old` is None if the change inserts the record, and `new` is None if it deletes the record.
    `now` is the store's time. The number of jobs that have not ended is `enqueued + retried - succeeded - dead -
    cancelled`.
    """
    was, state = None if old is None else old.state, None if new is None else new.state
    found = _NAMES[id(was), id(state)]
    if change.failed:
        found += ",failed" * change.failed
    if was is not state:
        if old is not None and was is JobState.RUNNING:
            if old.started_at is not None:
                found += f",run{bisect_left(BUCKETS, now - old.started_at)}"
        elif new is not None and state is JobState.RUNNING and new.queued_at is not None:
            found += f",wait{bisect_left(BUCKETS, now - new.queued_at)}"
    return found[1:]


def _names(was: JobState | None, state: JobState | None) -> Iterator[str]:
    """The events of a change from one state to another; None is no record."""
    if was is None:
        yield "enqueued"
    if was is not None and was.final:
        if state is not None and not state.final:
            yield "retried"
    elif state is None:  # the backend has not taken the message of a new job
        yield "cancelled"
    elif state.final:
        yield state.value


_NAMES = {
    (id(was), id(state)): "".join(f",{name}" for name in _names(was, state))
    for was in (None, *JobState)
    for state in (None, *JobState)
}
"""The keys are ids of the members, because Python code computes the hash of an Enum's member, which is slow."""


def start_of(step: int, time: float) -> int:
    """The start of the interval of `step` seconds that contains this time."""
    return int(time // step) * step


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which numbers `JobStore.history` must return: those of intervals that start at or after `since`, and before
    `until`. None for `queue` or `task` means any. With `by_task`, the numbers of each task are separate.

    `since` and `until` are seconds since the epoch, and `step` is in seconds. All three are multiples of MINUTE.
    """

    since: int
    until: int
    step: int
    queue: str | None = None
    task: str | None = None
    by_task: bool = False

    def matches(self, pair: Pair) -> bool:
        """True if the numbers of this queue and task are wanted."""
        queue, task = pair
        return self.queue in (None, queue) and self.task in (None, task)

    def place(self, at: int, pair: Pair) -> tuple[int, Pair]:
        """The place of the sums to which the numbers of a pair, in the interval that starts at `at`, are added.

        It is the start of a step, and this pair, or without `by_task` its queue and an empty text.
        """
        return self.since + (at - self.since) // self.step * self.step, pair if self.by_task else (pair[0], "")


@dataclass(frozen=True, slots=True)
class HistoryCounts:
    """The number of each event of one queue in one step. `at` is the start of the step, in seconds since the epoch.

    `task` is empty if these are the sums of all tasks.
    """

    at: int
    queue: str
    counts: Mapping[str, int]
    task: str = ""


def gathered(rows: Iterable[tuple[tuple[int, Pair], Iterable[tuple[str, int]]]]) -> list[HistoryCounts]:
    """Add up numbers by place (`HistoryQuery.place`). Each has a name, which is a text that `events` has returned.

    Returns the sums of each event, sorted by place.
    """
    found: defaultdict[tuple[int, Pair], dict[str, int]] = defaultdict(dict)
    for place, numbers in rows:
        sums = found[place]
        for name, n in numbers:
            sums[name] = sums.get(name, 0) + n
    return [HistoryCounts(at, queue, _events(names), task) for (at, (queue, task)), names in sorted(found.items())]


def _events(names: Mapping[str, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, n in names.items():
        for event in name.split(","):
            counts[event] = counts.get(event, 0) + n
    return counts

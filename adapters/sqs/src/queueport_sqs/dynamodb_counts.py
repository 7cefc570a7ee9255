"""The kept counts of the DynamoDB store, in parts so that no item is hot. For its readers.

The counts of a queue are spread over several items; each write takes one of them at random, so that transactions
seldom meet. A part that is used for the first time is first named in one more item, by which readers know them all.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from queueport.record import Record
from queueport.status import JobState
from queueport_sqs.dynamodb_items import Item, Names
from queueport_sqs.dynamodb_table import Table

__all__ = ["Counts", "Delta", "Kept"]

Delta = dict[str, Counter[str]]
"""By queue: how much is added to each of its counts."""

STATES = {state.value: state for state in JobState}


@dataclass(frozen=True, slots=True)
class Kept:
    """One queue's counts, all parts together."""

    states: dict[JobState, int] = field(default_factory=lambda: dict.fromkeys(JobState, 0))
    queued: Counter[int] = field(default_factory=Counter)
    """By priority."""


def name_of(priority: int, state: str) -> str:
    """The attribute that counts the jobs of this priority and state."""
    return f"{priority}#{state}"


def moved(old: Record | None, new: Record | None, processed: int = 0, failed: int = 0) -> Delta:
    """What a change of a record adds to the counts."""
    delta: Delta = defaultdict(Counter)
    for record, step in ((old, -1), (new, +1)):
        if record is not None:
            delta[record.queue][name_of(record.priority, record.state.value)] += step
    where = new or old
    if where is not None:
        delta[where.queue]["processed"] += processed
        delta[where.queue]["failed"] += failed
    return summed([delta])


def summed(deltas: Iterable[Delta]) -> Delta:
    """All together, without what adds nothing."""
    total: Delta = defaultdict(Counter)
    for delta in deltas:
        for queue, counts in delta.items():
            for name, n in counts.items():
                total[queue][name] += n
    nonzero = {queue: Counter({name: n for name, n in counts.items() if n}) for queue, counts in total.items()}
    return {queue: counts for queue, counts in nonzero.items() if counts}


class Counts:
    """The counts of one namespace."""

    def __init__(self, table: Table, names: Names) -> None:
        self._table = table
        self._names = names
        self._known: set[str] = set()

    def anywhere(self) -> int:
        """A place to begin with; the next number is another one."""
        return random.randrange(self._names.shards)

    def updates(self, delta: Delta, place: int) -> list[dict[str, Any]]:
        """The parts of a transaction that add this, at that place."""
        parts = {queue: self._names.counter(queue, place % self._names.shards) for queue in delta}
        self._announce(set(parts.values()) - self._known)
        return [{"Update": self._update(parts[queue], counts)} for queue, counts in delta.items()]

    def _update(self, part: str, counts: Mapping[str, int]) -> dict[str, Any]:
        numbered = list(enumerate(counts.items()))
        return {
            "TableName": self._table.name,
            "Key": {"pk": {"S": part}},
            "UpdateExpression": "ADD " + ", ".join(f"#{i} :{i}" for i, _ in numbered),
            "ExpressionAttributeNames": {f"#{i}": name for i, (name, _) in numbered},
            "ExpressionAttributeValues": {f":{i}": {"N": str(n)} for i, (_, n) in numbered},
        }

    def _announce(self, parts: set[str]) -> None:
        """Name parts that this process has not used yet; one that then stays unused does no harm."""
        if not parts:
            return
        self._table.call(
            "update_item",
            TableName=self._table.name,
            Key={"pk": {"S": self._names.counters}},
            UpdateExpression="ADD parts :parts",
            ExpressionAttributeValues={":parts": {"SS": sorted(parts)}},
        )
        self._known |= parts

    def read(self) -> tuple[dict[str, Kept], int, int]:
        """The counts of each queue, and both counters."""
        named = self._table.get([self._names.counters]).get(self._names.counters, {})
        queues: dict[str, Kept] = {}
        totals: Counter[str] = Counter()
        for key, part in self._table.get(named.get("parts", {}).get("SS", ())).items():
            queue = key.split("#", 3)[3]
            _add(part, queues.setdefault(queue, Kept()), totals)
        return queues, totals["processed"], totals["failed"]


def _add(part: Item, kept: Kept, totals: Counter[str]) -> None:
    for name, number in part.items():
        n = int(number.get("N", 0))
        priority, _, state = name.partition("#")
        if state in STATES:
            kept.states[STATES[state]] += n
            if STATES[state] is JobState.QUEUED:
                kept.queued[int(priority)] += n
        elif name in ("processed", "failed"):
            totals[name] += n

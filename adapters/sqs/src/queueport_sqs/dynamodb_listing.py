"""How the DynamoDB store finds jobs by its indexes. For its readers.

An index lags behind, so it only proposes: every job that it names is read again, consistently, and looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, NamedTuple

from queueport.record import Record
from queueport.status import JobState
from queueport.store import Query
from queueport.stores.conditions import matches
from queueport_sqs.dynamodb_items import Found, Item, Names, value
from queueport_sqs.dynamodb_reading import Reading
from queueport_sqs.dynamodb_schema import DUE, INDEXES, LISTED, WAITING
from queueport_sqs.dynamodb_table import Table

__all__ = ["Listing"]

PAGE = 50
"""Entries of a partition asked for at once, at least: they are small, and cost as much as one."""
FEW, MANY = 25, 100
"""Jobs read at once: at least, since some may not be as they should be, and at most."""


class Entry(NamedTuple):
    """What an index says of a job. Entries of several partitions are merged by their order."""

    order: Any
    id: str


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked of each partition. `bounds` is a condition on its order, `filter` on the rest."""

    index: str
    bounds: str = ""
    values: Item = field(default_factory=dict)
    newest: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    filter: str = ""

    @property
    def order(self) -> str:
        """The attribute that the index is ordered by."""
        order: str = INDEXES[self.index]["keys"][1]
        return order

    def asked(self, partition: str) -> dict[str, Any]:
        """The parameters of a query."""
        bounds = {"#o": self.order} if self.bounds else {}
        asked = {
            "IndexName": self.index,
            "KeyConditionExpression": "#p = :p" + (f" AND #o {self.bounds}" if self.bounds else ""),
            "ExpressionAttributeNames": {"#p": INDEXES[self.index]["keys"][0], **bounds, **self.names},
            "ExpressionAttributeValues": {":p": value(partition), **self.values},
        }
        return {**asked, "FilterExpression": self.filter} if self.filter else asked


class Listing:
    """Searches in one namespace, with one reading of it."""

    def __init__(self, table: Table, names: Names, reading: Reading) -> None:
        self._table = table
        self._names = names
        self._reading = reading

    def due(self, now: float, limit: int) -> Iterator[Found]:
        """Jobs whose wake_at has come, most overdue first; `limit` is how many will do, here and below."""
        partitions = self._each_shard(self._names.due)
        entries = self._entries(partitions, Search(DUE, "<= :end", {":end": value(now)}))
        found = self._read(entries, limit, lambda job: job.wake_at is not None and job.wake_at <= now)
        return _ordered(found, limit, lambda job: job.wake_at)

    def unreceived(self, queue: str, priority: int, before: float, limit: int) -> Iterator[Found]:
        """Queued, sent jobs that were sent before that, longest ago first."""

        def holds(job: Record) -> bool:
            here = (job.queue, job.priority, job.state, job.sent) == (queue, priority, JobState.QUEUED, True)
            return here and job.sent_at is not None and job.sent_at < before

        partitions = self._each_shard(lambda shard: self._names.sent(queue, priority, shard))
        entries = self._entries(partitions, Search(DUE, "< :end", {":end": value(before)}))
        return _ordered(self._read(entries, limit, holds), limit, lambda job: job.sent_at)

    def oldest(self, state: JobState, limit: int) -> Iterator[Found]:
        """The jobs in that state, in the order of their insertion."""
        partitions = self._each_shard(lambda shard: self._names.state(state, shard))
        return self._read(self._entries(partitions, Search(LISTED)), limit, lambda job: job.state is state)

    def find(self, query: Query) -> list[Record]:
        """The newest jobs that match."""
        search = _matching(query)
        if query.after is not None:
            last = self._reading.found([query.after]).get(query.after)
            if last is None:
                return []
            search = replace(search, bounds="< :end", values={**search.values, ":end": value(last.seq)})
        entries = self._entries(self._states(query), search)
        found = self._read(entries, query.limit, lambda job: matches(query, job))
        return [job.record for job in islice(found, query.limit)]

    def count(self, query: Query) -> int:
        """How many match, as the index has it."""

        def counted(partition: str) -> int:
            asked = _matching(query).asked(partition)
            return sum(answer["Count"] for answer in self._table.query(**asked, Select="COUNT"))

        return sum(self._table.each([lambda p=p: counted(p) for p in self._states(query)]))  # type: ignore[misc]

    def heads(self, queues: Collection[str]) -> dict[str, float]:
        """Since when the longest-waiting job of each queue is queued, as the index has it."""
        places = [(queue, self._names.waiting(queue, shard)) for queue in queues for shard in range(self._names.shards)]

        def head(partition: str) -> list[dict[str, Any]]:
            return list(next(self._table.query(**Search(WAITING).asked(partition), Limit=1))["Items"])

        answers = self._table.each([lambda p=p: head(p) for _, p in places])  # type: ignore[misc]
        heads: dict[str, float] = {}
        for (queue, _), items in zip(places, answers, strict=True):
            for item in items:
                since = float(item["queued_at"]["N"])
                heads[queue] = min(since, heads.get(queue, since))
        return heads

    def workers(self) -> list[str]:
        """The keys of all workers' items."""
        asked = Search(LISTED).asked(self._names.workers)
        return [item["pk"]["S"] for answer in self._table.query(**asked) for item in answer["Items"]]

    def _each_shard(self, partition: Callable[[int], str]) -> list[str]:
        return [partition(shard) for shard in range(self._names.shards)]

    def _states(self, query: Query) -> list[str]:
        states: Iterable[JobState] = JobState if query.state is None else [query.state]
        return [self._names.state(state, shard) for state in states for shard in range(self._names.shards)]

    def _entries(self, partitions: Sequence[str], search: Search) -> Iterator[Entry]:
        """The entries of these partitions in one order; the first pages are asked for at once."""

        def started(partition: str) -> tuple[list[dict[str, Any]], Iterator[dict[str, Any]]]:
            limit = {} if search.filter else {"Limit": PAGE}  # which counts what the filter leaves out, too
            pages = self._table.query(**search.asked(partition), **limit, ScanIndexForward=not search.newest)
            return next(pages)["Items"], pages

        def entries(first: list[dict[str, Any]], rest: Iterator[dict[str, Any]]) -> Iterator[Entry]:
            for items in chain([first], (page["Items"] for page in rest)):
                yield from (_entry(item, search.order) for item in items)

        begun = self._table.each([lambda p=p: started(p) for p in partitions])  # type: ignore[misc]
        return heapq.merge(*(entries(*pages) for pages in begun), reverse=search.newest)

    def _read(self, entries: Iterator[Entry], limit: int, holds: Callable[[Record], bool]) -> Iterator[Found]:
        """The jobs that these entries name, each once, if they are as they should be."""
        seen: set[str] = set()
        while some := list(islice(entries, _portion(limit))):
            ids = [entry.id for entry in some if entry.id not in seen]
            seen.update(ids)
            found = self._reading.found(dict.fromkeys(ids))
            yield from (
                found[job_id] for job_id in dict.fromkeys(ids) if job_id in found and holds(found[job_id].record)
            )


def _ordered(found: Iterator[Found], limit: int, order: Callable[[Record], Any]) -> Iterator[Found]:
    """Those that are equal in the order of an index, and were read together, in that of their insertion."""
    while some := list(islice(found, _portion(limit))):
        yield from sorted(some, key=lambda job: (order(job.record), job.seq))


def _portion(limit: int) -> int:
    return max(FEW, min(limit, MANY))


def _entry(item: dict[str, Any], order: str) -> Entry:
    ((kind, kept),) = item[order].items()
    return Entry(float(kept) if kind == "N" else kept, item["pk"]["S"].split("#", 2)[2])


def _matching(query: Query) -> Search:
    """What leaves out, inside the index, entries that cannot match; it may leave in some that do not."""
    phrases, names, values = [], {}, {}
    for name, wanted in (("queue", query.queue), ("task", query.task)):
        if wanted is not None:
            phrases.append(f"#{name} = :{name}")
            names[f"#{name}"], values[f":{name}"] = name, value(wanted)
    if query.error is not None:
        phrases.append("(#error = :error OR contains(#error, :bare))")
        names["#error"], values[":error"], values[":bare"] = "error", value(query.error), value(f".{query.error}")
    if query.finished_before is not None:
        phrases.append("finished_at < :before")
        values[":before"] = value(query.finished_before)
    return Search(LISTED, newest=True, values=values, names=names, filter=" AND ".join(phrases))

"""Finds jobs by the indexes of the DynamoDB table. For readers of the store.

An index lags behind the table. So each job that an index names is read from the table, and checked, before it is
returned; a job that was just written may be missing. `count` and `heads` trust the index.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from queueport.spi.record import Record
from queueport.spi.storage import CLOCK_STEP, matches, search_too_long
from queueport.spi.store import Query
from queueport.stats import WorkerStats
from queueport.status import JobState
from queueport_sqs.dynamodb.reading import Reading
from queueport_sqs.dynamodb.records import Item, label_of, place_of, value
from queueport_sqs.dynamodb.schema import DUE, INDEXES, LISTED, WAITING
from queueport_sqs.dynamodb.stats import workers_in

__all__ = ["Listing"]

PAGE = 50
"""The number of index entries that a search without a filter reads at once from a partition. Reading 50 takes one
request, as reading one does."""
FEW, MANY = 25, 100
"""Minimum and maximum number of jobs to read at once. At least FEW are read, even if the caller wants fewer, because
some of them may not match."""


ERROR = (
    "(#error = :error OR contains(#error, :name) OR contains(#error, :bare) "
    "OR (contains(#error, :suffix) AND NOT begins_with(#error, :blank)))"
)
"""The condition that the attribute `error` contains the wanted class name, with or without the module. `error` contains
several names, each between blanks; earlier releases wrote a single name without blanks."""


TIME = re.compile(r"[0-9a-f]+")
DIGITS, SURE = 12, 8
"""The number of hexadecimal digits of the time in an id that queueport has made; and how many of them are needed to
search for jobs by this time. With SURE digits, the time is known to about a minute."""
MARGIN = 3600.0
"""Seconds by which a job may have been inserted later, or seemingly earlier, than its id was made."""


def _place(at: float) -> str:
    """The first place, in the order of insertion, of jobs that were inserted at this time."""
    return f"{max(0, int(at * 1e9)):016x}"


@dataclass(frozen=True, slots=True)
class Search:
    """A query for entries of an index.

    `bounds` is a condition on the sort key, and `filter` is a condition on other attributes. With `newest`, the entries
    are read in descending order of the sort key.
    """

    index: str
    bounds: str = ""
    values: Item = field(default_factory=dict)
    newest: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    filter: str = ""

    @property
    def order(self) -> str:
        """The name of the index's sort key."""
        return str(INDEXES[self.index]["keys"][1])

    def query(self, partition: str) -> dict[str, Any]:
        """The parameters of this query to one partition of the index."""
        bounds = {"#o": self.order} if self.bounds else {}
        query = {
            "IndexName": self.index,
            "KeyConditionExpression": "#p = :p" + (f" AND #o {self.bounds}" if self.bounds else ""),
            "ExpressionAttributeNames": {"#p": INDEXES[self.index]["keys"][0], **bounds, **self.names},
            "ExpressionAttributeValues": {":p": value(partition), **self.values},
        }
        return {**query, "FilterExpression": self.filter} if self.filter else query


class Listing:
    """Searches for jobs in one namespace. Each call of the store makes a new object of this class.

    Methods with `limit` return an iterator, which may yield more records than `limit`: `limit` only sets how many
    records are read at once.
    """

    def __init__(self, reading: Reading, *, timed: bool) -> None:
        """`timed` is False if the places of jobs do not show when the jobs were inserted."""
        self._timed = timed
        self._reading, self._table, self._names, self._now = reading, reading.table, reading.names, reading.now
        self._shards = range(self._names.shards)

    def due(self, limit: int) -> Iterator[Record]:
        """Jobs whose wake_at has come, most overdue first."""
        entries = self._entries(map(self._names.due, self._shards), Search(DUE, "<= :end", {":end": value(self._now)}))
        return self._read(
            entries,
            limit,
            lambda job: job.wake_at is not None and job.wake_at <= self._now,
            order=lambda job: job.wake_at,
        )

    def unreceived(self, queue: str, priority: int, before: float, limit: int) -> Iterator[Record]:
        """Queued jobs of a queue and a priority whose message was sent before the time `before`.

        They are in the order in which the messages were sent.
        """

        def holds(job: Record) -> bool:
            here = (job.queue, job.priority, job.state, job.sent) == (queue, priority, JobState.QUEUED, True)
            return here and job.sent_at is not None and job.sent_at < before

        partitions = [self._names.sent(queue, priority, shard) for shard in self._shards]
        entries = self._entries(partitions, Search(DUE, "< :end", {":end": value(before)}))
        return self._read(entries, limit, holds, order=lambda job: job.sent_at)

    def oldest(self, query: Query, limit: int) -> Iterator[Record]:
        """The jobs that match the query, in the order of insertion."""
        entries = self._entries(self._states(query.state), replace(_matching(query), newest=False))
        return self._read(entries, limit, lambda job: matches(query, job))

    def find(self, query: Query) -> list[Record]:
        """The jobs that match the query, newest first, up to the query's limit.

        With `query.after`, returns only jobs that were inserted before that job, and none if that job does not exist.
        """
        after = None
        if query.after is not None:
            last = self._reading.found([query.after]).get(query.after)
            if last is None:
                return []
            after = last.seq
        return list(islice(self._matching(query, after), query.limit))

    def _matching(self, query: Query, after: str | None = None) -> Iterator[Record]:
        """The jobs that match the query, newest first. With `after`, only those with a lower place than this."""
        search, low, high = _matching(query), None, after
        if self._timed and query.since is not None:
            low = place_of(query.since - CLOCK_STEP)
        if self._timed and query.until is not None:
            until = place_of(query.until + CLOCK_STEP)
            high = until if high is None else min(high, until)
        places = {name: value(place) for name, place in ((":low", low), (":end", high)) if place is not None}
        bounds = {(): "", (":low",): ">= :low", (":end",): "< :end"}.get(tuple(places), "BETWEEN :low AND :end")
        found = self._entries(
            self._partitions(query), replace(search, bounds=bounds, values={**search.values, **places})
        )
        entries = (entry for entry in found if high is None or entry["seq"]["S"] < high)
        return self._read(entries, query.limit, lambda job: matches(query, job))

    def count(self, query: Query) -> int:
        """The number of jobs that match the query. Ignores the query's `after` and `limit`.

        If the query has no condition that the index lacks, this is the number according to the index.
        """
        if any(each is not None for each in (query.key, query.tag, query.text, query.since, query.until)):
            return sum(1 for _ in self._matching(replace(query, limit=MANY)))

        def counted(partition: str) -> int:
            parameters = _matching(query).query(partition)
            return sum(page["Count"] for page in self._table.query(**parameters, Select="COUNT"))

        return sum(self._table.each(counted, self._states(query.state)))

    def ids(self, prefix: str, timeout: float) -> set[str]:
        """The ids that begin with the prefix, according to the index. Raises BackendUnavailable after `timeout`.

        The ids that queueport makes begin with the time in milliseconds. A prefix that may be such a time is first
        searched among the jobs that were inserted around that time, and only if there is none, among all jobs.
        """
        end = time.monotonic() + timeout
        wanted = Search(LISTED, values={":start": value(self._names.job(prefix))}, filter="begins_with(pk, :start)")
        if len(prefix) >= SURE and TIME.fullmatch(prefix[:DIGITS]):
            first, last = (int(prefix[:DIGITS].ljust(DIGITS, digit), 16) / 1000 for digit in "0f")
            places = {":from": value(_place(first - MARGIN)), ":to": value(_place(last + MARGIN))}
            near = replace(wanted, bounds="BETWEEN :from AND :to", values={**wanted.values, **places})
            if found := self._ids(near, prefix, end):
                return found
        return self._ids(wanted, prefix, end)

    def _ids(self, search: Search, prefix: str, end: float) -> set[str]:
        """The ids of the jobs that this search finds. `end` is on the monotonic clock."""

        def in_partition(partition: str) -> list[str]:
            keys: list[str] = []
            for page in self._table.query(**search.query(partition)):
                keys += [item["pk"]["S"] for item in page["Items"]]
                if time.monotonic() > end:
                    raise search_too_long(prefix, self._table.what)
            return keys

        found = chain.from_iterable(self._table.each(in_partition, self._states(None)))
        return {key.split("#", 2)[2] for key in found}

    def heads(self, queues: Collection[str]) -> dict[str, float]:
        """The oldest queued_at of each of these queues that has queued jobs, according to the index."""

        def head(place: tuple[str, int]) -> list[tuple[str, float]]:
            pages = self._table.query(**Search(WAITING).query(self._names.waiting(*place)), Limit=1)
            return [(place[0], float(item["queued_at"]["N"])) for item in next(pages)["Items"]]

        heads: dict[str, float] = {}
        places = [(queue, shard) for queue in queues for shard in self._shards]
        for queue, since in chain.from_iterable(self._table.each(head, places)):
            heads[queue] = min(since, heads.get(queue, since))
        return heads

    def workers(self, *, lost: bool) -> list[WorkerStats]:
        """The live workers, or with `lost` the lost workers, sorted by name."""
        pages = self._table.query(**Search(LISTED).query(self._names.workers))
        keys = [item["pk"]["S"] for page in pages for item in page["Items"]]
        return workers_in(self._table.get(keys).values(), self._now, lost=lost)

    def _partitions(self, query: Query) -> list[str]:
        """The partitions with all jobs that can match the query."""
        for kind, text in (("key", query.key), ("tag", query.tag)):
            if text is not None:
                return [self._names.labelled(label_of(kind, text), shard) for shard in self._shards]
        return self._states(query.state)

    def _states(self, state: JobState | None) -> list[str]:
        """The partitions with the jobs of one state, or with all jobs."""
        states: Iterable[JobState] = JobState if state is None else [state]
        return [self._names.state(each, shard) for each in states for shard in self._shards]

    def _entries(self, partitions: Iterable[str], search: Search) -> Iterator[Item]:
        """The index entries of these partitions, merged in the index's order. Reads the first pages in parallel."""

        def started(partition: str) -> Iterator[Item]:
            limit = {} if search.filter else {"Limit": PAGE}  # DynamoDB applies the limit before the filter
            pages = self._table.query(**search.query(partition), **limit, ScanIndexForward=not search.newest)
            first = next(pages)["Items"]
            return chain(first, chain.from_iterable(page["Items"] for page in pages))

        def order(entry: Item) -> Any:
            ((kind, kept),) = entry[search.order].items()
            return float(kept) if kind == "N" else kept

        return heapq.merge(*self._table.each(started, list(partitions)), key=order, reverse=search.newest)

    def _read(
        self,
        entries: Iterator[Item],
        limit: int,
        holds: Callable[[Record], bool],
        order: Callable[[Record], Any] | None = None,
    ) -> Iterator[Record]:
        """Read the jobs that these entries name, each only once, and yield those for which `holds` returns True.

        With `order`, jobs that are read together are sorted by it, and those with equal values by insertion.
        """
        seen: set[str] = set()
        while some := list(islice(entries, max(FEW, min(limit, MANY)))):
            named = dict.fromkeys(entry["pk"]["S"].split("#", 3)[2] for entry in some)
            ids = [job_id for job_id in named if job_id not in seen]
            seen.update(ids)
            found = [job for job in self._reading.found(ids).values() if holds(job.record)]
            if order is not None:
                found.sort(key=lambda job: (order(job.record), job.seq))
            yield from (job.record for job in found)


def _matching(query: Query) -> Search:
    """A search whose filter keeps every entry that matches the query, and perhaps some that do not."""
    if query.key is not None or query.tag is not None:  # the entries of labels have none of the attributes
        return Search(LISTED, newest=True)
    phrases, names, values = [], {}, {}
    for name, wanted in (("queue", query.queue), ("task", query.task)):
        if wanted is not None:
            phrases.append(f"#{name} = :{name}")
            names[f"#{name}"], values[f":{name}"] = name, value(wanted)
    if query.error is not None:
        phrases.append(ERROR)
        names["#error"], error = "error", query.error
        texts = {":name": f" {error} ", ":bare": f".{error} ", ":blank": " ", ":error": error, ":suffix": f".{error}"}
        values |= {name: value(text) for name, text in texts.items()}
    if query.finished_before is not None:
        phrases.append("finished_at < :before")
        values[":before"] = value(query.finished_before)
    return Search(LISTED, newest=True, values=values, names=names, filter=" AND ".join(phrases))

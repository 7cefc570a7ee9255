"""The history of the DynamoDB store. For readers of the store.

The numbers of a minute, a queue and a task are spread over several items, like the counts of the queue. A transaction
that changes the counts of a queue adds to the item with the same number, so that the history causes no conflict that
the counts do not cause. Items of minutes are found by an index. DynamoDB deletes them if no dispatcher folds them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from queueport.spi.history import (
    FOLDED,
    HOUR,
    KEEP_HOURS,
    KEEP_MINUTES,
    MINUTE,
    OTHER,
    PAIRS,
    Counted,
    HistoryCounts,
    HistoryQuery,
    Pair,
    gathered,
    start_of,
)
from queueport.spi.record import Flat
from queueport_sqs.dynamodb.connection import Table
from queueport_sqs.dynamodb.records import Item, Names, value
from queueport_sqs.dynamodb.schema import LISTED

__all__ = ["History"]

TTL_GRACE = 7 * 86_400
"""DynamoDB may delete a minute this number of seconds after it should have been folded."""
DELETED = 49
"""The maximum number of items that one transaction folds into one item of an hour."""


class History:
    """The history of one namespace."""

    def __init__(self, table: Table, names: Names) -> None:
        self._table = table
        self._names = names
        self._minute, self._pairs = 0, set[Pair]()
        """The pairs that this process counts separately in a minute."""

    def updates(self, counted: Counted, place: int, now: float) -> list[dict[str, Any]]:
        """The actions of a transaction that add these numbers to the present minute. `place` is that of the counts."""
        at, shard = start_of(MINUTE, now), place % self._names.shards
        places: defaultdict[Pair, Counter[str]] = defaultdict(Counter)
        for pair, counts in counted.items():
            places[self._place(at, pair)].update(counts)
        return [{"Update": self._update(MINUTE, at, shard, pair, counts)} for pair, counts in places.items()]

    def _place(self, at: int, pair: Pair) -> Pair:
        if at != self._minute:
            self._minute, self._pairs = at, set()
        if pair not in self._pairs and len(self._pairs) >= PAIRS:
            return OTHER
        self._pairs.add(pair)
        return pair

    def _update(self, step: int, at: int, shard: int, pair: Pair, counts: Mapping[str, int]) -> dict[str, Any]:
        numbered = list(enumerate(counts.items()))
        queue, task = pair
        end = at + step + (KEEP_HOURS if step == HOUR else KEEP_MINUTES + TTL_GRACE)
        fixed: dict[str, Flat] = {
            "listed": self._names.intervals(step),
            "seq": _seq(at),
            "queue": queue,
            "task": task,
            "ttl": end,
        }
        return {
            "TableName": self._table.name,
            "Key": {"pk": value(self._names.history(step, at, pair, shard))},
            "UpdateExpression": f"SET {', '.join(f'#{name} = :{name}' for name in fixed)} "
            f"ADD {', '.join(f'#{i} :{i}' for i, _ in numbered)}",
            "ExpressionAttributeNames": {
                **{f"#{name}": name for name in fixed},
                **{f"#{i}": f"n#{name}" for i, (name, _) in numbered},
            },
            "ExpressionAttributeValues": {
                **{f":{name}": value(plain) for name, plain in fixed.items()},
                **{f":{i}": value(n) for i, (_, n) in numbered},
            },
        }

    def find(self, query: HistoryQuery) -> list[HistoryCounts]:
        """See `JobStore.history`. Neither the index nor the items need be up to date: such reads cost half as much."""
        keys = [
            entry["pk"]["S"]
            for step in (MINUTE, HOUR)
            for entry in self._entries(step, query.since, query.until)
            if query.matches(_pair(entry))
        ]
        items = self._table.get(keys, consistent=False).values()
        return gathered((query.place(_at(item), _pair(item)), _counts(item).items()) for item in items)

    def _entries(self, step: int, since: int, until: int) -> Iterator[Item]:
        """The index entries of the intervals that start at or after `since`, and before `until`."""
        pages = self._table.query(
            IndexName=LISTED,
            KeyConditionExpression="listed = :listed AND seq BETWEEN :since AND :until",
            ExpressionAttributeValues={
                ":listed": value(self._names.intervals(step)),
                ":since": value(_seq(since)),
                ":until": value(_seq(until - 1)),
            },
        )
        return (entry for page in pages for entry in page["Items"])

    def fold(self, now: float) -> None:
        """See `JobStore.fold_history`."""
        end = start_of(MINUTE, now - KEEP_MINUTES - MINUTE) + MINUTE
        minutes: set[int] = set()
        hours: defaultdict[tuple[int, Pair], list[str]] = defaultdict(list)
        for entry in self._entries(MINUTE, 0, end):
            at = _at(entry)
            if at not in minutes and len(minutes) == FOLDED:
                break
            minutes.add(at)
            hours[start_of(HOUR, at), _pair(entry)].append(entry["pk"]["S"])
        self._table.each(self._fold, [*hours.items()])
        old = self._entries(HOUR, 0, start_of(HOUR, now - KEEP_HOURS - HOUR) + HOUR)
        for entry in islice(old, DELETED):
            self._table.call("delete_item", TableName=self._table.name, Key={"pk": entry["pk"]})

    def _fold(self, minutes: tuple[tuple[int, Pair], Sequence[str]]) -> None:
        """Move the numbers of the items with these keys into the hour of a pair, DELETED items at a time."""
        (hour, pair), keys = minutes
        for start in range(0, len(keys), DELETED):
            self._move(keys[start : start + DELETED], hour, pair)

    def _move(self, keys: Sequence[str], hour: int, pair: Pair) -> None:
        """Move the numbers of these items into an hour. Does nothing if another process has folded one of them."""
        sums: Counter[str] = Counter()
        found = self._table.get(keys)
        for item in found.values():
            sums.update(_counts(item))
        if not sums:
            return
        deletes = [
            {
                "Delete": {
                    "TableName": self._table.name,
                    "Key": {"pk": value(minute)},
                    "ConditionExpression": "attribute_exists(pk)",
                }
            }
            for minute in found
        ]
        update = {"Update": self._update(HOUR, hour, 0, pair, sums)}
        with suppress(ClientError):  # another process folds these items now
            self._table.call("transact_write_items", TransactItems=[*deletes, update])


def _seq(at: int) -> str:
    """The place of an interval in the index."""
    return f"{at:012d}"


def _at(item: Item) -> int:
    return int(item["seq"]["S"])


def _pair(item: Item) -> Pair:
    return item["queue"]["S"], item["task"]["S"]


def _counts(item: Item) -> dict[str, int]:
    return {name[2:]: int(kept["N"]) for name, kept in item.items() if name.startswith("n#")}

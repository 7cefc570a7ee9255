"""The counts of the DynamoDB store, and its items for workers. For readers of the store.

The counts of a queue are spread over several items, so that no single item takes all writes. A transaction that changes
the counts of a queue adds to a random one of the queue's items, so transactions seldom conflict. Before a process uses
an item for the first time, the process adds the item's key to a list, where readers find the keys of all items.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from queueport.spi.record import Flat, Record
from queueport.spi.storage import Tally, readable_workers, worker_stats
from queueport.spi.store import LOST_KEPT
from queueport.stats import WorkerStats
from queueport_sqs.dynamodb.connection import Table
from queueport_sqs.dynamodb.records import Item, Names, value

__all__ = ["Counts", "Delta", "moved", "name_of", "worker_item", "workers_in"]

Delta = Counter[tuple[str, str]]
"""Numbers to add to the counts, by the queue and the name of the count."""

SILENT = int(LOST_KEPT)
"""A worker counts as alive until its `until`. DynamoDB may delete the worker's item this number of seconds later."""


def name_of(priority: int, state: str) -> str:
    """The name of the attribute that counts the jobs of this priority and state."""
    return f"{priority}#{state}"


def moved(old: Record | None, new: Record | None, processed: int = 0, failed: int = 0) -> Delta:
    """The numbers to add to the counts when a job's record changes from `old` to `new`; None means no record.

    `processed` and `failed` are added to the counters with these names. If both records are None, nothing is added.
    """
    delta = Delta()
    for record, step in ((old, -1), (new, +1)):
        if record is not None:
            delta[record.queue, name_of(record.priority, record.state.value)] += step
    where = new or old
    if where is not None:
        delta[where.queue, "processed"] += processed
        delta[where.queue, "failed"] += failed
    return delta


class Counts:
    """The counts of one namespace."""

    def __init__(self, table: Table, names: Names) -> None:
        self._table = table
        self._names = names
        self._known: set[str] = set()
        """Keys of items that this process has added to the list of all items."""

    def updates(self, delta: Delta, place: int) -> list[dict[str, Any]]:
        """The actions of a transaction that add `delta` to the counts.

        The counts of a queue are spread over several items; `place` is the number of the item to add to. Before this
        process adds to an item for the first time, this method writes the item's key to the list of all items. Raises
        BackendUnavailable if DynamoDB does not answer this write.
        """
        parts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (queue, name), number in delta.items():
            if number:
                parts[self._names.counter(queue, place % self._names.shards)][name] = number
        new = parts.keys() - self._known
        if new:  # add the keys to the list first: a listed key without an item is harmless
            self._table.call(
                "update_item",
                TableName=self._table.name,
                Key={"pk": value(self._names.counters)},
                UpdateExpression="ADD parts :parts",
                ExpressionAttributeValues={":parts": {"SS": sorted(new)}},
            )
            self._known |= new
        return [{"Update": self._update(part, counts)} for part, counts in parts.items()]

    def _update(self, part: str, counts: Mapping[str, int]) -> dict[str, Any]:
        numbered = list(enumerate(counts.items()))
        return {
            "TableName": self._table.name,
            "Key": {"pk": value(part)},
            "UpdateExpression": "ADD " + ", ".join(f"#{i} :{i}" for i, _ in numbered),
            "ExpressionAttributeNames": {f"#{i}": name for i, (name, _) in numbered},
            "ExpressionAttributeValues": {f":{i}": value(n) for i, (_, n) in numbered},
        }

    def read(self) -> tuple[Tally, int, int]:
        """The counts of all queues, and the counters `processed` and `failed`."""
        listed = self._table.get([self._names.counters]).get(self._names.counters, {})
        tally, totals = Tally(), Counter[str]()
        for key, part in self._table.get(listed.get("parts", {}).get("SS", ())).items():
            for name, number in part.items():
                priority, separator, state = name.partition("#")
                if separator:
                    tally.add(key.split("#", 3)[3], int(priority), state, int(number["N"]))
                elif name in ("processed", "failed"):
                    totals[name] += int(number["N"])
        return tally, totals["processed"], totals["failed"]


def worker_item(names: Names, worker: WorkerStats, ttl: float, now: float) -> Item:
    """The item of a worker that counts as alive until `ttl` seconds after `now`."""
    plain: dict[str, Flat] = {
        "pk": names.worker(worker.name),
        "listed": names.workers,
        "seq": worker.name,
        "queues": json.dumps(worker.queues),
        "tasks": json.dumps(worker.tasks),
        "seen_at": now,
        "until": now + ttl,
        "ttl": int(now + ttl) + SILENT,
    }
    return {name: value(kept) for name, kept in plain.items()}


def workers_in(items: Iterable[Item], now: float, *, lost: bool) -> list[WorkerStats]:
    """The live workers in these items, or with `lost` the lost workers, sorted by name."""

    def read(item: Item) -> WorkerStats:
        queues, tasks = (json.loads(item[name]["S"]) for name in ("queues", "tasks"))
        return worker_stats(item["seq"]["S"], queues, tasks, float(item["seen_at"]["N"]))

    return readable_workers((item for item in items if (float(item["until"]["N"]) <= now) is lost), read)

"""The workers that the DynamoDB store knows of: an item each. For its readers."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from queueport.stats import WorkerStats
from queueport_sqs.dynamodb_items import Item, Names, value
from queueport_sqs.dynamodb_listing import Listing
from queueport_sqs.dynamodb_table import Table

__all__ = ["Workers"]

GRACE = 3600
"""Seconds after which DynamoDB may delete a worker that is silent."""


class Workers:
    """The workers of one namespace."""

    def __init__(self, table: Table, names: Names) -> None:
        self._table = table
        self._names = names

    def announce(self, worker: WorkerStats, ttl: float, now: float) -> None:
        """It lives for so long."""
        place = {"pk": value(self._names.worker(worker.name))}
        if ttl <= 0:
            self._table.call("delete_item", TableName=self._table.name, Key=place)
            return
        item = {
            **place,
            "listed": value(self._names.workers),
            "seq": value(worker.name),
            "queues": value(json.dumps(worker.queues)),
            "tasks": value(json.dumps(worker.tasks)),
            "heard": value(now),
            "until": value(now + ttl),
            "ttl": value(int(now + ttl) + GRACE),
        }
        self._table.call("put_item", TableName=self._table.name, Item=item)

    def alive(self, listing: Listing, now: float) -> list[WorkerStats]:
        """Those that live, by name."""
        items = self._table.get(listing.workers()).values()
        found = [_worker(item) for item in items if float(item["until"]["N"]) > now]
        return sorted(found, key=lambda worker: worker.name)


def _worker(item: Item) -> WorkerStats:
    queues, tasks = (tuple(json.loads(item[name]["S"])) for name in ("queues", "tasks"))
    return WorkerStats(item["seq"]["S"], queues, tasks, datetime.fromtimestamp(float(item["heard"]["N"]), UTC))

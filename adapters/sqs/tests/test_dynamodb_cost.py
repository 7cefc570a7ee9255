"""Counts what a job costs in DynamoDB: read and write units, by AWS's published rules and the sizes of the items.

The figures that the emulator itself reports are constants, so they are not used.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html (write considerations)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.sqs.tests.clients import client
from adapters.sqs.tests.test_dynamodb import own_table
from queueport.engine.lifecycle import Lifecycle
from queueport.engine.rules import Succeeded
from queueport.errors import BackendUnavailable
from queueport.job import new_id
from queueport.spi.history import MINUTE, start_of
from queueport.spi.record import Change, Record
from queueport.spi.store import Insert, LeaseRenewal, Swap
from queueport.status import JobState
from queueport.testing.stores.harness import CARRIED, RULES, TOKEN, Clock, bare, put, rev, run
from queueport_sqs.dynamodb import listing
from queueport_sqs.dynamodb.records import Item, size
from queueport_sqs.dynamodb.schema import INDEXES
from queueport_sqs.dynamodb.store import DynamoStore

KIB = 1024
EMPTY = 0.5
"""Read units of a query with a small or empty result: half a unit, because an index is eventually consistent."""


class Meter:
    """Counts the units of a store's calls, one call at a time."""

    def __init__(self, store: DynamoStore, url: str) -> None:
        self.writes = self.reads = self.calls = 0.0
        self._aws = client(url)
        self._table = store.table
        self._call = store.table.call
        self._lock = threading.Lock()
        store.table.call = self.call  # type: ignore[method-assign]

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        with self._lock:
            self.calls += 1
            keys = _written(operation, parameters)
            before = {key: self._item(key) for key in keys}
            answer = self._call(operation, **parameters)
            transactional = 2 if operation == "transact_write_items" else 1
            for key, old in before.items():
                new = self._item(key)
                self.writes += transactional * max(_kib(old), _kib(new)) + sum(_index(i, old, new) for i in INDEXES)
            if operation == "batch_get_item":
                (asked,) = parameters["RequestItems"].values()
                found = answer["Responses"][self._table.name]
                units = sum(math.ceil(size(item) / (4 * KIB)) for item in found) + len(asked["Keys"]) - len(found)
                self.reads += units * (1 if asked["ConsistentRead"] else 0.5)
            elif operation == "query":
                self.reads += max(EMPTY, EMPTY * math.ceil(sum(map(size, answer.get("Items", ()))) / (4 * KIB)))
            return answer

    def spent(self) -> tuple[float, float, float]:
        """Write units, read units and calls since this method was last called."""
        spent = self.writes, self.reads, self.calls
        self.writes = self.reads = self.calls = 0.0
        return spent

    def _item(self, key: str) -> Item | None:
        item: Item | None = self._aws.get_item(TableName=self._table.name, Key={"pk": {"S": key}}).get("Item")
        return item


def _written(operation: str, parameters: dict[str, Any]) -> list[str]:
    if operation == "transact_write_items":
        actions = [action for item in parameters["TransactItems"] for action in item.values()]
    else:
        actions = [parameters] if operation in ("put_item", "update_item", "delete_item") else []
    return [(action.get("Key") or action["Item"])["pk"]["S"] for action in actions]


def _kib(item: Item | None) -> int:
    return 1 if item is None else math.ceil(size(item) / KIB)


def _index(name: str, old: Item | None, new: Item | None) -> int:
    """Write units for one index, if its entry is added, removed, moved or gets other values."""
    keys = INDEXES[name]["keys"]
    projected = ["pk", *keys, *INDEXES[name]["projection"].get("NonKeyAttributes", ())]
    gone, come = (
        {n: item[n] for n in projected if n in item} if item is not None and all(k in item for k in keys) else {}
        for item in (old, new)
    )
    if gone == come:
        return 0
    moved = any(gone.get(key) != come.get(key) for key in keys)
    return sum(_kib(entry) for entry in (gone, come) if entry) if moved else _kib(come)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[DynamoStore]:
    with own_table() as harness:
        store = harness.open(clock=clock)
        put(store)  # the first write of a process costs more, because it lists the count item
        # so does the first write of a minute, because it adds the history's item to an index
        for shard in range(store.names.shards):
            store._counts._known.add(store.names.counter("default", shard))
            first = store._history._update(
                MINUTE, start_of(MINUTE, clock.now), shard, ("default", "app.send"), {"dead": 1}
            )
            store.table.call("update_item", **first)
        yield store
        store.close()


@pytest.fixture
def meter(store: DynamoStore) -> Meter:
    return Meter(store, str(store.table._client.get().meta.endpoint_url))


def changed(store: DynamoStore, record: Record, change: Change) -> Record:
    (written,) = store.swap([Swap(record.id, record.rev, change, rev())])
    assert written.applied
    return written.record or record


def test_a_small_job_costs_the_documented_units(store: DynamoStore, meter: Meter, clock: Clock) -> None:
    """The README has these figures, and the price of a million jobs that follows from them."""
    spent: dict[str, tuple[float, float, float]] = {}
    record = put(store, rules=CARRIED)
    spent["insert"] = meter.spent()
    record = changed(store, record, Lifecycle(RULES).mark(record))
    spent["mark"] = meter.spent()
    record = run(store, record)
    spent["begin"] = meter.spent()
    clock.advance(10)
    (beaten,) = store.heartbeat([LeaseRenewal(record.id, TOKEN, 30.0, rev())])
    assert beaten.record is not None
    spent["heartbeat"] = meter.spent()
    ended = Lifecycle(RULES).finish(beaten.record, token=TOKEN, outcome=Succeeded(b"1"), random=0.5)
    assert isinstance(ended, Change)
    changed(store, beaten.record, ended)
    spent["finish"] = meter.spent()
    clock.advance(RULES.keep_succeeded or 0)
    (record,) = store.claim_due(10, 10.0, rev())
    spent["claim"] = meter.spent()
    changed(store, record, Change(delete=True))
    spent["delete"] = meter.spent()
    queries = EMPTY * store.names.shards
    assert spent == {  # write units, read units, calls
        "insert": (9, 0, 1),
        "mark": (3, 0, 1),
        "begin": (11, 1, 2),
        "heartbeat": (3, 0, 1),
        "finish": (10, 0, 1),
        "claim": (3, queries + 1, store.names.shards + 2),
        "delete": (6, 0, 1),
    }


def test_a_batch_of_jobs_shares_the_cost_of_the_counts(store: DynamoStore, meter: Meter) -> None:
    new = Lifecycle(CARRIED).new(delay=None, expires=None)
    store.insert([Insert(bare(), new, rev()) for _ in range(90)])
    assert meter.spent() == (90 * 5 + 4, 0, 1)


def test_a_key_costs_twelve_units_more_and_a_tag_eight(store: DynamoStore, meter: Meter) -> None:
    """Four for the holder of the key, and eight for the search by the key or the tag: to add its entry, to give the
    entry the TTL of the ended job, and to delete it.
    """

    def spent(**fields: Any) -> list[float]:
        """What it costs to add, end and delete a job."""
        record = put(store, rules=CARRIED, **fields)
        found = [meter.spent()[0]]
        for change in (Lifecycle(CARRIED).withdraw(certain=False), Change(delete=True)):
            record = changed(store, record, change)
            found.append(meter.spent()[0])
        return found

    plain = spent()
    for fields, more in (({"key": "k"}, [2 + 3, 2 + 2, 3]), ({"tags": ("vip",)}, [3, 2, 3])):
        assert spent(**fields) == [units + extra for units, extra in zip(plain, more, strict=True)]


def test_an_idle_poll_for_due_jobs_costs_one_query_for_each_shard(store: DynamoStore, meter: Meter) -> None:
    assert list(store.claim_due(100, 10.0, rev())) == []
    assert meter.spent() == (0, EMPTY * store.names.shards, store.names.shards)


def test_a_shortened_id_is_first_searched_among_the_jobs_of_its_time(store: DynamoStore, meter: Meter) -> None:
    """The first digits of an id are the time at which it was made, so that a search need not read the whole index."""
    new, old = new_id(), f"{1_600_000_000_000:012x}7abc8{'0' * 15}"
    put(store, new)
    put(store, old)
    meter.spent()
    partitions = store.names.shards * len(JobState)
    assert store.ids(new[:12], 9) == [new]
    assert meter.spent()[2] == partitions
    assert store.ids(old[:12], 9) == [old]
    assert meter.spent()[2] == 2 * partitions


def test_a_search_for_ids_that_takes_too_long_ends(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    times = count(0.0, 10.0)
    monkeypatch.setattr(listing, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with pytest.raises(BackendUnavailable, match=r"takes too long, because the DynamoDB table .*: give the whole id$"):
        store.ids("mine", 9)

"""The DynamoDB table of the store, its indexes and its TTL, and how they are made. For readers of the store.

Billed by request, for a queue's load comes in bursts. An item that lacks an index's attributes is not in the index.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

__all__ = ["DUE", "INDEXES", "LISTED", "READY", "TTL", "WAITING", "problems", "setup"]

DUE, LISTED, WAITING = "due", "listed", "waiting"
"""The names of the indexes."""
TTL = "ttl"
"""The attribute with the time, in whole seconds, after which DynamoDB may delete an item."""
FILTERS = ("queue", "task", "error", "finished_at")
"""What the index of listings knows of a job beside its place, so that a filter need not read the job."""

READY = 300.0
"""Seconds that a table or an index may take to be made; one over many items takes longer, and `setup` is repeated."""
LOOK = 0.5
"""Seconds between two looks whether it is."""

INDEXES: dict[str, dict[str, Any]] = {
    DUE: {"keys": ("due", "at"), "projection": {"ProjectionType": "KEYS_ONLY"}},
    LISTED: {"keys": ("listed", "seq"), "projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(FILTERS)}},
    WAITING: {"keys": ("waiting", "queued_at"), "projection": {"ProjectionType": "KEYS_ONLY"}},
}
KINDS = {"pk": "S", "due": "S", "at": "N", "listed": "S", "seq": "S", "waiting": "S", "queued_at": "N"}


def setup(client: Any, table: str, patience: float = READY) -> None:
    """Make the table, an index or the TTL where it is missing. Raises ClientError and TimeoutError."""
    deadline = time.monotonic() + patience
    found = _described(client, table)
    if found is None:
        with suppress(client.exceptions.ResourceInUseException):  # another process is making it
            client.create_table(
                TableName=table,
                BillingMode="PAY_PER_REQUEST",
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
                AttributeDefinitions=_definitions(*KINDS),
                GlobalSecondaryIndexes=[_index(name) for name in INDEXES],
            )
    found = _ready(client, table, deadline)
    for name in _missing(found):  # one at a time is all that DynamoDB makes
        with suppress(client.exceptions.ResourceInUseException):
            client.update_table(
                TableName=table,
                AttributeDefinitions=_definitions("pk", *INDEXES[name]["keys"]),
                GlobalSecondaryIndexUpdates=[{"Create": _index(name)}],
            )
        _ready(client, table, deadline)
    if not _expires(client, table):
        _enable_ttl(client, table)


def problems(client: Any, table: str) -> list[str]:
    """What is not as `setup` makes it, one sentence each. Raises ClientError."""
    found = client.describe_table(TableName=table)["Table"]
    told = [f"the index {name!r} of table {table} is missing: run `queueport setup URL`" for name in _missing(found)]
    if not _expires(client, table):
        told.append(
            f"TTL of table {table} is off, so that what no dispatcher removes is kept: run `queueport setup URL`"
        )
    return told


def _described(client: Any, table: str) -> Any:
    try:
        return client.describe_table(TableName=table)["Table"]
    except client.exceptions.ResourceNotFoundException:
        return None


def _ready(client: Any, table: str, deadline: float) -> Any:
    """The table, as soon as it and all its indexes are there."""
    while True:
        found = _described(client, table) or {}
        parts = [found.get("TableStatus"), *(index["IndexStatus"] for index in found.get("GlobalSecondaryIndexes", ()))]
        if set(parts) == {"ACTIVE"}:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"table {table} is not ready yet")
        time.sleep(LOOK)


def _missing(found: Any) -> list[str]:
    there = {index["IndexName"] for index in found.get("GlobalSecondaryIndexes", ())}
    return [name for name in INDEXES if name not in there]


def _expires(client: Any, table: str) -> bool:
    told = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    return told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")


def _enable_ttl(client: Any, table: str) -> None:
    wanted = {"Enabled": True, "AttributeName": TTL}
    try:
        client.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)
    except ClientError:
        if not _expires(client, table):  # another process was quicker
            raise


def _definitions(*names: str) -> list[dict[str, str]]:
    return [{"AttributeName": name, "AttributeType": KINDS[name]} for name in names]


def _index(name: str) -> dict[str, Any]:
    partition, order = INDEXES[name]["keys"]
    schema = [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": order, "KeyType": "RANGE"}]
    return {"IndexName": name, "KeySchema": schema, "Projection": INDEXES[name]["projection"]}

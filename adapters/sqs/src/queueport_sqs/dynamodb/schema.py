"""The DynamoDB table, its indexes and its TTL, and how they are created. For readers of the store.

The table is billed by request, because the load of a queue comes in bursts. An item is in an index if it has both
attributes that are the keys of the index.
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
"""Attributes that are copied into the index LISTED, so that a search can filter by them without reading the jobs."""

READY = 300.0
"""Maximum seconds that `setup` waits in all by default. If creating an index over many items takes longer, run `setup`
again."""
POLL = 0.5
"""Seconds between two checks of whether the table is ready."""

INDEXES: dict[str, dict[str, Any]] = {
    DUE: {"keys": ("due", "at"), "projection": {"ProjectionType": "KEYS_ONLY"}},
    LISTED: {"keys": ("listed", "seq"), "projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(FILTERS)}},
    WAITING: {"keys": ("waiting", "queued_at"), "projection": {"ProjectionType": "KEYS_ONLY"}},
}
KINDS = {"pk": "S", "due": "S", "at": "N", "listed": "S", "seq": "S", "waiting": "S", "queued_at": "N"}


def setup(client: Any, table: str, timeout: float = READY) -> None:
    """Create the table, its indexes and its TTL where they are missing, and wait until table and indexes are ready.

    Raises botocore's errors, and TimeoutError if the table or an index is not ready after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    found = _described(client, table)
    if found is None:
        with suppress(client.exceptions.ResourceInUseException):  # another process is creating the table
            client.create_table(
                TableName=table,
                BillingMode="PAY_PER_REQUEST",
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
                AttributeDefinitions=_definitions(*KINDS),
                GlobalSecondaryIndexes=[_index(name) for name in INDEXES],
            )
    found = _ready(client, table, deadline)
    for name in _missing(found):  # DynamoDB creates one index at a time
        with suppress(client.exceptions.ResourceInUseException):
            client.update_table(
                TableName=table,
                AttributeDefinitions=_definitions("pk", *INDEXES[name]["keys"]),
                GlobalSecondaryIndexUpdates=[{"Create": _index(name)}],
            )
        _ready(client, table, deadline)
    if not _expires(client, table):
        wanted = {"Enabled": True, "AttributeName": TTL}
        try:
            client.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)
        except ClientError:
            if not _expires(client, table):  # otherwise, another process has turned TTL on
                raise


def problems(client: Any, table: str) -> list[str]:
    """A sentence for each missing index, and a sentence if TTL is off.

    Raises botocore's errors, such as a ClientError if the table does not exist.
    """
    found = client.describe_table(TableName=table)["Table"]
    wrong = [f"the index {name!r} of table {table} is missing: run `queueport setup URL`" for name in _missing(found)]
    if not _expires(client, table):
        wrong.append(
            f"TTL of table {table} is off, so jobs that no dispatcher removes are kept: run `queueport setup URL`"
        )
    return wrong


def _described(client: Any, table: str) -> Any:
    try:
        return client.describe_table(TableName=table)["Table"]
    except client.exceptions.ResourceNotFoundException:
        return None


def _ready(client: Any, table: str, deadline: float) -> Any:
    """Wait until the table and all its indexes are active, and return its description. Raises TimeoutError."""
    while True:
        found = _described(client, table) or {}
        parts = [found.get("TableStatus"), *(index["IndexStatus"] for index in found.get("GlobalSecondaryIndexes", ()))]
        if set(parts) == {"ACTIVE"}:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"table {table} is not ready yet")
        time.sleep(POLL)


def _missing(found: Any) -> list[str]:
    there = {index["IndexName"] for index in found.get("GlobalSecondaryIndexes", ())}
    return [name for name in INDEXES if name not in there]


def _expires(client: Any, table: str) -> bool:
    described = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    return described.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")


def _definitions(*names: str) -> list[dict[str, str]]:
    return [{"AttributeName": name, "AttributeType": KINDS[name]} for name in names]


def _index(name: str) -> dict[str, Any]:
    partition, order = INDEXES[name]["keys"]
    schema = [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": order, "KeyType": "RANGE"}]
    return {"IndexName": name, "KeySchema": schema, "Projection": INDEXES[name]["projection"]}

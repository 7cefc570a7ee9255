"""Runs the suite for stores on the DynamoDB store, on an emulator, with a new table for each test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from adapters.sqs.tests.clients import client
from queueport.spi.record import Change
from queueport.spi.store import Insert, JobStore, Query, Replacement, Swap, WriteOutcome
from queueport.status import JobState
from queueport.testing.stores import SharedSuite, StoreHarness
from queueport.testing.stores.harness import bare, dead, put, rev, run, swap
from queueport_sqs.dynamodb.records import expiry
from queueport_sqs.dynamodb.records import value as item_value
from queueport_sqs.dynamodb.store import DynamoOptions, DynamoStore
from tests.servers import aws_server

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class Harness(StoreHarness):
    url: str
    table: str

    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> DynamoStore:
        os.environ.update(CREDENTIALS)  # child processes of the suite need the credentials too
        options = DynamoOptions(endpoint=self.url, shards=2, create=True, poll=0.5)
        return DynamoStore(
            self.table, region="us-east-1", namespace=namespace, call_timeout=30.0, options=options, clock=clock
        )

    def damage(self, namespace: str, job_id: str, field: str, value: Any) -> None:
        client(self.url).update_item(
            TableName=self.table,
            Key={"pk": {"S": f"{namespace}#job#{job_id}"}},
            UpdateExpression="SET #f = :v",
            ExpressionAttributeNames={"#f": field},
            ExpressionAttributeValues={":v": item_value(value)},
        )

    def damage_document(self, namespace: str, kind: str, name: str, text: str) -> None:
        client(self.url).update_item(
            TableName=self.table,
            Key={"pk": {"S": f"{namespace}#document#{kind}#{name}"}},
            UpdateExpression="SET #f = :v",
            ExpressionAttributeNames={"#f": "value"},
            ExpressionAttributeValues={":v": item_value(text)},
        )


@contextmanager
def own_table() -> Iterator[Harness]:
    """A table for one test, deleted after it."""
    harness = Harness(aws_server("dynamodb").url, f"suite-{uuid4().hex}")
    harness.open().setup()
    yield harness
    client(harness.url).delete_table(TableName=harness.table)


@pytest.mark.timeout(300)  # calls to the emulator are slow, above all under load
class TestDynamoStore(SharedSuite):
    examples: ClassVar[int] = 5  # other stores are tested with more, but calls to the emulator are slow

    @pytest.fixture
    def harness(self) -> Iterator[StoreHarness]:
        with own_table() as harness:
            yield harness

    def test_an_error_that_an_earlier_release_wrote_is_found(self, store: JobStore, harness: StoreHarness) -> None:
        dead(store, "a", kind="one.Rejected")
        assert isinstance(harness, Harness)
        # An earlier release wrote only the name of the error, without its base classes and without blanks.
        harness.damage("suite", "a", "error", "one.Rejected")
        for name, number in {"Rejected": 1, "one.Rejected": 1, "two.Rejected": 0, "one": 0, "Exception": 0}.items():
            assert store.count(Query(error=name)) == len(store.find(Query(error=name))) == number

    def test_a_payload_of_a_mebibyte_comes_back(self, store: JobStore) -> None:
        """The payload is the largest that this store accepts, not a MiB, because an item has at most 400 KiB."""
        assert store.limits.payload is not None
        payload = bytes(range(256)) * (store.limits.payload // 256)
        put(store, "a", payload=payload)
        (found,) = store.get(["a"])
        assert found is not None
        assert found.payload == payload

    def test_a_job_that_gave_up_its_key_leaves_no_entry_behind(self, store: JobStore, harness: StoreHarness) -> None:
        record = swap(store, run(store, put(store, "a", key="k")), key=None)
        assert store.find(Query(key="k")) == []
        store.swap([Swap("a", record.rev, Change(delete=True), rev())])
        assert entries(harness) == {}

    def test_the_entries_of_a_job_that_dynamodb_may_delete_have_its_ttl(
        self, store: JobStore, harness: StoreHarness
    ) -> None:
        ended = dead(store, "a", key="k", tags=("t", "u"))
        ttls = entries(harness)
        assert len(ttls) == 3
        assert set(ttls.values()) == {str(expiry(ended))}
        swap(store, ended, state=JobState.QUEUED, wake_at=None)
        assert entries(harness) == dict.fromkeys(ttls)

    def test_a_running_job_that_is_replaced_leaves_no_entry_behind(
        self, store: JobStore, harness: StoreHarness
    ) -> None:
        run(store, put(store, "a", key="k"))
        changes = Replacement(Change(), None, Change({"key": None}))
        (written,) = store.insert([Insert(bare("b", key="k"), Change(), rev(), replace=changes)])
        assert written.outcome is WriteOutcome.APPLIED
        assert list(entries(harness)) == ["suite#label#b#key#k"]


def entries(harness: StoreHarness) -> dict[str, str | None]:
    """The TTLs of all entries of labels, by their keys."""
    assert isinstance(harness, Harness)
    items = client(harness.url).scan(TableName=harness.table, ConsistentRead=True)["Items"]
    return {item["pk"]["S"]: item.get("ttl", {}).get("N") for item in items if "#label#" in item["pk"]["S"]}

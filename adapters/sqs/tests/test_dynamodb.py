"""The DynamoDB store under the suite of all stores, on an emulator, in a table of each test's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from adapters.sqs.tests.clients import client
from queueport.store import JobStore
from queueport.testing.stores import SharedSuite, StoreHarness
from queueport.testing.stores.harness import put
from queueport_sqs.dynamodb import DynamoOptions, DynamoStore
from queueport_sqs.dynamodb_items import value as item_value
from tests.servers import aws_server

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass
class Harness(StoreHarness):
    url: str
    table: str

    def open(self, namespace: str = "suite", clock: Callable[[], float] | None = None) -> DynamoStore:
        os.environ.update(CREDENTIALS)  # in processes that the suite starts, too
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


@contextmanager
def own_table() -> Iterator[Harness]:
    """A table for one test, and gone after it."""
    harness = Harness(aws_server("dynamodb").url, f"suite-{uuid4().hex}")
    harness.open().setup()
    yield harness
    client(harness.url).delete_table(TableName=harness.table)


@pytest.mark.timeout(300)  # an emulated call takes some milliseconds, and more where others work too
class TestDynamoStore(SharedSuite):
    examples: ClassVar[int] = 5  # for the same reason

    @pytest.fixture
    def harness(self) -> Iterator[StoreHarness]:
        with own_table() as harness:
            yield harness

    def test_a_payload_of_a_mebibyte_comes_back(self, store: JobStore) -> None:
        """As large as it may be here: an item has 400 KiB."""
        assert store.limits.payload is not None
        payload = bytes(range(256)) * (store.limits.payload // 256)
        put(store, "a", payload=payload)
        (found,) = store.get(["a"])
        assert found is not None
        assert found.payload == payload

"""Tests a patch of the emulator: a cancelled transaction must not undo writes of others. See `tests.servers`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from adapters.sqs.tests.clients import client
from queueport_sqs.dynamodb.schema import setup
from tests.servers import aws_server


@pytest.fixture
def table() -> Any:
    name = f"emulator-{uuid4().hex}"
    aws = client(aws_server("dynamodb").url)
    setup(aws, name)
    yield name
    aws.delete_table(TableName=name)


def test_a_cancelled_transaction_does_not_undo_other_writes(table: str) -> None:
    aws = client(aws_server("dynamodb").url)

    def write(number: int) -> None:
        aws.put_item(TableName=table, Item={"pk": {"S": f"item-{number}"}})

    def cancel(number: int) -> None:
        actions = [
            {"Put": {"TableName": table, "Item": {"pk": {"S": f"never-{number}"}}}},
            {
                "Delete": {
                    "TableName": table,
                    "Key": {"pk": {"S": "absent"}},
                    "ConditionExpression": "attribute_exists(pk)",
                }
            },
        ]
        with pytest.raises(ClientError, match="ConditionalCheckFailed"):
            aws.transact_write_items(TransactItems=actions)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call, number) for number in range(50) for call in (write, cancel)]:
            done.result()
    assert {item["pk"]["S"] for item in aws.scan(TableName=table)["Items"]} == {f"item-{n}" for n in range(50)}

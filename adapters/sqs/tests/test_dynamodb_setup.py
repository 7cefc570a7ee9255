"""Tests the URLs of the DynamoDB store, and how its table is created: by setup, or on first use with create=true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from adapters.sqs.tests.clients import client
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport.spi.url import BackendURL
from queueport.testing.stores.harness import put
from queueport_sqs.dynamodb.schema import INDEXES
from queueport_sqs.dynamodb.store import DynamoStore
from tests.servers import aws_server


@pytest.fixture
def aws() -> Any:
    return client(aws_server("dynamodb").url)


@pytest.fixture
def table(aws: Any) -> Iterator[str]:
    name = f"setup-{uuid4().hex}"
    yield name
    if name in aws.list_tables()["TableNames"]:
        aws.delete_table(TableName=name)


def opened(url: str) -> DynamoStore:
    return DynamoStore.open(BackendURL.parse(url), namespace="queueport", call_timeout=5.0)


def here(table: str, more: str = "") -> DynamoStore:
    return opened(f"dynamodb://us-east-1/{table}?endpoint={quote(aws_server('dynamodb').url, safe='')}{more}")


def test_every_verb_reports_a_missing_table_and_none_creates_it(aws: Any, table: str) -> None:
    store = here(table)
    for call in (store.now, store.stats, store.check, lambda: put(store), lambda: store.get(["a"])):
        with pytest.raises(
            BackendUnavailable, match=rf"{table} in us-east-1 does not exist: run `queueport setup URL`"
        ):
            call()
    assert table not in aws.list_tables()["TableNames"]
    store.close()


def test_setup_creates_the_table_and_can_be_repeated(aws: Any, table: str) -> None:
    store = here(table)
    store.setup()
    record = put(store)
    store.setup()
    assert store.get([record.id]) == [record]
    assert store.check() == []
    indexes = aws.describe_table(TableName=table)["Table"]["GlobalSecondaryIndexes"]
    assert {index["IndexName"] for index in indexes} == INDEXES.keys()
    store.close()


def test_the_option_create_creates_the_table_on_first_use(table: str) -> None:
    store = here(table, "&create=true")
    record = put(store)
    assert store.get([record.id]) == [record]
    assert store.check() == []
    store.close()


def test_check_reports_what_a_table_lacks_and_setup_adds_it(aws: Any, table: str) -> None:
    aws.create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
    )
    store = here(table)
    told = store.check()
    assert len(told) == len(INDEXES) + 1
    assert all("run `queueport setup URL`" in sentence for sentence in told)
    with pytest.raises(BackendUnavailable, match=f"{table} in us-east-1 lacks an index of queueport: run"):
        store.claim_due(1, 1.0, "r")
    store.setup()
    assert store.check() == []
    store.close()


@pytest.mark.parametrize(
    "url", ["dynamodb://", "dynamodb://eu-central-1", "dynamodb://eu-central-1/", "dynamodb:///a/b"]
)
def test_a_url_without_a_table_is_refused_and_the_error_shows_a_correct_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write 'dynamodb://REGION/TABLE'"):
        opened(url)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("shards=0", "shards='0' is wrong"),
        ("shards=many", "shards='many' is wrong"),
        ("shard=4", "did you mean 'shards'"),
        ("create=perhaps", "create='perhaps' is wrong"),
    ],
)
def test_a_wrong_option_is_refused(options: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        opened(f"dynamodb://eu-central-1/jobs?{options}")


def test_opening_a_store_makes_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.session.get_session", None)
    store = opened("dynamodb://eu-central-1/jobs?shards=4&create=true")
    assert (store.table.name, store.names.shards) == ("jobs", 4)
    store.close()

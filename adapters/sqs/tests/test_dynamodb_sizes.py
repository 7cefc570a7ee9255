"""Tests that payload, result and errors fit into one item together, and that larger jobs are refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.sqs.tests.clients import client
from adapters.sqs.tests.test_dynamodb import Harness, own_table
from queueport import JobQueue
from queueport.engine.enqueue import BATCH
from queueport.engine.lifecycle import ERROR_HISTORY
from queueport.errors import PayloadTooLarge
from queueport.spi.record import flat
from queueport.spi.settings import read
from queueport.spi.store import LeaseRenewal
from queueport.status import JobError, JobState, Progress
from queueport.testing import tasks
from queueport.testing.stores.harness import START, TOKEN, bare, put, rev, run, swap
from queueport_sqs.dynamodb.records import ERRORS_LIMIT, ITEM_LIMIT, LIMITS, REST_LIMIT, fitted, size
from queueport_sqs.dynamodb.store import DynamoStore
from tests.mutants.wire import Broker, WireTransport

FULL: dict[str, Any] = {"payload": b"\xff" * (LIMITS.payload or 0), "headers": {"h": "x" * (REST_LIMIT - 2048)}}
"""The fields of the largest job that can be inserted."""


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with own_table() as harness:
        yield harness


@pytest.fixture
def store(harness: Harness) -> Iterator[DynamoStore]:
    store = harness.open()
    yield store
    store.close()


def failure(number: int, trace: str) -> JobError:
    return JobError(
        "app.errors.Rejected", f"{number}: " + "é" * 2000, trace, datetime.fromtimestamp(START, UTC), number
    )


def history(length: int = 8000) -> tuple[JobError, ...]:
    """As many errors as the core keeps, with characters that take twelve bytes in JSON."""
    return tuple(
        failure(number, f"first {number} " + "🔑" * length + f" last {number}") for number in range(ERROR_HISTORY)
    )


def stored(harness: Harness, job_id: str) -> dict[str, Any]:
    key = {"pk": {"S": f"suite#job#{job_id}"}}
    item: dict[str, Any] = client(harness.url).get_item(TableName=harness.table, Key=key)["Item"]
    return item


def test_the_largest_payload_result_and_errors_fit_into_one_item(store: DynamoStore, harness: Harness) -> None:
    record = put(store, "full", **FULL)
    result = b"\xff" * (LIMITS.result or 0)
    progress = Progress(1, 2, "ü" * 100_000)
    written = swap(store, record, errors=history(), result=result, progress=progress, state=JobState.SUCCEEDED)
    assert size(stored(harness, "full")) <= ITEM_LIMIT
    assert store.get(["full"]) == [written]
    assert written.result == result


def test_if_errors_are_too_large_the_newest_stays_whole_and_the_others_keep_both_ends() -> None:
    errors = tuple(failure(n, f"first {n} " + "x" * 8000 + f" last {n}") for n in range(ERROR_HISTORY))
    record = fitted(bare("a", errors=errors))
    assert record.errors[-1] == errors[-1]
    assert len(record.errors) > 1
    for error in record.errors[:-1]:
        assert error.traceback.startswith(f"first {error.attempt} ")
        assert error.traceback.endswith(f" last {error.attempt}")
        assert "characters left out" in error.traceback


def test_a_single_error_that_is_too_large_is_cut_in_the_middle() -> None:
    record = fitted(bare("a", errors=(failure(1, "first " + "🔑" * 50_000 + " last"),)))
    (error,) = record.errors
    assert error.traceback.startswith("first ")
    assert error.traceback.endswith(" last")
    assert len(str(flat({"errors": record.errors})["errors"])) <= ERRORS_LIMIT


def test_errors_that_fit_are_not_changed() -> None:
    record = bare("a", errors=(failure(1, "short"),))
    assert fitted(record) is record


def test_a_long_progress_message_is_shortened(store: DynamoStore) -> None:
    record = run(store, put(store))
    (answer,) = store.heartbeat(
        [LeaseRenewal(record.id, TOKEN, 30.0, rev(), {"progress": Progress(1, 2, "x" * 400_000)})]
    )
    assert answer.record is not None
    assert answer.record.progress == Progress(1, 2, "x" * 1000)


@pytest.mark.parametrize(
    ("large", "sentence"),
    [
        ({"payload": b"x" * ((LIMITS.payload or 0) + 1)}, r"the arguments of job large have 262145 bytes; .* 262144"),
        ({"headers": {"h": "x" * REST_LIMIT}}, r"headers, key and options of job large have \d+ bytes; .* 31744"),
    ],
)
def test_a_job_that_is_too_large_is_refused_with_its_size(
    store: DynamoStore, large: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PayloadTooLarge, match=sentence):
        store.check_size(bare("large", **large))


def test_a_batch_with_a_job_that_is_too_large_is_not_written(store: DynamoStore) -> None:
    url, settings = read("wire://sizes", {})
    queue = JobQueue(url, settings, WireTransport(Broker()), store)
    large = tasks.echo.using(headers={"h": "x" * REST_LIMIT}).job(1)
    with pytest.raises(PayloadTooLarge, match="headers, key and options of job"):
        queue.enqueue_many([*(tasks.echo.using(job_id=f"small{n}").job(1) for n in range(BATCH)), large])
    assert store.get(["small0", f"small{BATCH - 1}", large.id]) == [None, None, None]

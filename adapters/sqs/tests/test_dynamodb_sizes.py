"""What fits into an item of DynamoDB: payload, result and history together, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from adapters.sqs.tests.clients import client
from adapters.sqs.tests.test_dynamodb import Harness, own_table
from queueport.errors import PayloadTooLarge
from queueport.lifecycle import ERROR_HISTORY
from queueport.record import Change
from queueport.status import JobError, JobState, Progress
from queueport.store import Beat, Insert, Query
from queueport.testing.stores.harness import START, TOKEN, bare, put, rev, run, swap
from queueport_sqs.dynamodb import DynamoStore
from queueport_sqs.dynamodb_items import ERRORS_LIMIT, ITEM_LIMIT, LIMITS, REST_LIMIT, fitted, size

FULL: dict[str, Any] = {"payload": b"\xff" * (LIMITS.payload or 0), "headers": {"h": "x" * (REST_LIMIT - 2048)}}
"""A job as large as one may be at first."""


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
    """As much as the core ever keeps, of characters that take twelve bytes in JSON."""
    return tuple(
        failure(number, f"first {number} " + "🔑" * length + f" last {number}") for number in range(ERROR_HISTORY)
    )


def stored(harness: Harness, job_id: str) -> dict[str, Any]:
    key = {"pk": {"S": f"suite#job#{job_id}"}}
    item: dict[str, Any] = client(harness.url).get_item(TableName=harness.table, Key=key)["Item"]
    return item


def test_the_largest_payload_with_the_largest_result_and_the_longest_history_is_one_item(
    store: DynamoStore, harness: Harness
) -> None:
    record = put(store, "full", **FULL)
    result = b"\xff" * (LIMITS.result or 0)
    progress = Progress(1, 2, "ü" * 100_000)
    written = swap(store, record, errors=history(), result=result, progress=progress, state=JobState.SUCCEEDED)
    assert size(stored(harness, "full")) <= ITEM_LIMIT
    assert store.get(["full"]) == [written]
    assert written.result == result


def test_a_history_that_is_too_long_keeps_its_newest_error_whole_and_both_ends_of_the_others() -> None:
    errors = tuple(failure(n, f"first {n} " + "x" * 8000 + f" last {n}") for n in range(ERROR_HISTORY))
    record = fitted(bare("a", errors=errors))
    assert record.errors[-1] == errors[-1]
    assert len(record.errors) > 1
    for error in record.errors[:-1]:
        assert error.traceback.startswith(f"first {error.attempt} ")
        assert error.traceback.endswith(f" last {error.attempt}")
        assert "characters left out" in error.traceback


def test_an_error_that_is_too_large_alone_is_cut_in_the_middle() -> None:
    record = fitted(bare("a", errors=(failure(1, "first " + "🔑" * 50_000 + " last"),)))
    (error,) = record.errors
    assert error.traceback.startswith("first ")
    assert error.traceback.endswith(" last")
    assert len(str(record.flat()["errors"])) <= ERRORS_LIMIT


def test_a_history_that_fits_is_left_as_it_is() -> None:
    record = bare("a", errors=(failure(1, "short"),))
    assert fitted(record) is record


def test_a_progress_message_is_cut_to_what_is_kept(store: DynamoStore) -> None:
    record = run(store, put(store))
    (answer,) = store.heartbeat([Beat(record.id, TOKEN, 30.0, rev(), {"progress": Progress(1, 2, "x" * 400_000)})])
    assert answer.record is not None
    assert answer.record.progress == Progress(1, 2, "x" * 1000)


@pytest.mark.parametrize(
    ("large", "sentence"),
    [
        ({"payload": b"x" * ((LIMITS.payload or 0) + 1)}, r"the arguments of job large have 262145 bytes; .* 262144"),
        ({"headers": {"h": "x" * REST_LIMIT}}, r"headers, key and options of job large have \d+ bytes; .* 31744"),
    ],
)
def test_what_is_too_large_is_refused_with_its_size_and_nothing_of_its_batch_is_written(
    store: DynamoStore, large: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PayloadTooLarge, match=sentence):
        store.insert([Insert(bare("small"), Change(), "r"), Insert(bare("large", **large), Change(), "r")])
    assert store.get(["small", "large"]) == [None, None]
    assert "small" not in {job.id for job in store.find(Query())}

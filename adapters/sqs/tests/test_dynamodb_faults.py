"""Tests faults between the store and DynamoDB: conflicts, lost answers, indexes that lag, and calls that fail."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from adapters.sqs.tests.clients import client
from adapters.sqs.tests.test_dynamodb import Harness, own_table
from queueport.errors import BackendUnavailable
from queueport.spi.record import RECORD_VERSION, Change, CorruptRecord, Record
from queueport.spi.store import Begin, Insert, LeaseRenewal, Query, Swap, WriteOutcome
from queueport.status import JobState
from queueport.testing.stores.harness import RULES, TOKEN, Clock, bare, dead, put, rev, run, succeeded, swap
from queueport_sqs.dynamodb.records import TTL_GRACE, value
from queueport_sqs.dynamodb.store import DynamoOptions, DynamoStore

Call = Callable[[str, dict[str, Any]], dict[str, Any]]


@pytest.fixture
def harness() -> Iterator[Harness]:
    with own_table() as harness:
        yield harness


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(harness: Harness, clock: Clock) -> Iterator[DynamoStore]:
    store = harness.open(clock=clock)
    yield store
    store.close()


def intercept(store: DynamoStore, instead: Callable[[Call, str, dict[str, Any]], dict[str, Any]]) -> None:
    """Let `instead` answer each call. `instead` gets the original function and its arguments."""
    call = store.table._called
    store.table._called = lambda operation, parameters: instead(call, operation, parameters)  # type: ignore[method-assign]


def counted(store: DynamoStore) -> dict[str, int]:
    return {state.value: n for state, n in store.stats().queues["default"].states.items() if n}


def edit(harness: Harness, job_id: str, **attributes: Any) -> None:
    """Change attributes of an item without the store."""
    for name, plain in attributes.items():
        harness.damage("suite", job_id, name, plain)


def cancelled(actions: int, *codes: tuple[int, str]) -> ClientError:
    """The error of a cancelled transaction. `codes` are the numbers and the error codes of the failed actions."""
    reasons: list[dict[str, Any]] = [{"Code": "None"} for _ in range(actions)]
    for number, code in codes:
        reasons[number] = {"Code": code, "Message": "made by the test"}
    answer: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
    return ClientError(answer, "TransactWriteItems")


class TestConflicts:
    @pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
    @pytest.mark.parametrize("action", [0, -1], ids=["job", "count"])
    def test_a_transaction_that_conflicts_with_another_is_tried_again(
        self, store: DynamoStore, code: str, action: int
    ) -> None:
        tried: list[str] = []

        def conflicting(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "transact_write_items":
                items = parameters["TransactItems"]
                keys = [item["Update"]["Key"]["pk"]["S"] for item in items if "Update" in item]
                tried.append(next(key for key in keys if "#count#" in key))
                if len(tried) <= 3:
                    raise cancelled(len(items), (action % len(items), code))
            return call(operation, parameters)

        intercept(store, conflicting)
        put(store, "a")
        assert len(tried) == 4
        assert set(tried) == {store.names.counter("default", shard) for shard in range(store.names.shards)}
        assert tried[0] != tried[1]
        assert counted(store) == {"queued": 1}

    def test_a_write_that_conflicts_for_too_long_fails_in_time(self, store: DynamoStore) -> None:
        def busy(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "transact_write_items":
                raise cancelled(len(parameters["TransactItems"]), (-1, "TransactionConflict"))
            return call(operation, parameters)

        store.table.call_timeout = 0.5
        intercept(store, busy)
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match="too busy") as raised:
            put(store)
        assert time.monotonic() - started < 3
        assert isinstance(raised.value.__cause__, ClientError)

    def test_a_conflict_on_every_item_with_counts_is_repeated_after_a_pause(self, store: DynamoStore) -> None:
        tried: list[str] = []

        def busy(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "transact_write_items":
                items = parameters["TransactItems"]
                tried.append(items[-1]["Update"]["Key"]["pk"]["S"])
                raise cancelled(len(items), (-1, "TransactionConflict"))
            return call(operation, parameters)

        store.table.call_timeout = 1.0
        intercept(store, busy)
        with pytest.raises(BackendUnavailable, match="too busy"):
            put(store)
        assert 2 * store.names.shards < len(tried) < 100

    def test_an_update_that_conflicts_with_a_transaction_is_tried_again(self, store: DynamoStore) -> None:
        record, first = put(store), iter([True])

        def conflicting(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "update_item" and next(first, False):
                raise ClientError({"Error": {"Code": "TransactionConflictException"}}, "UpdateItem")
            return call(operation, parameters)

        intercept(store, conflicting)
        assert swap(store, record, sends=5).sends == 5

    def test_jobs_whose_condition_fails_do_not_stop_the_rest_of_their_batch(self, store: DynamoStore) -> None:
        put(store, "taken")
        holder = put(store, "holder", key="k")
        new = [bare("a"), bare("taken"), bare("b", key="k"), bare("c")]
        change = Change({"state": JobState.QUEUED}, processed=1)
        answers = store.insert([Insert(record, change, rev()) for record in new])
        assert [answer.outcome.name for answer in answers] == ["APPLIED", "REFUSED", "KEY_HELD", "APPLIED"]
        assert answers[2].record == holder
        assert counted(store) == {"queued": 4}
        assert store.stats().processed == 2

    def test_a_batch_that_is_larger_than_a_transaction_is_written_completely(self, store: DynamoStore) -> None:
        new = [bare(f"j{n}", queue=f"q{n % 7}", key=f"k{n}") for n in range(120)]
        answers = store.insert([Insert(record, Change(), rev()) for record in new])
        assert all(answer.applied for answer in answers)
        assert sum(counts.states[JobState.QUEUED] for counts in store.stats().queues.values()) == 120

    def test_a_key_is_free_if_the_record_of_its_holder_is_missing(self, store: DynamoStore, harness: Harness) -> None:
        put(store, "a", key="k")
        client(harness.url).delete_item(TableName=harness.table, Key={"pk": {"S": "suite#job#a"}})
        put(store, "b", key="k")
        (answer,) = store.insert([Insert(bare("c", key="k"), Change(), rev())])
        assert answer.outcome is WriteOutcome.KEY_HELD


class TestLostAnswers:
    @pytest.fixture
    def losing(self, store: DynamoStore) -> None:
        """Every write is applied, but its first answer is lost."""
        lost: set[str] = set()

        def losing(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            answer = call(operation, parameters)
            what = json.dumps(parameters, default=str, sort_keys=True)
            if operation in ("transact_write_items", "update_item") and "parts" not in what and what not in lost:
                lost.add(what)
                raise BackendUnavailable("no answer")
            return answer

        intercept(store, losing)

    @pytest.mark.usefixtures("losing")
    def test_a_repeated_insert_finds_its_own_rev_and_is_counted_once(self, store: DynamoStore) -> None:
        insert = Insert(bare("a"), Change({"state": JobState.QUEUED}, processed=1), "mine")
        with pytest.raises(BackendUnavailable):
            store.insert([insert])
        (answer,) = store.insert([insert])
        assert answer.outcome is WriteOutcome.REFUSED
        assert answer.record is not None
        assert answer.record.rev == "mine"
        assert (counted(store), store.stats().processed) == ({"queued": 1}, 1)

    def test_a_repeated_swap_finds_its_own_rev_and_is_counted_once(
        self, store: DynamoStore, request: pytest.FixtureRequest
    ) -> None:
        record = put(store, "a")
        request.getfixturevalue("losing")
        ended = Swap("a", record.rev, Change({"state": JobState.SUCCEEDED}, processed=1), "mine")
        with pytest.raises(BackendUnavailable):
            store.swap([ended])
        (answer,) = store.swap([ended])
        assert answer.record is not None
        assert (answer.outcome, answer.record.rev) == (WriteOutcome.REFUSED, "mine")
        assert (counted(store), store.stats().processed) == ({"succeeded": 1}, 1)

    @pytest.fixture
    def twice(self, store: DynamoStore) -> None:
        """The network sends every single update twice."""

        def twice(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "update_item":
                call(operation, parameters)
            return call(operation, parameters)

        intercept(store, twice)

    @pytest.mark.usefixtures("twice")
    def test_a_claim_that_the_network_sent_twice_is_returned(self, store: DynamoStore, clock: Clock) -> None:
        put(store, "a", delay=1.0)
        clock.advance(2)
        assert [job.id for job in store.claim_due(10, 5.0, "mine")] == ["a"]

    @pytest.mark.usefixtures("twice")
    def test_a_heartbeat_that_the_network_sent_twice_is_applied(self, store: DynamoStore, clock: Clock) -> None:
        run(store, put(store, "a"))
        clock.advance(2)
        (answer,) = store.heartbeat([LeaseRenewal("a", TOKEN, 30.0, "mine")])
        assert answer.record is not None
        assert (answer.applied, answer.record.wake_at) == (True, clock.now + 30.0)

    def test_a_heartbeat_is_applied_to_the_record_as_another_process_left_it(
        self, store: DynamoStore, harness: Harness, clock: Clock
    ) -> None:
        record, other = run(store, put(store, "a")), harness.open(clock=clock)
        swap(other, record, cancel_requested=True)
        (answer,) = store.heartbeat([LeaseRenewal("a", TOKEN, 30.0, "mine")])
        assert answer.record is not None
        assert (answer.applied, answer.record.cancel_requested) == (True, True)
        swap(other, answer.record, token="another")
        (answer,) = store.heartbeat([LeaseRenewal("a", TOKEN, 30.0, "late")])
        assert answer.record is not None
        assert (answer.outcome, answer.record.token) == (WriteOutcome.REFUSED, "another")
        other.close()


class TestIndexes:
    """An index lags behind the table, so that an entry no longer agrees with its job."""

    def test_a_job_that_is_no_longer_due_is_not_claimed(self, store: DynamoStore, harness: Harness) -> None:
        record = run(store, put(store, "a"))
        edit(harness, "a", at=0.0)
        assert list(store.claim_due(10, 5.0, "r")) == []
        assert store.get(["a"]) == [record]

    def test_a_job_that_was_claimed_after_the_index_was_read_is_not_claimed_again(
        self, store: DynamoStore, clock: Clock
    ) -> None:
        record = put(store, "a", delay=1.0)
        clock.advance(2)

        others: list[Record] = []

        def late(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "update_item":
                others.extend(swap(other, record, wake_at=clock.now + 100.0) for _ in range(1 - len(others)))
            return call(operation, parameters)

        other = DynamoStore(
            store.table.name, region="us-east-1", namespace="suite", options=self.options(store), clock=clock
        )
        intercept(store, late)
        assert list(store.claim_due(10, 5.0, "r")) == []
        other.close()

    def options(self, store: DynamoStore) -> DynamoOptions:
        return DynamoOptions(endpoint=store.table._client.get().meta.endpoint_url, shards=2, create=False, poll=0.5)

    def test_a_job_that_has_begun_is_not_reported_as_unreceived(
        self, store: DynamoStore, harness: Harness, clock: Clock
    ) -> None:
        run(store, put(store, "a"))
        edit(harness, "a", due=store.names.sent("default", 0, store.names.shard("a")), at=0.0)
        assert list(store.unreceived("default", 0, clock.now + 1, 10)) == []

    def test_a_job_is_not_found_under_its_earlier_state(self, store: DynamoStore, harness: Harness) -> None:
        put(store, "a")
        edit(harness, "a", listed=store.names.state(JobState.DEAD, store.names.shard("a")))
        assert list(store.find(Query(JobState.DEAD))) == []
        assert list(store.overflow(Query(JobState.DEAD), 0, 10)) == []

    def test_a_deleted_job_is_not_found(self, store: DynamoStore) -> None:
        put(store, "a")
        put(store, "b")

        def gone(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            answer = call(operation, parameters)
            if operation == "batch_get_item":
                for items in answer["Responses"].values():
                    items[:] = [item for item in items if item["pk"]["S"] != "suite#job#a"]
            return answer

        intercept(store, gone)
        assert [job.id for job in store.find(Query())] == ["b"]


class TestNewer:
    """A record that a newer version of queueport wrote, and that this version cannot read."""

    @pytest.fixture(autouse=True)
    def newer(self, store: DynamoStore, harness: Harness) -> None:
        put(store, "a", key="k")
        edit(harness, "a", v=RECORD_VERSION + 1, state="hibernating")

    def test_no_write_changes_the_record(self, store: DynamoStore, clock: Clock) -> None:
        (inserted,) = store.insert([Insert(bare("a"), Change(), rev())])
        (swapped,) = store.swap([Swap("a", "stale", Change(), rev())])
        (begun,) = store.begin([Begin("a", "app.send", Change(), rev())])
        assert [(w.outcome, w.record) for w in (inserted, swapped, begun)] == [(WriteOutcome.REFUSED, None)] * 3
        clock.advance(1000)
        assert list(store.claim_due(10, 5.0, "r")) == []
        assert list(store.find(Query())) == []
        with pytest.raises(CorruptRecord, match="'a'"):
            store.get(["a"])

    def test_the_record_keeps_its_key(self, store: DynamoStore) -> None:
        (answer,) = store.insert([Insert(bare("b", key="k"), Change(), rev())])
        assert answer.outcome is WriteOutcome.KEY_HELD
        assert answer.record is not None
        assert (answer.record.id, answer.record.state) == ("a", JobState.RUNNING)


class TestRetention:
    def test_a_job_that_dynamodb_may_delete_is_treated_as_deleted(self, store: DynamoStore, clock: Clock) -> None:
        ended, alive = succeeded(store, "ended"), put(store, "alive")
        clock.advance((RULES.keep_succeeded or 0) + TTL_GRACE - 1)
        assert store.get(["ended"]) == [ended]
        clock.advance(2)
        assert store.get(["ended", "alive"]) == [None, alive]
        assert list(store.wait(["ended"], 0.0)) == []
        (answer,) = store.swap([Swap("ended", ended.rev, Change({"state": JobState.QUEUED}), rev())])
        assert (answer.outcome, answer.record) == (WriteOutcome.REFUSED, None)
        (answer,) = store.begin([Begin("ended", "app.send", Change(), rev())])
        assert answer.record is None

    @pytest.mark.parametrize("verb", ["find", "claim_due", "insert"])
    def test_a_verb_that_finds_a_job_past_its_ttl_removes_it_and_its_count(
        self, store: DynamoStore, clock: Clock, verb: str
    ) -> None:
        dead(store, "ended")
        clock.advance(RULES.keep_dead + TTL_GRACE + 1)
        if verb == "find":
            assert list(store.find(Query())) == []
        elif verb == "claim_due":
            assert list(store.claim_due(10, 5.0, "r")) == []
        else:
            assert put(store, "ended").state is JobState.QUEUED
        assert counted(store) == ({"queued": 1} if verb == "insert" else {})

    def test_a_job_that_is_retried_has_no_ttl(self, store: DynamoStore, harness: Harness) -> None:
        record = dead(store, "a")
        swap(store, record, state=JobState.QUEUED, wake_at=None)
        key = {"pk": value("suite#job#a")}
        assert "ttl" not in client(harness.url).get_item(TableName=harness.table, Key=key)["Item"]

    def test_the_table_has_a_ttl_and_is_billed_by_request(self, store: DynamoStore) -> None:
        aws = store.table._client.get()
        told = aws.describe_time_to_live(TableName=store.table.name)["TimeToLiveDescription"]
        assert told == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}
        described = aws.describe_table(TableName=store.table.name)["Table"]
        assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        backups = aws.describe_continuous_backups(TableName=store.table.name)["ContinuousBackupsDescription"]
        assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "DISABLED"


@contextmanager
def answering(status: int, body: dict[str, str], delay: float = 0.0) -> Iterator[str]:
    """A server that answers each call with this status and body, after `delay` seconds. Returns its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            released.wait(delay)
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        released.set()
        server.shutdown()
        server.server_close()


def opened(url: str, call_timeout: float = 1.0) -> DynamoStore:
    options = DynamoOptions(endpoint=url, shards=2, create=False, poll=0.5)
    return DynamoStore("jobs", region="eu-central-1", call_timeout=call_timeout, options=options)


def refusals(store: DynamoStore, sentence: str, within: float) -> None:
    """Check that calls fail in less than `within` seconds, with `sentence`, the name of the table and a cause."""
    calls: list[Callable[[], object]] = [
        lambda: put(store),
        lambda: store.get(["a"]),
        lambda: store.claim_due(10, 5.0, "r"),
        lambda: store.wait(["a"], 60.0),
        store.stats,
        store.check,
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(
            BackendUnavailable, match=f"^the DynamoDB table jobs in eu-central-1 .*{sentence}"
        ) as raised:
            call()
        assert raised.value.__cause__ is not None
        assert time.monotonic() - started < within
    store.close()


ANSWERS = {
    "AccessDeniedException": (400, "is not authorized to perform: dynamodb:Query", "denies .* in the IAM policy"),
    "ExpiredTokenException": (400, "expired", "rejects the credentials because they have expired"),
    "UnrecognizedClientException": (400, "invalid token", "rejects the credentials"),
    "ProvisionedThroughputExceededException": (400, "too fast", "throttles"),
    "ResourceNotFoundException": (400, "not found", "does not exist: run `queueport setup URL` once"),
    "InternalServerError": (500, "oops", "failed at"),
}


class TestFailures:
    @pytest.mark.parametrize("code", ANSWERS)
    def test_the_error_names_the_cause_in_one_sentence(self, code: str) -> None:
        status, message, sentence = ANSWERS[code]
        body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
        with answering(status, body) as url:
            refusals(opened(url), sentence, 5.0)

    def test_check_fails_if_an_insert_is_denied_and_writes_nothing(self, harness: Harness, clock: Clock) -> None:
        store = harness.open(clock=clock)
        denied: list[str] = []

        def deny(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation in denied:
                raise BackendUnavailable("denied")
            return call(operation, parameters)

        intercept(store, deny)
        assert list(store.check()) == []
        assert (store.count(Query()), dict(store.stats().queues)) == (0, {})
        denied.append("transact_write_items")
        for call in (store.check, lambda: put(store)):
            with pytest.raises(BackendUnavailable, match="denied"):
                call()

    def test_calls_to_a_hanging_service_fail_in_time(self) -> None:
        with answering(200, {}, delay=60.0) as url:
            refusals(opened(url), "did not answer in time", 4.0)

    def test_the_error_says_that_an_endpoint_cannot_be_reached(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            refusals(opened(f"http://127.0.0.1:{unused.getsockname()[1]}"), "check the region, endpoint=", 5.0)

    @pytest.mark.parametrize("known", [True, False], ids=["clock known", "clock unknown"])
    def test_an_insert_is_rejected_if_no_connection_can_be_opened(self, *, known: bool) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            store = opened(f"http://127.0.0.1:{unused.getsockname()[1]}")
            if known:
                store.table.clock.learn(formatdate(usegmt=True), time.time())
            with pytest.raises(BackendUnavailable) as caught:
                store.insert([Insert(bare(name), Change(), rev()) for name in ("a", "b")])
        assert caught.value.rejected == ("a", "b")

    def test_an_insert_that_was_not_answered_is_not_rejected(self) -> None:
        with answering(200, {}, delay=60.0) as url:
            store = opened(url)
            store.table.clock.learn(formatdate(usegmt=True), time.time())
            with pytest.raises(BackendUnavailable) as caught:
                put(store)
        assert caught.value.rejected == ()

    @pytest.mark.parametrize(
        ("cause", "certain"),
        [(EndpointConnectionError(endpoint_url="u"), True), (ReadTimeoutError(endpoint_url="u"), False)],
        ids=["never sent", "not answered"],
    )
    def test_only_the_inserts_of_a_batch_that_were_not_written_are_rejected(
        self, store: DynamoStore, cause: Exception, *, certain: bool
    ) -> None:
        tried: list[tuple[str, ...]] = []

        def fail(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "transact_write_items":
                items = (action.get("Put", {}).get("Item", {}) for action in parameters["TransactItems"])
                tried.append(tuple(item["id"]["S"] for item in items if "id" in item))
                if len(tried) == 2:
                    raise BackendUnavailable("no answer") from cause
            return call(operation, parameters)

        intercept(store, fail)
        names = [f"job{n}" for n in range(250)]
        with pytest.raises(BackendUnavailable, match="no answer") as caught:
            store.insert([Insert(bare(name), Change(), rev()) for name in names])
        missing = {name for name, record in zip(names, store.get(names), strict=True) if record is None}
        assert missing >= set(tried[1])
        assert set(caught.value.rejected) == (missing if certain else missing - set(tried[1]))

    def test_parallel_calls_together_fail_in_the_time_of_one(self, harness: Harness, clock: Clock) -> None:
        store = harness.open(clock=clock)
        new = [Insert(bare(f"j{n}"), Change({"state": JobState.SCHEDULED, "wake_at": 1.0}), "r") for n in range(60)]
        store.insert(new)
        store.table.call_timeout = 1.0
        hanging = threading.Event()

        def hang(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "update_item":
                hanging.wait(1.0)
                raise BackendUnavailable("no answer")
            return call(operation, parameters)

        intercept(store, hang)
        started = time.monotonic()
        with pytest.raises(BackendUnavailable):
            store.claim_due(100, 5.0, "r")
        assert time.monotonic() - started < 5
        hanging.set()
        store.close()

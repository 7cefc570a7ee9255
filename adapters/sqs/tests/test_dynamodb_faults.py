"""What goes wrong between the store and DynamoDB: conflicts, lost answers, indexes that lag, and calls that fail."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.exceptions import ClientError

from adapters.sqs.tests.clients import client
from adapters.sqs.tests.test_dynamodb import Harness, own_table
from queueport.errors import BackendUnavailable
from queueport.record import RECORD_VERSION, Change, CorruptRecord, Record
from queueport.status import JobState
from queueport.store import Begin, Insert, Outcome, Query, Swap
from queueport.testing.stores.harness import RULES, Clock, bare, dead, put, rev, run, succeeded, swap
from queueport_sqs.dynamodb import DynamoOptions, DynamoStore
from queueport_sqs.dynamodb_items import TTL_GRACE, value

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
    """Let `instead` answer each call; it is given the true one."""
    call = store.table._called
    store.table._called = lambda operation, parameters: instead(call, operation, parameters)  # type: ignore[method-assign]


def counted(store: DynamoStore) -> dict[str, int]:
    return {state.value: n for state, n in store.stats().queues["default"].states.items() if n}


def edit(harness: Harness, job_id: str, **attributes: Any) -> None:
    """Change attributes behind the store's back."""
    for name, plain in attributes.items():
        harness.damage("suite", job_id, name, plain)


def cancelled(actions: int, *codes: tuple[int, str]) -> ClientError:
    """A transaction of so many actions that failed for these reasons."""
    reasons: list[dict[str, Any]] = [{"Code": "None"} for _ in range(actions)]
    for number, code in codes:
        reasons[number] = {"Code": code, "Message": "as the test wants it"}
    answer: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
    return ClientError(answer, "TransactWriteItems")


class TestConflicts:
    @pytest.mark.parametrize("code", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])
    @pytest.mark.parametrize("action", [0, -1], ids=["job", "count"])
    def test_a_transaction_that_meets_another_is_tried_again(self, store: DynamoStore, code: str, action: int) -> None:
        tried: list[str] = []

        def meeting(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "transact_write_items":
                items = parameters["TransactItems"]
                tried.append(items[-1]["Update"]["Key"]["pk"]["S"])
                if len(tried) <= 3:
                    raise cancelled(len(items), (action % len(items), code))
            return call(operation, parameters)

        intercept(store, meeting)
        put(store, "a")
        assert len(tried) == 4
        assert set(tried) == {store.names.counter("default", shard) for shard in range(store.names.shards)}
        assert tried[0] != tried[1]
        assert counted(store) == {"queued": 1}

    def test_what_meets_others_for_too_long_is_told_in_time(self, store: DynamoStore) -> None:
        def busy(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "transact_write_items":
                raise cancelled(len(parameters["TransactItems"]), (-1, "TransactionConflict"))
            return call(operation, parameters)

        store.table._call_timeout = 0.5
        intercept(store, busy)
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match="too busy") as raised:
            put(store)
        assert time.monotonic() - started < 3
        assert isinstance(raised.value.__cause__, ClientError)

    def test_an_update_that_meets_a_transaction_is_tried_again(self, store: DynamoStore) -> None:
        record, met = put(store), iter([True])

        def meeting(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "update_item" and next(met, False):
                raise ClientError({"Error": {"Code": "TransactionConflictException"}}, "UpdateItem")
            return call(operation, parameters)

        intercept(store, meeting)
        assert swap(store, record, sends=5).sends == 5

    def test_of_a_batch_those_whose_condition_fails_are_dropped_and_the_rest_is_written(
        self, store: DynamoStore
    ) -> None:
        put(store, "taken")
        holder = put(store, "holder", key="k")
        new = [bare("a"), bare("taken"), bare("b", key="k"), bare("c")]
        change = Change({"state": JobState.QUEUED}, processed=1)
        answers = store.insert([Insert(record, change, rev()) for record in new])
        assert [answer.outcome.name for answer in answers] == ["APPLIED", "REFUSED", "KEY_HELD", "APPLIED"]
        assert answers[2].record == holder
        assert counted(store) == {"queued": 4}
        assert store.stats().processed == 2

    def test_a_batch_larger_than_a_transaction_is_written_whole(self, store: DynamoStore) -> None:
        new = [bare(f"j{n}", queue=f"q{n % 7}", key=f"k{n}") for n in range(120)]
        answers = store.insert([Insert(record, Change(), rev()) for record in new])
        assert all(answer.applied for answer in answers)
        assert sum(counts.states[JobState.QUEUED] for counts in store.stats().queues.values()) == 120

    def test_a_key_whose_holder_is_gone_is_taken_over(self, store: DynamoStore, harness: Harness) -> None:
        put(store, "a", key="k")
        client(harness.url).delete_item(TableName=harness.table, Key={"pk": {"S": "suite#job#a"}})
        put(store, "b", key="k")
        (answer,) = store.insert([Insert(bare("c", key="k"), Change(), rev())])
        assert answer.outcome is Outcome.KEY_HELD


class TestLostAnswers:
    @pytest.fixture
    def losing(self, store: DynamoStore) -> None:
        """Every write is applied, and its first answer lost."""
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
        assert answer.outcome is Outcome.REFUSED
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
        assert (answer.outcome, answer.record.rev) == (Outcome.REFUSED, "mine")
        assert (counted(store), store.stats().processed) == ({"succeeded": 1}, 1)

    def test_a_claim_that_was_sent_twice_by_the_network_is_still_a_claim(
        self, store: DynamoStore, clock: Clock
    ) -> None:
        put(store, "a", delay=1.0)
        clock.advance(2)

        def twice(call: Call, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            if operation == "update_item":
                call(operation, parameters)
            return call(operation, parameters)

        intercept(store, twice)
        assert [job.id for job in store.claim_due(10, 5.0, "mine")] == ["a"]


class TestIndexes:
    """An index entry that no longer fits its job, as an index shows it that lags behind."""

    def test_what_is_no_longer_due_is_not_claimed(self, store: DynamoStore, harness: Harness) -> None:
        record = run(store, put(store, "a"))
        edit(harness, "a", at=0.0)
        assert list(store.claim_due(10, 5.0, "r")) == []
        assert store.get(["a"]) == [record]

    def test_what_was_claimed_since_the_index_was_read_is_not_claimed_again(
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

    def test_what_was_received_since_is_not_said_to_be_unreceived(
        self, store: DynamoStore, harness: Harness, clock: Clock
    ) -> None:
        run(store, put(store, "a"))
        edit(harness, "a", due=store.names.sent("default", 0, store.names.shard("a")), at=0.0)
        assert list(store.unreceived("default", 0, clock.now + 1, 10)) == []

    def test_what_has_changed_its_state_since_is_not_found_in_the_old_one(
        self, store: DynamoStore, harness: Harness
    ) -> None:
        put(store, "a")
        edit(harness, "a", listed=store.names.state(JobState.DEAD, store.names.shard("a")))
        assert list(store.find(Query(JobState.DEAD))) == []
        assert list(store.overflow(JobState.DEAD, 0, 10)) == []

    def test_what_is_gone_since_is_not_found(self, store: DynamoStore) -> None:
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
    """A record of a newer queueport that this one cannot read."""

    @pytest.fixture(autouse=True)
    def newer(self, store: DynamoStore, harness: Harness) -> None:
        put(store, "a", key="k")
        edit(harness, "a", v=RECORD_VERSION + 1, state="hibernating")

    def test_it_is_left_alone_by_every_write(self, store: DynamoStore, clock: Clock) -> None:
        (inserted,) = store.insert([Insert(bare("a"), Change(), rev())])
        (swapped,) = store.swap([Swap("a", "stale", Change(), rev())])
        (begun,) = store.begin([Begin("a", Change(), rev())])
        assert [(w.outcome, w.record) for w in (inserted, swapped, begun)] == [(Outcome.REFUSED, None)] * 3
        clock.advance(1000)
        assert list(store.claim_due(10, 5.0, "r")) == []
        assert list(store.find(Query())) == []
        with pytest.raises(CorruptRecord, match="'a'"):
            store.get(["a"])

    def test_it_keeps_its_key(self, store: DynamoStore) -> None:
        (answer,) = store.insert([Insert(bare("b", key="k"), Change(), rev())])
        assert answer.outcome is Outcome.KEY_HELD
        assert answer.record is not None
        assert (answer.record.id, answer.record.state) == ("a", JobState.RUNNING)


class TestRetention:
    def test_what_dynamodb_may_delete_is_gone_for_every_reader(self, store: DynamoStore, clock: Clock) -> None:
        ended, alive = succeeded(store, "ended"), put(store, "alive")
        clock.advance((RULES.keep_succeeded or 0) + TTL_GRACE - 1)
        assert store.get(["ended"]) == [ended]
        clock.advance(2)
        assert store.get(["ended", "alive"]) == [None, alive]
        assert list(store.wait(["ended"], 0.0)) == []
        (answer,) = store.swap([Swap("ended", ended.rev, Change({"state": JobState.QUEUED}), rev())])
        assert (answer.outcome, answer.record) == (Outcome.REFUSED, None)
        (answer,) = store.begin([Begin("ended", Change(), rev())])
        assert answer.record is None

    @pytest.mark.parametrize("meet", ["find", "claim_due", "insert"])
    def test_who_meets_it_removes_it_with_its_count(self, store: DynamoStore, clock: Clock, meet: str) -> None:
        dead(store, "ended")
        clock.advance(RULES.keep_dead + TTL_GRACE + 1)
        if meet == "find":
            assert list(store.find(Query())) == []
        elif meet == "claim_due":
            assert list(store.claim_due(10, 5.0, "r")) == []
        else:
            assert put(store, "ended").state is JobState.QUEUED
        assert counted(store) == ({"queued": 1} if meet == "insert" else {})

    def test_a_job_that_is_revived_is_not_deleted(self, store: DynamoStore, harness: Harness) -> None:
        record = dead(store, "a")
        swap(store, record, state=JobState.QUEUED, wake_at=None)
        key = {"pk": value("suite#job#a")}
        assert "ttl" not in client(harness.url).get_item(TableName=harness.table, Key=key)["Item"]

    def test_the_table_has_ttl_on_that_attribute_and_is_billed_by_request(self, store: DynamoStore) -> None:
        aws = store.table._client.get()
        told = aws.describe_time_to_live(TableName=store.table.name)["TimeToLiveDescription"]
        assert told == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}
        described = aws.describe_table(TableName=store.table.name)["Table"]
        assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        backups = aws.describe_continuous_backups(TableName=store.table.name)["ContinuousBackupsDescription"]
        assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "DISABLED"


@contextmanager
def answering(status: int, body: dict[str, str], delay: float = 0.0) -> Iterator[str]:
    """A service that answers each call so."""

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
            """Quietly."""

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
    """Each verb fails in time with that sentence, which names the table, and has a cause."""
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
    "AccessDeniedException": (400, "is not authorized to perform: dynamodb:Query", "refuses .* in the IAM policy"),
    "ExpiredTokenException": (400, "expired", "refuses the credentials, for they have expired"),
    "UnrecognizedClientException": (400, "invalid token", "refuses the credentials"),
    "ProvisionedThroughputExceededException": (400, "too fast", "throttles"),
    "ResourceNotFoundException": (400, "not found", "does not exist: run `queueport setup URL` once"),
    "InternalServerError": (500, "oops", "failed at"),
}


class TestFailures:
    @pytest.mark.parametrize("code", ANSWERS)
    def test_each_cause_is_told_in_one_sentence(self, code: str) -> None:
        status, message, sentence = ANSWERS[code]
        body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
        with answering(status, body) as url:
            refusals(opened(url), sentence, 5.0)

    def test_a_service_that_hangs_is_given_up_in_time(self) -> None:
        with answering(200, {}, delay=60.0) as url:
            refusals(opened(url), "did not answer in time", 4.0)

    def test_an_endpoint_that_is_not_there_is_told(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            refusals(opened(f"http://127.0.0.1:{unused.getsockname()[1]}"), "check the region, endpoint=", 5.0)

    def test_many_calls_at_once_are_given_up_in_the_time_of_one(self, harness: Harness, clock: Clock) -> None:
        store = harness.open(clock=clock)
        new = [Insert(bare(f"j{n}"), Change({"state": JobState.SCHEDULED, "wake_at": 1.0}), "r") for n in range(60)]
        store.insert(new)
        store.table._call_timeout = 1.0
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

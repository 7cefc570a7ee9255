"""What SQS is asked and what is made of its answers: queues, batches, failures, dead letters, purging."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from queueport import get_queue
from queueport.driver import Depth, SendOutcome
from queueport.errors import BackendUnavailable, ConfigurationError, PayloadTooLarge
from queueport.message import Message
from queueport.settings import Settings
from queueport.testing import tasks
from queueport.transport import Delivery
from queueport.url import BackendURL
from queueport_sqs.transport import SqsTransport
from tests.servers import aws_server

Open = Callable[..., SqsTransport]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens transports in a namespace of this test's own, and deletes its queues."""
    namespace = f"sqs_{uuid.uuid4().hex[:8]}"
    made: list[SqsTransport] = []

    def open_one(options: str = "create=true", prefix: str = "", **settings: Any) -> SqsTransport:
        url = BackendURL.parse(f"sqs://us-east-1?endpoint={aws_server('sqs').url}&{options}&prefix={prefix}")
        made.append(SqsTransport.open(url, Settings(namespace=namespace, **settings)))
        return made[-1]

    yield open_one
    client = open_one().native
    for url in client.list_queues(QueueNamePrefix=namespace).get("QueueUrls", []):
        client.delete_queue(QueueUrl=url)
    for transport in made:
        transport.close()


def message(job_id: str = "a", life: int = 1, **changed: Any) -> Message:
    data = {"v": 1, "id": job_id, "task": "t", "queue": "default", "life": life, "sent_at": 1.0}
    given: dict[str, Any] = {"id": job_id, "task": "t", "queue": "default", "life": life, "sent_at": 1.0}
    return Message(**{**given, "body": json.dumps(data).encode(), **changed})


def requests(transport: SqsTransport) -> Counter[str]:
    """The operations called from now on."""
    counted: Counter[str] = Counter()
    for client in (transport.native, transport._poller.get()):
        client.meta.events.register("before-call.sqs", lambda model, **_: counted.update([model.name]))
    return counted


def queues(transport: SqsTransport) -> list[str]:
    prefix = transport._queues.names.work("")
    found = transport.native.list_queues(QueueNamePrefix=prefix[: prefix.index("-")]).get("QueueUrls", [])
    return sorted(url.rpartition("-")[2] for url in found)


def in_dead(transport: SqsTransport) -> list[dict[str, Any]]:
    """What lies in the dead-letter queue, seen once and visible again."""
    url = transport._queues._url("default", True)
    found: list[dict[str, Any]] = []
    options: dict[str, Any] = {"QueueUrl": url, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
    while some := transport.native.receive_message(**options, VisibilityTimeout=5).get("Messages"):
        found += some
    for one in found:
        transport.native.change_message_visibility(
            QueueUrl=url, ReceiptHandle=one["ReceiptHandle"], VisibilityTimeout=0
        )
    return found


# -- queues ----------------------------------------------------------------------------------------


def test_queues_are_made_only_when_asked(opened: Open) -> None:
    transport = opened("wait=1")
    (sent,) = transport.send("default", [message()])
    assert sent.outcome is SendOutcome.FAILED
    assert "does not exist: run `queueport setup URL`, or add create=true" in str(sent.error)
    with pytest.raises(BackendUnavailable, match="run `queueport setup URL`"):
        transport.receive(["default"], 1, 0.0)
    with pytest.raises(BackendUnavailable, match="run `queueport setup URL`"):
        transport.bury([message()])
    transport.unbury([message()])
    assert transport.depth("default") == Depth(0, 0)
    transport.purge("default")
    assert list(transport.check()) != []
    assert queues(transport) == []

    transport.setup(["default"])
    transport.setup(["default"])
    assert queues(transport) == ["dead", "default"]
    assert transport.send("default", [message()])[0].outcome is SendOutcome.SENT
    assert list(transport.check()) == []


def test_create_makes_a_queue_and_its_dead_letters_on_first_use(opened: Open) -> None:
    transport = opened("create=true")
    assert transport.receive(["default"], 1, 0.0) == []
    assert queues(transport) == ["dead", "default"]
    found = transport._queues.attributes("default", "All")
    assert found is not None
    policy = json.loads(found["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith("-default-dead")
    assert int(policy["maxReceiveCount"]) == 100
    assert (found["MessageRetentionPeriod"], found["MaximumMessageSize"]) == ("1209600", "1048576")


def test_setup_leaves_an_operators_settings_and_adds_a_missing_redrive_policy(opened: Open) -> None:
    transport = opened("wait=1")
    name = transport._queues.names.work("default")
    attributes = {"DelaySeconds": "1", "MessageRetentionPeriod": "600", "MaximumMessageSize": "1024"}
    transport.native.create_queue(QueueName=name, Attributes=attributes)
    told = " ".join(transport.check())
    for word in ("redrive policy", "DelaySeconds", "MessageRetentionPeriod", "MaximumMessageSize"):
        assert word in told
    transport.setup(["default"])
    found = transport._queues.attributes("default", "All")
    assert found is not None
    assert "RedrivePolicy" in found
    assert {key: found[key] for key in attributes} == attributes


def test_a_queue_that_was_deleted_is_found_missing_and_made_again(opened: Open) -> None:
    transport = opened("create=true")
    strict = opened("wait=1")
    assert [one.send("default", [message()])[0].outcome for one in (transport, strict)] == [SendOutcome.SENT] * 2
    transport.native.delete_queue(QueueUrl=transport._queues._url("default", False))
    assert strict.send("default", [message()])[0].outcome is SendOutcome.FAILED
    assert strict.depth("default") == Depth(0, 0)
    assert transport.send("default", [message()])[0].outcome is SendOutcome.SENT
    assert strict.depth("default") == Depth(1, 0)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("sqs://us-east-1?fifi=true", "fifo"),
        ("sqs://us-east-1?wait=21", "wait"),
        ("sqs://us-east-1?endpoint=localhost", "endpoint"),
        ("sqs://us-east-1?prefix=a.b", "prefix"),
        ("sqs://us-east-1/queue", "sqs://REGION"),
        ("sqs://key:secret@us-east-1", "sqs://REGION"),
        ("sqs://us-east-1:port", "sqs://REGION"),
    ],
)
def test_a_wrong_url_is_refused_with_what_to_write(url: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        get_queue(url, store="sqlite:////nowhere/jobs.db")
    assert "secret" not in str(caught.value)


def test_a_queue_with_too_long_a_name_is_refused_before_any_request(opened: Open) -> None:
    transport = opened(prefix="p" * 20)
    counted = requests(transport)
    (sent,) = transport.send("q" * 64, [message()])
    assert sent.outcome is SendOutcome.FAILED
    assert "at most 80 characters" in str(sent.error)
    assert not counted


# -- sending ---------------------------------------------------------------------------------------


def test_messages_leave_in_batches_of_ten_and_arrive_each_once(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    counted = requests(transport)
    sent = transport.send("default", [message(f"job-{number}") for number in range(25)])
    assert {one.outcome for one in sent} == {SendOutcome.SENT}
    assert counted["SendMessageBatch"] == 3
    taken = [delivery for _ in range(3) for delivery in transport.receive(["default"], 100, 0.0)]
    assert sorted(Message.parse(d.body).id for d in taken) == sorted(f"job-{number}" for number in range(25))
    transport.ack(taken)
    transport.ack(taken)
    assert counted["DeleteMessageBatch"] == 6
    assert transport.depth("default") == Depth(0, 0)


def test_a_batch_has_a_mebibyte_of_utf8_at_most(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    counted = requests(transport)
    body = json.dumps("é" * 170_000, ensure_ascii=False).encode()  # 340 kB, though 170,000 characters
    sent = transport.send("default", [message(f"job-{number}", body=body) for number in range(6)])
    assert {one.outcome for one in sent} == {SendOutcome.SENT}
    assert counted["SendMessageBatch"] == 2


def test_one_too_large_fails_alone(opened: Open) -> None:
    transport = opened()
    large = message("large", body=json.dumps("é" * 2**19, ensure_ascii=False).encode())
    sent = transport.send("default", [message("a"), large, message("b")])
    assert [one.outcome for one in sent] == [SendOutcome.SENT, SendOutcome.FAILED, SendOutcome.SENT]
    assert isinstance(sent[1].error, PayloadTooLarge)
    assert transport.depth("default") == Depth(2, 0)


def test_each_entry_has_its_own_outcome(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    answer = {
        "Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x"}],
        "Failed": [
            {"Id": "1", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "no"},
            {"Id": "2", "SenderFault": False, "Code": "InternalError", "Message": "oops"},
        ],
    }
    with Stubber(transport.native) as stub:
        stub.add_response("send_message_batch", answer)
        sent = transport.send("default", [message(str(number)) for number in range(4)])
    outcomes = [SendOutcome.SENT, SendOutcome.FAILED, SendOutcome.UNKNOWN, SendOutcome.UNKNOWN]
    assert [one.outcome for one in sent] == outcomes
    assert "InvalidMessageContents" in str(sent[1].error)
    assert "InternalError" in str(sent[2].error)


@pytest.mark.parametrize(
    ("code", "status", "words", "outcome"),
    [
        ("RequestThrottled", 403, "throttles", SendOutcome.FAILED),
        ("ExpiredToken", 403, "have expired", SendOutcome.FAILED),
        ("AccessDenied", 403, "allow SendMessage in the IAM policy", SendOutcome.FAILED),
        ("InternalError", 500, "InternalError", SendOutcome.UNKNOWN),
    ],
)
def test_a_refused_batch_says_why_and_whether_it_may_have_arrived(
    opened: Open, code: str, status: int, words: str, outcome: SendOutcome
) -> None:
    transport = opened()
    transport.setup(["default"])
    with Stubber(transport.native) as stub:
        for _ in range(2):
            stub.add_client_error("send_message_batch", code, http_status_code=status)
        sent = transport.send("default", [message("a"), message("b")])
    assert {one.outcome for one in sent} == {outcome}
    error = sent[0].error
    assert isinstance(error, BackendUnavailable)
    assert words in str(error)
    assert code in repr(error.__cause__)


def test_once_a_batch_may_have_arrived_a_later_refusal_does_not_unsend_it(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    with Stubber(transport.native) as stub:
        stub.add_client_error("send_message_batch", "InternalError", http_status_code=500)
        stub.add_client_error("send_message_batch", "AccessDenied", http_status_code=403)
        (sent,) = transport.send("default", [message()])
    assert sent.outcome is SendOutcome.UNKNOWN


def test_a_service_that_hangs_or_refuses_is_told_apart_in_time(opened: Open) -> None:
    transport = opened(call_timeout=1.0)
    transport.setup(["default"])
    many = [message(str(number)) for number in range(200)]
    with aws_server("sqs").paused():
        started = time.monotonic()
        sent = transport.send("default", many)
        assert time.monotonic() - started < 1.0
        assert sent[0].outcome is SendOutcome.UNKNOWN
        assert sent[-1].outcome is SendOutcome.FAILED, "it was not sent any more"
    with aws_server("sqs").down():
        assert {one.outcome for one in transport.send("default", many)} == {SendOutcome.FAILED}
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            transport.receive(["default"], 1, 1.0)
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            transport.check()


def test_text_that_sqs_would_refuse_arrives_as_it_was(opened: Open) -> None:
    transport = opened()
    body = json.dumps({"text": "\ufffe \uffff \0 \x7f 🎉 \u2028"}, ensure_ascii=False).encode()
    transport.send("default", [message(body=body)])
    (delivery,) = transport.receive(["default"], 1, 0.0)
    assert json.loads(delivery.body) == json.loads(body)


# -- receiving -------------------------------------------------------------------------------------


def test_no_more_is_received_than_asked_for(opened: Open) -> None:
    transport = opened()
    transport.send("default", [message(str(number)) for number in range(20)])
    transport.send("other", [message(str(number)) for number in range(20)])
    assert len(transport.receive(["default", "other"], 3, 0.0)) == 3
    assert len(transport.receive(["default", "other"], 13, 0.0)) == 13


def test_a_busy_queue_does_not_keep_others_waiting(opened: Open) -> None:
    transport = opened()
    transport.send("busy", [message(str(number)) for number in range(40)])
    transport.send("calm", [message("calm")])
    transport.receive(["missing-so-far"], 1, 0.0)
    seen = [delivery.queue for _ in range(2) for delivery in transport.receive(["busy", "calm"], 5, 1.0)]
    assert "calm" in seen


def test_an_idle_worker_waits_in_one_request_and_no_longer_than_asked(opened: Open) -> None:
    transport = opened("create=true&wait=1")
    transport.setup(["default"])
    counted = requests(transport)
    started = time.monotonic()
    assert transport.receive(["default"], 1, transport.wait) == []
    assert 0.8 < time.monotonic() - started < 2.0
    assert counted == {"ReceiveMessage": 1}


def test_what_one_queue_gave_is_not_lost_when_another_is_missing(opened: Open) -> None:
    transport = opened("wait=1")
    transport.setup(["there"])
    for number in range(2):  # whichever of them has its turn first
        transport.send("there", [message(str(number))])
        (delivery,) = transport.receive(["there", "missing"], 5, 0.0)
        assert delivery.queue == "there"
    with pytest.raises(BackendUnavailable, match="missing"):
        transport.receive(["there", "missing"], 5, 0.0)


def test_on_fifo_what_came_is_not_lost_when_the_next_request_fails(opened: Open) -> None:
    transport = opened("create=true&fifo=true")
    transport.setup(["default"])
    with Stubber(transport._poller.get()) as stub:
        stub.add_response("receive_message", {"Messages": [{"Body": "{}", "ReceiptHandle": "r"}]})
        stub.add_client_error("receive_message", "RequestThrottled", http_status_code=403)
        assert [delivery.body for delivery in transport.receive(["default"], 5, 0.0)] == [b"{}"]
        stub.add_client_error("receive_message", "RequestThrottled", http_status_code=403)
        with pytest.raises(BackendUnavailable, match="throttles ReceiveMessage"):
            transport.receive(["default"], 5, 0.0)


def test_what_is_put_aside_lies_with_the_dead_as_it_came(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    attributes = {"shop": {"DataType": "String", "StringValue": "x"}}
    url = transport._queues._url("default", False)
    transport.native.send_message(QueueUrl=url, MessageBody="what?", MessageAttributes=attributes)
    (delivery,) = transport.receive(["default"], 1, 0.0)
    assert isinstance(delivery, Delivery)
    transport.put_aside(delivery)
    assert transport.depth("default") == Depth(0, 0)
    (found,) = in_dead(transport)
    assert found["Body"] == "what?"
    assert {"shop", "aside"} == set(found["MessageAttributes"])


# -- purging ---------------------------------------------------------------------------------------


def test_a_purge_empties_the_queue_and_takes_nothing_that_is_sent_later(opened: Open) -> None:
    transport = opened()
    transport.send("default", [message(str(number)) for number in range(30)])
    transport.bury([message("dead")])
    counted = requests(transport)
    transport.purge("default")
    assert counted["PurgeQueue"] == 0
    transport.send("default", [message("later")])
    assert transport.depth("default") == Depth(1, 0)
    assert len(in_dead(transport)) == 1, "dead letters stay"


def test_what_there_is_no_time_for_is_purged_by_sqs_once_a_minute(opened: Open) -> None:
    transport = opened()
    transport._call_timeout = 0.0
    counted = requests(transport)
    for _ in range(2):
        transport.send("default", [message()])
        transport.purge("default")  # SQS answers PurgeQueueInProgress to the second, which is no error
    assert counted["PurgeQueue"] == 2


# -- dead letters ----------------------------------------------------------------------------------


def test_a_dead_job_is_shown_with_its_id_life_task_and_error(opened: Open) -> None:
    transport = opened()
    error = {"type": "ValueError", "message": "no luck\0", "traceback": "..."}
    transport.bury([message(life=3, body=json.dumps({"error": error}).encode())])
    (found,) = in_dead(transport)
    shown = {name: value["StringValue"] for name, value in found["MessageAttributes"].items()}
    assert shown["error"].startswith("ValueError: no luck")
    assert {name: shown[name] for name in ("id", "life", "task")} == {"id": "a", "life": "3", "task": "t"}


@pytest.mark.parametrize("options", ["create=true", "create=true&fifo=true"])
def test_one_letter_is_taken_out_among_many_and_the_others_are_there_at_once(opened: Open, options: str) -> None:
    transport = opened(options)
    transport.bury([message(f"job-{number}", group="same") for number in range(35)])
    transport.bury([message("job-20", life=2)])
    transport.unbury([message("job-20"), message("not-there")])
    left = [
        (m["MessageAttributes"]["id"]["StringValue"], m["MessageAttributes"]["life"]["StringValue"])
        for m in in_dead(transport)
    ]
    assert len(left) == 35
    assert ("job-20", "1") not in left
    assert ("job-20", "2") in left


def test_a_letter_that_another_process_looks_at_is_found_when_it_is_let_go(opened: Open) -> None:
    transport = opened(call_timeout=5.0)
    transport.bury([message("sought")])
    url = transport._queues._url("default", True)
    transport.native.receive_message(QueueUrl=url, VisibilityTimeout=1)
    transport.unbury([message("sought")])
    assert transport._dead._count("default") == 0


def test_the_search_among_the_dead_ends_in_time(opened: Open) -> None:
    transport = opened(call_timeout=1.0)
    transport.bury([message("held")])
    transport.native.receive_message(QueueUrl=transport._queues._url("default", True), VisibilityTimeout=60)
    started = time.monotonic()
    transport.unbury([message("held")])
    assert time.monotonic() - started < 1.0


# -- what it costs ---------------------------------------------------------------------------------


def test_a_hundred_jobs_cost_thirty_requests_and_some_for_waiting(opened: Open, tmp_path: Any) -> None:
    transport = opened()
    transport.setup(["default"])
    namespace = transport._queues.names.namespace
    url = f"sqs://us-east-1?endpoint={aws_server('sqs').url}&wait=1&store=sqlite:///{tmp_path}/jobs.db"
    with get_queue(url, namespace=namespace) as queue:
        counted = requests(queue.driver.transport)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        handles = queue.enqueue_many(tasks.echo.job(number) for number in range(100))
        assert counted == {"SendMessageBatch": 10, "GetQueueUrl": counted["GetQueueUrl"]}
        with queue.worker(tasks=[tasks.echo], threads=32):
            assert [handle.result(20) for handle in handles] == list(range(100))
        assert 10 <= counted["DeleteMessageBatch"] <= 25
        assert 10 <= counted["ReceiveMessage"] <= 30

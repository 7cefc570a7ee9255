"""Tests the transport on an SQS emulator: queues, batches, failures, dead letters, purging and costs."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from queueport import get_queue, task
from queueport.errors import BackendMisconfigured, BackendUnavailable, ConfigurationError, PayloadTooLarge
from queueport.spi.message import Depth, Message, SendOutcome
from queueport.spi.settings import Settings
from queueport.spi.transport import Delivery
from queueport.spi.url import BackendURL
from queueport.stores.memory.store import MemoryStore
from queueport.tasks import registry
from queueport.testing import tasks
from queueport_sqs import entries, sending
from queueport_sqs.client import REPEATING
from queueport_sqs.transport import SqsTransport
from tests.servers import aws_server
from tests.servers.health import fails_without_descriptors, problems

Open = Callable[..., SqsTransport]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens transports in a new namespace, and deletes its queues after the test."""
    namespace = f"sqs_{uuid.uuid4().hex[:8]}"
    made: list[SqsTransport] = []

    def open_one(options: str = "create=true", prefix: str = "", **settings: Any) -> SqsTransport:
        url = BackendURL.parse(f"sqs://us-east-1?endpoint={aws_server('sqs').url}&{options}&prefix={prefix}")
        made.append(SqsTransport.open(url, Settings(namespace=namespace, **settings), MemoryStore()))
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
    """A counter of the operations that the transport calls from now on."""
    counted: Counter[str] = Counter()
    for client in (transport.native, transport._poller.get()):
        client.meta.events.register("before-call.sqs", lambda model, **_: counted.update([model.name]))
    return counted


def queues(transport: SqsTransport) -> list[str]:
    prefix = transport._queues.names.work("")
    found = transport.native.list_queues(QueueNamePrefix=prefix[: prefix.index("-")]).get("QueueUrls", [])
    return sorted(url.rpartition("-")[2] for url in found)


def in_dead(transport: SqsTransport) -> list[dict[str, Any]]:
    """The messages of the dead-letter queue. They are visible again afterwards."""
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


def test_queues_are_created_only_by_setup(opened: Open) -> None:
    transport = opened("wait=1")
    (sent,) = transport.send("default", [message()])
    assert sent.outcome is SendOutcome.FAILED
    assert "does not exist: run `queueport setup URL`, or add create=true" in str(sent.error)
    with pytest.raises(BackendUnavailable, match="run `queueport setup URL`"):
        transport.receive(["default"], 1, 0.0)
    (buried,) = transport.bury("default", [message()])
    assert "run `queueport setup URL`" in str(buried.error)
    transport.unbury("default", [message()])
    assert transport.depth("default") == Depth(0, 0)
    transport.purge("default")
    with pytest.raises(BackendMisconfigured, match="run `queueport setup URL`"):
        transport.check_queue("default")
    assert queues(transport) == []

    transport.setup(["default"])
    transport.setup(["default"])
    assert queues(transport) == ["dead", "default"]
    assert transport.send("default", [message()])[0].outcome is SendOutcome.SENT
    assert list(transport.check()) == []


def test_the_option_create_creates_a_queue_and_its_dead_letter_queue_on_first_use(opened: Open) -> None:
    transport = opened("create=true")
    assert transport.receive(["default"], 1, 0.0) == []
    assert queues(transport) == ["dead", "default"]
    found = transport._queues.attributes("default", "All")
    assert found is not None
    policy = json.loads(found["RedrivePolicy"])
    assert policy["deadLetterTargetArn"].endswith("-default-dead")
    assert int(policy["maxReceiveCount"]) == 100
    assert (found["MessageRetentionPeriod"], found["MaximumMessageSize"]) == ("1209600", "1048576")


def test_setup_keeps_an_operators_settings_and_adds_a_missing_redrive_policy(opened: Open) -> None:
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


def test_check_warns_about_the_queue_of_a_task_that_was_not_used_yet(opened: Open) -> None:
    transport = opened("wait=1")
    transport.native.create_queue(QueueName=transport._queues.names.work("emails"), Attributes={"DelaySeconds": "1"})
    with registry.isolated():
        task(name="send_email", queue="emails")(message)
        assert any("emails delays every message" in warning for warning in transport.check())


def test_a_deleted_queue_is_reported_or_created_again(opened: Open) -> None:
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
def test_a_wrong_url_is_refused_and_the_error_says_what_to_write(url: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=word) as caught:
        get_queue(url, store="sqlite:////nowhere/jobs.db")
    assert "secret" not in str(caught.value)


def test_a_queue_with_too_long_a_name_is_refused_before_any_request(opened: Open) -> None:
    transport = opened(prefix="p" * 20)
    counted = requests(transport)
    (sent,) = transport.send("q" * 64, [message()])
    assert sent.outcome is SendOutcome.FAILED
    assert isinstance(sent.error, BackendMisconfigured)
    assert "at most 80 characters" in str(sent.error)
    assert not counted


# -- sending ---------------------------------------------------------------------------------------


def test_messages_are_sent_in_batches_of_ten_and_each_arrives_once(opened: Open) -> None:
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


def test_a_batch_has_at_most_one_mebibyte_of_utf8(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    counted = requests(transport)
    body = json.dumps("é" * 170_000, ensure_ascii=False).encode()  # 340 kB in UTF-8, but only 170,000 characters
    sent = transport.send("default", [message(f"job-{number}", body=body) for number in range(6)])
    assert {one.outcome for one in sent} == {SendOutcome.SENT}
    assert counted["SendMessageBatch"] == 2


def test_a_message_that_is_too_large_fails_alone(opened: Open) -> None:
    transport = opened()
    large = message("large", body=json.dumps("é" * 2**19, ensure_ascii=False).encode())
    sent = transport.send("default", [message("a"), large, message("b")])
    assert [one.outcome for one in sent] == [SendOutcome.SENT, SendOutcome.REFUSED, SendOutcome.SENT]
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
            {"Id": "3", "SenderFault": True, "Code": "KmsAccessDenied", "Message": "no key"},
        ],
    }
    with Stubber(transport.native) as stub:
        stub.add_response("send_message_batch", answer)
        sent = transport.send("default", [message(str(number)) for number in range(5)])
    outcomes = [SendOutcome.SENT, SendOutcome.REFUSED, SendOutcome.UNKNOWN, SendOutcome.FAILED, SendOutcome.UNKNOWN]
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
def test_the_outcome_of_a_refused_batch_says_why_and_whether_it_may_have_arrived(
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


def test_a_batch_that_is_refused_because_of_a_message_is_split_until_that_message_is_alone(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    url = transport._queues._url("default", False)
    transport.native.set_queue_attributes(QueueUrl=url, Attributes={"MaximumMessageSize": "1024"})
    large = message("large", body=json.dumps("x" * 1_100).encode())
    counted = requests(transport)
    sent = transport.send("default", [message("a"), message("b"), large, *(message(f"c{n}") for n in range(7))])
    assert [one.outcome for one in sent] == [*[SendOutcome.SENT] * 2, SendOutcome.REFUSED, *[SendOutcome.SENT] * 7]
    assert "must be shorter than 1024 bytes" in str(sent[2].error)
    assert counted["SendMessageBatch"] < 10
    assert transport.depth("default") == Depth(9, 0)


def test_a_batch_whose_sum_is_too_long_for_the_server_is_split(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    ids = [{"Id": str(number), "MessageId": "m", "MD5OfMessageBody": "x"} for number in range(2)]
    with Stubber(transport.native) as stub:
        stub.add_client_error("send_message_batch", "BatchRequestTooLong", http_status_code=400)
        stub.add_response("send_message_batch", {"Successful": ids, "Failed": []})
        stub.add_response("send_message_batch", {"Successful": ids, "Failed": []})
        sent = transport.send("default", [message(str(number)) for number in range(4)])
    assert [one.outcome for one in sent] == [SendOutcome.SENT] * 4


def test_the_rest_of_a_batch_whose_sum_is_too_long_is_sent_and_only_the_message_that_is_too_long_is_refused(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = opened(call_timeout=30.0)  # this test is not about slow servers
    transport.setup(["default"])
    limit = entries.LARGEST  # the sum of a batch, and each message, may have this size at the server
    for module in (entries, sending):
        monkeypatch.setattr(module, "LARGEST", 4 * limit)  # here, a batch may have more, so the server refuses it
    sizes = [0.4, 0.4, 1.1, 0.4, 0.4, 0.01]
    bodies = [json.dumps("x" * int(size * limit)).encode() for size in sizes]
    counted = requests(transport)
    sent = transport.send("default", [message(f"m{n}", body=body) for n, body in enumerate(bodies)])
    assert [one.outcome.name for one in sent] == ["SENT", "SENT", "REFUSED", "SENT", "SENT", "SENT"]
    assert "BatchRequestTooLong" in str(sent[2].error)
    assert counted["SendMessageBatch"] > 2  # the server has refused the batch and a half of it
    assert transport.depth("default") == Depth(5, 0)


def test_the_outcome_stays_unknown_if_an_attempt_before_the_refusal_may_have_arrived(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    with Stubber(transport.native) as stub:
        stub.add_client_error("send_message_batch", "InternalError", http_status_code=500)
        stub.add_client_error("send_message_batch", "AccessDenied", http_status_code=403)
        (sent,) = transport.send("default", [message()])
    assert sent.outcome is SendOutcome.UNKNOWN


def test_check_names_a_permission_that_an_enqueue_needs(opened: Open) -> None:
    transport = opened()
    transport.setup(["default"])
    name = transport._queues.names.work("default")
    url = transport._queues._urls[name]
    attributes = transport.native.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    with Stubber(transport.native) as stub:
        stub.add_response("get_queue_attributes", attributes)
        stub.add_client_error("send_message_batch", "AccessDenied", http_status_code=403)
        with pytest.raises(BackendMisconfigured, match="allow SendMessage in the IAM policy"):
            transport.check()
    assert list(transport.check()) == []
    assert transport.depth("default") == Depth(0, 0)


def test_check_names_each_queue_that_an_enqueue_could_not_use(opened: Open, tmp_path: Path) -> None:
    transport = opened()
    namespace, endpoint = transport._queues.names.namespace, aws_server("sqs").url
    url, store = f"sqs://us-east-1?endpoint={endpoint}", f"sqlite:///{tmp_path}/jobs.db"
    with get_queue(url, store=store, namespace=namespace) as queue:
        problem = next(problem for problem in queue.check().problems if f"{namespace}-default " in problem)
        assert f"the SQS queue {namespace}-default in us-east-1 does not exist: run `queueport setup URL`" in problem
        with pytest.raises(BackendMisconfigured, match="does not exist: run `queueport setup URL`"):
            queue.enqueue("t")
        queue.setup(*(task.queue for task in registry.tasks()))
        assert queue.check().ok
        with Stubber(queue.native) as stub:
            for _ in range(2):
                stub.add_client_error("send_message_batch", "AccessDenied", http_status_code=403)
            with pytest.raises(BackendMisconfigured, match="allow SendMessage in the IAM policy"):
                queue.driver.check_queue("default")
            with pytest.raises(BackendMisconfigured, match="allow SendMessage in the IAM policy"):
                queue.enqueue("t")


def test_a_file_that_the_aws_configuration_names_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Botocore raises the operating system's own error if the file cannot be read."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", f"{tmp_path}/absent")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/app")
    (problem,) = problems("sqs://eu-central-1", store=f"sqlite:///{tmp_path}/jobs.db")
    assert f"No such file or directory: '{tmp_path}/absent'): check the URL and the AWS configuration" in problem


def test_the_error_says_that_no_file_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    refusing = "eu-central-1?endpoint=http://127.0.0.1:1"
    fails_without_descriptors(f"sqs://{refusing}", store=f"dynamodb://{refusing.replace('?', '/jobs?')}")


def test_a_hanging_service_means_unknown_and_an_unreachable_one_failed(opened: Open) -> None:
    transport = opened(call_timeout=1.0)
    transport.setup(["default"])
    many = [message(str(number)) for number in range(200)]
    with aws_server("sqs").paused():
        started = time.monotonic()
        sent = transport.send("default", many)
        assert time.monotonic() - started < 1.0
        assert sent[0].outcome is SendOutcome.UNKNOWN
        assert sent[-1].outcome is SendOutcome.FAILED, "it was not sent after the first failure"
    with aws_server("sqs").down():
        assert {one.outcome for one in transport.send("default", many)} == {SendOutcome.FAILED}
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            transport.receive(["default"], 1, 1.0)
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            transport.check()


def test_text_that_sqs_would_refuse_arrives_unchanged(opened: Open) -> None:
    transport = opened()
    body = json.dumps({"text": "\ufffe \uffff \0 \x7f 🎉 \u2028"}, ensure_ascii=False).encode()
    transport.send("default", [message(body=body)])
    (delivery,) = transport.receive(["default"], 1, 0.0)
    assert json.loads(delivery.body) == json.loads(body)


# -- receiving -------------------------------------------------------------------------------------


def test_receive_returns_at_most_the_limit(opened: Open) -> None:
    transport = opened()
    transport.send("default", [message(str(number)) for number in range(20)])
    transport.send("other", [message(str(number)) for number in range(20)])
    assert len(transport.receive(["default", "other"], 3, 0.0)) == 3
    assert len(transport.receive(["default", "other"], 13, 0.0)) == 13


def test_a_busy_queue_does_not_delay_other_queues(opened: Open) -> None:
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
    assert transport.receive(["default"], 1, transport.idle_wait) == []
    assert 0.8 < time.monotonic() - started < 2.0
    assert counted == {"ReceiveMessage": 1}


def test_messages_of_one_queue_are_returned_when_another_is_missing(opened: Open) -> None:
    transport = opened("wait=1")
    transport.setup(["there"])
    for number in range(2):  # each queue is the first one in one of the two calls
        transport.send("there", [message(str(number))])
        (delivery,) = transport.receive(["there", "missing"], 5, 0.0)
        assert delivery.queue == "there"
    with pytest.raises(BackendUnavailable, match="missing"):
        transport.receive(["there", "missing"], 5, 0.0)


def test_on_fifo_messages_are_returned_when_the_next_request_fails(opened: Open) -> None:
    transport = opened("create=true&fifo=true")
    transport.setup(["default"])
    with Stubber(transport._poller.get()) as stub:
        stub.add_response("receive_message", {"Messages": [{"Body": "{}", "ReceiptHandle": "r"}]})
        stub.add_client_error("receive_message", "RequestThrottled", http_status_code=403)
        assert [delivery.body for delivery in transport.receive(["default"], 5, 0.0)] == [b"{}"]
        stub.add_client_error("receive_message", "RequestThrottled", http_status_code=403)
        with pytest.raises(BackendUnavailable, match="throttles ReceiveMessage"):
            transport.receive(["default"], 5, 0.0)


def test_a_message_put_aside_is_unchanged_in_the_dead_letter_queue(opened: Open) -> None:
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


def test_a_purge_empties_the_queue_and_keeps_later_messages(opened: Open) -> None:
    transport = opened()
    transport.send("default", [message(str(number)) for number in range(30)])
    transport.bury("default", [message("dead")])
    counted = requests(transport)
    transport.purge("default")
    assert counted["PurgeQueue"] == 0
    transport.send("default", [message("later")])
    assert transport.depth("default") == Depth(1, 0)
    assert len(in_dead(transport)) == 1, "dead letters stay"


def test_sqs_purges_the_messages_that_are_left_when_the_time_is_over(opened: Open) -> None:
    transport = opened()
    transport.call_timeout = 0.0
    counted = requests(transport)
    for _ in range(2):
        transport.send("default", [message()])
        transport.purge("default")  # SQS answers PurgeQueueInProgress to the second purge, which is not an error
    assert counted["PurgeQueue"] == 2


# -- dead letters ----------------------------------------------------------------------------------


def test_a_dead_letter_shows_id_life_task_and_error(opened: Open) -> None:
    transport = opened()
    error = {"type": "ValueError", "message": "no luck\0", "traceback": "..."}
    transport.bury("default", [message(life=3, body=json.dumps({"error": error}).encode())])
    (found,) = in_dead(transport)
    shown = {name: value["StringValue"] for name, value in found["MessageAttributes"].items()}
    assert shown["error"].startswith("ValueError: no luck")
    assert {name: shown[name] for name in ("id", "life", "task")} == {"id": "a", "life": "3", "task": "t"}


@pytest.mark.parametrize("options", ["create=true", "create=true&fifo=true"])
def test_one_of_many_copies_is_removed_and_the_others_are_visible_at_once(opened: Open, options: str) -> None:
    transport = opened(options)
    transport.bury("default", [message(f"job-{number}", group="same") for number in range(35)])
    transport.bury("default", [message("job-20", life=2)])
    transport.unbury("default", [message("job-20"), message("not-there")])
    left = [
        (m["MessageAttributes"]["id"]["StringValue"], m["MessageAttributes"]["life"]["StringValue"])
        for m in in_dead(transport)
    ]
    assert len(left) == 35
    assert ("job-20", "1") not in left
    assert ("job-20", "2") in left


def test_a_copy_that_another_reader_hides_is_found_when_it_is_visible_again(opened: Open) -> None:
    transport = opened(call_timeout=5.0)
    transport.bury("default", [message("sought")])
    url = transport._queues._url("default", True)
    transport.native.receive_message(QueueUrl=url, VisibilityTimeout=1)
    transport.unbury("default", [message("sought")])
    assert transport._dead._count("default") == 0


def test_the_search_of_the_dead_letters_ends_in_time(opened: Open) -> None:
    transport = opened(call_timeout=1.0)
    transport.bury("default", [message("held")])
    transport.native.receive_message(QueueUrl=transport._queues._url("default", True), VisibilityTimeout=60)
    started = time.monotonic()
    transport.unbury("default", [message("held")])
    assert time.monotonic() - started < 1.0


# -- costs -----------------------------------------------------------------------------------------


def test_a_hundred_jobs_need_about_thirty_requests(opened: Open, tmp_path: Any) -> None:
    transport = opened()
    transport.setup(["default"])
    namespace = transport._queues.names.namespace
    url = f"sqs://us-east-1?endpoint={aws_server('sqs').url}&wait=1&store=sqlite:///{tmp_path}/jobs.db"
    with get_queue(url, namespace=namespace) as queue:
        assert isinstance(queue.driver, SqsTransport)
        counted = requests(queue.driver)
        handles = queue.enqueue_many(tasks.echo.job(number) for number in range(100))
        assert counted == {"SendMessageBatch": 10, "GetQueueUrl": counted["GetQueueUrl"]}
        with queue.worker(tasks=[tasks.echo], threads=32):
            assert [handle.result(20) for handle in handles] == list(range(100))
        assert 10 <= counted["DeleteMessageBatch"] <= 25
        assert 10 <= counted["ReceiveMessage"] <= 30


def test_the_second_half_of_a_refused_batch_is_not_begun_after_a_slow_first_half(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = opened(call_timeout=5.0)
    transport.setup(["default"])
    call, sizes = transport._queues.call, list[int]()

    def slow(operation: str, queue: str, **options: Any) -> Any:
        sizes.append(len(options["Entries"]))
        if sizes[-1] == 4:
            cause = ClientError({"Error": {"Code": "BatchRequestTooLong"}}, "SendMessageBatch")
            raise BackendUnavailable("the batch is too long") from cause
        time.sleep(REPEATING * 5.0)
        return call(operation, queue, **options)

    monkeypatch.setattr(transport._queues, "call", slow)
    sent = transport.send("default", [message(str(number)) for number in range(4)])
    assert sizes == [4, 2]
    outcomes = [SendOutcome.SENT, SendOutcome.SENT, SendOutcome.FAILED, SendOutcome.FAILED]
    assert [one.outcome for one in sent] == outcomes
    assert transport.depth("default") == Depth(2, 0)

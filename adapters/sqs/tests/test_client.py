"""Tests the clients of AWS: calls end in time, are repeated if that helps, and fail with a sentence that says why."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as aws
from botocore.exceptions import ClientError

from queueport import get_queue
from queueport.errors import BackendMisconfigured, BackendUnavailable
from queueport_sqs import client as clients
from queueport_sqs.client import Client, connect, refused_for_certain, unavailable
from tests.servers import aws_server

WHAT = "SQS in us-east-1"
URL = "http://example.com/queue"


def refusal(code: str, message: str = "", operation: str = "SendMessageBatch", status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)


@pytest.mark.parametrize(
    ("error", "sentence", "certain"),
    [
        (refusal("RequestThrottled", status=403), "throttles SendMessageBatch .* ask AWS for a higher quota", True),
        (refusal("ThrottlingException", status=503), "throttles SendMessageBatch", True),
        (refusal("KMS.ThrottlingException"), "throttles SendMessageBatch", True),
        (
            refusal(
                "SignatureDoesNotMatch",
                "Signature expired: 20261129T0900Z is now earlier than 20261129T0945Z",
                status=403,
            ),
            r"clock differs .* \(SignatureDoesNotMatch: Signature expired: .* now earlier than .*: correct the clock",
            True,
        ),
        (
            refusal(
                "InvalidSignatureException",
                "Signature not yet current: 20261129T1000Z is still later than 20261129T0950Z",
            ),
            r"clock differs .* \(InvalidSignatureException: Signature not yet current.*: correct the clock",
            True,
        ),
        (refusal("RequestExpired", "Request has expired."), r"clock .* \(RequestExpired: Request has expired\)", True),
        (
            refusal(
                "SignatureDoesNotMatch", "The signatures differ.\n\nThe Canonical String is\n'x-amz-security-token:s3'"
            ),
            r"rejects the credentials \(SignatureDoesNotMatch: The signatures differ\): check AWS_ACCESS_KEY_ID",
            True,
        ),
        (refusal("ExpiredToken", status=403), "rejects the credentials because they have expired .*: renew them", True),
        (refusal("InvalidClientTokenId", status=403), "rejects the credentials .*: check AWS_ACCESS_KEY_ID", True),
        (
            refusal("AccessDenied", "User x is not authorized to perform: sqs:sendmessage on resource: y", status=403),
            r"\(AccessDenied: User x .* resource: y\): allow sqs:sendmessage in the IAM policy",
            True,
        ),
        (refusal("AccessDeniedException", status=403), "allow SendMessage in the IAM policy", True),
        (refusal("InternalError", "oops", status=500), r"failed at SendMessageBatch \(InternalError: oops\)", False),
        (aws.NoCredentialsError(), "there are no credentials .*: set AWS_ACCESS_KEY_ID", True),
        (aws.NoRegionError(), "no region is set: name one in the URL", True),
        (aws.InvalidRegionError(region_name="x-"), r"region is not valid \(.*'x-' .*\): correct it in the URL", True),
        (aws.UnauthorizedSSOTokenError(), "login is not valid .*: run `aws sso login`", True),
        (aws.EndpointConnectionError(endpoint_url=URL), "cannot be reached .* check the region, endpoint=", True),
        (aws.ConnectTimeoutError(endpoint_url=URL), "did not answer in time", True),
        (aws.ReadTimeoutError(endpoint_url=URL), "did not answer in time .*or raise call_timeout", False),
        (aws.ConnectionClosedError(endpoint_url=URL), "cannot be reached", False),
    ],
)
def test_an_error_says_what_failed_why_and_what_to_do(error: Exception, sentence: str, certain: bool) -> None:
    told = unavailable(WHAT, error)
    assert str(told).startswith(WHAT)
    with pytest.raises(BackendUnavailable, match=sentence):
        raise told from error
    assert "\n" not in str(told)
    assert refused_for_certain(error) is certain


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (refusal("AccessDenied", status=403), True),
        (refusal("InvalidClientTokenId", status=403), True),
        (refusal("ExpiredToken", status=403), True),
        (aws.NoRegionError(), True),
        (aws.InvalidRegionError(region_name="x-"), True),
        (refusal("SignatureDoesNotMatch", "Signature expired: x", status=403), False),
        (refusal("RequestThrottled", status=403), False),
        (refusal("InternalError", status=500), False),
        (aws.NoCredentialsError(), False),
        (aws.EndpointConnectionError(endpoint_url=URL), False),
    ],
)
def test_an_error_tells_whether_to_try_again_helps(error: Exception, permanent: bool) -> None:
    assert isinstance(unavailable(WHAT, error), BackendMisconfigured) is permanent


EXPIRED = b"""{"__type": "com.amazonaws.sqs#SignatureDoesNotMatch",
"message": "Signature expired: 20261129T090000Z is now earlier than 20261129T094500Z (20261129T100000Z - 15 min.)"}"""
BODIES = {200: b"{}", 400: b'{"__type": "ThrottlingException"}', 403: EXPIRED}


GONE = 0


class Scripted:
    """A server that gives the listed answers, one to each request: a status, or None to close the connection.

    GONE stops the server without an answer.
    """

    def __init__(self, answers: list[int | None]) -> None:
        self.answers = answers
        self.seen = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.seen += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                answer = outer.answers.pop(0) if outer.answers else 200
                if answer == GONE:
                    outer.server.shutdown()
                    outer.server.socket.close()
                if answer in (None, GONE):
                    self.close_connection = True
                    return
                body = BODIES.get(answer, b'{"__type": "InternalError"}')
                self.send_response(answer)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.02])
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(*answers: int | None) -> Scripted:
        made.append(Scripted(list(answers)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("store", ["sqlite", "dynamodb"])
def test_a_wrong_clock_is_not_reported_as_wrong_credentials(
    scripted: Callable[..., Scripted], tmp_path: Path, store: str
) -> None:
    endpoint = scripted(*[403] * 10).url
    stores = {"sqlite": f"sqlite:///{tmp_path}/jobs.db", "dynamodb": f"dynamodb://us-east-1/jobs?endpoint={endpoint}"}
    with get_queue(f"sqs://us-east-1?endpoint={endpoint}", store=stores[store]) as queue:
        problems = queue.check().problems
        with pytest.raises(BackendUnavailable, match="clock differs"):
            queue.enqueue("t")
    assert len(problems) == (1 if store == "sqlite" else 2)
    for problem in problems:
        assert (
            "this machine's clock differs from that of AWS (SignatureDoesNotMatch: Signature expired: 2026" in problem
        )
        assert problem.endswith("(20261129T100000Z - 15 min.)): correct the clock")


@pytest.mark.parametrize("first", [400, 500, 503, None])
def test_a_call_that_failed_fast_is_repeated(scripted: Callable[..., Scripted], first: int | None) -> None:
    endpoint = scripted(first, 200)
    client = connect("sqs", region="us-east-1", endpoint=endpoint.url, call_timeout=5.0)
    client.list_queues()
    assert endpoint.seen == 2
    client.close()


@pytest.mark.parametrize("first", [500, None])
def test_a_send_is_not_repeated_because_its_caller_must_know_that_it_may_have_arrived(
    scripted: Callable[..., Scripted], first: int | None
) -> None:
    endpoint = scripted(first, 200)
    client = connect("sqs", region="us-east-1", endpoint=endpoint.url, call_timeout=5.0)
    with pytest.raises((aws.ClientError, aws.ConnectionClosedError)):
        client.send_message_batch(QueueUrl=f"{endpoint.url}/q", Entries=[{"Id": "0", "MessageBody": "x"}])
    assert endpoint.seen == 1
    client.close()


@pytest.mark.parametrize(("first", "certain"), [(400, True), (500, False), (None, False)])
def test_a_call_that_is_refused_may_have_had_an_effect_if_an_earlier_request_was_not_answered(
    scripted: Callable[..., Scripted], first: int | None, certain: bool
) -> None:
    endpoint = scripted(first, *[400] * 1000)
    client = connect("dynamodb", region="us-east-1", endpoint=endpoint.url, call_timeout=1.0)
    with pytest.raises(ClientError, match="Throttling") as caught:
        client.list_tables()
    assert endpoint.seen > 1
    assert refused_for_certain(caught.value) is certain
    client.close()


def test_a_call_that_finds_no_server_may_have_had_an_effect_if_an_earlier_request_was_not_answered(
    scripted: Callable[..., Scripted],
) -> None:
    endpoint = scripted(GONE)
    client = connect("dynamodb", region="us-east-1", endpoint=endpoint.url, call_timeout=5.0)
    with pytest.raises(aws.EndpointConnectionError) as caught:
        client.list_tables()
    assert endpoint.seen == 1
    assert not refused_for_certain(caught.value)
    client.close()


def test_a_call_is_not_repeated_for_longer_than_the_timeout(scripted: Callable[..., Scripted]) -> None:
    endpoint = scripted(*[400] * 1000)
    client = connect("sqs", region="us-east-1", endpoint=endpoint.url, call_timeout=1.0)
    started = time.monotonic()
    with pytest.raises(ClientError):
        client.list_queues()
    assert time.monotonic() - started < 1.0
    assert 1 < endpoint.seen < 10
    client.close()


def test_a_call_to_a_server_that_hangs_fails_in_time() -> None:
    server = aws_server("sqs")
    client = connect("sqs", region="us-east-1", endpoint=server.url, call_timeout=1.0)
    with server.paused():
        started = time.monotonic()
        with pytest.raises(aws.ReadTimeoutError):
            client.list_queues()
        assert time.monotonic() - started < 1.0
    client.close()


def test_one_client_is_created_for_all_threads_and_another_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    all_ask = threading.Event()

    def slow(*args: Any, **options: Any) -> Any:
        made.append(os.getpid())
        assert all_ask.wait(10)
        return connect(*args, **options)

    monkeypatch.setattr(clients, "connect", slow)
    shared = Client(WHAT, "sqs", region="us-east-1", endpoint=aws_server("sqs").url, call_timeout=5.0)
    threads = [threading.Thread(target=shared.get) for _ in range(8)]
    for thread in threads:
        thread.start()
    all_ask.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    mine = shared.get()
    mine.list_queues()
    child = os.fork()
    if child == 0:
        fresh = shared.get() is not mine and len(made) == 2 and "ResponseMetadata" in shared.get().list_queues()
        os._exit(0 if fresh else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shared.get() is mine
    shared.close()
    shared.close()


def test_a_second_client_does_not_read_the_service_descriptions_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place: dict[str, Any] = {"region": "us-east-1", "endpoint": "http://127.0.0.1:1", "call_timeout": 1.0}
    for _ in range(2):
        connect("sqs", **place).close()
        monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", None)


def test_an_interruption_while_the_client_is_created_leaves_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(BaseException):
        pass

    def interrupted(*args: Any, **options: Any) -> Any:
        raise Interrupted

    shared = Client(WHAT, "sqs", region="us-east-1", endpoint=None, call_timeout=0.2)
    with monkeypatch.context() as patched:
        patched.setattr(clients, "connect", interrupted)
        with pytest.raises(Interrupted):
            shared.get()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(shared.get()))
    thread.start()
    thread.join()
    assert found


def test_the_error_says_why_a_client_cannot_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="no region is set: name one in the URL"):
        Client(WHAT, "sqs", region="", endpoint=None, call_timeout=1.0).get()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BackendUnavailable, match="no credentials"):
        Client(WHAT, "sqs", region="us-east-1", endpoint=None, call_timeout=1.0).get()

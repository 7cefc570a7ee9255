"""Calls to AWS end in time, are repeated where that helps, and fail with one sentence by their cause."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore import exceptions as aws
from botocore.exceptions import ClientError

from queueport.errors import BackendUnavailable
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
        (refusal("ExpiredToken", status=403), "refuses the credentials, for they have expired .*: renew them", True),
        (refusal("InvalidClientTokenId", status=403), "refuses the credentials .*: check AWS_ACCESS_KEY_ID", True),
        (
            refusal("AccessDenied", "User x is not authorized to perform: sqs:sendmessage on resource: y", status=403),
            "allow sqs:sendmessage in the IAM policy",
            True,
        ),
        (refusal("AccessDeniedException", status=403), "allow SendMessage in the IAM policy", True),
        (refusal("InternalError", "oops", status=500), r"failed at SendMessageBatch \(InternalError: oops\)", False),
        (aws.NoCredentialsError(), "there are no credentials .*: set AWS_ACCESS_KEY_ID", True),
        (aws.NoRegionError(), "has no such region: name one in the URL", True),
        (aws.UnauthorizedSSOTokenError(), "login has expired: run `aws sso login`", True),
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


class Scripted:
    """An endpoint that answers as it was told to, request by request: a status, or None to close the connection."""

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
                if answer is None:
                    self.close_connection = True
                    return
                body = {200: b"{}", 400: b'{"__type": "ThrottlingException"}'}.get(
                    answer, b'{"__type": "InternalError"}'
                )
                self.send_response(answer)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing on the terminal."""

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


@pytest.mark.parametrize("first", [400, 500, 503, None])
def test_what_failed_at_once_is_repeated(scripted: Callable[..., Scripted], first: int | None) -> None:
    endpoint = scripted(first, 200)
    client = connect("sqs", region="us-east-1", endpoint=endpoint.url, call_timeout=5.0)
    client.list_queues()
    assert endpoint.seen == 2
    client.close()


@pytest.mark.parametrize("first", [500, None])
def test_a_send_is_left_to_its_caller_who_must_know_that_it_may_have_arrived(
    scripted: Callable[..., Scripted], first: int | None
) -> None:
    endpoint = scripted(first, 200)
    client = connect("sqs", region="us-east-1", endpoint=endpoint.url, call_timeout=5.0)
    with pytest.raises((aws.ClientError, aws.ConnectionClosedError)):
        client.send_message_batch(QueueUrl=f"{endpoint.url}/q", Entries=[{"Id": "0", "MessageBody": "x"}])
    assert endpoint.seen == 1
    client.close()


def test_repeating_ends_in_time(scripted: Callable[..., Scripted]) -> None:
    endpoint = scripted(*[400] * 1000)
    client = connect("sqs", region="us-east-1", endpoint=endpoint.url, call_timeout=1.0)
    started = time.monotonic()
    with pytest.raises(ClientError):
        client.list_queues()
    assert time.monotonic() - started < 1.0
    assert 1 < endpoint.seen < 10
    client.close()


def test_a_server_that_hangs_is_given_up_in_time() -> None:
    server = aws_server("sqs")
    client = connect("sqs", region="us-east-1", endpoint=server.url, call_timeout=1.0)
    with server.paused():
        started = time.monotonic()
        with pytest.raises(aws.ReadTimeoutError):
            client.list_queues()
        assert time.monotonic() - started < 1.0
    client.close()


def test_one_client_is_made_for_all_threads_and_another_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_another_client_reads_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place: dict[str, Any] = {"region": "us-east-1", "endpoint": "http://127.0.0.1:1", "call_timeout": 1.0}
    for _ in range(2):
        connect("sqs", **place).close()
        monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", None)


def test_an_interruption_while_it_is_made_leaves_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_client_that_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match="has no such region: name one in the URL"):
        Client(WHAT, "sqs", region="", endpoint=None, call_timeout=1.0).get()
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BackendUnavailable, match="no credentials"):
        Client(WHAT, "sqs", region="us-east-1", endpoint=None, call_timeout=1.0).get()

"""SQS and DynamoDB keep their promises while calls are refused and a worker is killed, replaced, cut off or wrong about
the time; and which faults `queueport chaos` has for them.
"""

from __future__ import annotations

from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

from adapters.sqs.tests.clients import client
from queueport.spi.url import BackendURL
from queueport.testing.chaos.plan import CLOCKS
from queueport.testing.chaos.servers import open_servers
from queueport_sqs.client import THROTTLED, code_of
from tests.servers import aws_server
from tests.servers.chaos import check_chaos


def queue_url() -> str:
    """The URL of a queue on two emulators."""
    store = f"dynamodb://us-east-1/jobs?endpoint={quote(aws_server('dynamodb').url, safe='')}"
    queues = quote(aws_server("sqs").url, safe="")
    return f"sqs://us-east-1?endpoint={queues}&create=true&wait=1&store={quote(store, safe='')}"


@pytest.mark.timeout(300)  # on a busy machine, the emulators are slow
def test_no_breach_is_found() -> None:
    check_chaos(queue_url(), "child", "throttle", "cut", "clock-ahead")


@pytest.mark.parametrize(("role", "service"), [("broker", "sqs"), ("store", "dynamodb")])
def test_throttle_refuses_every_other_call(role: str, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with open_servers(queue_url()) as servers:
        options = BackendURL.parse(servers.process_url).options
        options = options if role == "broker" else BackendURL.parse(options["store"]).options
        aws = client(options["endpoint"], service)

        def code() -> str | None:
            """The error of a call; None if it was answered."""
            try:
                aws.list_queues() if service == "sqs" else aws.list_tables()
            except ClientError as error:
                return code_of(error)
            return None

        assert [code() for _ in range(4)] == [None] * 4
        (place,) = (place for place in servers.places if place.role == role)
        with place.faults["throttle"]():
            codes = [code() for _ in range(6)]
        assert [code in THROTTLED for code in codes].count(True) == codes.count(None) == 3
        assert [code() for _ in range(4)] == [None] * 4


def test_the_clocks_of_workers_may_be_set() -> None:
    with open_servers(queue_url()) as servers:
        assert CLOCKS.keys() <= set(servers.kinds)

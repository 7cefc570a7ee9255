"""Tests with RabbitMQ's management API: counts, permissions, closed connections, policies and alarms."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from adapters.rabbitmq.tests.broker import Broker
from adapters.rabbitmq.tests.conftest import Opener, ids, message, messages, received, received_again
from queueport.errors import BackendUnavailable
from queueport.spi.message import Depth, SendOutcome
from queueport.spi.transport import Delivery
from queueport.testing.private_servers import RabbitMQ
from queueport.testing.waiting import eventually
from queueport_rabbitmq import RabbitMQTransport
from tests.servers import rabbitmq_server

PASSWORD = "pa55word"  # the password of each user that these tests create


class Operator:
    """The operator of a private RabbitMQ."""

    def __init__(self, server: RabbitMQ, namespace: str) -> None:
        self.server = server
        self.broker = Broker(server.url, namespace)

    def api(self, method: str, path: str, **body: Any) -> Any:
        """Call the management API."""
        login = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.server.management_port}/api/{path}"
        data = json.dumps(body).encode() if method == "PUT" else None
        with urlopen(Request(url, data, headers, method=method), timeout=10) as answer:
            found = answer.read()
        return json.loads(found) if found else None

    def user(self, name: str, **permissions: str) -> str:
        """Create a user; returns the URL that connects as that user."""
        self.api("PUT", f"users/{name}", password=PASSWORD, tags="")
        rights = {"configure": "", "write": "", "read": "", **permissions}
        self.api("PUT", f"permissions/%2F/{name}", **rights)
        return self.server.url.replace("guest:guest", f"{name}:{PASSWORD}")

    def close_connections(self) -> int:
        """Close every connection of queueport; returns their number."""
        found = [one["name"] for one in self.api("GET", "connections") if one["user"] == "guest"]
        for name in found:
            self.api("DELETE", f"connections/{quote(name)}")
        return len(found)

    def alarm(self, watermark: float) -> None:
        """Set the share of memory above which RabbitMQ accepts no messages."""
        words = ["rabbitmqctl", "--node", f"queueport_{self.server.port}@localhost", "set_vm_memory_high_watermark"]
        environment = {**self.server.environment(), "PATH": "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/bin"}
        subprocess.run([*words, str(watermark)], env=environment, check=True, capture_output=True)


@pytest.fixture
def operator(namespace: str) -> Iterator[Operator]:
    server = rabbitmq_server(private=True)
    assert isinstance(server, RabbitMQ)
    made = Operator(server, namespace)
    yield made
    made.broker.clean("q", "other")


# -- counts ----------------------------------------------------------------------------------------


def test_unacknowledged_messages_are_counted_with_the_management_api(operator: Operator, opener: Opener) -> None:
    transport = opener(f"{operator.server.url}?management={quote(operator.server.management)}")
    assert transport.depth("q") == Depth(0)
    transport.send("q", messages(5))
    taken = received(transport, 2, limit=2)
    eventually(lambda: transport.depth("q") == Depth(3, 2), 20, lambda: transport.depth("q"))
    transport.ack(taken)
    eventually(lambda: transport.depth("q") == Depth(3, 0), 20)


def test_unacknowledged_messages_are_unknown_without_the_management_api(operator: Operator, opener: Opener) -> None:
    for option in ("", "?management=http://127.0.0.1:1", "?management=http://guest:no@127.0.0.1:1"):
        transport = opener(f"{operator.server.url}{option}")
        transport.send("q", [message("a")])
        depth = transport.depth("q")
        assert depth is not None
        assert depth.in_flight is None
        assert depth.ready > 0


@pytest.mark.parametrize(
    ("management", "says"),
    [
        ("http://127.0.0.1:1", r"cannot be used"),
        ("http://guest:wr0ng@HERE", "refuses its user (Login failed): give it the tag"),
        ("http://localhost:port", "cannot be used (nonnumeric port: 'port'): correct management="),
        ("http://HERE/nowhere", "answers 404 (Not Found): correct management="),
    ],
)
def test_check_warns_if_the_management_api_cannot_be_used(
    operator: Operator, opener: Opener, management: str, says: str
) -> None:
    url = management.replace("HERE", f"127.0.0.1:{operator.server.management_port}")
    (warning,) = opener(f"{operator.server.url}?management={quote(url)}").check()
    assert says in warning
    assert "wr0ng" not in warning


# -- permissions -----------------------------------------------------------------------------------

CALLS: dict[str, Callable[[RabbitMQTransport], object]] = {
    "queue_declare": lambda transport: transport.setup(["q"]),
    "basic_consume": lambda transport: transport.receive(["q"], 1, 0.1),
    "queue_purge": lambda transport: transport.purge("q"),
}


@pytest.mark.parametrize(
    ("method", "permissions", "needed"),
    [
        ("queue_declare", {"write": ".*", "read": ".*"}, "configure"),
        ("basic_consume", {"write": ".*", "configure": ".*"}, "read"),
        ("queue_purge", {"write": ".*", "configure": ".*"}, "read"),
    ],
)
def test_the_error_names_a_missing_permission(
    operator: Operator, opener: Opener, method: str, permissions: dict[str, str], needed: str
) -> None:
    opener(operator.server.url).setup(["q"])
    transport = opener(operator.user("limited", **permissions))
    with pytest.raises(BackendUnavailable) as caught:
        CALLS[method](transport)
    assert f"give the user 'limited' the permission {needed}" in str(caught.value)
    assert operator.broker.work("q") in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_message_without_write_permission_is_not_sent(operator: Operator, opener: Opener) -> None:
    transport = opener(operator.user("reader", configure=".*", read=".*"))
    (sent,) = transport.send("q", [message("a")])
    assert sent.outcome is not SendOutcome.SENT
    assert "permission write" in str(sent.error)
    assert operator.broker.depth(operator.broker.work("q")) == 0


@pytest.mark.parametrize(
    ("permissions", "needed"),
    [({"write": ".*", "read": ".*"}, "configure"), ({"configure": ".*", "read": ".*"}, "write")],
)
def test_check_names_a_permission_that_an_enqueue_needs(
    operator: Operator, opener: Opener, permissions: dict[str, str], needed: str
) -> None:
    transport = opener(operator.user("limited", **permissions))
    with pytest.raises(BackendUnavailable, match=f"give the user 'limited' the permission {needed}"):
        transport.check()


def test_check_leaves_no_queue_behind(operator: Operator, opener: Opener) -> None:
    transport = opener(operator.server.url)
    assert transport.check() == transport.check() == []
    with operator.broker.channel() as channel:
        channel.queue_declare(operator.broker.work("default"), passive=False, durable=True, auto_delete=True)
        channel.queue_delete(operator.broker.work("default"))
    found: Any = operator.api("GET", "queues/%2F")
    assert [queue["name"] for queue in found if queue["name"].startswith(operator.broker.namespace)] == []


# -- closed connections, full queues and alarms --------------------------------------------------------


def test_a_closed_connection_is_opened_again_and_no_message_is_lost(operator: Operator, opener: Opener) -> None:
    transport = opener(operator.server.url)
    transport.send("q", messages(3))
    old = received(transport, 3, limit=3)
    eventually(operator.close_connections, 20)
    transport.ack(old)
    again: list[Delivery] = eventually(lambda: received_again(transport, 3), 20)
    assert sorted(ids(again)) == ["0", "1", "2"]
    transport.ack(again)
    assert transport.send("q", [message("after")])[0].outcome is SendOutcome.SENT
    assert ids(received(transport, 1)) == ["after"]


def test_messages_returned_by_a_full_queue_have_failed(operator: Operator, opener: Opener) -> None:
    transport = opener(operator.server.url)
    transport.setup(["q"])
    definition = {"max-length": 2, "overflow": "reject-publish"}
    pattern = f"^{operator.broker.namespace}"
    operator.api("PUT", "policies/%2F/full", pattern=pattern, definition=definition, **{"apply-to": "queues"})
    try:
        eventually(lambda: operator.api("GET", f"queues/%2F/{operator.broker.work('q')}").get("policy") == "full", 20)
        outcomes = [transport.send("q", [message(str(number))])[0] for number in range(6)]
    finally:
        operator.api("DELETE", "policies/%2F/full")
    assert outcomes[0].outcome is SendOutcome.SENT
    assert outcomes[-1].outcome is SendOutcome.FAILED
    assert "did not accept messages" in str(outcomes[-1].error)


def test_during_an_alarm_no_message_is_sent_and_the_error_says_why(operator: Operator, opener: Opener) -> None:
    transport = opener(f"{operator.server.url}?management={quote(operator.server.management)}", call_timeout=2.0)
    assert transport.send("q", [message("before")])[0].outcome is SendOutcome.SENT
    operator.alarm(0.000001)
    try:
        first, second = (transport.send("q", [message(name)])[0] for name in ("first", "second"))
        assert (first.outcome, second.outcome) == (SendOutcome.UNKNOWN, SendOutcome.FAILED)
        assert "memory or disk alarm" in str(second.error)
        with pytest.raises(BackendUnavailable, match="memory or disk alarm"):
            transport.check()
    finally:
        operator.alarm(0.4)
    eventually(lambda: transport.send("q", [message("after")])[0].outcome is SendOutcome.SENT, 20)
    assert transport.check() == []

"""Tests the errors that users see when RabbitMQ cannot be used: they say what to do, and contain no password."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pika
import pytest

from adapters.rabbitmq.tests.broker import Broker
from adapters.rabbitmq.tests.conftest import Opener, message
from adapters.rabbitmq.tests.test_contract import RabbitMQHarness
from adapters.rabbitmq.tests.tls_proxy import TLSProxy
from queueport import Capability, get_queue, task
from queueport.errors import BackendUnavailable, ConfigurationError, Unsupported
from queueport.spi.message import SendOutcome
from queueport_rabbitmq import RabbitMQTransport
from queueport_rabbitmq.client import Client
from queueport_rabbitmq.server import Server
from queueport_rabbitmq.topology import Topology
from tests.servers import rabbitmq_server, redis_server
from tests.servers.forgetting import check_calls_over_forgotten_connections
from tests.servers.health import LONG, check_never_sent, fails_without_descriptors
from tests.servers.misdeclared import check_a_queue_with_other_arguments

LOCAL = "amqp://127.0.0.1"


def test_the_error_says_that_no_file_descriptor_is_left(tmp_path: Path) -> None:
    fails_without_descriptors("amqp://127.0.0.1:1/", store=f"sqlite:///{tmp_path}/jobs.db")


def test_a_worker_logs_a_few_sentences_and_no_lines_of_pika_while_rabbitmq_is_away(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("import queueport\n\n@queueport.task\ndef noop(): pass\n")
    command = [sys.executable, "-m", "queueport", "worker", "tasks", "--wait", "4", "--url", "amqp://127.0.0.1:1/"]
    store = ["--store", f"sqlite:///{tmp_path}/jobs.db"]
    done = subprocess.run([*command, *store], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    *log, error = done.stderr.splitlines()
    assert "refuses connections: start it" in error
    assert "refuses connections: start it" in log[2]
    assert not [line for line in log if " pika" in line]
    assert len(log) <= 5, done.stderr  # the sentence is repeated after 1, 2, 4 ... seconds


def where(url: str) -> str:
    """The host and port of a URL."""
    return url.partition("@")[2].partition("/")[0]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://127.0.0.1:1/", "refuses connections: start it"),
        (
            "amqp://guest:s3cret@SERVER/",
            r"refuses the user 'guest' or its password \(ACCESS_REFUSED - Login was refused .*\): correct",
        ),
        (
            "amqp://guest:guest@SERVER/nope",
            r"does not let .* 'guest' into the vhost 'nope' \(NOT_ALLOWED - vhost nope not found\)",
        ),
        ("amqp://guest:s3cret@REDIS/", "does not answer as an amqp server: check the scheme and the port"),
        ("amqps://guest:s3cret@SERVER/", "TLS with .* failed"),
        (
            "amqps://guest:s3cret@SERVER/?cacertfile=/nowhere.pem",
            r"a file in cacertfile=.* cannot be read \(No such file or directory\)",
        ),
        ("amqps://guest:s3cret@SERVER/?cacertfile=/", r"a file in cacertfile=.* cannot be read \(Is a directory\)"),
        ("amqp://guest:s3cret@no-such-host.invalid/", "the host 'no-such-host.invalid' is not known"),
        (f"amqp://guest:s3cret@{LONG}/", "has a host name that is not valid: correct it in the URL"),
    ],
)
def test_the_error_names_the_server_and_says_what_to_do(
    opener: Opener, caplog: pytest.LogCaptureFixture, url: str, says: str
) -> None:
    caplog.set_level(logging.DEBUG)
    redis = redis_server().url.partition("://")[2].partition("/")[0]
    url = url.replace("SERVER", where(rabbitmq_server().url)).replace("REDIS", redis)
    transport = opener(url, call_timeout=2.0)
    with pytest.raises(BackendUnavailable, match=says) as caught:
        transport.check()
    assert caught.value.__cause__ is not None
    (sent,) = transport.send("q", [message("a")])
    assert sent.outcome is SendOutcome.FAILED
    told = [str(caught.value), repr(caught.value.__cause__), repr(transport._client.server), caplog.text]
    assert not [text for text in told if "s3cret" in text]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://localhost/?heartbeet=3", "did you mean 'heartbeat'"),
        ("amqp://localhost/?queue_type=mirrored", "option queue_type='mirrored' is wrong"),
        ("amqp://localhost/?cacertfile=ca.pem", "write amqps://"),
        ("amqps://localhost/?keyfile=key.pem", "no certfile"),
        ("amqp://localhost:port/", "port number"),
        ("amqp://localhost/?namespace=amq", "choose another namespace"),
        ("amqp://localhost/?management=http://u:p@ss/w@localhost", "the http:// URL has an '@' after a '/'"),
        ("amqp://localhost/?management=localhost", "option management="),
    ],
)
def test_a_wrong_url_is_refused_before_anything_is_sent(opener: Opener, url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        opener(url, namespace=None)


def test_an_unsupported_priority_names_the_option_that_allows_it() -> None:
    with get_queue("amqp://localhost?store=sqlite:///jobs.db") as queue, pytest.raises(Unsupported) as caught:
        queue.enqueue(task.named("a").using(priority=1).job())
    assert "rabbitmq does not support priority= at this URL: leave it out, add queue_type=classic to the URL" in str(
        caught.value
    )
    with pytest.raises(Unsupported, match="rabbitmq lacks PRIORITY: add queue_type=classic to the URL, choose a"):
        get_queue("amqp://localhost?store=sqlite:///jobs.db", require=Capability.PRIORITY)
    get_queue("amqp://localhost?store=sqlite:///jobs.db&queue_type=classic", require=Capability.PRIORITY).close()


@pytest.mark.parametrize(
    ("url", "vhost", "user", "password"),
    [
        ("amqp://localhost", "/", "guest", "guest"),
        ("amqp://localhost/", "/", "guest", "guest"),
        ("amqp://localhost/%2F", "/", "guest", "guest"),
        ("amqp://me:p%40ss@localhost/some", "some", "me", "p@ss"),
    ],
)
def test_a_url_names_the_server_vhost_user_and_password(
    opener: Opener, url: str, vhost: str, user: str, password: str
) -> None:
    native: Any = opener(url).native
    assert (native.host, native.port, native.virtual_host) == ("localhost", 5672, vhost)
    assert (native.credentials.username, native.credentials.password) == (user, password)


def test_an_applications_servers_are_tried_in_their_order() -> None:
    live = pika.URLParameters(rabbitmq_server().url)
    refusing = pika.ConnectionParameters("127.0.0.1", 1)
    for given, works in (([refusing, live], True), ([live], True), ([live, refusing], True), ([refusing], False)):
        client = Client(Server.of_parameters(given, 5.0), "test")
        try:
            with nullcontext() if works else pytest.raises(BackendUnavailable, match="refuses connections"):
                assert client.ping()["product"] == "RabbitMQ"
        finally:
            client.close()


def test_no_two_queues_have_the_same_name() -> None:
    names = ["a", "a.dead", "a.aside", "dead", "a-dead", "a_b", "a.b"]
    topologies = [Topology(namespace, "quorum") for namespace in ("a", "a_b", "b")]
    places = [
        place.queue
        for topology in topologies
        for name in names
        for place in (topology.work(name), topology.dead(name), topology.aside(name))
    ]
    assert len(set(places)) == len(places)


def test_tls_connects_and_checks_the_certificate_of_the_server(tmp_path: Path, broker: Broker, opener: Opener) -> None:
    with TLSProxy(where(broker.url), tmp_path) as proxy:
        url = f"amqps://guest:guest@localhost:{proxy.port}/"
        transport: RabbitMQTransport = opener(f"{url}?cacertfile={proxy.certificate}")
        assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT
        with pytest.raises(BackendUnavailable, match=r"TLS with .* failed .*self.signed certificate"):
            opener(url).check()
        assert opener(f"{url}?verify=verify_none").check() == []
        other = f"amqps://guest:guest@127.0.0.1:{proxy.port}/?cacertfile={proxy.certificate}"
        with pytest.raises(BackendUnavailable, match=r"TLS with .* failed"):
            opener(other).check()


def test_a_call_over_an_idle_connection_that_was_forgotten_succeeds() -> None:
    check_calls_over_forgotten_connections(RabbitMQHarness("quorum", private=False))


def test_a_queue_with_other_arguments_is_reported_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[object] = []
    receive = RabbitMQTransport.receive

    def counted(self: RabbitMQTransport, *given: Any) -> Any:
        tries.append(given)
        return receive(self, *given)

    monkeypatch.setattr(RabbitMQTransport, "receive", counted)
    harness = RabbitMQHarness("quorum", private=False)
    check_a_queue_with_other_arguments(harness, rabbitmq_server().url, tries, caplog)


def test_a_job_is_not_recorded_if_no_connection_can_be_opened(tmp_path: Path) -> None:
    check_never_sent("amqp://{}/", tmp_path)

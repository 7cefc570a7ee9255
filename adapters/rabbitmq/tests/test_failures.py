"""What a user reads when RabbitMQ cannot be used: one sentence that says what to do, without a password."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from adapters.rabbitmq.tests.broker import Broker
from adapters.rabbitmq.tests.conftest import Opener, message
from adapters.rabbitmq.tests.tls_proxy import TLSProxy
from queueport.driver import SendOutcome
from queueport.errors import BackendUnavailable, ConfigurationError
from queueport_rabbitmq import RabbitMQTransport
from queueport_rabbitmq.topology import Topology
from tests.servers import rabbitmq_server, redis_server

LOCAL = "amqp://127.0.0.1"


def where(url: str) -> str:
    """Host and port."""
    return url.partition("@")[2].partition("/")[0]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://127.0.0.1:1/", "refuses connections: start it"),
        ("amqp://guest:s3cret@SERVER/", "refuses the user 'guest' or its password"),
        ("amqp://guest:guest@SERVER/nope", "does not let the user 'guest' into the vhost 'nope'"),
        ("amqp://guest:s3cret@REDIS/", "does not answer in amqp: check scheme and port"),
        ("amqps://guest:s3cret@SERVER/", "TLS with .* failed"),
        ("amqps://guest:s3cret@SERVER/?cacertfile=/nowhere.pem", "a file of cacertfile="),
        ("amqp://guest:s3cret@no-such-host.invalid/", "the host 'no-such-host.invalid' is not known"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_with_what_to_do(
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
    told = [str(caught.value), repr(caught.value.__cause__), repr(transport._server), caplog.text]
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
        ("amqp://localhost/?management=localhost", "option management="),
    ],
)
def test_a_wrong_url_is_refused_before_anything_is_sent(opener: Opener, url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        opener(url, namespace=None)


@pytest.mark.parametrize(
    ("url", "vhost", "user", "password"),
    [
        ("amqp://localhost", "/", "guest", "guest"),
        ("amqp://localhost/", "/", "guest", "guest"),
        ("amqp://localhost/%2F", "/", "guest", "guest"),
        ("amqp://me:p%40ss@localhost/some", "some", "me", "p@ss"),
    ],
)
def test_a_url_says_where_and_as_whom(opener: Opener, url: str, vhost: str, user: str, password: str) -> None:
    native: Any = opener(url).native
    assert (native.host, native.port, native.virtual_host) == ("localhost", 5672, vhost)
    assert (native.credentials.username, native.credentials.password) == (user, password)


def test_no_two_places_have_one_name() -> None:
    names = ["a", "a.dead", "a.aside", "dead", "a-dead", "a_b", "a.b"]
    topologies = [Topology(namespace, "quorum") for namespace in ("a", "a_b", "b")]
    places = [
        place.queue
        for topology in topologies
        for name in names
        for place in (topology.work(name), topology.dead(name), topology.aside(name))
    ]
    assert len(set(places)) == len(places)


def test_tls_is_spoken_and_the_server_is_checked(tmp_path: Path, broker: Broker, opener: Opener) -> None:
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

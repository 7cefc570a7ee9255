"""The errors and warnings that users see: one sentence that says what to do, without a password."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from adapters.nats.tests.conftest import Opener, ids, message, received
from adapters.nats.tests.jetstream import JetStream
from adapters.nats.tests.test_contract import NatsHarness
from queueport import get_queue
from queueport.errors import BackendMisconfigured, BackendUnavailable, ConfigurationError
from queueport.spi.message import Depth, SendOutcome
from queueport.testing.private_servers import Nats
from queueport.testing.servers import Server
from queueport.testing.waiting import eventually
from tests.servers import nats_server, redis_server
from tests.servers.forgetting import check_calls_over_forgotten_connections
from tests.servers.health import LONG, check_never_sent, fails_without_descriptors

PERMISSIONS = (Path(__file__).parents[1] / "README.md").read_text().partition("## Permissions")[2].partition("Every")[0]
DOCUMENTED = ", ".join(f'"{subject}"' for subject in re.findall(r"`((?:queueport|\$JS)\..*?)`", PERMISSIONS))
"""The subjects to which a user must be allowed to publish, according to the README."""
LOGINS = f"""
authorization {{
  users = [
    {{user: app, password: "s3cret"}}
    {{user: reader, password: "s3cret", permissions: {{publish: {{deny: "$JS.API.STREAM.CREATE.>"}}}}}}
    {{user: limited, password: "s3cret", permissions: {{publish: [{DOCUMENTED}], subscribe: ["_INBOX.>"]}}}}
    {{user: mute, password: "s3cret", permissions: {{publish: {{deny: "queueport.jobs.>"}}}}}}
    {{user: producer, password: "s3cret", permissions: {{publish: ["queueport.jobs.>"], subscribe: ["_INBOX.>"]}}}}
  ]
}}
"""


@cache
def with_logins() -> Nats:
    """A private server with two users."""
    return Nats(LOGINS)


@cache
def with_token() -> Nats:
    """A private server with a token."""
    return Nats('authorization { token: "t0ken" }')


@cache
def without_jetstream() -> Nats:
    """A private server without JetStream."""
    return Nats(jetstream=False)


def where(url: str) -> str:
    """The host and port of a URL."""
    return url.partition("://")[2].partition("/")[0]


def address(name: str) -> str:
    """The URL in which words such as SHARED are replaced by the address of that server."""
    servers: dict[str, Callable[[], Server]] = {
        "SHARED": nats_server,
        "REDIS": redis_server,
        "LOGINS": with_logins,
        "TOKEN": with_token,
        "PLAIN": without_jetstream,
    }
    for server, start in servers.items():
        if server in name:
            return name.replace(server, where(start().url))
    return name


@pytest.mark.parametrize(
    ("url", "says", "permanent"),
    [
        ("nats://127.0.0.1:1", "refuses connections: start it", False),
        ("nats://app:s3cret2@LOGINS", r"refuses the login \(.+\): correct", True),
        ("nats://TOKEN?token=s3cret", "refuses the login", True),
        ("nats://REDIS", "did not answer within 1 s: check the port", False),
        ("nats://PLAIN", "has no JetStream: enable it", True),
        ("nats://no-such-host.invalid", "a host of .* is not known", False),
        (f"nats://{LONG}", "has a host name that is not valid: correct it in the URL", False),
        ("nats://SHARED?creds=/", "a file in creds=, tls_ca=.* cannot be read", False),
        ("tls://app:s3cret@LOGINS", "does not require TLS", True),
        ("tls://app:s3cret@LOGINS?tls_ca=/nowhere.pem", "a file in creds=, tls_ca=", False),
        ("nats://SHARED?creds=/nowhere.creds", "a file in creds=, tls_ca=", False),
        (f"nats://SHARED?creds={Path(__file__)}", "is not a credentials file", True),
        ("nats://SHARED?replicas=3", "replicas > 1 not supported in non-clustered mode.*leave out replicas=", True),
        ("nats://reader:s3cret@LOGINS", r"does not permit the user to publish to \$js.api.stream.create", True),
    ],
)
def test_a_server_that_cannot_be_used_is_named_with_what_to_do(
    opener: Opener, caplog: pytest.LogCaptureFixture, url: str, says: str, permanent: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    transport = opener(address(url), call_timeout=1.0)
    with pytest.raises(BackendUnavailable, match=says) as caught:
        transport.setup(["q"])
    assert caught.value.__cause__ is not None
    (sent,) = transport.send("q", [message("a")])
    assert sent.outcome is SendOutcome.FAILED
    for error in (caught.value, sent.error):
        assert isinstance(error, BackendMisconfigured) is permanent
    told = [str(caught.value), repr(caught.value.__cause__), repr(transport._server), caplog.text]
    assert not [text for text in told if "s3cret" in text]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nats://localhost?replicaz=3", "did you mean 'replicas'"),
        ("nats://localhost?replicas=9", "option replicas='9' is wrong"),
        ("nats://localhost?prefix=a.b", "option prefix='a.b' is wrong"),
        ("nats://localhost?tls_ca=ca.pem", "write tls://"),
        ("tls://localhost?tls_key=key.pem", "no tls_cert"),
        ("nats://localhost:port", "no valid host and port"),
        ("nats://a,,b", "no valid host and port"),
        ("nats://localhost/path", "has a path"),
        ("nats://s3cret@localhost", "write USER:PASSWORD@, or a token as the option token="),
        ("nats://app:s3cret@localhost?token=s3cret", "keep only one"),
    ],
)
def test_a_wrong_url_is_refused_before_anything_is_sent(opener: Opener, url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        opener(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "servers", "more"),
    [
        ("nats://localhost", ["nats://localhost:4222"], {}),
        ("nats://", ["nats://localhost:4222"], {}),
        ("nats://a:1,b,[::1]:2,[::1]", ["nats://a:1", "nats://b:4222", "nats://[::1]:2", "nats://[::1]:4222"], {}),
        ("nats://me:p%40ss@a,b", ["nats://a:4222", "nats://b:4222"], {"user": "me", "password": "p@ss"}),
        ("nats://a?token=secret", ["nats://a:4222"], {"token": "secret"}),
    ],
)
def test_a_url_names_the_servers_and_the_login(
    opener: Opener, url: str, servers: list[str], more: dict[str, Any]
) -> None:
    assert opener(url).native == {"servers": servers, **more}


def test_the_native_arguments_connect(opener: Opener) -> None:
    async def connect() -> bool:
        async with await nats.connect(**opener(with_logins().url.replace("//", "//app:s3cret@")).native) as client:
            return client.is_connected

    assert asyncio.run(connect())


def test_servers_are_tried_in_their_order(opener: Opener, jetstream: JetStream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = opener(f"nats://127.0.0.1:1,127.0.0.1:{silent.getsockname()[1]},{where(jetstream.url)}")
        assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT


def test_a_host_name_that_is_not_valid_does_not_keep_other_servers_from_being_tried(
    opener: Opener, jetstream: JetStream
) -> None:
    transport = opener(f"nats://{LONG},{where(jetstream.url)}")
    assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT


@pytest.mark.parametrize("url", ["nats://app:s3cret@LOGINS", "nats://TOKEN?token=t0ken"])
def test_a_login_is_sent(opener: Opener, url: str) -> None:
    transport = opener(address(url))
    assert transport.check() == []
    assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT
    assert ids(received(transport, 1)) == ["a"]


def test_the_documented_permissions_suffice(opener: Opener) -> None:
    transport = opener(address("nats://limited:s3cret@LOGINS"), namespace="queueport")
    transport.setup(["q"])
    assert transport.send("new", [message("a", "new")])[0].outcome is SendOutcome.SENT
    taken = received(transport, 1, ["q", "new"])
    transport.ack(taken[:1])
    eventually(lambda: transport.depth("new") == Depth(0, 0))
    transport.bury("q", [message("a")])
    transport.unbury("q", [message("a")])
    transport.purge("q")
    assert transport.check() == []
    producer = opener(address("nats://producer:s3cret@LOGINS"), namespace="queueport")
    assert producer.send("q", [message("a")])[0].outcome is SendOutcome.SENT


def test_check_says_that_the_user_may_not_publish(opener: Opener) -> None:
    transport = opener(address("nats://mute:s3cret@LOGINS"), namespace="queueport", call_timeout=1.0)
    with pytest.raises(BackendMisconfigured, match=r"does not permit the user to publish to queueport\.jobs"):
        transport.check()


def test_check_says_that_a_stream_is_full(jetstream: JetStream, opener: Opener) -> None:
    stream = StreamConfig(
        name=jetstream.work("q"),
        subjects=[f"{jetstream.namespace}.jobs.q"],
        retention=RetentionPolicy.WORK_QUEUE,
        discard=DiscardPolicy.NEW,
        max_msgs=1,
    )
    jetstream.create(stream)
    transport = opener(jetstream.url)
    assert transport.check() == transport.check() == []
    assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT
    assert transport.send("q", [message("b")])[0].outcome is SendOutcome.FAILED
    with pytest.raises(BackendUnavailable, match="is full: raise its limits, or let workers empty it"):
        transport.check()
    transport.ack(received(transport, 1))
    eventually(lambda: transport.check() == [])


def test_check_says_that_the_storage_of_the_server_is_full(opener: Opener, tmp_path: Path) -> None:
    server = Nats(f'jetstream {{ store_dir: "{tmp_path}", max_file_store: 1MB }}', jetstream=False)
    transport = opener(server.url)
    transport.setup(["q"])
    assert transport.check() == []
    assert JetStream(server.url, transport._topology.root).subjects(transport._topology.dead().name) == {}
    large = [message(str(number), size=200_000) for number in range(10)]
    assert SendOutcome.FAILED in {sent.outcome for sent in transport.send("q", large)}
    with pytest.raises(BackendUnavailable, match="raise the JetStream limits of the server or of the account"):
        transport.check()
    transport.purge("q")
    eventually(lambda: transport.check() == [])


@pytest.mark.parametrize("own", [True, False])
def test_messages_that_go_elsewhere_are_refused_and_reported(
    jetstream: JetStream, opener: Opener, tmp_path: Path, own: bool
) -> None:
    """`own`: the queue's stream takes another subject. Otherwise another stream takes the queue's subject."""
    with get_queue(jetstream.url, namespace=jetstream.namespace, store=f"sqlite:///{tmp_path}/jobs.db") as queue:
        assert queue.check().ok
        name, subject = (jetstream.work("default"), "other") if own else ("other" + jetstream.namespace, "jobs.default")
        jetstream.create(StreamConfig(name=name, subjects=[f"{jetstream.namespace}.{subject}"]))
        says = (
            "does not take .*jobs.default: add"
            if own
            else "stream.* takes .*jobs.default, .*: delete that stream, or choose"
        )
        try:
            for _ in range(2):
                (problem,) = queue.check().problems
                assert re.search(says, problem)
                with pytest.raises(BackendMisconfigured, match=says):
                    queue.enqueue("t")
        finally:
            jetstream.delete(name)
        assert queue.check().ok
        queue.enqueue("t")


def test_the_error_says_that_no_file_descriptor_is_left(tmp_path: Path) -> None:
    fails_without_descriptors("nats://127.0.0.1:1", store=f"sqlite:///{tmp_path}/jobs.db")


def test_a_stream_with_another_configuration_is_used_and_check_warns(jetstream: JetStream, opener: Opener) -> None:
    assert opener(jetstream.url).check() == []
    wrong = StreamConfig(
        name=jetstream.work("q"),
        subjects=[f"{jetstream.namespace}.jobs.q"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.MEMORY,
        max_age=3600,
        max_msgs=10,
    )
    jetstream.create(wrong)
    jetstream.create(StreamConfig(name=jetstream.dead, subjects=[f"{jetstream.namespace}.elsewhere"]))
    transport = opener(f"{jetstream.url}?replicas=3&max_payload=2000000")
    assert transport.send("q", [message("a")])[0].outcome is SendOutcome.SENT
    assert ids(received(transport, 1)) == ["a"]
    (sent,) = transport.bury("q", [message("a")])
    assert isinstance(sent.error, BackendMisconfigured)
    assert re.search(r"the stream .*-dead does not take .*: add the missing subjects", str(sent.error))
    work, dead = (f"the stream {name}" for name in (jetstream.work("q"), jetstream.dead))
    expected = (
        f"{work} has another retention than 'workqueue': delete it when it is empty",
        f"{work} loses its messages when its server stops: delete it when it is empty",
        f"{work} has fewer replicas than 3: edit it",
        f"{work} deletes messages after 3600 s: remove its maximum age",
        f"{work} deletes messages when it is full: set its discard policy to 'new'",
        f"{dead} does not take {jetstream.namespace}.dead.>, {jetstream.namespace}.aside.>: add the missing subjects",
        f"NATS at {where(jetstream.url)} takes at most 1048576 bytes: write max_payload=1048576 in the URL",
    )
    told = transport.check()
    assert [text for text in expected if not any(warning.startswith(text) for warning in told)] == []


def test_a_call_over_an_idle_connection_that_was_forgotten_succeeds() -> None:
    check_calls_over_forgotten_connections(NatsHarness(private=False))


def test_a_job_is_not_recorded_if_no_connection_can_be_opened(tmp_path: Path) -> None:
    check_never_sent("nats://{}", tmp_path)

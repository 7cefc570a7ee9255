"""The servers of `queueport chaos`: the proxy's faults, and which faults a URL allows."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from queueport.errors import ConfigurationError
from queueport.testing.chaos.plan import CLOCKS
from queueport.testing.chaos.proxy import DELAY, Proxy, head_of_call
from queueport.testing.chaos.servers import NAMES, open_servers


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that accepts one connection at a time, when the test says so."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[Proxy]:
    made = Proxy(*listener.getsockname())
    yield made
    made.close()


def pair(listener: socket.socket, proxy: Proxy) -> tuple[socket.socket, socket.socket]:
    """A connection through the proxy: the client's end and the server's end."""
    client = socket.create_connection(("127.0.0.1", proxy.port), 10)
    server, _ = listener.accept()
    server.settimeout(10)
    return client, server


def test_the_proxy_forwards_both_ways_and_the_end_of_a_connection(listener: socket.socket, proxy: Proxy) -> None:
    client, server = pair(listener, proxy)
    with client, server:
        client.sendall(b"question")
        assert server.recv(8) == b"question"
        server.sendall(b"answer")
        assert client.recv(6) == b"answer"
        server.close()
        assert client.recv(1) == b""


def test_a_cut_resets_connections_and_refuses_new_ones(listener: socket.socket, proxy: Proxy) -> None:
    client, server = pair(listener, proxy)
    with client, server, proxy.cut():
        for end in (client, server):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 10)
    client, server = pair(listener, proxy)
    with client, server:
        client.sendall(b"x")
        assert server.recv(1) == b"x"


def test_a_cut_resets_a_connection_that_is_being_opened(listener: socket.socket, proxy: Proxy) -> None:
    for _ in range(50):  # the proxy's thread may not know yet that the connection to the server is there
        client, server = pair(listener, proxy)
        with client, server, proxy.cut(), pytest.raises(ConnectionResetError):
            server.recv(1)


def test_a_delay_holds_bytes_back(listener: socket.socket, proxy: Proxy) -> None:
    client, server = pair(listener, proxy)
    with client, server, proxy.delayed():
        begin = time.monotonic()
        client.sendall(b"x")
        assert server.recv(1) == b"x"
        assert time.monotonic() - begin >= DELAY


def test_half_open_connections_stay_until_the_end_and_forward_nothing(listener: socket.socket, proxy: Proxy) -> None:
    client, server = pair(listener, proxy)
    with client, server:
        with proxy.half_open():
            client.sendall(b"x")
            server.settimeout(0.3)
            with pytest.raises(TimeoutError):
                server.recv(1)
        server.settimeout(10)
        for end in (client, server):
            with pytest.raises(ConnectionResetError):
                end.recv(1)


def test_a_throttled_request_is_answered_and_not_forwarded(listener: socket.socket, proxy: Proxy) -> None:
    client, server = pair(listener, proxy)
    with client, server, proxy.throttled():
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\none.")
        assert server.recv(1000).endswith(b"one.")
        client.sendall(b"POST / HTTP/1.1\r\nX-Amz-Target: DynamoDB_20120810.GetItem\r\nContent-Length: 4\r\n\r\ntwo.")
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"ProvisionedThroughputExceededException" in answer
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nthree.")
        assert server.recv(1000).endswith(b"three.")


@pytest.mark.parametrize("first", [9, 30, 38, 40, 44])
def test_a_request_that_arrives_in_pieces_is_read_to_its_end(first: int) -> None:
    request = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\none."

    async def read() -> tuple[bytes, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(request[first:] + b"next")
        reader.feed_eof()
        return await head_of_call(request[:first], reader), await reader.read()

    assert asyncio.run(read()) == (request.partition(b"\r\n\r\n")[0], b"next")


PROXIED = ["cut", "delay", "half-open"]


@pytest.mark.parametrize(
    ("url", "faults"),
    [
        ("memory://", {}),
        ("rq+redis://localhost", {"store": PROXIED}),
        ("amqp://localhost?store=redis://localhost:6380/0", {"store": PROXIED, "broker": PROXIED}),
        ("amqps://localhost?store=redis://localhost:6380/0", {"store": PROXIED}),
        ("amqp://localhost?store=sqlite:///jobs.db", {"broker": PROXIED}),
        ("nats://a:4222,b:4222?store=rediss://localhost", {}),
        ("celery+redis://localhost/0?store=redis://localhost:6379/1", {"store": PROXIED}),
        ("sqs://?endpoint=http://localhost:1&store=dynamodb://jobs%3Fendpoint=http://localhost:2", None),
    ],
)
def test_the_faults_of_a_url(url: str, faults: dict[str, list[str]] | None) -> None:
    with open_servers(url) as servers:
        found = {place.role: list(place.faults) for place in servers.places}
        assert servers.url == url
        assert found == ({role: [*PROXIED, "throttle"] for role in ("store", "broker")} if faults is None else faults)


@pytest.mark.parametrize(
    ("url", "possible"),
    [
        ("sqlite:///jobs.db", False),
        ("amqp://localhost?store=sqlite:///jobs.db", False),
        ("rq+redis://localhost", True),
        ("amqp://localhost?store=rediss://localhost", True),
        ("amqp://localhost?store=redis%2Bsentinel://localhost/main", True),
        ("amqp://localhost?store=memory://", False),
    ],
)
def test_only_a_store_that_does_not_use_the_clocks_of_its_clients_allows_wrong_clocks(url: str, possible: bool) -> None:
    with open_servers(url) as servers:
        assert (CLOCKS.keys() <= set(servers.kinds)) is possible


def test_a_url_keeps_its_login_path_and_options() -> None:
    with open_servers("rq+redis://:secret@localhost:1/3?lease=5") as servers:
        head, _, tail = servers.process_url.rpartition(":")
        assert head == "rq+redis://:secret@127.0.0.1"
        assert tail.partition("/")[2] == "3?lease=5"


def test_a_private_sqlite_has_a_disk_that_can_be_full() -> None:
    with open_servers("sqlite") as servers:
        folder = Path(servers.url.removeprefix("sqlite:///")).parent
        if not servers.places or "disk-full" not in servers.kinds:
            pytest.skip("this user must not mount a file system")
        (place,) = servers.places
        with place.faults["disk-full"](), (folder / "other").open("wb", buffering=0) as file:
            with pytest.raises(OSError, match="No space left") as caught:
                os.write(file.fileno(), bytes(2**20))
            assert caught.value.errno == errno.ENOSPC
        (folder / "other").write_bytes(bytes(2**20))
    assert not folder.exists()


def test_a_server_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ConfigurationError, match="Redis was not found: install redis-server"), open_servers("rq"):
        pass


def test_the_names_of_private_servers_are_in_the_documentation() -> None:
    page = Path(__file__).parents[2].joinpath("docs/reliability.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []

"""The private servers that authors of adapters use in their harnesses, with Python's HTTP server as the example."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Iterator, Sequence

import pytest

from queueport.testing.servers import PrivateServer, Server, answers, free_port, private_folder, running, started


class Http(PrivateServer):
    """Serves the files of its folder."""

    program = sys.executable

    def __init__(self) -> None:
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}", port, private_folder("http"))

    def command(self) -> Sequence[str]:
        options = ["--bind", "127.0.0.1", "--directory", str(self.folder), str(self.port)]
        return [self.program, "-m", "http.server", *options]


class Absent(Http):
    program = "no-such-server"


@pytest.fixture
def server() -> Iterator[Http]:
    server = Http()
    yield server
    server.kill()


def read(server: Http) -> bytes:
    with urllib.request.urlopen(f"{server.url}/kept", timeout=1.0) as answer:
        data: bytes = answer.read()
        return data


def test_a_private_server_keeps_its_files_when_it_is_restarted_paused_or_stopped(server: Http) -> None:
    (server.folder / "kept").write_bytes(b"data")
    assert read(server) == b"data"
    server.restart()
    assert read(server) == b"data"
    with server.paused(), pytest.raises(TimeoutError):
        read(server)
    with server.down():
        assert not answers(server.port)
    assert read(server) == b"data"


def test_a_shared_server_is_named_by_a_variable_or_found_on_its_port(
    server: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = running("TEST_HTTP_URL", server.url)
    assert found is not None
    assert found.url == server.url
    with pytest.raises(NotImplementedError, match="use a private one"):
        found.restart()
    server.kill()
    assert running("TEST_HTTP_URL", server.url) is None
    monkeypatch.setenv("TEST_HTTP_URL", "http://named")
    named = running("TEST_HTTP_URL", server.url)
    assert named is not None
    assert named.url == "http://named"


def test_a_private_server_is_started_once() -> None:
    made: list[Server] = []

    def start() -> Server:
        made.append(Server("any://"))
        return made[-1]

    assert started(start) is started(start)
    assert len(made) == 1


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_the_program_a_test_is_skipped_and_in_ci_it_fails(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setitem(os.environ, "CI", ci)
    with pytest.raises(outcome, match="no-such-server was not found: install it"):
        started(Absent)

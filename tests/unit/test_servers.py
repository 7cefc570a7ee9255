"""The private servers that authors of adapters use in their harnesses, with Python's HTTP server as the example."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial

import pytest

from queueport.testing.servers import PrivateServer, Server, answers, free_port, private_folder, running, started
from queueport.testing.waiting import eventually


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


COUNT = """
import mmap, os, sys, threading
os.nice(19)
with open(sys.argv[1], "r+b") as file:
    counts = mmap.mmap(file.fileno(), 0)
def count(at):
    while True:
        counts[at] = (counts[at] + 1) % 256
for at in range(len(counts)):
    threading.Thread(target=count, args=(at,)).start()
"""
"""A program whose threads count without end, each in a byte of a file."""


class CountingChild(PrivateServer):
    """A shell that starts COUNT as its child, as RabbitMQ's shell starts the server."""

    def __init__(self) -> None:
        folder = private_folder("counting")
        self.counts = folder / "counts"
        self.counts.write_bytes(bytes(8))
        super().__init__("counting://", 0, folder)

    def command(self) -> Sequence[str]:
        return ["sh", "-c", '"$@" & wait', "sh", sys.executable, "-c", COUNT, str(self.counts)]

    def ready(self) -> bool:
        return self.has_counted_since(bytes(8))

    def has_counted_since(self, before: bytes) -> bool:
        return self.counts.read_bytes() != before


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


@pytest.fixture
def counting() -> Iterator[CountingChild]:
    server = CountingChild()
    yield server
    server.kill()


def test_nothing_of_a_paused_server_runs_on(counting: CountingChild) -> None:
    for _ in range(40):  # a pause that waited only for the shell failed about every sixth time
        with counting.paused():
            before = counting.counts.read_bytes()
            time.sleep(0.01)  # time in which a thread that still runs would count
            assert not counting.has_counted_since(before)
        eventually(partial(counting.has_counted_since, before))


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

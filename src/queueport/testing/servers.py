"""Servers for tests: one that already runs, or a private one that a test may stop. For authors of adapters.

    class Kafka(PrivateServer):
        def __init__(self) -> None:
            port, folder = free_port(), private_folder("kafka")
            super().__init__(f"kafka://127.0.0.1:{port}", port, folder)

        def command(self) -> Sequence[str]:
            return ["kafka-server", f"--port={self.port}", f"--data={self.folder}"]

    def kafka(*, private: bool) -> Server:
        shared = None if private else running("TEST_KAFKA_URL", "kafka://127.0.0.1:9092")
        return shared or started(Kafka)

For tests that stop a server, a harness uses `kafka(private=True)`, and restarts or pauses the server with the methods
of `Server`. `queueport.testing.redis_store` contains such a server for a job store on Redis.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from queueport.testing.process import pause_group
from queueport.testing.waiting import eventually

__all__ = [
    "Missing",
    "PrivateServer",
    "Server",
    "answers",
    "free_port",
    "private_folder",
    "running",
    "started",
]


class Missing(Exception):
    """The program of a private server is not installed on this machine. The text says what to install."""


class Server:
    """A server at `url`. Other processes may use the server too, so a test must not stop it.

    `restart`, `paused` and `down` work only for a `PrivateServer`. Here, these methods raise NotImplementedError.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def restart(self) -> None:
        """Kill the server and start it again with the data that it kept on disk."""
        raise NotImplementedError("a shared server cannot be restarted: use a private one")

    def paused(self) -> AbstractContextManager[None]:
        """A context manager. Inside it, the server hangs: it accepts connections and answers nothing."""
        raise NotImplementedError("a shared server cannot be paused: use a private one")

    def down(self) -> AbstractContextManager[None]:
        """A context manager. Inside it, the server refuses connections."""
        raise NotImplementedError("a shared server cannot be stopped: use a private one")


class PrivateServer(Server):
    """A server in a child process, with a data folder. When the test process exits normally, the server is killed and
    the folder is removed.

    A subclass defines `command`. The subclass's `__init__` must call `super().__init__` last, because that call starts
    the server. Raises Missing and AssertionError as `start` does.
    """

    def __init__(self, url: str, port: int, folder: Path) -> None:
        super().__init__(url)
        self.port = port
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._remove)
        self.start()

    def command(self) -> Sequence[str]:
        """The command that starts the server on `port`, with its data in `folder`, as a foreground process."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Environment variables of the server, which are added to the variables of this process or override them."""
        return {}

    def ready(self) -> bool:
        """True if the server can be used. By default: if it accepts connections on `port`."""
        return answers(self.port)

    def start(self) -> None:
        """Start the server, and wait until it is ready. Raises Missing if its program is not installed, and
        AssertionError with its log if the server ends or is not ready after three minutes, which is enough for RabbitMQ
        on a busy machine.
        """
        command = self.command()
        try:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    env={**os.environ, **self.environment()},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )
        except FileNotFoundError:
            raise Missing(f"{command[0]} was not found: install it") from None
        eventually(lambda: self.ready() or not self._is_running(), 180, self._log)
        assert self._is_running(), self._log()

    def kill(self) -> None:
        """Send SIGKILL to the server and its child processes, and wait until the server has ended."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.communicate()

    def restart(self) -> None:
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        if self._process is not None:
            pause_group(self._process.pid)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    @contextmanager
    def down(self) -> Iterator[None]:
        self.kill()
        try:
            yield
        finally:
            self.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and its child processes."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def running(variable: str, standard: str) -> Server | None:
    """The server at the URL in the environment variable `variable`; nothing checks that this server runs.

    If the variable is not set, or empty: the server at the URL `standard`, or None if no process accepts connections
    there.
    """
    named = os.environ.get(variable)
    if named:
        return Server(named)
    where = urlsplit(standard)
    return Server(standard) if answers(where.port or 0, where.hostname or "") else None


def started(kind: Callable[[], Server]) -> Server:
    """The private server that `kind()` starts. Each `kind` is started only once in a test process.

    If `kind()` raises Missing, the test is skipped with the text of the error; if the environment variable `CI` is set,
    the test fails.
    """
    try:
        return _start(kind)
    except Missing as missing:
        import pytest  # imported here, because `queueport chaos` starts servers without pytest

        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


@functools.cache
def _start(kind: Callable[[], Server]) -> Server:
    return kind()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """True if a process accepts a connection on this port within a second."""
    try:
        socket.create_connection((host, port), 1.0).close()
    except OSError:
        return False
    return True


def private_folder(name: str) -> Path:
    """A new folder directly in the system's folder for temporary files.

    A Unix socket in this folder then has a short path, as it must have: the limit is about 100 bytes.
    """
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))

"""A server under test: where it is and, if it is private, how it is stopped and started. For `tests.servers`."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from queueport.testing.waiting import eventually

__all__ = ["Missing", "PrivateServer", "Server", "free_port"]


class Missing(Exception):
    """The program that a private server needs is not on this machine."""


class Server:
    """A server that others use too: it must not be stopped."""

    def __init__(self, url: str) -> None:
        self.url = url

    def restart(self) -> None:
        """Kill it and start it again with what it kept on disk."""
        raise NotImplementedError("a shared server is not restarted: ask for a private one")

    def paused(self) -> AbstractContextManager[None]:
        """While it is entered the server hangs: it takes connections and answers nothing."""
        raise NotImplementedError("a shared server is not paused: ask for a private one")

    def down(self) -> AbstractContextManager[None]:
        """While it is entered the server refuses connections."""
        raise NotImplementedError("a shared server is not stopped: ask for a private one")


class PrivateServer(Server):
    """A process of this test process's own, with a folder of its own; both are gone when that ends."""

    def __init__(self, url: str, port: int, folder: Path) -> None:
        super().__init__(url)
        self.port = port
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._remove)
        self.start()

    def command(self) -> Sequence[str]:
        """What starts it."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What it finds in its environment beside this process's."""
        return {}

    def ready(self) -> bool:
        """Whether it serves."""
        return answers(self.port)

    def start(self) -> None:
        """Start it; returns when it serves."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.environment()},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        eventually(lambda: self.ready() or not self._runs(), 60, self._log)
        assert self._runs(), self._log()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.communicate()

    def restart(self) -> None:
        self.kill()
        self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.send(signal.SIGSTOP)
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
        """A signal for all of it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def private_folder(name: str) -> Path:
    """A new folder; its path is short, for a socket's path must be."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))

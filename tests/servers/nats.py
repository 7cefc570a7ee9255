"""A private NATS server with JetStream, from an installed `nats-server`. For `tests.servers` and tests with TLS."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from queueport.testing.servers import Missing, PrivateServer, free_port, private_folder

__all__ = ["Nats", "has_jetstream"]


class Nats(PrivateServer):
    """A server that keeps its streams in files. `configuration` is further text for its configuration file."""

    def __init__(self, configuration: str = "", *, jetstream: bool = True) -> None:
        found = shutil.which("nats-server", path="/usr/sbin:/usr/local/bin") or shutil.which("nats-server")
        if found is None:
            raise Missing("NATS was not found: start one with JetStream on port 4222, or install nats-server")
        self._program = found
        port, folder = free_port(), private_folder("nats")
        storage = f'jetstream {{ store_dir: "{folder}" }}\n' if jetstream else ""
        (folder / "nats.conf").write_text(storage + configuration)
        super().__init__(f"nats://127.0.0.1:{port}", port, folder)

    def command(self) -> Sequence[str]:
        return [self._program, "-a", "127.0.0.1", "-p", str(self.port), "-c", str(self.folder / "nats.conf")]


def has_jetstream(url: str) -> bool:
    """Whether the NATS at that URL has JetStream, which the packages of some distributions leave out."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), 1.0) as connection:
        return b'"jetstream":true' in connection.recv(4096)

"""Whether a NATS server has JetStream. For `tests.servers` and the tests of the adapter."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

__all__ = ["has_jetstream"]


def has_jetstream(url: str) -> bool:
    """Whether the NATS at that URL has JetStream, which the packages of some distributions leave out."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), 1.0) as connection:
        return b'"jetstream":true' in connection.recv(4096)

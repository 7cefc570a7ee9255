"""A proxy that forgets idle connections, as firewalls and load balancers do. For the tests of adapters."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Self
from urllib.parse import urlsplit

from queueport.testing import Harness, tasks

__all__ = ["ForgettingProxy", "check_calls_over_forgotten_connections"]

RESET = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which `close` resets a connection."""


class ForgettingProxy:
    """Passes bytes on to the server of a URL. `url` is this URL with the address of the proxy."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._server = where.hostname or "localhost", where.port or 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = where._replace(netloc=f"{where.netloc.rpartition('@')[0]}@127.0.0.1:{port}".lstrip("@")).geturl()
        self._epoch = 0
        self._clients: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listening, *self._clients):
            with suppress(OSError):  # the socket is closed already
                each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
        self._listening.close()

    def forget(self) -> None:
        """Forget all connections: the proxy answers the next packet of each client with a reset."""
        self._epoch += 1

    def _accept(self) -> None:
        with suppress(OSError):  # the socket is closed already
            while True:
                client, _ = self._listening.accept()
                self._clients.append(client)
                threading.Thread(target=self._pass, args=(client, self._epoch), daemon=True).start()

    def _pass(self, client: socket.socket, epoch: int) -> None:
        with client, socket.create_connection(self._server) as server, suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65_536)
                    forgotten = epoch != self._epoch
                    if (forgotten and source is client) or not data:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        return
                    if not forgotten:
                        (server if source is client else client).sendall(data)


def check_calls_over_forgotten_connections(harness: Harness) -> None:
    """Make each call of a queue after the proxy has forgotten the idle connections. No call may fail."""
    url = harness.url
    try:
        with ForgettingProxy(url) as proxy:
            harness.url = proxy.url
            queue = harness.open(call_timeout=30.0)  # this check is not about slow servers
            calls: list[Callable[[], object]] = [
                lambda: queue.enqueue(tasks.echo, 1),
                lambda: queue.enqueue_many(tasks.echo.job(number) for number in range(50)),
                lambda: queue.enqueue(tasks.echo.using(queue="new").job(1)),
                queue.setup,
                queue.stats,
                lambda: queue.dead_letters.add(tasks.echo.job(2), "no"),
                queue.dead_letters.purge,
                partial(queue.purge, tasks.QUEUE),
            ]
            for call in calls:
                proxy.forget()
                call()
            proxy.forget()
            assert queue.check().problems == []
            assert queue.stats().queues["new"].queued == 1
    finally:
        harness.url = url
        harness.end()

"""A TLS proxy for a server without TLS, with a certificate for localhost. For tests."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["TLSProxy"]


class TLSProxy:
    """Accepts TLS connections on `port` inside a `with` block, and forwards their bytes."""

    def __init__(self, target: str, folder: Path) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self.certificate = folder / "certificate.pem"
        key = folder / "key.pem"
        made = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        files = ["-keyout", str(key), "-out", str(self.certificate)]
        subprocess.run(["openssl", *made.split(), *files], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = [self._listening]

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                raw, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=[raw], daemon=True).start()

    def _connect(self, raw: socket.socket) -> None:
        self._open.append(raw)
        try:
            inside = self._context.wrap_socket(raw, server_side=True)
        except OSError:  # the client refuses the certificate
            raw.close()
            return
        outside = socket.create_connection(self._target)
        self._open += [inside, outside]
        for source, target in ((inside, outside), (outside, inside)):
            threading.Thread(target=_copy, args=[source, target], daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError, ValueError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

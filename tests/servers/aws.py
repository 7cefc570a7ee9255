"""SQS and DynamoDB as emulated by moto, in a separate process. For `tests.servers`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from queueport.testing.servers import Missing, PrivateServer, answers, free_port, private_folder
from queueport.testing.waiting import eventually

__all__ = ["Moto"]


class Moto(PrivateServer):
    """An emulator whose endpoint is `url`. Its data is in memory only, but `restart` and `down` keep it."""

    def __init__(self) -> None:
        if importlib.util.find_spec("moto") is None:
            raise Missing("moto was not found: `pip install 'moto[server,sqs,dynamodb]'`")
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}", port, private_folder("moto"))

    def command(self) -> Sequence[str]:
        return [sys.executable, str(Path(__file__).with_name("moto_process.py")), str(self.port)]

    def restart(self) -> None:
        with self.down():
            pass

    @contextmanager
    def down(self) -> Iterator[None]:
        self._write(b"down\n")
        eventually(lambda: not answers(self.port))
        try:
            yield
        finally:
            self._write(b"up\n")
            eventually(self.ready)

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

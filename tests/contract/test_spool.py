"""The adapter of `examples/05_write_an_adapter.py` keeps the contract: a broker beside a store, without a server."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from queueport.testing import Contract, Harness

EXAMPLES = Path(__file__).parents[2] / "examples"


class SpoolHarness(Harness):
    """`spool` is a link to the folder, as to a disk that can be pulled out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"spool:///{folder}/spool?store=sqlite:///{folder}/jobs.db")
        self._folder = folder
        self._spool = folder / "spool" / self.namespace
        (folder / "disk").mkdir()
        (folder / "no disk").touch()
        self._plug("disk")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(EXAMPLES)}

    def restart_backend(self) -> None:
        with self.sends_down():
            pass

    def restart_store(self) -> None:
        """An SQLite file has no process that could be restarted."""

    @contextmanager
    def sends_down(self) -> Iterator[None]:
        self._plug("no disk")
        try:
            yield
        finally:
            self._plug("disk")

    @contextmanager
    def store_down(self) -> Iterator[None]:
        """Somebody keeps the file of the store to himself."""
        connection = sqlite3.connect(self._folder / "jobs.db", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.rollback()
            connection.close()

    def wipe(self, queue: str) -> None:
        for file in (self._spool / "queues" / queue).iterdir():
            file.unlink(missing_ok=True)

    def inject(self, queue: str, body: bytes) -> None:
        place = self._spool / "queues" / queue
        place.mkdir(parents=True, exist_ok=True)
        (self._spool / "injected").write_bytes(body)
        (self._spool / "injected").rename(place / "injected")

    def redeliver(self, job_id: str) -> None:
        message = {"v": 1, "id": job_id, "task": "queueport.testing.tasks.echo", "queue": "default"}
        self.inject("default", json.dumps({**message, "life": 1, "sent_at": 0.0}).encode())

    def native_dead(self) -> Sequence[str]:
        return [file.name for file in self._spool.glob("dead/*/*")]

    def redrive(self, job_id: str) -> None:
        (file,) = self._spool.glob(f"dead/*/{job_id}")
        file.rename(self._spool / "queues" / file.parent.name / job_id)

    def _plug(self, target: str) -> None:
        link = self._folder / "link"
        link.symlink_to(target)
        link.replace(self._folder / "spool")


class TestSpool(Contract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return SpoolHarness(tmp_path)

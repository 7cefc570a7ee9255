"""The contract tests of the adapter in `examples/05_write_an_adapter.py`, as shown in docs/writing-an-adapter.md."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from queueport.testing import Contract, Harness

EXAMPLES = Path(__file__).parents[2] / "examples"


class SpoolHarness(Harness):
    """The spool is a link to a folder. While the backend is down, the link points to a file that is not a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"spool:///{folder}/spool?store=sqlite:///{folder}/jobs.db")
        self._folder = folder
        self._spool = folder / "spool" / self.namespace
        (folder / "disk").mkdir()
        (folder / "no disk").touch()
        self._link("disk")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(EXAMPLES)}

    def restart_backend(self) -> None:
        with self.sends_down():
            pass

    def restart_store(self) -> None:
        """Do nothing, because SQLite has no server."""

    @contextmanager
    def sends_down(self) -> Iterator[None]:
        self._link("no disk")
        try:
            yield
        finally:
            self._link("disk")

    @contextmanager
    def store_down(self) -> Iterator[None]:
        """Hold an exclusive lock on the file of the store."""
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
        folder = self._spool / "queues" / queue
        folder.mkdir(parents=True, exist_ok=True)
        (self._spool / "injected").write_bytes(body)
        (self._spool / "injected").rename(folder / f"injected-{time.time_ns()}")

    def native_dead(self) -> Sequence[str]:
        return [file.name for file in self._spool.glob("dead/*/*")]

    def redrive(self, job_id: str) -> None:
        (file,) = self._spool.glob(f"dead/*/{job_id}")
        file.rename(self._spool / "queues" / file.parent.name / job_id)

    def _link(self, target: str) -> None:
        link = self._folder / "link"
        link.symlink_to(target)
        link.replace(self._folder / "spool")


class TestSpool(Contract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        return SpoolHarness(tmp_path)

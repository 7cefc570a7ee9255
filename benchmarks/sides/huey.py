"""huey on SQLite. Its worker takes a job out of the database before it runs it, so a crash loses the running jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huey import SqliteHuey  # type: ignore[import-untyped]

from benchmarks.probe import probe
from benchmarks.sides.side import Side, command, environment

FSYNC = environment("OPTION") == "fsync"
huey = SqliteHuey(filename=str(Path(environment("FOLDER"), "huey.db")), fsync=FSYNC)
task = huey.task()(probe)


class Bench(Side):
    def enqueue(self, milliseconds: float = 0.0) -> Any:
        return task(milliseconds)

    def result(self, handle: Any) -> Any:
        return huey.result(handle.id, preserve=True)  # the old handle would not ask again

    def worker(self) -> list[str]:
        # poll as often as possible, because the time from enqueue to start is measured
        polling = ["--delay=0.002", "--max-delay=0.002", "--backoff=1.0", "--no-periodic"]
        return command("huey_consumer", "benchmarks.sides.huey.huey", f"--workers={self.threads}", *polling, "--quiet")

"""`Workspace`: a folder in which a test starts worker processes. For the tests in this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from subprocess import Popen
from typing import Self

from queueport import JobQueue, get_queue
from queueport.testing.waiting import eventually


class Workspace:
    """A folder with a database, the module `sample_tasks` and the workers that a test starts there."""

    def __init__(self, folder: Path, tasks: str) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/jobs.db?lease=2"
        self.queue: JobQueue = get_queue(self.url)
        self.workers: list[Popen[bytes]] = []
        (folder / "sample_tasks.py").write_text(tasks)

    def worker(self, *options: str) -> Popen[bytes]:
        """Start a worker process and wait until it has announced itself."""
        before = len(self.queue.stats().workers)
        command = [sys.executable, "-m", "queueport", "worker", "sample_tasks", *options]
        with (self.folder / "log").open("ab") as log:
            environment = {**os.environ, "QUEUEPORT_URL": self.url}
            self.workers.append(Popen(command, cwd=self.folder, env=environment, stderr=log, process_group=0))
        eventually(lambda: len(self.queue.stats().workers) > before, 20)
        return self.workers[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.queue.close()

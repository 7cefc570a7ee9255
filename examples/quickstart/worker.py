"""The worker of the quickstart: a `queueport worker` process, started and stopped as an operator would do it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[1]
LAST_LINES = 10


class WorkerEndedError(Exception):
    """The worker process ended before all jobs did. The message contains the end of its log."""


class WorkerProcess:
    """A worker process. Call `check` regularly while you wait for its jobs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def check(self) -> None:
        """Raise WorkerEndedError if the process has ended."""
        if self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            raise WorkerEndedError("\n".join([f"the worker ended with exit code {self._process.returncode}:", *lines]))


def command(url: str) -> list[str]:
    """The command that starts the worker. It must be run in the folder `examples`."""
    return [sys.executable, "-m", "queueport", "worker", "quickstart.tasks", "--url", url, "--threads", "4"]


@contextmanager
def running(url: str, log: Path) -> Iterator[WorkerProcess]:
    """Run a worker inside the `with` block. At the end SIGTERM stops it after its running jobs."""
    with log.open("wb") as output:
        process = subprocess.Popen(command(url), cwd=EXAMPLES, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield WorkerProcess(process, log)
    finally:
        process.terminate()
        process.wait()

"""The quickstart's worker: a real `queueport worker` process, started and stopped as an operator would."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[1]
LAST_LINES = 10


class WorkerEndedError(Exception):
    """The worker process ended before its work did; the text is the end of its log."""


class WorkerProcess:
    """A running worker; `check` it while you wait for what it does."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def check(self) -> None:
        """Raise WorkerEndedError if it is gone."""
        if self._process.poll() is not None:
            lines = self._log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            raise WorkerEndedError("\n".join([f"the worker ended with {self._process.returncode}:", *lines]))


def command(url: str) -> list[str]:
    """What starts the worker, in the folder `examples`."""
    return [sys.executable, "-m", "queueport", "worker", "quickstart.tasks", "--url", url, "--threads", "4"]


@contextmanager
def running(url: str, log: Path) -> Iterator[WorkerProcess]:
    """Run a worker meanwhile; at the end SIGTERM lets its jobs finish."""
    with log.open("wb") as output:
        process = subprocess.Popen(command(url), cwd=EXAMPLES, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield WorkerProcess(process, log)
    finally:
        process.terminate()
        process.wait()
